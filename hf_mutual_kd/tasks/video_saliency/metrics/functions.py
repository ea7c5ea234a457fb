"""Saliency metrics of one map, exact by ranks and without random numbers. Pure numpy functions."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ....errors import ConfigError, DataError
from .maps import as_density, checked_map, is_constant

EPSILON = 2.2204e-16
"""Regulariser of KLD and IG, as the MIT/Tuebingen benchmark has it."""


def auc_judd(prediction: Any, fixations: Any) -> float:
    """
    P(fixated pixel > pixel without fixation) + 0.5 P(equal): the area under the ROC curve of AUC-Judd.

    Exact by ranks (Mann-Whitney). The MIT code samples that curve at the fixated values and breaks ties by random
    jitter, so on maps with ties (8 bits) it scatters around or lies beside this value.

    Args:
        prediction (`[H, W]`, real): higher is more salient; 8- and 16-bit maps are not converted.
        fixations (`[H, W]`, bool or counts): pixels above 0 are fixated, once each.

    Returns:
        `float`, 0 to 1: 0.5 for a constant prediction, NaN where no pixel or every pixel is fixated.

    Raises:
        [`DataError`]: a prediction that is no finite map, or maps of different sizes.

    Example:

    ```python
    >>> auc_judd([[3, 1, 2, 1]], [[1, 1, 0, 0]])
    0.625
    ```
    """
    values = checked_map(prediction, "prediction")
    fixated = _fixated(fixations, values.shape)
    return _area(values[fixated], values[~fixated])


def auc_uniform(prediction: Any, fixations: Any) -> float:
    """
    As [`auc_judd`] with every pixel as a negative, fixated ones too: the "AUC" of pysaliency and of Tuebingen.

    Example:

    ```python
    >>> auc_uniform([[3, 1, 2, 1]], [[1, 1, 0, 0]])
    0.5625
    ```
    """
    values = checked_map(prediction, "prediction")
    return _area(values[_fixated(fixations, values.shape)], values.ravel())


def auc_shuffled(prediction: Any, fixations: Any, pool: Any) -> float:
    """
    As [`auc_judd`] with the fixations of other stimuli as negatives, which takes the centre bias out.

    Exact over the whole pool, so it has no splits to draw: the MIT code averages 100 random draws from the pool.

    Args:
        prediction (`[H, W]`, real): higher is more salient.
        fixations (`[H, W]`, bool or counts): pixels above 0 are fixated.
        pool (`[H, W]`, counts): how often each pixel was fixated on other stimuli, at this map's size
            ([`rescale_counts`]).

    Returns:
        `float`, 0 to 1; NaN without fixations or with an empty pool.

    Raises:
        [`DataError`]: as [`auc_judd`].

    Example:

    ```python
    >>> auc_shuffled([[3, 1, 2, 1]], [[1, 0, 0, 0]], pool=[[1, 3, 0, 0]])
    0.875
    ```
    """
    values = checked_map(prediction, "prediction")
    fixated, counts = _fixated(fixations, values.shape), _same_size(pool, values.shape, "pool of fixations")
    drawn = counts > 0
    return _area(values[fixated], values[drawn], counts[drawn])


def nss(prediction: Any, fixations: Any, ddof: Literal[0, 1] = 1) -> float:
    """
    Normalised scanpath saliency: the mean over fixated pixels of (P - mean P) / std P.

    Args:
        prediction (`[H, W]`, real): higher is more salient.
        fixations (`[H, W]`, bool or counts): pixels above 0 are fixated, once each.
        ddof (`int`, *optional*, defaults to 1): of the standard deviation, 1 as the MIT code, 0 as Tuebingen.

    Returns:
        `float`: 0 for a constant prediction, NaN without fixations.

    Raises:
        [`DataError`]: as [`auc_judd`].

    Example:

    ```python
    >>> nss([[3, 1, 1, 3]], [[1, 0, 0, 0]], ddof=0)
    1.0
    ```
    """
    values = checked_map(prediction, "prediction").astype(np.float64)
    fixated = _fixated(fixations, values.shape)
    if not fixated.any():
        return float("nan")
    if is_constant(values):
        return 0.0
    centred = _centred(values)
    return float(centred[fixated].mean() / centred.std(ddof=ddof))


def cc(prediction: Any, density: Any) -> float:
    """
    Pearson's correlation of two maps, -1 to 1.

    Args:
        prediction (`[H, W]`, real): higher is more salient.
        density (`[H, W]`, not negative): the density of fixations, up to a factor.

    Returns:
        `float`: 0 for a constant prediction; NaN for a constant (thus also for a blank) truth.

    Raises:
        [`DataError`]: as [`auc_judd`]; negative or not finite truth.

    Example:

    ```python
    >>> cc([[0, 1, 0, 1]], [[0, 2, 0, 2]])
    1.0
    ```
    """
    values = checked_map(prediction, "prediction").astype(np.float64)
    truth = _truth(density, values.shape)
    if is_constant(truth):
        return float("nan")
    if is_constant(values):
        return 0.0
    p, g = _centred(values), _centred(truth)
    return float((p * g).sum() / np.sqrt((p * p).sum() * (g * g).sum()))


def sim(prediction: Any, density: Any, convention: Literal["mit", "tuebingen"] = "mit") -> float:
    """
    Similarity, sum of min(p, g) over pixels, 0 to 1, both maps summing to 1.

    Args:
        prediction (`[H, W]`, real): higher is more salient.
        density (`[H, W]`, not negative): the density of fixations, up to a factor.
        convention (`str`, *optional*, defaults to `"mit"`):
            `"mit"` stretches both maps to 0..1 before they are made to sum to 1; `"tuebingen"` does not, and scores
            maps with a high floor far lower.

    Returns:
        `float`: a constant prediction counts as the uniform density; NaN for a blank truth.

    Raises:
        [`DataError`]: as [`cc`].
        [`ConfigError`]: another convention.

    Example:

    ```python
    >>> sim([[1, 3]], [[5, 11]]), sim([[1, 3]], [[5, 11]], "tuebingen")
    (1.0, 0.9375)
    ```
    """
    if convention not in ("mit", "tuebingen"):
        raise ConfigError(f"convention must be one of mit, tuebingen, got {convention!r}")
    values = checked_map(prediction, "prediction").astype(np.float64)
    truth = _truth(density, values.shape)
    if not truth.any():
        return float("nan")
    if convention == "mit":
        values, truth = values - values.min(), truth - truth.min()
    return float(np.minimum(as_density(values), as_density(truth)).sum())


def kld(prediction: Any, density: Any) -> float:
    """
    Kullback-Leibler divergence of the truth from the prediction in nats, sum of g ln(eps + g / (p + eps)).

    Args:
        prediction (`[H, W]`, real): a density up to a factor; one with negative values is shifted to minimum 0.
        density (`[H, W]`, not negative): the density of fixations, up to a factor.

    Returns:
        `float`: 0 for equal maps (to 1e-9), up to about 36 where the prediction misses the truth altogether. A
        constant prediction counts as the uniform density; NaN for a blank truth.

    Raises:
        [`DataError`]: as [`cc`].

    Example:

    ```python
    >>> round(kld([[1, 1]], [[0, 5]]), 6)
    0.693147
    ```
    """
    values = checked_map(prediction, "prediction").astype(np.float64)
    truth = _truth(density, values.shape)
    if not truth.any():
        return float("nan")
    p, g = as_density(values), as_density(truth)
    return float((g * np.log(EPSILON + g / (p + EPSILON))).sum())


def information_gain(prediction: Any, fixations: Any, baseline: Any) -> float:
    """
    Information gain over a baseline in bits per fixation: the mean over fixated pixels of log2 p - log2 b.

    Both are proper densities, as Tuebingen has it; the MIT code stretches both maps to 0..1 first. A pixel with
    probability 0 under a fixation costs up to log2(2.2e-16) = -52 bits, so 8-bit maps score badly.

    Args:
        prediction (`[H, W]`, real): a density up to a factor; one with negative values is shifted to minimum 0.
        fixations (`[H, W]`, bool or counts): pixels above 0 are fixated, once each.
        baseline (`[H, W]`, not negative): a density up to a factor, such as the mean of the training maps.

    Returns:
        `float`: NaN without fixations.

    Raises:
        [`DataError`]: as [`cc`]; a blank baseline.

    Example:

    ```python
    >>> round(information_gain([[1, 2, 4, 1]], [[0, 0, 1, 0]], [[1, 1, 1, 1]]), 6)
    1.0
    ```
    """
    values = checked_map(prediction, "prediction").astype(np.float64)
    fixated = _fixated(fixations, values.shape)
    prior = _truth(baseline, values.shape, "baseline")
    if not prior.any():
        raise DataError("The baseline of the information gain is blank; give a density, such as the mean of maps.")
    if not fixated.any():
        return float("nan")
    gained = np.log2(EPSILON + as_density(values)[fixated]) - np.log2(EPSILON + as_density(prior)[fixated])
    return float(gained.mean())


def _area(positives: np.ndarray, negatives: np.ndarray, counts: np.ndarray | None = None) -> float:
    """P(positive > negative) + 0.5 P(=); `counts` says how often each negative stands in its list."""
    if not positives.size or not negatives.size:
        return float("nan")
    if counts is None:
        # Radix sort for narrow integers, whose many ties are slow for the others.
        ordered = np.sort(negatives, kind="stable" if negatives.itemsize <= 2 else None)
        before = np.arange(ordered.size + 1)
    else:
        order = np.argsort(negatives)
        ordered, before = negatives[order], np.concatenate([[0], np.cumsum(counts[order])])
    below, upto = (before[np.searchsorted(ordered, positives, side)] for side in ("left", "right"))
    return float((below.sum() + upto.sum()) / (2 * positives.size * before[-1]))


def _fixated(fixations: Any, shape: tuple[int, ...]) -> np.ndarray:
    return _same_size(fixations, shape, "map of fixations") > 0


def _truth(density: Any, shape: tuple[int, ...], name: str = "density of fixations") -> np.ndarray:
    truth = _same_size(density, shape, name).astype(np.float64)
    if truth.min() < 0:
        raise DataError(f"The {name} has negative values, down to {truth.min():g}.")
    return truth


def _same_size(values: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    found = checked_map(values, name)
    if found.shape != shape:
        raise DataError(
            f"The {name} is {found.shape[0]} x {found.shape[1]}, the prediction {shape[0]} x {shape[1]} "
            "(rows x columns): metrics are defined at the truth's size, so resize the prediction first."
        )
    return found


def _centred(values: np.ndarray) -> np.ndarray:
    """A map with mean 0 and range 1, so that squares of tiny densities stay in the range of float64."""
    shifted = values - values.min()
    scaled = shifted / shifted.max()
    return scaled - scaled.mean()
