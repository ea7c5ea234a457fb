"""Who teaches: a rule, a source and retention, joined in one [`Objective`] for the cohort's forward."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config.options import Detach, TransferOptions
from ..config.rules import check_numbers
from ..errors import ConfigError
from .cohort_batch import CohortBatch, PeerMasks
from .pulls import Pulls
from .roles import NOBODY, UNDECIDED
from .shared_classes import among_shared
from .teacher_rules import BestRule, TeacherRule, like_units, make_rule
from .teacher_sources import SOURCES, LiveSource, TeacherSource
from .units import ClassUnits, Pull, Units

Starts = Sequence[Tensor] | Callable[[Tensor | None], list[Tensor]]
"""Logits of the source's copies, N of `[B, C, ...]`, or what computes them: of all samples, or where a bool `[N, B]`
says that a peer's are looked at; elsewhere they may be anything finite."""


@dataclass
class ObjectiveLoss:
    """What one batch costs.

    Args:
        loss (`torch.Tensor`, scalar): supervised loss plus weighted transfer, and what trains the rule.
        supervised (`torch.Tensor` of shape `[N]`): each peer's share of the loss by labels.
        teacher (`torch.LongTensor` of shape `[B, ...]`, *optional*): a peer's index, `NOBODY`, `MEAN` or `ALL`; unset
            where there is no transfer.
        transfer (`torch.Tensor` of shape `[N]`, *optional*): each peer's transfer loss, not yet weighted.
    """

    loss: Tensor
    supervised: Tensor
    teacher: Tensor | None = None
    transfer: Tensor | None = None


