"""Peers in parallel: which process holds which peers, and on which rows it works."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from accelerate import ParallelismConfig
from accelerate.utils import DynamoBackend, TorchDynamoPlugin, gather_object, recursively_apply
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.utils.data import IterableDataset

from ..config.training_config import MutualKDConfig
from ..distillation.objective import Objective
from ..errors import ConfigError
from .exchange import Exchange
from .held_peers import HeldPeers
from .quantization import count_parameters
from .spec import PeerSpec

DETACHED = (
    "detach 'none' moves teachers by their students' losses, and peer_parallel sends no gradients between processes; "
    "set detach 'teacher' (preset 'default'), or leave peer_parallel out"
)
ROWS, PEERS = "dp_replicate", "tp"
"""The dimensions of the mesh, by the names by which Accelerate's loaders know which processes share their rows."""
SHARDS = "dp_shard_cp"
"""The first of them by the name by which Accelerate finds the processes over which FSDP splits a weight."""


def place_peers(costs: Mapping[str, float], frozen: Sequence[str], places: int) -> list[list[str]]:
    """
    Peers on so many places: in each at least one that learns, and sums of costs that are as even as can be.

    Args:
        costs (`dict[str, float]`): of all peers, in the cohort's order: seconds, or numbers of weights.
        frozen (`list[str]`): those that learn nothing.
        places (`int`): at most as many as there are others.

    Returns:
        `list` of the names in each place, in the cohort's order.

    Example:

    ```python
    >>> place_peers({"a": 90, "b": 20, "c": 30}, [], 2)
    [['a'], ['b', 'c']]
    ```
    """
    placed: list[list[str]] = [[] for _ in range(places)]
    dearest_first = sorted(costs, key=lambda name: (name in frozen, -costs[name]))
    for turn, name in enumerate(dearest_first):
        # The first take a place each, as a process without a peer that learns has nothing to train.
        free = [place for place in placed if not place] if turn < places else placed
        min(free, key=lambda place: sum(costs[one] for one in place)).append(name)
    order = list(costs).index
    return sorted((sorted(place, key=order) for place in placed), key=lambda place: order(place[0]))


def count_places(names: Sequence[str], frozen: Sequence[str], processes: int) -> int:
    """
    As many places as can be: so many peers that learn as divide the number of processes.

    Raises:
        [`ConfigError`]: every process would hold all peers.
    """
    most, kind = len(names) - len(frozen), "peers that learn" if frozen else "peers"
    places = max(count for count in range(1, most + 1) if processes % count == 0)
    if processes > places == 1:
        raise ConfigError(
            f"peer_parallel: {most} {kind} cannot be placed on {processes} processes, as no number from 2 to "
            f"{most} divides {processes}; start another number of processes, or leave it out"
        )
    return places


def that_rest(specs: Mapping[str, Any]) -> list[str]:
    """The peers that only teach, by their [`PeerSpec`]; none where all do, as in a scoring."""
    frozen = [name for name, spec in specs.items() if getattr(spec, "frozen", False)]
    return frozen if len(frozen) < len(specs) else []


