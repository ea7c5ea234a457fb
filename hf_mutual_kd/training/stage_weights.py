"""Weights of peers, kept beside them: as they started, and between a start and the end of a training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Weights = Mapping[str, Tensor]
"""What training can change of one model, by name."""


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU of all that training can change: trainable weights and buffers, not a shared base."""
    return {key: value.detach().cpu().clone() for key, value in _changing(model).items()}


@torch.no_grad()
def restore(model: nn.Module, weights: Weights) -> None:
    """Put a [`snapshot`] back."""
    for key, value in _changing(model).items():
        value.copy_(weights[key])


@torch.no_grad()
def blend(model: nn.Module, start: Weights, end: Weights, alpha: float) -> None:
    """
    Set a model to `start + alpha * (end - start)`; what counts instead of measuring is taken from the end.

    Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022, arXiv 2109.01903. Running statistics of batch
    norms are weighed like weights.

    Example:

    ```python
    >>> model = nn.Linear(1, 1, bias=False)
    >>> blend(model, {"weight": torch.tensor([[0.0]])}, {"weight": torch.tensor([[4.0]])}, alpha=0.25)
    >>> model.weight.item()
    1.0
    ```
    """
    for key, value in _changing(model).items():
        if value.is_floating_point():
            between = torch.lerp(start[key].float(), end[key].float(), alpha)
            value.copy_(between)
        else:
            value.copy_(end[key])


def _changing(model: nn.Module) -> dict[str, Tensor]:
    resting = {key for key, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    return {key: value for key, value in model.state_dict().items() if key not in resting}
