"""Who teaches whom: scores of the peers on every unit, and the teacher that follows from them. Tensors only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import LabelError

MEAN_NAME = "<mean>"
"""How the table writes that the peers' mean taught; no peer can have this name, as it is no folder name."""

ALL_NAME = "<all>"
"""How it writes that every other peer taught each peer."""


NOBODY = -1
"""No peer teaches on this unit."""
UNDECIDED = -2
"""The trainer is to decide from this step's scores."""
MEAN = -3
"""The peers' mean probability, plain or weighted, teaches every peer on this unit."""
ALL = -4
"""Every other peer teaches each peer on this unit."""

PIECE = 2**19
"""Logits of a peer that are scored at a time on CPU: so many stay in its cache between the passes over them."""

Peers = Tensor | Sequence[Tensor]
"""Logits of N peers: one tensor `[N, B, C, ...]`, or N tensors `[B, C, ...]`, which need no copy to be joined."""


@torch.no_grad()
def margin_scores(logits: Peers, labels: Tensor) -> Tensor:
    """
    How far the truth is ahead of everything else: `z[y] - logsumexp of z[c] over c != y`.

    It orders peers as the probability of the truth does but does not saturate: a probability is exactly 1.0 in fp32
    from a margin of about 17 on, so that confident peers would tie.

    Args:
        logits (`torch.Tensor` `[N, B, C, ...]`, or N of `[B, C, ...]`):
            Logits of the N peers, C >= 2 classes. Taken to fp32 (float64 stays).
        labels (`torch.Tensor` `[B, ...]`, integer):
            The truth, 0 <= y < C. Below 0 is a unit without a label.

    Returns:
        `torch.Tensor` `[N, B, ...]`: higher is better. 0 for every peer where there is no label, which is a tie.
        `-inf` where a peer's logits are not all finite; only where every peer has some class at `-inf` are these
        taken for masked classes, which do no harm.

    Raises:
        [`LabelError`]: fewer than two classes.

    Example:

    ```python
    >>> margin_scores(torch.tensor([[[2.0, 0.0]], [[0.0, 60.0]]]), torch.tensor([0]))
    tensor([[  2.],
            [-60.]])
    ```
    """
    return _margins(logits, _truth(labels)).masked_fill_(labels < 0, 0.0)


@torch.no_grad()
def loss_scores(logits: Peers, labels: Tensor) -> Tensor:
    """
    Minus the cross-entropy of every unit, `log p[y]`; arguments, returns and errors as [`margin_scores`].

    Computed from the margin as `-log(1 + exp(-margin))`, which keeps its order up to a margin of about 100 in fp32.

    Example:

    ```python
    >>> loss_scores(torch.tensor([[[0.0, 0.0]], [[0.0, 60.0]]]), torch.tensor([0]))
    tensor([[ -0.6931],
            [-60.0000]])
    ```
    """
    return -F.softplus(-_margins(logits, _truth(labels))).masked_fill_(labels < 0, 0.0)


@torch.no_grad()
def confidence_scores(logits: Peers) -> Tensor:
    """
    The log-probability of each peer's own top class, `max_c log p[c]`: needs no label, and says nothing about truth.

    Args:
        logits (`torch.Tensor` `[N, B, C, ...]`, or N of `[B, C, ...]`): as for [`margin_scores`].

    Returns:
        `torch.Tensor` `[N, B, ...]`: at most 0, higher is surer; `-inf` where a peer's logits are not all finite.

    Raises:
        [`LabelError`]: fewer than two classes.

    Example:

    ```python
    >>> confidence_scores(torch.tensor([[[0.0, 0.0]], [[9.0, 0.0]]])).exp()
    tensor([[0.5000],
            [0.9999]])
    ```
    """
    return -F.softplus(-_margins(logits, None))


