"""Rules: who teaches a unit, and how much each peer's word counts where several teach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .losses import softened_log_probs
from .roles import ALL, MEAN, NOBODY, assign_roles, confidence_scores, loss_scores
from .rule_fitting import best_temperatures, class_sums, class_trust, over_units, temperature_sums

Units = Iterable[tuple[list[Tensor], Tensor]]
"""A batch in chunks: what each peer says, N of `[B, C, ...]`, and the class of every unit `[B, ...]`, < 0 for none."""


class Fit(NamedTuple):
    """One pass over the validation rows: what is summed up per sample, and what becomes of the sums of all samples."""

    sums: Callable[[Units], dict[str, Tensor]]
    finish: Callable[[dict[str, Tensor]], None]


class TeacherRule(nn.Module):
    """
    Turns scores into a teacher per unit. Subclasses differ in who speaks, never in the number of peers.

    What is fitted lies in buffers, what is learned in parameters: they move, are saved and are resumed with the
    cohort.

    Args:
        calibrate (`bool`, *optional*, defaults to `False`): divide what each peer says by a temperature of its own
            that is fitted on validation rows before training (Guo et al., ICML 2017, arXiv 1706.04599).
    """

    name: str
    description: str
    citation: str
    temperatures: Tensor | None
    needs_scores: ClassVar[bool] = False
    """Whether peers have to be ranked."""
    one_teaches: ClassVar[bool] = False
    """Whether a unit can have one peer as its teacher, which retention then holds to its own start."""
    pairwise: ClassVar[bool] = False
    """Whether peers teach each other one by one instead of by one distribution."""
    learns: ClassVar[bool] = False
    """Whether [`TeacherRule.loss`] trains parameters of the rule."""
    alone: ClassVar[bool] = False
    """Whether no peer hears another."""
    knows_classes: ClassVar[bool] = False
    """Whether [`TeacherRule.shares`] depends on the classes of units."""
    knows_peers: ClassVar[bool] = False
    """Whether it holds something for each peer, which [`TeacherRule.bind`] makes."""

    def __init__(self, calibrate: bool = False):
        super().__init__()
        self.calibrate = calibrate
        self.peer_names: list[str] = []
        self.register_buffer("temperatures", None)

    def bind(self, peer_names: Sequence[str], classes: int) -> None:
        """
        Make what depends on the peers.

        Raises:
            [`ConfigError`]: the rule names a peer that does not take part.
        """
        self.peer_names = list(peer_names)
        if self.calibrate:
            self.temperatures = torch.ones(len(peer_names))

    def check_bound(self) -> None:
        """Raise [`ConfigError`] where the rule has to know its peers and does not."""
        if (self.knows_peers or self.calibrate) and not self.peer_names:
            raise ConfigError(
                f"teacher_rule {self.name!r} must know the peers: call `objective.rule.bind(peer_names, classes)` "
                "once, before an optimizer takes its parameters"
            )

    def teachers(self, scores: Tensor, scored: Tensor) -> Tensor:
        """
        Decide who teaches.

        Args:
            scores (`torch.Tensor` of shape `[N, B, ...]`): how good each peer is on a unit, higher is better.
            scored (`torch.BoolTensor` of shape `[B]`): whether the scores of a sample mean anything.

        Returns:
            `torch.LongTensor` of shape `[B, ...]`: a peer's index, `NOBODY`, `MEAN` or `ALL`.
        """
        raise NotImplementedError

    def speak(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """What the peers say as teachers: their logits, calibrated where that was asked for."""
        if self.temperatures is None:
            return list(logits)
        return [z / temperature.to(z.dtype) for z, temperature in zip(logits, self.temperatures, strict=True)]

    def shares(self, logits: Sequence[Tensor], classes: Tensor | None) -> Tensor | None:
        """
        How much each peer counts in the mean, `[N, B, ...]`; `None`: all alike.

        Args:
            logits (N of `torch.Tensor` `[B, C, ...]`): what the peers say.
            classes (`torch.LongTensor` `[B, ...]`, *optional*): the truth, < 0 for none.
        """
        return None

    def loss(self, units: Units) -> Tensor:
        """What trains the rule's own parameters, `[B]`; its gradient reaches no peer."""
        raise NotImplementedError

    def fits(self) -> list[Fit]:
        """What is to be fitted on validation rows before training, one pass each."""
        return [Fit(self._temperature_sums, self._take_temperatures)] if self.calibrate else []

    def facts(self) -> dict[str, Any]:
        """What was fitted or learned, for the record."""
        if self.temperatures is None:
            return {}
        return {"temperatures": dict(zip(self.peer_names, _rounded(self.temperatures), strict=True))}

    def _temperature_sums(self, units: Units) -> dict[str, Tensor]:
        return temperature_sums(units)

    def _take_temperatures(self, sums: dict[str, Tensor]) -> None:
        if self.temperatures is not None:
            self.temperatures.copy_(best_temperatures(sums))


