"""What peers are that other processes hold, found out without their weights."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from ..tasks.base import Task
from .adapters import is_adapter
from .config_files import read_config
from .head_labels import HeadLabels
from .launched import check_launch
from .loading import Base, LoadedPeer, base_of, find_adapter, load_peer, pinned
from .loading_errors import peer_errors
from .peer_mesh import PeerMesh
from .python_source import is_python_source
from .quantization import count_parameters
from .spec import PeerSpec
from .zero_shot import reads_labels


class Description(NamedTuple):
    """
    A peer without its weights.

    Args:
        peer ([`LoadedPeer`]): on the meta device; a module that was given stays as it is.
        draws (`bool`): whether random numbers are taken where it is loaded.
        base (hashable): what is loaded once for all peers that have it in common.
    """

    peer: LoadedPeer
    draws: bool
    base: Hashable


def load_held(
    asked: Mapping[str, Any],
    load: Callable[..., LoadedPeer],
    describe: Callable[..., Description] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> tuple[dict[str, LoadedPeer], PeerMesh]:
    """
    All peers, of which those that other processes hold are only described.

    What is drawn is drawn as by one process: peers that draw are loaded in turn, each where it is held, and its
    process tells all others with which random state the next one begins.

    Args:
        asked (`dict`): what is loaded, by name.
        load (`Callable`): [`~loading.load_peer`] of a name and what was asked.
        describe (`Callable`, *optional*): [`describe_peer`] of such; unset every process loads all.
        seconds (`dict[str, float]`, *optional*): that a step of each takes; unset they are shared out by weights.

    Returns:
        `tuple` of the peers and of who holds which.

    Raises:
        [`ConfigError`]: the peers cannot be placed on so many processes, or these do not see each other.
    """
    state = PartialState() if describe is not None else None
    if state is not None:
        check_launch(state)
    if describe is None or state is None or state.num_processes == 1:
        return {name: load(name, peer) for name, peer in asked.items()}, PeerMesh([list(asked)])
    described = {name: describe(name, peer) for name, peer in asked.items()}
    found = {name: one.peer for name, one in described.items()}
    costs = seconds or {name: count_parameters(peer.model) for name, peer in found.items()}
    specs = {name: peer.spec for name, peer in found.items()}
    mesh = PeerMesh.over(costs, specs, state.num_processes, state.process_index)
    found |= {name: load(name, asked[name]) for name in mesh.held if not described[name].draws}
    began: dict[Hashable, Tensor] = {}
    for name in [name for name, one in described.items() if one.draws]:
        base, now = described[name].base, torch.get_rng_state()
        is_first = base not in began
        # What others have on the same base is drawn once.
        torch.set_rng_state(began.setdefault(base, now))
        if name in mesh.held:
            found[name] = load(name, asked[name])
        if is_first:
            (now,) = broadcast_object_list([torch.get_rng_state()], from_process=mesh.place_of(name))
        torch.set_rng_state(now)
    return found, mesh


def describe_peer(
    name: str, peer: Any, task: Task, *, labels: HeadLabels | None = None, trust_remote_code: bool = False
) -> Description:
    """
    What [`load_peer`] would give, without drawing anything.

    Only what is computed as a peer is loaded, or lies in another form than its checkpoint says, is in memory while it
    is described: modules of Python sources, models that read the names of classes, and bases that are stored
    quantized.
    """
    if isinstance(peer, nn.Module | LoadedPeer):
        return Description(load_peer(name, peer, task), False, name)
    spec = peer if isinstance(peer, PeerSpec) else PeerSpec.parse(str(peer))
    bases: dict[Any, Base] = {}
    load = partial(load_peer, name, spec, task, labels=labels, trust_remote_code=trust_remote_code, bases=bases)
    by_itself = _says_its_form(name, spec, task, labels or HeadLabels(), trust_remote_code)
    with torch.random.fork_rng(), torch.device("meta" if by_itself else "cpu"):
        found = load()
    is_saved_adapter = is_adapter(found.model) and spec.peft is None
    draws = found.new_head or is_saved_adapter or not by_itself
    return Description(replace(found, model=found.model.to("meta")), draws, next(iter(bases), name))


def _says_its_form(name: str, spec: PeerSpec, task: Task, labels: HeadLabels, trust_remote_code: bool) -> bool:
    """Whether all that a peer is without its weights stands in its files."""
    if is_python_source(spec.source):
        return False
    with peer_errors(name, spec):
        adapter = find_adapter(spec)
        below = pinned(spec if adapter is None else base_of(name, spec, adapter, labels)[1])
        config = read_config(name, below, trust_remote_code)
    stored = getattr(config, "quantization_config", None)
    return stored is None and not reads_labels(name, below, config, task)
