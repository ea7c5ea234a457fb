"""What a segmentation peer says, and its own training loss, whatever its head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...data.masks import IGNORE
from ...distillation.label_alignment import ClassColumns
from ...errors import PeerError
from ..logits import described, logits_of
from .heads import head_of
from .labels import query_targets
from .outputs import HeadKind, dense_log_probs, semantic_map

QUERY_OUTPUTS = ("class_queries_logits", "masks_queries_logits")
AUXILIARY_WEIGHT = 0.5
"""Of the `aux` output of torchvision's models, as in torchvision's own training script."""


@dataclass(frozen=True)
class DenseOutput:
    """What a peer says of every pixel.

    Args:
        outputs (`dict[str, torch.Tensor]`): `logits` `[B, C, h, w]`, or `class_queries_logits` `[B, Q, C + 1]` and
            `masks_queries_logits` `[B, Q, h, w]`; classes in the data set's order.
        kind (`"pixel"` or `"query"`): which of the two.
        padded (`tuple[int, int]`): height and width of the batch that the peer saw.
        valid (`torch.Tensor` `[B, 2]`, *optional*): height and width of every image in it, where some are smaller.
        own (`torch.Tensor` `[B, 3, 2]`, *optional*): what [`run_alone`] says of images that were joined.
    """

    outputs: dict[str, Tensor]
    kind: HeadKind
    padded: tuple[int, int]
    valid: Tensor | None
    own: Tensor | None = None

    @cached_property
    def log_probs(self) -> Tensor:
        """`[B, C, h, w]` on the peer's own grid, which every image fills."""
        return dense_log_probs(self.outputs, kind=self.kind, padded=self.padded, valid=self.valid)

    def semantic_maps(self, sizes: Sequence[tuple[int, int]] | Tensor) -> list[Tensor]:
        """The class of every pixel of every image at `sizes` (height, width)."""
        return semantic_map(self.outputs, self.valid, sizes, padded=self.padded, kind=self.kind)

    def alone(self, row: int) -> DenseOutput:
        """What the peer says of one image, on the grid that it has without the others of the batch."""
        outputs = {key: value[row, None] for key, value in self.outputs.items()}
        if self.own is None:
            valid = None if self.valid is None else self.valid[row, None]
            return DenseOutput(outputs, self.kind, self.padded, valid)
        (height, width), padded, _ = self.own[row].tolist()
        cut = {key: one[..., :height, :width] if one.ndim == 4 else one for key, one in outputs.items()}
        return placed_output(self.kind, cut, (padded[0], padded[1]), self.own[row, 2:])


def aligned(model: nn.Module, outputs: Any, columns: ClassColumns) -> dict[str, Tensor]:
    """The outputs of any head with the data set's classes in its order."""
    if head_of(model) == "query":
        classes, masks = (outputs[key] for key in QUERY_OUTPUTS)
        # The last column stands for no object and stays the last.
        chosen = torch.cat([columns.select(classes[..., :-1], dim=2), classes[..., -1:]], dim=2)
        return dict(zip(QUERY_OUTPUTS, (chosen, masks), strict=True))
    return {"logits": columns.select(maps_of(outputs, columns.peer))}


def placed_output(
    kind: HeadKind, outputs: dict[str, Tensor], padded: tuple[int, int], valid: Tensor, own: Tensor | None = None
) -> DenseOutput:
    """Outputs of which only images smaller than the batch say their sizes."""
    whole = bool((valid == valid.new_tensor(padded)).all())
    return DenseOutput(outputs, kind, padded, None if whole else valid, own)


def maps_of(outputs: Any, peer: str | None = None) -> Tensor:
    """`[B, C, h, w]` of transformers', torchvision's or a plain module's outputs.

    Raises:
        [`PeerError`]: there are none.
    """
    maps = logits_of(outputs, {4})
    if maps is None:
        name = "the model" if peer is None else f"peer {peer!r}"
        raise PeerError(f"{name} must return logits [B, C, h, w]; it returned {described(outputs)}")
    return maps


def own_labels(truth: Tensor, columns: ClassColumns) -> Tensor:
    """The data set's class ids as the peer's own; `IGNORE` stays, and stands for classes that the peer lacks."""
    if columns.index is None:
        return truth
    truth = columns.known_labels(truth, IGNORE)
    known = truth != IGNORE
    return torch.where(known, columns.index[truth.masked_fill(~known, 0)], truth)


