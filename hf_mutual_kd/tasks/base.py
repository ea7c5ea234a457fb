"""What the trainer asks of a task, so that it never has to know which task it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn


class Evaluator(ABC):
    """Streams over an evaluation: `add` what [`Task.evaluation_facts`] made of each batch, then `compute`."""

    @abstractmethod
    def add(self, facts: dict[str, Tensor]) -> None:
        """Take in one batch of gathered facts; memory stays constant."""

    @abstractmethod
    def compute(self) -> dict[str, dict[str, float]]:
        """`{peer: {metric: value}}`, the cohort's own numbers under `"cohort"`; without labels what needs none."""

    @abstractmethod
    def by_class(self) -> dict[str, list[float | None]]:
        """The task's metric of each peer per class, `None` for classes that did not occur."""


class Task(ABC):
    """One task: how its peers are loaded, scored, trained and measured."""

    name: ClassVar[str]
    """Also the `pipeline_tag` on the Hub."""
    auto_model: ClassVar[Any]
    """The `AutoModelFor…` class whose checkpoints can be peers."""
    metric: ClassVar[str]
    """The metric that selects each peer's best checkpoint."""
    greater_is_better: ClassVar[bool] = True
    label_free_scores: ClassVar[frozenset[str]] = frozenset()
    """Names of scores that need no label."""

    @abstractmethod
    def logits(self, outputs: Any) -> Tensor:
        """What peers teach each other with: `[B, C, ...]` from whatever a peer's forward returned."""

    @abstractmethod
    def labelled(self, labels: Tensor) -> Tensor:
        """`[B, ...]` bool: the units that have a label."""

    @abstractmethod
    def scores(self, kind: str, logits: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """`[N, B, ...]` fp32, higher is better, no gradient, the same function for every peer."""

    @abstractmethod
    def supervised_loss(self, logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
        """`[B, ...]` fp32 loss of one peer per unit, 0 where there is no label."""

    @abstractmethod
    def quality(self, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        """`[N]`: the sum of each peer's `metric` over the labelled units of a training batch."""

    @abstractmethod
    def evaluation_facts(self, logits: Sequence[Tensor], labels: Tensor, sample_ids: Tensor) -> dict[str, Tensor]:
        """Small tensors with the batch as first dimension: all that an [`Evaluator`] needs of a batch."""

    @abstractmethod
    def evaluator(self, peer_names: Sequence[str], num_classes: int, start: Evaluator | None = None) -> Evaluator:
        """A fresh evaluator; with the `start`'s it also counts flips."""

    @abstractmethod
    def new_head(self, source: str, label_names: Sequence[str], **load: Any) -> nn.Module:
        """Load a peer with a fresh classifier for `label_names`."""
