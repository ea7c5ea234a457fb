"""The numbers of a run's report, from its records alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..distillation.roles import ALL_NAME, MEAN_NAME
from ..errors import OutputFolderError
from .curves import Points, read_history
from .pictures import PICTURES, SampleImages, read_pictures
from .predictions import PeerOutputs, Predictions, predictions_of
from .run_record import RunRecord
from .samples import BINS, SAMPLES_FILE, Samples, read_samples, round_robin

NOBODY = "nobody"
MOST_SAMPLES = 60
"""Flipped samples that a page shows: with a thumbnail each it stays below a megabyte or two."""


@dataclass
class ReportData:
    """A run and the single samples that its arms recorded.

    Args:
        run ([`RunRecord`]): its records.
        samples (`dict[str, list[Samples]]`): under `"mutual"` and `"control"`, a part for each seed that has them, the
            first seed's first.
        pictures (`list[SampleImages]`): of test samples.
        inside (`bool`, *optional*, defaults to `True`): whether the page lies in the run's folder, as its files do.
    """

    run: RunRecord
    samples: dict[str, list[Samples]] = field(default_factory=dict)
    pictures: list[SampleImages] = field(default_factory=list)
    inside: bool = True

    @property
    def peers(self) -> list[str]:
        return list(self.run.peers)

    @functools.cached_property
    def predictions(self) -> dict[str, list[Predictions]]:
        """What classifiers recorded, by arm and seed as `samples`."""
        parts = {arm: [predictions_of(part) for part in found] for arm, found in self.samples.items()}
        return {arm: [part for part in found if part is not None] for arm, found in parts.items()}

    @property
    def first(self) -> Predictions | None:
        """Those of the weights that lie in the run's folders."""
        return next(iter(self.predictions.get("mutual", [])), None)

    def label(self, index: int) -> str:
        """The name of a class."""
        return str(self.run.labels[index]) if 0 <= index < len(self.run.labels) else f"class {index}"


def read_report_data(run: RunRecord) -> ReportData:
    """Find what all arms recorded of the test split; a run without any has the sections that need none."""
    peers, arms = list(run.peers), run.arm_folders()
    found = {arm: [read_samples(folder / SAMPLES_FILE, peers) for folder in folders] for arm, folders in arms.items()}
    samples = {arm: [part for part in parts if part] for arm, parts in found.items()}
    return ReportData(run, samples, read_pictures(run.folder / PICTURES, peers))


@dataclass
class Reliability:
    """How often a peer is right when it is this sure.

    Args:
        confidence, accuracy, share (`[BINS]`): mean confidence, share that is right and share of the samples in each
            bin; NaN in the first two where a bin is empty.
        error (`float`): expected calibration error (Guo et al. 2017, eq. 3): `Σ share · |accuracy - confidence|`.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray
    error: float


def reliability(outputs: PeerOutputs, labels: np.ndarray, peer: int) -> Reliability:
    """
    Bin the labelled samples of one peer by its confidence.

    Args:
        outputs ([`PeerOutputs`]): of R samples.
        labels (`[R]`): those below 0 are left out, and so are outputs that are not finite.
        peer (`int`): index.

    Example:

    Two samples of confidence 0.8, one of them right: they are 0.3 too sure.

    ```python
    >>> outputs = PeerOutputs(np.array([[1], [1]]), np.array([[0.8], [0.8]]), np.array([[0.8], [0.1]]))
    >>> round(reliability(outputs, np.array([1, 0]), 0).error, 3)
    0.3
    ```
    """
    probability, guess = outputs.probability[:, peer], outputs.guess[:, peer]
    known = (labels >= 0) & np.isfinite(probability)
    sure, right = probability[known].astype(np.float64), guess[known] == labels[known]
    place = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    sums = [np.bincount(place, weights=weights, minlength=BINS) for weights in (None, sure, right)]
    return reliability_of(np.stack(sums))


def reliability_of(sums: np.ndarray) -> Reliability:
    """From the sums of each bin, `[3, BINS]`: how many, of their confidence, how many are right.

    Example:

    Four of confidence 0.75, two of them right.

    ```python
    >>> sums = np.zeros((3, BINS))
    >>> sums[:, 11] = 4, 3.0, 2
    >>> reliability_of(sums).error
    0.25
    ```
    """
    count, sure, right = sums
    filled = np.where(count > 0, count, np.nan)
    confidence, accuracy = sure / filled, right / filled
    share = count / max(1, count.sum())
    return Reliability(confidence, accuracy, share, float(np.nansum(share * np.abs(accuracy - confidence))))


def confusion(predictions: Predictions, phase: str, peer: int, classes: int) -> np.ndarray:
    """Samples by truth and prediction `[C, C]`; outputs that are not finite and samples without label are left out."""
    guess = predictions.phase(phase).guess[:, peer]
    known = (predictions.labels >= 0) & (predictions.labels < classes) & (guess >= 0) & (guess < classes)
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (predictions.labels[known], guess[known]), 1)
    return counts


def confusion_changes(before: np.ndarray, after: np.ndarray, most: int = 8) -> list[tuple[int, int]]:
    """The pairs of truth and wrong prediction whose count changed most, the largest change first."""
    change = after - before
    np.fill_diagonal(change, 0)
    order = np.argsort(-np.abs(change), axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(change)) for place in order]
    return [(truth, guess) for truth, guess in pairs if change[truth, guess]]


@dataclass
class Teaching:
    """Decisions of the training, over all seeds.

    Args:
        who (`list[str]`): the peers, `"<mean>"`, `"<all>"` and `"nobody"`.
        by_class (`dict[int, np.ndarray]`): decisions `[len(who)]` on the samples of each class; -1: without label.
    """

    who: list[str]
    by_class: dict[int, np.ndarray]

    @property
    def total(self) -> np.ndarray:
        """Decisions that went to each of `who`."""
        return sum(self.by_class.values(), np.zeros(len(self.who), dtype=np.int64))

    def matrix(self, students: Sequence[str]) -> np.ndarray:
        """Decisions in which each of `who` but nobody taught each student `[N + 2, S]`; nobody teaches itself."""
        counts = np.repeat(self.total[:-1, None], len(students), axis=1)
        for column, student in enumerate(students):
            counts[self.who.index(student), column] = 0
        return counts


def read_teaching(run: RunRecord) -> Teaching | None:
    """Add up the role tables of all seeds, `None` where nobody was ever to teach.

    Raises:
        [`OutputFolderError`]: a role table is damaged.
    """
    who = [*run.peers, MEAN_NAME, ALL_NAME, NOBODY]
    by_class: dict[int, np.ndarray] = {}
    for folder in run.arm_folders()["mutual"]:
        path = folder / "roles.parquet"
        if not path.is_file():
            continue
        try:
            table = pq.read_table(path, partitioning=None)
            names = table.column_names
            zeros = np.zeros(len(table), dtype=np.int64)
            taught = [table[f"taught/{name}"].to_numpy() if f"taught/{name}" in names else zeros for name in who[:-1]]
            decisions = table["decisions"].to_numpy()
            label = table["label"].fill_null(-1).to_numpy() if "label" in names else zeros - 1
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise OutputFolderError(f"{path} is damaged: {error}; run again, or restore it") from None
        counts = np.stack([*taught, decisions - sum(taught)], axis=1).astype(np.int64)
        for value in np.unique(label).tolist():
            here = counts[label == value].sum(axis=0)
            by_class[value] = by_class.get(value, np.zeros(len(who), dtype=np.int64)) + here
    taught_at_all = any(counts[:-1].any() for counts in by_class.values())
    return Teaching(who, dict(sorted(by_class.items()))) if taught_at_all and len(run.peers) > 1 else None


def taught_over_time(run: RunRecord) -> dict[str, Points]:
    """The share of units that each peer taught, as the first seed's log has it: `{peer: [(step, share)]}`."""
    history = [row for row in read_history(run.folder) if "step" in row]
    # A step that was logged twice, as after a resume, keeps the later value.
    shares = {
        name: {
            int(row["step"]): float(value)
            for row in history
            if isinstance(value := row.get(f"{name}/taught"), int | float)
        }
        for name in run.peers
    }
    return {name: sorted(points.items()) for name, points in shares.items()}


