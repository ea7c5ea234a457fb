"""Exports: files that do what PyTorch does, say nothing of this machine, and vanish where they do not."""

import json
import re

import onnxruntime
import pytest
import torch
from conftest import LABELS, make_rows, tiny_processor
from datasets import DatasetDict
from made_up_run import words_of
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_mutual_kd import (
    DataError,
    ExportCheck,
    ExportError,
    ImageClassification,
    PeerSpec,
    export_peers,
    write_cards,
)
from hf_mutual_kd.cli import main as cli
from hf_mutual_kd.cli.export import export_table
from hf_mutual_kd.data.images import decode_image
from hf_mutual_kd.export import checks as export_checks
from hf_mutual_kd.export import onnx as module
from hf_mutual_kd.export import onnx_files
from hf_mutual_kd.hub.files import select
from hf_mutual_kd.peers.loading import load_peer
from hf_mutual_kd.tasks.classification.export import ClassificationExport
from hf_mutual_kd.tasks.exporting import Traceable

SECRET_PLACE = "a_folder_of_mine"


@pytest.fixture(scope="module")
def run(tmp_path_factory, _models):
    """A run of two tiny peers; vit has its labels in another order than the data."""
    folder = tmp_path_factory.mktemp(SECRET_PLACE)
    splits = {"train": make_rows(40), "validation": make_rows(12, 1), "test": make_rows(33, 2)}
    DatasetDict(splits).save_to_disk(folder / "data")
    for name in ("vit", "cnn"):
        model = AutoModelForImageClassification.from_config(_models[name].config)
        model.load_state_dict(_models[name].state_dict())
        if name == "vit":
            model.config.id2label = dict(enumerate(LABELS[::-1]))
            model.config.label2id = {label: index for index, label in enumerate(LABELS[::-1])}
        model.save_pretrained(folder / "run" / name)
        tiny_processor().save_pretrained(folder / "run" / name)
    rows = {name: len(split) for name, split in splits.items()}
    record = {
        "task": "image-classification",
        "words": words_of("image-classification"),
        "peers": {"vit": {}, "cnn": {}},
        "labels": LABELS,
        "recipe": {"dataset": str(folder / "data")},
        "dataset": {"name": "shapes", "rows": rows, "skipped_images": dict.fromkeys(rows, 0)},
    }
    (folder / "run" / "cohort.json").write_text(json.dumps(record), encoding="utf-8")
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run):
    return {one.peer: one for one in export_peers(run, int8=True, check=ExportCheck(30, max_drop=1.0))}


@pytest.mark.parametrize("name", ["vit", "cnn"])
@pytest.mark.parametrize("size", [1, 5])
def test_the_file_gives_what_the_peer_gives_for_any_batch(run, exported, name, size):
    """A batch size that is frozen into the file, or other logits than the model's."""
    images = [decode_image(row["image"]) for row in make_rows(size, 3)]
    pixels = AutoImageProcessor.from_pretrained(run / name)(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = AutoModelForImageClassification.from_pretrained(run / name)(pixel_values=pixels).logits.numpy()
    session = onnxruntime.InferenceSession(str(exported[name].folder / "model.onnx"))
    (found,) = session.run(["logits"], {"pixel_values": pixels.numpy()})
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("vit", "dynamic"), ("cnn", "static")])
def test_int8_suits_the_model_and_is_measured(exported, name, kind):
    """A quantized file that is as large as the other, or that nobody has measured."""
    measured = exported[name].measured
    assert list(measured) == ["pytorch", "model.onnx", "model_int8.onnx"]
    assert measured["model_int8.onnx"].what == f"int8, {kind}"
    assert measured["model_int8.onnx"].max_difference > measured["model.onnx"].max_difference
    content = (exported[name].folder / "model_int8.onnx").read_bytes()
    assert len(content) == measured["model_int8.onnx"].bytes
    assert b"Quantize" in content


def test_accuracy_is_counted_by_label_names(run, exported):
    """A peer with labels in another order that seems to know nothing after its export."""
    processor, right = AutoImageProcessor.from_pretrained(run / "vit"), 0
    model = AutoModelForImageClassification.from_pretrained(run / "vit")
    for row in list(make_rows(33, 2))[:30]:
        with torch.no_grad():
            logits = model(**processor(images=decode_image(row["image"]), return_tensors="pt")).logits
        right += model.config.id2label[int(logits.argmax())] == LABELS[row["label"]]
    measured = exported["vit"].measured
    assert measured["pytorch"].accuracy == measured["model.onnx"].accuracy == pytest.approx(right / 30)


