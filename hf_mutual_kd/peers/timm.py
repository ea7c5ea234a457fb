"""Saves a timm-wrapped peer so that timm itself loads it, too: `timm.create_model("hf-hub:…")`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ..files import write_json

MODEL_TYPE = "timm_wrapper"
PREFIX = "timm_model."


def is_timm_wrapper(model: object) -> bool:
    """Whether a model is transformers' wrapper around a timm model."""
    return getattr(getattr(model, "config", None), "model_type", None) == MODEL_TYPE


def plain_config(config: Any) -> Any:
    """A configuration whose classes are named once: those in `model_args`, which the wrapper cannot build with.

    They are what the weights were saved with, so they win over a default that the configuration made up.
    """
    arguments = getattr(config, "model_args", None)
    if config.model_type == MODEL_TYPE and arguments and "num_classes" in arguments:
        config = copy.deepcopy(config)
        classes = config.model_args.pop("num_classes")
        if config.num_labels != classes:
            config.num_labels = classes
    return config


def save_timm_wrapper(model: PreTrainedModel, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
    """As `save_pretrained`, with timm's own weight names and a configuration that timm reads.

    Transformers saves `timm_model.head.weight` and `"model_args": null`; timm expects `head.weight` and fails on null.
    The Auto classes load both forms.

    Args:
        model (`TimmWrapperForImageClassification`): the peer.
        folder (`Path`): where to.
        state_dict (`dict[str, Tensor]`, *optional*): its weights, where they are sharded.
    """
    weights = state_dict if state_dict is not None else model.state_dict()
    model.save_pretrained(folder, state_dict={name.removeprefix(PREFIX): value for name, value in weights.items()})
    place = folder / "config.json"
    config = json.loads(place.read_text(encoding="utf-8"))
    if config.get("model_args", "") is None:
        del config["model_args"]
        write_json(place, config)
