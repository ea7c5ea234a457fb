"""Who teaches: a rule, a source and retention, joined in one [`Objective`] for the cohort's forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from .errors import ConfigError
from .losses import kl_to_target, softened_log_probs, teacher_log_probs
from .options import TransferOptions
from .roles import MEAN, UNDECIDED, assign_roles


class TeacherRule:
    """Turns scores into a teacher per unit. Subclasses differ in who speaks, never in the number of peers."""

    name: ClassVar[str]
    description: ClassVar[str]
    citation: ClassVar[str]
    needs_scores: ClassVar[bool]

    def teachers(self, scores: Tensor, scored: Tensor) -> Tensor:
        """Decide who teaches.

        Args:
            scores (`torch.Tensor` of shape `[N, B, ...]`): how good each peer is on a unit, higher is better.
            scored (`torch.BoolTensor` of shape `[B, ...]`): whether the scores of a unit mean anything.

        Returns:
            `torch.LongTensor` of shape `[B, ...]`: a peer's index, `NOBODY` or `MEAN`.
        """
        raise NotImplementedError


class BestRule(TeacherRule):
    """On every unit the peer with the strictly best score teaches all others; unscored units learn from the mean."""

    name = "best"
    description = "On every sample the peer that is most certain of the truth teaches all others."
    citation = (
        "Jain, Karthik, Gandhi: Simplifying Knowledge Transfer in Pretrained Models, TMLR 2025, arXiv 2510.22208"
    )
    needs_scores = True

    def teachers(self, scores: Tensor, scored: Tensor) -> Tensor:
        return torch.where(scored, assign_roles(scores), MEAN)


class MeanRule(TeacherRule):
    """The mean probability of all peers teaches every peer on every unit."""

    name = "mean"
    description = "On every sample the mean of all peers' probabilities teaches every peer."
    citation = "Lan, Zhu, Gong: Knowledge Distillation by On-the-Fly Native Ensemble, NeurIPS 2018, arXiv 1806.04606"
    needs_scores = False

    def teachers(self, scores: Tensor, scored: Tensor) -> Tensor:
        return torch.full_like(scored, MEAN, dtype=torch.long)


class TeacherSource:
    """Where teachers' outputs come from: this step's weights or copies of the starts."""

    name: ClassVar[str]
    description: ClassVar[str]
    frozen: ClassVar[bool]


class LiveSource(TeacherSource):
    """Teachers speak with this step's weights."""

    name = "live"
    description = "Teachers speak with the weights they have at this step."
    frozen = False


class FrozenSource(TeacherSource):
    """Teachers speak with copies of the weights they started from."""

    name = "frozen"
    description = "Teachers speak with frozen copies of the weights they started from."
    frozen = True


RULES: dict[str, type[TeacherRule]] = {rule.name: rule for rule in (BestRule, MeanRule)}
SOURCES: dict[str, type[TeacherSource]] = {source.name: source for source in (LiveSource, FrozenSource)}


