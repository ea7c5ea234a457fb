"""What single images add to the counts of an evaluation of segmentation peers. Tensors only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...data.masks import IGNORE
from ...distillation.losses import mean_log_probs
from ...distillation.roles import assign_roles
from ...reports.samples import BINS
from ..maps import coarsest_grid
from .grids import nearest_labels
from .head_losses import DenseOutput
from .metrics import confusion_matrix
from .outputs import semantic_map
from .scores import image_scores

LATTICE = 64
"""Flips are counted on so many rows and columns of pixels, spread evenly over every image."""


def image_facts(outputs: Sequence[DenseOutput], labels: Tensor) -> dict[str, Tensor]:
    """All that an evaluation keeps of one image: N peers' answers to it alone, and its labels `[1, H, W]`.

    The peers meet on the coarsest of their grids of this image, whatever those of other images are.
    """
    log_probs, size = [output.log_probs for output in outputs], (labels.shape[1], labels.shape[2])
    grid, truth = coarsest_grid(log_probs), labels.masked_fill(labels < 0, IGNORE)
    scores = image_scores(log_probs, truth, IGNORE, size=grid).float()
    met = [F.interpolate(one, size=grid, mode="area").log_softmax(1) for one in log_probs]
    ensemble = semantic_map(mean_log_probs(met), target_sizes=[size])[0]
    maps = [output.semantic_maps([size])[0] for output in outputs]
    return confusions(truth[0], [*maps, ensemble], log_probs[0].shape[1]) | {
        "reliability": torch.stack([cell_reliability(one[0], truth) for one in log_probs]),
        "loss": -scores[:, 0],
        "teacher": assign_roles(scores)[0],
    }


def confusions(truth: Tensor, maps: Sequence[Tensor], classes: int) -> dict[str, Tensor]:
    """What an image adds to every count: N peers' maps and last the ensemble's, and the truth, all `[H, W]`."""
    valid = truth != IGNORE
    *peers, ensemble = maps
    wanted = on_lattice(truth)
    return {
        "confusion": torch.stack([confusion_matrix(one, truth, classes, IGNORE) for one in maps]).to(truth.device),
        "agreeing": torch.stack([(one == ensemble).sum() for one in peers]),
        "pixels": torch.tensor(truth.numel(), device=truth.device),
        "any_right": (torch.stack([one == truth for one in peers]).any(0) & valid).sum(),
        "point_class": wanted.masked_fill(wanted == IGNORE, -1).int(),
        "point_right": torch.stack([on_lattice(one) == wanted for one in peers]) & (wanted != IGNORE),
    }


def on_lattice(plane: Tensor) -> Tensor:
    """
    The pixels of a map `[H, W]` on the lattice, `[LATTICE * LATTICE]`: the same places in every map of its size.

    Example:

    ```python
    >>> on_lattice(torch.arange(128 * 128).view(128, 128))[:3]
    tensor([129, 131, 133])
    ```
    """
    return nearest_labels(plane[None], (LATTICE, LATTICE)).flatten()


def cell_reliability(log_probs: Tensor, truth: Tensor) -> Tensor:
    """
    How often one peer is right when it is this sure, over the cells of its own grid in one image.

    Args:
        log_probs (`torch.Tensor` `[C, h, w]`): normalised.
        truth (`torch.Tensor` `[1, H, W]`): class ids or `IGNORE`.

    Returns:
        `torch.Tensor` `[3, BINS]`, fp32: the cells in each bin of confidence, the sum of their confidence, and how
        many are right. The truth of a cell is that at its centre; ignored ones do not count.

    Example:

    ```python
    >>> found = cell_reliability(torch.tensor([0.9, 0.1]).log().view(2, 1, 1), torch.tensor([[[1]]]))
    >>> found[:, -2]  # sure to 0.9, and wrong
    tensor([1.0000, 0.9000, 0.0000])
    ```
    """
    wanted = nearest_labels(truth, (log_probs.shape[1], log_probs.shape[2]))[0].flatten()
    best, guess = log_probs.float().flatten(1).max(0)
    sure, right = best.exp().nan_to_num(0.0), guess == wanted
    known = (wanted != IGNORE) & best.isfinite()
    bins = F.one_hot((sure * BINS).long().clamp(0, BINS - 1), BINS).float()
    values = torch.stack([torch.ones_like(sure), sure, right.float()]) * known
    # No matrix product: autocast would make it one of bf16, whose integers end at 256.
    return (values.unsqueeze(2) * bins).sum(1)
