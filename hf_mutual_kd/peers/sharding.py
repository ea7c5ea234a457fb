"""Cohorts of which every process holds only a part: FSDP 2 and DeepSpeed's ZeRO."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.integrations import deepspeed as zero

from ..config.training_config import MutualKDConfig
from ..distillation.objective import Objective
from ..errors import ConfigError
from .adapters import base_of


@contextlib.contextmanager
def without_zero3_init() -> Iterator[None]:
    """`from_pretrained` gives whole models in here, also where ZeRO 3 is going to split them later."""
    kept = zero._hf_deepspeed_config_weak_ref
    zero.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        zero._hf_deepspeed_config_weak_ref = kept


def load_full_state(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """`load_state_dict` from whole weights into a module that may be split; all processes call it together."""
    if not is_split(module):
        module.load_state_dict(weights)
    elif not is_partitioned(module):
        set_model_state_dict(module, dict(weights), options=StateDictOptions(full_state_dict=True))
    else:
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(module.parameters()), modifier_rank=0):
            module.load_state_dict(weights)


def whole(value: Tensor, kept: bool) -> Tensor | None:
    """A tensor of which processes may hold parts each, as one on the CPU where it is `kept`; they call it together."""
    full = value.full_tensor() if isinstance(value, DTensor) else value
    return full.cpu() if kept else None


def split_like(weight: Tensor, value: Any) -> Any:
    """A whole tensor of a weight's shape, split as that is; everything else as it is."""
    if not (isinstance(weight, DTensor) and isinstance(value, Tensor) and value.shape == weight.shape):
        return value
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)


def is_split(module: nn.Module) -> bool:
    """Whether this process holds only a part of the weights."""
    return is_partitioned(module) or any(isinstance(weight, DTensor) for weight in module.parameters())


def is_partitioned(module: nn.Module) -> bool:
    """Whether ZeRO 3 has split the weights."""
    return any(hasattr(weight, "ds_id") for weight in module.parameters())


def share_buffers(module: nn.Module, group: Any = None) -> None:
    """Give every process of a group the buffers of its first, as DDP does: batch norms count each process' rows."""
    for buffer in module.buffers():
        distributed.broadcast(buffer, group=group, group_src=0)


def zero_with_graph(logits: list[Tensor]) -> Tensor:
    """0, with all graphs behind it: processes whose backward leaves a peer out would wait for each other."""
    nothing = [torch.where(torch.zeros_like(one, dtype=torch.bool), one, 0).sum() for one in logits]
    return torch.stack(nothing).sum()


def layers_to_split(cohort: nn.ModuleDict) -> list[str]:
    """Names of the layers' classes by which FSDP splits the peers, as `_no_split_modules` of transformers has them."""
    named = {name for peer in cohort.values() for name in getattr(base_of(peer), "_no_split_modules", None) or ()}
    return sorted(named & {type(module).__name__ for module in cohort.modules()})


def check_sharded(accelerator: Any, cohort: nn.Module, args: MutualKDConfig, objective: Objective) -> None:
    """
    Refuse what cannot be right where weights are split.

    Raises:
        [`ConfigError`]: with the setting that has to change.
    """
    state = accelerator.state
    fsdp, plugin = getattr(state, "fsdp_plugin", None), getattr(state, "deepspeed_plugin", None)
    if objective.source.decay is not None:
        raise ConfigError("teacher_source 'ema' averages whole weights, and here they are sharded; use 'frozen'")
    if objective.weight > 0 and objective.rule.learns:
        raise ConfigError(f"teacher_rule {objective.rule.name!r} learns weights of its own, and here they are sharded")
    if args.refresh_epochs is not None:
        raise ConfigError("refresh_epochs scores whole peers on every process, and here they are sharded")
    if fsdp is not None and fsdp.fsdp_version != 2:
        raise ConfigError("FSDP 1 hides the weights' names from per-peer settings; set fsdp_version: 2")
    if (fsdp is not None and fsdp.cpu_ram_efficient_loading) or is_partitioned(cohort):
        raise ConfigError(
            "peers are measured and copied before they are split: set fsdp_cpu_ram_efficient_loading to false, and "
            "build modules of your own outside `deepspeed.zero.Init`"
        )
    if len({id(weight) for weight in cohort.parameters()}) < registered(cohort):
        raise ConfigError(
            "some peers share weights (adapters over one base, or retention of a peer that trains only in part), "
            "which FSDP and ZeRO cannot split; use DDP"
        )
    if plugin is not None:
        check_zero(plugin.deepspeed_config, args)


def registered(cohort: nn.Module) -> int:
    """How many places of the cohort's modules hold a weight."""
    return sum(len(module._parameters) - list(module._parameters.values()).count(None) for module in cohort.modules())


def check_zero(settings: Mapping[str, Any], args: MutualKDConfig) -> None:
    """
    Refuse what DeepSpeed, which updates within its backward, would do to all peers at once.

    Raises:
        [`ConfigError`]: with the setting that has to change.
    """
    if "optimizer" in settings:
        raise ConfigError("an optimizer in DeepSpeed's file has one learning rate for all peers; leave it out")
    if args.early_stopping_patience is not None:
        raise ConfigError("early_stopping_patience rests single peers, which DeepSpeed cannot; use FSDP or DDP")
    stage3 = settings["zero_optimization"]["stage"] == 3
    if stage3 and not settings["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save"):
        raise ConfigError("peers are saved whole: set zero3_save_16bit_model to true")