@dataclass(frozen=True)
class Objective(Pulls):
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
    >>> objective.transfer(live, None, teacher=torch.tensor([0]), labelled=torch.tensor([True]))
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

    def __post_init__(self):
        check_numbers(temperature=self.temperature, weight=self.weight, label_smoothing=self.label_smoothing)

    @classmethod
    def from_options(cls, options: TransferOptions, **changes) -> Objective:
        """The objective that options describe; the control where `transfer_weight` is 0."""
        options = options.resolved()
        objective = cls(
            rule=make_rule(str(options.teacher_rule), options.calibrate, confidence=options.self_confidence),
            source=SOURCES[str(options.teacher_source)].from_options(options),
            retain=bool(options.retain),
            detach=options.detach or cls.detach,
            score=options.role_score or cls.score,
            temperature=options.temperature,
            weight=1.0 if options.transfer_weight is None else options.transfer_weight,
            labels=options.labels,
            unlabelled_rows=not options.labels,
        )
        return replace(objective, **changes)

    def fresh(self, **changes) -> Objective:
        """The same for another training, which starts with a rule that has learned nothing yet."""
        return replace(self, rule=copy.deepcopy(self.rule), **changes)

    @property
    def needs_starts(self) -> bool:
        """Whether the frozen starts of the peers are needed: for a frozen source, retention or rows without labels."""
        unranked = self.unlabelled_rows and self.rule.needs_scores
        return self.weight > 0 and self.source.in_memory and (self.source.frozen or self.retain or unranked)

    def loss(
        self,
        logits: Sequence[Tensor],
        batch: CohortBatch | Tensor,
        *,
        losses: Tensor | None = None,
        starts: Starts | None = None,
        peers: PeerMasks | None = None,
        units: Units | None = None,
    ) -> ObjectiveLoss:
        """
        What a batch costs: scores say who teaches, and what that pulls is weighed against the loss by labels.

        Args:
            logits (N tensors of shape `[B, C, ...]`): what the peers say.
            batch ([`CohortBatch`]): of which everything but `peer_inputs` is looked at; labels `[B, ...]` will do.
            losses (`torch.Tensor` of shape `[N, B]`, *optional*): each peer's own loss by the labels, 0 where there
                is none; the cross-entropy of its logits when unset.
            starts (N tensors of shape `[B, C, ...]`, or a function, *optional*): see [`Starts`]; asked for where
                `needs_starts`.
            peers ([`PeerMasks`], *optional*): which of them learn here, and which classes each knows; all when unset.
            units ([`Units`], *optional*): of the peers' task; samples with a class each when unset.

        Returns:
            [`ObjectiveLoss`]

        Raises:
            [`ConfigError`]: labels, starts, a table or names of peers are needed and were not given.

        Example:

        ```python
        >>> objective = Objective(rule=BestRule(), source=LiveSource(), retain=False)
        >>> logits = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])]  # 2 peers, 1 sample, 2 classes
        >>> found = objective.loss(logits, torch.tensor([0]))
        >>> found.teacher, found.supervised, found.transfer
        (tensor([0]), tensor([0.1269, 0.6931]), tensor([0.0000, 0.3278]))
        ```
        """
        batch = batch if isinstance(batch, CohortBatch) else CohortBatch(labels=batch)
        peers = peers or PeerMasks()
        labels, units = batch.truth, ClassUnits() if units is None else units
        losses = self._cross_entropy(logits, labels) if losses is None else losses
        counts = (len(labels), units.labelled(labels).sum())
        rows, labelled_rows = counts if batch.row_counts is None else batch.row_counts
        share = torch.as_tensor(labelled_rows).clamp_min(1)
        supervised = losses.sum(1) / share
        total = supervised.sum() * (1 if self.labels else 0)
        if self.weight == 0:
            return ObjectiveLoss(total, supervised)
        students = list(range(len(logits)) if peers.students is None else peers.students)
        if self.source.in_memory:
            teacher, pulls, by_rule = self._pulls_of_peers(logits, batch, starts, units, peers)
            total = total + by_rule / share
        else:
            teacher, pulls = self._pulls_of_table(logits, batch, units, students)
        places = torch.tensor(students, dtype=torch.long, device=pulls.device)
        transfer = pulls.new_zeros(len(logits)).index_copy(0, places, pulls.sum(1)) / rows
        if peers.joined is not None:
            transfer = transfer + (peers.joined(transfer.detach()) - transfer.detach())
        weight = self.weight if batch.transfer_weight is None else batch.transfer_weight
        return ObjectiveLoss(total + weight * transfer.sum(), supervised, teacher, transfer)

    def _cross_entropy(self, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        """`[N, B]` in fp32, 0 where there is no label."""
        truth = labels.clamp_min(-1)
        return torch.stack(
            [
                F.cross_entropy(
                    one.float(), truth, reduction="none", ignore_index=-1, label_smoothing=self.label_smoothing
                )
                for one in logits
            ]
        )

    def _pulls_of_peers(
        self,
        live: Sequence[Tensor],
        batch: CohortBatch,
        starts: Starts | None,
        units: Units,
        peers: PeerMasks,
    ) -> tuple[Tensor | None, Tensor, Tensor | float]:
        """Who teaches `[B, ...]`, the pull `[S, B]` on every student, and what trains the rule, over all samples."""
        self.rule.check_bound()
        labels, run_starts = batch.truth, self._runs_starts(starts)
        as_started = run_starts(None) if self.source.frozen or torch.compiler.is_compiling() else None
        speakers = as_started if self.source.frozen and as_started is not None else live
        compared, truth = among_shared(speakers, labels, peers.known, units.no_class)
        ranked = units.ranked(truth)
        scored = torch.ones_like(ranked) if self.score in units.label_free_scores else ranked
        teacher = self.teachers(self._scores(self.rule.speak(compared), truth, units), scored, roles=batch.roles)
        if as_started is None:
            as_started = run_starts(self._looked_at(teacher, scored, len(live)))
        by_rule = self.rule.loss(units.units(compared, truth)).sum() if self.rule.learns else 0.0
        pull = self.pull(as_started, scored, peers=peers)
        return teacher, units.run_over(pull, live, self._heard(teacher, labels, units), labels), by_rule

    def _runs_starts(self, starts: Starts | None) -> Callable[[Tensor | None], Sequence[Tensor] | None]:
        """What gives the starts' logits where they are needed."""
        if not self.needs_starts:
            return lambda wanted: None
        if starts is None:
            raise ConfigError("there are no frozen starts to hold peers to; give their logits as `starts`")
        return starts if callable(starts) else lambda wanted: starts

    def pull(self, starts: Sequence[Tensor] | None, scored: Tensor, *, peers: PeerMasks | None = None) -> Pull:
        """[`Objective.transfer`] for a task to run over its maps; all arguments as there."""
        return Pull(
            lambda live, source, teacher, classes: self.transfer(
                live, source, teacher=teacher, labelled=scored, classes=classes, peers=peers
            ),
            source=starts,
            knows_classes=self.rule.knows_classes or (peers is not None and peers.known is not None),
        )

    def _pulls_of_table(
        self, live: Sequence[Tensor], batch: CohortBatch, units: Units, students: list[int]
    ) -> tuple[Tensor | None, Tensor]:
        if batch.table is None:
            raise ConfigError("teacher_source 'table' needs batches that a TableCollator made")
        labels, taught = batch.truth, batch.table["taught"][:, students]
        live = [live[peer] for peer in students]

        def towards_table(own: list[Tensor], source: Any, teacher: Tensor, classes: Any) -> Tensor:
            return self.transfer_from_table(own, source[0], taught=taught, where=teacher != NOBODY)

        pull = Pull(towards_table, target=batch.table["targets"])
        anybody = torch.where(batch.table["taught"].any(1), 0, NOBODY)
        return batch.roles, units.run_over(pull, live, self._heard(anybody, labels, units), labels)

    def _scores(self, speakers: Sequence[Tensor], labels: Tensor, units: Units) -> Tensor:
        """What ranks the peers, `[N, B, ...]`; zeros where the rule asks for nothing."""
        if not self.rule.needs_scores:
            return torch.zeros(len(speakers), len(labels), device=labels.device)
        return units.scores(self.score, speakers, labels)

    def _looked_at(self, teacher: Tensor, scored: Tensor, peers: int) -> Tensor:
        """Bool `[N, B]`: a peer is held to its start where it teaches, and heard as it started where nobody ranks."""
        parts = teacher.flatten(1) if teacher.ndim > 1 else teacher.unsqueeze(1)
        unranked = ~scored if self.unlabelled_rows else torch.zeros_like(scored)
        return torch.stack([(parts == peer).any(1) | unranked for peer in range(peers)])

    def _heard(self, teacher: Tensor, labels: Tensor, units: Units) -> Tensor:
        """The teacher, nobody where a truth says nothing."""
        if not self.labels:
            return teacher
        blank = units.ranked(labels) & ~units.labelled(labels)
        return teacher.masked_fill(like_units(blank, teacher), NOBODY)

    def teachers(self, scores: Tensor, scored: Tensor, *, roles: Tensor | None = None) -> Tensor:
        """Who teaches each unit: `[N, B, ...]` scores to `[B, ...]`; decided `roles` of a role table come first."""
        decided = self.rule.teachers(scores, scored)
        if roles is None:
            return decided
        roles = like_units(roles, decided)
        return torch.where(roles == UNDECIDED, decided, roles)


LABELS_ALONE = Objective(BestRule(), LiveSource(), weight=0.0)
"""Nobody teaches."""
