"""A recipe with peers that read the names of the classes: their cards, what is pushed, and their ONNX files."""

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import LABELS, make_rows
from recipe_run import argv, main
from zero_shot_peers import write_reader

from hf_mutual_kd import Cohort, ExportCheck, export_peers
from hf_mutual_kd.cli.main import main as command
from hf_mutual_kd.data.images import decode_image
from hf_mutual_kd.hub.files import select
from hf_mutual_kd.reports.reader_folder import reads_of


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    """A finished run of a classifier, a reader and an adapter on a reader."""
    write_reader(place / "clip")
    write_reader(place / "siglip", "siglip")
    out = tmp_path_factory.mktemp("zero") / "run"
    words = argv(
        place,
        out,
        "--peers.clip.prompt_templates",
        "{} as a drawing.",
        "--peers.siglip.peft",
        "lora",
        "--peers.siglip.prompt_templates",
        "a {}.",
        "one {}.",
        "--control",
        "false",
        "--pre_flight",
        "false",
        peers=("vit", "clip", "siglip"),
    )
    assert main(words) == 0
    return out


def test_cards_say_names_and_templates_and_their_code_gives_what_was_trained(run):
    """A card that shows another pipeline, name or template than those of the training sells other numbers."""
    read = {name: reads_of(run / name) for name in ("vit", "clip", "siglip")}
    assert read["vit"] is None
    assert read["clip"].labels == read["siglip"].labels == LABELS
    assert read["clip"].templates == ["{} as a drawing."]
    cards = {name: (run / name / "README.md").read_text() for name in read}
    for name in ("clip", "siglip"):
        assert "pipeline_tag: zero-shot-image-classification" in cards[name]
        assert "<code>circle</code>, <code>square</code>, <code>stripe</code>, each in <code>" in cards[name]
        assert 'pipeline("zero-shot-image-classification", model="' in cards[name]
        assert "it printed:" in cards[name]
    assert "pipeline_tag: image-classification" in cards["vit"]
    assert "text tower" not in cards["vit"]
    image = decode_image(make_rows(1, 2)[0]["image"])
    cohort = Cohort.from_pretrained(run)
    own = cohort.predict([image])
    for name in ("clip", "siglip"):
        found = {}
        code = read[name].snippet.format(model=repr(str(run / name)), example="image")
        exec(code, {"image": image, "print": lambda line, found=found: found.update([line.split(": ")])})
        ranked = own[name][0].argsort(descending=True)
        assert list(found) == [LABELS[at] for at in ranked]
        if name == "clip":
            np.testing.assert_allclose([float(x) for x in found.values()], own[name][0][ranked], atol=0.0006)


def test_the_report_has_a_row_of_every_reader(run):
    """A page that asks readers for what only heads have."""
    page = (run / "report" / "index.html").read_text()
    results = page.split('id="results"')[1].split("<section")[0]
    assert all(name in results for name in ("vit", "clip", "siglip"))


def test_what_is_pushed_is_whole(run, capsys):
    """Without its tokenizer a pushed reader loads nowhere, and an adapter without its names is another classifier."""
    names = {peer: {file.name for file in select(run / peer).files} for peer in ("clip", "siglip")}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names["clip"]
    assert {"adapter_config.json", "adapter_model.safetensors", "zero_shot.json"} <= names["siglip"]
    assert command(["push", str(run), "--namespace", "ada", "--dry_run"]) == 0
    assert "tokenizer.json" in capsys.readouterr().out


def test_the_onnx_file_answers_as_the_trained_classes(run, tmp_path):
    """A file of the two towers asks for texts; a classifier's file must hold the classes that were trained."""
    done = export_peers(run, peers=["clip"], out=tmp_path, check=ExportCheck(6))
    session = onnxruntime.InferenceSession(str(tmp_path / "clip" / "onnx" / "model.onnx"))
    assert [one.name for one in session.get_inputs()] == ["pixel_values"]
    cohort = Cohort.from_pretrained(run)
    pixels = cohort.processors["clip"](decode_image(make_rows(1, 2)[0]["image"]), return_tensors="pt")["pixel_values"]
    (logits,) = session.run(["logits"], {"pixel_values": pixels.numpy()})
    with torch.no_grad():
        own = cohort.eval().peers["clip"](pixel_values=pixels).logits
    np.testing.assert_allclose(logits, own.numpy(), atol=1e-4)
    assert done[0].measured


def test_a_space_of_them_is_refused_by_name(run, capsys):
    """An app that loads a reader as an image classifier shows a random head."""
    assert command(["space", str(run)]) == 2
    assert "peer 'clip' reads the names of its classes (CLIPModel)" in capsys.readouterr().err
