"""The Space of a run: the folder, what its app makes of images and uploads, and the push to a loopback Hub."""

import importlib
import json
import shutil
import struct
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import LABELS
from hub_cards import check_card
from hub_run import BRISK, TOKEN, sent
from hub_server import HubServer
from PIL import Image
from segmentation_peers import tiny_segmenter
from segmentation_run import PEERS, segmentation_rows
from space_run import write_classifiers, write_segmenters

from hf_mutual_kd import (
    ConfigError,
    DataError,
    HubError,
    OutputFolderError,
    PeerError,
    dense_log_probs,
    loss_scores,
    margin_scores,
    write_space,
)
from hf_mutual_kd.cli import main as cli
from hf_mutual_kd.data.images import decode_image
from hf_mutual_kd.hub.space.push import find_pushed, push_space, serve
from hf_mutual_kd.peers import weight_files
from hf_mutual_kd.reports.samples import SAMPLES_FILE, write_samples
from hf_mutual_kd.reports.text import split_readme
from hf_mutual_kd.tasks.space import FILES

pytest.importorskip("gradio", reason="needs `pip install 'hf-mutual-kd[space]'`")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_classifiers(tmp_path_factory.mktemp("a_folder_of_mine"))


@pytest.fixture(scope="module")
def space(run, tmp_path_factory):
    return write_space(run, tmp_path_factory.mktemp("made") / "space", samples=6).folder


@pytest.fixture(scope="module")
def dense_space(tmp_path_factory):
    return write_space(write_segmenters(tmp_path_factory.mktemp("dense")), samples=3).folder


@pytest.fixture
def app(monkeypatch):
    """A module of the app by its name, as `python app.py` would import it."""
    monkeypatch.syspath_prepend(str(FILES))
    monkeypatch.setitem(sys.modules, "weight_files", weight_files)
    yield importlib.import_module
    for file in FILES.glob("*.py"):
        sys.modules.pop(file.stem, None)


# The folder


def test_the_folder_is_a_whole_space_and_nothing_else(run, space):
    """A pickle, a path of this machine, or a file that the app needs and does not find."""
    files = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert {"app.py", "README.md", "requirements.txt", "style.css", "data/facts.json"} <= files
    assert {name for name in files if "/cnx/" in name} == {
        f"data/peers/cnx/end/{name}" for name in ("config.json", "model.safetensors", "preprocessor_config.json")
    }
    text = b"".join((space / name).read_bytes() for name in files)
    assert str(run.parent).encode() not in text
    assert b"PICKLE" not in text
    app = "".join(path.read_text() for path in space.glob("*.py"))
    assert "import hf_mutual_kd" not in app
    assert "from hf_mutual_kd" not in app


def test_readme_and_requirements_are_what_the_hub_takes(space):
    """Metadata that the Hub refuses, or a Space that is built with other versions than the run's."""
    text = (space / "README.md").read_text()
    assert check_card(text, "space") == ([], [])
    metadata, body = split_readme(text)
    assert (metadata["sdk"], metadata["app_file"], metadata["python_version"]) == ("gradio", "app.py", "3.11")
    assert "license" not in metadata, "no peer states its licence"
    assert "<b>forms" not in body
    lines = (space / "requirements.txt").read_text().splitlines()
    assert lines[1:] == [
        f"gradio=={metadata['sdk_version']}",
        "torch==2.15.0",
        "torchvision==0.29.2",
        "transformers==5.23.0",
    ]
    assert "cpu" in lines[0]


def test_query_heads_ask_for_what_builds_them(dense_space):
    """Mask2Former without scipy fails when the Space starts."""
    assert "scipy==" in (dense_space / "requirements.txt").read_text()