@dataclass(frozen=True)
class Objective:
    """What the peers are trained for: supervised loss plus weighted transfer and retention.

    With N = 2, `BestRule` and `LiveSource` this is arXiv 2510.22208's loss; one formula serves any N.

    Args:
        rule ([`TeacherRule`]): who teaches.
        source ([`TeacherSource`]): which outputs teachers speak with.
        retain (`bool`): hold a peer to its own frozen start on the units where it is itself the teacher.
        detach (`str`): `"teacher"`, or `"none"` to let the transfer loss move the teacher too.
        score (`str`): name of the task's score that ranks the peers.
        temperature (`float`): softening T > 0 of teacher and student; the loss is scaled by T².
        weight (`float`): weight λ >= 0 of transfer.
        labels (`bool`): `False` trains by transfer alone.
        label_smoothing (`float`): of the supervised loss.
        unlabelled_rows (`bool`): whether units without a label may occur; under a rule that ranks peers by labels, the
            mean of the frozen peers teaches there.

    Example:

    ```python
    >>> objective = Objective(rule=BestRule(), source=LiveSource(), retain=False)
    >>> live = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])]
    >>> objective.transfer(live, None, torch.tensor([0]), torch.tensor([True]))
    tensor([[0.0000],
            [0.3278]])
    ```
    """

    rule: TeacherRule
    source: TeacherSource
    retain: bool = True
    detach: str = "teacher"
    score: str = "margin"
    temperature: float = 1.0
    weight: float = 1.0
    labels: bool = True
    label_smoothing: float = 0.0
    unlabelled_rows: bool = False

    @classmethod
    def from_options(cls, options: TransferOptions, **changes) -> Objective:
        """The objective that resolved options describe; the control where `transfer_weight` is 0."""
        if options.teacher_rule not in RULES or options.teacher_source not in SOURCES or options.detach is None:
            raise ConfigError("the options are not resolved: call `options.resolve()` first")
        objective = cls(
            rule=RULES[options.teacher_rule](),
            source=SOURCES[options.teacher_source](),
            retain=bool(options.retain),
            detach=options.detach,
            score=options.role_score,
            temperature=options.temperature,
            weight=options.transfer_weight,
            labels=options.labels,
            unlabelled_rows=not options.labels,
        )
        return replace(objective, **changes)

    @property
    def needs_starts(self) -> bool:
        """Whether the frozen starts of the peers are needed: for a frozen source, retention or rows without labels."""
        unranked = self.unlabelled_rows and self.rule.needs_scores
        return self.weight > 0 and (self.source.frozen or self.retain or unranked)

    def teachers(self, scores: Tensor, scored: Tensor, roles: Tensor | None = None) -> Tensor:
        """Who teaches each unit: `[N, B, ...]` scores to `[B, ...]`; decided `roles` of a role table come first."""
        decided = self.rule.teachers(scores, scored)
        return decided if roles is None else torch.where(roles == UNDECIDED, decided, roles)

    def transfer(
        self, live: Sequence[Tensor], starts: Sequence[Tensor] | None, teacher: Tensor, labelled: Tensor
    ) -> Tensor:
        """The pull on every student.

        Args:
            live (N tensors of shape `[B, C, ...]`): this step's logits.
            starts (N tensors of shape `[B, C, ...]`, *optional*): logits of the frozen starts, where needed.
            teacher (`torch.LongTensor` of shape `[B, ...]`): who teaches each unit.
            labelled (`torch.BoolTensor` of shape `[B, ...]`): units that scores could rank; the frozen mean
                teaches the others.

        Returns:
            `torch.Tensor` of shape `[N, B, ...]` in nats: T² · KL(teacher ‖ student), 0 where a peer learns nothing.
        """
        target, taught = self._target(live, starts, teacher, labelled)
        pulls = []
        for peer, logits in enumerate(live):
            own = teacher == peer
            if self.retain and starts is not None:
                held = torch.where(own.unsqueeze(1), softened_log_probs(starts[peer], self.temperature), target)
                pulls.append(kl_to_target(logits, held, temperature=self.temperature, where=taught | own))
            else:
                pulls.append(kl_to_target(logits, target, temperature=self.temperature, where=taught & ~own))
        return torch.stack(pulls)

    def _target(self, live, starts, teacher, labelled) -> tuple[Tensor, Tensor]:
        speakers = starts if self.source.frozen else live
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.detach == "none"):
            target, taught = teacher_log_probs(speakers, teacher, self.temperature)
        if not self.unlabelled_rows or self.source.frozen or not self.rule.needs_scores:
            return target, taught
        mean, known = teacher_log_probs(starts, torch.full_like(teacher, MEAN), self.temperature)
        by_starts = ~labelled & (teacher == MEAN)
        return torch.where(by_starts.unsqueeze(1), mean, target), torch.where(by_starts, known, taught)
