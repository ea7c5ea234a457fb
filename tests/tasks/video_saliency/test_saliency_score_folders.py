"""`saliency evaluate` on folders of maps: the numbers, every kind of bad file, and what a user reads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import children_cpu_s
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from hf_mutual_kd import ConfigError, DataError
from hf_mutual_kd.cli import main as cli
from hf_mutual_kd.data.frame_readers import natural_key
from hf_mutual_kd.tasks.video_saliency.data.map_files import frame_files, read_map
from hf_mutual_kd.tasks.video_saliency.metrics.maps import rescale_counts
from hf_mutual_kd.tasks.video_saliency.metrics.scores import SaliencyScores
from hf_mutual_kd.tasks.video_saliency.score_folders import GroundTruth, evaluate_folders, scores_table

SIZE = (9, 16)
VIDEOS = {"2": 3, "10": 2, "[b]1": 2}


def maps_of(video, frame, size=SIZE):
    """Prediction, density and fixations of a frame, 8 bits."""
    generator = np.random.default_rng([sum(map(ord, video)), frame])
    prediction, density = generator.integers(0, 256, (2, *size), np.uint8)
    return prediction, density, (generator.random(size) < 0.1) | (np.arange(size[1]) == frame)


def write_image(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def folders(tmp_path):
    """Predictions and a ground truth in DHF1K's layout, whose videos and frames sort otherwise as text."""
    predictions, truth = tmp_path / "predictions", tmp_path / "truth"
    for video, count in VIDEOS.items():
        for frame in range(8, 8 + count):
            prediction, density, fixations = maps_of(video, frame)
            write_image(predictions / video / f"{frame}.png", prediction)
            write_image(truth / video / "maps" / f"{frame:04d}.png", density)
            write_image(truth / video / "fixation" / f"{frame:04d}.png", fixations.astype(np.uint8) * 255)
    return predictions, truth


def expected(pools=True):
    """The scores of the same frames, from memory."""
    scores = SaliencyScores()
    for video, count in VIDEOS.items():
        pool = sum(
            maps_of(other, frame)[2].astype(int)
            for other, length in VIDEOS.items()
            for frame in range(8, 8 + length)
            if other != video
        )
        for frame in range(8, 8 + count):
            prediction, density, fixations = maps_of(video, frame)
            reference = {"density": density, "fixations": fixations, **({"pool": pool} if pools else {})}
            scores.add(prediction=prediction, reference=reference, video=video)
    return scores.compute()


def test_equals_the_scores_of_the_same_arrays(folders):
    """Frames matched in the order of their text, a pool with the video's own fixations: plausible and wrong."""
    found = evaluate_folders(*folders, SaliencyScores())
    assert found.pop("settings")["shuffled_pool"] == "other videos"
    assert found.pop("skipped") == {}
    assert found == expected()
    assert list(found["per_video"]) == ["[b]1", "2", "10"]


