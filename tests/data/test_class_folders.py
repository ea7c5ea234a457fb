"""Folders of images as people have them: splits in any spelling, wrappers, links, and what archives leave behind."""

import os

import pytest
from data_sets import load, png

from hf_mutual_kd import DataError, RecipeOptions
from hf_mutual_kd.data.audio import SOUNDS
from hf_mutual_kd.data.class_folders import ClassFolders, role_of
from hf_mutual_kd.data.inputs import IMAGES
from hf_mutual_kd.data.sources import open_source
from hf_mutual_kd.data.splits import found_in_words
from hf_mutual_kd.tasks.video_classification.film import FILMS

NOBODY_ASKED = {"train": "train", "validation": None, "test": None}


def images(root, *folders, count=1):
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / folder / f"{number}.png").write_bytes(png(number))
    return root


def splits_of(root):
    return {
        name: path.relative_to(root).as_posix()
        for name, path in ClassFolders(IMAGES).splits(root, NOBODY_ASKED).items()
    }


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("Train", "train"),
        ("TRAINING", "train"),
        ("val", "validation"),
        ("Valid", "validation"),
        ("eval", "validation"),
        ("Testing", "test"),
        ("test", "test"),
        ("tests", None),
        ("cat", None),
    ],
)
def test_names_of_splits(name, role):
    """`Train` beside `Test` was two classes."""
    assert role_of(name) == role


@pytest.mark.parametrize("names", [("Train", "Test"), ("Training", "Testing"), ("TRAIN", "val"), ("train", "eval")])
def test_splits_in_any_spelling(tmp_path, names):
    """A run that tells train from test instead of cats from dogs reaches a fine accuracy."""
    root = images(tmp_path / "f", *(f"{name}/{label}" for name in names for label in ("cat", "dog")), count=4)
    splits = load(root)
    assert splits.label_names == ["cat", "dog"]
    role = role_of(names[1])
    assert names[0] in splits.facts["splits"]["train"]
    assert names[1] in splits.facts["splits"][role]


def test_what_archives_and_systems_leave_is_no_class(tmp_path):
    """`__MACOSX` is in every archive that a Mac made, with a hidden file beside each image."""
    root = images(tmp_path / "f", "cat", "dog", "__MACOSX/cat", ".hidden", "cat/.thumbs", "@eaDir/dog", count=10)
    (root / "cat" / "._0.png").write_bytes(b"no image")
    splits = load(root)
    assert splits.label_names == ["cat", "dog"]
    assert sum(splits.facts["rows"].values()) == 20


@pytest.mark.parametrize(("inputs", "ending"), [(SOUNDS, ".wav"), (FILMS, ".webm")], ids=["sounds", "videos"])
def test_class_folders_hold_what_the_task_takes(tmp_path, inputs, ending):
    """Sounds in class folders, their commonest form, asked for a decoder that is not needed."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / f"0{ending}").write_bytes(b"not looked at here")
            (tmp_path / split / name / "cover.png").write_bytes(png(0))
    source = open_source(RecipeOptions(dataset=str(tmp_path)), inputs)
    assert {split: len(rows) for split, rows in source.splits.items()} == {"train": 2, "test": 2}
    row = source.splits["train"][1]
    assert row == {inputs.column: {"bytes": None, "path": str(tmp_path / f"train/dog/0{ending}")}, "label": 1}


def test_links_are_followed_once(tmp_path):
    """A class folder that is a link vanished; a link to a folder above never ends."""
    stored = images(tmp_path / "elsewhere", "cat", "dog", count=10)
    root = tmp_path / "f"
    root.mkdir()
    for name in ("cat", "dog"):
        (root / name).symlink_to(stored / name)
    (stored / "cat" / "up").symlink_to(stored / "cat")
    os.symlink(stored / "dog" / "0.png", stored / "cat" / "again.png")
    splits = load(root)
    assert splits.label_names == ["cat", "dog"]
    assert sum(splits.facts["rows"].values()) == 21


def test_wrappers_are_taken_off(tmp_path):
    """An archive unpacks into a folder of its own name, which became the only class."""
    classes = images(tmp_path / "a", "animals/red", "animals/green")
    assert splits_of(classes) == {"train": "animals"}
    parts = images(tmp_path / "b", "data/animals/train/red", "data/animals/train/green", "data/animals/test/red")
    assert splits_of(parts) == {"train": "data/animals/train", "test": "data/animals/test"}
    inner = images(tmp_path / "c", "train/animals/red", "train/animals/green", "test/animals/red")
    assert splits_of(inner) == {"train": "train/animals", "test": "test/animals"}
    assert splits_of(images(tmp_path / "d", "cat")) == {"train": "."}
    assert ClassFolders(IMAGES).read(classes, NOBODY_ASKED)[0]["train"].features["label"].names == ["green", "red"]


def test_what_can_be_read_in_two_ways_is_refused(tmp_path):
    """Rows that are silently of no split are never seen again."""
    extra = images(tmp_path / "a", "train/cat", "train/dog", "test/cat", "more/cat", count=10)
    with pytest.raises(DataError, match="beside the splits test, train there is the folder more with images"):
        load(extra)
    assert load(extra, test_split="more").facts["splits"]["test"] == "more"
    twice = images(tmp_path / "b", "train/cat", "val/cat", "valid/cat", count=10)
    with pytest.raises(DataError, match="the folders val, valid are all validation; choose one with --validation_sp"):
        load(twice)
    assert load(twice, validation_split="val").facts["splits"]["train"] == "train"
    classes = images(tmp_path / "c", "train", "car", "boat", count=10)
    assert load(classes).label_names == ["boat", "car", "train"]


def test_parquet_files_in_any_spelling(tmp_path):
    """The same names are splits of files, too."""
    from data_sets import write_parquet

    for name in ("Train", "Validation", "Test"):
        write_parquet(tmp_path / f"{name}.parquet", 4)
    assert load(tmp_path).facts["splits"] == {"train": "Train", "validation": "Validation", "test": "Test"}


def test_what_was_found_is_said(tmp_path):
    """A wrapper that became the only class shows in one line, before the training and not after it."""
    splits = load(images(tmp_path / "pets", "Train/cat", "Train/dog", "val/cat", "Test/cat", "Test/dog", count=3))
    assert found_in_words(splits) == (
        "Data: pets: train 6 (Train); validation 3 (val); test 6 (Test); 2 classes: cat, dog"
    )
    splits = load(tmp_path / "pets", labels_per_class=1)
    assert found_in_words(splits).startswith("Data: pets: train 6, 2 with a label (Train);")
