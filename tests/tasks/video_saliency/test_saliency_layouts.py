"""Data sets with gaze: every frame gets its own truth, what is missing is named, and peers see the same moment."""

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features, List, Value, Video
from saliency_files import H, W, fixated, gaze_folder, mp4, numbers_of, picture, save_grey

from hf_mutual_kd import ClipPolicy, ClipRows, DataError, RecipeOptions, fixation_density, load_clip, load_videos
from hf_mutual_kd.data.video import open_frames
from hf_mutual_kd.tasks.video_saliency.data.clip_rows import ClipView, unit_parts

EMBEDDED = Path(__file__).parents[3] / "recipes" / "embedded_saliency" / "synthetic_gaze"


def load(dataset, on_bad_row="raise", **options):
    return load_videos(RecipeOptions(dataset=str(dataset), **options), seed=0, on_bad_row=on_bad_row)


def dhf1k_folder(root: Path, **kwargs) -> Path:
    for number in (1, 2, 3, 601):
        gaze_folder(root / f"{number:04d}", **kwargs)
    return root


def check_truth(video, first: int = 1) -> None:
    """The fixation of frame `number` lies in column `number`, in points and in the density."""
    for frame in range(video.length):
        assert video.truth.points(frame).tolist() == [[1, frame + first]]
        density = video.truth.density(frame)
        assert density.dtype == np.float32
        assert density.sum() == pytest.approx(1)
        assert np.unravel_index(density.argmax(), density.shape) == (1, frame + first)


# Folders


