"""Per-pixel log-probabilities of whatever a segmentation peer returns, and the label map of every image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import ConfigError, DataError, PeerError

HeadKind = Literal["pixel", "query"]
"""`"pixel"`: logits `[B, C, h, w]`; `"query"`: class logits `[B, Q, C + 1]` and mask logits `[B, Q, h, w]`."""
Sizes = Tensor | Sequence[tuple[int, int]]
"""(height, width) of every image: a sequence of pairs, or an integer tensor `[B, 2]`."""
OUT_OF_SCOPE = {
    "detr": "its queries are panoptic boxes with masks, not a distribution over classes at every pixel",
    "videomt": "its queries follow objects through the frames of a video",
}
"""Model types with a head that answers to the same Auto class as those in scope, and why they cannot be peers."""
FLOOR = 1e-6
"""Least score of a class at a pixel, so that its logarithm stays finite."""

_Window = tuple[Fraction, Fraction]


def dense_log_probs(
    outputs: Any,
    size: tuple[int, int] | None = None,
    *,
    kind: HeadKind | None = None,
    padded: tuple[int, int] | None = None,
    valid: Sizes | None = None,
    rows: tuple[int, int] | None = None,
) -> Tensor:
    """
    Log-probabilities of every class at every pixel of one grid, the same interface for every head.

    Logits, or mask logits, are interpolated once, bilinearly (`align_corners=False`), from the peer's own grid to
    `size`. A head with queries then scores class c at a pixel by `S[c] = sum_q softmax(class_q)[c] * sigmoid(mask_q)`
    without the no-object column. S is no distribution and its values are no logits: the result is `S / sum(S)`, as
    `log_softmax(log S)`. S is kept from below at 1e-6, and at a pixel that no query claims at a thousandth of its best
    class, so that the order of its classes stays.

    fp32 inside whatever the outputs are, also under autocast (float64 stays float64). Gradients flow into the logits,
    or into class and mask logits. Nothing of shape `[B, Q, C, h, w]` is made.

    Args:
        outputs (`ModelOutput`, `dict` or `torch.Tensor`):
            What the peer's forward returned: an output of transformers with `logits`, or with `class_queries_logits`
            and `masks_queries_logits`; torchvision's `{"out": logits}`; logits alone.
        size (`tuple[int, int]`, *optional*, defaults to the peer's own grid): height and width of the result.
        kind (`"pixel"` or `"query"`, *optional*): see [`~dense_heads.head_of`]; found out from `outputs` when unset.
        padded (`tuple[int, int]`, *optional*): height and width in pixels of the batch that the peer saw.
        valid (*optional*):
            The image itself, top left in that batch: a `pixel_mask` `[B, H, W]`, or every image's (height, width) in
            pixels, which needs `padded`. Each image then fills `size`, and its padding reaches nothing.
        rows (`tuple[int, int]`, *optional*):
            Only the rows `rows[0] <= y < rows[1]` of the result, for work in chunks.

    Returns:
        `torch.Tensor` `[B, C, h, w]`: its logsumexp over C is 0.

    Raises:
        [`PeerError`]: a head out of scope, named; fewer than two classes.
        [`DataError`]: sizes, mask or rows that do not fit.
        [`ConfigError`]: another `kind`.

    Source of S: Cheng et al., arXiv 2107.06278, section 3.4.

    Example:

    ```python
    >>> dense_log_probs(torch.tensor([[[[0.0, 0.0]], [[0.0, 2.1972]]]])).exp()  # 1 image, 2 classes, 1 x 2 pixels
    tensor([[[[0.5000, 0.1000]],
             [[0.5000, 0.9000]]]])
    ```
    """
    head = _head(outputs, kind)
    grid = (head.maps.shape[2], head.maps.shape[3])
    windows = _windows(head, grid, padded, valid)
    size = grid if size is None else _pair(size, "size")
    if rows is not None and not 0 <= rows[0] < rows[1] <= size[0]:
        raise DataError(f"rows must be 0 <= first < end <= {size[0]}, got {tuple(rows)}.")
    with torch.autocast(device_type=head.maps.device.type, enabled=False):
        scores = _scores(head, size, windows, rows)
        return (scores if head.classes is None else _log_scores(scores)).log_softmax(dim=1)


@torch.no_grad()
def semantic_map(
    outputs: Any,
    valid: Sizes | None = None,
    target_sizes: Sizes | None = None,
    *,
    padded: tuple[int, int] | None = None,
    kind: HeadKind | None = None,
) -> list[Tensor]:
    """
    The class of every pixel of every image, at the image's own size.

    One interpolation from the peer's grid to the target, cropped to the image: in a padded batch of mixed sizes an
    image gets the map that its logits alone give. The `post_process_semantic_segmentation` of transformers gives the
    same for heads with logits; for heads with queries it keeps the padding, and either goes through 384 x 384 pixels
    or interpolates after the sigmoid.

    Args:
        outputs: as for [`dense_log_probs`].
        valid (*optional*): as for [`dense_log_probs`]; unset: no image is padded.
        target_sizes (*optional*): (height, width) of each result; defaults to the images' sizes in `valid`, without
            these to the peer's own grid.
        padded (`tuple[int, int]`, *optional*): as for [`dense_log_probs`].
        kind (`"pixel"` or `"query"`, *optional*): as for [`dense_log_probs`].

    Returns:
        `list[torch.Tensor]` of B maps `[h, w]`, int64. Images are worked on one by one.

    Raises: as [`dense_log_probs`].

    Example:

    ```python
    >>> logits = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # the right pixel is padding
    >>> semantic_map(logits, valid=[(1, 1)], padded=(1, 2), target_sizes=[(1, 3)])
    [tensor([[0, 0, 0]])]
    ```
    """
    head = _head(outputs, kind)
    grid = (head.maps.shape[2], head.maps.shape[3])
    windows = _windows(head, grid, padded, valid)
    batch = len(head.maps)
    if target_sizes is not None:
        sizes = _pairs(target_sizes, batch, "target_sizes")
    else:
        sizes = [grid] * batch if valid is None else _image_sizes(valid, padded, batch)[0]
    maps = []
    with torch.autocast(device_type=head.maps.device.type, enabled=False):
        for i, size in enumerate(sizes):
            one = _Head(head.maps[i : i + 1], None if head.classes is None else head.classes[i : i + 1])
            maps.append(_scores(one, size, windows[i : i + 1], None).argmax(dim=1)[0])
    return maps


class _Head(NamedTuple):
    maps: Tensor
    """`[B, C, h, w]` class logits, or `[B, Q, h, w]` mask logits."""
    classes: Tensor | None
    """`[B, Q, C + 1]` class logits of the queries, the last column for no object."""


def _head(outputs: Any, kind: HeadKind | None) -> _Head:
    """The tensors of a head in scope, with shapes checked."""
    if kind is not None and kind not in get_args(HeadKind):
        raise ConfigError(f"kind must be one of {', '.join(get_args(HeadKind))}, got {kind!r}")
    _refuse_out_of_scope(outputs)
    masks, classes = _field(outputs, "masks_queries_logits"), _field(outputs, "class_queries_logits")
    if kind is None:
        kind = "pixel" if masks is None else "query"
    if kind == "query":
        return _query_head(outputs, masks, classes)
    logits = outputs if isinstance(outputs, Tensor) else _field(outputs, "logits")
    if logits is None:
        logits = _field(outputs, "out")
    if not isinstance(logits, Tensor) or logits.ndim != 4:
        found = list(logits.shape) if isinstance(logits, Tensor) else _names(outputs)
        raise PeerError(
            f"A per-pixel head must give logits [B, C, h, w] alone, as `logits` or as `out`; "
            f"{type(outputs).__name__} gives {found}."
        )
    _check_classes(logits.shape[1], outputs)
    return _Head(_full(logits), None)


def _query_head(outputs: Any, masks: Any, classes: Any) -> _Head:
    fits = isinstance(masks, Tensor) and isinstance(classes, Tensor) and masks.ndim == 4 and classes.ndim == 3
    if not fits or masks.shape[:2] != classes.shape[:2]:
        raise PeerError(
            "A head with queries must give class_queries_logits [B, Q, C + 1] and masks_queries_logits [B, Q, h, w]; "
            f"{type(outputs).__name__} gives {_names(outputs)}."
        )
    _check_classes(classes.shape[2] - 1, outputs)
    return _Head(_full(masks), _full(classes))


def _refuse_out_of_scope(outputs: Any) -> None:
    name = type(outputs).__name__
    for model_type, reason in OUT_OF_SCOPE.items():
        if name.lower().startswith(model_type):
            raise PeerError(f"{name} ({model_type}) cannot be a peer of semantic segmentation: {reason}.")
    if _field(outputs, "pred_masks") is not None:
        raise PeerError(
            f"{name} has `pred_masks`, as DETR and SAM do, and cannot be a peer of semantic segmentation: "
            f"{OUT_OF_SCOPE['detr']}."
        )
    if _field(outputs, "patch_offsets"):
        raise PeerError(
            f"{name} holds the patches of split images (`patch_offsets`), not one map per image; give the peer's "
            "image processor do_split_image=False and do_pad=True."
        )


def _check_classes(count: int, outputs: Any) -> None:
    if count < 2:
        raise PeerError(
            f"{type(outputs).__name__} tells {count} class(es) apart; a peer needs two or more. A binary head with "
            "one sigmoid logit has to be given a second class."
        )


def _field(outputs: Any, name: str) -> Any:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def _names(outputs: Any) -> str:
    """What there is in an output, for messages."""
    fields = outputs if isinstance(outputs, Mapping) else getattr(outputs, "__dict__", {})
    parts = [f"{name} {list(x.shape)}" for name, x in fields.items() if isinstance(x, Tensor)]
    return ", ".join(parts) or "no tensor"


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _scores(head: _Head, size: tuple[int, int], windows: list[_Window], rows: tuple[int, int] | None) -> Tensor:
    """`[B, C, h, w]`: logits of a per-pixel head, S >= 0 of a head with queries."""
    maps = _resampled(head.maps, size, windows, rows)
    if head.classes is None:
        return maps
    return torch.einsum("bqc,bqhw->bchw", head.classes.softmax(dim=-1)[..., :-1], maps.sigmoid())


def _log_scores(scores: Tensor) -> Tensor:
    """`log S` with S kept from below; the lower bound at unclaimed pixels keeps the order of their classes."""
    best = scores.detach().amax(dim=1, keepdim=True)
    return scores.clamp(min=(best * 1e-3).clamp(min=1e-20, max=FLOOR)).log()


def _resampled(maps: Tensor, size: tuple[int, int], windows: list[_Window], rows: tuple[int, int] | None) -> Tensor:
    """Each image's window of `maps` `[B, K, h, w]`, bilinearly at `size`; only `rows` of it where given."""
    height, width = maps.shape[2:]
    if rows is None and all(window == (height, width) for window in windows):
        if size == (height, width):
            return maps
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    if len(set(windows)) == 1:
        return _cut(maps, size, windows[0], rows)
    return torch.cat([_cut(maps[i : i + 1], size, window, rows) for i, window in enumerate(windows)])


def _cut(maps: Tensor, size: tuple[int, int], window: _Window, rows: tuple[int, int] | None) -> Tensor:
    """The window, which may end within a cell, without a look at the cells behind it."""
    height, width = window
    maps = maps[:, :, : math.ceil(height), : math.ceil(width)]
    if rows is not None:
        low, high, weight = _rows_between(height, size[0], rows, maps)
        maps = torch.lerp(maps.index_select(2, low), maps.index_select(2, high), weight.unsqueeze(1))
        size, height = (len(low), size[1]), Fraction(len(low))
    # The nudge keeps rounding from costing the last row; a window that ends within a cell gives a few rows too many.
    factors = (size[0] / float(height) * (1 + 1e-12), size[1] / float(width) * (1 + 1e-12))
    resized = F.interpolate(
        maps, scale_factor=factors, mode="bilinear", align_corners=False, recompute_scale_factor=False
    )
    return resized[:, :, : size[0], : size[1]]


def _rows_between(cells: Fraction, count: int, rows: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of `count` rows spread over the first `cells` rows of a grid: the two that each lies between, and where."""
    last = math.ceil(cells) - 1
    centres = (torch.arange(*rows, dtype=torch.float64) + 0.5) * (float(cells) / count) - 0.5
    centres = centres.clamp(min=0, max=last)
    low = centres.floor().long()
    weight = (centres - low).to(like.dtype)
    return low.to(like.device), (low + 1).clamp(max=last).to(like.device), weight.to(like.device)


def _windows(head: _Head, grid: tuple[int, int], padded: tuple[int, int] | None, valid: Sizes | None) -> list[_Window]:
    """How many cells of the grid each image covers, from the top left."""
    batch = len(head.maps)
    if valid is None:
        return [(Fraction(grid[0]), Fraction(grid[1]))] * batch
    sizes, (height, width) = _image_sizes(valid, padded, batch)
    return [(Fraction(h * grid[0], height), Fraction(w * grid[1], width)) for h, w in sizes]


def _image_sizes(
    valid: Sizes, padded: tuple[int, int] | None, batch: int
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Every image's size, and that of the padded batch, in pixels."""
    if isinstance(valid, Tensor) and valid.ndim == 3:
        shape = (valid.shape[1], valid.shape[2])
        if padded is not None and tuple(padded) != shape:
            raise DataError(f"pixel_mask is {list(shape)} pixels, but padded says {list(padded)}.")
        padded, sizes = shape, _mask_sizes(valid)
    else:
        if padded is None:
            raise DataError(
                "The images' sizes need `padded`, the height and width of the batch; or give a pixel_mask."
            )
        padded, sizes = _pair(padded, "padded"), _pairs(valid, len(valid), "valid")
    if len(sizes) != batch:
        raise DataError(f"The peer gave {batch} images, but valid has {len(sizes)}.")
    for row, (height, width) in enumerate(sizes):
        if height > padded[0] or width > padded[1]:
            raise DataError(
                f"Image {row} of the batch is {[height, width]} pixels, more than the {list(padded)} given."
            )
    return sizes, padded


def _mask_sizes(mask: Tensor) -> list[tuple[int, int]]:
    """Height and width of the rectangle at the top left that each `[H, W]` of the mask marks."""
    mask = mask.bool()
    tall, wide = mask.any(dim=2), mask.any(dim=1)
    heights, widths = tall.sum(dim=1), wide.sum(dim=1)
    fits = mask.sum(dim=(1, 2)) == heights * widths
    fits &= tall[:, 0] & (tall.diff(dim=1).sum(dim=1) <= 1) & wide[:, 0] & (wide.diff(dim=1).sum(dim=1) <= 1)
    if not bool(fits.all()):
        row = int(fits.logical_not().nonzero()[0])
        raise DataError(f"pixel_mask of image {row} of the batch does not mark one rectangle at the top left.")
    return list(zip(heights.tolist(), widths.tolist(), strict=True))


def _pairs(sizes: Sizes, batch: int, name: str) -> list[tuple[int, int]]:
    pairs = sizes.tolist() if isinstance(sizes, Tensor) else list(sizes)
    if len(pairs) != batch:
        raise DataError(f"{name} must have one (height, width) for each of {batch} images, got {len(pairs)}.")
    return [_pair(pair, name) for pair in pairs]


def _pair(size: Any, name: str) -> tuple[int, int]:
    pair = tuple(int(x) for x in size) if isinstance(size, Sequence | Tensor) else ()
    if len(pair) != 2 or min(pair) < 1:
        raise DataError(f"{name} must be (height, width), both at least 1, got {size!r}.")
    return pair[0], pair[1]
