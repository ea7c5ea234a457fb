"""The rows of a training batch that count: Accelerate repeats rows so that every process has a batch to step with."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, cast

import torch
from accelerate.state import GradientState
from accelerate.utils import slice_tensors
from torch.utils.data import IterableDataset

from ..data.images import UNREADABLE

REPEATED = "repeated"
"""Key of a batch in which no row counts: its process takes the step with it, and nothing of it is heard."""


def fresh_rows(state: GradientState, dataset: Any, rows: int, processes: int, place: int) -> int:
    """How many rows of this process' batch are not repeats that fill up the last batch of an epoch.

    Args:
        state (`GradientState`): of the loader that just gave the batch.
        dataset: the training rows; with a known length, or a stream.
        rows (`int`): in the batch of every process.
        processes (`int`): how many there are.
        place (`int`): which of them this is.

    Example:

    ```python
    >>> # 13 rows for 2 processes of 4 rows: of the second step's 8 rows 5 are left.
    >>> fresh_rows(state, range(13), rows=4, processes=2, place=1)
    1
    ```
    """
    if not state.end_of_dataloader:
        return rows
    # A loader that was made to skip batches no longer knows its remainder; one of a stream only learns it at the end.
    streams = isinstance(dataset, IterableDataset)
    left = state.remainder if streams else len(cast(Sized, dataset)) % (rows * processes)
    return min(max(left - place * rows, 0), rows) if left > 0 else rows


def without_repeats(batch: dict[str, Any], fresh: int, may_skip: bool = False) -> dict[str, Any]:
    """The batch without rows that another process or an earlier step has, and without unreadable ones.

    Args:
        batch (`dict`): as a collator made it, `keep_places` set: all tensors with the rows as first dimension.
        fresh (`int`): the first that many rows are no repeats.
        may_skip (`bool`): leave out rows with the label `UNREADABLE`.

    Returns:
        `dict`: fewer rows; where none is left all of them, and `REPEATED`.
    """
    labels = batch["labels"]
    if fresh == len(labels) and not may_skip:
        return batch
    counts = torch.arange(len(labels), device=labels.device) < fresh
    if may_skip:
        counts &= (labels != UNREADABLE).reshape(len(labels), -1).all(1)
    if not counts.any():
        return {**batch, REPEATED: True}
    return batch if counts.all() else cast(dict, slice_tensors(batch, counts))
