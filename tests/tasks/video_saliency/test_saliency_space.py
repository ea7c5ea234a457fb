"""The Space of a saliency run: its own copy of the models' code, clips and scores, and what it makes of uploads."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_videos import hostile_videos, turned
from hub_cards import check_card
from hub_run import TOKEN
from hub_server import HubServer
from PIL import Image
from saliency_files import mp4, numbers_of
from saliency_run import gaze_videos
from space_run import write_saliency

from hf_mutual_kd import (
    ClipPolicy,
    ClipRows,
    DataError,
    VideoSaliencyModel,
    VideoSaliencyProcessor,
    load_clip,
    write_space,
)
from hf_mutual_kd.data.video import open_frames
from hf_mutual_kd.reports.text import split_readme
from hf_mutual_kd.tasks.run_splits import load_run_splits
from hf_mutual_kd.tasks.video_saliency.model.losses import score
from hf_mutual_kd.tasks.video_saliency.space import SaliencySpace

pytest.importorskip("gradio", reason="needs `pip install 'hf-mutual-kd[space]'`")
OFFSETS = list(range(-6, 3))
KINDS = {
    "a.txt": ("libx264", "mp4"),
    "b": ("mpeg4", "mov"),
    "c.avi": ("libvpx-vp9", "webm"),
    "d.mp4": ("mpeg4", "avi"),
}


FROM_HUB = """
import sys, types
sys.modules["hf_mutual_kd"] = None
sys.modules["gradio"] = types.ModuleType("gradio")  # takes seconds, and draws only the page
from pathlib import Path
from peers import Cohort
cohort = Cohort(Path("."))
cohort.facts["peers"] = cohort.facts["peers"][:1]
cohort.facts["peers"][0]["end"] = {pushed}
seen = cohort.look(cohort.view.read(None, "test-0"))["convnext"]["end"]
print(type(cohort.models.get({pushed})).__module__, len(seen), "frames")
"""


def rows_of(run):
    return load_run_splits(json.loads((run / "cohort.json").read_text())).test


def all_of(rows):
    return [rows[index] for index in range(len(rows))]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_saliency(tmp_path_factory.mktemp("a_folder_of_mine"))


@pytest.fixture(scope="module")
def space(run, tmp_path_factory):
    return write_space(run, tmp_path_factory.mktemp("made") / "space").folder


@pytest.fixture
def app(monkeypatch, space):
    """A module of the app by its name, as `python app.py` would import it in the Space."""
    monkeypatch.syspath_prepend(str(space))
    yield importlib.import_module
    for name in [name for name in sys.modules if (space / f"{name.partition('.')[0]}.py").is_file()]:
        sys.modules.pop(name)
    for name in [name for name in sys.modules if name.startswith("saliency_model")]:
        sys.modules.pop(name)


@pytest.fixture
def cohort(app, space):
    return app("peers").Cohort(space)


# The folder


def test_the_folder_brings_the_models_code_and_what_reads_videos(run, space):
    """A Space that needs this package, or runs code from where the weights lie."""
    names = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    code = {name for name in names if name.endswith(".py")}
    assert {"saliency_view.py", "decode_video.py", "saliency_model/modeling_video_saliency.py"} <= code
    assert "image_view.py" not in code
    assert not any(name.startswith("data/") for name in code)
    for name in code:
        text = (space / name).read_text()
        assert not re.search(r"^\s*(import|from) hf_mutual_kd", text, re.MULTILINE)
        assert not re.search(r"trust_remote_code\W+True", text)
    assert str(run.parent).encode() not in b"".join((space / name).read_bytes() for name in names)
    readme = (space / "README.md").read_text()
    assert check_card(readme, "space") == ([], [])
    assert "Give a short video" in readme
    assert "Made up for a test" in split_readme(readme)[1]
    lines = (space / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in lines[1:]] == ["gradio", "torch", "torchvision", "transformers", "av"]


def test_code_beside_pushed_weights_is_never_run(space, tmp_path):
    """A repository on the Hub that was taken over runs its code in everybody's Space."""
    peer = json.loads((space / "data" / "facts.json").read_text())["peers"][0]
    place = tmp_path / "pushed"
    VideoSaliencyModel.from_pretrained(space / peer["end"]["folder"]).save_pretrained(place)
    VideoSaliencyProcessor.from_pretrained(space / peer["end"]["folder"]).save_pretrained(place)
    assert "auto_map" in json.loads((place / "config.json").read_text())
    for file in place.glob("*.py"):
        file.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    with HubServer({"ada": TOKEN}) as hub:
        pushed = {"repo": "ada/peer", "revision": hub.add_model("ada/peer", place), "parameters": 1}
        environment = {**os.environ, **hub.env(cache=tmp_path / "hf")}
        code = FROM_HUB.format(pushed=pushed)
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, cwd=space, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "saliency_model.modeling_video_saliency 3 frames" in ended.stdout
    assert not (tmp_path / "ran").exists()