def test_starts_on_the_hub_are_fetched_at_their_commit(run, tmp_path):
    """A Space that shows another revision than the run began with, or that copies what the Hub has."""
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    record = json.loads((copied / "cohort.json").read_text())
    record["peers"]["vit"] |= {"source": "someone/vit", "revision": "1" * 40, "base": {"license": "mit"}}
    (copied / "cohort.json").write_text(json.dumps(record))
    made = write_space(copied, peers={"vit": ("ada/vit-mutual", "2" * 40)}, samples=0)
    peer = json.loads((made.folder / "data" / "facts.json").read_text())["peers"][0]
    assert peer["start"] == {"repo": "someone/vit", "revision": "1" * 40, "parameters": 1234}
    assert peer["end"] == {"repo": "ada/vit-mutual", "revision": "2" * 40, "parameters": 1234}
    assert peer["card"].endswith("/ada/vit-mutual")
    metadata, _ = split_readme((made.folder / "README.md").read_text())
    assert metadata["models"] == ["ada/vit-mutual", "someone/vit"]
    assert metadata["license"] == ["apache-2.0", "mit"]
    assert not (made.folder / "data" / "peers").exists()


def test_a_wrong_first_guess_has_no_tick(app):
    """A tick at the truth in the third place reads as a right answer."""
    view = app("classification_view")
    guesses = [("cat", 0.6), ("dog", 0.3), ("cow", 0.1)]
    page = {right: view.bars(view.Guessed(0.6, guesses=guesses), right) for right in ("cat", "dog", None)}
    assert ("✓ cat" in page["cat"], "✗" in page["cat"]) == (True, False)
    assert ("✗ cat" in page["dog"], "✓" in page["dog"]) == (True, False)
    assert 'class="hit"><span class=label>dog' in page["dog"]
    assert not {"✓", "✗"} & set(page[None])


def test_flipped_samples_come_first(run, tmp_path, monkeypatch):
    """Samples that show nothing of what the training did."""
    from made_up_report import recorded

    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    labels, right = np.arange(9) % 3, np.ones((9, 3), bool)
    before = right.copy()
    before[[5, 7], 0] = False
    peers = ("vit", "cnn", "cnx")
    write_samples(copied / SAMPLES_FILE, peers, recorded(before, labels, 3, 0.9), recorded(right, labels, 3, 0.9), {})
    facts = json.loads((write_space(copied, samples=4).folder / "data" / "facts.json").read_text())
    assert {sample["name"] for sample in facts["samples"][:2]} == {"sample 5", "sample 7"}
    assert len(facts["samples"]) == 4


