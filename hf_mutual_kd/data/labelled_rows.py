"""Which rows have a label, how many of them each step holds, and labels that are hidden on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from torch.utils.data import Sampler

from ..errors import ConfigError, DataError
from .mask_columns import has_mask_column, rows_with_mask

NO_LABEL = -1


def which_labelled(rows: Any) -> np.ndarray | None:
    """
    Which rows have a label: `[rows]` bool; `None` where one cannot know without reading them all, or of a stream.

    Rows may say it themselves by a method `which_labelled()`.
    """
    rows = getattr(rows, "rows", rows)
    if hasattr(rows, "which_labelled"):
        return rows.which_labelled()
    return _labelled(rows) if isinstance(rows, Dataset) else None


def _labelled(rows: Dataset) -> np.ndarray:
    if "label" not in rows.column_names:
        return np.zeros(len(rows), dtype=bool)
    if has_mask_column(rows):
        return rows_with_mask(rows)
    column = _label_column(rows)
    known = column.is_valid()
    if pa.types.is_integer(column.type):
        known = pc.and_(known, pc.fill_null(pc.greater_equal(column, 0), False))
    return np.asarray(known)


def _label_column(rows: Dataset) -> pa.ChunkedArray:
    return rows.select_columns(["label"]).with_format("arrow")[:]["label"]


def hide_labels(rows: Any, most: int | None, per_class: int | None, seed: int) -> Any:
    """
    The same rows, of which only some keep their label.

    Args:
        rows (`Dataset`): `label` is a class or a mask; rows that have none stay without.
        most (`int`, *optional*): so many rows of all keep theirs, drawn by `seed`.
        per_class (`int`, *optional*): so many of each class; a class that has fewer keeps all of them.
        seed (`int`): draws; fewer rows are a part of more.

    Raises:
        [`ConfigError`]: both are given, the rows are a stream, or masks are to be counted by class.
        [`DataError`]: there are fewer labels than are to stay, or no class has so many.

    Example:

    ```python
    >>> hidden = hide_labels(train, most=None, per_class=10, seed=0)
    >>> int(which_labelled(hidden).sum())
    100
    ```
    """
    if most is None and per_class is None:
        return rows
    option = "max_labelled_samples" if most is not None else "labels_per_class"
    wanted = most if most is not None else per_class
    if most is not None and per_class is not None:
        raise ConfigError("max_labelled_samples and labels_per_class both say which labels stay; leave one out")
    if wanted is None or wanted < 1:
        raise ConfigError(f"{option} must be 1 or more, got {wanted}")
    if not isinstance(rows, Dataset):
        raise ConfigError(f"{option} needs rows that can be counted; leave out streaming")
    labelled = np.flatnonzero(_labelled(rows))
    if per_class is None:
        return _without_labels(rows, drawn_labels(labelled, wanted, seed))
    order = labelled[np.random.default_rng(seed).permutation(len(labelled))]
    if has_mask_column(rows):
        raise ConfigError("labels_per_class counts classes of whole images; for masks give max_labelled_samples")
    classes = np.asarray(_label_column(rows).fill_null(NO_LABEL))
    there, counts = np.unique(classes[labelled], return_counts=True)
    if counts.max(initial=0) < wanted:
        raise DataError(
            f"labels_per_class is {wanted}, but no class has so many training rows with a label (the most is "
            f"{counts.max(initial=0)}); give fewer, or leave it out"
        )
    kept = np.concatenate([order[classes[order] == one][:wanted] for one in there])
    return _without_labels(rows, kept)


def drawn_labels(labelled: np.ndarray, most: int, seed: int) -> np.ndarray:
    """
    So many of the places of labelled rows, drawn by `seed`; fewer are a part of more.

    Raises:
        [`ConfigError`]: less than 1.
        [`DataError`]: there are fewer.
    """
    if most < 1:
        raise ConfigError(f"max_labelled_samples must be 1 or more, got {most}")
    if most > len(labelled):
        raise DataError(f"max_labelled_samples is {most}, but only {len(labelled)} training rows have a label")
    return labelled[np.random.default_rng(seed).permutation(len(labelled))[:most]]


def _without_labels(rows: Dataset, kept: np.ndarray) -> Dataset:
    stays = np.zeros(len(rows), dtype=bool)
    stays[kept] = True
    feature = rows.features["label"]
    column = _label_column(rows).combine_chunks()
    nothing = pa.scalar(NO_LABEL if pa.types.is_integer(column.type) else None, column.type)
    hidden = pc.if_else(pa.array(stays), column, nothing)
    order = rows.column_names
    with_column: Any = rows.remove_columns("label").add_column("label", hidden, feature=feature)
    return with_column.select_columns(order)


LEAST_SHARE = 0.25
"""Of labelled rows in the steps of a training that has rows without."""


def default_share(labelled: np.ndarray) -> float | None:
    """The share of labelled rows that steps are to hold: at least a quarter; `None` where all have a label or none."""
    natural = float(labelled.mean()) if len(labelled) else 1.0
    return None if natural in (0.0, 1.0) else max(natural, LEAST_SHARE)


def rows_of_epoch(rows: Any, share: float | None, rows_per_step: int) -> int:
    """
    How many rows an epoch shows: all of them, or as many as steps with a share of labelled ones take.

    Args:
        rows: of the training, which can be counted.
        share (`float`, *optional*): of labelled rows in a step; unset, or where one cannot know which have a label,
            rows come as they are.
        rows_per_step (`int`): over accumulation and processes.

    Example:
        >>> rows_of_epoch(Dataset.from_dict({"label": [0, 1, -1, -1, -1, -1]}), 0.5, 4)
        8
    """
    labelled = None if share is None else which_labelled(rows)
    if share is None or labelled is None:
        return len(rows)
    return len(LabelledShareSampler(labelled, share, rows_per_step, seed=0))


class LabelledShareSampler(Sampler[int]):
    """
    Orders rows so that every optimizer step holds the same share of labelled ones.

    An epoch shows every row without a label once; rows with a label come round as often as that takes. Both are drawn
    without replacement: no row comes a second time before all of its kind have come. The order depends on seed, epoch
    and rows per step alone, and labelled rows lie evenly within a step, so that accumulation and processes change
    nothing. The last step is filled up by rows of the next round.

    Args:
        labelled (`np.ndarray` of shape `[rows]`, bool): which rows have a label.
        share (`float`): of labelled rows in a step, above 0 and below 1.
        rows_per_step (`int`): over accumulation and processes, 2 or more.
        seed (`int`): draws.

    Example:

    ```python
    >>> sampler = LabelledShareSampler(np.arange(6) < 2, 0.5, rows_per_step=4, seed=0)
    >>> [sum(index < 2 for index in list(sampler)[step : step + 4]) for step in (0, 4)]
    [2, 2]
    ```
    """

    def __init__(self, labelled: np.ndarray, share: float, rows_per_step: int, seed: int):
        if not 0 < share < 1:
            raise ConfigError(f"labelled_share must be above 0 and below 1, got {share}")
        if rows_per_step < 2:
            raise ConfigError(f"labelled_share needs steps of 2 rows or more, got {rows_per_step}")
        self.labelled, self.unlabelled = np.flatnonzero(labelled), np.flatnonzero(~labelled)
        if not len(self.labelled) or not len(self.unlabelled):
            raise DataError("labelled_share needs rows with a label and rows without")
        wanted = min(max(round(share * rows_per_step), 1), rows_per_step - 1)
        self.in_step = min(wanted, len(self.labelled))
        self.rows_per_step, self.seed, self.epoch = rows_per_step, seed, 0

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-len(self.unlabelled) // (self.rows_per_step - self.in_step))

    def __len__(self) -> int:
        return self.steps * self.rows_per_step

    def set_epoch(self, epoch: int) -> None:
        """Draw for this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        without = self.rows_per_step - self.in_step
        some = self._rounds(self.labelled, self.in_step, 0)
        others = self._rounds(self.unlabelled, without, 1)
        # The k-th place of a step is a labelled row where k * share passes a whole number.
        ends = (np.arange(self.rows_per_step) + 1) * self.in_step // self.rows_per_step
        takes = np.diff(ends, prepend=0).astype(bool)
        order = np.empty((self.steps, self.rows_per_step), dtype=np.int64)
        order[:, takes] = some
        order[:, ~takes] = others
        return iter(order.ravel().tolist())

    def _rounds(self, rows: np.ndarray, in_step: int, kind: int) -> np.ndarray:
        """`[steps, in_step]`: permutation after permutation; no step holds a row twice where there are enough."""
        drawn = np.empty((self.steps, in_step), dtype=np.int64)
        generator = np.random.default_rng([self.seed, self.epoch, kind])
        left = generator.permutation(rows)
        for step in drawn:
            first, left = left[:in_step], left[in_step:]
            taken = len(first)
            step[:taken] = first
            while taken < in_step:
                left = generator.permutation(rows)
                new = ~np.isin(left, first)
                left = np.concatenate([left[new], left[~new]])
                more, left = left[: in_step - taken], left[in_step - taken :]
                step[taken : taken + len(more)] = more
                taken += len(more)
        return drawn