@pytest.mark.parametrize("matlab", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_dhf1k(tmp_path, matlab, nested):
    """Both places of fixations, and both ways to unpack: the truth of a frame is the file of its number."""
    if nested:
        dhf1k_folder(tmp_path / "all", matlab=matlab)
        (tmp_path / "train").mkdir()
        (tmp_path / "val").mkdir()
        for number, part in ((1, "train"), (2, "train"), (3, "train"), (601, "val")):
            (tmp_path / "all" / f"{number:04d}").rename(tmp_path / part / f"{number:04d}")
    else:
        dhf1k_folder(tmp_path, matlab=matlab)
    (tmp_path / "0701" / "images").mkdir(parents=True)
    splits = load(f"dhf1k:{tmp_path}")
    assert [video.name for video in splits.test] == ["0601"]
    assert sorted(video.name for video in splits.train + splits.validation) == ["0001", "0002", "0003"]
    assert len(splits.validation) == 1
    for video in splits.train + splits.validation + splits.test:
        check_truth(video)
        with video.open() as reader:
            assert numbers_of(reader) == [1, 2, 3, 4, 5]
    assert splits.facts["videos"] == {"train": 2, "validation": 1, "test": 1}
    assert "/" not in json.dumps(splits.facts)


def test_dhf1k_as_it_is_handed_out(tmp_path):
    """`video/001.AVI` beside `annotation/0001`: frames are counted in the file, not guessed."""
    for number in (1, 2, 601):
        (tmp_path / "video").mkdir(exist_ok=True)
        (tmp_path / "video" / f"{number:03d}.AVI").write_bytes(mp4(range(1, 6), codec="mpeg4", kind="avi"))
        gaze_folder(tmp_path / "annotation" / f"{number:04d}")
    splits = load(f"dhf1k:{tmp_path}")
    check_truth(splits.test[0])
    assert numbers_of(splits.test[0].open()) == [1, 2, 3, 4, 5]
    (tmp_path / "video" / "002.AVI").write_bytes(mp4(range(1, 7), codec="mpeg4", kind="avi"))
    with pytest.raises(DataError, match=r"0002/maps: no map of frame 6 \(6 frames, 5 files\)"):
        load(f"dhf1k:{tmp_path}")
    (tmp_path / "video" / "002.AVI").unlink()
    with pytest.raises(DataError, match=r"there is no 002.AVI for .*0002"):
        load(f"dhf1k:{tmp_path}")


def test_frames_are_matched_by_number_not_by_place(tmp_path):
    """Sorted as text, frame 10 gets the map of frame 2 and nothing fails."""
    for number in (1, 2, 601):
        gaze_folder(tmp_path / f"{number:04d}", frames=range(1, 13), name="img_{}")
    video = load(f"dhf1k:{tmp_path}").test[0]
    check_truth(video)
    assert numbers_of(video.open()) == list(range(1, 13))


def test_hollywood2_shots_are_videos_with_cuts(tmp_path):
    """The authors' loader joins shots and lets clips cross the cuts; ours must not, also with more than nine shots."""
    for part, film in (("training", "filmA"), ("training", "filmB"), ("testing", "filmC")):
        for shot in (1, 2, 10):
            first = {1: 0, 2: 5, 10: 8}[shot]
            frames = range(first, {1: 5, 2: 8, 10: 12}[shot])
            gaze_folder(tmp_path / part / f"{film}_{shot}", frames, name=f"{film}_{shot}_" + "{:05d}")
    splits = load(f"hollywood2:{tmp_path}")
    (video,) = splits.test
    assert (video.name, video.length, video.cuts) == ("filmC", 12, (5, 8))
    check_truth(video, first=0)
    assert sorted(other.name for other in splits.train + splits.validation) == ["filmA", "filmB"]
    for frame in range(12):
        shot = video.shot(frame)
        row = {"source": video, "frame": frame, "sample_id": frame}
        clip = load_clip(row, {"past": ClipPolicy(6), "both": ClipPolicy(4, 2, "center")})
        for frames in clip.frames.values():
            assert set(numbers_of(frames)) <= set(shot)
        assert numbers_of(clip.frames["past"])[-1] == frame


def test_ucf_clips_stay_apart(tmp_path):
    """UCF-Sports' clips of one action share a name before `_`; they are no shots of one film."""
    for part, names in (("training", ("Diving_001", "Diving_002")), ("testing", ("Golf_001",))):
        for name in names:
            gaze_folder(tmp_path / part / name, name=name + "_{:03d}", matlab=True)
    splits = load(f"ucf:{tmp_path}")
    assert sorted(video.name for video in splits.train + splits.validation) == ["Diving_001", "Diving_002"]
    check_truth(splits.test[0])
    assert splits.test[0].cuts == ()


def break_map(root):
    (root / "0002" / "maps" / "0003.png").unlink()


def break_fixations(root):
    for file in (root / "0002" / "fixation").iterdir():
        file.unlink()


def break_image(root):
    (root / "0002" / "images" / "0005.png").write_bytes(b"no image")


def add_map(root):
    save_grey(root / "0002" / "maps" / "0006.png", fixated(6))


def add_twin(root):
    save_grey(root / "0002" / "images" / "3.png", picture(3))


def add_nameless(root):
    save_grey(root / "0002" / "maps" / "mean.png", fixated(6))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_map, r"0002/maps: no map of frame 3 \(5 frames, 4 files\)"),
        (break_fixations, r"0002: there are neither images in fixation/ nor images or .mat files"),
        (break_image, r"0002/images/0005.png: cannot be decoded"),
        (add_map, r"maps/0006.png: the video has no such frame \(5 frames, 6 files\)"),
        (add_twin, r"frame 3 is also "),
        (add_nameless, r"mean.png: expected a frame number in the name"),
    ],
)
def test_bad_videos_are_named_or_skipped(tmp_path, damage, message):
    """One missing map shifts all later ones; it must be found before the training, or the video be left out."""
    damage(dhf1k_folder(tmp_path))
    with pytest.raises(DataError, match=message + ".*--on_bad_row skip"):
        load(f"dhf1k:{tmp_path}")
    splits = load(f"dhf1k:{tmp_path}", on_bad_row="skip")
    assert sorted(video.name for video in splits.train + splits.validation) == ["0001", "0003"]
    assert len(splits.skipped) == splits.facts["skipped"] == 1
    assert "0002" in splits.skipped[0]


