"""Labels and log-probabilities of different resolution on one grid. Tensors only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...distillation.roles import Peers
from ...errors import DataError
from ..maps import Size

AT_ONCE = 2**22
"""Up to so many values (C x h x w of one image) a grid is handled in one piece; 16 MiB in fp32."""
CHUNK = 2**20
"""Values of one image in a chunk of rows, where there are more than [`AT_ONCE`]."""


def valid_cells(labels: Tensor, size: Size, ignore_index: int = 255) -> Tensor:
    """
    The cells of a grid that count: those of whose labels at least half are not ignored.

    A cell's labels are all that it covers wholly or in part. Counted in integers, so that exactly half is half.

    Args:
        labels (`torch.Tensor` `[B, H, W]`, integer): the truth, `ignore_index` where there is none, as in padding.
        size (`tuple[int, int]`): rows h and columns w of the grid.
        ignore_index (`int`, *optional*, defaults to 255): label of pixels that do not count.

    Returns:
        `torch.BoolTensor` `[B, h, w]`.

    Example:

    ```python
    >>> valid_cells(torch.tensor([[[0, 255, 255, 255], [255, 3, 255, 1]]]), (1, 2))
    tensor([[[ True, False]]])
    ```
    """
    valid = labels.long() != ignore_index
    if tuple(labels.shape[1:]) == tuple(size):
        return valid
    counts, areas = _count_in_cells(valid, size)
    return 2 * counts >= areas


def nearest_labels(labels: Tensor, size: Size) -> Tensor:
    """
    The label at the centre of each cell: no new label arises, as it would from averaging class ids.

    Args:
        labels (`torch.Tensor` `[B, H, W]`, integer): the truth.
        size (`tuple[int, int]`): rows h and columns w of the grid.

    Returns:
        `torch.Tensor` `[B, h, w]`: as `F.interpolate(mode="nearest-exact")`, in exact arithmetic and any integer type.

    Example:

    ```python
    >>> nearest_labels(torch.arange(6).reshape(1, 1, 6), (1, 2))
    tensor([[[1, 4]]])
    ```
    """
    if tuple(labels.shape[1:]) == tuple(size):
        return labels
    for dim, (had, wanted) in enumerate(zip(labels.shape[1:], size, strict=True), start=1):
        cells = torch.arange(wanted, device=labels.device)
        labels = labels.index_select(dim, (2 * cells + 1) * had // (2 * wanted))
    return labels


class Resampler:
    """
    Brings `[B, C, h, w]` of one resolution to a grid, in chunks of the grid's rows.

    Per axis bilinear (pixel centres, `align_corners=False`) to a finer grid, the mean over each cell to a coarser one.
    Where all labels of a source pixel are ignored it has no weight, whatever it holds, NaN too, and its neighbours
    take its share. So a padded image gives what it gives alone: as without padding, the border repeats its last pixel.

    Log-probabilities come out as logits: a log-softmax makes of them what it makes of resampled logits.

    Args:
        source (`tuple[int, int]`): h and w of what is to be resampled.
        size (`tuple[int, int]`): rows and columns of the grid.
        labels (`torch.Tensor` `[B, H, W]`, integer): the truth at its own resolution.
        ignore_index (`int`, *optional*, defaults to 255): label of pixels that do not count.

    Example:

    ```python
    >>> widened = Resampler((1, 2), (1, 4), labels=torch.tensor([[[0, 0, 0, 0]]]))
    >>> widened(torch.tensor([[[[0.0, 4.0]]]]))
    tensor([[[[0., 1., 3., 4.]]]])
    >>> padded = Resampler((1, 2), (1, 4), labels=torch.tensor([[[0, 0, 255, 255]]]))
    >>> padded(torch.tensor([[[[0.0, 4.0]]]]))
    tensor([[[[0., 0., 0., 0.]]]])
    ```
    """

    def __init__(self, source: Size, size: Size, labels: Tensor, ignore_index: int = 255) -> None:
        self.source, self.size = (int(source[0]), int(source[1])), (int(size[0]), int(size[1]))
        index, weight = _taps(self.source[0], self.size[0])
        self._first, self._last = index[0].tolist(), index[-1].tolist()
        self._rows = index.to(labels.device), weight.to(labels.device)
        self._counts: Tensor | None = None
        if self.source != self.size:
            counts = _count_in_cells(labels.long() != ignore_index, self.source)[0] > 0
            self._counts = None if bool(counts.all()) else counts.unsqueeze(1)

    def source_rows(self, start: int, stop: int) -> tuple[int, int]:
        """The source's rows, first and one past the last, that rows `start` to `stop` of the grid are made of."""
        return self._first[start], self._last[stop - 1] + 1

    def __call__(self, values: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """
        Args:
            values (`torch.Tensor` `[B, C, rows, w]`, floating): just those rows of the source that
                [`Resampler.source_rows`] names for `start` and `stop`; all of them for the whole grid.
            start (`int`, *optional*, defaults to 0): first row of the grid.
            stop (`int`, *optional*): one past the last row of the grid; `None` is its end.

        Returns:
            `torch.Tensor` `[B, C, stop - start, W]`, fp32, or float64 where `values` are.
        """
        stop = self.size[0] if stop is None else stop
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        if self.source == self.size:
            return values
        first, last = self.source_rows(start, stop)
        counts = None if self._counts is None else self._counts[:, :, first:last]
        resampled = self._columns(self._take_rows(values, counts, first, start, stop))
        if counts is None:
            return resampled
        shares = self._columns(self._take_rows(counts.to(values.dtype), None, first, start, stop))
        return resampled / shares.clamp(min=torch.finfo(shares.dtype).tiny)

    def _take_rows(self, values: Tensor, counts: Tensor | None, first: int, start: int, stop: int) -> Tensor:
        if self.source[0] == self.size[0]:
            return values if counts is None else values.where(counts, 0.0)
        total = values.new_zeros(())
        for index, weight in zip(*self._rows, strict=True):
            rows = index[start:stop] - first
            part = values.index_select(2, rows)
            if counts is not None:
                part = part.where(counts.index_select(2, rows), 0.0)
            total = total + part * weight[start:stop].to(values.dtype).unsqueeze(1)
        return total

    def _columns(self, values: Tensor) -> Tensor:
        wanted = (values.shape[2], self.size[1])
        if self.source[1] > self.size[1]:
            return F.adaptive_avg_pool2d(values, wanted)
        if self.source[1] < self.size[1]:
            return F.interpolate(values, size=wanted, mode="bilinear", align_corners=False)
        return values


def row_chunks(
    num_classes: int, size: Size, chunk_rows: int | None = None, sources: Sequence[Size] = ()
) -> list[tuple[int, int]]:
    """
    Rows, first and one past the last, of the chunks in which a grid is handled.

    Args:
        num_classes (`int`): C.
        size (`tuple[int, int]`): rows and columns of the grid.
        chunk_rows (`int`, *optional*):
            Rows per chunk. `None` is all of them where an image has no more than [`AT_ONCE`] values on the grid and
            in each source, and as many as come to [`CHUNK`] values where it has more. This does not depend on the
            batch, so that an image's numbers do not either.
        sources (`list[tuple[int, int]]`, *optional*): rows and columns of what is resampled to the grid.

    Raises:
        [`DataError`]: fewer than one row per chunk.

    Example:

    ```python
    >>> row_chunks(150, (10, 8), chunk_rows=4)
    [(0, 4), (4, 8), (8, 10)]
    ```
    """
    rows = size[0]
    if chunk_rows is None:
        values = num_classes * max(h * w for h, w in (size, *sources))
        chunk_rows = rows if values <= AT_ONCE else max(1, rows * CHUNK // values)
    if chunk_rows < 1:
        raise DataError(f"chunk_rows must be 1 or more, got {chunk_rows}")
    return [(start, min(start + chunk_rows, rows)) for start in range(0, rows, chunk_rows)]


def resampled_chunks(
    peers: list[Tensor], labels: Tensor, ignore_index: int, size: Size, chunk_rows: int | None = None
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """The peers' logits, N of `[B, C, rows, w]`, and [`cell_classes`] `[B, rows, w]`, chunk after chunk of a grid."""
    truth = cell_classes(labels, size, ignore_index)
    resamplers = [Resampler(map_size(z), size, labels, ignore_index) for z in peers]
    for start, stop in row_chunks(peers[0].shape[1], size, chunk_rows, [map_size(z) for z in peers]):
        spans = [slice(*resample.source_rows(start, stop)) for resample in resamplers]
        placed = [r(z[:, :, rows], start, stop) for r, z, rows in zip(resamplers, peers, spans, strict=True)]
        yield placed, truth[:, start:stop]


def cell_classes(labels: Tensor, size: Size, ignore_index: int) -> Tensor:
    """The class at the centre of each cell `[B, h, w]`; -1 where it is ignored or the cell is not valid."""
    truth = nearest_labels(labels, size).long()
    return truth.masked_fill((truth == ignore_index) | ~valid_cells(labels, size, ignore_index), -1)


def check_peers(log_probs: Peers, labels: Tensor) -> list[Tensor]:
    """
    The peers' `[B, C, h, w]` as a list.

    Raises:
        [`DataError`]: no maps, or batches or numbers of classes that differ.
    """
    peers = list(log_probs)
    shapes = [list(z.shape) for z in peers]
    same = len({tuple(shape[:2]) for shape in shapes}) == 1 and all(len(shape) == 4 for shape in shapes)
    if not same or labels.ndim != 3 or len(labels) != shapes[0][0]:
        raise DataError(
            f"Peers must have maps [B, C, h, w] of the same images and classes, and labels be [B, H, W], got {shapes} "
            f"and {list(labels.shape)}. Lists of labels that differ are aligned by name before."
        )
    return peers


def map_size(maps: Tensor) -> Size:
    """Rows and columns of maps `[..., h, w]`."""
    return maps.shape[-2], maps.shape[-1]


def _bounds(had: int, wanted: int) -> tuple[Tensor, Tensor]:
    """First and one past the last of `had` places that each of `wanted` cells covers wholly or in part."""
    cells = torch.arange(wanted)
    return cells * had // wanted, ((cells + 1) * had + wanted - 1) // wanted


def _count_in_cells(mask: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """How many of the places `[B, H, W]` that each cell covers are True, `[B, h, w]`, and how many there are."""
    (top, bottom), (left, right) = (_bounds(*pair) for pair in zip(mask.shape[1:], size, strict=True))
    areas = (bottom - top)[:, None] * (right - left)
    top, bottom, left, right, areas = (t.to(mask.device) for t in (top, bottom, left, right, areas))
    sums = F.pad(mask.cumsum(dim=1, dtype=torch.int32).cumsum(dim=2, dtype=torch.int32), (1, 0, 1, 0))
    band = sums[:, bottom] - sums[:, top]
    return band[:, :, right] - band[:, :, left], areas


def _taps(had: int, wanted: int) -> tuple[Tensor, Tensor]:
    """Which of `had` rows make each of `wanted`, `[K, wanted]` in ascending order, and their weights, float64."""
    if had >= wanted:
        first, last = _bounds(had, wanted)
        index = first + torch.arange(int((last - first).max()))[:, None]
        weight = (index < last) / (last - first).double()
        return torch.minimum(index, last - 1), weight
    place = ((torch.arange(wanted, dtype=torch.float64) + 0.5) * had / wanted - 0.5).clamp(min=0)
    lower = place.long()
    share = place - lower
    return torch.stack([lower, (lower + 1).clamp(max=had - 1)]), torch.stack([1 - share, share])
