"""Who teaches: a rule, a source and retention, joined in one [`Objective`] for the cohort's forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config.options import Detach, TransferOptions
from ..errors import ConfigError
from .losses import kl_to_target, softened_log_probs, teacher_log_probs
from .pairwise import kl_from_others
from .roles import ALL, MEAN, NOBODY, UNDECIDED
from .teacher_rules import (
    RULES,
    AllRule,
    BestRule,
    ClassRule,
    FixedRule,
    GatedRule,
    MeanRule,
    TeacherRule,
    like_units,
    make_rule,
)
from .teacher_sources import SOURCES, EmaSource, FrozenSource, LiveSource, TableSource, TeacherSource

__all__ = [
    "RULES",
    "SOURCES",
    "AllRule",
    "BestRule",
    "ClassRule",
    "EmaSource",
    "FixedRule",
    "FrozenSource",
    "GatedRule",
    "LiveSource",
    "MeanRule",
    "Objective",
    "TableSource",
    "TeacherRule",
    "TeacherSource",
    "like_units",
    "make_rule",
]


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
    detach: Detach = "teacher"
    score: str = "margin"
    temperature: float = 1.0
    weight: float = 1.0
    labels: bool = True
    label_smoothing: float = 0.0
    unlabelled_rows: bool = False

    @classmethod
    def from_options(cls, options: TransferOptions, **changes) -> Objective:
        """The objective that resolved options describe; the control where `transfer_weight` is 0."""
        if options.teacher_rule is None or options.teacher_source is None or options.detach is None:
            raise ConfigError("the options are not resolved: call `options.resolve()` first")
        objective = cls(
            rule=make_rule(options.teacher_rule, options.calibrate),
            source=SOURCES[options.teacher_source].from_options(options),
            retain=bool(options.retain),
            detach=options.detach,
            score=options.role_score or cls.score,
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
        return self.weight > 0 and self.source.in_memory and (self.source.frozen or self.retain or unranked)

    def teachers(self, scores: Tensor, scored: Tensor, roles: Tensor | None = None) -> Tensor:
        """Who teaches each unit: `[N, B, ...]` scores to `[B, ...]`; decided `roles` of a role table come first."""
        decided = self.rule.teachers(scores, scored)
        if roles is None:
            return decided
        roles = like_units(roles, decided)
        return torch.where(roles == UNDECIDED, decided, roles)

    def transfer(
        self,
        live: Sequence[Tensor],
        starts: Sequence[Tensor] | None,
        teacher: Tensor,
        labelled: Tensor,
        classes: Tensor | None = None,
    ) -> Tensor:
        """The pull on every student.

        Args:
            live (N tensors of shape `[B, C, ...]`): this step's logits.
            starts (N tensors of shape `[B, C, ...]`, *optional*): logits of the source's copies, where needed.
            teacher (`torch.LongTensor` of shape `[B, ...]`): who teaches each unit.
            labelled (`torch.BoolTensor` of shape `[B]`): samples that scores could rank; the frozen mean teaches the
                others.
            classes (`torch.LongTensor` of shape `[B, ...]`, *optional*): the truth, < 0 where there is none, for rules
                that know classes.

        Returns:
            `torch.Tensor` of shape `[N, B, ...]` in nats: T² · KL(teacher ‖ student), 0 where a peer learns nothing.
        """
        by_all = teacher == ALL
        # A compiled graph must not depend on values: there only the rule says whether peers teach one by one.
        eager = not torch.compiler.is_compiling()
        if not (bool(by_all.any()) if eager else self.rule.pairwise):
            return self._towards_one(live, starts, teacher, labelled, classes)
        from_others = self._towards_all(live, starts, by_all)
        if eager and bool((by_all | (teacher == NOBODY)).all()):
            return from_others
        return torch.where(by_all, from_others, self._towards_one(live, starts, teacher, labelled, classes))

    def _towards_one(self, live, starts, teacher, labelled, classes) -> Tensor:
        """The pull towards one distribution per unit: a peer's or a mean."""
        target, taught = self._target(live, starts, teacher, labelled, classes)
        pulls = []
        for peer, logits in enumerate(live):
            own = teacher == peer
            if self.retain and starts is not None:
                held = torch.where(own.unsqueeze(1), softened_log_probs(starts[peer], self.temperature), target)
                pulls.append(kl_to_target(logits, held, temperature=self.temperature, where=taught | own))
            else:
                pulls.append(kl_to_target(logits, target, temperature=self.temperature, where=taught & ~own))
        return torch.stack(pulls)

    def _towards_all(self, live, starts, where: Tensor) -> Tensor:
        """The mean pull towards every other peer, 0 outside `where`."""
        said = self.rule.speak(starts if self.source.frozen else live)
        return kl_from_others(live, temperature=self.temperature, detach=self.detach, source=said, where=where)

    def transfer_from_table(self, live: Sequence[Tensor], targets: Tensor, taught: Tensor) -> Tensor:
        """The pull `[N, B]` on every student towards targets that came with the batch.

        Args:
            live (N tensors of shape `[B, C]`): this step's logits.
            targets (`torch.Tensor` of shape `[B, C]`): log-probabilities, softened by `temperature`.
            taught (`torch.BoolTensor` of shape `[B, N]`): which of them are for whom.
        """
        return torch.stack(
            [
                kl_to_target(logits, targets, temperature=self.temperature, where=taught[:, peer])
                for peer, logits in enumerate(live)
            ]
        )

    def _target(self, live, starts, teacher, labelled, classes) -> tuple[Tensor, Tensor]:
        speakers = self.rule.speak(starts if self.source.frozen else live)
        shares = self.rule.shares(speakers, classes if self.labels else None)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.detach == "none"):
            target, taught = teacher_log_probs(speakers, teacher, self.temperature, shares)
        if not self.unlabelled_rows or self.source.frozen or not self.rule.needs_scores:
            return target, taught
        by_mean = torch.full_like(teacher, MEAN)
        with torch.no_grad():
            mean, known = teacher_log_probs(self.rule.speak(starts), by_mean, self.temperature)
        by_starts = ~like_units(labelled, teacher) & (teacher == MEAN)
        return torch.where(by_starts.unsqueeze(1), mean, target), torch.where(by_starts, known, taught)
