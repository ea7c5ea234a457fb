"""What an objective must know of a task: how its peers are scored, and how a function of units runs over its maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError
from .roles import confidence_scores, loss_scores, margin_scores


@dataclass(frozen=True)
class Pull:
    """A loss per unit, for a task to run over its maps.

    Args:
        per_unit (`Callable`): of the peers' logits (N of `[B, C, ...]`), of what teachers say (placed as the logits
            are; `None` where there is none), of the teacher `[B, ...]` and, where it knows classes, of the classes
            `[B, ...]` to `[S, B, ...]`, of the S students. 0 where the teacher is [`~roles.NOBODY`]; a unit's value
            depends on that unit alone.
        source (N tensors of shape `[B, C, ...]`, *optional*): what teachers say beside the peers' own logits.
        target (`torch.Tensor` of shape `[B, C, ...]`, *optional*): in place of them one target for all peers, on the
            grid where they are to meet; `per_unit` sees it as the first of what teachers say.
        knows_classes (`bool`): whether `per_unit` looks at classes.
    """

    per_unit: Callable[[list[Tensor], list[Tensor] | None, Tensor, Tensor | None], Tensor]
    source: Sequence[Tensor] | None = None
    target: Tensor | None = None
    knows_classes: bool = False


class Units(ABC):
    """The part of a task that an [`Objective`] asks; pure functions of tensors."""

    label_free_scores: ClassVar[frozenset[str]] = frozenset()
    """Names of scores that need no label."""
    no_class: ClassVar[int] = -1
    """The label of a unit whose class does not count."""

    @abstractmethod
    def labelled(self, labels: Tensor) -> Tensor:
        """`[B]` bool: the samples that have a label."""

    def ranked(self, labels: Tensor) -> Tensor:
        """`[B]` bool: the samples on which scores by labels say who teaches; the starts' mean may on others.

        One that is ranked without having a label, such as a blank map, is taught by nobody.
        """
        return self.labelled(labels)

    @abstractmethod
    def scores(self, kind: str, logits: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """`[N, B, ...]` fp32, higher is better, no gradient, the same function for every peer."""

    def run_over(self, pull: Pull, logits: Sequence[Tensor], teacher: Tensor, labels: Tensor) -> Tensor:
        """
        A function of units over all units of every sample: `[S, B]`, the mean of each sample's.

        Args:
            pull ([`Pull`]): the function.
            logits (N tensors of shape `[B, C, ...]`): the peers'.
            teacher (`torch.LongTensor` of shape `[B, ...]`): who teaches, as fine as the scores are.
            labels (`torch.LongTensor` of shape `[B, ...]`): the truth.
        """
        source = pull.source if pull.target is None else [pull.target]
        source = None if source is None else list(source)
        return pull.per_unit(list(logits), source, teacher, labels if pull.knows_classes else None)

    def units(self, logits: Sequence[Tensor], labels: Tensor) -> Iterator[tuple[list[Tensor], Tensor]]:
        """A batch in chunks: the peers' logits, N of `[B, C, ...]`, and classes `[B, ...]`, < 0 for none."""
        yield list(logits), labels


class ClassUnits(Units):
    """Samples with logits `[B, C]` and a class each, < 0 for none: image classification, and loops of one's own."""

    label_free_scores = frozenset({"confidence"})

    def labelled(self, labels: Tensor) -> Tensor:
        return labels >= 0

    def scores(self, kind: str, logits: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        with torch.no_grad():
            stacked = torch.stack([one.float() for one in logits])
            if kind == "confidence":
                return confidence_scores(stacked)
            if labels is None:
                raise ConfigError(f"role_score={kind!r} needs labels; give labels or use role_score='confidence'")
            return margin_scores(stacked, labels) if kind == "margin" else loss_scores(stacked, labels)
