"""Losses and scores of video saliency on log-densities, per clip. Pure functions of tensors; imports torch alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

WEIGHTS = {"kld": 1.0, "cc": 1.0, "sim": 0.0, "nss": 0.0, "temporal": 0.0}
"""Weights of the loss' terms unless given: KLD - CC, as the field trains."""

LOG_ZERO = -1e4
"""Log of a truth of 0: finite, and its exponential is exactly 0 also in float64."""

FLOOR = 1e-30
"""Least resampled density relative to its peak: keeps logarithms (>= -70) and their gradients finite in fp32."""

FLAT = 1e-6
"""Added to variances of maps with mean 1, so that constant maps (variance 0) have value and gradient."""

LN_2 = 0.6931471805599453


def log_density(logits: Tensor) -> Tensor:
    """
    Log-softmax over the pixels of each frame, in fp32 (float64 stays), also under autocast.

    Args:
        logits (`torch.Tensor` `[..., h, w]`): unnormalised log-density, any floating type.

    Returns:
        `torch.Tensor` of the same shape: its exponential sums to 1 over h * w.

    Example:

    ```python
    >>> log_density(torch.tensor([[0.0, 0.0], [0.0, 0.0]])).exp()
    tensor([[0.2500, 0.2500],
            [0.2500, 0.2500]])
    ```
    """
    return _wide(logits).flatten(-2).log_softmax(-1).view(logits.shape)


def resample_log_density(logits: Tensor, size: Sequence[int]) -> Tensor:
    """
    The log of the density on another grid: the density is resampled and made to sum to 1 again.

    Resampling logits instead would take geometric means, which lowers narrow peaks. Bilinear with half-pixel centres;
    where the grid shrinks, low-pass filtered, so that no peak falls between the pixels.

    Args:
        logits (`torch.Tensor` `[..., h, w]`): unnormalised log-density.
        size (`tuple[int, int]`): H, W of the new grid; with h, w this is [`log_density`].

    Returns:
        `torch.Tensor` `[..., H, W]`, fp32 (float64 stays): finite, as densities below 1e-30 of the peak are raised to
        that.

    Example:

    ```python
    >>> resample_log_density(torch.tensor([[0.0, 0.0, 80.0, 80.0]]), (1, 2)).exp()
    tensor([[0.1429, 0.8571]])
    ```
    """
    logs = log_density(logits)
    if tuple(size) == tuple(logs.shape[-2:]):
        return logs
    density = _resized((logs - logs.detach().amax((-2, -1), keepdim=True)).exp(), size)
    return density.clamp_min(FLOOR).log() - density.sum((-2, -1), keepdim=True).log()


def has_truth(truth: Tensor) -> Tensor:
    """
    Which frames have a truth that is not blank, `[..., H, W]` to bool `[...]`.

    A truth with NaN counts as one, so that its NaN shows in the loss.
    """
    return ~(_wide(truth).sum((-2, -1)) <= 0)


def saliency_loss(
    logits: Tensor,
    truth: Tensor,
    weights: Mapping[str, float] | None = None,
    fixations: Tensor | None = None,
    cuts: Tensor | None = None,
) -> Tensor:
    """
    `kld * KLD - cc * CC - sim * SIM - nss * NSS + temporal * change`, one value per clip.

    Computed at the size of the prediction: the truth is brought to its grid, as the field trains (NSS alone is
    computed at the size of the fixations). [`score`] judges at the truth's size. KLD is sum g (ln g - ln p) in nats
    without the metric's eps; CC is Pearson's; SIM is sum min(p, g) of densities; change is [`temporal_change`]. The
    first four are means over the frames of a clip that have a truth. A clip's value depends on no other clip.

    Args:
        logits (`torch.Tensor` `[B, h, w]` or `[B, T, h, w]`): unnormalised log-densities, any floating type; the loss
            is computed in fp32 (float64 stays), also under autocast.
        truth (`torch.Tensor` `[B, H, W]` or `[B, T, H, W]`): density of fixations up to a factor, not negative. Where
            it is blank, a frame adds exactly 0 to value and gradient, whatever its logits hold.
        weights (`Mapping[str, float]`, *optional*): some of `kld`, `cc`, `sim`, `nss`, `temporal`; the others keep
            1, 1, 0, 0, 0.
        fixations (`torch.Tensor` `[B, H, W]` or `[B, T, H, W]`, *optional*): above 0 is fixated; needed for `nss`. A
            frame without any has NSS 0.
        cuts (`torch.Tensor` `[B, T - 1]`, bool, *optional*): see [`temporal_change`].

    Returns:
        `torch.Tensor` `[B]`: 0 where no frame of a clip has a truth.

    Raises:
        `ValueError`: shapes that do not fit, unknown weights, a weight without what it needs.

    Example:

    ```python
    >>> truth = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]])
    >>> saliency_loss(truth.clamp_min(1e-3).log(), truth)
    tensor([-1.0000,  0.0000])
    ```
    """
    used = _checked_weights(weights)
    _check_shapes(logits, truth)
    if used["nss"] and fixations is None:
        raise ValueError(f"weight nss {used['nss']} needs fixations, got none")
    if used["temporal"] and logits.ndim != 4:
        raise ValueError(f"weight temporal {used['temporal']} needs [B, T, h, w], got shape {list(logits.shape)}")
    valid = has_truth(truth)
    logits = _selected(logits, valid)
    logs, density = log_density(logits), _truth_density(truth, logits.shape[-2:])
    loss = used["kld"] * _kld(logs, density) - used["cc"] * _pearson(logs.exp(), density)
    if used["sim"]:
        loss = loss - used["sim"] * torch.minimum(logs.exp(), density).sum((-2, -1))
    if used["nss"] and fixations is not None:
        loss = loss - used["nss"] * _nss(resample_log_density(logits, fixations.shape[-2:]).exp(), fixations)
    loss = _clip_mean(loss, valid)
    return loss + used["temporal"] * temporal_change(logits, truth, cuts) if used["temporal"] else loss