class BestRule(TeacherRule):
    """On every unit the peer with the strictly best score teaches all others; unscored units learn from the mean."""

    name = "best"
    description = "On every sample the peer that is most certain of the truth teaches all others."
    citation = (
        "Jain, Karthik, Gandhi: Simplifying Knowledge Transfer in Pretrained Models, TMLR 2025, arXiv 2510.22208"
    )
    needs_scores = True
    one_teaches = True

    def teachers(self, scores: Tensor, scored: Tensor) -> Tensor:
        return torch.where(like_units(scored, scores[0]), assign_roles(scores), MEAN)


class MeanRule(TeacherRule):
    """The mean probability of all peers teaches every peer on every unit."""

    name = "mean"
    description = "On every sample the mean of all peers' probabilities teaches every peer."
    citation = "Lan, Zhu, Gong: Knowledge Distillation by On-the-Fly Native Ensemble, NeurIPS 2018, arXiv 1806.04606"

    def teachers(self, scores: Tensor, scored: Tensor) -> Tensor:
        return torch.full_like(scored, MEAN, dtype=torch.long)


class AllRule(TeacherRule):
    """Every other peer teaches each peer on every unit; a peer's loss is the mean over its N - 1 teachers."""

    name = "all"
    description = "On every sample every other peer teaches each peer, all alike."
    citation = "Zhang, Xiang, Hospedales, Lu: Deep Mutual Learning, CVPR 2018, arXiv 1706.00384"
    pairwise = True

    def teachers(self, scores: Tensor, scored: Tensor) -> Tensor:
        return torch.full_like(scored, ALL if len(scores) > 1 else NOBODY, dtype=torch.long)


class FixedRule(TeacherRule):
    """
    One named peer teaches all others on every unit: classic distillation where it is also frozen.

    A teacher that is not frozen goes on learning from labels, held to its own start by retention where that is on.

    Args:
        teacher (`str`): its name.
        calibrate (`bool`, *optional*, defaults to `False`): as for [`TeacherRule`].
    """

    citation = "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531"
    one_teaches = True
    knows_peers = True

    def __init__(self, teacher: str, calibrate: bool = False):
        super().__init__(calibrate)
        self.teacher = teacher
        self.name = f"fixed:{teacher}"
        self.description = f"On every sample {teacher} teaches all other peers."

    def bind(self, peer_names: Sequence[str], classes: int) -> None:
        if self.teacher not in peer_names:
            raise ConfigError(f"teacher_rule {self.name} names no peer; the peers are {', '.join(peer_names)}")
        super().bind(peer_names, classes)

    def teachers(self, scores: Tensor, scored: Tensor) -> Tensor:
        return torch.full_like(scored, self.peer_names.index(self.teacher), dtype=torch.long)


class GatedRule(TeacherRule):
    """
    A weighted mean of the peers teaches every peer; a gate weighs them anew on every unit, and is trained with them.

    A peer's gate logit is `bias_m + slope_m * max_c log p_m[c]`: how good it is by and large, and how far its own
    sureness can be trusted. Both begin at 0, the plain mean. The cross-entropy of the weighted mean on labelled units
    trains the gate alone; in the paper it also trains the peers, which share features, and the gate sees those.
    """

    name = "gated"
    description = (
        "On every sample a weighted mean of all peers' probabilities teaches every peer; a gate, trained by the "
        "cross-entropy of that mean, weighs each peer by its sureness."
    )
    citation = "Lan, Zhu, Gong: Knowledge Distillation by On-the-Fly Native Ensemble, NeurIPS 2018, arXiv 1806.04606"
    learns = True
    knows_peers = True

    def bind(self, peer_names: Sequence[str], classes: int) -> None:
        super().bind(peer_names, classes)
        self.bias = nn.Parameter(torch.zeros(len(peer_names)))
        self.slope = nn.Parameter(torch.zeros(len(peer_names)))

    def teachers(self, scores: Tensor, scored: Tensor) -> Tensor:
        return torch.full_like(scored, MEAN, dtype=torch.long)

    def shares(self, logits: Sequence[Tensor], classes: Tensor | None) -> Tensor:
        with torch.no_grad():
            return self._log_shares(logits).exp()

    def loss(self, units: Units) -> Tensor:
        total: Any = 0.0
        count: Any = 0
        for logits, classes in units:
            calibrated = self.speak([z.detach() for z in logits])
            truth = loss_scores(calibrated, classes)
            usable = truth.isfinite()
            counts = (classes >= 0) & usable.any(0)
            each = (self._log_shares(calibrated) + truth.where(usable, 0.0)).where(usable | ~counts, float("-inf"))
            total = total + over_units(-each.logsumexp(0).where(counts, 0.0), 0)
            count = count + over_units(counts, 0)
        return total / count.clamp(min=1)

    def _log_shares(self, logits: Sequence[Tensor]) -> Tensor:
        sure = confidence_scores(list(logits))
        sure = sure.masked_fill(~sure.isfinite(), 0.0)
        by_peer = (-1, *[1] * (sure.ndim - 1))
        return (self.bias.view(by_peer) + self.slope.view(by_peer) * sure).log_softmax(0)

    def facts(self) -> dict[str, Any]:
        if not self.peer_names:
            return {}
        learned = {"gate_bias": self.bias, "gate_slope": self.slope}
        return super().facts() | {
            key: dict(zip(self.peer_names, _rounded(values), strict=True)) for key, values in learned.items()
        }


