"""Labelled rows: which they are, how they share a step with rows without, and labels that are hidden."""

import numpy as np
import pytest
from conftest import make_rows
from datasets import Dataset, Features, Image, Value

from hf_mutual_kd import ConfigError, DataError
from hf_mutual_kd.data.labelled_rows import LabelledShareSampler, default_share, hide_labels, which_labelled

FEW = np.arange(60) % 12 == 0


def steps_of(sampler):
    return np.array(list(sampler)).reshape(sampler.steps, sampler.rows_per_step)


def test_every_step_has_its_labelled_rows_and_no_row_twice():
    """A step without a labelled row trains on transfer alone; a row drawn twice counts double in the loss."""
    sampler = LabelledShareSampler(FEW, 0.25, rows_per_step=8, seed=3)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        steps = steps_of(sampler)
        assert (FEW[steps].sum(1) == 2).all()
        assert all(len(set(step)) == 8 for step in steps.tolist())
        seen = np.bincount(steps.ravel(), minlength=60)
        assert seen[FEW].max() - seen[FEW].min() <= 1
        assert set(seen[~FEW]) <= {1, 2}
        assert (seen[~FEW] == 2).sum() < 6


def test_order_depends_on_seed_and_epoch_alone():
    """A resumed epoch in another order trains on some rows twice and on others never."""
    first, again = LabelledShareSampler(FEW, 0.25, 8, seed=3), LabelledShareSampler(FEW, 0.25, 8, seed=3)
    first.set_epoch(2)
    list(again)
    again.set_epoch(2)
    assert list(first) == list(again)
    again.set_epoch(1)
    other = LabelledShareSampler(FEW, 0.25, 8, seed=4)
    other.set_epoch(2)
    assert list(first) != list(again)
    assert list(first) != list(other)


def test_labelled_rows_lie_evenly_within_a_step():
    """Where all labelled rows of a step fell to one process, the other would have nothing to learn from labels."""
    sampler = LabelledShareSampler(FEW, 0.5, rows_per_step=8, seed=0)
    halves = FEW[steps_of(sampler)].reshape(-1, 2, 4).sum(2)
    assert (halves == 2).all()


def test_fewer_labelled_rows_than_a_step_wants_come_once_each():
    """Five labels repeated to fill a quarter of 128 rows would be memorized in one step."""
    sampler = LabelledShareSampler(FEW, 0.5, rows_per_step=20, seed=0)
    assert sampler.in_step == 5
    assert (FEW[steps_of(sampler)].sum(1) == 5).all()


def test_share_is_a_quarter_only_where_fewer_rows_have_a_label():
    """A set with half its labels would see its own unlabelled rows half as often without being told."""
    assert default_share(FEW) == 0.25
    assert default_share(np.arange(10) % 2 == 0) == 0.5
    assert default_share(np.ones(4, dtype=bool)) is None
    assert default_share(np.zeros(4, dtype=bool)) is None


def test_hidden_labels_are_nested_and_nothing_else_changes():
    """Curves over the number of labels compare nothing where each point draws other rows."""
    rows = make_rows(30)
    few, more = (which_labelled(hide_labels(rows, count, None, seed=1)) for count in (4, 9))
    assert few.sum() == 4
    assert more.sum() == 9
    assert (more | ~few).all()
    by_class = hide_labels(rows, None, 2, seed=1)
    labels = np.array(by_class["label"])
    assert np.bincount(labels[labels >= 0]).tolist() == [2, 2, 2]
    assert (labels < 0).sum() == 24
    assert by_class.column_names == rows.column_names
    assert by_class.features == rows.features
    assert by_class[3]["image"] == rows[3]["image"]
    assert len(by_class) == 30


def test_hidden_masks_become_null():
    """A mask that is hidden as a picture of zeros would teach that everything is class 0."""
    pixel = make_rows(3).map(
        lambda row: {"label": row["image"]}, features=Features({"image": Image(), "label": Image()})
    )
    masks = pixel.cast_column("image", Image(decode=False)).cast_column("label", Image(decode=False))
    hidden = hide_labels(masks, 2, None, seed=0)
    known = which_labelled(hidden)
    assert known.sum() == 2
    assert hidden[int(np.flatnonzero(~known)[0])]["label"] is None
    with pytest.raises(ConfigError, match="max_labelled_samples"):
        hide_labels(masks, None, 1, seed=0)


@pytest.mark.parametrize(
    ("most", "per_class", "error", "words"),
    [
        (4, 4, ConfigError, "leave one out"),
        (0, None, ConfigError, "1 or more"),
        (31, None, DataError, "only 30"),
        (None, 11, DataError, r"no class has so many .*the most is 10\)"),
    ],
)
def test_what_cannot_be_hidden_is_refused(most, per_class, error, words):
    """A wrong number of labels that is taken in silence makes every later figure wrong."""
    with pytest.raises(error, match=words):
        hide_labels(make_rows(30), most, per_class, seed=0)


def test_rows_without_a_label_are_found_in_every_form():
    """A null that counts as a label is a class -1 in the loss, or an epoch without a step."""
    column = Dataset.from_dict({"image": ["a"] * 3, "label": [1, None, -1]})
    assert which_labelled(column).tolist() == [True, False, False]
    assert not which_labelled(column.remove_columns("label")).any()
    floats = Dataset.from_dict({"label": [0.5, None]}, features=Features({"label": Value("float32")}))
    assert which_labelled(floats).tolist() == [True, False]
    assert which_labelled([{"label": 1}]) is None