@torch.no_grad()
def score(logits: Tensor, truth: Tensor | Sequence[Tensor]) -> Tensor:
    """
    How good each clip's prediction is: `-(KLD - CC)` at the truth's own size, to which the density is resampled.

    So peers with different grids are compared on the same pixels. Clips are computed one by one: the same clip has
    the same bits whatever its batch mates are.

    Args:
        logits (`torch.Tensor` `[B, h, w]` or `[B, T, h, w]`): unnormalised log-densities.
        truth (`torch.Tensor` `[B, H, W]` or `[B, T, H, W]`, or a list of B `[H_i, W_i]` or `[T, H_i, W_i]`):
            densities of fixations up to a factor, not negative.

    Returns:
        `torch.Tensor` `[B]`, without gradient: higher is better, at most 1. `-inf` where the clip has no truth or the
        prediction is not finite: such a clip teaches nobody.

    Raises:
        `ValueError`: shapes that do not fit.

    Example:

    ```python
    >>> score(torch.tensor([[[0.0, 0.0]], [[0.0, 1.0]]]), torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]]))
    tensor([-0.1308,    -inf])
    ```
    """
    if len(logits) != len(truth):
        raise ValueError(f"one truth per clip is expected, got {len(truth)} for {len(logits)}")
    scores = [_clip_score(prediction, target) for prediction, target in zip(logits, truth, strict=True)]
    return torch.stack(scores) if scores else _wide(logits.new_zeros(0))


def temporal_change(logits: Tensor, truth: Tensor, cuts: Tensor | None = None) -> Tensor:
    """
    How far the prediction's change differs from the truth's: mean over t of |JS(p_t, p_t-1) - JS(g_t, g_t-1)|.

    Smoothing a prediction towards its past would punish it for following what moves; matching the truth's own change
    does not. JS is the Jensen-Shannon divergence in nats, at the size of the prediction.

    Args:
        logits (`torch.Tensor` `[B, T, h, w]`): unnormalised log-densities of consecutive frames.
        truth (`torch.Tensor` `[B, T, H, W]`): densities up to a factor; pairs with a blank one are left out.
        cuts (`torch.Tensor` `[B, T - 1]`, bool, *optional*): entry t - 1 says whether a cut lies between frames t - 1
            and t; such pairs are left out.

    Returns:
        `torch.Tensor` `[B]`, at most ln 2; 0 where no pair is left.

    Raises:
        `ValueError`: shapes that do not fit.

    Example:

    ```python
    >>> moves = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    >>> temporal_change(torch.zeros(1, 2, 1, 2), moves)  # the truth moves by ln 2, the prediction not at all
    tensor([0.6931])
    ```
    """
    pairs = _pairs(logits, truth, cuts)
    logs = log_density(_selected(logits, has_truth(truth)))
    density = _truth_density(truth, logits.shape[-2:])
    known = density.clamp_min(torch.finfo(density.dtype).tiny).log().masked_fill(density == 0, LOG_ZERO)
    return _clip_mean((_js(logs) - _js(known)).abs(), pairs)