def test_what_cannot_be_shown_is_refused_with_the_way_out(run, tmp_path):
    """A folder of the user's that is replaced, or a Space that fails only when a visitor comes."""
    with pytest.raises(OutputFolderError, match="is no run"):
        write_space(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(OutputFolderError, match="no earlier Space"):
        write_space(run, tmp_path / "mine")
    with pytest.raises(DataError):
        write_space(run, tmp_path / "out", dataset=str(tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    (copied / "vit" / "config.json").unlink()
    with pytest.raises(PeerError, match="module of your own"):
        write_space(copied, samples=0)
    for task, kind in (("semantic-segmentation", "eomt"), ("video-saliency", "vit")):
        record = json.loads((copied / "cohort.json").read_text()) | {"task": task}
        (copied / "cohort.json").write_text(json.dumps(record))
        (copied / "vit" / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(PeerError, match=f"type {kind}"):
            write_space(copied, samples=0)
    (copied / "vit" / "adapter_config.json").write_text("{}")
    with pytest.raises(PeerError, match="is an adapter.*--merge_adapters true"):
        write_space(copied, tmp_path / "space", peers=["vit"])


# What the app makes of an image


def test_scores_are_those_of_the_training(app, space):
    """Labels that are permuted against the data's, or a score by which another peer would teach."""
    cohort = app("peers").Cohort(space)
    sample = cohort.facts["samples"][1]
    given = cohort.view.read(str(space / sample["image"]), sample["truth"])
    image, truth = given.subject, given.truth
    assert LABELS[truth] == sample["truth"]
    seen = cohort.look(given)
    for peer in cohort.facts["peers"]:
        model, processor = cohort.models.get(peer["end"]), cohort.models.processor(peer["end"])
        with torch.no_grad():
            logits = model(**processor(images=[image], return_tensors="pt")).logits
        logits = logits.flip(1) if peer["name"] == "vit" else logits
        expected = margin_scores(logits[None], torch.tensor([truth]))
        found = seen[peer["name"]]["end"]
        assert found.score == pytest.approx(float(expected), abs=1e-5)
        assert found.guesses[0][0] == LABELS[int(logits.argmax())]
    assert seen["cnx"]["start"] == "It started without a classifier for these labels."


@pytest.mark.parametrize("name", PEERS)
def test_maps_are_those_of_the_task(app, name):
    """Another interpolation, or the no-object class, would show maps that nobody measured."""
    model = tiny_segmenter(name)
    batch = torch.rand(1, 3, 64, 64)
    mask = torch.ones(1, 64, 64, dtype=torch.long)
    with torch.no_grad():
        outputs = model(batch)
    ours = app("segmentation_view").dense_log_probs(
        outputs, {"pixel_values": batch, "pixel_mask": mask}, [2, 0, 1, 4, 3], (40, 48)
    )
    theirs = dense_log_probs(outputs, (40, 48))[0][[2, 0, 1, 4, 3]]
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_truth_of_a_sample_scores_maps(app, dense_space):
    """A mask of another sample, or ignored pixels that count."""
    cohort = app("peers").Cohort(dense_space)
    sample = cohort.facts["samples"][0]
    given = cohort.view.read(str(dense_space / sample["image"]), sample["truth"])
    image, truth = given.subject, given.truth
    row = segmentation_rows(5, 2)[0]
    assert np.array_equal(truth.numpy(), np.asarray(decode_image(row["label"]))[..., 0])
    truth[:4] = 255
    seen = cohort.look(given)["segformer"]["end"]
    peer = cohort.facts["peers"][0]
    inputs = cohort.models.processor(peer["end"])(images=[image], return_tensors="pt")
    with torch.no_grad():
        log_probs = dense_log_probs(cohort.models.get(peer["end"])(**inputs), tuple(truth.shape))
    expected = loss_scores(log_probs[None], truth.masked_fill(truth == 255, -1)[None])[0, 0][truth != 255].mean()
    assert seen.score == pytest.approx(float(expected), abs=1e-4)
    assert cohort.view.read(str(dense_space / sample["image"]), "sample 77").truth is None


def test_who_teaches_follows_the_strictly_best_score(app):
    """A teacher at a tie, or where a peer's score is not known."""
    best_of = app("answer").best_of
    assert best_of([1.0, 3.0, 2.0]) == 1
    assert best_of([3.0, 3.0, 2.0]) is None
    assert best_of([None, 3.0]) is None
    assert best_of([3.0]) is None


def test_memory_stays_bounded(app, space):
    """Every peer that was ever asked for in memory at once."""
    peers = app("peers")
    cohort = peers.Cohort(space)
    models = peers.Models(space, cohort.view, most_bytes=2 * 4 * 1234)
    places = [peer["end"] for peer in cohort.facts["peers"]]
    for place in places:
        models.get(place)
    assert [json.loads(key)["folder"] for key in models.held] == [place["folder"] for place in places[1:]]
    assert models.get(places[1]) is models.get(places[1])
    assert [json.loads(key)["folder"] for key in models.held][-1] == places[1]["folder"]


def test_labels_from_outside_are_text(app, space):
    """A class name that runs a script in the visitor's browser."""
    ask, cohort = app("app").ask, app("peers").Cohort(space)
    cohort.facts["labels"] = ["<script>x</script>", "b", "c"]
    cohort.facts["rule"] = "<img src=x onerror=y>"
    page = ask(cohort, str(space / cohort.facts["samples"][0]["image"]), "b")
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;" in page


def test_a_peer_that_cannot_be_loaded_leaves_the_others(app, space, capsys):
    """One peer that was deleted from the Hub takes the whole app down."""
    ask, cohort = app("app").ask, app("peers").Cohort(space)
    cohort.facts["peers"][0]["end"] = {"folder": "data/peers/not_here", "parameters": 1}
    page = ask(cohort, str(space / cohort.facts["samples"][0]["image"]), None)
    assert page.count("cannot be loaded at the moment") == 1 + 1
    assert "After the training" not in page
    assert "cnn" in page
    assert "not_here" not in page
    assert "not_here" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "name"), [("space", "weights.bin"), ("dense_space", "../../secret.safetensors")])
def test_weights_of_the_app_are_safetensors_beside_their_index(app, request, tmp_path, kind, name, capsys):
    """A peer's repository that changes on the Hub runs code in the Space, or reads the machine's files."""
    folder = shutil.copytree(request.getfixturevalue(kind), tmp_path / "space")
    cohort = app("peers").Cohort(folder)
    peer = folder / cohort.facts["peers"][0]["end"]["folder"]
    (peer / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, peer / "weights.bin")
    (peer / weight_files.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"x": name}}))
    page = app("app").ask(cohort, str(folder / cohort.facts["samples"][0]["image"]), None)
    assert page.count("cannot be loaded at the moment") == 1
    assert f"names '{name}' for x" in capsys.readouterr().out