@dataclass(frozen=True)
class PeerMesh:
    """
    The processes of a training as a grid of data ranks and places of peers.

    Process `r` works on the rows of data rank `r // len(places)` and holds the peers of place `r % len(places)`. With
    one place every process holds all peers, as in an ordinary distributed training.

    Args:
        places (`list[list[str]]`): the peers that are together on one process.
        processes (`int`): how many there are.
        process (`int`): which of them this is.

    Example:

    ```python
    >>> mesh = PeerMesh([["vit"], ["cnx"]], processes=4, process=3)
    >>> mesh.data_ranks, mesh.data_rank, mesh.held
    (2, 1, ['cnx'])
    ```
    """

    places: Sequence[Sequence[str]]
    processes: int = 1
    process: int = 0

    @classmethod
    def of(cls, args: MutualKDConfig, cohort: HeldPeers, optimizers: Sequence[Any] = ()) -> PeerMesh:
        """
        The mesh of a resolved configuration, and of optimizers that a user has made.

        Raises:
            [`ConfigError`]: peers cannot be placed on so many processes, or another setting stands against it.
        """
        names, processes = cohort.names, args.world_size
        if not args.peer_parallel:
            if cohort.elsewhere:
                raise ConfigError(
                    f"this process holds only {', '.join(cohort.peers)} of the cohort, as another training with "
                    "peer_parallel left it; load the peers anew, or set peer_parallel true"
                )
            return cls([names], processes, args.process_index)
        check_peer_parallel(args, optimizers)
        mesh = cls.of_cohort(cohort, processes, args.process_index)
        resting = [place for place in mesh.places if all(cohort.specs[name].frozen for name in place)]
        if cohort.elsewhere and (resting or set(cohort.peers) != set(mesh.held)):
            raise ConfigError(
                "this cohort is spread over processes already, and not as its peers learn now; load the peers anew"
            )
        return mesh

    @classmethod
    def of_cohort(cls, cohort: HeldPeers, processes: int, process: int) -> PeerMesh:
        """The mesh of a cohort as it was loaded, or as it could be spread: see [`PeerMesh.over`]."""
        if cohort.places is not None:
            return cls(cohort.places, processes, process)
        sizes = {name: count_parameters(cohort.model_of(name)) for name in cohort.names}
        return cls.over(sizes, cohort.specs, processes, process)

    @classmethod
    def over(cls, costs: Mapping[str, float], specs: Mapping[str, PeerSpec], processes: int, process: int) -> PeerMesh:
        """
        A mesh with as many places as can be, the peers shared out by what they cost.

        Raises:
            [`ConfigError`]: every process would hold all peers.
        """
        frozen = that_rest(specs)
        places = count_places(list(costs), frozen, processes)
        return cls(place_peers(costs, frozen, places), processes, process)

    @property
    def is_split(self) -> bool:
        """Whether single processes hold only some of the peers."""
        return len(self.places) > 1

    @property
    def data_ranks(self) -> int:
        """How many processes share the rows of a step among them."""
        return self.processes // len(self.places)

    @property
    def data_rank(self) -> int:
        """Whose rows this process works on."""
        return self.process // len(self.places)

    @property
    def place(self) -> int:
        """Which peers it holds."""
        return self.process % len(self.places)

    @property
    def held(self) -> list[str]:
        """Their names."""
        return list(self.places[self.place])

    def place_of(self, name: str) -> int:
        """Which place holds a peer: the number of the first process that does."""
        return next(place for place, names in enumerate(self.places) if name in names)

    def writes(self, name: str, should_save: bool) -> bool:
        """Whether this process writes a peer: of those that hold it the first; `should_save` where all hold all."""
        return self.data_rank == 0 and name in self.held if self.is_split else should_save

    def check_rows(self, rows: Any, name: str) -> None:
        """Raise [`ConfigError`] for a stream that several data ranks would have to share."""
        if self.is_split and self.data_ranks > 1 and isinstance(rows, IterableDataset):
            raise ConfigError(
                f"{name} is a stream, which peer_parallel cannot share out between the {self.data_ranks} processes of "
                f"a peer; give rows that can be counted, or start {len(self.places)} processes"
            )

    def take(self, cohort: HeldPeers, device: torch.device, objective: Objective | None = None) -> None:
        """
        Let this process' cohort hold its own peers alone.

        Raises:
            [`ConfigError`]: a user's own objective needs gradients of other processes.
        """
        if self.is_split:
            if objective is not None and objective.detach == "none":
                raise ConfigError(DETACHED)
            owners = {name: place for place, names in enumerate(self.places) for name in names}
            group = _grid(device.type, self.data_ranks, len(self.places)).get_group(PEERS)
            in_order = {name: owners[name] for name in cohort.names}
            cohort.hold(self.places, self.place, Exchange(in_order, group, not cohort.task.map_dims))
            for model in cohort.peers.values():
                cohort.task.part_from_others(model)

    def join(self, accelerator: Any) -> None:
        """
        Let Accelerate give the processes of one data rank the same rows, average gradients between processes that
        hold the same peers, and gather and sum over data ranks, so that no row counts twice. Under fp16 all peers
        have one loss scale: what is infinite on one process makes all leave out the step and lower it.

        Raises:
            [`ConfigError`]: DeepSpeed, which splits weights over all processes.
        """
        if accelerator.parallelism_config is None:
            # What a training before this one left in the state that all share.
            accelerator.state.device_mesh = None
        if not self.is_split:
            return
        kind = accelerator.distributed_type.value
        if not kind.startswith(("MULTI_", "FSDP")):
            raise ConfigError(f"{kind} splits weights over all processes, peer_parallel peers; use FSDP 2 or none")
        grid = _grid(accelerator.device.type, self.data_ranks, len(self.places))
        accelerator.state.device_mesh = grid
        accelerator.ddp_handler = _within(accelerator.ddp_handler, grid.get_group(ROWS))
        # A process whose rows nobody shares reads a stream alone.
        accelerator.dataloader_config.dispatch_batches = False
        accelerator.gather, accelerator.reduce = self.gathered, self.summed
        if accelerator.scaler is not None:
            accelerator.scaler = _together(accelerator.scaler, accelerator.device.type)

    @contextmanager
    def splitting(self, accelerator: Any) -> Iterator[None]:
        """Within, Accelerate lets FSDP split each peer over the processes that hold it, and over no others."""
        state, known = accelerator.state, (accelerator.state.parallelism_config, accelerator.state.device_mesh)
        if self.is_split and accelerator.is_fsdp2:
            grid = _grid(accelerator.device.type, self.data_ranks, len(self.places), SHARDS)
            state.parallelism_config, state.device_mesh = ParallelismConfig(), grid
        try:
            yield
        finally:
            state.parallelism_config, state.device_mesh = known

    def compile(self, accelerator: Any, cohort: HeldPeers) -> None:
        """Let `torch_compile` see each peer alone: no graph holds what processes tell each other."""
        plugin = accelerator.state.dynamo_plugin
        if self.is_split and plugin.backend != DynamoBackend.NO:
            for model in cohort.peers.values():
                model.compile(**plugin.to_kwargs())
            accelerator.state.dynamo_plugin = TorchDynamoPlugin(backend=DynamoBackend.NO)

    def gathered(self, tensors: Any) -> Any:
        """As `Accelerator.gather`, of all data ranks."""
        return recursively_apply(self._gathered, tensors)

    def _gathered(self, tensor: Tensor) -> Tensor:
        mine = tensor.reshape(1) if tensor.ndim == 0 else tensor.contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.data_ranks)]
        distributed.all_gather(parts, mine, group=self._group(ROWS, tensor.device))
        return torch.cat(parts)

    def summed(self, tensor: Tensor, reduction: str = "sum") -> Tensor:
        """As `Accelerator.reduce`, over all data ranks."""
        total = tensor.clone()
        distributed.all_reduce(total, group=self._group(ROWS, tensor.device))
        return total / self.data_ranks if reduction == "mean" else total

    def gathered_objects(self, mine: list[Any]) -> list[Any]:
        """As `accelerate.utils.gather_object`, of all data ranks."""
        every = gather_object(mine)
        return every[:: len(self.places)] if self.is_split else every

    def joint_norm(self, norm: Tensor) -> Tensor:
        """The norm over all peers of a gradient, from that over the peers of each process."""
        if not self.is_split:
            return norm
        squared = norm.float() ** 2
        distributed.all_reduce(squared, group=self._group(PEERS, squared.device))
        return squared.sqrt()

    def holders(self, device: torch.device) -> Any:
        """The group of processes that hold the peers of this one; `None` for all."""
        return self._group(ROWS, device) if self.is_split else None

    def _group(self, dimension: str, device: torch.device) -> Any:
        return _grid(device.type, self.data_ranks, len(self.places)).get_group(dimension)