def _clip_score(logits: Tensor, truth: Tensor) -> Tensor:
    _check_shapes(logits[None], truth[None])
    valid = has_truth(truth)
    logs = resample_log_density(_selected(logits, valid), truth.shape[-2:])
    density = _truth_density(truth, truth.shape[-2:])
    value = _clip_mean((_pearson(logs.exp(), density) - _kld(logs, density))[None], valid[None])[0]
    return value.masked_fill(~(valid.any() & value.isfinite()), -torch.inf)


def _kld(logs: Tensor, density: Tensor) -> Tensor:
    return (torch.xlogy(density, density) - density * logs).sum((-2, -1))


def _pearson(first: Tensor, second: Tensor) -> Tensor:
    """Correlation of maps `[..., h, w]` that sum to 1 (or are 0), 0 for a constant one."""
    a, b = _around_one(first), _around_one(second)
    spread = ((a * a).mean((-2, -1)) + FLAT) * ((b * b).mean((-2, -1)) + FLAT)
    return (a * b).mean((-2, -1)) / spread.sqrt()


def _nss(density: Tensor, fixations: Tensor) -> Tensor:
    centred = _around_one(density)
    fixated = fixations > 0
    found = centred.masked_fill(~fixated, 0.0).sum((-2, -1)) / fixated.sum((-2, -1)).clamp_min(1)
    return found / ((centred * centred).mean((-2, -1)) + FLAT).sqrt()


def _around_one(density: Tensor) -> Tensor:
    """Relative deviation from the mean: maps of any size have values of the order of 1."""
    relative = density * (density.shape[-2] * density.shape[-1])
    return relative - relative.mean((-2, -1), keepdim=True)


def _js(logs: Tensor) -> Tensor:
    """Jensen-Shannon divergence of consecutive frames, `[B, T, h, w]` to `[B, T - 1]`."""
    now, before = logs[:, 1:], logs[:, :-1]
    middle = torch.logaddexp(now, before) - LN_2
    return 0.5 * (now.exp() * (now - middle) + before.exp() * (before - middle)).sum((-2, -1))


def _clip_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid frames of each clip, `[B]` or `[B, T]` to `[B]`, 0 without any."""
    if values.ndim == 1:
        return values.masked_fill(~valid, 0.0)
    return values.masked_fill(~valid, 0.0).sum(1) / valid.sum(1).clamp_min(1)


def _selected(logits: Tensor, valid: Tensor) -> Tensor:
    """Logits of frames without a truth are 0, so that NaN there reaches neither value nor gradient."""
    return logits.masked_fill(~valid[..., None, None], 0.0)


def _truth_density(truth: Tensor, size: Sequence[int]) -> Tensor:
    """The truth on a grid, summing to 1; 0 where it is blank."""
    values = _wide(truth)
    # By its peak first: sums of tiny or of huge values would leave the range of fp32.
    values = values / _positive(values.amax((-2, -1), keepdim=True))
    if tuple(size) != tuple(values.shape[-2:]):
        values = _resized(values, size)
    return values / _positive(values.sum((-2, -1), keepdim=True))


def _positive(values: Tensor) -> Tensor:
    return values.masked_fill(values <= 0, 1.0)


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    resized = F.interpolate(flat, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)
    return resized.view(*maps.shape[:-2], *size)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _pairs(logits: Tensor, truth: Tensor, cuts: Tensor | None) -> Tensor:
    """Which pairs of consecutive frames count, `[B, T - 1]`."""
    _check_shapes(logits, truth)
    if logits.ndim != 4:
        raise ValueError(f"consecutive frames are [B, T, h, w], got shape {list(logits.shape)}")
    valid = has_truth(truth)
    pairs = valid[:, 1:] & valid[:, :-1]
    if cuts is None:
        return pairs
    if cuts.shape != pairs.shape:
        raise ValueError(f"cuts are one per pair of frames, {list(pairs.shape)}, got shape {list(cuts.shape)}")
    return pairs & ~cuts.bool()


def _checked_weights(weights: Mapping[str, Any] | None) -> dict[str, float]:
    unknown = sorted(set(weights or ()) - set(WEIGHTS))
    if unknown:
        raise ValueError(f"loss weights are {', '.join(WEIGHTS)}, got {', '.join(unknown)}")
    return {**WEIGHTS, **(weights or {})}


def _check_shapes(logits: Tensor, truth: Tensor) -> None:
    if logits.ndim not in (3, 4) or logits.shape[:-2] != truth.shape[:-2]:
        raise ValueError(
            "predictions and truth are [B, h, w] and [B, H, W], or [B, T, h, w] and [B, T, H, W], got shapes "
            f"{list(logits.shape)} and {list(truth.shape)}"
        )
