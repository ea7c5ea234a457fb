"""Splits: which rows learn, select and are reported, and what is recorded of them."""

import json

import pytest
from data_sets import load, pixels, png, save, table
from datasets import Dataset, Features
from datasets import Image as ImageFeature

from hf_mutual_kd import ConfigError, DataError, LabelError
from hf_mutual_kd.data import fingerprint as fingerprint_module
from hf_mutual_kd.data.masks import read_mask
from hf_mutual_kd.data.splits import check_masks


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Parquet files are prepared in a cache of their own, not in the user's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_validation_is_halved_without_a_test_split(tmp_path):
    """A model selected on the rows that are reported looks better than it is."""
    path = save(tmp_path / "d", train=table(4), validation=table(9, 4))
    splits = load(path, seed=3)
    one, other = pixels(splits.validation), pixels(splits.test)
    assert (len(one), len(other)) == (5, 4)
    assert sorted(one + other) == list(range(4, 13))
    assert splits.facts["splits"]["test"] == "the other half of validation (seed 3)"
    assert pixels(load(path, seed=3).test) == other
    assert pixels(load(path, seed=4).test) != other


def test_parts_of_train_are_disjoint(tmp_path):
    """A tenth each; the three parts together are train, no row twice."""
    splits = load(save(tmp_path / "d", train=table(30)))
    parts = [pixels(split) for split in (splits.train, splits.validation, splits.test)]
    assert [len(part) for part in parts] == [24, 3, 3]
    assert sorted(sum(parts, [])) == list(range(30))
    splits = load(save(tmp_path / "e", train=table(30), test=table(5, 30)))
    assert splits.facts["rows"] == {"train": 27, "validation": 3, "test": 5}
    assert splits.facts["splits"]["validation"] == "a tenth of train (seed 0)"


def test_parts_are_drawn_from_the_rows_that_have_a_label(tmp_path):
    """One in four rows has a label: a tenth of all rows would hold some that can measure nothing."""
    labels = [row % 2 if row % 4 == 0 else -1 for row in range(80)]
    splits = load(save(tmp_path / "d", train=table(80, label=labels)))
    assert splits.facts["rows"] == {"train": 76, "validation": 2, "test": 2}
    assert splits.facts["labelled"] == {"train": 16, "validation": 2, "test": 2}
    assert sorted(pixels(splits.train) + pixels(splits.validation) + pixels(splits.test)) == list(range(80))


def test_stream_is_halved_by_content(tmp_path):
    """Both halves of a stream must be the same in every epoch, order and process, and share no row."""
    path = save(tmp_path / "d", train=table(4), validation=table(40, 4))
    splits = load(path, streaming=True)
    selecting, reported = pixels(splits.validation), pixels(splits.test)
    assert sorted(selecting + reported) == list(range(4, 44))
    assert min(len(selecting), len(reported)) > 8
    assert sorted(pixels(splits.test.shuffle(seed=1))) == reported
    assert splits.facts["splits"]["test"] == "the other half of validation (by a hash of each image)"
    assert splits.facts["rows"] is None
    assert len(pixels(load(path, streaming=True, max_train_samples=2).train)) == 2


def test_unlabelled_test_split_counts_as_none(tmp_path):
    """ImageNet's test split has only -1: it can report nothing, so validation is halved."""
    parts = {"train": table(4), "validation": table(6, 4)}
    for number, test in enumerate((table(3, 10, label=[-1] * 3), table(3, 10).remove_columns("label"))):
        path = save(tmp_path / f"d{number}", **parts, test=test)
        for streaming in (False, True):
            splits = load(path, streaming=streaming)
            assert splits.facts["splits"]["test"].startswith("the other half of validation")
        with pytest.raises((LabelError, DataError), match="no row of test|no column label"):
            load(path, test_split="test")


