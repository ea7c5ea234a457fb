"""Does a number that is known before training go with the gain? Rank correlation with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

RESAMPLES = 2_000


def with_interval(pairs: Sequence[Sequence[tuple[Any, float]]]) -> tuple[float, float, float]:
    """
    Spearman's ρ and its 95 % bootstrap interval.

    Args:
        pairs: per pair of peers, what is known and the gain of each of the two. Pairs are drawn anew together with
            their peers, as these are not independent.

    Returns:
        `tuple[float, float, float]`: ρ, low, high; NaN where one of the two numbers never varies.

    Example:

    ```python
    >>> with_interval([[(1.0, 0.1)], [(2.0, 0.2)]])[0]
    1.0
    ```
    """
    generator = np.random.default_rng(0)
    drawn = [
        rank_correlation([pairs[place] for place in generator.integers(0, len(pairs), len(pairs))])
        for _ in range(RESAMPLES)
    ]
    known = [one for one in drawn if not math.isnan(one)] or [math.nan]
    low, high = np.quantile(known, [0.025, 0.975])
    return rank_correlation(pairs), float(low), float(high)


def among_partners(points: Mapping[str, Sequence[tuple[Any, float]]]) -> float:
    """
    How well a number ranks the partners of one peer: the mean over peers of Spearman's ρ among their partners.

    Args:
        points: by peer, what is known of each of its pairs, and its gain there; peers with fewer than three are left
            out, and so are those for whom one of the two never varies.
    """
    each = [rank_correlation([one]) for one in points.values() if len(one) > 2]
    usable = [one for one in each if not math.isnan(one)]
    return sum(usable) / len(usable) if usable else math.nan


def rank_correlation(pairs: Sequence[Sequence[tuple[Any, float]]]) -> float:
    """Spearman's ρ of what is known with the gain, over all peers; NaN where one of the two never varies."""
    known, gains = zip(*(point for both in pairs for point in both), strict=True)
    if len(set(known)) < 2 or len(set(gains)) < 2:
        return math.nan
    return float(spearmanr(known, gains).statistic)
