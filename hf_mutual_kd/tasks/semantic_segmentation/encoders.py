"""Pretrained encoders under a new segmentation head: the model's own, or UperNet on a backbone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import MODEL_FOR_BACKBONE_MAPPING, UperNetConfig, UperNetForSemanticSegmentation

from ..new_heads import drawn_weights, label_maps, put_under

LEVELS = 4
"""Feature maps that a head looks at."""


def is_backbone(config: Any) -> bool:
    """Whether a configuration is of an encoder that gives feature maps."""
    return type(config) in MODEL_FOR_BACKBONE_MAPPING and config.model_type != "timm_backbone"


def with_levels(config: Any) -> Any:
    """A copy of an encoder's configuration in which a head that asks for four levels finds four, evenly spaced."""
    config = copy.deepcopy(config)
    names = getattr(config, "stage_names", None)
    if names and len(config.out_indices or ()) != LEVELS:
        stages = len(names) - 1
        config.out_indices = sorted({-(-stages * (level + 1) // LEVELS) for level in range(LEVELS)})
    return config


def segmenter_on(source: str, config: Any, label_names: Sequence[str], **load: Any) -> tuple[nn.Module, list[str]]:
    """A pretrained backbone under UperNet, and the names of the weights that were drawn."""
    config = with_levels(config)
    backbone, report = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(
        source, config=config, output_loading_info=True, **load
    )
    id2label, label2id = label_maps(label_names)
    # The auxiliary head would need the width of one level; without it the loss is that of the map that counts.
    sized = UperNetConfig(backbone_config=config, id2label=id2label, label2id=label2id, use_auxiliary_head=False)
    model = UperNetForSemanticSegmentation(sized).to(backbone.dtype)
    return put_under(model, "backbone", backbone, drawn_weights(report))