@cache
def _grid(device_type: str, data_ranks: int, places: int, rows: str = ROWS) -> DeviceMesh:
    """Made once: every group of processes keeps its connections."""
    return init_device_mesh(device_type, (data_ranks, places), mesh_dim_names=(rows, PEERS))


def _within(handler: Any, group: Any) -> Any:
    """The Trainer's settings of DDP, for one group of processes."""
    made, settings = copy.copy(handler), handler.to_kwargs
    made.to_kwargs = lambda: {**settings(), "process_group": group}
    return made


def _together(scaler: torch.amp.GradScaler, device_type: str) -> ShardedGradScaler:
    """A scaler that has not begun, for processes that skip steps, and so move its scale, together."""
    return ShardedGradScaler(
        device_type,
        init_scale=scaler.get_scale(),
        growth_factor=scaler.get_growth_factor(),
        backoff_factor=scaler.get_backoff_factor(),
        growth_interval=scaler.get_growth_interval(),
    )


def check_peer_parallel(args: MutualKDConfig, optimizers: Sequence[Any]) -> None:
    """
    Refuse what peers cannot do that live on several processes.

    Raises:
        [`ConfigError`]: named by the setting.
    """
    rows = args.accelerator_config
    problems = {
        DETACHED: args.detach == "none",
        "refresh_epochs scores whole cohorts, which peer_parallel spreads over processes; leave out one of them": (
            args.refresh_epochs is not None
        ),
        "deepspeed splits weights over all processes, peer_parallel peers; use fsdp or none": bool(args.deepspeed),
        "an optimizer of your own knows the weights of all peers, of which peer_parallel leaves each process some; "
        "give optimizer_cls_and_kwargs": any(one is not None for one in optimizers),
        "parallelism_config and peer_parallel both say what processes are for; leave out one of them": (
            args.parallelism_config is not None
        ),
        "split_batches and dispatch_batches share rows out between all processes, and with peer_parallel several work "
        "on the same rows; leave them out": bool(rows.split_batches or rows.dispatch_batches),
    }
    for message, applies in problems.items():
        if applies:
            raise ConfigError(message)
