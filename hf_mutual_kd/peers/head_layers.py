"""Which layers of a model depend on the number of classes, asked of its configuration alone."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import PeerError
from ..tasks.base import Task

ENCODERS = ("vision_model", "backbone", "encoder", "timm_model")
"""What classifiers call their encoder where they do not name it after the model."""
DRAWN_WITH_A_HEAD = re.compile(r"(^|\.)(pooler|hidden_states_norms|mask_token)(\.|$)|^\w*norm\w*\.(weight|bias)$")
"""Weights of an encoder that a head brings: what pools, and norms of its outputs."""


def check_drawn(name: str, source: str, model: nn.Module, drawn: Sequence[str], head: Collection[str]) -> None:
    """Refuse a checkpoint under a new head that lacks weights of the encoder itself.

    Args:
        name (`str`): the peer's.
        source (`str`): its checkpoint.
        model (`nn.Module`): as loaded.
        drawn (`list[str]`): names of its weights that were not in the checkpoint, or had another shape there.
        head (`Collection[str]`): names of the weights whose shape depends on the number of classes.
    """
    prefix = getattr(model, "base_model_prefix", "")
    places = [prefix] if prefix and hasattr(model, prefix) else [place for place in ENCODERS if hasattr(model, place)]
    for key in drawn:
        place = next((place for place in places if key.startswith(f"{place}.")), None)
        if key in head or place is None or DRAWN_WITH_A_HEAD.search(key.removeprefix(f"{place}.")):
            continue
        raise PeerError(
            f"peer {name!r}: {source} lacks weights of its encoder ({key}, …), or has them in another shape; a new "
            f"head on a random encoder is no pretrained {type(model).__name__}"
        )


def renew_head(model: nn.Module, task: Task, config: Any, code: dict) -> None:
    """Draw the classifier anew where it has the right size already, which loading leaves as it was."""
    for key in head_weights(task, config, code):
        if key.endswith(".weight"):
            head: Any = model.get_submodule(key.removesuffix(".weight"))
            head.reset_parameters()


def head_weights(task: Task, config: Any, code: dict) -> list[str]:
    """Names of the weights whose shape depends on the number of classes."""
    shapes = []
    for classes in (config.num_labels, config.num_labels + 1):
        sized = copy.deepcopy(config)
        sized.num_labels = classes
        with torch.device("meta"):
            probe = task.auto_model(sized).from_config(sized, **code)
        shapes.append({key: parameter.shape for key, parameter in probe.named_parameters()})
    return [key for key in shapes[0] if shapes[0][key] != shapes[1][key]]


def head_layers(task: Task, config: Any, code: dict) -> list[str]:
    """Names of the layers that hold the weights of [`head_weights`]."""
    return sorted({weight.rpartition(".")[0] for weight in head_weights(task, config, code)})


def drawn_layers(model: nn.Module, drawn: Sequence[str]) -> list[str]:
    """Names of the layers whose weights were drawn: an adapter trains and keeps them, as no checkpoint has them."""
    layers = {weight.rpartition(".")[0] for weight in drawn}
    return sorted(layer for layer in layers if layer and not any(model.get_submodule(layer).children()))
