"""What a candidate has that my model lacks, in numbers, and which candidates cover most of it. Arrays only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959964
"""Standard normal deviate of a two-sided 95 % interval."""

HARDEST = 0.25
"""Share of the samples that counts as hardest: those on which my model's margin is lowest."""

EXACT_UP_TO = 50_000
"""Cohorts that are all looked at; of more, one is built greedily."""


@dataclass(frozen=True)
class Estimate:
    """A share or difference with its 95 % interval, 1 is 100 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Complement:
    """
    How a candidate complements my model on R labelled samples of C classes.

    Args:
        accuracy (`float`): of the candidate.
        lift ([`Estimate`]): accuracy of the two models' mean probability minus that of my model, which candidates are
            ranked by: in our study (docs/SUITES.md, docs/HUNT.md) it went with what my model gains by training, where
            `gain` did not.
        gain ([`Estimate`]): the same minus the accuracy of the better model: whether both may gain.
        positive_flips, negative_flips ([`Estimate`]): share of samples that the candidate alone, or my model alone,
            has right.
        by_class (`list[float | None]`): positive flips within each class; `None` for a class without a sample.
        hardest (`float`): the candidate's accuracy on the quarter of samples that my model finds hardest.
        agreement (`float`): share of samples on which both predict the same class.
        error_correlation (`float`, *optional*): phi coefficient of the two models' errors; none where one of them is
            right on all samples or on none.
        oracle (`float`): share of samples that at least one of the two has right.
    """

    accuracy: float
    lift: Estimate
    gain: Estimate
    positive_flips: Estimate
    negative_flips: Estimate
    by_class: list[float | None]
    hardest: float
    agreement: float
    error_correlation: float | None
    oracle: float


@dataclass(frozen=True)
class Choice:
    """
    Partners for my model.

    Args:
        partners (`list[int]`): indices of the candidates, one to three; empty where none covers anything.
        covered (`int`): how many of my model's errors at least one of them has right.
        errors (`int`): of my model.
        exact (`bool`): whether all cohorts within the budget were compared; otherwise it was built greedily.
    """

    partners: list[int]
    covered: int
    errors: int
    exact: bool


def wilson(hits: int, trials: int) -> Estimate:
    """
    A share with Wilson's score interval (JASA 22, 1927), which also holds for shares near 0 and 1.

    Example:

    ```python
    >>> wilson(1, 10)
    Estimate(value=0.1, low=0.01788, high=0.40415)
    ```
    """
    if trials == 0:
        return Estimate(0.0, 0.0, 1.0)
    share, square = hits / trials, Z * Z
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2)) / (1 + square / trials)
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))


def ensemble_gain(right: np.ndarray, together: np.ndarray) -> Estimate:
    """
    Accuracy of an ensemble minus that of its best member, with the normal interval of the paired difference.

    Args:
        right (`[N, R]`, bool): which samples each member has right.
        together (`[R]`, bool): which the ensemble has right.

    Example:

    ```python
    >>> ensemble_gain(np.array([[True, False, True, False], [False, True, False, False]]), np.array([True] * 4)).value
    0.5
    ```
    """
    return paired(together, right[right.mean(axis=1).argmax()])


def paired(right: np.ndarray, base: np.ndarray) -> Estimate:
    """
    The accuracy of one model minus that of another on the same samples, with the normal interval.

    Args:
        right (`[R]`, bool): which samples the one has right.
        base (`[R]`, bool): which the other has right.

    Example:

    ```python
    >>> paired(np.array([True, True, True, False]), np.array([True, False, False, False])).value
    0.5
    ```
    """
    difference = right.astype(float) - base
    value = float(difference.mean())
    half = Z * float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return Estimate(value, value - half, value + half)


def ensemble_right(log_probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    Which samples the mean probability of N models has right.

    Args:
        log_probs (`[N, R, C]`): NaN throughout for a model whose output was not finite, which then does not count.
        labels (`[R]`): the truth.

    Returns:
        `np.ndarray` `[R]`, bool.
    """
    probabilities = np.exp(log_probs)
    return np.nan_to_num(probabilities).sum(axis=0).argmax(axis=1) == labels