def test_samples_are_drawn_from_all_classes(tmp_path):
    """The first rows of a sorted data set are all of one class."""
    data = table(100, label=[0] * 50 + [1] * 50)
    splits = load(save(tmp_path / "d", train=data, validation=data, test=data), max_train_samples=20)
    assert set(splits.train["label"][:]) == {0, 1}
    assert len(splits.train) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_split": "trian"}, r"--train_split trian: d has no such split, only: train, test \(nearest: train\)"),
        ({"validation_split": "dev"}, "--validation_split dev: d has no such split, only: train, test"),
        ({"test_split": "train"}, "--test_split train: it is the train split already"),
        ({"validation_split": "test", "test_split": "test"}, "it is the validation split already"),
        ({"streaming": True}, r"no validation split.*give --validation_split test \(it is then halved\)"),
        ({"max_train_samples": 0}, "--max_train_samples must be 1 or more, got 0"),
        ({"max_eval_samples": -1}, "--max_eval_samples must be 1 or more, got -1"),
        ({"input_column": "img"}, r"no column img, only: image \(Image\), label \(ClassLabel\).*--input_column"),
        ({"label_column": "labels"}, r"no column labels, only: .* \(nearest: label\); choose with --label_column"),
        ({"input_column": "label"}, "--input_column and --label_column are both label"),
        (
            {"input_column": "label", "label_column": "image"},
            "column label of split train holds ClassLabel, no images",
        ),
    ],
)
def test_splits_and_columns_that_do_not_fit(tmp_path, options, message):
    """Each message lists what there is and names the option to change."""
    path = save(tmp_path / "d", train=table(10), test=table(4))
    with pytest.raises(DataError, match=message):
        load(path, **options)


def test_empty_splits(tmp_path):
    """An empty split would end in a division by zero after the training."""
    with pytest.raises(DataError, match="split validation is empty"):
        load(save(tmp_path / "a", train=table(4), validation=table(0), test=table(2)))
    with pytest.raises(DataError, match=r"test is empty \(the other half of validation"):
        load(save(tmp_path / "b", train=table(4), validation=table(1)))
    with pytest.raises(DataError, match="is empty"):
        load(save(tmp_path / "c", train=table(1)))
    with pytest.raises(DataError, match="split test is empty"):
        load(save(tmp_path / "d", train=table(9), test=table(0)))
    table(0).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(DataError, match="split train is empty"):
        load(tmp_path / "train.parquet")


def test_fingerprint_is_that_of_the_content(tmp_path, monkeypatch):
    """Two runs are comparable when they saw equal data, wherever it lay and however it was stored."""
    path = save(tmp_path / "a", train=table(6), validation=table(4, 6), test=table(3, 10))
    known = load(path).facts["fingerprint"]
    (tmp_path / "p").mkdir()
    for name, split in (("train", table(6)), ("validation", table(4, 6)), ("test", table(3, 10))):
        split.to_parquet(str(tmp_path / "p" / f"{name}.parquet"))
    assert load(tmp_path / "p").facts["fingerprint"] == known
    assert load(path).facts["fingerprint_of"] == "all rows"
    for number, changed in enumerate((table(6, 1), table(6, label=[1] * 6), table(5))):
        other = save(tmp_path / f"c{number}", train=changed, validation=table(4, 6), test=table(3, 10))
        assert load(other).facts["fingerprint"] != known
    monkeypatch.setattr(fingerprint_module, "HASH_ALL_UP_TO", 4)
    monkeypatch.setattr(fingerprint_module, "HASH_SAMPLE", 3)
    sampled = load(path).facts
    assert sampled["fingerprint"] != known
    assert sampled["fingerprint"] == load(path).facts["fingerprint"]
    assert sampled["fingerprint_of"] == "all labels, and 3 images of each split above 4"


def test_facts_hold_no_local_path(tmp_path):
    """Facts are pushed with the card; a path would tell the user's name."""
    path = save(tmp_path / "d", train=table(20))
    assert str(tmp_path) not in json.dumps(load(path).facts)


def scenes(count: int, first: int = 0, **columns) -> Dataset:
    """Images of one grey value, masks of one class: that of the row."""
    values = range(first, first + count)
    cells = {key: [{"bytes": png(value), "path": None} for value in values] for key in ("image", "label")}
    features = Features({"image": ImageFeature(), "label": ImageFeature()})
    return Dataset.from_dict({**cells, **columns}, features=features)


def masks_of(split) -> list[int | None]:
    """The one class of each row's mask."""
    masks = [read_mask(row) for row in split]
    return [None if mask is None else int(mask[0, 0]) for mask in masks]


@pytest.mark.parametrize("streaming", [False, True])
def test_masks_stay_with_their_images(tmp_path, streaming):
    """A mask decoded as an image is RGB; one that is converted with its palette has other classes."""
    path = save(tmp_path / "d", train=scenes(6), validation=scenes(4, 6), test=scenes(3, 10))
    splits = load(path, target="mask", streaming=streaming)
    for split, wanted in ((splits.train, range(6)), (splits.validation, range(6, 10)), (splits.test, range(10, 13))):
        assert pixels(split) == masks_of(split) == list(wanted)
    assert splits.label_names is None
    assert splits.facts["labelled"] == (None if streaming else {"train": 6, "validation": 4, "test": 3})