def test_samples_are_test_videos_that_somebody_watched(space, run):
    """A truth that is blank, or of another frame than the one that is shown."""
    samples = json.loads((space / "data" / "facts.json").read_text())["samples"]
    assert [sample["name"] for sample in samples] == ["test-0", "test-2"]
    assert (samples[0]["cuts"], samples[1]["cuts"]) == ([8], [])
    rows = rows_of(run)
    known = {(row["video"], row["frame"]): row["source"].truth.density(row["frame"]) for row in all_of(rows)}
    for sample in samples:
        assert len(sample["targets"]) == 3
        for target in sample["targets"]:
            found = np.asarray(Image.open(space / target["map"])).astype(np.float64)
            expected = known[sample["name"], target["frame"]]
            assert np.allclose(found / 65535, expected / expected.max(), atol=1e-4)


def test_long_videos_are_cut_around_whole_clips(tmp_path, monkeypatch):
    """A clip that begins before the part that was kept would see its first frame instead."""
    monkeypatch.setattr("hf_mutual_kd.tasks.video_saliency.space.SPAN", 5)
    (tmp_path / "data" / "samples").mkdir(parents=True)
    rows = ClipRows(gaze_videos(1, "test"), every=1)
    peers = [{"clip": [-2, -1, 0]}]
    (sample,) = SaliencySpace().write_samples(None, rows, peers, tmp_path, 3)
    targets = [target["frame"] for target in sample["targets"]]
    assert targets == [2, 4, 6], "of the frames 1 to 7, whose first clip ends at its third"
    with open_frames(tmp_path / sample["video"]) as reader:
        assert numbers_of(reader) == list(range(1, 8))


def test_other_videos_are_not_taken_for_those_of_the_run(run):
    """Samples of a data set that the peers were never measured on."""
    record = json.loads((run / "cohort.json").read_text())
    record["dataset"]["fingerprint"] = "0" * 16
    with pytest.raises(DataError, match="not the data of this run"):
        load_run_splits(record)


# What the app makes of a video


def test_clips_and_scores_are_those_of_the_training(cohort, run):
    """Frames of another shot, of another distance, or a score by which another peer would teach."""
    rows = {row["frame"]: row for row in all_of(rows_of(run)) if row["video"] == "test-0"}
    given = cohort.view.read(None, "test-0")
    seen = cohort.look(given)
    for peer in cohort.facts["peers"]:
        name, place = peer["name"], run / peer["name"]
        processor = VideoSaliencyProcessor.from_pretrained(place)
        policy = ClipPolicy(processor.num_frames, processor.frame_stride, processor.target)
        model = VideoSaliencyModel.from_pretrained(place).eval()
        for found, target in zip(seen[name]["end"], given.subject.targets, strict=True):
            clip = load_clip(rows[target], {name: policy})
            whole, ours = list(clip.frames[name].numpy()), given.subject.clip(target, peer["clip"])
            assert numbers_of(ours) == numbers_of(whole)
            with torch.no_grad():
                logits = model(**processor([ours, whole])).logits[:, -1]
            expected = score(logits, torch.from_numpy(clip.density).expand(2, -1, -1)).tolist()
            assert found.score == pytest.approx(expected[0], abs=1e-3)
            assert found.score == pytest.approx(expected[1], abs=0.1), "the sample's video is compressed"


