"""What a cohort returns of one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class CohortOutput(ModelOutput):
    """What a cohort returns.

    Args:
        loss (`torch.FloatTensor`, *optional*): supervised loss plus weighted transfer; given with labels or roles.
        outputs (`dict[str, Any]`): what each peer says, classes in the data set's order; logits `[B, C]` in image
            classification, see [`Task`] for others.
        teacher (`torch.LongTensor` of shape `[B, ...]`, *optional*): a peer's index, `NOBODY`, `MEAN` or `ALL`.
        supervised (`torch.FloatTensor` of shape `[N]`, *optional*): each peer's share of the loss by labels.
        transfer (`torch.FloatTensor` of shape `[N]`, *optional*): each peer's transfer loss, not yet weighted.
    """

    loss: Tensor | None = None
    outputs: dict[str, Any] | None = None
    teacher: Tensor | None = None
    supervised: Tensor | None = None
    transfer: Tensor | None = None
