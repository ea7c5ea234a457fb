"""Who taught whom, sample by sample: a table that is filled while training and kept as Parquet."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ..distillation.roles import ALL, ALL_NAME, MEAN, MEAN_NAME, NOBODY, UNDECIDED
from ..errors import DataError, PeerError, ResumeError
from ..files import whole

RESERVED = ("nobody", "mean", "all", MEAN_NAME, ALL_NAME)
NO_LABEL = -1

Integers = Tensor | np.ndarray | Sequence[int]


class RoleTable:
    """
    The last teacher of every sample, and how often each peer taught it.

    Each row: `sample_id` (int64, any value), `label` (int32 or null), `teacher` (the last decision: a peer's name,
    `"<mean>"`, `"<all>"`, null for nobody), `decisions` (int32), `taught/NAME` (int32) for every peer, for `<mean>`
    and, where it occurs, for `<all>`.

    Args:
        peer_names (`list[str]`): the N peers in the order of their indices; none of `nobody`, `mean`, `all`.

    Raises:
        [`PeerError`]: no name, a name twice, or a reserved one.

    Example:

    ```python
    >>> table = RoleTable(["vit", "cnn"])
    >>> table.record([7, 8, 9], [0, 1, -1], labels=[2, 2, 0])
    >>> table.lookup([9, 8, 5])
    tensor([-1,  1, -2])
    >>> table.counts()
    {'vit': 1, 'cnn': 1, 'nobody': 1, 'mean': 0}
    ```
    """

    def __init__(self, peer_names: Sequence[str]) -> None:
        self.peer_names = list(peer_names)
        if not self.peer_names or len(set(self.peer_names)) < len(self.peer_names):
            raise PeerError(f"A role table needs one or more peers of different names, got {self.peer_names}.")
        if reserved := [name for name in self.peer_names if name in RESERVED]:
            raise PeerError(
                f"A peer cannot be called {reserved[0]!r}: role tables use the word. Give it another name."
            )
        self._rows: dict[int, int] = {}
        self._allocate(1024)

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, sample_ids: Integers, teacher: Integers, *, labels: Integers | None = None) -> None:
        """
        Add one decision per sample; [`~roles.UNDECIDED`] is none and is left out.

        Args:
            sample_ids (`[B]`, int64): which samples; one that occurs twice counts twice, its last teacher stays.
            teacher (`[B]`, int64): peer index, [`~roles.NOBODY`], [`~roles.MEAN`], [`~roles.ALL`] or
                [`~roles.UNDECIDED`].
            labels (`[B]`, *optional*): the truth; below 0 is none, and then a known label is kept.

        Raises:
            [`DataError`]: lengths that differ, no integers, or a teacher that does not exist.
        """
        ids, taught_by = _integers("sample_ids", sample_ids), _integers("teacher", teacher)
        truth = np.full(len(ids), NO_LABEL) if labels is None else _integers("labels", labels)
        if not len(ids) == len(taught_by) == len(truth):
            raise DataError(
                f"A batch needs one entry per sample, got {len(ids)} sample ids, {len(taught_by)} teachers and "
                f"{len(truth)} labels."
            )
        column = self._columns(taught_by)
        decided = taught_by != UNDECIDED
        if not decided.all():
            ids, taught_by, truth, column = ids[decided], taught_by[decided], truth[decided], column[decided]
        rows = self._rows_of(ids)
        self._teacher[rows] = taught_by
        known = truth >= 0
        self._label[rows[known]] = truth[known]
        np.add.at(self._decisions, rows, 1)
        someone = column >= 0
        np.add.at(self._taught, (rows[someone], column[someone]), 1)

    def lookup(self, sample_ids: Integers) -> Tensor:
        """
        The last teacher of each sample.

        Args:
            sample_ids (`[B]`, int64): any ids, also unknown ones.

        Returns:
            `torch.Tensor` `[B]`, int64: as recorded, [`~roles.UNDECIDED`] where the table has no such sample.
        """
        ids = _integers("sample_ids", sample_ids)
        rows = np.array([self._rows.get(i, -1) for i in ids.tolist()], dtype=np.int64)
        return torch.from_numpy(np.where(rows < 0, UNDECIDED, self._teacher[rows]).astype(np.int64))

    def counts(self) -> dict[str, int]:
        """How many decisions went to each peer, to `"nobody"`, to `"mean"` and, where there are any, to `"all"`."""
        taught = self._taught[: len(self)].sum(axis=0, dtype=np.int64).tolist()
        total = int(self._decisions[: len(self)].sum(dtype=np.int64))
        counts = dict(zip(self.peer_names, taught, strict=False))
        *_, mean, everyone = taught
        by_all = {"all": everyone} if everyone else {}
        return {**counts, "nobody": total - sum(taught), "mean": mean, **by_all}

    def counts_by_label(self) -> dict[str, dict[str, int]]:
        """[`counts`] of the samples with a label (`"labelled"`) and without (`"unlabelled"`), with [`MEAN_NAME`] and
        [`ALL_NAME`] for all together; under `"all"` where no sample has a label; empty where nothing was decided.

        Example:

        ```python
        >>> table = RoleTable(["vit", "cnn"])
        >>> table.record(torch.tensor([7, 8]), torch.tensor([1, MEAN]), labels=torch.tensor([3, -1]))
        >>> table.counts_by_label()["unlabelled"]
        {'vit': 0, 'cnn': 0, '<mean>': 1, '<all>': 0, 'nobody': 0}
        ```
        """
        known = self._label[: len(self)] >= 0
        found = {}
        for name, rows in (("labelled", known), ("unlabelled", ~known)) if known.any() else (("all", ~known),):
            taught = self._taught[: len(self)][rows].sum(axis=0, dtype=np.int64).tolist()
            decided = int(self._decisions[: len(self)][rows].sum(dtype=np.int64))
            if decided:
                who = dict(zip((*self.peer_names, MEAN_NAME, ALL_NAME), taught, strict=True))
                found[name] = {**who, "nobody": decided - sum(taught)}
        return found

    def merge(self, other: RoleTable) -> None:
        """
        Add another table's counts, such as another process's; where both know a sample, the other's last teacher and
        label win.

        Raises:
            [`DataError`]: the other table has other peers or another order of them.
        """
        if other.peer_names != self.peer_names:
            raise DataError(
                f"Only tables of the same peers can be merged, got {self.peer_names} and {other.peer_names}."
            )
        size = len(other)
        rows = self._rows_of(np.fromiter(other._rows, dtype=np.int64, count=size))
        label = other._label[:size]
        self._teacher[rows] = other._teacher[:size]
        self._label[rows] = np.where(label >= 0, label, self._label[rows])
        self._decisions[rows] += other._decisions[:size]
        self._taught[rows] += other._taught[:size]

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Write the table as Parquet, rows in the order of their sample ids; the file appears whole or not at all.

        Args:
            path (`str` or `os.PathLike`): the file; missing folders are made.
        """
        with whole(path) as beside:
            pq.write_table(self._to_arrow(), beside)

    @classmethod
    def load(cls, path: str | os.PathLike[str], peer_names: Sequence[str] | None = None) -> RoleTable:
        """
        Read a table and check everything in it.

        Args:
            path (`str` or `os.PathLike`): a file that [`RoleTable.save`] wrote.
            peer_names (`list[str]`, *optional*): the peers of this run, whose order the loaded table takes.

        Raises:
            [`DataError`]: no such file, no Parquet, or columns or values that a role table
                cannot have.
            [`ResumeError`]: the table belongs to other peers.
        """
        try:
            table = pq.read_table(path, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"No role table can be read from {os.fspath(path)!r}: {error}") from error
        prefix = "taught/"
        stored = [name.removeprefix(prefix) for name in table.column_names if name.startswith(prefix)]
        stored = [name for name in stored if name not in (MEAN_NAME, ALL_NAME)]
        if peer_names is not None and set(stored) != set(peer_names):
            raise ResumeError(
                f"The role table {os.fspath(path)!r} belongs to the peers {stored}, this run has {list(peer_names)}. "
                "Give the table of a run with the same peers, or none."
            )
        try:
            loaded = cls(stored if peer_names is None else peer_names)
            loaded._fill(table)
        except (DataError, PeerError) as error:
            raise DataError(f"{os.fspath(path)!r} is no usable role table: {error}") from error
        return loaded

    def _allocate(self, size: int) -> None:
        self._teacher = np.full(size, UNDECIDED, dtype=np.int64)
        self._label = np.full(size, NO_LABEL, dtype=np.int32)
        self._decisions = np.zeros(size, dtype=np.int32)
        self._taught = np.zeros((size, len(self.peer_names) + 2), dtype=np.int32)

    def _columns(self, teacher: np.ndarray) -> np.ndarray:
        """Columns of `taught` `[B]`: the peers, then the mean and all; -1 for nobody and for no decision."""
        mean = len(self.peer_names)
        wrong = (teacher >= mean) | (teacher < ALL)
        if wrong.any():
            raise DataError(
                f"teacher must be below {mean}, the number of peers, and {ALL} or more, got {teacher[wrong][0]}."
            )
        several = np.select([teacher == MEAN, teacher == ALL], [mean, mean + 1], NOBODY)
        return np.where(teacher >= 0, teacher, several)

    def _rows_of(self, ids: np.ndarray) -> np.ndarray:
        """The row of every id, new ones at the end; storage doubles when it is full."""
        known = self._rows
        rows = np.array([known.setdefault(i, len(known)) for i in ids.tolist()], dtype=np.int64)
        old = len(self._decisions)
        if len(known) > old:
            teacher, label, decisions, taught = self._teacher, self._label, self._decisions, self._taught
            self._allocate(max(2 * old, len(known)))
            self._teacher[:old], self._label[:old] = teacher, label
            self._decisions[:old], self._taught[:old] = decisions, taught
        return rows

    def _to_arrow(self) -> pa.Table:
        ids = np.fromiter(self._rows, dtype=np.int64, count=len(self))
        order = np.argsort(ids)
        label, teacher = self._label[order], self._teacher[order]
        names = np.array([*self.peer_names, MEAN_NAME, ALL_NAME, None], dtype=object)
        columns = {
            "sample_id": pa.array(ids[order], pa.int64()),
            "label": pa.array(label, pa.int32(), mask=label < 0),
            "teacher": pa.array(names[self._columns(teacher)], pa.string()),
            "decisions": pa.array(self._decisions[order], pa.int32()),
        }
        for i, name in enumerate([*self.peer_names, MEAN_NAME, ALL_NAME]):
            if name != ALL_NAME or self._taught[order, i].any():
                columns[f"taught/{name}"] = pa.array(self._taught[order, i], pa.int32())
        return pa.table(columns)

    def _fill(self, table: pa.Table) -> None:
        """Take over a stored table after checking its columns and values."""
        counted = [f"taught/{name}" for name in (*self.peer_names, MEAN_NAME)]
        by_all = f"taught/{ALL_NAME}"
        ids = _column(table, "sample_id", pa.int64())
        label = _column(table, "label", pa.int32(), null=NO_LABEL)
        decisions = _column(table, "decisions", pa.int32())
        columns = [_column(table, name, pa.int32()) for name in counted]
        has_all = by_all in table.column_names
        columns.append(_column(table, by_all, pa.int32()) if has_all else np.zeros_like(columns[0]))
        taught = np.stack(columns, axis=1)
        codes = {name: i for i, name in enumerate(self.peer_names)} | {MEAN_NAME: MEAN, ALL_NAME: ALL, None: NOBODY}
        names = _checked(table, "teacher", pa.string()).to_pylist()
        if unknown := [name for name in names if name not in codes]:
            raise DataError(f"column 'teacher' names {unknown[0]!r}, which is no peer of it.")
        teacher = np.array([codes[name] for name in names], dtype=np.int64)
        self._rows = dict(zip(ids.tolist(), range(len(ids)), strict=True))
        if len(self._rows) < len(ids):
            raise DataError("column 'sample_id' holds an id twice.")
        if (label < NO_LABEL).any() or (taught < 0).any():
            raise DataError("labels and counts must be 0 or more.")
        nobody = decisions - taught.sum(axis=1, dtype=np.int64)
        column = self._columns(teacher)
        last = np.where(column < 0, nobody, taught[np.arange(len(ids)), column])
        if (nobody < 0).any() or (last < 1).any():
            raise DataError("a sample's decisions do not agree with who taught it.")
        self._teacher, self._label, self._decisions, self._taught = teacher, label, decisions, taught


def _integers(name: str, values: Integers) -> np.ndarray:
    """`values` as a flat int64 array."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise DataError(f"{name} must be a flat list of integers, got shape {list(array.shape)} of {array.dtype}.")
    return array.astype(np.int64, copy=False)


def _checked(table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    if table.column_names.count(name) != 1:
        raise DataError(f"column {name!r} is missing or there twice; there are {', '.join(table.column_names)}.")
    column = table.column(name)
    if column.type != kind:
        raise DataError(f"column {name!r} must be {kind}, got {column.type}.")
    return column


def _column(table: pa.Table, name: str, kind: pa.DataType, null: int | None = None) -> np.ndarray:
    """A column's values in memory of our own; nulls are refused where nothing stands for them."""
    column = _checked(table, name, kind)
    if column.null_count and null is None:
        raise DataError(f"column {name!r} has {column.null_count} missing values.")
    return (column.fill_null(null) if column.null_count else column).to_numpy().copy()