def query_loss(model: nn.Module, inputs: dict[str, Tensor], truth: Tensor) -> tuple[Any, Tensor]:
    """The loss of a head that matches queries with masks; images without a label take no part in it."""
    labelled = has_labels(truth)
    if not bool(labelled.any()):
        outputs = model(**inputs, **targets(with_one_label(truth)))
        return outputs, outputs.loss.float() * 0.0
    if bool(labelled.all()):
        outputs = model(**inputs, **targets(truth))
        return outputs, outputs.loss.float()
    with_label = model(**select(inputs, labelled), **targets(truth[labelled]))
    without = model(**select(inputs, ~labelled))
    joined = {key: joined_rows(with_label[key], without[key], labelled) for key in QUERY_OUTPUTS}
    return joined, with_label.loss.float()


def count_own_masks(model: nn.Module) -> None:
    """Let heads with queries weigh their loss by the masks of their own batch; else they ask all processes."""
    parts: Iterable[Any] = model.modules()
    for part in parts:
        if hasattr(part, "get_num_masks"):
            part.get_num_masks = number_of_masks


def number_of_masks(class_labels: Sequence[Tensor], device: torch.device) -> Tensor:
    """How many masks a batch has, 1 at least."""
    return torch.tensor(float(max(sum(map(len, class_labels)), 1)), device=device)


def pixel_loss(model: nn.Module, inputs: dict[str, Tensor], truth: Tensor) -> tuple[Any, Tensor]:
    """A per-pixel head's own loss: what its `forward` makes of labels, else the cross-entropy at label size."""
    empty = not bool(has_labels(truth).any())
    truth = with_one_label(truth) if empty else truth
    if takes_labels(model):
        outputs = model(**inputs, labels=as_its_ignored(model, truth))
        loss = outputs.loss.float()
    else:
        outputs = model(**inputs)
        loss = cross_entropy(maps_of(outputs), truth)
        if isinstance(outputs, Mapping) and outputs.get("aux") is not None:
            loss = loss + AUXILIARY_WEIGHT * cross_entropy(outputs["aux"], truth)
    return outputs, loss * 0.0 if empty else loss


def loss_of_maps(outputs: Mapping[str, Tensor], truth: Tensor) -> Tensor:
    """Mean cross-entropy over all labelled pixels of a batch, of what a head with queries says of each pixel."""
    log_probs = dense_log_probs(outputs, (truth.shape[1], truth.shape[2]), kind="query")
    return F.nll_loss(log_probs, truth, ignore_index=IGNORE)


def has_labels(truth: Tensor) -> Tensor:
    """`[B]` bool: images of which some pixel has a label; `truth` as of [`labels_for_peer`]."""
    return (truth != IGNORE).flatten(1).any(1)


def with_one_label(truth: Tensor) -> Tensor:
    """A made-up label for a batch without any, of which the heads of transformers make NaN.

    Its loss is to count nothing; so every parameter still gets a gradient, of 0, which distributed runs wait for.
    """
    truth = truth.clone()
    truth[:, 0, 0] = 0
    return truth


def targets(truth: Tensor) -> dict[str, list[Tensor]]:
    """Masks and classes as heads with queries take them."""
    masks, classes = query_targets(truth)
    return {"mask_labels": masks, "class_labels": classes}


def takes_labels(model: nn.Module) -> bool:
    """Whether a model has a loss of its own; DPT's without an auxiliary head fails in transformers 5.23."""
    config = getattr(model, "config", None)
    is_bare_dpt = getattr(config, "model_type", "") == "dpt" and not getattr(config, "use_auxiliary_head", True)
    return isinstance(model, PreTrainedModel) and not is_bare_dpt


def as_its_ignored(model: Any, truth: Tensor) -> Tensor:
    """Labels with the value that this model ignores."""
    config = model.config
    value = getattr(config, "semantic_loss_ignore_index", getattr(config, "loss_ignore_index", IGNORE))
    return truth if value == IGNORE else truth.masked_fill(truth == IGNORE, value)


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean over all labelled pixels of a batch."""
    size = truth.shape[1:]
    logits = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, truth, ignore_index=IGNORE)


def select(inputs: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The inputs of some rows."""
    return {key: value[rows] for key, value in inputs.items()}


def joined_rows(chosen: Tensor, others: Tensor, is_chosen: Tensor) -> Tensor:
    """Rows that were worked on apart, in their first order."""
    order = torch.cat([is_chosen.nonzero(), (~is_chosen).nonzero()]).squeeze(1).argsort()
    return torch.cat([chosen, others])[order]
