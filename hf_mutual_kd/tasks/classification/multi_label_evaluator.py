"""Measures classifiers of several labels: average precision of each class, F1, and what changed against the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ...data.images import UNREADABLE
from ...errors import DataError
from ...reports.intervals import f1_of
from ...reports.samples import UNIT, SampleRecorder
from ..base import Evaluator
from ..remembered_rows import RememberedRows


def average_precision(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """
    Of each class the mean precision over its samples, by falling score; as `sklearn.metrics.average_precision_score`.

    Args:
        scores (`np.ndarray` of shape `[R, C]`): higher is surer; equal ones count together.
        truth (`np.ndarray` of shape `[R, C]`, bool): whether the sample has the class.

    Returns:
        `np.ndarray` `[C]`, 0 to 1; NaN for a class that no sample has.

    Example:

    ```python
    >>> average_precision(np.array([[0.9], [0.8], [0.1]]), np.array([[True], [False], [True]]))
    array([0.83333333])
    ```
    """
    found = np.full(scores.shape[1], np.nan)
    for column in np.flatnonzero(truth.any(0)):
        order = np.argsort(-scores[:, column], kind="stable")
        ranked, hits = scores[order, column], np.cumsum(truth[order, column])
        ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        recalled = np.diff(hits[ends], prepend=0)
        found[column] = float((recalled * hits[ends] / (ends + 1)).sum() / hits[-1])
    return found


def fitted_thresholds(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """
    For each class above which score a sample is said to have it, so that F1 is highest on these samples.

    Args:
        scores (`np.ndarray` of shape `[R, C]`): probabilities.
        truth (`np.ndarray` of shape `[R, C]`, bool): whether the sample has the class.

    Returns:
        `np.ndarray` `[C]`: half way between two scores, of equally good ones the highest; 0.5 for a class that no
        sample has.

    Example:

    ```python
    >>> fitted_thresholds(np.array([[0.4], [0.3], [0.1]]), np.array([[True], [True], [False]]))
    array([0.2])
    ```
    """
    found = np.full(scores.shape[1], 0.5)
    for column in np.flatnonzero(truth.any(0)):
        order = np.argsort(-scores[:, column], kind="stable")
        ranked, hits = scores[order, column].astype(np.float64), np.cumsum(truth[order, column])
        ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        best = ends[np.argmax(2 * hits[ends] / (ends + 1 + hits[-1]))]
        below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
        found[column] = (ranked[best] + below) / 2
    return found


class MultiLabelEvaluator(Evaluator):
    """Per peer: mAP, macro and micro F1 at 0.5, macro F1 at `thresholds` where they are given, right decisions, loss,
    flips of decisions, agreement; of the cohort the ensemble.

    It holds what every peer says of every sample: `4 (N + 1) C` bytes each. Classes without a sample are left out of
    the means.
    """

    statistic = "f1"
    metrics = ("F1", "micro_F1")

    def __init__(self, peer_names: Sequence[str], num_classes: int, start: MultiLabelEvaluator | None = None):
        self.peer_names, self.start = list(peer_names), start
        self.thresholds: Mapping[str, Sequence[float]] = {}
        self.samples = self.labelled = 0
        self.rows = RememberedRows()
        self.single, self.units = SampleRecorder(), SampleRecorder(UNIT)
        self.probs: list[np.ndarray] = []
        self.truth: list[np.ndarray] = []
        self.loss = np.zeros(len(self.peer_names))
        self.taught = np.zeros(len(self.peer_names), dtype=np.int64)
        self.agreeing = np.zeros(len(self.peer_names))
        self.flips = np.zeros((2, len(self.peer_names)))
        self.compared = 0

    def add(self, facts: dict[str, Tensor]) -> None:
        readable = (facts["labels"] != UNREADABLE).all(1).cpu().numpy()
        batch = {key: value.cpu().numpy()[readable] for key, value in facts.items()}
        labels = batch["labels"]
        known = (labels >= 0).all(1)
        self.samples += len(labels)
        self.labelled += int(known.sum())
        if 0 < self.labelled < self.samples:
            raise DataError("a row of an evaluation split has no label; every row that measures needs one, or none")
        said = np.concatenate([batch["probs"], batch["ensemble"][:, None]], axis=1)
        said = np.nan_to_num(said, nan=-1.0)
        yes = said > 0.5
        self.agreeing += (yes[:, :-1] == yes[:, -1:]).mean(2).sum(0)
        if self.labelled:
            self._measure(batch, said, labels == 1, yes)

    def _measure(self, batch: dict[str, np.ndarray], said: np.ndarray, truth: np.ndarray, yes: np.ndarray) -> None:
        ids = batch["sample_ids"].astype(np.int64)
        self.probs.append(said.astype(np.float32))
        self.truth.append(truth)
        self.loss += batch["loss"].astype(np.float64).sum(0)
        self.taught += np.bincount(batch["teacher"] + 1, minlength=len(self.peer_names) + 1)[1:]
        self.single.add(id=ids, loss=batch["loss"].astype(np.float32), score=-batch["loss"].astype(np.float32))
        hits = yes & truth[:, None]
        sums = np.stack([hits, yes, np.broadcast_to(truth[:, None], yes.shape)], axis=2)
        self.units.add(id=ids, sums=sums.astype(np.int32))
        right = (yes == truth[:, None])[:, :-1]
        if self.start is None:
            self.rows.add(ids, right)
            return
        known, before = self.start.rows.lookup(ids)
        if len(known):
            now = right[known]
            self.flips += np.stack([(now & ~before).mean(2).sum(0), (before & ~now).mean(2).sum(0)])
            self.compared += len(known)

    def records(self) -> dict[str, np.ndarray]:
        """The loss of every peer on each sample, and what each adds to F1."""
        return self.single.joined() | self.units.joined()

    def by_class(self) -> dict[str, list[float | None]]:
        if not self.labelled:
            return {}
        truth = np.concatenate(self.truth)
        found = [average_precision(part, truth) for part in np.concatenate(self.probs).swapaxes(0, 1)[:-1]]
        return {
            name: [None if np.isnan(value) else float(value) for value in values]
            for name, values in zip(self.peer_names, found, strict=True)
        }

    def settled(self) -> dict[str, list[float]]:
        """The thresholds of each peer, see [`fitted_thresholds`]; of nobody where there are no labels."""
        if not self.labelled:
            return {}
        said, truth = np.concatenate(self.probs).swapaxes(0, 1), np.concatenate(self.truth)
        return {
            name: fitted_thresholds(one, truth).tolist() for name, one in zip(self.peer_names, said[:-1], strict=True)
        }

    def compute(self) -> dict[str, dict[str, float]]:
        if not self.samples:
            raise DataError("an evaluation split has no rows")
        results: dict[str, dict[str, float]] = {
            name: {"agreement": float(value / self.samples)}
            for name, value in zip(self.peer_names, self.agreeing, strict=True)
        }
        results["cohort"] = {"samples": self.samples}
        if not self.labelled:
            return results
        truth, said = np.concatenate(self.truth), np.concatenate(self.probs)
        if not truth.any():
            raise DataError("no row of an evaluation split has any class, so that average precision is undefined")
        for index, name in enumerate([*self.peer_names, "cohort"]):
            begins = "ensemble_" if name == "cohort" else ""
            results[name] |= {f"{begins}{key}": value for key, value in scores_of(said[:, index], truth).items()}
        for index, name in enumerate(self.peer_names):
            if name in self.thresholds:
                fitted = scores_of(said[:, index], truth, np.asarray(self.thresholds[name], np.float32))
                results[name]["fitted_F1"] = fitted["F1"]
            results[name] |= {
                "loss": float(self.loss[index] / self.labelled),
                "expected_share": float(self.taught[index] / self.labelled),
            }
            if self.compared:
                gained, lost = self.flips[:, index] / self.compared
                results[name] |= {"positive_flips": float(gained), "negative_flips": float(lost)}
        return results


def scores_of(said: np.ndarray, truth: np.ndarray, above: float | np.ndarray = 0.5) -> dict[str, float]:
    """mAP, and F1 and right decisions above a threshold, of one peer's probabilities `[R, C]`."""
    yes = said > above
    counts = np.stack([(yes & truth).sum(0), yes.sum(0), truth.sum(0)])
    macro, micro = f1_of(counts)
    return {
        "mAP": float(np.nanmean(average_precision(said, truth))),
        "F1": float(macro),
        "micro_F1": float(micro),
        "decisions": float((yes == truth).mean()),
    }