def test_without_the_truth_nobody_teaches(app, cohort, tmp_path, monkeypatch):
    """A visitor who takes agreement for being right."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "mine.mp4").write_bytes(mp4())
    page = app("app").ask(cohort, str(tmp_path / "mine.mp4"), "")
    assert page.count("agreeing is not being right") == 3
    assert "<b>teaches" not in page
    assert "would teach" not in page
    assert "CC 0" not in page
    same = torch.zeros(1, 4, 4)
    same[0, 1, 2] = 3.0
    view = app("saliency_view")
    alike = [view.SeenFrame(same[0]), view.SeenFrame(same[0]), "not here"]
    assert view.agreement(alike) == [pytest.approx(1.0, abs=1e-3), pytest.approx(1.0, abs=1e-3), None]
    assert view.agreement([view.SeenFrame(same[0]), "not here"]) == [None, None]


def test_a_sample_names_its_teachers_and_shows_its_truth(app, cohort):
    """A table whose teacher is not the best score, or maps without the truth beside them."""
    sample = cohort.facts["samples"][1]
    given = cohort.view.read("/etc/passwd", sample["truth"])
    seen = cohort.look(given)
    page = "".join(cohort.view.answer(given, seen))
    assert page.count("the truth</figcaption>") == 3
    for place in range(3):
        scores = {name: phases["end"][place].score for name, phases in seen.items()}
        best = max(scores, key=scores.get)
        moment = page.split("<section class=moment>")[place + 1]
        assert f"After the training {best} knows the truth best" in moment
        assert moment.count("<img") == 2 + 2 * len(scores)
    cohort.facts["peers"][0]["start"] = None
    cohort.facts["peers"][0]["no_start"] = "Its start is <not> at hand."
    page = app("app").ask(cohort, None, sample["truth"])
    assert "Its start is &lt;not&gt; at hand." in page
    assert "At the start" not in page


# Uploads


@pytest.mark.parametrize("how", ["index", "config"])
def test_weights_are_safetensors_beside_the_configuration(cohort, run, tmp_path, how):
    """A pickle that a changed repository names as weights, run by the Space."""
    (tmp_path / "config.json").write_bytes((run / "convnext" / "config.json").read_bytes())
    if how == "index":
        (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "weights.bin"}}')
    else:
        config = json.loads((tmp_path / "config.json").read_text()) | {"transformers_weights": "weights.bin"}
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="names 'weights.bin'"):
        cohort.view.load(str(tmp_path), None)


def test_hostile_videos_are_refused_in_words(app, tmp_path):
    """A traceback for the visitor, a file that names other files, or frames that fill the memory."""
    videos, decoder, words = app("videos"), app("decode_video"), hostile_videos(tmp_path)
    for name, said in words.items():
        request = {"path": str(tmp_path / name), "offsets": OFFSETS, "targets": None, "cuts": []}
        found = decoder.respond(request)
        assert said in found.get("refused", "nothing was refused"), name
        assert str(tmp_path) not in found["refused"]
    for path, said in (
        (tmp_path / "text.mp4", "no video"),
        (tmp_path, "no video yet"),
        ("", "no video yet"),
        (None, "no video yet"),
    ):
        with pytest.raises(videos.Refused, match=said):
            videos.read_film(path and str(path), OFFSETS)
    with (tmp_path / "large.mp4").open("wb") as large:
        large.truncate(25_000_001)
    with pytest.raises(videos.Refused, match="larger than 25 MB"):
        videos.read_film(str(tmp_path / "large.mp4"), OFFSETS)


@pytest.mark.parametrize("name", KINDS)
def test_usual_videos_are_read_whatever_they_are_called(app, tmp_path, name):
    """A video that is refused for its name, or whose frames are those of other numbers."""
    (tmp_path / name).write_bytes(mp4(range(20), *KINDS[name]))
    film = app("videos").read_film(str(tmp_path / name), OFFSETS)
    assert (film.count, film.targets, film.goes_on) == (20, [3, 10, 16], False)
    assert numbers_of(film.clip(3, [-6, -2, 0, 2])) == [0, 1, 3, 5]
    assert numbers_of(film.clip(16, [0])) == [16]


def test_long_videos_are_looked_at_in_part_and_said_so(app, cohort, tmp_path, monkeypatch):
    """Ten hours that are decoded to the end, or a visitor who thinks that the whole film was seen."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "long.mp4").write_bytes(mp4([number % 20 for number in range(700)], gop=100))
    film = app("videos").read_film(str(tmp_path / "long.mp4"), OFFSETS)
    assert (film.count, film.targets, film.goes_on) == (600, [100, 300, 500], True)
    assert len(film.frames) == 3 * len(OFFSETS)
    assert "the peers saw its first 600 frames" in app("app").ask(cohort, str(tmp_path / "long.mp4"), "")


def test_frames_are_upright_and_small(app, tmp_path):
    """A phone's video on its side, or frames of full size for 18 models."""
    (tmp_path / "tall.mp4").write_bytes(turned(mp4([9])))
    (frame,) = app("videos").read_film(str(tmp_path / "tall.mp4"), [0]).frames.values()
    assert frame.shape == (64, 48, 3)
    assert frame[:32, 24:].mean() < 20 < 60 < frame[:32, :24].mean(), "the black quarter was at the left"
    (tmp_path / "wide.mp4").write_bytes(mp4([9], size=(720, 1280)))
    (frame,) = app("videos").read_film(str(tmp_path / "wide.mp4"), [0]).frames.values()
    assert frame.shape == (360, 640, 3)


def test_decoding_is_bounded_and_knows_no_secrets(app, tmp_path, monkeypatch, capsys):
    """A file that keeps the machine busy for ever, or a broken decoder that reads the Space's token."""
    videos = app("videos")
    (tmp_path / "clip.mp4").write_bytes(mp4())
    asked = []
    monkeypatch.setenv("HF_TOKEN", "a secret")
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *given, **options: asked.append(options) or real(*given, **options))
    videos.read_film(str(tmp_path / "clip.mp4"), OFFSETS)
    assert "HF_TOKEN" not in asked[0]["env"]
    monkeypatch.setattr(videos, "PATIENCE_S", 0.01)
    with pytest.raises(videos.Refused, match="too much time or memory"):
        videos.read_film(str(tmp_path / "clip.mp4"), OFFSETS)
    monkeypatch.setattr(videos, "PATIENCE_S", 60)
    script = Path(videos.__file__).with_name("decode_video.py")
    changed = script.read_text().replace("MOST_MEMORY = 2_000_000_000", "MOST_MEMORY = 9_000_000")
    copy = tmp_path / "videos.py"
    (tmp_path / "decode_video.py").write_text(changed)
    for name in ("videos.py", "uploads.py"):
        (tmp_path / name).write_text(script.with_name(name).read_text())
    monkeypatch.setattr(videos, "__file__", str(copy))
    with pytest.raises(videos.Refused, match="too much time or memory"):
        videos.read_film(str(tmp_path / "clip.mp4"), OFFSETS)
    assert "decode_video:" in capsys.readouterr().out
