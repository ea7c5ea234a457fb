"""Bases in 4 or 8 bits under adapters, by bitsandbytes: how they are asked for, recognised, and kept as they are."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from ..errors import PeerError

if TYPE_CHECKING:
    from .spec import PeerSpec


def quantization_of(name: str, spec: PeerSpec, config: Any, head: Collection[str]) -> dict[str, Any]:
    """What `from_pretrained` is told, empty for a base that is loaded as it is stored.

    Args:
        name (`str`): the peer's, for messages.
        spec ([`~peers.PeerSpec`]): with `load_in_4bit` (nf4) or `load_in_8bit`.
        config: the base's own, which says whether it is stored quantized.
        head (`Collection[str]`): layers that are trained and stay in the peer's dtype.

    Raises:
        [`PeerError`]: it is stored quantized already.
    """
    if not (spec.load_in_4bit or spec.load_in_8bit):
        return {}
    if getattr(config, "quantization_config", None):
        raise PeerError(f"peer {name!r}: {spec.source} is stored quantized; leave load_in_4bit and load_in_8bit out")
    kind: dict[str, Any] = {"load_in_8bit": True}
    if spec.load_in_4bit:
        dtype = getattr(torch, spec.dtype)
        kind = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return {"quantization_config": BitsAndBytesConfig(llm_int8_skip_modules=sorted(head), **kind)}


def is_quantized(model: nn.Module) -> bool:
    """Whether a model holds weights in fewer bits than it computes with."""
    return bool(getattr(model, "is_quantized", False))


def check_trainable(name: str, spec: PeerSpec, model: nn.Module) -> None:
    """Refuse a quantized peer that is to be trained without an adapter: only its biases and norms would learn."""
    if is_quantized(model) and not spec.frozen:
        raise PeerError(
            f"peer {name!r}: {spec.source} is quantized and takes no training of its own; train an adapter on it "
            "with --peft lora, or let it only teach: --peers.{name}.frozen true"
        )


def check_head(name: str, model: nn.Module, head: Collection[str]) -> None:
    """Refuse a base whose classifier, which an adapter trains a copy of, is stored in whole numbers."""
    for key in sorted(head):
        for weight in model.get_submodule(key).parameters():
            if not weight.is_floating_point():
                raise PeerError(
                    f"peer {name!r}: its {key} is quantized and cannot be trained; store the base with "
                    f"llm_int8_skip_modules={sorted(head)}"
                )


def keep_layout(model: nn.Module) -> None:
    """Keep 4-bit weights in one layout: on some CPUs evaluation rewrites them, also under peers that train on them."""
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def count_parameters(model: nn.Module) -> int:
    """Numbers that a model's parameters stand for; 4-bit ones lie two to a byte."""
    states = ((weight, getattr(weight, "quant_state", None)) for weight in model.parameters())
    return sum(weight.numel() if state is None else math.prod(state.shape) for weight, state in states)
