"""Which rows of a batch count, by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import IterableDataset

from hf_mutual_kd.data.images import UNREADABLE
from hf_mutual_kd.training.repeated_rows import REPEATED, fresh_rows, without_repeats


class Stream(IterableDataset):
    """Rows nobody has counted."""

    def __iter__(self):
        return iter(())


def loader(last: bool, remainder: int = -1) -> SimpleNamespace:
    return SimpleNamespace(end_of_dataloader=last, remainder=remainder)


@pytest.mark.parametrize(
    ("rows", "fresh"), [(48, [4, 4]), (46, [4, 2]), (44, [4, 0]), (41, [1, 0]), (3, [3, 0]), (1, [1, 0])]
)
def test_repeats_of_the_last_batch(rows, fresh):
    """Accelerate fills the last batch with the first rows: they would teach and be taught twice."""
    assert [fresh_rows(loader(True), range(rows), 4, 2, place) for place in (0, 1)] == fresh
    assert [fresh_rows(loader(False), range(rows), 4, 2, place) for place in (0, 1)] == [4, 4]


def test_repeats_at_the_end_of_a_stream():
    """A stream has no length; 5 rows for two processes come as 3 and 3."""
    assert [fresh_rows(loader(True, 5), Stream(), 3, 2, place) for place in (0, 1)] == [3, 2]
    assert [fresh_rows(loader(True, 1), Stream(), 1, 2, place) for place in (0, 1)] == [1, 0]
    assert fresh_rows(loader(True), Stream(), 3, 2, 0) == 3


def batch(labels: torch.Tensor) -> dict:
    ids = torch.arange(len(labels))
    return {"peer_inputs": {"vit": {"pixel_values": ids.float()}}, "labels": labels, "sample_ids": ids}


def test_rows_are_taken_from_every_tensor():
    """A tensor left whole would pair images with the labels of others."""
    whole = batch(torch.tensor([0, UNREADABLE, 2, -1]))
    assert without_repeats(whole, 4) is whole
    taken = without_repeats(whole, 3, may_skip=True)
    assert taken["sample_ids"].tolist() == taken["peer_inputs"]["vit"]["pixel_values"].tolist() == [0, 2]
    assert REPEATED not in taken
    # Maps: one unreadable pixel makes a blank; ordinary maps and padding stay.
    maps = batch(torch.tensor([[[0, -1]], [[UNREADABLE, -1]]]))
    assert without_repeats(maps, 2, may_skip=True)["sample_ids"].tolist() == [0]


def test_a_process_without_rows_keeps_its_batch():
    """It has to take the step with the others, and must not be heard."""
    for left in (
        without_repeats(batch(torch.tensor([0, 1])), 0),
        without_repeats(batch(torch.tensor([UNREADABLE])), 1, True),
    ):
        assert left[REPEATED]
        assert len(left["labels"])
