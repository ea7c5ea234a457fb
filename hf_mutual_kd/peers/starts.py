"""Copies of peers that teachers speak with: as the peers started, or moving averages of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .adapters import with_shared_weights


def start_of(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that takes no gradient; what does not train is shared, above all an adapter's base."""
    resting = (weight for weight in model.parameters() if not weight.requires_grad)
    return with_shared_weights(model, resting).requires_grad_(False).eval()


def is_fast_in_bf16(device: torch.device) -> bool:
    """Whether a device has units for bf16: NVIDIA's GPUs since compute capability 8.0."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


@torch.no_grad()
def follow(averages: Mapping[str, nn.Module], peers: Mapping[str, nn.Module], decay: float) -> None:
    """Move the copies one step towards their peers; batch-norm statistics are taken over."""
    for name, peer in peers.items():
        for kept, live in zip(averages[name].parameters(), peer.parameters(), strict=True):
            kept.lerp_(live.to(kept.dtype), 1 - decay)
        for buffer, now in zip(averages[name].buffers(), peer.buffers(), strict=True):
            buffer.copy_(now)
