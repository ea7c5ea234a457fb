"""Several labels of one sample: each class is a question of yes or no, and a unit of two classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from .roles import confidence_scores, loss_scores, margin_scores
from .units import Pull, Units

Granularity = Literal["image", "class"]


def yes_or_no(logits: Tensor) -> Tensor:
    """
    Logits of the two answers, whose softmax is the sigmoid: what [`~losses.kl_to_target`] and all scores take.

    Args:
        logits (`torch.Tensor` `[B, C]`): one number for each class.

    Returns:
        `torch.Tensor` `[B, 2, C]`: 0 for no, the logit for yes.

    Example:

    ```python
    >>> yes_or_no(torch.tensor([[0.0, 1.0986]])).softmax(1)
    tensor([[[0.5000, 0.2500],
             [0.5000, 0.7500]]])
    ```
    """
    return torch.stack([torch.zeros_like(logits), logits], dim=1)


def multi_label_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """
    Binary cross-entropy of every sample, the mean over its classes, as of `torch.nn.BCEWithLogitsLoss`.

    Args:
        logits (`torch.Tensor` `[B, C]`): fp32 inside.
        labels (`torch.LongTensor` `[B, C]`): 1 or 0; below 0 throughout for a sample without a label.
        label_smoothing (`float`, *optional*, defaults to 0.0): share of the truth that is spread over both answers.

    Returns:
        `torch.Tensor` `[B]` in nats; 0, with gradient 0, where there is no label.

    Example:

    ```python
    >>> multi_label_loss(torch.tensor([[1.0986, 0.0]]), torch.tensor([[1, 0]]))  # (log 4/3 + log 2) / 2
    tensor([0.4904])
    ```
    """
    known = (labels >= 0).all(1)
    wanted = labels.clamp(min=0).float() * (1 - label_smoothing) + label_smoothing / 2
    safe = logits.float().where(known.unsqueeze(1), 0.0)
    loss = F.binary_cross_entropy_with_logits(safe, wanted, reduction="none").mean(1)
    return loss.where(known, 0.0)


class MultiLabelUnits(Units):
    """
    Samples with logits `[B, 2, C]` of [`yes_or_no`] and labels `[B, C]` of 0 and 1, below 0 where a sample has none.

    A peer's score on a sample is the mean over the classes of its score on each: of `loss`, the log-likelihood of
    the sample's labels divided by their number. By `class` each class of a sample has a teacher of its own. Transfer
    is the mean over the classes, as the loss by labels is.

    Args:
        granularity (`str`, *optional*, defaults to `"image"`): `"image"` or `"class"`.

    Example:

    ```python
    >>> peers = [yes_or_no(torch.tensor([[3.0, 3.0]])), yes_or_no(torch.tensor([[1.0, -1.0]]))]
    >>> MultiLabelUnits("class").scores("loss", peers, torch.tensor([[1, 0]]))
    tensor([[[-0.0486, -3.0486]],
    <BLANKLINE>
            [[-0.3133, -0.3133]]])
    ```
    """

    label_free_scores = frozenset({"confidence"})
    granularity: str = "image"

    def __init__(self, granularity: Granularity = "image"):
        self.granularity = granularity

    def labelled(self, labels: Tensor) -> Tensor:
        return (labels >= 0).all(1)

    def scores(self, kind: str, logits: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        if kind == "confidence":
            each = confidence_scores(logits)
        elif labels is None:
            raise ConfigError(f"role_score={kind!r} needs labels; give labels or use role_score='confidence'")
        else:
            each = margin_scores(logits, labels) if kind == "margin" else loss_scores(logits, labels)
        return each if self.granularity == "class" else each.mean(-1)

    def run_over(self, pull: Pull, logits: Sequence[Tensor], teacher: Tensor, labels: Tensor) -> Tensor:
        of_classes = teacher if teacher.ndim > 1 else teacher.unsqueeze(1).expand(-1, logits[0].shape[2])
        return super().run_over(pull, logits, of_classes, labels).mean(-1)

    def units(self, logits: Sequence[Tensor], labels: Tensor) -> Iterator[tuple[list[Tensor], Tensor]]:
        yield list(logits), labels
