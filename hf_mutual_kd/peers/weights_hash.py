"""Weights hash."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def fingerprint(model: nn.Module) -> str:
    """A hash of all weights, equal for equal starts."""
    digest = hashlib.blake2b(digest_size=16)
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def is_finite(model: nn.Module) -> bool:
    """Whether all weights and statistics that this process holds of a model are finite."""
    held = (getattr(value, "to_local", lambda value=value: value)() for value in _floats(model))
    return all(bool(value.isfinite().all()) for value in held)


def fill_with_nan(model: nn.Module) -> None:
    """Make a model what one is whose weights were not finite: it says nothing, and cannot teach."""
    with torch.no_grad():
        for value in _floats(model):
            value.fill_(torch.nan)


def _floats(model: nn.Module) -> list[torch.Tensor]:
    return [value for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()]
