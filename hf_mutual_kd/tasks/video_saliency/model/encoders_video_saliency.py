"""Encoders of video saliency models: clips to feature maps from fine to coarse, alike for every kind."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoBackbone, PreTrainedModel

from .configuration_video_saliency import VideoSaliencyConfig
from .token_encoders_video_saliency import build_token_encoder, height_and_width
from .torchvision_encoders_video_saliency import COARSEST_STRIDE, build_torchvision_encoder

SMALLEST_PATCH = 8
"""Patches from this size on are the only ones of a backbone; smaller ones are merged to strides of 32."""


def build_encoder(config: VideoSaliencyConfig, levels: int) -> Any:
    """The encoder that a configuration names, with random weights.

    Every encoder is an `nn.Module` from frames `[B, T, 3, H, W]` to a list of `[B, C, T', h, w]`, and has

    - `channels` (`list[int]`): of these feature maps;
    - `stride` (`tuple[int, int]`): H and W are resized to its next multiples first;
    - `time_multiple` (`int`): clips are led by copies of their first frame up to its next multiple;
    - `framewise` (`bool`): features of a frame depend on no other frame, so that they may be cached;
    - `load_encoder`, which takes pretrained weights.

    Raises:
        `ValueError`: there is no such encoder.
    """
    if config.encoder_type == "frame_backbone":
        return FrameEncoder(config)
    if config.encoder_type == "transformers_video":
        return build_token_encoder(config.encoder_config, config.out_indices, levels)
    return build_torchvision_encoder(str(config.encoder_name), config.encoder_kwargs)


class FrameEncoder(nn.Module):
    """An image backbone on every frame."""

    framewise = True
    time_multiple = 1
    model: Any

    def __init__(self, config: VideoSaliencyConfig):
        super().__init__()
        self.model = AutoBackbone.from_config(config.encoder_config)
        self.channels = list(self.model.channels)
        patch = height_and_width(getattr(config.encoder_config, "patch_size", None) or 1)
        self.stride = patch if min(patch) >= SMALLEST_PATCH else (COARSEST_STRIDE, COARSEST_STRIDE)

    def load_encoder(self, loaded: PreTrainedModel) -> None:
        """Take the weights of a backbone of the same configuration."""
        self.model.load_state_dict(loaded.state_dict())

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """`[B, T, 3, H, W]` to feature maps `[B, C, T, h, w]`."""
        maps = self.model(pixel_values.flatten(0, 1)).feature_maps
        return [one.unflatten(0, pixel_values.shape[:2]).transpose(1, 2) for one in maps]


__all__ = ["build_encoder"]
