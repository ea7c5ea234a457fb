"""The peers of a cohort: those that this process holds, and what is known of those that other processes hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import PeerError
from ..tasks.registry import Task
from .exchange import Exchange
from .spec import PeerSpec


class HeldPeers(nn.Module):
    """Modules by name, of which a process may hold a part.

    Args:
        models (`dict[str, nn.Module]`): of all peers.
    """

    task: Task
    specs: dict[str, PeerSpec]
    """Of all peers."""
    config: None = None
    """Each peer has its own; with label smoothing the Trainer of transformers asks the module for one."""

    def __init__(self, models: Mapping[str, nn.Module]):
        super().__init__()
        self.peers = nn.ModuleDict(models)
        """Those that this process holds."""
        self.elsewhere: dict[str, nn.Module] = {}
        """Those that others hold: what they are, without their weights."""
        self.exchange: Exchange | None = None
        self.places: Sequence[Sequence[str]] | None = None
        """Peers that are together on one process, where processes hold some each."""
        self.peer_seconds: Mapping[str, float] | None = None
        """What a step of each takes, where places were found by it."""

    @property
    def names(self) -> list[str]:
        """Peer names; their order gives the indices in roles."""
        return list(self.specs)

    def model_of(self, name: str) -> Any:
        """A peer's module; on the meta device where another process holds it."""
        return self.peers[name] if name in self.peers else self.elsewhere[name]

    def hold(self, places: Sequence[Sequence[str]], place: int, exchange: Exchange | None = None) -> None:
        """Keep the weights of the peers of one place alone, and hear the others by `exchange`."""
        for name in set(self.peers) - set(places[place]):
            self.elsewhere[name] = self.peers.pop(name).to("meta")
        self.places, self.exchange = places, exchange

    def joined(self, mine: dict[str, Any], what: str) -> dict[str, Any]:
        """What all peers say, where `mine` is what those say that this process holds; `what` is what they speak of."""
        return mine if self.exchange is None else self.exchange.joined(mine, (what, self.training))

    def peer_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters of each peer, the unit of learning rates and clipping."""
        return {name: [p for p in model.parameters() if p.requires_grad] for name, model in self.peers.items()}

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict | None = None, **kwargs) -> None:
        """Recompute activations inside every peer that supports it."""
        for name in [*self.peers, *self.elsewhere]:
            if not getattr(self.model_of(name), "supports_gradient_checkpointing", False):
                raise PeerError(
                    f"peer {name!r} ({type(self.model_of(name)).__name__}) has no gradient checkpointing of its own; "
                    "use peer_checkpointing, which works for any model"
                )
            self.model_of(name).gradient_checkpointing_enable(gradient_checkpointing_kwargs)

    activation_checkpointing_enable = gradient_checkpointing_enable