@torch.no_grad()
def assign_roles(scores: Tensor) -> Tensor:
    """
    The peer with the strictly best score teaches.

    Args:
        scores (`torch.Tensor` `[N, ...]`): higher is better; NaN counts as `-inf`, and `-inf` never teaches.

    Returns:
        `torch.Tensor` `[...]`, int64: index of the teacher, [`NOBODY`] where the best score is shared or `-inf`.
        With N=1 the one peer is its own teacher (index 0) on every unit where its score is usable: it has no student,
        and what holds for teachers, such as retention, holds for it.

    Example:

    ```python
    >>> assign_roles(torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, float("nan")]]))
    tensor([ 0, -1,  0])
    ```
    """
    scores = scores.masked_fill(scores.isnan(), float("-inf"))
    best, teacher = scores.max(dim=0)
    shared = (scores == best).sum(dim=0) > 1
    return teacher.masked_fill(shared | (best == float("-inf")), NOBODY)


def _margins(logits: Peers, index: Tensor | None) -> Tensor:
    """[`_margins_at_once`], on CPU of pieces of the units."""
    first = logits[0]
    if first.device.type != "cpu" or first.numel() <= PIECE or torch.compiler.is_compiling():
        return _margins_at_once(logits, index)
    units = (len(first), *first.shape[2:])
    margins = first.new_empty(len(logits), *units, dtype=torch.promote_types(first.dtype, torch.float32))
    for samples, *rows in _pieces(first.shape):
        piece = (samples, slice(None), *rows)
        part = _margins_at_once([z[piece] for z in logits], None if index is None else index[piece])
        margins[(slice(None), samples, *rows)] = part
    return margins


def _pieces(shape: torch.Size) -> Iterator[tuple[slice, ...]]:
    """Samples `[B]` and rows `[h]`, where units have any, of pieces of about [`PIECE`] values of `[B, C, h, ...]`."""
    batch, *per_sample = shape
    at_once = PIECE // math.prod(per_sample)
    if len(shape) == 2 or at_once:
        at_once = max(1, at_once)
        yield from ((slice(start, start + at_once),) for start in range(0, batch, at_once))
        return
    rows = max(1, PIECE * shape[2] // math.prod(per_sample))
    for sample in range(batch):
        yield from ((slice(sample, sample + 1), slice(row, row + rows)) for row in range(0, shape[2], rows))


def _margins_at_once(logits: Peers, index: Tensor | None) -> Tensor:
    """
    The margin of class `index` `[B, 1, ...]`, or of each peer's top class, `[N, B, ...]`; `-inf` for a broken peer.

    Broken is NaN, +inf, `-inf` throughout, and `-inf` in some class where another peer has none.
    """
    margins, floors = [], []
    others = spare = torch.empty(0)
    for z in logits:
        if z.shape[1] < 2:
            raise LabelError("A score compares classes and needs two or more, got logits with 1 class.")
        dtype = torch.promote_types(z.dtype, torch.float32)
        if others.dtype != dtype or others.shape != z.shape:
            others, spare = torch.empty_like(z, dtype=dtype), torch.empty_like(z, dtype=dtype)
        chosen = z.argmax(dim=1, keepdim=True) if index is None else index
        value = z.gather(1, chosen).to(dtype)
        others.copy_(z).scatter_(1, chosen, float("-inf"))
        top = others.amax(dim=1, keepdim=True)
        usable = torch.maximum(top, value).isfinite()
        # logsumexp of the others is top - max(log_softmax): the quickest way on CPU.
        margin = (value - top) + torch.log_softmax(others, dim=1, out=spare).amax(dim=1, keepdim=True)
        margin.masked_fill_(top == float("-inf"), float("inf"))
        margins.append(margin.masked_fill(~usable, float("-inf")).squeeze(1))
        floors.append(z.amin(dim=1) == float("-inf"))
    alone = torch.stack(floors)
    return torch.stack(margins).masked_fill_(alone & ~alone.all(dim=0), float("-inf"))


def _truth(labels: Tensor) -> Tensor:
    """Class indices `[B, 1, ...]` that are safe to gather with: 0 stands in where there is no label."""
    return labels.clamp(min=0).long().unsqueeze(1)
