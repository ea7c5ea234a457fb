"""The pull on every student: towards a peer, a mean, all others, its own start, or what a table says."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config.options import Detach
from .cohort_batch import PeerMasks
from .deep_mutual_learning import kl_from_others
from .losses import kl_to_target, softened_log_probs, teacher_log_probs
from .roles import ALL, MEAN, NOBODY
from .shared_classes import held_to, shared_transfer, who_hears_whom
from .teacher_rules import SelfRule, TeacherRule, like_units
from .teacher_sources import TeacherSource


class Pulls:
    """The part of an [`Objective`] that says what is paid on a unit, once its teacher is known."""

    rule: TeacherRule
    source: TeacherSource
    retain: bool
    detach: Detach
    temperature: float
    labels: bool
    unlabelled_rows: bool

    def transfer(
        self,
        live: Sequence[Tensor],
        starts: Sequence[Tensor] | None,
        *,
        teacher: Tensor,
        labelled: Tensor,
        classes: Tensor | None = None,
        peers: PeerMasks | None = None,
    ) -> Tensor:
        """The pull on every student.

        Args:
            live (N tensors of shape `[B, C, ...]`): this step's logits.
            starts (N tensors of shape `[B, C, ...]`, *optional*): logits of the source's copies, where needed.
            teacher (`torch.LongTensor` of shape `[B, ...]`): who teaches each unit.
            labelled (`torch.BoolTensor` of shape `[B]`): samples that scores could rank; the frozen mean teaches the
                others.
            classes (`torch.LongTensor` of shape `[B, ...]`, *optional*): the truth, < 0 where there is none, for rules
                that know classes and for peers that do not all know them.
            peers ([`PeerMasks`], *optional*): the S students, and which classes each peer knows; all when unset.

        Returns:
            `torch.Tensor` of shape `[S, B, ...]` in nats: T² · KL(teacher ‖ student), 0 where a peer learns nothing.
        """
        peers = peers or PeerMasks()
        wanted = range(len(live)) if peers.students is None else peers.students
        if not len(wanted):
            return torch.zeros((0, *teacher.shape), device=teacher.device)
        if isinstance(self.rule, SelfRule):
            return self._towards_own(live, starts, teacher, self.rule.confidence, students=wanted)
        if peers.known is not None:
            truth = classes if self.labels else None
            pulls = self._towards_shared(live, starts, teacher, labelled, classes=truth, known=peers.known)
            return pulls[list(wanted)]
        by_all = teacher == ALL
        # A compiled graph must not depend on values: there only the rule says whether peers teach one by one.
        eager = not torch.compiler.is_compiling()
        if not (bool(by_all.any()) if eager else self.rule.pairwise):
            return self._towards_one(live, starts, teacher, labelled, classes=classes, students=wanted)
        from_others = self._towards_all(live, starts, by_all, wanted)
        if eager and bool((by_all | (teacher == NOBODY)).all()):
            return from_others
        towards_one = self._towards_one(live, starts, teacher, labelled, classes=classes, students=wanted)
        return torch.where(by_all, from_others, towards_one)

    def _towards_one(self, live, starts, teacher, labelled, *, classes, students) -> Tensor:
        """The pull towards one distribution per unit: a peer's or a mean."""
        target, taught = self._target(live, starts, teacher, labelled, classes)
        pulls = []
        for peer in students:
            logits, own = live[peer], teacher == peer
            if self.retain and starts is not None:
                held = torch.where(own.unsqueeze(1), softened_log_probs(starts[peer], self.temperature), target)
                pulls.append(kl_to_target(logits, held, temperature=self.temperature, where=taught | own))
            else:
                pulls.append(kl_to_target(logits, target, temperature=self.temperature, where=taught & ~own))
        return torch.stack(pulls)

    def _towards_shared(self, live, starts, teacher, labelled, *, classes, known) -> Tensor:
        """The pull between peers of which some lack classes."""
        speakers = self.rule.speak(starts if self.source.frozen else live)
        if self.unlabelled_rows and not self.source.frozen and self.rule.needs_scores:
            by_starts = (~like_units(labelled, teacher) & (teacher == MEAN)).unsqueeze(1)
            speakers = [torch.where(by_starts, *two) for two in zip(self.rule.speak(starts), speakers, strict=True)]
        weights = who_hears_whom(teacher, speakers, self.rule.shares(speakers, None))
        pulls = shared_transfer(
            live, speakers, weights=weights, known=known, classes=classes, temperature=self.temperature
        )
        return pulls + held_to(starts, live, teacher, self.temperature) if self.retain and starts else pulls

    def _towards_own(self, live, starts, teacher, confidence: float, *, students) -> Tensor:
        """The pull of each peer's own start, where it is sure."""
        pulls, said = [], list(self.rule.speak(starts))
        for peer in students:
            logits, start = live[peer], said[peer].detach()
            target = softened_log_probs(start, self.temperature)
            sure = softened_log_probs(start).amax(1) >= math.log(confidence) if confidence > 0 else True
            heard = (teacher != NOBODY) & sure
            pulls.append(kl_to_target(logits, target, temperature=self.temperature, where=heard))
        return torch.stack(pulls)

    def _towards_all(self, live, starts, where: Tensor, students) -> Tensor:
        """The mean pull towards every other peer, 0 outside `where`."""
        return kl_from_others(
            live,
            temperature=self.temperature,
            detach=self.detach,
            source=self.rule.speak(starts if self.source.frozen else live),
            where=where,
            students=students,
        )

    def transfer_from_table(
        self, live: Sequence[Tensor], targets: Tensor, *, taught: Tensor, where: Tensor | None = None
    ) -> Tensor:
        """The pull `[N, B, ...]` on every student towards targets that came with the batch.

        Args:
            live (N tensors of shape `[B, C, ...]`): this step's logits.
            targets (`torch.Tensor` of shape `[B, C, ...]`): log-probabilities, softened by `temperature`.
            taught (`torch.BoolTensor` of shape `[B, N]`): which of them are for whom.
            where (`torch.BoolTensor` of shape `[B, ...]`, *optional*): the units that count.
        """
        count = taught.new_ones(()) if where is None else where
        wanted = [like_units(heard, count) & count for heard in taught.T]
        return torch.stack(
            [
                kl_to_target(logits, targets, temperature=self.temperature, where=heard)
                for logits, heard in zip(live, wanted, strict=True)
            ]
        )

    def _target(self, live, starts, teacher, labelled, classes) -> tuple[Tensor, Tensor]:
        speakers = self.rule.speak(starts if self.source.frozen else live)
        shares = self.rule.shares(speakers, classes if self.labels else None)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.detach == "none"):
            target, taught = teacher_log_probs(speakers, teacher, temperature=self.temperature, shares=shares)
        if not self.unlabelled_rows or self.source.frozen or not self.rule.needs_scores:
            return target, taught
        by_mean = torch.full_like(teacher, MEAN)
        with torch.no_grad():
            mean, known = teacher_log_probs(self.rule.speak(starts), by_mean, temperature=self.temperature)
        by_starts = ~like_units(labelled, teacher) & (teacher == MEAN)
        return torch.where(by_starts.unsqueeze(1), mean, target), torch.where(by_starts, known, taught)
