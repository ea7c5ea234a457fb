"""What transfer costs: one KL per student towards the teacher of the unit. Pure functions of tensors."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..config.rules import check_numbers
from ..errors import ConfigError, DataError
from .roles import MEAN, Peers


def softened_log_probs(logits: Tensor, temperature: float = 1.0, *, dim: int = 1) -> Tensor:
    """
    `log_softmax(logits / temperature)` in fp32, in float64 where the logits are.

    Args:
        logits (`torch.Tensor` `[B, C, ...]`): any floating type.
        temperature (`float`, *optional*, defaults to 1.0): above 1 flattens the distribution.
        dim (`int`, *optional*, defaults to 1): the dimension of the classes.

    Returns:
        `torch.Tensor` of the same shape.

    Example:

    ```python
    >>> softened_log_probs(torch.tensor([[2.0, 0.0]]), temperature=2.0).exp()
    tensor([[0.7311, 0.2689]])
    ```
    """
    return _softened(logits, temperature).log_softmax(dim)


def mean_log_probs(log_probs: Peers, weights: Tensor | None = None, shares: Tensor | None = None) -> Tensor:
    """
    Log of the peers' mean probability, `logsumexp_m log p_m - log N`, or of their weighted mean.

    Args:
        log_probs (`torch.Tensor` `[N, B, C, ...]`, or N of `[B, C, ...]`): each peer's log-probabilities.
        weights (`torch.Tensor` `[N, B, ...]`, *optional*, bool):
            Which peers count on which unit; what the others hold there, NaN too, reaches neither value nor gradient.
        shares (`torch.Tensor` `[N, B, ...]`, *optional*):
            How much each peer counts on each unit, >= 0; only the ratios among the peers that count matter.

    Returns:
        `torch.Tensor` `[B, C, ...]`. On a unit where no peer counts every class is `-inf`: as a target it teaches
        nothing.

    Example:

    ```python
    >>> mean_log_probs(torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]).log()).exp()
    tensor([[0.7000, 0.3000]])
    ```
    """
    rows = list(log_probs)
    count: Tensor | int = len(rows)
    if weights is not None:
        rows = [row.where(w.unsqueeze(1), float("-inf")) for row, w in zip(rows, weights.bool(), strict=True)]
        count = weights.sum(dim=0).clamp(min=1).unsqueeze(1)
    if shares is not None:
        rows = [row + share.log().unsqueeze(1) for row, share in zip(rows, shares, strict=True)]
        counted = shares if weights is None else shares * weights
        count = counted.sum(dim=0).clamp(min=torch.finfo(shares.dtype).tiny).unsqueeze(1)
    with torch.no_grad():
        top = rows[0]
        for row in rows[1:]:
            top = torch.maximum(top, row)
        top = top.masked_fill(top == float("-inf"), 0.0)
    total = (rows[0] - top).exp()
    for row in rows[1:]:
        total = total + (row - top).exp()
    # Not torch.logsumexp: its gradient is NaN where a class has probability 0 in every peer.
    nothing = total == 0
    return (total.masked_fill(nothing, 1.0) / count).log().add(top).masked_fill(nothing, float("-inf"))


def gather_teacher(log_probs: Peers, teacher: Tensor) -> Tensor:
    """
    The teacher's row of every unit.

    Args:
        log_probs (`torch.Tensor` `[N, B, C, ...]`, or N of `[B, C, ...]`): log-probabilities, or any other rows.
        teacher (`torch.Tensor` `[B, ...]`, int64): which peer teaches. Units with another value than 0..N-1 get the
            first peer's row: mask what is computed from it.

    Returns:
        `torch.Tensor` `[B, C, ...]`; what the unselected peers hold reaches neither value nor gradient.

    Example:

    ```python
    >>> gather_teacher(torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]), torch.tensor([1, 0]))
    tensor([[5., 6.],
            [3., 4.]])
    ```
    """
    index = teacher.unsqueeze(1)
    chosen = log_probs[0]
    for m in range(1, len(log_probs)):
        chosen = torch.where(index == m, log_probs[m], chosen)
    return chosen


def kl_to_target(
    student_logits: Tensor, target_log_probs: Tensor, *, temperature: float = 1.0, where: Tensor | None = None
) -> Tensor:
    """
    `T^2 * sum_c p_t[c] * (log p_t[c] - log softmax(z / T)[c])`, one value per unit; the target is the teacher.

    fp32 inside whatever the inputs are, also under autocast (float64 stays float64); finite in value and gradient at
    logits of +-1e4. A class with `p_t = 0`, also from a target of `-inf`, contributes exactly 0. Gradients flow into
    both arguments, so detach the target where only the student is to move. Differentiable once.

    Args:
        student_logits (`torch.Tensor` `[B, C, ...]`): the student's logits, not softened.
        target_log_probs (`torch.Tensor` `[B, C, ...]`): log-probabilities, softened by the same temperature.
        temperature (`float`, *optional*, defaults to 1.0): > 0.
        where (`torch.Tensor` `[B, ...]`, *optional*, bool):
            Units outside it have loss exactly 0 and gradient exactly 0, whatever their inputs hold, and so have
            units inside it whose loss is not finite (a broken student, or a class that it alone rules out).

    Returns:
        `torch.Tensor` `[B, ...]`, >= 0 up to rounding.

    Raises:
        [`ConfigError`]: a temperature that is not above 0.
        [`DataError`]: shapes that differ.

    Example:

    ```python
    >>> target = torch.tensor([[0.9, 0.1]]).log()
    >>> kl_to_target(torch.zeros(1, 2), target)  # 0.9 log(0.9 / 0.5) + 0.1 log(0.1 / 0.5)
    tensor([0.3681])
    ```
    """
    check_numbers(temperature=temperature)
    if student_logits.shape != target_log_probs.shape:
        raise DataError(
            f"Student and target must have one shape [B, C, ...], got {list(student_logits.shape)} "
            f"and {list(target_log_probs.shape)}."
        )
    keep = None if where is None else [where]
    values: Tensor = _KLToTarget.apply(target_log_probs, float(temperature), keep, student_logits)
    return values.squeeze(0)


def transfer_loss(
    logits: Peers,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    detach: Literal["teacher", "none"] = "teacher",
    source: Peers | None = None,
) -> Tensor:
    """
    One KL per student towards the teacher of the unit: `T^2 KL(p_t || p_m)` for all peers `m != t`.

    Exactly 0, with gradient exactly 0, for the teacher itself and where nobody teaches. Time and memory grow with N,
    not with its square: the teacher's logits are selected first and softened once. Selecting before computing also
    keeps NaN and inf of a peer on a unit out of everybody else's values and gradients; the peer itself has loss 0
    there, and where it is the teacher nobody learns.

    Args:
        logits (`torch.Tensor` `[N, B, C, ...]`, or N of `[B, C, ...]`):
            The peers' logits; a sequence spares the copy. Any floating type, fp32 inside, finite at +-1e4.
        teacher (`torch.Tensor` `[B, ...]`, int64):
            Index of the teacher; [`~roles.MEAN`]: the mean of all usable peers teaches every peer; any other value,
            such as [`~roles.NOBODY`] or [`~roles.UNDECIDED`]: no transfer on this unit.
        temperature (`float`, *optional*, defaults to 1.0): softens both sides, > 0.
        detach (`"teacher"` or `"none"`, *optional*, defaults to `"teacher"`):
            `"none"` also moves the teacher towards its students, as the authors' code does.
        source (as `logits`, *optional*): what teachers say, where it is not `logits` themselves but, say, the logits
            of their frozen starts. Same shapes and order of peers.

    Returns:
        `torch.Tensor` `[N, B, ...]`: no mean is taken, as units without a teacher count in the caller's mean.

    Raises:
        [`ConfigError`]: temperature or `detach` out of range.
        [`DataError`]: shapes that differ.

    Source: arXiv 2510.22208; with N=2 its `mean(m1 * KL(p1 || p2) + m2 * KL(p2 || p1))` is
    `transfer_loss(...).sum(0).mean()`.

    Example:

    ```python
    >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]])  # 2 peers, 2 units, 2 classes
    >>> transfer_loss(logits, torch.tensor([0, -1]))
    tensor([[0.0000, 0.0000],
            [0.3278, 0.0000]])
    ```
    """
    check_numbers(temperature=temperature)
    if detach not in ("teacher", "none"):
        raise ConfigError(f"detach must be one of teacher, none, got {detach!r}")
    peers = list(logits)
    teachers = peers if source is None else list(source)
    _check_shapes(peers, teachers, teacher)
    with torch.set_grad_enabled(torch.is_grad_enabled() and detach == "none"):
        target, known = teacher_log_probs(teachers, teacher, temperature=temperature)
    learns = [known & (teacher != m) for m in range(len(peers))]
    values: Tensor = _KLToTarget.apply(target, float(temperature), learns, *peers)
    return values


def teacher_log_probs(
    logits: Peers, teacher: Tensor, *, temperature: float = 1.0, shares: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """
    What is taught: the softened log-probabilities `[B, C, ...]`, and the units `[B, ...]` on which something is.

    Args:
        logits (`torch.Tensor` `[N, B, C, ...]`, or N of `[B, C, ...]`): what each peer says.
        teacher (`torch.Tensor` `[B, ...]`, int64): a peer's index or [`~roles.MEAN`]; nothing is taught elsewhere.
        temperature (`float`, *optional*, defaults to 1.0): > 0.
        shares (`torch.Tensor` `[N, B, ...]`, *optional*): how much each peer counts in the mean, >= 0.

    Returns:
        `(torch.Tensor [B, C, ...], torch.BoolTensor [B, ...])`. Nothing is taught either where the teacher's logits
        give no distribution (NaN, +inf, all `-inf`). There the row means nothing and may hold NaN: give the second as
        `where` to [`kl_to_target`].

    Example:

    ```python
    >>> target, taught = teacher_log_probs(torch.zeros(2, 1, 4), torch.tensor([1]))
    >>> target.exp(), taught
    (tensor([[0.2500, 0.2500, 0.2500, 0.2500]]), tensor([True]))
    ```
    """
    peers = list(logits)
    known = (teacher >= 0) & (teacher < len(peers))
    chosen = gather_teacher(peers, teacher)
    if torch.is_grad_enabled():  # log_softmax would answer a broken row with a NaN gradient
        known = known & has_distribution(chosen)
        chosen = chosen.where(known.unsqueeze(1), 0.0)
    target = softened_log_probs(chosen, temperature)
    del chosen
    known = known & ~target[:, 0].isnan()  # log_softmax makes a broken row NaN throughout
    by_mean = teacher == MEAN
    # A compiled graph must not depend on values: it takes the mean in any case.
    if not torch.compiler.is_compiling() and not bool(by_mean.any()):
        return target, known
    usable = torch.stack([has_distribution(z) for z in peers])
    safe = [z.where(u.unsqueeze(1), 0.0) for z, u in zip(peers, usable, strict=True)]
    mean = mean_log_probs([softened_log_probs(z, temperature) for z in safe], usable, shares)
    return torch.where(by_mean.unsqueeze(1), mean, target), known | (by_mean & usable.any(dim=0))


def has_distribution(z: Tensor) -> Tensor:
    """Units `[B, ...]` whose softmax exists: no NaN, no +inf, not `-inf` throughout (single classes may be masked)."""
    return z.detach().amax(dim=1).isfinite()


def _check_shapes(peers: list[Tensor], teachers: list[Tensor], teacher: Tensor) -> None:
    shapes = {tuple(z.shape) for z in (*peers, *teachers)}
    if len(shapes) != 1 or len(peers) != len(teachers):
        raise DataError(
            f"All peers, and what teaches them, must have logits of one shape [B, C, ...], got "
            f"{[list(z.shape) for z in peers]} and {[list(z.shape) for z in teachers]}."
        )
    batch, _, *grid = shapes.pop()
    if tuple(teacher.shape) != (batch, *grid):
        raise DataError(f"teacher must have shape {[batch, *grid]}, one entry per unit, got {list(teacher.shape)}.")


class _KLToTarget(torch.autograd.Function):
    """
    [`kl_to_target`] for N students of one target, with the gradient written out: between forward and backward it
    keeps one `[B, C, ...]` tensor, the target's probabilities, besides the students' own logits.

    `nan_to_num` stands where a mask would: on CPU a boolean mask of this size costs more than a softmax. It is a pass
    over everything itself, so that it is left out where the sums over classes tell that there is nothing to mend.
    """

    @staticmethod
    def forward(ctx: Any, target: Tensor, temperature: float, where: list[Tensor] | None, *students: Tensor) -> Tensor:
        probs = target.to(torch.promote_types(target.dtype, torch.float32)).exp()
        mass = probs.sum(dim=1, keepdim=True)
        buffer: Tensor | None = None
        values, kept, whole = [], [], []
        for m, logits in enumerate(students):
            buffer = _gap(logits, target, temperature, buffer)
            value, finite = _sum_over_classes(buffer.mul_(probs))
            whole.append(finite)
            value.mul_(temperature**2)
            if where is None:
                value.masked_fill_(~has_distribution(logits) | mass.squeeze(1).isnan(), math.nan)
            else:
                kept.append(where[m] & (value < math.inf))
                value.masked_fill_(~kept[m], 0.0)
            values.append(value)
        ctx.save_for_backward(target if target.requires_grad else None, probs, mass, *students, *kept)
        ctx.temperature = temperature
        ctx.students, ctx.whole = len(students), whole
        return torch.stack(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        target, probs, mass, *rest = ctx.saved_tensors
        students, kept = rest[: ctx.students], rest[ctx.students :] or [None] * ctx.students
        temperature = ctx.temperature
        for_target: Tensor | None = None
        if ctx.needs_input_grad[0]:
            for_target = torch.zeros_like(probs)
            for logits, scale, where in zip(students, upstream, kept, strict=True):
                gap = _gap(logits, target, temperature).add_(1.0).mul_(probs).nan_to_num_(0.0, math.inf, -math.inf)
                for_target.add_(_scaled(gap, scale * temperature**2, where))
            for_target = for_target.to(target.dtype)
        for_students: list[Tensor | None] = [None] * ctx.students
        for m, (logits, scale, where) in enumerate(zip(students, upstream, kept, strict=True)):
            if ctx.needs_input_grad[3 + m]:
                own = _softmax(_softened(logits, temperature))
                gradient = torch.addcmul(probs, own, mass, value=-1.0, out=own)
                scaled = _scaled(gradient, -temperature * scale, where, finite=ctx.whole[m])
                for_students[m] = scaled.to(logits.dtype)
        return for_target, None, None, *for_students


def _softened(logits: Tensor, temperature: float) -> Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if temperature == 1.0 else logits / temperature


def _softmax(logits: Tensor) -> Tensor:
    """`softmax` over dimension 1, which on CPU takes twice as long as this where it is not the last."""
    return logits.softmax(dim=1) if logits.ndim == 2 else logits.log_softmax(dim=1).exp_()


def _gap(logits: Tensor, target: Tensor, temperature: float, buffer: Tensor | None = None) -> Tensor:
    """`log p_t - log p_m`, in `buffer` where there is one; NaN or infinite in a class of probability 0."""
    softened = _softened(logits, temperature)
    if buffer is None or buffer.dtype != softened.dtype:
        buffer = torch.empty_like(softened)
    torch.log_softmax(softened, dim=1, out=buffer)
    return torch.sub(target, buffer, out=buffer)


def _sum_over_classes(values: Tensor) -> tuple[Tensor, bool]:
    """Sums over dimension 1, NaN counted as 0, and whether all of them are known to have been finite without that.

    A GPU would wait for the look at them, and a compiled graph must not depend on values.
    """
    if values.is_cpu and not torch.compiler.is_compiling():
        total = values.sum(dim=1)
        if bool(total.isfinite().all()):
            return total, True
    return values.nan_to_num_(0.0, math.inf, -math.inf).sum(dim=1), False


def _scaled(gradient: Tensor, scale: Tensor, where: Tensor | None, finite: bool = False) -> Tensor:
    """`gradient * scale` in place; with `where`, exactly 0 outside it and for classes without a finite gradient."""
    if where is None:
        return gradient.mul_(scale.unsqueeze(1))
    scale = scale.masked_fill(~where, 0.0)
    if finite:
        return gradient.mul_(scale.unsqueeze(1))
    return gradient.nan_to_num_(0.0, 0.0, 0.0).mul_(scale.unsqueeze(1))
