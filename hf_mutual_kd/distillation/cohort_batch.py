"""One batch, on its way from the collator to the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import ConfigError


@dataclass
class CohortBatch:
    """What a collator makes of rows, and what the trainer adds for its step.

    Args:
        labels (`torch.LongTensor` of shape `[B, ...]`, *optional*): truth; negative where there is none.
        peer_inputs (`dict[str, dict[str, torch.Tensor]]`): each peer's own inputs.
        roles (`torch.LongTensor` of shape `[B, ...]`, *optional*): decided teachers; `UNDECIDED` leaves it to the
            objective.
        sample_ids (`torch.LongTensor` of shape `[B]`, *optional*): for the record; no loss depends on them.
        start_logits (N tensors of shape `[B, C, ...]`, *optional*): cached outputs of the frozen starts.
        row_counts (`torch.LongTensor` of shape `[2]`, *optional*): units, and units with a label, over which the loss
            is a mean, where that is more than this batch (accumulation, processes).
        transfer_weight (`float`, *optional*): λ, when it is not the objective's.
        table (`dict[str, torch.Tensor]`, *optional*): what a score table teaches: `targets` `[B, C, ...]`, softened
            log-probabilities, and `taught` `[B, N]`, which of them are for whom; `roles` then say who.
    """

    labels: Tensor | None = None
    peer_inputs: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    roles: Tensor | None = None
    sample_ids: Tensor | None = None
    start_logits: Sequence[Tensor] | None = None
    row_counts: Tensor | None = None
    transfer_weight: Tensor | float | None = None
    table: Mapping[str, Tensor] | None = None

    @property
    def truth(self) -> Tensor:
        """The labels, or a [`ConfigError`]."""
        if self.labels is None:
            raise ConfigError("a loss needs labels, negative where there are none; give the batch `labels`")
        return self.labels


@dataclass(frozen=True)
class PeerMasks:
    """What tells peers apart.

    Args:
        students (`list[int]`, *optional*): the peers whose transfer loss is computed, those that learn and that this
            process holds; all of them when unset.
        known (`torch.BoolTensor` of shape `[N, C]`, *optional*): the classes of each peer, where some lack some: they
            are ranked by those that all have, and taught by [`shared_transfer`].
        joined (`Callable`, *optional*): makes of `[N]` losses, 0 for other processes' students, those of all.
    """

    students: Sequence[int] | None = None
    known: Tensor | None = None
    joined: Callable[[Tensor], Tensor] | None = None
