"""Weights of peers, kept beside them: as they started, and between a start and the end of a training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..peers.cohort import Cohort
from ..peers.loading import load_weights
from .stage_state import StageState

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


class ArmWeights:
    """
    The weights of each arm of a training in stages, put into the cohort.

    Args:
        cohort ([`Cohort`]): the peers, as they start.
        state ([`StageState`]): what is done, and what was decided.
        adapts (`bool`): whether there is a stage that learns from the labels before anybody teaches.
        control (`str`): the stage whose weights are the control's where validation has not picked another.
    """

    def __init__(self, cohort: Cohort, state: StageState, adapts: bool, control: str):
        self.cohort, self.state, self.adapts, self.control = cohort, state, adapts, control
        self.begins = {name: snapshot(peer) for name, peer in cohort.peers.items()}

    def load(self, what: str) -> None:
        """Put the weights of an arm into all peers, each process into those that it holds."""
        for name in self.cohort.peers:
            self.load_peer(name, what)

    def load_peer(self, name: str, what: str) -> None:
        """Put the weights that a peer has in an arm into it."""
        if what == "kept":
            self._load_kept(name)
            return
        peer, stage = self.cohort.peers[name], self._stage_of(name, what)
        if stage is None:
            restore(peer, self.begins[name])
        else:
            load_weights(name, peer, self.state.folder / stage / name)

    def origin(self, name: str) -> str:
        """Where interpolation begins: a new head has no start to go back to."""
        return "adapted" if name in self.cohort.new_heads else "start"

    def _stage_of(self, name: str, what: str) -> str | None:
        """Where the weights lie that a peer has in an arm; `None`: those it started with."""
        if what == "adapted":
            return "adapt" if self.adapts else None
        if what == "control":
            return self.state.facts.get("controls", {}).get(name, self.control)
        if what == "mutual":
            return f"way-{self.state.facts['way']}"
        return None if what == "start" else what

    def _load_kept(self, name: str) -> None:
        what, alpha = (self.state.facts["kept"][name][key] for key in ("what", "alpha"))
        self.load_peer(name, what)
        if alpha != 1.0:
            peer = self.cohort.peers[name]
            end = snapshot(peer)
            self.load_peer(name, self.origin(name))
            blend(peer, snapshot(peer), end, alpha)