def test_files_say_nothing_of_this_machine_and_are_pushed(run, exported):
    """Stack traces with a user's folders inside a public file, or an export that stays at home."""
    for one in exported.values():
        for name in ("model.onnx", "model_int8.onnx", "export.json"):
            content = (one.folder / name).read_bytes()
            assert not re.search(rb"site-packages|\.py\b|" + SECRET_PLACE.encode(), content)
    names = {file.name for file in select(run / "vit").files}
    assert {"onnx/model.onnx", "onnx/model_int8.onnx", "onnx/export.json"} <= names


def test_facts_are_kept_for_the_card(run, exported):
    """Numbers that are printed once and gone, a table whose rows have another width, or an input that nobody names."""
    facts = json.loads((exported["cnn"].folder / "export.json").read_text(encoding="utf-8"))
    assert (facts["opset"], facts["samples"], facts["split"]) == (module.OPSET, 30, "test")
    assert (facts["input"], facts["outputs"]) == ({"pixel_values": [3, 16, 16]}, ["logits"])
    assert facts["measured"]["model.onnx"]["agreement"] == 1.0
    assert set(facts["versions"]) == {"torch", "onnx", "onnxruntime"}
    card = write_cards(run, ["cnn"])["cnn"].read_text(encoding="utf-8")
    assert "(opset 20), checked against PyTorch on 30 samples of the test split" in card
    assert (
        "It takes <code>pixel_values</code> batch × 3 × 16 × 16 as the processor makes them and gives <code>logits"
        in card
    )
    rows = [row.split("|") for row in card.split("## ONNX")[1].split("##")[0].splitlines() if row.startswith("|")]
    assert len(rows) == 5
    assert {len(row) for row in rows} == {9}
    assert [row[2].strip() for row in rows[2:]] == ["PyTorch", "float32", "int8, static"]


def test_an_int8_file_that_loses_too_much_is_deleted_and_the_command_fails(run, tmp_path, capsys, monkeypatch):
    """A broken file that is pushed because nobody read the table."""
    judge = module._refusal
    monkeypatch.setattr(module, "_refusal", lambda small, plain, drop, words: judge(small, plain, drop - 2, words))
    words = ["export", str(run), "--int8", "--peers", "vit", "--out", str(tmp_path), "--samples", "9"]
    assert cli.main([*words, "--max_drop", "0"]) == 2
    shown = capsys.readouterr()
    assert "vit: model_int8.onnx was deleted: it loses" in shown.err
    assert "deleted" in shown.out
    assert {path.name for path in (tmp_path / "vit" / "onnx").iterdir()} == {"model.onnx", "export.json"}


def test_float32_that_differs_leaves_nothing(run, tmp_path, monkeypatch):
    """A wrong export beside a right model."""
    monkeypatch.setattr(export_checks, "TOLERANCE", 0.0)
    with pytest.raises(ExportError, match="other numbers than PyTorch .logits: largest difference .* allowed 0"):
        export_peers(run, peers=["vit"], out=tmp_path, check=ExportCheck(9))
    assert not list((tmp_path / "vit").glob("**/*.onnx"))


def test_without_labels_int8_is_judged_by_its_agreement(exported):
    """A quantized file that nothing can refuse where the data has no labels, or one of NaN that passes every limit."""
    words, plain = exported["vit"].words, export_checks.Checked("PyTorch", 1)
    assert module._refusal(export_checks.Checked("int8", 1, agreement=0.981), plain, 0.02, words) is None
    for agreement in (0.97, float("nan")):
        small = export_checks.Checked("int8", 1, agreement=agreement)
        refusal = module._refusal(small, plain, 0.02, words)
        assert refusal.endswith("of 100.0 (same class as PyTorch, %), allowed 2.0")