@dataclass
class Corrections:
    """The samples that peers got right only after training, and who had known them before.

    Args:
        counts (`[N]`): such samples of each peer, over all seeds.
        known (`[N]`): those of them that another peer was right about at the start.
        flow (`[N + 1, N]`): to each peer (column) from whom (row); a sample that several knew is shared equally, the
            last row is samples that nobody else knew. Each column sums to `counts`.
    """

    counts: np.ndarray
    known: np.ndarray
    flow: np.ndarray


def corrections(parts: Sequence[Predictions]) -> Corrections | None:
    """Add up the corrections of an arm's seeds; `None` where no labelled sample was recorded.

    Example:

    Peer 1 was right from the start on the only sample, peer 0 is right after training: one correction, from peer 1.

    ```python
    >>> wrong_right, right = np.array([[0, 1]]), np.array([[1, 1]])
    >>> start, after = (PeerOutputs(guess, np.ones((1, 2)), np.ones((1, 2))) for guess in (wrong_right, right))
    >>> corrections([Predictions(["a", "b"], np.array([7]), np.array([1]), start, after)]).flow
    array([[0., 0.],
           [1., 0.],
           [0., 0.]])
    ```
    """
    if not parts or not any((part.labels >= 0).any() for part in parts):
        return None
    peers = len(parts[0].peers)
    counts, known, flow = np.zeros(peers, np.int64), np.zeros(peers, np.int64), np.zeros((peers + 1, peers))
    for part in parts:
        knew, gained = part.right("start"), part.flips() > 0
        for student in range(peers):
            # Who was corrected was wrong itself, so that nobody is its own source.
            sources = knew[gained[:, student]].astype(np.float64)
            number = sources.sum(axis=1)
            counts[student] += len(sources)
            known[student] += int((number > 0).sum())
            flow[:-1, student] += (sources / np.maximum(number, 1)[:, None]).sum(axis=0)
            flow[-1, student] += (number == 0).sum()
    return Corrections(counts, known, flow)


def choose_flips(predictions: Predictions, most: int) -> list[int]:
    """
    Rows of flipped samples to look at: in turn of every peer, kind and class, those first whose probability of the
    truth changed most.

    Returns:
        `list[int]`: at most `most` rows, in the order of the choice; equal for equal records.
    """
    flips = predictions.flips()
    change = np.abs(predictions.after.truth - predictions.start.truth)
    groups: dict[tuple[int, int, int], list[tuple[float, int]]] = {}
    for row, peer in zip(*(axis.tolist() for axis in np.nonzero(flips)), strict=True):
        size = float(np.nan_to_num(change[row, peer]))
        groups.setdefault((peer, int(flips[row, peer]), int(predictions.labels[row])), []).append((-size, row))
    queues = sorted(sorted(group) for group in groups.values())
    return round_robin([[row for _, row in queue] for queue in queues], most)
