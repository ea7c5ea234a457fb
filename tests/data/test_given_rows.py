"""Rows as users hand them to the trainer: which columns are read, which names count, what is refused in words."""

import numpy as np
import pytest
import torch
from data_sets import png, rows, table
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, Value
from datasets import Image as ImageFeature
from PIL import Image
from torch.utils.data import DataLoader

from hf_mutual_kd import DataError, LabelError
from hf_mutual_kd.config.data_options import ColumnOptions
from hf_mutual_kd.data.class_labels import class_number
from hf_mutual_kd.data.given_rows import GivenRows


def given(labels=True, target="class", names=None, **columns) -> GivenRows:
    return GivenRows(ColumnOptions(**columns), target, labels, names)


def read(data, trains=True, **options):
    return given(**options).read(data, "train_dataset", trains)


PICTURE = Image.new("RGB", (4, 4))


def test_the_one_column_of_class_labels_is_found():
    """CIFAR-100 calls it `fine_label`: its rows trained without any label, and nobody said so."""
    data = table(4).rename_columns({"image": "img", "label": "fine_label"})
    found = read(data)
    assert [row["label"] for row in found] == [0, 1, 0, 1]
    assert set(found[0]["image"]) == {"bytes", "path"}
    streamed = read(data.to_iterable_dataset())
    assert [row["label"] for row in streamed] == [0, 1, 0, 1]


@pytest.mark.parametrize("streamed", [False, True])
def test_without_a_column_that_may_be_it_nothing_is_guessed(streamed):
    """`labels` of plain numbers may be anything: an id, a count, the class."""
    data = table(4).rename_column("label", "labels").cast_column("labels", Value("int64"))
    data = data.to_iterable_dataset() if streamed else data
    with pytest.raises(DataError, match=r"no column label, only: image \(Image\), labels \(int64\); .*label_column"):
        read(data)
    assert [row["label"] for row in read(data, label_column="labels")] == [0, 1, 0, 1]
    assert "label" not in next(iter(read(data, labels=False)))


def test_a_column_that_is_called_label_beside_the_chosen_one():
    """Two columns of one name would be an error of another library, or the wrong one of both."""
    data = table(4).add_column("fine", [1, 1, 0, 0])
    assert [row["label"] for row in read(data, label_column="fine")] == [1, 1, 0, 0]


def test_rows_of_an_evaluation_may_lack_labels():
    """A test set that someone wants predictions of has none."""
    reader = given(label_column="fine")
    reader.read(table(4).add_column("fine", [1, 1, 0, 0]), "train_dataset", trains=True)
    assert "label" not in reader.read(table(2).remove_columns("label"), "eval_dataset")[0]


def test_names_come_from_the_rows_and_must_agree():
    """Class 0 of one data set and class 0 of another must be the same class."""
    reader = given()
    reader.read(table(4), "train_dataset", trains=True)
    assert reader.names == ["cat", "dog"]
    other = table(4, features=Features({"image": ImageFeature(), "label": ClassLabel(names=["dog", "cat"])}))
    with pytest.raises(
        LabelError, match=r"before and eval_dataset differ in their label names \(class 0: 'cat', 'dog'"
    ):
        reader.read(other, "eval_dataset")
    assert read(other, names=["Dog", "Cat"])[0]["label"] == 0
    with pytest.raises(LabelError, match=r"label_names and train_dataset differ .*class 0: 'cat', 'dog'"):
        read(other, names=["cat", "dog"])


def test_text_is_numbered_by_names():
    """Numbered in the order of the rows it would be another class in another split."""
    features = Features({"image": ImageFeature(), "label": Value("string")})
    data = Dataset.from_dict({"image": rows(3)["image"], "label": ["owl", "ant", None]}, features)
    assert read(data)["label"][:] == [1, 0, -1]
    assert read(data, names=["owl", "emu", "ant"])["label"][:] == [0, 2, -1]
    with pytest.raises(LabelError, match="train_dataset row 0: 'owl' is none of the label names"):
        read(data, names=["emu", "ant"])


