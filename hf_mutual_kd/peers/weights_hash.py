"""What weights are, in a hash, and whether they are numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from accelerate.utils import gather_object
from torch import nn

from .held_peers import HeldPeers


def fingerprint(model: nn.Module) -> str:
    """A hash of all weights, equal for equal starts."""
    digest = hashlib.blake2b(digest_size=16)
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprints(cohort: HeldPeers) -> dict[str, str]:
    """The [`fingerprint`] of every peer; processes of which each holds some tell each other, all together."""
    mine = {name: fingerprint(model) for name, model in cohort.peers.items()}
    parts = gather_object([mine]) if cohort.elsewhere else [mine]
    found = {name: value for part in parts for name, value in part.items()}
    return {name: found[name] for name in cohort.names}


def joint(parts: Mapping[str, str]) -> str:
    """One hash of all peers' [`fingerprints`], with their names and in their order."""
    return hashlib.blake2b(repr(list(parts.items())).encode(), digest_size=16).hexdigest()


def is_finite(model: nn.Module) -> bool:
    """Whether all weights and statistics that this process holds of a model are finite."""
    held = (getattr(value, "to_local", lambda value=value: value)() for value in _floats(model))
    return all(map(all_finite, held))


def all_finite(value: torch.Tensor) -> bool:
    """Whether every number is finite; the sum, which is quicker, says so unless it overflows."""
    return bool(value.sum().isfinite()) or bool(value.isfinite().all())


def fill_with_nan(model: nn.Module) -> None:
    """Make a model what one is whose weights were not finite: it says nothing, and cannot teach."""
    with torch.no_grad():
        for value in _floats(model):
            value.fill_(torch.nan)


def _floats(model: nn.Module) -> list[torch.Tensor]:
    return [value for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()]
