"""What is kept of each peer: its start, its adapted or fine-tuned weights, or what it learned from its peers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import DataError

PLAIN = ("start", "adapted", "control")
"""What a user has without transfer, simplest first: the best of it is kept unless something is clearly better."""

BETTER = ("self", "mutual")
"""What has to be clearly better than that, simplest first."""

ALPHAS = (0.25, 0.5, 0.75)
"""Places between a peer's start (0) and the end of a training (1) that are tried: Wortsman et al., Robust fine-tuning
of zero-shot models, CVPR 2022, arXiv 2109.01903."""


@dataclass(frozen=True)
class Candidate:
    """
    Weights that one peer could be kept with, measured on the rows that select.

    Args:
        what (`str`): one of [`PLAIN`] or [`BETTER`].
        value (`float`): the task's metric.
        scores (`np.ndarray` of shape `[rows]`): what each row says of the metric, higher is better, see
            [`Evaluator.metric_scores`]; rows in the same order for all candidates of a peer.
        alpha (`float`, *optional*, defaults to 1.0): weights are `start + alpha * (end - start)`.
        way (`str`, *optional*): which way of teaching, for `"mutual"`.
    """

    what: str
    value: float
    scores: np.ndarray
    alpha: float = 1.0
    way: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether these are weights that a user has without transfer and without mixing."""
        return self.what in PLAIN and self.alpha == 1.0

    @property
    def simplicity(self) -> tuple[int, float]:
        """Lower is simpler: first what was trained, then how little of the start is mixed in."""
        return (*PLAIN, *BETTER).index(self.what), 1.0 - self.alpha


@dataclass(frozen=True)
class Choice:
    """
    What is kept of a peer, and why.

    Args:
        what (`str`): as of [`Candidate`].
        alpha (`float`): as of [`Candidate`].
        way (`str`, *optional*): as of [`Candidate`].
        value (`float`): its metric on the rows that select.
        against (`str`): the best of [`PLAIN`], with which it was compared.
        against_value (`float`): that one's metric.
        gain (`float`): mean over rows of the difference of scores, in favour of what is kept.
        margin (`float`): one standard error of that mean: what had to be exceeded.
        rows (`int`): that select.
    """

    what: str
    alpha: float
    way: str | None
    value: float
    against: str
    against_value: float
    gain: float
    margin: float
    rows: int

    def as_json(self) -> dict[str, Any]:
        """For records."""
        return asdict(self)


def paired(scores: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """
    Mean difference of two scores of the same rows, and its standard error; infinite for one row.

    Example:

    ```python
    >>> paired(np.array([1.0, 1.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0, 0.0]))
    (0.5, 0.28867513459481287)
    ```
    """
    difference = np.asarray(scores, np.float64) - np.asarray(others, np.float64)
    if len(difference) < 2:
        return float(difference.mean()) if len(difference) else 0.0, math.inf
    return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))


def choose(candidates: Sequence[Candidate], greater_is_better: bool = True) -> Choice:
    """
    What to keep of one peer.

    The best of start, adapted and control is kept, the simpler one where they are equal: so what is kept is never
    worse than any of them on these rows. It gives way only to what is better in the metric and by more than one
    standard error of the paired difference of the rows' scores, also to places on the way to the control's end (the
    best of several such places is above it on most rows by chance alone); of several such, to the simplest that is not
    itself exceeded by so much by the best of them.

    Args:
        candidates (`list[Candidate]`): of one peer, at least one of [`PLAIN`] among them.
        greater_is_better (`bool`): of the metric.

    Raises:
        [`DataError`]: no plain candidate, no rows, or rows that differ.

    Example:

    ```python
    >>> right = np.array([1.0] * 90 + [0.0] * 10), np.array([1.0] * 80 + [0.0] * 20)
    >>> choose([Candidate("control", 0.8, right[1]), Candidate("mutual", 0.9, right[0])]).what
    'mutual'
    ```
    """
    plain = [one for one in candidates if one.is_plain and math.isfinite(one.value)]
    if not plain or not len(plain[0].scores):
        raise DataError("there is nothing to choose by: no row has a label, or nothing finite was measured")
    if len({len(one.scores) for one in candidates}) > 1:
        raise DataError("candidates were measured on different rows")

    def worth(one: Candidate) -> float:
        return one.value if greater_is_better else -one.value

    def first_of_best(some: Sequence[Candidate]) -> Candidate:
        return min(some, key=lambda one: (-worth(one), one.simplicity))

    base = first_of_best(plain)

    def exceeds(one: Candidate, other: Candidate) -> bool:
        gain, margin = paired(one.scores, other.scores)
        return worth(one) > worth(other) and gain > margin

    better = [one for one in candidates if not one.is_plain and math.isfinite(one.value) and exceeds(one, base)]
    kept = base
    if better:
        best = first_of_best(better)
        kept = min((one for one in better if not exceeds(best, one)), key=lambda one: one.simplicity)
    return _choice(kept, base)


def compare(kept: Candidate, plain: Sequence[Candidate], greater_is_better: bool = True) -> Choice:
    """The same record where what is kept was decided without looking at rows."""
    return _choice(kept, max(plain, key=lambda one: one.value if greater_is_better else -one.value))


def _choice(kept: Candidate, base: Candidate) -> Choice:
    gain, margin = paired(kept.scores, base.scores)
    return Choice(
        what=kept.what,
        alpha=kept.alpha,
        way=kept.way,
        value=kept.value,
        against=base.what,
        against_value=base.value,
        gain=gain,
        margin=margin if kept is not base else 0.0,
        rows=len(base.scores),
    )


def best_way(values: Mapping[str, Mapping[str, float]], greater_is_better: bool = True) -> str:
    """
    The way of teaching whose peers are best in the mean; the first of equals.

    Args:
        values (`dict[str, dict[str, float]]`): the metric by way and peer.
        greater_is_better (`bool`): of the metric.

    Raises:
        [`DataError`]: there is no way, or none has finite values.

    Example:

    ```python
    >>> best_way({"gated": {"a": 0.8, "b": 0.7}, "mean": {"a": 0.7, "b": 0.9}})
    'mean'
    ```
    """
    means = {way: sum(peers.values()) / len(peers) for way, peers in values.items() if peers}
    finite = {way: mean if greater_is_better else -mean for way, mean in means.items() if math.isfinite(mean)}
    if not finite:
        raise DataError("no way of teaching has a finite value")
    return max(finite, key=lambda way: finite[way])