# Uploads


def bomb(path: Path, side: int) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))))
    return path


def hostile(path: Path) -> dict[str, Path]:
    (path / "text.png").write_text("I am no image")
    (path / "page.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>x</script></svg>')
    (path / "page.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (path / "large.png").write_bytes(bytes(10_000_001))
    Image.new("RGB", (900, 2)).save(path / "long.png")
    Image.new("RGB", (64, 64), "red").save(path / "cut.jpg")
    (path / "cut.jpg").write_bytes((path / "cut.jpg").read_bytes()[:300])
    bomb(path / "bomb.png", 6000)
    bomb(path / "large_bomb.png", 60_000)
    return {file.name: file for file in path.iterdir()}


def test_hostile_uploads_are_refused_in_words(app, tmp_path):
    """A traceback for the visitor, or a file that fills the memory before anybody looks at its size."""
    uploads, files = app("uploads"), hostile(tmp_path)
    words = {
        "text.png": "no image",
        "page.svg": "no image",
        "page.eps": "no image",
        "large.png": "larger than 10 MB",
        "long.png": "more than 10 times",
        "cut.jpg": "damaged",
        "bomb.png": "6,000 x 6,000",
        "large_bomb.png": "too many pixels",
    }
    assert set(files) == set(words)
    for name, said in words.items():
        with pytest.raises(uploads.Refused, match=said) as refusal:
            uploads.read_image(str(files[name]))
        assert str(tmp_path) not in str(refusal.value)
    for nothing in (None, "", str(tmp_path), str(tmp_path / "none.png")):
        with pytest.raises(uploads.Refused, match="no image yet"):
            uploads.read_image(nothing)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16 dark"])
def test_uploads_are_decoded_as_in_the_training(app, tmp_path, mode):
    """A photo that lies on its side, or 16-bit grey that is white everywhere, or scaled by its own brightest pixel."""
    levels = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
    image = Image.fromarray(levels).convert("RGB").convert("L" if mode.startswith("I;16") else mode)
    if mode.startswith("I;16"):
        image = Image.fromarray(levels.astype(np.uint16) << (0 if mode.endswith("dark") else 8))
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "image.png", exif=exif)
    found = app("uploads").read_image(str(tmp_path / "image.png"))
    assert found.size == (12, 20)
    assert np.array_equal(np.asarray(found), np.asarray(decode_image(Image.open(tmp_path / "image.png"))))


def test_large_images_are_shrunk(app, tmp_path):
    """A photo of a phone at full size in a model that takes any size."""
    Image.new("L", (4000, 3000)).save(tmp_path / "photo.png")
    assert app("uploads").read_image(str(tmp_path / "photo.png")).size == (768, 576)


# The push


@pytest.fixture
def hub():
    with HubServer({"ada": TOKEN}) as hub:
        yield hub


def push(hub, folder, name="ada/demo", **options):
    return push_space(folder, name, token=TOKEN, endpoint=hub.url, patience=BRISK, **options)


def test_a_push_is_one_commit_of_a_space_and_a_repeated_one_none(hub, space, tmp_path):
    """A model repository in place of a Space, a README of the user's that is lost, or files that stay behind."""
    assert push(hub, space) == f"{hub.url}/spaces/ada/demo"
    assert hub.repo("ada/demo", "space").sdk == "gradio"
    files = hub.files("ada/demo", kind="space")
    assert files["app.py"] == (space / "app.py").read_bytes()
    assert len(hub.commits("ada/demo", kind="space")) == 2
    assert push(hub, space).endswith("(unchanged)")
    mine = files["README.md"].decode() + "\nWords of mine.\n"
    hub.add_repo("space", "ada/demo", {"README.md": mine, "data/samples/99.png": b"old", "mine.txt": b"kept"})
    changed = tmp_path / "space"
    shutil.copytree(space, changed)
    (changed / "data" / "facts.json").write_text("{}")
    push(hub, changed, private=True)
    files = hub.files("ada/demo", kind="space")
    assert b"Words of mine." in files["README.md"]
    assert "mine.txt" in files
    assert "data/samples/99.png" not in files
    assert not sent(hub, "POST", "/api/models")


def test_secrets_and_wrong_names_stay_here(hub, space, tmp_path):
    """A token in a file of the Space, or a repository in somebody else's namespace."""
    changed = tmp_path / "space"
    shutil.copytree(space, changed)
    (changed / "data" / "facts.json").write_text(json.dumps({"rule": TOKEN}))
    with pytest.raises(HubError, match=r"data/facts.json holds your token"):
        push(hub, changed)
    for name in ("demo", "a/b/c", "ada/--x", "../x"):
        with pytest.raises(HubError, match="is no name of a Space"):
            push(hub, space, name)
    assert not sent(hub, "POST")


def test_pushed_peers_are_found_at_their_commit(hub, run):
    """A Space that names repositories which are not there."""
    with pytest.raises(HubError, match="push it first"):
        find_pushed(run, "ada", ["vit"], token=TOKEN, endpoint=hub.url, patience=BRISK)
    name = "ada/vit-shapes-b-forms-mutual"
    sha = hub.add_model(name, {"config.json": "{}"})
    found = find_pushed(run, "ada", ["vit"], token=TOKEN, endpoint=hub.url, patience=BRISK)
    assert found == {"vit": (name, sha)}


# The command


def test_the_command_makes_pushes_and_says_where(run, hub, tmp_path, monkeypatch, capsys):
    """A command that loads torch before it finds a wrong word, or that hides where the Space went."""
    for name, value in hub.env(TOKEN, cache=tmp_path / "hf").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("hf_mutual_kd.hub.names.get_token", lambda: TOKEN)
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: TOKEN, raising=False)
    out = str(tmp_path / "space")
    assert cli.main(["space", str(run), "--out", out, "--samples", "0"]) == 0
    said = capsys.readouterr().out
    assert f"start it with: python {out}/app.py" in said
    assert cli.main(["space", str(run), "--out", out, "--push", "demo"]) == 2
    assert cli.main(["space", str(run), "--out", out, "--samples", "-1"]) == 2
    assert "no name of a Space" in capsys.readouterr().err


