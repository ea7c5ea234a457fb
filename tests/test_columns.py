"""Columns: renamed, typed and checked; labels as numbers, -1 for none."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_sets import FEATURES, load, plain, rows, save, table
from datasets import ClassLabel, Features
from datasets import Image as ImageFeature

from hf_mutual_kd.data import decode_image
from hf_mutual_kd.errors import DataError, LabelError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Parquet files are prepared in a cache of their own, not in the user's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_columns_are_renamed_and_others_removed(tmp_path):
    """A second column called `image` must not win over the one that was asked for."""
    data = table(20).rename_columns({"image": "jpg", "label": "cls"}).add_column("image", ["x"] * 20)
    splits = load(save(tmp_path / "d", train=data), image_column="jpg", label_column="cls")
    assert splits.train.column_names == ["image", "label"]
    assert decode_image(splits.train[0]["image"]).mode == "RGB"


def test_stream_names_its_columns(tmp_path):
    """A misnamed column of a stream must not be found only in the first step."""
    path = save(tmp_path / "d", train=table(10), validation=table(4))
    with pytest.raises(DataError, match=r"no column img, only: image \(Image\)"):
        load(path, streaming=True, image_column="img")
    with pytest.raises(DataError, match="split validation is empty"):
        load(save(tmp_path / "e", train=table(10), validation=table(0)), streaming=True)


def test_missing_labels_are_minus_one(tmp_path):
    """null and -1 both say: this row takes part in transfer only."""
    data = plain([0, None, -1, 2])
    splits = load(save(tmp_path / "d", train=data, validation=data, test=data))
    assert splits.train["label"][:] == [0, -1, -1, 2]
    assert splits.facts["labelled"]["train"] == 2
    assert splits.label_names is None
    streamed = load(tmp_path / "d", streaming=True)
    assert [row["label"] for row in streamed.train] == [0, -1, -1, 2]


def test_text_labels_are_numbered_by_sorted_name(tmp_path):
    """Numbers that depend on the order of the rows would differ between the splits."""
    path = save(
        tmp_path / "d",
        train=plain(["dog", "cat", None], "string"),
        validation=plain(["dog"], "string"),
        test=plain(["ant"], "string"),
    )
    splits = load(path)
    assert splits.label_names == ["ant", "cat", "dog"]
    assert splits.train["label"][:] == [2, 1, -1]
    assert splits.test["label"][:] == [0]
    with pytest.raises(LabelError, match="holds text, and a stream does not say which classes"):
        load(path, streaming=True)


def test_text_is_mapped_by_the_names_of_another_split(tmp_path):
    """Names of ClassLabel decide; a text that is none of them is an error with its row."""
    path = save(tmp_path / "d", train=table(4), validation=plain(["dog", None], "string"), test=table(2))
    assert load(path).validation["label"][:] == [1, -1]
    path = save(tmp_path / "e", train=table(4), validation=plain(["dog", "dogs"], "string"), test=table(2))
    with pytest.raises(LabelError, match=r"validation row 1: 'dogs' is none of the label names \(nearest: dog\)"):
        load(path)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (plain([0, 1, -2]), "train row 2: label -2 is out of range: 0 or more, and -1 or null for no label"),
        (plain([0.0, 1.0], "float32"), "column label of split train holds float32; labels are whole numbers"),
        (plain([True, False], "bool"), "holds bool"),
        (plain(["a", "b"], "string"), "holds text in split train but int64 in validation"),
    ],
)
def test_labels_that_are_none(tmp_path, train, message):
    """A label outside the classes ends in an index error on the device, long after the start."""
    good = plain([0, 1])
    with pytest.raises(LabelError, match=message):
        load(save(tmp_path / "d", train=train, validation=good, test=good))


def test_label_beyond_the_names(tmp_path):
    """The message has row and value, for streams too (when the row is read)."""
    for name, labels in (("train", [0, 1, 7]), ("validation", [0, 1, 1]), ("test", [0, 1, 0])):
        # Feature types are written beside the numbers, so a file can hold numbers that have no name.
        columns = {"image": rows(3)["image"], "label": pa.array(labels, pa.int64())}
        written = pa.table(columns).replace_schema_metadata(FEATURES.arrow_schema.metadata)
        pq.write_table(written, tmp_path / f"{name}.parquet")
    message = "train row 2: label 7 is out of range: 0 to 1, and -1 or null"
    try:
        loaded = load(tmp_path, streaming=True)
    except DataError as error:
        pytest.skip(f"this version of datasets refuses such files itself: {error}")
    with pytest.raises(LabelError, match=message):
        list(loaded.train)
    with pytest.raises(LabelError, match=message):
        load(tmp_path)


def test_splits_with_other_label_names(tmp_path):
    """Class 0 of train and class 0 of test must be the same class."""
    other = table(4, features=Features({"image": ImageFeature(), "label": ClassLabel(names=["dog", "cat"])}))
    for name, split in (("train", table(4)), ("validation", table(4)), ("test", other)):
        split.to_parquet(str(tmp_path / f"{name}.parquet"))
    with pytest.raises(LabelError, match=r"train and test differ in their label names \(class 0: 'cat', 'dog'\)"):
        load(tmp_path)


def test_evaluation_needs_a_label(tmp_path):
    """Accuracy over no row is not a number."""
    empty = table(3, label=[-1] * 3)
    path = save(tmp_path / "d", train=table(4), validation=empty, test=table(2))
    with pytest.raises(LabelError, match=r"no row of validation \(validation\) has a label"):
        load(path)
    with pytest.raises(LabelError, match="no row of validation"):
        load(path, streaming=True)
    assert load(path, labels=False).facts["labelled"]["validation"] == 0
