"""New heads on pretrained models: which checkpoints are encoders alone, and how one is loaded under a fresh head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

HEADLESS = (
    "Model",
    "Backbone",
    "ForPreTraining",
    "ForMaskedImageModeling",
    "ForMaskedLM",
    "ForCausalLM",
    "LMHeadModel",
    "WithProjection",
)
"""How the names of classes end whose checkpoints are encoders, with at most a head that was for pretraining alone."""


def is_headless(config: Any) -> bool:
    """Whether a configuration is of an encoder without a head for any task."""
    if config.model_type == "timm_wrapper":
        return config.num_labels == 0
    architectures = getattr(config, "architectures", None) or []
    return bool(architectures) and all(name.endswith(HEADLESS) for name in architectures)


def label_maps(label_names: Sequence[str]) -> tuple[dict[int, str], dict[str, int]]:
    """A configuration's `id2label` and `label2id`."""
    return dict(enumerate(label_names)), {name: index for index, name in enumerate(label_names)}


def drawn_weights(report: Mapping[str, Any]) -> list[str]:
    """Names of the weights that `from_pretrained` did not find in a checkpoint, or found in another shape."""
    changed = (key if isinstance(key, str) else key[0] for key in report.get("mismatched_keys", ()))
    return sorted({*report["missing_keys"], *changed})


def put_under(model: nn.Module, place: str, encoder: nn.Module, drawn: Sequence[str]) -> tuple[nn.Module, list[str]]:
    """Give a random model a pretrained encoder.

    Args:
        model (`nn.Module`): with random weights; changed.
        place (`str`): its attribute that is the encoder.
        encoder (`nn.Module`): of the same architecture, with pretrained weights.
        drawn (`list[str]`): the encoder's weights that are random nevertheless.

    Returns:
        `tuple` of the model and the names of all its weights that are random.
    """
    setattr(model, place, encoder)
    heads = [key for key, _ in model.named_parameters() if not key.startswith(f"{place}.")]
    return model, heads + [f"{place}.{key}" for key in drawn]