def test_reduced_masks_say_so_themselves(tmp_path):
    """Whoever reads a row reduces its mask once, and nobody needs to be told."""
    path = save(tmp_path / "d", train=scenes(3), validation=scenes(2, 3), test=scenes(2, 5))
    for streaming in (False, True):
        splits = load(path, target="mask", reduce_labels=True, streaming=streaming)
        assert masks_of(splits.train) == [None, 0, 1]  # The first was 0 alone: all of it is ignored.
        assert masks_of(splits.test) == [4, 5]
    for streaming in (False, True):
        known = load(path, target="mask", streaming=streaming).facts["fingerprint"]
        reduced = load(path, target="mask", streaming=streaming, reduce_labels=True)
        assert reduced.facts["fingerprint"] != known
    with pytest.raises(ConfigError, match="reduce_labels is an option of the task: make_task"):
        load(save(tmp_path / "e", train=table(9)), reduce_labels=True)


def test_rows_without_a_mask(tmp_path):
    """They take part in transfer, are not counted as labelled, and an evaluation split needs one mask at least."""
    cell = {"bytes": png(3), "path": None}
    some = scenes(3, label=[cell, None, None])
    none = scenes(2, label=[None, None])
    bare = scenes(2).remove_columns("label")
    splits = load(save(tmp_path / "a", train=some, validation=scenes(2), test=scenes(2, 2)), target="mask")
    assert masks_of(splits.train) == [3, None, None]
    assert splits.facts["labelled"]["train"] == 1
    for number, test in enumerate((none, bare)):
        path = save(tmp_path / f"b{number}", train=some, validation=scenes(4), test=test)
        for streaming in (False, True):
            splits = load(path, target="mask", streaming=streaming)
            assert splits.facts["splits"]["test"].startswith("the other half of validation")
    path = save(tmp_path / "c", train=scenes(4), validation=none, test=scenes(2))
    with pytest.raises(LabelError, match="no row of validation .* has a label, so it can measure nothing"):
        load(path, target="mask")
    assert load(path, target="mask", labels=False).facts["labelled"]["validation"] == 0


def test_the_fingerprint_covers_masks(tmp_path, monkeypatch):
    """Two runs on equal images with other masks did not learn the same."""
    parts = {"validation": scenes(4, 6), "test": scenes(3, 10)}
    known = load(save(tmp_path / "a", train=scenes(6), **parts), target="mask").facts
    other = scenes(6, label=scenes(6, 1)["label"])
    changed = save(tmp_path / "b", train=other, **parts)
    assert load(changed, target="mask").facts["fingerprint"] != known["fingerprint"]
    assert load(tmp_path / "a", target="mask").facts["fingerprint"] == known["fingerprint"]
    monkeypatch.setattr(fingerprint_module, "HASH_ALL_UP_TO", 4)
    monkeypatch.setattr(fingerprint_module, "HASH_SAMPLE", 3)
    covers = "all labels, and 3 images and masks of each split above 4"
    assert load(tmp_path / "a", target="mask").facts["fingerprint_of"] == covers


def test_masks_are_looked_at_before_training(tmp_path, monkeypatch):
    """A mask of another image, or a class that the peers lack, must not be found after hours."""
    cells = [{"bytes": png(value), "path": None} for value in range(4)]
    good = {"validation": scenes(2), "test": scenes(2)}
    splits = load(save(tmp_path / "a", train=scenes(4), **good), target="mask")
    assert check_masks(splits.train, "train", 4)[1:] == (0, "all")
    assert check_masks(splits.train, "train", 4, limit=2)[2] == "2 of 4 before training, the others in their batches"
    with pytest.raises(LabelError, match="train row 3: the mask holds 3 at 16 of 16 pixels; classes are 0 to 2"):
        check_masks(splits.train, "train", 3)
    cells[2] = {"bytes": png(2, (4, 5)), "path": None}
    splits = load(save(tmp_path / "b", train=scenes(4, label=cells), **good), target="mask")
    with pytest.raises(LabelError, match=r"train row 2: the mask is 5 x 4 pixels .* its image 4 x 4"):
        check_masks(splits.train, "train", None, "skip")
    cells[2] = {"bytes": b"no image", "path": None}
    splits = load(save(tmp_path / "c", train=scenes(4, label=cells), **good), target="mask")
    with pytest.raises(DataError, match="train row 2: its mask: cannot be decoded.*--on_bad_row skip"):
        check_masks(splits.train, "train", 4)
    kept, left_out, _ = check_masks(splits.train, "train", 4, "skip")
    assert (masks_of(kept), left_out) == ([0, 1, 3], 1)
    streamed = load(tmp_path / "c", target="mask", streaming=True).train
    assert check_masks(streamed, "train", 4) == (streamed, 0, "none before training, each in its batch")
