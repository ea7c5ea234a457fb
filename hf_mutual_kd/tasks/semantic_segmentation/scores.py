"""How good each peer's log-probabilities are on images, classes and cells of a grid. Tensors only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...distillation.roles import Peers, loss_scores
from ...errors import LabelError
from ..maps import Size, coarsest_grid
from .grids import check_peers, map_size, resampled_chunks


@torch.no_grad()
def image_scores(
    log_probs: Peers,
    labels: Tensor,
    ignore_index: int = 255,
    *,
    size: Size | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """
    Minus the mean cross-entropy over the valid pixels of each image: the paper's score.

    The same function for every head, so that peers with losses of different scale can be compared; it depends on
    nothing but the image, neither on its batch nor on random points.

    Args:
        log_probs (N of `torch.Tensor` `[B, C, h, w]`, or one `[N, B, C, h, w]`):
            The peers' log-probabilities, or logits, of the same classes; resolutions may differ.
        labels (`torch.Tensor` `[B, H, W]`, integer): the truth, 0 <= y < C or `ignore_index`.
        ignore_index (`int`, *optional*, defaults to 255): label of pixels that do not count.
        size (`tuple[int, int]`, *optional*):
            The grid on which peers are compared; by default that of the labels, so that every label counts once.
        chunk_rows (`int`, *optional*): rows of the grid that are handled at a time, see [`row_chunks`].

    Returns:
        `torch.Tensor` `[N, B]`, fp32 (float64 for such inputs): at most 0, higher is better; `-inf` where a peer's
        outputs are not all finite. 0 for every peer, a tie, where an image has no valid pixel: nobody teaches.

    Raises:
        [`DataError`]: batches or numbers of classes that differ.
        [`LabelError`]: a label that is neither a class nor `ignore_index`.

    Example:

    ```python
    >>> peers = torch.tensor([[0.5, 0.5], [0.8, 0.2]]).log().reshape(2, 1, 2, 1, 1)
    >>> image_scores(peers, torch.tensor([[[0, 255]]]))  # log 0.5, log 0.8
    tensor([[-0.6931],
            [-0.2231]])
    ```
    """
    peers, size = _scored(log_probs, labels, ignore_index), size or map_size(labels)
    total = count = torch.zeros((), dtype=torch.float64, device=labels.device)
    for values, truth in _cell_scores(peers, labels, ignore_index, size, chunk_rows):
        total = total + values.sum(dim=(2, 3), dtype=torch.float64)
        count = count + (truth >= 0).sum(dim=(1, 2))
    return (total / count.clamp(min=1)).to(_dtype(peers))


@torch.no_grad()
def class_scores(
    log_probs: Peers,
    labels: Tensor,
    ignore_index: int = 255,
    *,
    size: Size | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """
    Minus the mean cross-entropy over the pixels of each class in each image; arguments and errors as [`image_scores`].

    Returns:
        `torch.Tensor` `[N, B, C]`: 0 for every peer, a tie, for classes that the image does not have.

    Example:

    ```python
    >>> peers = torch.tensor([[0.5, 0.5], [0.8, 0.2]]).log().reshape(2, 1, 2, 1, 1)
    >>> class_scores(peers, torch.tensor([[[0, 1]]])).exp()  # the first peer is better on class 1
    tensor([[[0.5000, 0.5000]],
    <BLANKLINE>
            [[0.8000, 0.2000]]])
    ```
    """
    peers, size = _scored(log_probs, labels, ignore_index), size or map_size(labels)
    images, classes = peers[0].shape[:2]
    total = torch.zeros(len(peers), images, classes + 1, dtype=torch.float64, device=labels.device)
    count = torch.zeros(images, classes + 1, dtype=torch.float64, device=labels.device)
    for values, truth in _cell_scores(peers, labels, ignore_index, size, chunk_rows):
        place = truth.masked_fill(truth < 0, classes).flatten(1)
        count.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float64))
        total.scatter_add_(2, place.expand(len(peers), -1, -1), values.flatten(2).double())
    return (total / count.clamp(min=1))[..., :classes].to(_dtype(peers))


@torch.no_grad()
def pixel_scores(
    log_probs: Peers,
    labels: Tensor,
    ignore_index: int = 255,
    *,
    size: Size | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """
    Minus the cross-entropy of every cell; arguments and errors as [`image_scores`], but `size` is by default the
    coarsest of the peers' grids, on which transfer takes place.

    Returns:
        `torch.Tensor` `[N, B, h, w]`: 0 for every peer, a tie, in cells that are not valid or whose centre is ignored.

    Example:

    ```python
    >>> peers = torch.tensor([[0.5, 0.5], [0.8, 0.2]]).log().reshape(2, 1, 2, 1, 1)
    >>> pixel_scores(peers, torch.tensor([[[1]]])).flatten()
    tensor([-0.6931, -1.6094])
    ```
    """
    peers = _scored(log_probs, labels, ignore_index)
    size = size or coarsest_grid(peers)
    return torch.cat([v for v, _ in _cell_scores(peers, labels, ignore_index, size, chunk_rows)], dim=2)


SCORES: dict[str, Callable[..., Tensor]] = {"image": image_scores, "class": class_scores, "pixel": pixel_scores}
"""The scores of each granularity: `[N, B]`, `[N, B, C]` and `[N, B, h, w]`, so that roles are one dimension less."""


def _cell_scores(
    peers: list[Tensor], labels: Tensor, ignore_index: int, size: Size, chunk_rows: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores `[N, B, rows, w]` and labels `[B, rows, w]` of chunk after chunk; -1 and score 0 where a cell is out."""
    for placed, chunk in resampled_chunks(peers, labels, ignore_index, size, chunk_rows):
        yield loss_scores(placed, chunk), chunk


def _scored(log_probs: Peers, labels: Tensor, ignore_index: int) -> list[Tensor]:
    """The peers' maps, once it is clear that every label can be looked up in them."""
    peers = check_peers(log_probs, labels)
    classes, labels = peers[0].shape[1], labels.long()
    wrong = ((labels < 0) | (labels >= classes)) & (labels != ignore_index)
    if bool(wrong.any()):
        image = int(wrong.flatten(1).any(dim=1).nonzero()[0])
        raise LabelError(
            f"Image {image} of the batch has label {int(labels[image][wrong[image]][0])}; labels are 0 to "
            f"{classes - 1} or ignore_index {ignore_index}. Where 0 stands for no class, reduce the labels first."
        )
    return peers


def _dtype(peers: list[Tensor]) -> torch.dtype:
    return torch.promote_types(peers[0].dtype, torch.float32)