@pytest.mark.parametrize("kind", ["mat", "mat beside", "jpg name", "npy", "16 bits", "rgb", "palette"])
def test_kinds_of_files(folders, kind):
    """The data sets and models in use write all of these."""
    predictions, truth = folders
    for path in sorted(truth.rglob("fixation/*.png")):
        target = path.parent / "maps" / f"img_{path.stem}.mat" if kind == "mat" else path.with_suffix(".mat")
        if kind.startswith("mat"):
            target.parent.mkdir(exist_ok=True)
            savemat(target, {"I": np.asarray(Image.open(path)) // 255, "other": "text"})
            path.unlink()
    for path in sorted(predictions.rglob("*.png")):
        values = np.asarray(Image.open(path))
        if kind == "npy":
            np.save(path.with_suffix(".npy"), values / 255)
            path.unlink()
        elif kind == "jpg name":
            path.rename(path.with_name(f"clip7_{int(path.stem):05d}.png"))
        elif kind == "16 bits":
            write_image(path, values.astype(np.uint16) * 257)
        elif kind == "rgb":
            write_image(path, np.stack([values] * 3, -1))
        elif kind == "palette":
            Image.fromarray(values).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path)
    found, known = evaluate_folders(*folders, SaliencyScores()), expected()
    tolerance = 0.02 if kind == "palette" else 1e-9
    assert found["frame_mean"] == pytest.approx(known["frame_mean"], rel=tolerance)


def test_layouts(folders, tmp_path):
    """A user with one clip, or with the folders of Hollywood-2, should not have to move files."""
    predictions, truth = folders
    both = tmp_path / "hollywood2"
    both.mkdir()
    truth.rename(both / "testing")
    assert (
        evaluate_folders(predictions, GroundTruth(both, "hollywood2"), SaliencyScores())["frame_mean"]
        == expected()["frame_mean"]
    )
    one = evaluate_folders(predictions / "10", GroundTruth(both / "testing" / "10", "frames"), SaliencyScores())
    assert one["per_video"]["10"]["mean"]["cc"] == expected()["per_video"]["10"]["mean"]["cc"]
    assert one["left_out"]["auc_shuffled"] == 2
    assert "–" in scores_table(one)


def test_pools(folders, tmp_path):
    """Fixations of frames of another size have to be moved to this one's pixels."""
    predictions, truth = folders
    other = tmp_path / "other"
    counts = np.zeros((18, 10), int)
    for frame in range(2):
        _, density, fixations = maps_of("other", frame, (18, 10))
        write_image(other / "x" / "maps" / f"{frame}.png", density)
        write_image(other / "x" / "fixation" / f"{frame}.png", fixations)
        counts += fixations
    found = evaluate_folders(predictions, truth, SaliencyScores(), shuffled_pool=str(other))
    prediction, density, fixations = maps_of("10", 8)
    pool = rescale_counts(counts, SIZE)
    first = SaliencyScores().measure(prediction, density, fixations, pool)["auc_shuffled"]
    prediction, density, fixations = maps_of("10", 9)
    second = SaliencyScores().measure(prediction, density, fixations, pool)["auc_shuffled"]
    assert found["per_video"]["10"]["mean"]["auc_shuffled"] == pytest.approx((first + second) / 2)
    assert found["settings"]["shuffled_pool"] == "other"
    none = evaluate_folders(predictions, truth, SaliencyScores(), shuffled_pool="none")
    assert none["left_out"]["auc_shuffled"] == none["frames"] == 7


def test_density_metrics_need_no_fixations(folders):
    """Many sets are shared as maps alone."""
    predictions, truth = folders
    for path in truth.rglob("fixation/*.png"):
        path.write_bytes(b"")
    found = evaluate_folders(predictions, truth, SaliencyScores(["cc", "kld"]))
    assert found["frame_mean"]["cc"] == expected()["frame_mean"]["cc"]


def renamed(path, name):
    path.rename(path.with_name(name))


def as_array(path, values):
    path.unlink()
    np.save(path.with_suffix(".npy"), values, allow_pickle=True)


def as_matlab(path):
    path.unlink()
    savemat(path.with_suffix(".mat"), {"eyeMap": np.ones(SIZE)})


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def colours():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


FRAME, VIDEO, MAP, FIXATIONS = (
    "predictions/10/9.png",
    "predictions/10",
    "truth/10/maps/0009.png",
    "truth/10/fixation/0009.png",
)
SPOILED = {
    "missing frame": (FRAME, Path.unlink, f"{MAP}: no prediction", 6),
    "extra frame": (
        VIDEO,
        lambda path: write_image(path / "11.png", maps_of("10", 11)[0]),
        "predictions/10/11.png: a frame that the ground truth does not have",
        7,
    ),
    "extra video": (
        VIDEO,
        lambda path: write_image(path.with_name("11") / "9.png", maps_of("10", 9)[0]),
        "predictions/11: a video that the ground truth does not have",
        7,
    ),
    "missing video": (VIDEO, shutil.rmtree, "predictions/10: no predictions for this video", 5),
    "missing fixations": (FIXATIONS, Path.unlink, f"{MAP}: no fixations", 6),
    "no fixation folder": ("truth/10/fixation", shutil.rmtree, "truth/10/fixation: no such folder", 5),
    "no fixation files": ("truth/10/fixation", emptied, "truth/10/maps/0008.png: no fixations", 5),
    "no map files": ("truth/10/maps", emptied, "truth/10/maps: no maps in this folder", 5),
    "other size": (
        FRAME,
        lambda path: write_image(path, maps_of("10", 9, (9, 15))[0]),
        f"{FRAME}: The prediction is 9 x 15, the truth 9 x 16",
        6,
    ),
    "truth of two sizes": (
        FIXATIONS,
        lambda path: write_image(path, maps_of("10", 9, (16, 9))[2].astype(np.uint8)),
        f"{FRAME}: The truth of a frame must be maps",
        6,
    ),
    "colours": (FRAME, lambda path: write_image(path, colours()), f"{FRAME}: is a colour image", 6),
    "cut short": (FRAME, lambda path: path.write_bytes(path.read_bytes()[:90]), f"{FRAME}: cannot be decoded", 6),
    "empty": (MAP, lambda path: path.write_bytes(b""), f"{MAP}: cannot be decoded", 6),
    "NaN": (
        FRAME,
        lambda path: as_array(path, np.full(SIZE, np.nan)),
        "predictions/10/9.npy: The prediction holds NaN",
        6,
    ),
    "pickle": (FRAME, lambda path: as_array(path, np.array([{}])), "predictions/10/9.npy: cannot be decoded", 6),
    "three dimensions": (
        FRAME,
        lambda path: as_array(path, np.ones((2, *SIZE))),
        "predictions/10/9.npy: expected numbers of shape [H, W], got float64 [2, 9, 16]",
        6,
    ),
    "Matlab": (FIXATIONS, as_matlab, "truth/10/fixation/0009.mat: holds no matrix I", 6),
    "broken Matlab": (
        FIXATIONS,
        lambda path: renamed(path, "0009.mat"),
        "truth/10/fixation/0009.mat: no Matlab file, neither of level 5 nor of version 7.3",
        6,
    ),
    "two of a number": (
        FRAME,
        lambda path: write_image(path.with_name("0009.png"), maps_of("10", 9)[0]),
        f"{FRAME}: frame 9 is also 0009.png",
        5,
    ),
    "no number": (
        FRAME,
        lambda path: renamed(path, "last.png"),
        "predictions/10/last.png: expected a frame number",
        5,
    ),
}
"""What is spoiled and how, what the message must say, and how many of 7 frames are scored when it is skipped."""


@pytest.mark.parametrize("kind", SPOILED)
def test_bad_files_are_named_or_counted(folders, kind):
    """A missing or damaged frame that is passed over in silence raises the mean."""
    where, spoil, named, left = SPOILED[kind]
    spoil(folders[0].parent / where)
    with pytest.raises(DataError) as caught:
        evaluate_folders(*folders, SaliencyScores())
    assert named in str(caught.value)
    assert str(folders[0].parent) not in str(caught.value)
    found = evaluate_folders(*folders, SaliencyScores(), on_bad_frame="skip")
    assert found["frames"] == left
    assert any(f"{name}: {reason}".startswith(named) or named in reason for name, reason in found["skipped"].items())
    assert str(folders[0].parent) not in json.dumps(found)
    assert "skipped: " in scores_table(found)
    if not where.startswith("truth/10/fixation") and kind != "no map files":
        for name, video in expected()["per_video"].items():
            if name != "10":
                assert found["per_video"][name]["mean"] == pytest.approx(video["mean"])


def test_all_is_matched_before_anything_is_read(folders):
    """An hour of scoring ends with the news that the last video is missing."""
    predictions, truth = folders
    for path in (predictions / "2").iterdir():
        path.write_bytes(b"")
    (predictions / "[b]1" / "8.png").unlink()
    with pytest.raises(DataError, match=r"\[b\]1/maps/0008.png: no prediction"):
        evaluate_folders(predictions, truth, SaliencyScores())


@pytest.mark.parametrize("on_bad_frame", ["raise", "skip"])
def test_links_out_of_the_folder_are_not_followed(folders, on_bad_frame):
    """A folder from somebody else would have any file of this machine read and described."""
    predictions, truth = folders
    secret = predictions.parent / "secret"
    write_image(secret / "9.png", maps_of("10", 9)[0])
    (predictions / "10" / "9.png").unlink()
    (predictions / "10" / "9.png").symlink_to(secret / "9.png")
    if on_bad_frame == "raise":
        with pytest.raises(DataError, match="10/9.png: leads out of the folder predictions"):
            evaluate_folders(predictions, truth, SaliencyScores())
    else:
        found = evaluate_folders(predictions, truth, SaliencyScores(), on_bad_frame="skip")
        assert found["frames"] == 5
    (truth / "12").symlink_to(secret)
    with pytest.raises(DataError, match="truth/12: leads out"):
        evaluate_folders(predictions, truth, SaliencyScores(), on_bad_frame=on_bad_frame)


def test_nothing_to_score_is_an_error(folders, tmp_path):
    """A table of nothing looks like a result."""
    predictions, truth = folders
    with pytest.raises(DataError, match="none: cannot be listed: No such file"):
        evaluate_folders(predictions, tmp_path / "none", SaliencyScores())
    with pytest.raises(DataError, match=r"no video named 7\* with maps"):
        evaluate_folders(predictions, GroundTruth(truth, videos=["7*"]), SaliencyScores())
    with pytest.raises(DataError, match=r"no video named 7\* with maps"):
        evaluate_folders(predictions, GroundTruth(truth, videos=["*", "7*"]), SaliencyScores())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no video with maps"):
        evaluate_folders(predictions, tmp_path / "empty", SaliencyScores())
    with pytest.raises(DataError, match="no frame could be scored: 3 in all"):
        evaluate_folders(tmp_path / "empty", truth, SaliencyScores(), on_bad_frame="skip")
    with pytest.raises(ConfigError, match="layout must be one of"):
        evaluate_folders(predictions, GroundTruth(truth, "DHF1K"), SaliencyScores())


def test_hidden_and_foreign_files_are_no_frames(folders):
    """A file manager's leftovers, or a text beside the maps, would stop every evaluation."""
    predictions, truth = folders
    (predictions / ".DS_Store").write_bytes(b"x")
    (predictions / "10" / "._9.png").write_bytes(b"x")
    (predictions / "10" / "notes.txt").write_text("of 2025")
    (truth / "readme 9.md").write_text("")
    assert evaluate_folders(predictions, truth, SaliencyScores())["frames"] == 7


def test_numbers_and_not_text_give_the_order(tmp_path):
    """Frame 10 between 1 and 2 pairs every later frame with another's truth."""
    for name in ("10.png", "9.png", "0008.png", "11.PNG"):
        (tmp_path / name).touch()
    assert list(frame_files(tmp_path, tmp_path, (".png",))) == [8, 9, 10, 11]
    assert sorted(["b10", "b9", "10", "9"], key=natural_key) == ["b9", "b10", "9", "10"]


def test_damaged_files_of_every_kind_are_data_errors(tmp_path):
    """One odd file among thousands ends the run with a traceback."""
    values = maps_of("a", 1)[0]
    write_image(tmp_path / "a.png", values)
    np.save(tmp_path / "a.npy", values)
    savemat(tmp_path / "a.mat", {"I": values}, do_compression=True)
    generator = np.random.default_rng(0)
    refused = []
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(content[: generator.integers(len(content) // 2, len(content))])
            for at in generator.integers(0, len(damaged), 3):
                damaged[at] = generator.integers(256)
            path.write_bytes(damaged)
            try:
                assert read_map(path).ndim == 2
            except DataError as error:
                refused.append(str(error))
    assert len(refused) > 100
    assert not any(str(tmp_path) in message for message in refused)


@pytest.mark.parametrize("number", ["u1", "i2", "i4", "f4", "f8", "u8", "?", ">f8"])
@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files_as_scipy_writes_them(tmp_path, number, compressed):
    """SciPy's own reader ends the process on a damaged file; another must not turn maps or lose other variables."""
    values = np.random.default_rng(0).integers(0, 2, (9, 16)).astype(number)
    others = {"text": "of 2025", "cells": np.array([{"a": 1}, "b"], object), "I2": values.T, "z": np.ones((1, 1))}
    savemat(tmp_path / "a.mat", {**others, "I": values}, do_compression=compressed)
    assert np.array_equal(read_map(tmp_path / "a.mat"), values)
    for odd in (values.astype(complex) + 1j, csc_matrix(values.astype(float)), np.ones((2, 3, 4)), "text", {"a": 1}):
        savemat(tmp_path / "a.mat", {"I": odd}, do_compression=compressed)
        with pytest.raises(DataError, match="expected a full matrix of real numbers"):
            read_map(tmp_path / "a.mat")


def test_the_command(folders, tmp_path, capsys):
    """The table and the file are what others read; JSON has no NaN."""
    predictions, truth = map(str, folders)
    out = tmp_path / "scores.json"
    np.save(tmp_path / "prior.npy", np.ones((3, 4)))
    words = [
        "--videos",
        "10",
        "--shuffled_pool",
        "none",
        "--baseline",
        str(tmp_path / "prior.npy"),
        "--json",
        str(out),
    ]
    assert cli.main(["saliency", "evaluate", predictions, truth, *words]) == 0
    shown = capsys.readouterr().out
    written = json.loads(out.read_text())
    assert written["settings"]["layout"] == "dhf1k"
    assert written["frame_mean"]["auc_shuffled"] is None
    assert written["frame_mean"]["ig"] is not None
    assert f"{written['frame_mean']['cc']:.4f}" in shown
    for part in ("AUC-J", "sAUC", "mean over frames", "mean over videos", "frames left out", "protocol raw"):
        assert part in shown
    assert list(written["per_video"]) == ["10"]
    assert cli.main(["saliency", "evaluate", predictions, truth, "--protocol", "dhf1k"]) == 0
    shown = capsys.readouterr().out
    assert "[b]1" in shown
    assert "protocol dhf1k" in shown
    assert cli.main(["saliency", "evaluate", predictions, truth, "--metrics", "ccc"]) == 2
    assert "got ccc" in capsys.readouterr().err
    assert cli.main(["saliency", "evaluate", predictions, truth, "--json", str(tmp_path / "no" / "a.json")]) == 2
    assert cli.main(["saliency", "evaluate", predictions, truth, "--baseline", str(tmp_path / "b.npy")]) == 2
    assert "b.npy: cannot be decoded" in capsys.readouterr().err


def test_help_loads_no_torch():
    """Help that takes seconds is not asked for twice."""
    script = (
        "import sys; from hf_mutual_kd.cli import main as cli\n"
        "try: cli.main(['saliency', 'evaluate', '--help'])\n"
        "finally: assert not {'torch', 'numpy', 'datasets'} & set(sys.modules)"
    )
    root = Path(__file__).parents[3]
    before = children_cpu_s()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, env={**os.environ})
    assert children_cpu_s() - before < 1
    assert (done.returncode, "--shuffled_pool" in done.stdout) == (0, True), done.stderr