def test_an_int8_file_that_cannot_run_costs_only_itself(run, tmp_path, monkeypatch):
    """A traceback of ONNX Runtime in place of the right float32 file, or a broken file that stays."""

    def spoil(source, target, calibration):
        target.write_bytes(b"no model")
        return "dynamic"

    monkeypatch.setattr(module, "quantize", spoil)
    (one,) = export_peers(run, peers=["vit"], out=tmp_path, int8=True, check=ExportCheck(4))
    small = one.measured["model_int8.onnx"]
    assert (
        small.refused == "ONNX Runtime cannot run it (Load model from model_int8.onnx failed:Protobuf parsing failed.)"
    )
    assert (small.agreement, small.latency_ms) == (None, None)
    assert "deleted" in export_table([one])
    assert {path.name for path in one.folder.iterdir()} == {"model.onnx", "export.json"}


class Untraceable(nn.Module):
    """Asks for the operator that is chosen."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, pixel_values):
        flat = pixel_values.flatten(1)
        if self.kind == "operator":
            return torch.special.bessel_j0(flat)
        if self.kind == "branch":
            return flat if flat.sum() > 0 else -flat
        return flat.reshape(len(flat), -1)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("operator", "opset 20 of torch.onnx has no form for the operator prims.bessel_j0"),
        ("branch", "Could not guard on data-dependent expression"),
        ("batch", "takes the size of the batch for a constant"),
    ],
)
def test_what_onnx_cannot_hold_is_named(tmp_path, capfd, kind, words):
    """A file that takes batches of two alone, and pages of graphs in place of a reason."""
    model = Traceable(Untraceable(kind), ("logits",)).eval()
    with pytest.raises(ExportError, match=words):
        onnx_files.write_onnx(
            "own", model, {"pixel_values": torch.ones(1, 3, 4, 4)}, ["batch"], tmp_path / "model.onnx"
        )
    assert not list(tmp_path.iterdir())
    assert len(capfd.readouterr().err) < 500


def test_samples_of_several_sizes_are_refused(run, tmp_path):
    """A file for the size of the first sample that fails on the user's own."""
    processor = tiny_processor()
    processor.size = {"shortest_edge": 16}
    loaded = load_peer("vit", PeerSpec(source=str(run / "vit")), ImageClassification())
    peer = ClassificationExport(ImageClassification(), "vit", loaded.model, processor=processor, labels=LABELS)
    rows = [{"image": Image.new("RGB", size), "label": 0, "sample_id": 0} for size in ((32, 32), (32, 64))]
    with pytest.raises(ExportError, match=r"makes \[3, 16, 16\] of one sample and \[3, 32, 16\] of another"):
        [list(peer.batches([row])) for row in rows]


def test_a_model_folder_goes_elsewhere_with_its_processor(run, tmp_path):
    """A file without the preprocessing that it needs."""
    (one,) = export_peers(run / "cnn", out=tmp_path, check=ExportCheck(4))
    assert one.folder == tmp_path / "cnn" / "onnx"
    assert AutoImageProcessor.from_pretrained(tmp_path / "cnn").size == {"height": 16, "width": 16}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"check": ExportCheck(dataset="no/where/here")}, DataError, "no/where/here"),
        ({"place": "."}, ExportError, "neither a run .* nor a model folder"),
    ],
)
def test_mistakes_are_named(run, tmp_path, monkeypatch, change, error, words):
    """A traceback from the depth of a library."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        export_peers(**{"place": run, "out": tmp_path, **change})


def test_other_data_are_refused(run, tmp_path):
    """An export that is checked with rows that the peer learned from."""
    DatasetDict({"train": make_rows(20), "validation": make_rows(6), "test": make_rows(6)}).save_to_disk(
        tmp_path / "d"
    )
    with pytest.raises(DataError, match="is not the data of this run"):
        export_peers(run, check=ExportCheck(dataset=str(tmp_path / "d")))


def test_missing_packages_and_a_push_from_elsewhere_are_told_first(run, monkeypatch, capsys):
    """An import error after the data has been read, or a push without the files."""
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert cli.main(["export", str(run)]) == 2
    assert "pip install 'hf-mutual-kd[onnx]'" in capsys.readouterr().err
    assert cli.main(["export", str(run), "--push", "me", "--out", "x"]) == 2
    assert "give RUN_DIR and no --out" in capsys.readouterr().err
