"""A vision encoder with a linear classifier on what it pools."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput

from .configuration_encoder_classifier import EncoderClassifierConfig


class EncoderForImageClassification(PreTrainedModel):
    """A linear layer on an encoder's own pooled output, or on the mean of its tokens or map where it pools nothing.

    Args:
        config ([`EncoderClassifierConfig`]): weights are random.

    Raises:
        `ValueError`: the configuration names no encoder, or one that does not say its width.
    """

    config_class = EncoderClassifierConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: EncoderClassifierConfig):
        super().__init__(config)
        encoder_config: Any = config.encoder_config
        if encoder_config is None:
            raise ValueError("encoder_config is missing; give the configuration of a vision encoder")
        widths = getattr(encoder_config, "hidden_sizes", None) or [getattr(encoder_config, "hidden_size", None)]
        if not isinstance(widths[-1], int):
            raise ValueError(f"{encoder_config.model_type} does not say how wide its output is (hidden_size)")
        self.width = widths[-1]
        self.encoder = AutoModel.from_config(encoder_config)
        self.classifier = nn.Linear(self.width, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self.classifier:
            init.normal_(module.weight, std=0.02)
            init.zeros_(module.bias)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None
    ) -> ImageClassifierOutput | tuple:
        """Args:
            pixel_values (`Tensor` of shape `[B, 3, H, W]`): normalised images.
            labels (`Tensor` of shape `[B]`, *optional*): classes, for the loss.
            return_dict (`bool`, *optional*): `False` for a tuple.

        Returns:
            `ImageClassifierOutput` with `logits` of shape `[B, num_labels]`.
        """
        logits = self.classifier(self.pooled(self.encoder(pixel_values, return_dict=True)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        output = ImageClassifierOutput(loss=loss, logits=logits)
        return output if return_dict is not False else output.to_tuple()

    def pooled(self, outputs: Any) -> Tensor:
        """One vector per image, `[B, D]`, of what the encoder returned."""
        vectors = getattr(outputs, "pooler_output", None)
        if vectors is None:
            features = outputs.last_hidden_state
            vectors = features.mean(1) if features.ndim == 3 else features.mean((-2, -1))
        vectors = vectors.flatten(1)
        if vectors.shape[1] != self.width:
            kind = type(self.encoder).__name__
            raise ValueError(f"{kind} gives {vectors.shape[1]} numbers per image, not the {self.width} that it says")
        return vectors


EncoderForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["EncoderForImageClassification"]