def test_truth_that_cannot_be_read(tmp_path):
    """Damage that shows only while training must name its file, too."""
    root = dhf1k_folder(tmp_path, matlab=True)
    folder = root / "0601"
    video = load(f"dhf1k:{root}").test[0]
    (folder / "maps" / "0001.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="0601/maps/0001.png: cannot be decoded"):
        video.truth.density(0)
    (folder / "fixation" / "maps" / "0002.mat").write_bytes(b"no matlab file at all" * 20)
    with pytest.raises(DataError, match="0002.mat: no Matlab file"):
        video.truth.points(1)
    save_grey(folder / "maps" / "0003.png", np.zeros((5, 6), np.uint8))
    with pytest.raises(DataError, match=r"0003.mat: \(48, 64\) pixels, but the map 0003.png has \(5, 6\)"):
        video.truth.points(2)
    assert not video.truth.density(2).any()
    (folder / "maps" / "0004.png").unlink()
    with pytest.raises(DataError, match="0004.png: cannot be decoded: .*No such file"):
        video.truth.density(3)


@pytest.mark.parametrize("dataset", ["dhf1k:/nowhere", "ucf:"])
def test_no_such_folder(dataset):
    """A mistyped path must not be looked for on the Hub."""
    with pytest.raises(DataError, match="there is no folder|no videos for train"):
        load(dataset)


def avimos_folder(root: Path) -> Path:
    names = {"train": ["a", "b.mp4"], "public_test": ["c"], "private_test": ["d"]}
    root.mkdir(exist_ok=True)
    (root / "TrainTestSplit.json").write_text(json.dumps(names))
    (root / "Videos").mkdir()
    for stem, part in (("a", "Train"), ("b", "Train"), ("c", "Test"), ("d", "Test")):
        (root / "Videos" / f"{stem}.mp4").write_bytes(mp4(range(1, 6)))
        (root / f"Saliency{part}" / part).mkdir(parents=True, exist_ok=True)
        (root / f"Saliency{part}" / part / f"{stem}.mp4").write_bytes(mp4([20] * 5, codec="mpeg4"))
        fixations = root / f"Fixations{part}" / part / stem
        fixations.mkdir(parents=True)
        (fixations / "fixations.json").write_text(json.dumps([[[1, number], [1, number]] for number in range(1, 6)]))
    return root


def test_avimos(tmp_path):
    """Splits by the list, fixations as row and column with repeats, maps from the grey video."""
    root = avimos_folder(tmp_path)
    splits = load(f"avimos:{root}")
    assert [video.name for video in splits.test] == ["c", "d"]
    assert sorted(video.name for video in splits.train + splits.validation) == ["a", "b"]
    video = splits.test[0]
    assert video.truth.points(4).tolist() == [[1, 5], [1, 5]]
    density = video.truth.density(4)
    assert density.shape == (H, W)
    assert density[: H // 2, : W // 2].sum() < 0.05
    assert density.sum() == pytest.approx(1)
    (root / "Videos" / "b.mp4").write_bytes(mp4(range(1, 7)))
    with pytest.raises(DataError, match=r"b.mp4: is of 5 frames, .*Videos/b.mp4 has 6"):
        load(f"avimos:{root}")
    (root / "Videos" / "b.mp4").unlink()
    with pytest.raises(DataError, match="AViMoS video b: there is no video of it"):
        load(f"avimos:{root}")
    (root / "TrainTestSplit.json").write_text("[]")
    with pytest.raises(DataError, match=r"TrainTestSplit.json: cannot be read"):
        load(f"avimos:{root}")


# Rows

FEATURES = Features({"video": Video(decode=False), "fixations": List(List(List(Value("float32"))))})


def row(number: int = 0, **changes) -> dict:
    """A video of five frames whose fixation goes from column 1 to 5."""
    points = [[[1.0, float(frame)]] for frame in range(1, 6)]
    return {"video": {"bytes": mp4(range(1, 6)), "path": None}, "fixations": points, **changes}


def save_rows(folder: Path, features: Features | None = None, **splits) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        # Not by `Dataset.to_parquet`, which puts the files that paths name into the table.
        table = pa.Table.from_pylist(rows, schema=(features or FEATURES).arrow_schema)
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


def test_rows(tmp_path):
    """Maps are made of the points; without a size and a sigma they are the video's and a 30th of its width."""
    save_rows(tmp_path, train=[row(), row()], test=[row()])
    splits = load(tmp_path)
    video = splits.test[0]
    check_truth(video)
    expected = fixation_density(np.array([[1, 3]]), (H, W), sigma=W / 30)
    assert np.allclose(video.truth.density(2), expected)
    assert numbers_of(video.open()) == [1, 2, 3, 4, 5]
    assert splits.facts["splits"]["validation"] == "a tenth of train (seed 0)"


def test_rows_say_size_sigma_and_cuts(tmp_path):
    """Fixations recorded on a larger screen must not be read as pixels of the video."""
    more = FEATURES | {
        "name": Value("string"),
        "size": List(Value("int32")),
        "sigma": Value("float32"),
        "cuts": List(Value("int32")),
    }
    facts = {"size": [480, 640], "sigma": 20.0, "cuts": [2]}
    rows = [row(name=name, **facts) for name in ("a", "b")]
    save_rows(tmp_path, Features(more), train=rows, test=[row(name="c", **facts)])
    video = load(tmp_path).test[0]
    assert video.truth.density(0).shape == (480, 640)
    assert (video.name, video.cuts, video.shot(1)) == ("c", (2,), range(2))
    for change, message in (
        ({"name": "../c"}, "the name '../c' is no file name"),
        ({"cuts": [9]}, "cuts must be ascending numbers of frames below 5"),
        ({"sigma": -1.0}, "size and sigma must be above 0"),
        ({"name": "a"}, "two videos are called 'a'"),
    ):
        save_rows(tmp_path, Features(more), test=[{**row(name="c", **facts), **change}])
        with pytest.raises(DataError, match=message):
            load(tmp_path)


def test_rows_that_are_bad(tmp_path):
    """A row without a video, of a wrong count or with broken fixations is named by split, row and name."""
    for change, message in (
        ({"video": {"bytes": b"no video", "path": "x.mp4"}}, r"test row 1 \(test-00001\): x.mp4: cannot be read"),
        ({"video": {"bytes": None, "path": None}}, "test row 1 .*neither bytes nor a path"),
        ({"fixations": [[[1.0, 2.0]]]}, "test row 1 .*5 frames, but fixations of 1"),
        ({"fixations": [[[1.0, 2.0, 3.0]]] * 5}, "test row 1 .*pairs of row and column"),
        ({"fixations": None}, "test row 1"),
    ):
        save_rows(tmp_path, train=[row(), row()], test=[row(), {**row(), **change}])
        with pytest.raises(DataError, match=message):
            load(tmp_path)
        splits = load(tmp_path, on_bad_row="skip")
        assert (len(splits.test), len(splits.skipped)) == (1, 1)
    save_rows(tmp_path, test=[{**row(), **change}])
    with pytest.raises(DataError, match=r"no videos for test \(1 bad ones were left out, the first: test row 0"):
        load(tmp_path, on_bad_row="skip")


def test_rows_may_not_name_files_elsewhere(tmp_path):
    """A data set from the net could otherwise have any of the user's files read."""
    (tmp_path / "secret.mp4").write_bytes(mp4(range(1, 6)))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "own.mp4").write_bytes(mp4(range(1, 6)))
    for path in ("../secret.mp4", str(tmp_path / "secret.mp4")):
        save_rows(folder, train=[row(), row()], test=[row(video={"bytes": None, "path": path})])
        with pytest.raises(DataError, match="lies outside the data set's folder"):
            load(folder)
    (folder / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    save_rows(folder, test=[row(video={"bytes": None, "path": "link.mp4"})])
    with pytest.raises(DataError, match="lies outside"):
        load(folder)
    save_rows(folder, test=[row(video={"bytes": None, "path": "own.mp4"})])
    assert numbers_of(load(folder).test[0].open()) == [1, 2, 3, 4, 5]


def test_columns_and_limits(tmp_path):
    """Images in place of videos, or a split that is not there, are told by name."""
    save_rows(tmp_path, train=[row() for _ in range(5)], test=[row(), row()])
    splits = load(tmp_path, max_train_samples=2, max_eval_samples=1)
    assert splits.facts["videos"] == {"train": 2, "validation": 1, "test": 1}
    with pytest.raises(DataError, match="--test_split nope"):
        load(tmp_path, test_split="nope")
    Dataset.from_dict({"image": [1, 2]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match="with the columns video and fixations, it has image"):
        load(tmp_path)


# Rows for training, and the shared view


@pytest.fixture
def videos(tmp_path):
    save_rows(tmp_path, train=[row(), row(), row()], test=[row()])
    return load(tmp_path).train


def test_training_rows(videos):
    """One frame of each video an epoch, another one in the next, and the same in every worker."""
    rows = ClipRows(videos, seed=1)
    drawn = []
    for epoch in range(12):
        rows.set_epoch(epoch)
        drawn.append([rows[index]["frame"] for index in range(len(rows))])
    assert len(rows) == len(videos) == 2
    assert {frame for frames in drawn for frame in frames} == set(range(5))
    copy = pickle.loads(pickle.dumps(ClipRows(videos, seed=1)))
    copy.set_epoch(11)
    assert [copy[index]["frame"] for index in range(2)] == drawn[-1]
    assert rows[-1]["sample_id"] == rows[1]["sample_id"]
    assert unit_parts(torch.tensor([rows[1]["sample_id"]])).tolist() == [[1, 0, drawn[-1][1]]]
    with pytest.raises(IndexError):
        rows[2]


def test_evaluation_rows(videos):
    """Every k-th frame of every video, each with a number of its own that training uses for it, too."""
    rows = ClipRows(videos, every=2)
    found = [rows[index] for index in range(len(rows))]
    assert [(row["video"], row["frame"]) for row in found] == [
        (video.name, frame) for video in videos for frame in (0, 2, 4)
    ]
    parts = unit_parts(torch.tensor([row["sample_id"] for row in found])).tolist()
    assert parts == [[place, 0, frame] for place in (0, 1) for frame in (0, 2, 4)]
    with pytest.raises(DataError, match="at least one video"):
        ClipRows([])


def test_workers_see_the_epoch(videos):
    """Persistent workers that keep the first epoch would train on one frame of each video for ever."""
    rows = ClipRows(videos, seed=1)
    loader = torch.utils.data.DataLoader(
        rows,
        batch_size=2,
        num_workers=1,
        persistent_workers=True,
        collate_fn=lambda batch: [r["frame"] for r in batch],
    )
    seen = []
    for epoch in range(4):
        rows.set_epoch(epoch)
        assert list(loader) == [[rows[0]["frame"], rows[1]["frame"]]]
        seen += list(loader)
    assert len({tuple(frames) for frames in seen}) > 1


def test_peers_see_the_same_moment(videos, monkeypatch):
    """Each peer its own frames, decoded once: a second decoding or view would let peers judge different pictures."""
    asked = []
    real = type(videos[0].open()).frames
    monkeypatch.setattr(type(videos[0].open()), "frames", lambda self, n: (asked.append(list(n)), real(self, n))[1])
    row = ClipRows(videos, every=1)[3]
    policies = {"a": ClipPolicy(4), "b": ClipPolicy(3, 2, "center"), "c": ClipPolicy(4), "d": lambda t, shot: [t]}
    clip = load_clip(row, policies)
    assert asked == [[0, 1, 2, 3, 4]]
    assert {peer: numbers_of(frames) for peer, frames in clip.frames.items()} == {
        "a": [1, 2, 3, 4],
        "b": [2, 4, 5],
        "c": [1, 2, 3, 4],
        "d": [4],
    }
    assert clip.frames["a"] is clip.frames["c"]
    assert clip.points.tolist() == [[1, 4]]
    view = ClipView(min_area=0.5, color_jitter=0.5, seed=3)
    for epoch in range(4):
        seen = load_clip(row, policies, view=view, epoch=epoch)
        assert torch.equal(seen.frames["a"][-1], seen.frames["b"][1])
        assert torch.equal(seen.frames["a"][-1], seen.frames["d"][0])
        again = load_clip(row, {"b": ClipPolicy(3, 2, "center")}, view=view, epoch=epoch)
        assert np.array_equal(again.density, seen.density)
        assert again.frames["b"].shape == seen.frames["b"].shape


def marked_clip(scale: int = 2):
    """Frames at twice the density's size with a white square at each fixation."""
    points = np.array([[6, 9], [20, 40]], np.float32)
    density = fixation_density(points, (32, 56), sigma=1.5)
    frames = torch.zeros(3, 32 * scale, 56 * scale, 3, dtype=torch.uint8)
    for r, c in points.astype(int):
        frames[:, scale * (r - 1) : scale * (r + 2), scale * (c - 1) : scale * (c + 2)] = 255
    return frames, density, points


@pytest.mark.parametrize("scale", [1, 2])
def test_view_moves_frames_and_truth_alike(scale):
    """A flip or crop of the frames alone teaches the mirror image of where people look."""
    view, cropped, flipped = ClipView(min_area=0.5, seed=0), 0, 0
    for sample in range(60):
        frames, density, points = view(*marked_clip(scale), sample, 0)
        height, width = density.shape
        cropped += height < 32
        assert density.sum() == pytest.approx(1, abs=1e-5)
        assert len(points) > 0
        for r, c in points.astype(int):
            y, x = int((r + 0.5) * frames.shape[1] / height), int((c + 0.5) * frames.shape[2] / width)
            assert (frames[:, y, x] == 255).all()
            assert density[r, c] > 0.3 * density.max()
        assert torch.equal(frames[0], frames[2])
        assert width / height == pytest.approx(56 / 32, rel=0.1)
        flipped += len(points) == 2 and points[0, 1] > points[1, 1]
    assert cropped > 40
    assert flipped > 5


def test_view_draws_by_sample_and_epoch_alone():
    """A view that drew from the global state would differ between processes, and disturb the run's own draws."""
    view = ClipView(color_jitter=0.4, seed=5)
    torch.manual_seed(1)
    first = view(*marked_clip(), 7, 2)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    again = view(*marked_clip(), 7, 2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    other = [view(*marked_clip(), sample, epoch)[0].shape for sample, epoch in ((7, 3), (8, 2), (9, 2))]
    assert any(shape != first[0].shape for shape in other)
    whole, density, points = ClipView(min_area=1.0, flip=False)(*marked_clip(), 7, 2)
    assert torch.equal(whole, marked_clip()[0])
    assert np.array_equal(points, marked_clip()[2])


def test_view_of_a_blank_frame():
    """Nobody looked: the density stays 0, without NaN."""
    frames, density, points = ClipView(seed=0)(
        marked_clip()[0], np.zeros((32, 56), np.float32), np.zeros((0, 2), np.float32), 3, 0
    )
    assert not density.any()
    assert points.shape == (0, 2)


# The embedded data


def test_embedded_data():
    """What ships must load offline, be small, and keep its test scenes apart."""
    assert sum(file.stat().st_size for file in EMBEDDED.iterdir()) < 8e6
    splits = load(EMBEDDED, max_train_samples=3, max_eval_samples=3)
    video = splits.test[0]
    assert 32 <= video.length <= 48
    assert video.truth.density(20).shape == (64, 112)
    assert 5 <= len(video.truth.points(20)) <= 15
    clip = load_clip(ClipRows(splits.test, every=8)[2], {"a": ClipPolicy(8)})
    assert clip.frames["a"].shape == (8, 64, 112, 3)
    tables = {split: pq.read_table(EMBEDDED / f"{split}.parquet") for split in ("train", "validation", "test")}
    assert {split: table.num_rows for split, table in tables.items()} == {"train": 120, "validation": 20, "test": 40}
    backgrounds = {
        split: {open_frames(video).frames([0]).tobytes() for video in table["video"].to_pylist()[:5]}
        for split, table in tables.items()
    }
    assert not backgrounds["train"] & backgrounds["test"]
