"""Metrics of classifiers as running sums: memory does not grow with the data set, and nothing touches the disk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import datasets
import evaluate
import torch
from torch import Tensor

from ..errors import DataError


class StreamingMetric(evaluate.Metric):
    """
    An `evaluate.Metric` that keeps sums in place of the examples.

    A subclass names its sums in `sums` and gives [`StreamingMetric._measure`] and [`StreamingMetric._result`].
    Instances share nothing, so one per peer and per process may live at a time; [`StreamingMetric.state`] and
    [`StreamingMetric.merge`] bring processes together.
    """

    sums: tuple[str, ...] = ("correct", "count")
    description = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._totals = dict.fromkeys(self.sums, 0.0)

    def _info(self) -> evaluate.MetricInfo:
        either = datasets.Features({"predictions": datasets.Value("float32"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description=self.description, citation="", inputs_description="", features=either)

    def _build_data_dir(self) -> str:
        # The base class makes a folder in the cache here, which fails where the home cannot be written.
        return ""

    def __len__(self) -> int:
        """Units that were counted since the last `compute`."""
        return int(self._totals["count"])

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """
        Count a batch.

        Args:
            predictions (tensor, array or list `[B, ...]`): as the metric says.
            references (tensor, array or list `[B]`, *optional*): as the metric says.
            **kwargs: refused; the base class allows further inputs.

        Raises:
            [`~hf_mutual_kd.errors.DataError`]: batches of different length, or an unknown input.
        """
        if kwargs:
            raise DataError(f"{type(self).__name__} takes predictions and references, got also {', '.join(kwargs)}.")
        if predictions is None:
            raise DataError(f"{type(self).__name__} got no predictions.")
        values = torch.as_tensor(predictions)
        truth = None if references is None else torch.as_tensor(references).to(values.device)
        if values.ndim < 1 or (truth is not None and (truth.ndim != 1 or len(values) != len(truth))):
            raise DataError(
                f"{type(self).__name__} needs one reference per prediction, got shapes {list(values.shape)} and "
                f"{None if truth is None else list(truth.shape)}."
            )
        with torch.no_grad():
            measured = self._measure(values, truth)
        for name, value in measured.items():
            self._totals[name] += float(value)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Count one example; see [`StreamingMetric.add_batch`]."""
        references = None if reference is None else torch.as_tensor(reference)[None]
        self.add_batch(predictions=torch.as_tensor(prediction)[None], references=references, **kwargs)

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, float]:
        """
        The result over all that was added (and over the batch given here), then start anew.

        Returns:
            `dict[str, float]`: empty where nothing was counted, as then there is nothing to state.
        """
        if predictions is not None or references is not None or kwargs:
            self.add_batch(predictions=predictions, references=references, **kwargs)
        totals, self._totals = self._totals, dict.fromkeys(self.sums, 0.0)
        return self._result(totals) if totals["count"] else {}

    def state(self) -> dict[str, float]:
        """The sums so far; adding those of several processes gives the state of all."""
        return dict(self._totals)

    def merge(self, state: Mapping[str, float]) -> None:
        """
        Add another instance's state.

        Raises:
            [`~hf_mutual_kd.errors.DataError`]: the state of another metric.
        """
        if set(state) != set(self.sums):
            raise DataError(f"{type(self).__name__} keeps {', '.join(self.sums)}, got a state of {', '.join(state)}.")
        for name, value in state.items():
            self._totals[name] += float(value)

    @abstractmethod
    def _measure(self, predictions: Tensor, references: Tensor | None) -> dict[str, Tensor | float]:
        """What a batch adds to each of `sums`."""

    @abstractmethod
    def _result(self, totals: dict[str, float]) -> dict[str, float]:
        """The metric from its sums, of which `count` is above 0."""


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
