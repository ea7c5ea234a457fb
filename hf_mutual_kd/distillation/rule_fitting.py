"""What rules learn from validation rows before training: a temperature per peer, and how far each class is its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .roles import loss_scores

TEMPERATURES = torch.exp2(torch.linspace(-3, 4, 29))
"""From 1/8 to 16, four to the octave: between them the loss is a parabola in log T, which is solved for its foot."""

LEAST = -50.0
"""Log-probability of the truth that a peer without a distribution is taken to have had."""


@torch.no_grad()
def temperature_sums(units: Iterable[tuple[list[Tensor], Tensor]]) -> dict[str, Tensor]:
    """
    The loss of every peer at every one of [`TEMPERATURES`], summed over the units of each sample.

    Args:
        units: chunks of N logits `[B, C, ...]` and classes `[B, ...]`, < 0 for none.

    Returns:
        `dict`: `losses` `[B, N, T]` in float64, and `units` `[B]`, how many have a class.
    """
    losses: Any = 0.0
    count: Any = 0
    for logits, classes in units:
        tried = [-loss_scores([z / t for z in logits], classes).clamp(min=LEAST) for t in TEMPERATURES.tolist()]
        losses = losses + over_units(torch.stack(tried).double(), 2).permute(2, 1, 0)
        count = count + over_units(classes >= 0, 0)
    return {"losses": losses, "units": count}


def best_temperatures(sums: dict[str, Tensor]) -> Tensor:
    """
    The temperature `[N]` at which each peer's mean loss is least, to about 1 %.

    Raises:
        [`DataError`]: no unit has a class.

    Example:

    ```python
    >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])  # right 3 times of 4
    >>> best_temperatures(total_of(temperature_sums([([logits], torch.tensor([0, 0, 0, 1]))])))
    tensor([1.8275])
    ```
    """
    _check(sums["units"])
    grid = TEMPERATURES.log2().double()
    mean = (sums["losses"] / sums["units"].sum()).double().cpu()
    least = mean.argmin(1).clamp(1, len(grid) - 2)
    left, foot, right = (mean.gather(1, (least + step).unsqueeze(1)).squeeze(1) for step in (-1, 0, 1))
    bend = left - 2 * foot + right
    shift = torch.where(bend > 0, 0.5 * (left - right) / bend.clamp(min=1e-12), 0.0).clamp(-1, 1)
    return torch.exp2(grid[least] + shift * (grid[1] - grid[0])).float()


@torch.no_grad()
def class_sums(units: Iterable[tuple[list[Tensor], Tensor]], classes: int) -> dict[str, Tensor]:
    """
    Log-probabilities of the truth, summed per sample and class.

    Args:
        units: as for [`temperature_sums`].
        classes (`int`): C.

    Returns:
        `dict`: `truths` `[B, N, C]` in float64, and `units` `[B, C]`.
    """
    truths: Any = 0.0
    count: Any = 0
    for logits, labels in units:
        place = labels.long().masked_fill(labels < 0, classes).reshape(len(labels), -1)
        values = loss_scores(logits, labels).clamp(min=LEAST).double()
        values = values.reshape(len(logits), *place.shape).transpose(0, 1)
        found = values.new_zeros(*values.shape[:2], classes + 1)
        truths = truths + found.scatter_add_(2, place.unsqueeze(1).expand_as(values), values)[..., :classes]
        seen = torch.zeros(len(labels), classes + 1, dtype=torch.long, device=labels.device)
        count = count + seen.scatter_add_(1, place, torch.ones_like(place))[:, :classes]
    return {"truths": truths, "units": count}


def class_trust(sums: dict[str, Tensor]) -> Tensor:
    """
    Mean log-probability of the truth `[N, C]`, of each peer on each class.

    One unit of the peer's mean over all classes is added to every class, so that a class without rows has that mean.

    Raises:
        [`DataError`]: no unit has a class.
    """
    _check(sums["units"])
    overall = sums["truths"].sum(1, keepdim=True) / sums["units"].sum()
    return ((sums["truths"] + overall) / (sums["units"] + 1)).float()


def over_units(values: Tensor, samples: int) -> Tensor:
    """Sums over all dimensions after that of the samples."""
    return values.flatten(samples + 1).sum(-1) if values.ndim > samples + 1 else values


def total_of(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums per sample as sums over the samples of a batch."""
    return {key: value.sum(0) for key, value in sums.items()}


def _check(units: Tensor) -> None:
    if int(units.sum()) == 0:
        raise DataError("no validation row has a label: teacher_rule 'class' and calibrate are fitted on them")
