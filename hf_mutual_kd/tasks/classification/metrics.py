"""Metrics of classifiers as running sums: memory does not grow with the data set, and nothing touches the disk."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...errors import DataError
from ..streaming_metric import StreamingMetric


class TopK(StreamingMetric):
    """
    Share of samples whose truth is among the k best classes: `accuracy`, 0 to 1.

    `predictions` are class ids `[B]` or, best first, `[B, K]` with K >= 1 (integers), or logits `[B, C]` (floats;
    equal ones rank in the order of their classes, and a row with NaN is wrong). `references` are labels `[B]`; those
    below 0 are left out.

    Args:
        k (`int`, *optional*, defaults to 1): 1 or more.

    Example:

    ```python
    >>> TopK(2).compute(predictions=[[3, 1, 0], [2, 0, 1]], references=[1, 1])
    {'accuracy': 0.5}
    ```
    """

    description = "Share of samples whose true class is among the k classes that are predicted first."

    def __init__(self, k: int = 1, **kwargs: Any) -> None:
        if k < 1:
            raise DataError(f"k must be 1 or more, got {k}")
        self.k = k
        super().__init__(**kwargs)

    def _measure(self, predictions: Tensor, references: Tensor | None) -> dict[str, Tensor | float]:
        labels = _needed(references)
        if predictions.is_floating_point():
            broken = predictions.isnan().any(dim=-1, keepdim=True)
            predictions = predictions.argsort(dim=-1, descending=True, stable=True).masked_fill(broken, -1)
        ranked = predictions[:, None] if predictions.ndim == 1 else predictions
        right = (ranked[:, : self.k] == labels[:, None]).any(dim=1) & (labels >= 0)
        return {"correct": right.sum(), "count": (labels >= 0).sum()}

    def _result(self, totals: dict[str, float]) -> dict[str, float]:
        return {"accuracy": totals["correct"] / totals["count"]}


class Mean(StreamingMetric):
    """
    Mean of one value per sample, such as its loss: `mean`. `predictions` are the values `[B]`; there are no
    references. Summed in float64; NaN and inf show in the result.

    Example:

    ```python
    >>> Mean().compute(predictions=[0.5, 1.5])
    {'mean': 1.0}
    ```
    """

    sums = ("total", "count")
    description = "Mean of one value per sample."

    def _measure(self, predictions: Tensor, references: Tensor | None) -> dict[str, Tensor | float]:
        if references is not None:
            raise DataError("Mean takes one value per sample as predictions and no references.")
        return {"total": _flat(predictions).double().sum(), "count": len(predictions)}

    def _result(self, totals: dict[str, float]) -> dict[str, float]:
        return {"mean": totals["total"] / totals["count"]}


class Flips(StreamingMetric):
    """
    What changed against a peer's own start: shares `positive_flips` (wrong before, right after) and `negative_flips`
    (right before, wrong after), and both as `*_count`.

    `predictions` says whether a sample is right after, `references` whether it was right before, bool `[B]` each.

    Example:

    ```python
    >>> Flips().compute(predictions=[True, True, False, True], references=[False, True, True, True])
    {'positive_flips': 0.25, 'negative_flips': 0.25, 'positive_flips_count': 1, 'negative_flips_count': 1}
    ```
    """

    sums = ("positive", "negative", "count")
    description = "Samples that went from wrong to right and from right to wrong."

    def _measure(self, predictions: Tensor, references: Tensor | None) -> dict[str, Tensor | float]:
        after, before = _flat(predictions).bool(), _needed(references).bool()
        return {"positive": (after & ~before).sum(), "negative": (before & ~after).sum(), "count": len(after)}

    def _result(self, totals: dict[str, float]) -> dict[str, float]:
        return {
            "positive_flips": totals["positive"] / totals["count"],
            "negative_flips": totals["negative"] / totals["count"],
            "positive_flips_count": int(totals["positive"]),
            "negative_flips_count": int(totals["negative"]),
        }


class Agreement(StreamingMetric):
    """
    Share of samples on which two peers predict the same class: `agreement`. Class ids `[B]` of one peer as
    `predictions`, of the other as `references`.

    Example:

    ```python
    >>> Agreement().compute(predictions=[3, 1], references=[3, 2])
    {'agreement': 0.5}
    ```
    """

    description = "Share of samples on which two classifiers predict the same class."

    def _measure(self, predictions: Tensor, references: Tensor | None) -> dict[str, Tensor | float]:
        return {"correct": (_flat(predictions) == _needed(references)).sum(), "count": len(predictions)}

    def _result(self, totals: dict[str, float]) -> dict[str, float]:
        return {"agreement": totals["correct"] / totals["count"]}


def _needed(references: Tensor | None) -> Tensor:
    if references is None:
        raise DataError("This metric compares predictions with references and got no references.")
    return references


def _flat(values: Tensor) -> Tensor:
    if values.ndim != 1:
        raise DataError(f"One value per sample is expected, got shape {list(values.shape)}.")
    return values
