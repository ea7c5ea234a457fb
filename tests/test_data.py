"""Splits: which rows learn, select and are reported, and what is recorded of them."""

import json

import pytest
from data_sets import load, pixels, save, table

from hf_mutual_kd import fingerprint as fingerprint_module
from hf_mutual_kd.errors import DataError, LabelError


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
        ({"image_column": "img"}, r"no column img, only: image \(Image\), label \(ClassLabel\).*--image_column"),
        ({"label_column": "labels"}, r"no column labels, only: .* \(nearest: label\); choose with --label_column"),
        ({"image_column": "label"}, "--image_column and --label_column are both label"),
        (
            {"image_column": "label", "label_column": "image"},
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
