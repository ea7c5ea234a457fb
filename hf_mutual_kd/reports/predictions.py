"""What every peer believed of single test samples, before and after: kept as Parquet, the source of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import OutputFolderError
from ..files import whole

PREDICTIONS = Path("report") / "predictions.parquet"
"""Where an arm keeps them, inside its folder."""

MOST_ROWS = 100_000
"""Samples that are kept, the first that an evaluation meets: about `4 + 20 N` bytes each for N peers."""

PHASES = ("start", "after")
NO_LABEL = -1


@dataclass
class Beliefs:
    """What N peers said of R samples at one time.

    Args:
        guess (`[R, N]`, int32): the predicted class; -1 for a peer whose output was not finite.
        probability (`[R, N]`, float32): of the predicted class, 0 to 1.
        truth (`[R, N]`, float32): probability of the true class; NaN where a sample has no label.
    """

    guess: np.ndarray
    probability: np.ndarray
    truth: np.ndarray

    def select(self, rows: np.ndarray) -> Beliefs:
        """The same of some samples, in their order."""
        return Beliefs(self.guess[rows], self.probability[rows], self.truth[rows])


@dataclass
class PredictionRecorder:
    """Takes in an evaluation batch by batch; keeps the first [`MOST_ROWS`] samples."""

    rows: int = 0
    parts: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    def add(self, batch: Mapping[str, np.ndarray]) -> None:
        """
        Keep a batch of readable samples.

        Args:
            batch (`dict[str, np.ndarray]`): `sample_ids` `[B]`, `labels` `[B]` (below 0: none), `top5` `[B, N, K]`
                (classes, best first), `confidence` `[B, N]` (probability of the first), `loss` `[B, N]` (cross-entropy
                of the truth in nats).
        """
        free = MOST_ROWS - self.rows
        if free <= 0:
            return
        labels = batch["labels"][:free]
        truth = np.where(labels[:, None] >= 0, np.exp(-batch["loss"][:free]), np.nan)
        guess, probability = batch["top5"][:free, :, 0], batch["confidence"][:free]
        self.parts.append((batch["sample_ids"][:free], labels, guess, probability, truth))
        self.rows += len(labels)

    def joined(self) -> tuple[np.ndarray, np.ndarray, Beliefs]:
        """Sample ids and labels `[R]`, by id, and the peers' beliefs; a sample that was met twice counts once."""
        ids, labels, guess, probability, truth = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        _, first = np.unique(ids, return_index=True)
        beliefs = Beliefs(guess.astype(np.int32), probability.astype(np.float32), truth.astype(np.float32))
        return ids[first].astype(np.int64), labels[first].astype(np.int32), beliefs.select(first)


@dataclass
class Predictions:
    """The samples of one arm's test split that were measured before and after.

    Args:
        peers (`list[str]`): the N peers.
        ids (`[R]`, int64): sample ids, rising.
        labels (`[R]`, int32): the truth; below 0 where there is none.
        start, after ([`Beliefs`]): of the peers as they started, and with the weights that were kept.
    """

    peers: list[str]
    ids: np.ndarray
    labels: np.ndarray
    start: Beliefs
    after: Beliefs

    def __len__(self) -> int:
        return len(self.ids)

    def phase(self, name: str) -> Beliefs:
        """`"start"` or `"after"`."""
        return self.start if name == "start" else self.after

    def right(self, phase: str) -> np.ndarray:
        """Whether each peer was right: bool `[R, N]`."""
        return (self.phase(phase).guess == self.labels[:, None]) & (self.labels >= 0)[:, None]

    def flips(self) -> np.ndarray:
        """`[R, N]`: 1 from wrong to right, -1 from right to wrong, 0 otherwise."""
        return self.right("after").astype(np.int8) - self.right("start").astype(np.int8)


def write_predictions(
    path: Path, peers: Sequence[str], start: PredictionRecorder | None, after: PredictionRecorder | None
) -> bool:
    """Write the samples that both evaluations met; the file appears whole or not at all.

    Columns: `sample_id` (int64), `label` (int32 or null), and for every peer and each of `start` and `after`
    `PHASE/NAME/guess` (int32), `PHASE/NAME/probability` and `PHASE/NAME/truth` (float32).

    Returns:
        `bool`: whether there was anything to write; a task that records nothing leaves nothing.
    """
    if start is None or after is None or not start.rows or not after.rows:
        return False
    (ids, labels, before), (later_ids, _, later) = start.joined(), after.joined()
    _, ours, theirs = np.intersect1d(ids, later_ids, assume_unique=True, return_indices=True)
    columns = {"sample_id": pa.array(ids[ours]), "label": pa.array(labels[ours], mask=labels[ours] < 0)}
    for phase, beliefs in zip(PHASES, (before.select(ours), later.select(theirs)), strict=True):
        for index, name in enumerate(peers):
            for what in ("guess", "probability", "truth"):
                columns[f"{phase}/{name}/{what}"] = pa.array(getattr(beliefs, what)[:, index])
    with whole(path) as beside:
        pq.write_table(pa.table(columns), beside)
    return True


def read_predictions(path: Path, peers: Sequence[str]) -> Predictions | None:
    """What [`write_predictions`] wrote, `None` where there is no such file.

    Raises:
        [`OutputFolderError`]: the file is damaged or belongs to other peers.
    """
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path, partitioning=None)
        ids = table["sample_id"].to_numpy().astype(np.int64)
        labels = table["label"].fill_null(NO_LABEL).to_numpy().astype(np.int32)
        phases = [
            Beliefs(*(_columns(table, phase, peers, what) for what in ("guess", "probability", "truth")))
            for phase in PHASES
        ]
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise OutputFolderError(f"{path} is damaged: {error}; run again, or restore it") from None
    return Predictions(list(peers), ids, labels, *phases)


def _columns(table: pa.Table, phase: str, peers: Sequence[str], what: str) -> np.ndarray:
    """One kind of belief of all peers `[R, N]`."""
    kind = np.int32 if what == "guess" else np.float32
    columns = [table[f"{phase}/{name}/{what}"].to_numpy().astype(kind) for name in peers]
    return np.stack(columns, axis=1)
