"""Configuration of a vision encoder with a linear classifier."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig


class EncoderClassifierConfig(PreTrainedConfig):
    """What an [`EncoderForImageClassification`] is made of.

    Args:
        encoder_config (`PreTrainedConfig` or `dict`, *optional*):
            Of the encoder; a dict names its `model_type`. Only a configuration without one can have no weights.

    Example:

    ```python
    >>> EncoderClassifierConfig(encoder_config=DINOv3ViTConfig(), num_labels=10).encoder_config.model_type
    'dinov3_vit'
    ```
    """

    model_type = "encoder_classifier"
    sub_configs = {"encoder_config": AutoConfig}

    def __init__(self, encoder_config: PreTrainedConfig | dict[str, Any] | None = None, **kwargs: Any):
        if isinstance(encoder_config, dict):
            encoder_config = AutoConfig.for_model(**encoder_config)
        self.encoder_config = encoder_config
        super().__init__(**kwargs)


EncoderClassifierConfig.register_for_auto_class()

__all__ = ["EncoderClassifierConfig"]
