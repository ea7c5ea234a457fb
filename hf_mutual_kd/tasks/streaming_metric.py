"""Streaming metric."""

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
            [`DataError`]: batches of different length, or an unknown input.
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
            [`DataError`]: the state of another metric.
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