def test_rows_keep_what_other_columns_say():
    """A view or a collator of one's own may read them."""
    assert read(table(2).add_column("name", ["a", "b"]))[1]["name"] == "b"


def test_tensors_of_a_format_are_read_as_they_are_stored():
    """`with_format("torch")` would make a tensor of an image's bytes."""
    assert read(table(2).with_format("torch"))[1] == {"image": {"bytes": png(1), "path": None}, "label": 1}


def test_dictionaries_of_ones_own_are_renamed():
    """A list of dicts is a data set for torch."""
    found = read([{"picture": PICTURE, "kind": 1}], input_column="picture", label_column="kind")
    assert found[0] == {"image": PICTURE, "label": 1}
    plain = [{"image": PICTURE, "label": 1}]
    assert read(plain) is plain
    transformed = table(2).with_transform(lambda batch: {"image": [PICTURE] * len(batch["label"]), "y": [1]})
    with pytest.raises(DataError, match=r"no column label, only: image \(Image\), y \(int64\)"):
        read(transformed)
    assert read(transformed, label_column="y")[0] == {"image": PICTURE, "label": 1}


def test_a_stream_of_ones_own_is_named_by_its_first_row():
    """It cannot be looked at before it is read."""

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield {"image": PICTURE, "kind": 1}

    assert next(iter(read(Stream(), label_column="kind"))) == {"image": PICTURE, "label": 1}
    with pytest.raises(
        DataError, match=r"split train_dataset: no column label, only: image \(Image\), kind \(int64\)"
    ):
        next(iter(read(Stream())))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([(PICTURE, 3)], r"a row is a tuple, and must be a dict such as .*from_generator"),
        (DatasetDict(train=table(2), test=table(2)), "is a DatasetDict of train, test; give one of them"),
        (DataLoader(table(2)), r"is a DataLoader; give its data set \(loader.dataset\)"),
        ("cifar10", "is a str, no data set: .*load_dataset"),
        ([], "train_dataset is empty"),
        (IterableDataset.from_generator(lambda: iter(())), "split train_dataset is empty"),
        ([{"image": PICTURE, "label": [0, 1]}], r"train_dataset row 0: the label is a list \(\[0, 1\]\)"),
        ([{"image": PICTURE, "label": 1}, {"image": PICTURE, "label": 0.5}], "row 1: label 0.5 is no whole number"),
        ([{"image": PICTURE, "label": "cat"}], "row 0: label 'cat' is text, and nobody says the names"),
        (table(2).map(lambda row: {"label": [0]}, features=None, remove_columns="label"), "column label of train_"),
    ],
    ids=["tuples", "splits", "loader", "text", "no rows", "no stream", "list", "fraction", "nameless text", "lists"],
)
def test_what_is_no_data_set(data, message):
    """An AttributeError or a KeyError says nothing of what to do."""
    with pytest.raises((DataError, LabelError), match=message):
        read(data)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (True, 1),
        (np.int64(2), 2),
        (torch.tensor(1), 1),
        (np.float32(2), 2),
        (float("nan"), -1),
        (None, -1),
        (-100, -1),
        ("owl", 2),
        ("", -1),
    ],
)
def test_labels_of_one_meaning(value, number):
    """bools crashed in the role table, NaN is what pandas makes of a missing number."""
    assert class_number(value, ["cat", "dog", "owl"]) == number


@pytest.mark.parametrize("value", [3, -2, 1.5, float("inf"), "cow", [1], torch.tensor([0.0, 1.0]), {"a": 1}, b"1"])
def test_labels_that_are_no_class(value):
    """Cast to a number they would train on a class that nobody meant."""
    with pytest.raises(LabelError, match="^sample 7: "):
        class_number(value, ["cat", "dog", "owl"], row="sample 7")
