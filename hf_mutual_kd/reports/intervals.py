"""95 % intervals of a difference between two arms over test rows and seeds, from what each row adds to a metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]

DRAWS = 2000
LEVEL = (0.025, 0.975)
VALUES_AT_ONCE = 4_000_000
"""Weights of rows that are held at one time."""


def means(totals: np.ndarray) -> np.ndarray:
    """
    Means of M metrics from their sums and how many were added, `[..., 2 M]` to `[..., M]`; NaN where nothing was.

    Example:

    ```python
    >>> means(np.array([3.0, 10.0, 4.0, 4.0]))
    array([0.75, 2.5 ])
    ```
    """
    sums, counts = np.split(totals.astype(np.float64), 2, axis=-1)
    return sums / np.where(counts > 0, counts, np.nan)


def overlaps(totals: np.ndarray) -> np.ndarray:
    """
    mIoU, fwIoU, mACC and pACC from the right, predicted and true pixels of C classes, `[..., 3, C]` to `[..., 4]`.

    Classes without a true pixel are left out, as [`SegmentationScores`] does.

    Example:

    Of two classes half of the first is taken for the second: their IoU are 1/2 and 2/3.

    ```python
    >>> overlaps(np.array([[1, 2], [1, 3], [2, 2]])).round(3)
    array([0.583, 0.583, 0.75 , 0.75 ])
    ```
    """
    right, predicted, true = (np.take(totals, place, axis=-2).astype(np.float64) for place in range(3))
    occurs = true > 0
    count, pixels = np.maximum(occurs.sum(-1), 1), np.maximum(true.sum(-1), 1)
    iou = np.where(occurs, right / np.maximum(true + predicted - right, 1), 0.0)
    recall = np.where(occurs, right / np.maximum(true, 1), 0.0)
    return np.stack(
        [iou.sum(-1) / count, (iou * true).sum(-1) / pixels, recall.sum(-1) / count, right.sum(-1) / pixels], axis=-1
    )


def f1_of(totals: np.ndarray) -> np.ndarray:
    """
    Macro and micro F1 from the hits, the predicted and the true samples of C classes, `[..., 3, C]` to `[..., 2]`.

    The macro one is the mean over the classes that occur; the micro one counts the decisions of all classes together.

    Example:

    ```python
    >>> f1_of(np.array([[1, 2], [1, 3], [2, 2]])).round(3)  # (2/3 + 4/5) / 2; 2 * 3 / (4 + 4)
    array([0.733, 0.75 ])
    ```
    """
    hits, said, true = (np.take(totals, place, axis=-2).astype(np.float64) for place in range(3))
    occurs = true > 0
    each = np.where(occurs, 2 * hits / np.maximum(said + true, 1), 0.0)
    micro = 2 * hits.sum(-1) / np.maximum((said + true).sum(-1), 1)
    return np.stack([each.sum(-1) / np.maximum(occurs.sum(-1), 1), micro], axis=-1)


STATISTICS: dict[str, Statistic] = {"means": means, "overlaps": overlaps, "f1": f1_of}
"""By the name under which [`Outcomes`] are kept."""


def pseudo_values(sums: np.ndarray, statistic: Statistic) -> np.ndarray:
    """
    The jackknife's pseudo-value of every row: `U * statistic(all) - (U - 1) * statistic(all but the row)`.

    Of a mean they are the rows' own values. Of other statistics, such as the mIoU of a split, their mean is the
    statistic up to terms of `1 / U`, and their spread says how sure it is, as that of values does of a mean (Tukey,
    Bias and confidence in not quite large samples, 1958; Efron and Tibshirani, An introduction to the bootstrap, 1993,
    chapter 11).

    Args:
        sums (`np.ndarray` of shape `[U, ...]`): what each of U rows, images or videos adds.
        statistic (callable): from totals `[...]` over rows to values, such as [`overlaps`].

    Returns:
        `np.ndarray` of shape `[U, ...]` of the statistic's values.

    Example:

    ```python
    >>> right_of_true = np.array([[1.0, 2.0], [2.0, 2.0], [0.0, 1.0]])  # 3 of 5 pixels are right
    >>> pseudo_values(right_of_true, means).round(2)  # 3 * 3 / 5 - 2 * 2 / 3 for the first
    array([[ 0.47],
           [ 1.13],
           [ 0.3 ]])
    ```
    """
    total, rows = sums.sum(0, dtype=np.float64), len(sums)
    if rows == 1:
        return statistic(total)[None]
    return rows * statistic(total) - (rows - 1) * statistic(total - sums)


def difference_interval(
    after: Sequence[np.ndarray], before: Sequence[np.ndarray], statistic: Statistic, draws: int = DRAWS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The mean difference of a statistic over seeds, and its 95 % interval by a hierarchical bootstrap.

    Every seed was measured on the same rows, so that rows and seeds are crossed. Each draw takes rows with
    replacement, the same ones for both arms and all seeds, and the mean of the seeds' differences on them. To it comes
    the spread between trainings: Student's t with S - 1 degrees of freedom times `sqrt(variance / S)`. Seeds
    themselves are not resampled: three of them have ten different samples, too narrow by a third. The variance between
    trainings is that of the seeds' differences less what the choice of rows alone puts between them
    (`S / (S - 1) * (mean of the seeds' own bootstrap variances - variance of their mean)`), and never below 0. Of one
    seed the interval is over rows alone.

    Args:
        after (`list[np.ndarray]`): for each of S seeds what U rows (or images, or videos) add, `[U, ...]`.
        before (`list[np.ndarray]`): the same of the other arm, for the same rows in the same order.
        statistic (callable): from totals `[..., ]` over rows to values, such as [`means`].
        draws (`int`, *optional*, defaults to 2000): of the bootstrap; its random numbers are always the same.

    Returns:
        The mean difference `after - before`, and the lower and upper end, each in the statistic's shape.
    """
    observed = statistic(_totals(after)) - statistic(_totals(before))
    rows, seeds = len(after[0]), len(after)
    generator = np.random.default_rng(0)
    step = max(1, min(draws, VALUES_AT_ONCE // rows))
    parts = []
    for begin in range(0, draws, step):
        weights = _weights(generator, min(step, draws - begin), rows)
        parts.append(statistic(_totals(after, weights)) - statistic(_totals(before, weights)))
    drawn = np.concatenate(parts, axis=1)  # [S, draws, ...]
    together = drawn.mean(0)
    if seeds > 1:
        by_rows = seeds / (seeds - 1) * (drawn.var(1).mean(0) - together.var(0))
        between = np.maximum(observed.var(0, ddof=1) - by_rows, 0.0)
        student = generator.standard_t(seeds - 1, draws).reshape(draws, *[1] * between.ndim)
        together = together + np.sqrt(between / seeds) * student
    low, high = np.quantile(together, LEVEL, axis=0)
    return observed.mean(0), low, high


def _weights(generator: np.random.Generator, draws: int, rows: int) -> np.ndarray:
    """How often each row is drawn, `[draws, rows]`."""
    drawn = [np.bincount(generator.integers(rows, size=rows), minlength=rows) for _ in range(draws)]
    return np.stack(drawn).astype(np.float64)


def _totals(arms: Sequence[np.ndarray], weights: np.ndarray | None = None) -> np.ndarray:
    """Sums over the rows of every seed, `[S, ...]`, or with weights `[S, draws, ...]`."""
    if weights is None:
        return np.stack([sums.sum(0, dtype=np.float64) for sums in arms])
    flat = [weights @ sums.reshape(len(sums), -1).astype(np.float64) for sums in arms]
    return np.stack([one.reshape(len(weights), *sums.shape[1:]) for one, sums in zip(flat, arms, strict=True)])
