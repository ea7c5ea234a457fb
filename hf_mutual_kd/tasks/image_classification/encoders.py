"""Vision encoders under a new classifier: transformers' own where it has one, else ours."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_BACKBONE_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoModel,
    ViTConfig,
    ViTForImageClassification,
)

from ..new_heads import drawn_weights, label_maps, put_under
from .model.configuration_encoder_classifier import EncoderClassifierConfig
from .model.modeling_encoder_classifier import EncoderForImageClassification

OF_THE_CHECKPOINT = ("architectures", "id2label", "label2id", "model_type")
"""What a configuration says of a checkpoint beside the shape of its encoder."""
TOWER = "_vision_model"
"""How the model type of one half of an image-text model ends; the whole's type is what stands before it."""


def takes_encoder(config: Any) -> bool:
    """Whether a configuration without a classifier of its own is of an encoder of single images."""
    if config.model_type == "vit_mae":
        return True
    if type(config) not in MODEL_FOR_BACKBONE_MAPPING and not config.model_type.endswith(TOWER):
        return False
    if type(config) not in MODEL_MAPPING:
        return False
    parameters = inspect.signature(MODEL_MAPPING[type(config)].forward).parameters.values()
    asked = [one.name for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    return asked in (["self"], ["self", "pixel_values"]) and "pixel_values" in {one.name for one in parameters}


def classifier_on(source: str, config: Any, label_names: Sequence[str], **load: Any) -> tuple[nn.Module, list[str]]:
    """A pretrained encoder under a new classifier, and the names of the weights that were drawn.

    MAE's encoder is a ViT, the towers of CLIP, SigLIP and others are parts of transformers' own classifiers; of
    all other encoders the pooled output goes through a linear layer ([`EncoderForImageClassification`]).
    """
    id2label, label2id = label_maps(label_names)
    labels: dict[str, Any] = {"id2label": id2label, "label2id": label2id}
    if config.model_type == "vit_mae":
        shared = {key: value for key, value in config.to_dict().items() if key in ViTConfig().to_dict()}
        sized = ViTConfig(**{key: value for key, value in shared.items() if key not in OF_THE_CHECKPOINT} | labels)
        model, report = ViTForImageClassification.from_pretrained(
            source, config=sized, output_loading_info=True, **load
        )
        return model, drawn_weights(report)
    encoder, report = AutoModel.from_pretrained(source, config=config, output_loading_info=True, **load)
    whole = whole_config(config)
    if whole is not None:
        classifier: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[whole]
        model = classifier(whole(vision_config=encoder.config.to_dict(), **labels))
        return put_under(model.to(encoder.dtype), "vision_model", encoder, drawn_weights(report))
    model = EncoderForImageClassification(EncoderClassifierConfig(encoder_config=encoder.config, **labels))
    return put_under(model.to(encoder.dtype), "encoder", encoder, drawn_weights(report))


def whole_config(config: Any) -> Any:
    """The configuration class of the image-text model that a tower is of, where transformers can classify with it."""
    kind = config.model_type.removesuffix(TOWER)
    if kind == config.model_type or kind not in CONFIG_MAPPING:
        return None
    found = CONFIG_MAPPING[kind]
    return found if found in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING and "vision_config" in found.sub_configs else None