def complement(
    mine: np.ndarray, other: np.ndarray, *, together: np.ndarray, labels: np.ndarray, margin: np.ndarray, classes: int
) -> Complement:
    """
    Compare a candidate with my model.

    Args:
        mine (`[R]`): the class that my model predicts.
        other (`[R]`): the class that the candidate predicts.
        together (`[R]`, bool): which samples their mean probability has right.
        labels (`[R]`): the truth.
        margin (`[R]`): of my model for the truth; low is hard.
        classes (`int`): C.
    """
    mine_right, other_right = mine == labels, other == labels
    gained, lost = other_right & ~mine_right, mine_right & ~other_right
    total = len(labels)
    rows = np.bincount(labels, minlength=classes)
    flips = np.bincount(labels[gained], minlength=classes)
    hard = np.argsort(margin, kind="stable")[: max(1, round(HARDEST * total))]
    return Complement(
        accuracy=float(other_right.mean()),
        lift=paired(together, mine_right),
        gain=ensemble_gain(np.stack([mine_right, other_right]), together),
        positive_flips=wilson(int(gained.sum()), total),
        negative_flips=wilson(int(lost.sum()), total),
        by_class=[float(one / count) if count else None for one, count in zip(flips, rows, strict=True)],
        hardest=float(other_right[hard].mean()),
        agreement=float((mine == other).mean()),
        error_correlation=phi(~mine_right, ~other_right),
        oracle=float((mine_right | other_right).mean()),
    )


def phi(left: np.ndarray, right: np.ndarray) -> float | None:
    """
    Correlation of two yes-or-no columns, -1 to 1; none where one of them never varies.

    Example:

    ```python
    >>> phi(np.array([True, True, False, False]), np.array([True, False, False, False]))
    0.57735
    ```
    """
    spread = left.std() * right.std()
    return None if spread == 0 else float(((left & right).mean() - left.mean() * right.mean()) / spread)


def choose_partners(
    covers: np.ndarray, costs: Sequence[float], budget: float = math.inf, most: int = 3, exact_up_to: int = EXACT_UP_TO
) -> Choice:
    """
    The candidates that together have most of my model's errors right, within a budget.

    At equal coverage fewer partners win, then cheaper ones. All cohorts are compared where there are no more than
    `exact_up_to`; otherwise the candidate that adds most is taken again and again, which covers at least 63 % of the
    possible (Nemhauser, Wolsey, Fisher, Mathematical Programming 14, 1978) where the budget does not bind.

    Args:
        covers (`[K, E]`, bool): which of my model's E errors each candidate has right.
        costs (`list[float]`): of each candidate.
        budget (`float`, *optional*): for all partners together; without limit when unset.
        most (`int`, *optional*, defaults to 3): partners at most.
        exact_up_to (`int`, *optional*, defaults to 50000): cohorts.

    Example:

    ```python
    >>> choose_partners(np.array([[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0]], bool), [5, 5, 1], most=2).partners
    [0, 1]
    ```
    """
    count, errors = covers.shape
    affordable = [index for index in range(count) if costs[index] <= budget]
    most = min(most, len(affordable))
    cohorts = sum(math.comb(len(affordable), size) for size in range(1, most + 1))
    exact = cohorts <= exact_up_to
    chosen = (_best if exact else _greedy)(covers, costs, budget, affordable, most)
    covered = int(covers[chosen].any(axis=0).sum()) if chosen else 0
    return Choice(chosen if covered else [], covered, errors, exact)


def _best(covers: np.ndarray, costs: Sequence[float], budget: float, among: list[int], most: int) -> list[int]:
    best: tuple[tuple[float, ...], list[int]] = ((0.0,), [])
    for size in range(1, most + 1):
        for cohort in map(list, itertools.combinations(among, size)):
            cost = sum(costs[index] for index in cohort)
            if cost <= budget:
                rank = (float(covers[cohort].any(axis=0).sum()), -size, -cost)
                best = max(best, (rank, cohort), key=lambda one: one[0])
    return best[1]


def _greedy(covers: np.ndarray, costs: Sequence[float], budget: float, among: list[int], most: int) -> list[int]:
    chosen: list[int] = []
    missing = np.ones(covers.shape[1], dtype=bool)
    while len(chosen) < most:
        left = budget - sum(costs[index] for index in chosen)
        fits = [index for index in among if index not in chosen and costs[index] <= left]
        added = {index: int((covers[index] & missing).sum()) for index in fits}
        if not any(added.values()):
            break
        chosen.append(max(fits, key=lambda index: (added[index], -costs[index])))
        missing &= ~covers[chosen[-1]]
    return sorted(chosen)