def test_local_says_what_is_missing_and_what_went_wrong(tmp_path, monkeypatch):
    """A traceback of gradio's absence, or an app that died without a word."""
    (tmp_path / "app.py").write_text("raise SystemExit(3)")
    with pytest.raises(ConfigError, match=r"ended with an error \(3\)"):
        serve(tmp_path)
    monkeypatch.setattr("hf_mutual_kd.hub.space.push.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"hf-mutual-kd\[space\]"):
        serve(tmp_path)


def test_the_page_is_closed_to_programs_and_tells_nobody(app, space):
    """An endpoint that takes any path, or a start that calls home."""
    page = app("app").build(app("peers").Cohort(space))
    config = page.get_config_file()
    (upload,) = [block for block in page.blocks.values() if getattr(block, "elem_id", None) == "upload"]
    assert upload.preprocess(SimpleNamespace(path="a_path")) == "a_path", "a file that gradio opens first"
    assert {one["api_visibility"] for one in config["dependencies"]} == {"private"}
    assert not page.analytics_enabled


def test_only_uploads_and_samples_are_read(app, space, dense_space, tmp_path, monkeypatch):
    """A posted path shows any picture of the machine, or tells by its answer whether a file is there."""
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    for folder in (space, dense_space):
        cohort, ask = app("peers").Cohort(folder), app("app").ask
        sample = folder / cohort.facts["samples"][0]["image"]
        elsewhere = tmp_path / "private.png"
        Image.open(sample).convert("RGB").save(elsewhere)
        (uploads / "link.png").unlink(missing_ok=True)
        (uploads / "link.png").symlink_to(elsewhere)
        outside = [
            str(elsewhere),
            str(uploads / "link.png"),
            f"{uploads}/../private.png",
            str(folder / "data" / "facts.json"),
            str(tmp_path / "nothing.png"),
            "/etc/passwd",
            "nul\0byte",
            "",
        ]
        refusals = {ask(cohort, path, cohort.view.no_truth) for path in outside}
        assert len(refusals) == 1
        assert "There is no image yet" in refusals.pop()
        (uploads / "mine.png").write_bytes(elsewhere.read_bytes())
        for path in (uploads / "mine.png", sample):
            assert "Who would teach whom" in ask(cohort, str(path), cohort.view.no_truth)


def posted(bounded, size, path="/gradio_api/upload"):
    """The answer to a POST of so many bytes in pieces of 100, through the middleware."""
    import asyncio

    said = []

    async def receive():
        nonlocal size
        piece, size = min(100, size), size - min(100, size)
        return {"type": "http.request", "body": b"x" * piece, "more_body": size > 0}

    async def send(message):
        said.append(message)

    asyncio.run(bounded({"type": "http", "method": "POST", "path": path}, receive, send))
    return said[0]["status"]


def test_uploads_are_bounded_each_and_in_all(app, tmp_path, monkeypatch):
    """Many uploads, or one form with many files, fill the machine's disk."""
    uploads = app("uploads")
    monkeypatch.setattr(uploads, "FORM", 50)
    monkeypatch.setattr(uploads, "MOST_STORED", 2500)

    async def store(scope, receive, send):
        kept, more = b"", True
        while more:
            message = await receive()
            kept, more = kept + message["body"], message["more_body"]
        number = len(list(tmp_path.iterdir()))
        (tmp_path / f"{number}-{time.monotonic_ns()}").write_bytes(kept)
        await send({"type": "http.response.start", "status": 200})

    bounded = uploads.BoundedUploads(store, tmp_path, 950)
    assert posted(bounded, 1001) == 413
    assert posted(bounded, 5000) == 413
    assert not list(tmp_path.iterdir())
    for _ in range(5):
        assert posted(bounded, 900) == 200
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2500
    assert posted(bounded, 5000, "/gradio_api/queue/join") == 200
    assert bounded.arriving == 0
    bounded.arriving = uploads.MOST_AT_ONCE
    assert posted(bounded, 10) == 503