class ClassRule(TeacherRule):
    """
    A weighted mean of the peers teaches every peer; each counts as far as it is trusted with the unit's class.

    Trust is a peer's likelihood of the truth on validation rows of the class, the geometric mean of `p_m[y]`. A unit
    with a label has that class, one without the class that the peers' plain mean predicts.
    """

    name = "class"
    description = (
        "On every sample a weighted mean of all peers' probabilities teaches every peer; each peer counts as far as "
        "it was right on validation samples of the class: the true one, or else the one that the mean predicts."
    )
    citation = (
        "Jacobs, Jordan, Nowlan, Hinton: Adaptive Mixtures of Local Experts, Neural Computation 1991, for experts "
        "that are weighted by likelihood; a table by class instead of their gate is ours"
    )
    knows_classes = True
    knows_peers = True
    trust: Tensor

    def bind(self, peer_names: Sequence[str], classes: int) -> None:
        super().bind(peer_names, classes)
        if classes < 1:
            raise ConfigError("teacher_rule class needs to know the classes; give the cohort `label_names`")
        self.register_buffer("trust", torch.zeros(len(peer_names), classes))

    def teachers(self, scores: Tensor, scored: Tensor) -> Tensor:
        return torch.full_like(scored, MEAN, dtype=torch.long)

    def shares(self, logits: Sequence[Tensor], classes: Tensor | None) -> Tensor:
        with torch.no_grad():
            guess = torch.stack([softened_log_probs(z).exp().nan_to_num(0.0) for z in logits]).sum(0).argmax(1)
            chosen = guess if classes is None else torch.where(classes < 0, guess, classes.long())
            return self.trust.softmax(0)[:, chosen]

    def fits(self) -> list[Fit]:
        return [*super().fits(), Fit(self._class_sums, self._take_trust)]

    def _class_sums(self, units: Units) -> dict[str, Tensor]:
        return class_sums(((self.speak(logits), classes) for logits, classes in units), self.trust.shape[1])

    def _take_trust(self, sums: dict[str, Tensor]) -> None:
        self.trust.copy_(class_trust(sums))

    def facts(self) -> dict[str, Any]:
        if not self.peer_names:
            return {}
        rows = [_rounded(row) for row in self.trust]
        return super().facts() | {"log_likelihood_by_class": dict(zip(self.peer_names, rows, strict=True))}


class SelfRule(TeacherRule):
    """
    Each peer's own frozen start teaches it on units without a label: self-training, the control of mutual teaching.

    Args:
        calibrate (`bool`, *optional*, defaults to `False`): as for [`TeacherRule`].
        confidence (`float`, *optional*, defaults to 0.0): units on which the start is less sure teach nothing.
    """

    name = "self"
    description = "Where there is no label each peer is taught by its own frozen start, if that is sure enough."
    citation = (
        "Lee: Pseudo-Label, ICML 2013 workshop on challenges in representation learning; Sohn et al.: FixMatch, "
        "NeurIPS 2020, arXiv 2001.07685, for the threshold"
    )
    alone = True

    def __init__(self, calibrate: bool = False, confidence: float = 0.0):
        super().__init__(calibrate)
        self.confidence = confidence

    def teachers(self, scores: Tensor, scored: Tensor) -> Tensor:
        # What MEAN marks is heard; of one voice the mean is itself.
        return torch.where(scored, NOBODY, MEAN)


def like_units(samples: Tensor, units: Tensor) -> Tensor:
    """`[B]` of samples, or `[B, ...]` of units already, with as many dimensions as `[B, ...]` of units."""
    return samples[(..., *[None] * (units.ndim - samples.ndim))]


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.detach().cpu().tolist()]


RULES: dict[str, type[TeacherRule]] = {
    rule.name: rule for rule in (BestRule, MeanRule, AllRule, GatedRule, ClassRule, SelfRule)
}
"""By name; [`FixedRule`] has a peer in its name, see [`make_rule`]."""


def make_rule(name: str, calibrate: bool = False, *, confidence: float = 0.0) -> TeacherRule:
    """The rule that `teacher_rule` names: `best`, `mean`, `all`, `fixed:NAME`, `gated`, `class`, or `self`, which asks
    for that much `confidence`."""
    kind, _, teacher = name.partition(":")
    if kind == SelfRule.name:
        return SelfRule(calibrate, confidence)
    return FixedRule(teacher, calibrate) if kind == "fixed" else RULES[name](calibrate)
