"""Configuration of a video saliency model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from .losses import WEIGHTS

ENCODER_TYPES = ("transformers_video", "torchvision_video", "frame_backbone")
TARGETS = ("last", "center", "all")


class VideoSaliencyConfig(PreTrainedConfig):
    """What a [`VideoSaliencyModel`] is made of.

    > The encoder

    Args:
        encoder_type (`str`, *optional*, defaults to `"torchvision_video"`):
            `"transformers_video"`: VideoMAE, V-JEPA 2, TimeSformer or ViViT; `"torchvision_video"`: a network of
            `torchvision.models.video`; `"frame_backbone"`: any `AutoBackbone`, frame by frame.
        encoder_config (`PreTrainedConfig` or `dict`, *optional*):
            Of the transformers encoder; a dict names its `model_type`.
        encoder_name (`str`, *optional*, defaults to `"s3d"` for torchvision):
            Name of the torchvision network; for others a note of where the weights came from.
        encoder_kwargs (`dict`, *optional*):
            Arguments of the torchvision network.
        out_indices (`list[int]`, *optional*):
            Layers whose tokens are used, one for each of `decoder_channels`, from 0. Unset: evenly spaced, the last
            one included. Pyramids (torchvision, most backbones) have their own levels instead.

    > The clip

    Args:
        num_frames (`int`, *optional*, defaults to 16):
            T that streaming and processors use; the model itself takes any T >= 1.
        frame_stride (`int`, *optional*, defaults to 1):
            Distance of neighbouring frames of a clip, in frames of the video.
        target (`str`, *optional*, defaults to `"last"`):
            The frame that is predicted: the last, number `T // 2` (`"center"`), or every one (`"all"`).
        image_size (`tuple[int, int]`, *optional*, defaults to `(224, 384)`):
            H and W that the processor makes; the model takes any.

    > The decoder

    Args:
        decoder_channels (`list[int]`, *optional*, defaults to `[192, 96, 48, 24]`):
            Channels from the coarsest level to the finest, as many as the encoder has levels.
        decoder_groups (`int`, *optional*, defaults to 8):
            Groups of the 3D convolutions, reduced where the channels do not divide.
        temporal_attention_layers (`int`, *optional*, defaults to 1):
            Layers of space-time self-attention at the coarsest level.
        attention_heads (`int`, *optional*, defaults to 4):
            Of these layers; must divide the first of `decoder_channels`.
        output_stride (`int`, *optional*, defaults to 4):
            Pixels of the input per cell of the logits.
        center_prior (`bool`, *optional*, defaults to `True`):
            Add a learned log-density of `center_prior_size` that starts at 0.
        center_prior_size (`tuple[int, int]`, *optional*, defaults to `(9, 16)`):
            Its cells.
        loss_weights (`dict[str, float]`, *optional*):
            Weights of `kld`, `cc`, `sim`, `nss` and `temporal`; unset ones are those of KLD - CC.

    Raises:
        `ValueError`: a value breaks its rule.

    Example:

    ```python
    >>> VideoSaliencyConfig(image_size=(112, 192)).encoder_name
    's3d'
    ```
    """

    model_type = "video_saliency"
    sub_configs = {"encoder_config": AutoConfig}

    def __init__(
        self,
        encoder_type: str = "torchvision_video",
        encoder_config: PreTrainedConfig | dict[str, Any] | None = None,
        encoder_name: str | None = None,
        encoder_kwargs: dict[str, Any] | None = None,
        out_indices: Sequence[int] | None = None,
        num_frames: int = 16,
        frame_stride: int = 1,
        target: str = "last",
        image_size: Sequence[int] = (224, 384),
        decoder_channels: Sequence[int] = (192, 96, 48, 24),
        decoder_groups: int = 8,
        temporal_attention_layers: int = 1,
        attention_heads: int = 4,
        output_stride: int = 4,
        center_prior: bool = True,
        center_prior_size: Sequence[int] = (9, 16),
        loss_weights: dict[str, float] | None = None,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ):
        if isinstance(encoder_config, dict):
            encoder_config = AutoConfig.for_model(**encoder_config)
        if encoder_type == "torchvision_video" and encoder_name is None:
            encoder_name = "s3d"
        self.encoder_type = encoder_type
        self.encoder_config = encoder_config
        self.encoder_name = encoder_name
        self.encoder_kwargs = dict(encoder_kwargs or {})
        self.out_indices = None if out_indices is None else list(out_indices)
        self.num_frames = num_frames
        self.frame_stride = frame_stride
        self.target = target
        self.image_size = list(image_size)
        self.decoder_channels = list(decoder_channels)
        self.decoder_groups = decoder_groups
        self.temporal_attention_layers = temporal_attention_layers
        self.attention_heads = attention_heads
        self.output_stride = output_stride
        self.center_prior = center_prior
        self.center_prior_size = list(center_prior_size)
        self.loss_weights = WEIGHTS | (loss_weights or {})
        self.initializer_range = initializer_range
        self._check_choices()
        self._check_numbers()
        super().__init__(**kwargs)

    def _check_choices(self) -> None:
        if self.encoder_type not in ENCODER_TYPES:
            raise ValueError(f"encoder_type must be one of {', '.join(ENCODER_TYPES)}, got {self.encoder_type!r}")
        if self.encoder_type != "torchvision_video" and self.encoder_config is None:
            raise ValueError(
                f"encoder_type {self.encoder_type!r} needs an encoder_config; "
                "VideoSaliencyModel.from_encoder(ID) takes it from the Hub or a folder"
            )
        if self.target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {self.target!r}")
        unknown = sorted(set(self.loss_weights) - set(WEIGHTS))
        if unknown:
            raise ValueError(f"loss_weights: unknown {unknown[0]!r}; there are {', '.join(WEIGHTS)}")

    def _check_numbers(self) -> None:
        for name in ("num_frames", "frame_stride", "decoder_groups", "attention_heads", "output_stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("image_size", "center_prior_size"):
            if len(getattr(self, name)) != 2 or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be a height and a width of 1 or more, got {getattr(self, name)}")
        if not self.decoder_channels or min(self.decoder_channels) < 1:
            raise ValueError(f"decoder_channels must be one or more numbers above 0, got {self.decoder_channels}")
        if self.decoder_channels[0] % self.attention_heads:
            raise ValueError(
                f"attention_heads must divide the first of decoder_channels, {self.decoder_channels[0]}, "
                f"got {self.attention_heads}"
            )


VideoSaliencyConfig.register_for_auto_class()

__all__ = ["VideoSaliencyConfig"]
