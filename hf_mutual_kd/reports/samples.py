"""What an arm recorded of the test split, before and after: single samples, sums over all, and what intervals need."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import OutputFolderError
from ..files import write_bytes

SAMPLES_FILE = Path("report") / "samples.safetensors"
"""Where an arm keeps it, inside its folder."""

BINS = 15
"""Of equal width, for reliability and ECE."""

MOST_ROWS = 100_000
"""Samples of which single numbers are kept, the first that an evaluation meets."""

SAMPLE = "sample/"
"""Begins the names of arrays with a row for each sample, `sample/id` among them."""

UNIT = "unit/"
"""Begins the names of `unit/id` `[U]` and `unit/sums` `[U, N + 1, ...]`: what every unit of the resampling (a sample,
an image or a video) adds to the metrics of each peer and of the ensemble."""


@dataclass
class SampleRecorder:
    """Takes in numbers of single samples batch by batch; keeps the first `most` samples.

    Args:
        begins (`str`, *optional*, defaults to [`SAMPLE`]): of the arrays' names.
        most (`int`, *optional*): [`MOST_ROWS`] when unset.

    Example:

    ```python
    >>> recorder = SampleRecorder()
    >>> recorder.add(id=np.array([7, 3]), score=np.array([[0.5], [0.25]]))
    >>> recorder.joined()
    {'sample/id': array([3, 7]), 'sample/score': array([[0.25], [0.5 ]])}
    ```
    """

    begins: str = SAMPLE
    most: int | None = None
    rows: int = 0
    parts: list[dict[str, np.ndarray]] = field(default_factory=list)

    def add(self, **columns: np.ndarray) -> None:
        """Keep a batch: arrays of one length, `id` among them."""
        free = (MOST_ROWS if self.most is None else self.most) - self.rows
        if free > 0 and len(columns["id"]):
            self.parts.append({name: values[:free] for name, values in columns.items()})
            self.rows += len(self.parts[-1]["id"])

    def joined(self) -> dict[str, np.ndarray]:
        """All samples by rising id, `{"sample/NAME": rows}`; one that was met twice counts once; empty without any."""
        if not self.parts:
            return {}
        columns = {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}
        _, first = np.unique(columns["id"], return_index=True)
        return {f"{self.begins}{name}": values[first] for name, values in columns.items()}


@dataclass(frozen=True)
class Samples:
    """What one arm recorded of the test split.

    Args:
        peers (`list[str]`): the N peers.
        start, after (`dict[str, np.ndarray]`):
            [`records`] of the peers as they started, and with the weights that were
            kept. Arrays under [`SAMPLE`] have a row for each sample that both met, in the same order.
        facts (`dict`): [`row_facts`] of the test split, and under `"outcomes"` the `statistic` of `unit/sums` and its
            `metrics`.
    """

    peers: list[str]
    start: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    facts: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ids(self) -> np.ndarray:
        """Sample ids `[R]`, rising."""
        return self.start[f"{SAMPLE}id"]

    def phase(self, name: str) -> dict[str, np.ndarray]:
        """`"start"` or `"after"`."""
        return self.start if name == "start" else self.after

    def rows_of(self, ids: Sequence[int]) -> list[int | None]:
        """Where samples stand in the arrays, `None` for those that are not kept."""
        places = {int(identity): row for row, identity in enumerate(self.ids)}
        return [places.get(int(identity)) for identity in ids]


def write_samples(
    path: Path,
    peers: Sequence[str],
    start: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
) -> bool:
    """Write what two evaluations recorded as safetensors; the file appears whole or not at all.

    Returns:
        `bool`: whether there was anything to write; a task that records nothing leaves nothing.
    """
    name = f"{SAMPLE}id"
    if name not in start or name not in after:
        return False
    _, ours, theirs = np.intersect1d(start[name], after[name], assume_unique=True, return_indices=True)
    arrays = {}
    for phase, found, rows in (("start", start, ours), ("after", after, theirs)):
        for key, values in found.items():
            chosen = values[rows] if key.startswith(SAMPLE) else values
            arrays[f"{phase}/{key}"] = np.ascontiguousarray(chosen)
    # One entry: the order of several is not the same in every process.
    about = {"arm": json.dumps({"peers": list(peers), "facts": dict(facts)}, sort_keys=True)}
    write_bytes(path, save(arrays, about))
    return True


def read_samples(path: Path, peers: Sequence[str]) -> Samples | None:
    """What [`write_samples`] wrote, `None` where there is no such file.

    Raises:
        [`OutputFolderError`]: the file is damaged or belongs to other peers.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            arm = json.loads(file.metadata()["arm"])
            if arm["peers"] != list(peers):
                raise ValueError(f"it is of {', '.join(arm['peers'])}, the run has {', '.join(peers)}")
            phases: dict[str, dict[str, np.ndarray]] = {"start": {}, "after": {}}
            for key in file.keys():  # noqa: SIM118
                phase, _, name = key.partition("/")
                phases[phase][name] = file.get_tensor(key)
            found = Samples(list(peers), **phases, facts=dict(arm["facts"]))
            _check_lengths(found)
    except (OSError, KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise OutputFolderError(f"{path} is damaged: {error}; run again, or restore it") from None
    return found


def _check_lengths(found: Samples) -> None:
    for phase in (found.start, found.after):
        for name, values in phase.items():
            if name.startswith(SAMPLE) and len(values) != len(found.ids):
                raise ValueError(f"{name} has {len(values)} rows of {len(found.ids)} samples")
            if name == f"{UNIT}sums" and values.shape[:2] != (len(phase[f"{UNIT}id"]), len(found.peers) + 1):
                raise ValueError(f"{name} has the shape {list(values.shape)}")


def choose_changes(samples: Samples, most: int) -> list[int]:
    """
    Rows of samples to look at: in turn of every peer and direction, those first whose score changed most.

    Of samples that come in groups (`sample/group`, such as the frames of a video) each group has its turn before one
    comes twice.

    Returns:
        `list[int]`: at most `most` rows, in the order of the choice; equal for equal records.
    """
    change = np.nan_to_num(samples.after[f"{SAMPLE}score"] - samples.start[f"{SAMPLE}score"])
    groups = samples.start.get(f"{SAMPLE}group", np.zeros(len(change), np.int64)).tolist()
    queues = []
    for peer in range(change.shape[1]):
        for direction in (1, -1):
            size = direction * change[:, peer]
            seen: dict[int, int] = {}
            ranked = []
            for row in np.argsort(-size, kind="stable")[: int((size > 0).sum())].tolist():
                turn = seen[groups[row]] = seen.get(groups[row], -1) + 1
                ranked.append((turn, -float(size[row]), row))
            queues.append([row for _, _, row in sorted(ranked)])
    return round_robin(queues, most)


def round_robin(queues: Sequence[Sequence[int]], most: int) -> list[int]:
    """The first of every queue, then the second of every queue, …, each row once and at most `most` of them.

    Example:

    ```python
    >>> round_robin([[3, 1], [3, 2]], most=3)
    [3, 1, 2]
    ```
    """
    chosen: dict[int, None] = {}
    for turn in range(max(map(len, queues), default=0)):
        for queue in queues:
            if turn < len(queue) and len(chosen) < most:
                chosen[queue[turn]] = None
    return list(chosen)
