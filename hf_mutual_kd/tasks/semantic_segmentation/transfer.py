"""Transfer between dense predictions: the mean over an image's valid pixels, on one grid, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...distillation.roles import NOBODY, Peers
from ...errors import DataError
from ..maps import Size, coarsest_grid
from .grids import Resampler, check_peers, nearest_labels, row_chunks, valid_cells

Pull = Callable[..., Tensor]
"""What is paid per cell: peers' logits, what teachers say (N of `[B, C, h, w]`, or `None`), teachers `[B, h, w]`
and classes `[B, h, w]` (or `None`) to `[N, B, h, w]`; to be 0 where the teacher is [`~roles.NOBODY`]."""


def cell_teachers(teacher: Tensor, labels: Tensor, size: Size, ignore_index: int = 255) -> Tensor:
    """
    Roles per image, class region or pixel as a teacher per cell of a grid.

    Args:
        teacher (`torch.Tensor`, int64): `[B]` per image, `[B, C]` per class of each image, or `[B, h, w]` per cell, as
            [`~roles.assign_roles`] makes them of scores of each granularity.
        labels (`torch.Tensor` `[B, H, W]`, integer): the truth.
        size (`tuple[int, int]`): rows h and columns w of the grid.
        ignore_index (`int`, *optional*, defaults to 255): label of pixels that do not count.

    Returns:
        `torch.Tensor` `[B, h, w]`, int64: [`~roles.NOBODY`] in cells that are not valid, and by class also where the
        label at the cell's centre is ignored.

    Raises:
        [`DataError`]: roles of another shape.

    Example:

    ```python
    >>> labels = torch.tensor([[[0, 1, 255]]])
    >>> cell_teachers(torch.tensor([1]), labels, (1, 3))
    tensor([[[ 1,  1, -1]]])
    >>> cell_teachers(torch.tensor([[0, 1]]), labels, (1, 3))  # peer 0 teaches class 0, peer 1 class 1
    tensor([[[ 0,  1, -1]]])
    ```
    """
    valid = valid_cells(labels, size, ignore_index)
    if teacher.ndim not in (1, 2, 3) or len(teacher) != len(labels):
        raise DataError(_wrong_roles(teacher, labels, size))
    if teacher.ndim == 1:
        cells = teacher[:, None, None]
    elif teacher.ndim == 2:
        truth = nearest_labels(labels, size).long()
        valid = valid & (truth != ignore_index)
        cells = teacher.gather(1, truth.clamp(0, teacher.shape[1] - 1).flatten(1)).view_as(truth)
    elif tuple(teacher.shape[1:]) == tuple(size):
        cells = teacher
    else:
        raise DataError(_wrong_roles(teacher, labels, size))
    return cells.where(valid, NOBODY)


@dataclass(frozen=True)
class Grid:
    """Where peers meet.

    Args:
        size (`tuple[int, int]`, *optional*): rows and columns, by default of the coarsest of the peers' maps.
        classes (`torch.Tensor` `[B, h, w]`, *optional*, int64): of the cells, for a pull that looks at them.
        chunk_rows (`int`, *optional*): rows that are handled at a time, see [`~grids.row_chunks`].
        ignore_index (`int`, *optional*, defaults to 255): label of pixels that do not count.
    """

    size: Size | None = None
    classes: Tensor | None = None
    chunk_rows: int | None = None
    ignore_index: int = 255


def mean_over_pixels(
    pull: Pull,
    log_probs: Peers,
    teacher: Tensor,
    labels: Tensor,
    *,
    source: Peers | None = None,
    grid: Grid | None = None,
) -> Tensor:
    """
    Per image, the mean over its valid pixels of a loss per cell, such as the KL over all classes towards a teacher.

    A mean, not a sum, over pixels: the value does not grow with the resolution. Invalid pixels of the grid, and pixels
    all of whose labels are ignored in a peer's own resolution, change nothing in value or gradient, whatever they
    hold. Chunks of rows change nothing either, but memory: only the gradients of the given maps and one chunk live at
    a time, and each chunk is computed again on the way back.

    Args:
        pull (`Callable`):
            `pull(live, source, teacher, classes)` of logits N x `[B, C, h, w]`, of what teachers say (`None` without
            `source`), of `[B, h, w]` and of `classes` gives `[N, B, h, w]`. A cell's value may depend on that cell
            alone, and must be 0 where nobody teaches. With chunks it runs twice and must not draw random numbers.
        log_probs (N of `torch.Tensor` `[B, C, h, w]`): the peers' log-probabilities, or logits.
        teacher (`torch.Tensor`, int64): roles `[B]`, `[B, C]` or `[B, h, w]`.
        labels (`torch.Tensor` `[B, H, W]`, integer): the truth.
        source (as `log_probs`, *optional*): what teachers say; resampled as the peers' own maps are.
        grid ([`Grid`], *optional*): where peers meet.

    Returns:
        `torch.Tensor` `[N, B]`, fp32 (float64 for such inputs): exactly 0, with gradient exactly 0, for images without
        valid pixels.

    Raises:
        [`DataError`]: shapes that do not fit together.

    Source: arXiv 2510.22208 for who learns from whom; its segmentation code passes no gradient on.

    Example:

    ```python
    >>> peers, labels = torch.zeros(2, 1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    >>> learns = lambda live, source, teacher, classes: torch.stack([teacher != m for m in range(2)]).float()
    >>> mean_over_pixels(learns, peers, torch.tensor([0]), labels)
    tensor([[0.],
            [1.]])
    ```
    """
    peers = check_peers(log_probs, labels)
    sources = [] if source is None else check_peers(source, labels)
    if sources and (len(sources) != len(peers) or sources[0].shape[1] != peers[0].shape[1]):
        raise DataError(f"What teaches {len(peers)} peers must be as many maps of their classes, got {len(sources)}.")
    grid = grid or Grid()
    size, ignore_index, classes = grid.size or coarsest_grid(peers), grid.ignore_index, grid.classes
    cells = cell_teachers(teacher, labels, size, ignore_index)
    count = valid_cells(labels, size, ignore_index).sum(dim=(1, 2)).clamp(min=1)
    maps = [*peers, *sources]
    sizes = [(z.shape[2], z.shape[3]) for z in maps]
    resamplers = [Resampler(own, size, labels, ignore_index) for own in sizes]

    def rows_sum(start: int, stop: int, *rows: Tensor) -> Tensor:
        placed = [resample(z, start, stop) for resample, z in zip(resamplers, rows, strict=True)]
        truth = None if classes is None else classes[:, start:stop]
        values = pull(placed[: len(peers)], placed[len(peers) :] or None, cells[:, start:stop], truth)
        return values.sum(dim=(2, 3))

    chunks = row_chunks(peers[0].shape[1], size, grid.chunk_rows, sizes)
    if len(chunks) == 1:
        return rows_sum(0, size[0], *maps) / count
    spans = [(start, stop, [r.source_rows(start, stop) for r in resamplers]) for start, stop in chunks]
    total: Tensor = _SumOverChunks.apply(rows_sum, spans, *maps)
    return total / count


def _wrong_roles(teacher: Tensor, labels: Tensor, size: Size) -> str:
    return (
        f"Roles of {len(labels)} images must be [B], [B, C] or, on a grid of {list(size)}, [B, h, w], got "
        f"{list(teacher.shape)}."
    )


class _SumOverChunks(torch.autograd.Function):
    """
    Sum of a function of rows over chunks of rows, which keeps nothing of a chunk but its sum.

    Not `torch.utils.checkpoint`: the gradient of each slice would come as a map of full size.
    """

    @staticmethod
    def forward(ctx: Any, rows_sum: Callable[..., Tensor], spans: list[Any], *maps: Tensor) -> Tensor:
        ctx.save_for_backward(*maps)
        ctx.rows_sum, ctx.spans = rows_sum, spans
        total: Tensor | None = None
        for start, stop, rows in spans:
            part = rows_sum(start, stop, *_slices(maps, rows))
            total = part if total is None else total.add_(part)
        if total is None:
            raise DataError("A grid needs one row or more.")
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        maps: tuple[Tensor, ...] = ctx.saved_tensors
        wanted = [m for m in range(len(maps)) if ctx.needs_input_grad[2 + m]]
        gradients: list[Tensor | None] = [torch.zeros_like(z) if m in wanted else None for m, z in enumerate(maps)]
        for start, stop, rows in ctx.spans:
            pieces = _slices(maps, rows)
            for m in wanted:
                pieces[m].requires_grad_()
            with torch.enable_grad():
                part = ctx.rows_sum(start, stop, *pieces)
            if not part.requires_grad:
                continue
            found = torch.autograd.grad(part, [pieces[m] for m in wanted], upstream, allow_unused=True)
            for m, gradient in zip(wanted, found, strict=True):
                whole, (first, last) = gradients[m], rows[m]
                if whole is not None and gradient is not None:
                    whole[:, :, first:last] += gradient
        return None, None, *gradients


def _slices(maps: tuple[Tensor, ...], rows: list[tuple[int, int]]) -> list[Tensor]:
    return [z.detach()[:, :, first:last] for z, (first, last) in zip(maps, rows, strict=True)]
