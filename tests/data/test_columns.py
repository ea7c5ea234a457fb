"""Columns: renamed, typed and checked; labels as numbers, -1 for none."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_sets import FEATURES, load, plain, png, rows, save, table
from datasets import Array2D, ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image as PILImage

from hf_mutual_kd import DataError, LabelError
from hf_mutual_kd.data.class_labels import class_numbers
from hf_mutual_kd.data.masks import read_mask
from hf_mutual_kd.data.splits import decode_image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Parquet files are prepared in a cache of their own, not in the user's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_columns_are_renamed_and_others_removed(tmp_path):
    """A second column called `image` must not win over the one that was asked for."""
    data = table(20).rename_columns({"image": "jpg", "label": "cls"}).add_column("image", ["x"] * 20)
    splits = load(save(tmp_path / "d", train=data), input_column="jpg", label_column="cls")
    assert splits.train.column_names == ["image", "label"]
    assert decode_image(splits.train[0]["image"]).mode == "RGB"


def test_stream_names_its_columns(tmp_path):
    """A misnamed column of a stream must not be found only in the first step."""
    path = save(tmp_path / "d", train=table(10), validation=table(4))
    with pytest.raises(DataError, match=r"no column img, only: image \(Image\)"):
        load(path, streaming=True, input_column="img")
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


def test_a_label_that_no_int64_holds():
    """Wrapped around it would be -1, no label."""
    with pytest.raises(LabelError, match="train row 1: label 18446744073709551615 is out of range"):
        class_numbers(pa.chunked_array([pa.array([0, 2**64 - 1], pa.uint64())]), Value("uint64"), None, "train")


@pytest.mark.parametrize("streaming", [False, True])
def test_labels_of_one_meaning_are_converted(tmp_path, streaming):
    """pandas makes floats of numbers where one is missing; bools crashed in the role table at the first checkpoint."""
    cases = {
        "floats": (plain([1.0, None, float("nan"), -1.0, 0.0], "float64"), [1, -1, -1, -1, 0]),
        "bools": (plain([True, None, False], "bool"), [1, -1, 0]),
        "small": (plain([2, None, 0], "uint8"), [2, -1, 0]),
    }
    for name, (data, expected) in cases.items():
        path = save(tmp_path / name, train=data, validation=data, test=data)
        assert [row["label"] for row in load(path, streaming=streaming).train] == expected, name


def test_text_labels_count_in_numbers_and_composed_letters(tmp_path):
    """The tenth class is not the third, a name in two Unicode forms is no two classes, an empty text is none."""
    texts = ["10", "2", "", "caf\u00e9", "cafe\u0301", "1", " "]
    data = plain(texts, "string")
    splits = load(save(tmp_path / "d", train=data, validation=data, test=data))
    assert splits.label_names == ["1", "2", "10", "caf\u00e9"]
    assert splits.train["label"][:] == [2, 1, -1, 3, 3, 0, -1]
    named = table(
        4, features=Features({"image": ImageFeature(), "label": ClassLabel(names=["caf\u00e9", "cafe\u0301"])})
    )
    with pytest.raises(LabelError, match=r"name of class 1 is there twice"):
        load(save(tmp_path / "e", train=named, validation=named, test=named))


def test_the_only_columns_of_their_kind_are_found(tmp_path):
    """`img` and `fine_label` are what many data sets say; a guess between two would train on the wrong one."""
    data = table(8).rename_columns({"image": "img", "label": "fine_label"}).add_column("id", list(range(8)))
    assert load(save(tmp_path / "d", train=data, validation=data, test=data)).train["label"][:] == [0, 1] * 4
    both = data.add_column("coarse", [0] * 8).cast_column("coarse", ClassLabel(names=["pet"]))
    with pytest.raises(
        DataError,
        match=r"split train: no column label, several others may be it: img \(Image\), fine_label \(ClassLabel\), "
        r"id \(int64\), coarse \(ClassLabel\); choose with --label_column",
    ):
        load(save(tmp_path / "e", train=both, validation=both, test=both))
    features = Features({"img": ImageFeature(), "mask": ImageFeature()})
    two = Dataset.from_dict({"img": rows(4)["image"], "mask": rows(4)["image"]}, features)
    path = save(tmp_path / "f", train=two, validation=two, test=two)
    with pytest.raises(DataError, match=r"no column image, several others may be it: .* choose with --input_column"):
        load(path)
    assert load(path, input_column="img", target="mask").train.column_names == ["image", "label"]


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
        (plain([0.0, 1.5, None], "float32"), "train row 1: label 1.5 is no whole number, so no class"),
        (plain([b"0", b"1"], "binary"), "column label of split train holds binary; labels are whole numbers"),
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


MASK = np.array([[0, 1, 255], [2, 3, 4]], np.uint8)


def mask_file(folder: Path) -> str:
    path = folder / "mask.png"
    PILImage.fromarray(MASK).save(path)
    return str(path)


def as_stored(kind: str, folder: Path) -> tuple[list, Features]:
    """One mask twice, in a column of the given kind."""
    path = mask_file(folder)
    content = Path(path).read_bytes()
    cells, feature = {
        "image": (PILImage.fromarray(MASK), ImageFeature()),
        "struct": ({"bytes": content, "path": None}, {"bytes": Value("binary"), "path": Value("string")}),
        "bytes": (content, Value("binary")),
        "path": (path, Value("string")),
        "array": (MASK, Array2D(shape=MASK.shape, dtype="uint8")),
        "list": (MASK.tolist(), List(List(Value("int64")))),
    }[kind]
    return [cells] * 2, Features({"jpg": ImageFeature(), "image": feature})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["image", "struct", "bytes", "path", "array", "list"])
def test_masks_are_read_however_they_are_stored(tmp_path, kind, streaming):
    """The column of masks is called `image` here: names are exchanged, not lost."""
    cells, features = as_stored(kind, tmp_path)
    images = [{"bytes": png(value, (3, 2)), "path": None} for value in range(2)]
    data = Dataset.from_dict({"jpg": images, "image": cells}, features=features)
    path = save(tmp_path / "d", train=data, validation=data, test=data)
    asked = {"input_column": "jpg", "label_column": "image", "files_from": [str(tmp_path)]}
    splits = load(path, target="mask", streaming=streaming, **asked)
    row = next(iter(splits.train))
    assert set(row) == {"image", "label"}
    assert read_mask(row).tolist() == MASK.tolist()
    assert decode_image(row["image"]).size == (3, 2)
    if not streaming:
        assert splits.facts["labelled"]["train"] == 2
        assert len(splits.facts["fingerprint"]) == 32


def test_numbers_are_no_masks(tmp_path):
    """A class of each image in the mask column says that another task was meant."""
    with pytest.raises(LabelError, match="column label of split train holds int64, no masks; .*--label_column"):
        load(save(tmp_path / "d", train=plain([0] * 20)), target="mask")


def masked(folder: Path, **metadata: str) -> Path:
    """Parquet files of images and masks, with metadata in their schema."""
    folder.mkdir()
    cells = [{"bytes": png(0), "path": None}] * 3
    for name in ("train", "validation", "test"):
        table = pa.table({"image": cells, "label": cells}).replace_schema_metadata(metadata)
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


def test_empty_structs_are_no_masks(tmp_path):
    """A mask that is neither null nor there would be counted as a label."""
    cells = [{"bytes": png(0), "path": None}, {"bytes": None, "path": ""}, {"bytes": None, "path": None}, None]
    table = pa.table({"image": [cells[0]] * 4, "label": cells})
    for name in ("train", "validation", "test"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    splits = load(tmp_path, target="mask")
    assert splits.facts["labelled"]["train"] == 1
    assert [read_mask(row) is None for row in splits.train] == [False, True, True, True]


def test_names_of_masks_are_found(tmp_path):
    """Masks do not name their classes: the user does, else what lies by the data, else the peers."""
    folder = masked(tmp_path / "a")
    assert load(folder, target="mask").label_names is None
    for name, content in (
        ("object_id2label.json", '{"1": "two", "0": "one"}'),
        ("id2label.json", '{"sky": 0, "sea": 1}'),
        ("names.json", '["water", "ice"]'),
    ):
        (folder / name).write_text(content)
        found = load(folder, target="mask").label_names
        assert found == {"o": ["one", "two"], "i": ["sky", "sea"], "n": ["water", "ice"]}[name[0]]
    assert load(folder / "train.parquet", target="mask", validation_split=None).label_names == ["water", "ice"]
    assert load(f"{folder}/*.parquet", target="mask").label_names == ["water", "ice"]
    assert load(folder, target="mask", label_names=["a, b"]).label_names == ["a", "b"]
    assert load(folder, target="mask", label_names=["bed, large", "b"]).label_names == ["bed, large", "b"]
    given = tmp_path / "mine.json"
    given.write_text('["x", "y", "z"]')
    assert load(folder, target="mask", label_names=[str(given)]).label_names == ["x", "y", "z"]
    schema = masked(tmp_path / "b", names='["m", "n"]')
    assert load(schema, target="mask", streaming=True).label_names == ["m", "n"]


def test_names_are_those_after_reducing(tmp_path):
    """Names shifted by one against their classes give every class its neighbour's name."""
    folder = masked(tmp_path / "a")
    (folder / "id2label.json").write_text('{"1": "wall", "2": "sky"}')
    assert load(folder, target="mask", reduce_labels=True).label_names == ["wall", "sky"]
    with pytest.raises(LabelError, match="id2label.json has 2 names but none for class 0; ids are 0 to C - 1"):
        load(folder, target="mask")
    (folder / "id2label.json").write_text('{"0": "wall", "1": "sky"}')
    assert load(folder, target="mask", reduce_labels=True).label_names == ["wall", "sky"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "1 is none"),
        ('["a", "a"]', "a name is there twice"),
        ("{}", "must be a list of names or a mapping"),
        ('{"a": "b"}', "must be a list of names or a mapping"),
        ('"a"', "must be a list of names or a mapping of ids to names, got str"),
        ("[", "is no JSON"),
        (json.dumps([str(number) for number in range(256)]), "masks of 256 classes are not read"),
    ],
)
def test_names_that_are_none(tmp_path, content, message):
    """Found names that are silently left out give a cohort without names, or with others."""
    folder = masked(tmp_path / "a")
    (folder / "names.json").write_text(content)
    with pytest.raises(LabelError, match=message):
        load(folder, target="mask")
    with pytest.raises(LabelError, match=r"--label_names .*none.json: no such file"):
        load(folder, target="mask", label_names=[str(tmp_path / "none.json")])


def test_names_for_classes_that_are_numbers(tmp_path):
    """An option that one task ignores silently looks as if it had worked."""
    path = save(tmp_path / "d", train=plain([0, 1] * 10))
    assert load(path, label_names=["cat,dog"]).label_names == ["cat", "dog"]
    with pytest.raises(LabelError, match="train row 1: label 1 is out of range: 0 to 0"):
        load(path, label_names=["cat"])
    with pytest.raises(LabelError, match="--label_names names 1 classes, but the data set names its 2 otherwise"):
        load(save(tmp_path / "e", train=table(20)), label_names=["cat"])
