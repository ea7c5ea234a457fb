"""A stream whose optimizer steps all hold the same share of labelled rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from torch.utils.data import IterableDataset

from ..errors import DataError


def has_label(row: Mapping[str, Any]) -> bool:
    """Whether a row has a label: a class of 0 or more, or a mask that is there."""
    label = row.get("label")
    if isinstance(label, Mapping):
        return any(label.get(part) for part in ("bytes", "path"))
    return label is not None and not (isinstance(label, int) and label < 0)


class ShareStream(IterableDataset):
    """
    A stream read twice: rows without a label once, and between them rows with one, from the beginning as often as
    it takes.

    Args:
        rows (`datasets.IterableDataset`): the stream.
        in_step (`int`): labelled rows of a step.
        rows_per_step (`int`): all rows of a step, over accumulation and processes.
    """

    def __init__(self, rows: Any, in_step: int, rows_per_step: int):
        self.rows, self.in_step, self.rows_per_step = rows, in_step, rows_per_step

    def set_epoch(self, epoch: int) -> None:
        """Reshuffle the stream where it can be."""
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        some = self._again_and_again()
        place = 0
        for row in self.rows.filter(partial(_is, False)):
            while self._takes_label(place):
                yield next(some)
                place += 1
            yield row
            place += 1

    def _takes_label(self, place: int) -> bool:
        place %= self.rows_per_step
        return (place + 1) * self.in_step // self.rows_per_step > place * self.in_step // self.rows_per_step

    def _again_and_again(self) -> Iterator[dict[str, Any]]:
        labelled = self.rows.filter(partial(_is, True))
        while True:
            found = False
            for row in labelled:
                found = True
                yield row
            if not found:
                raise DataError("no row of the stream has a label; leave labelled_share out, or give labels=false")


def _is(wanted: bool, row: Mapping[str, Any]) -> bool:
    return has_label(row) is wanted
