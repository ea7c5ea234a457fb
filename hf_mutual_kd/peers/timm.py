"""Saves a timm-wrapped peer so that timm itself loads it, too: `timm.create_model("hf-hub:…")`."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from ..files import write_json

MODEL_TYPE = "timm_wrapper"
PREFIX = "timm_model."


def is_timm_wrapper(model: object) -> bool:
    """Whether a model is transformers' wrapper around a timm model."""
    return getattr(getattr(model, "config", None), "model_type", None) == MODEL_TYPE


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
