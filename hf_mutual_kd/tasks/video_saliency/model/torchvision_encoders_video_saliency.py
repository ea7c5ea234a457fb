"""Networks of `torchvision.models.video` as encoders: four levels, at strides of 4 to 32."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

COARSEST_STRIDE = 32


class TorchvisionEncoder(nn.Module):
    """A network without its classifier.

    Args:
        model (`nn.Module`): the whole network.
    """

    framewise = False
    stride = (COARSEST_STRIDE, COARSEST_STRIDE)
    time_multiple = 8
    gradient_checkpointing = False
    heads: tuple[str, ...] = ()
    channels: list[int]
    model: Any

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        for head in self.heads:
            setattr(model, head, nn.Identity())

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of the whole network.

        Raises:
            `ValueError`: they belong to another one.
        """
        kept = {key: value for key, value in weights.items() if key.split(".")[0] not in self.heads}
        own = self.model.state_dict()
        wrong = sorted(set(own) ^ set(kept)) or [key for key in own if own[key].shape != kept[key].shape]
        if wrong:
            name = type(self.model).__name__
            raise ValueError(f"the weights do not fit this {name}: {wrong[0]!r} is missing, unknown or resized")
        self.model.load_state_dict(kept)

    def run_stage(self, stage: nn.Module, *inputs: Any) -> Any:
        """A stage, recomputed in backward where it is set to.

        Batch norm that is training is not: it would count its statistics twice.
        """
        counts = any(isinstance(part, nn.BatchNorm3d) and part.training for part in stage.modules())
        if self.gradient_checkpointing and self.training and not counts:
            return self._gradient_checkpointing_func(stage.__call__, *inputs)  # type: ignore[operator]
        return stage(*inputs)


class S3DEncoder(TorchvisionEncoder):
    """Separable 3D Inception; time shrinks to a half, then a quarter, then an eighth."""

    heads = ("avgpool", "classifier")
    levels = ((0, 4), (4, 7), (7, 13), (13, 16))

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.channels = [192, 480, 832, 1024]

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """`[B, T, 3, H, W]` to feature maps `[B, C, T', h, w]`."""
        hidden, maps = pixel_values.transpose(1, 2), []
        for first, end in self.levels:
            hidden = self.run_stage(self.model.features[first:end], hidden)
            maps.append(hidden)
        return maps


class VideoResNetEncoder(TorchvisionEncoder):
    """R3D, MC3 and R(2+1)D; strides are 2, 4, 8 and 16, the first is averaged to 4."""

    heads = ("avgpool", "fc")

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.channels = [64, 128, 256, 512]

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """`[B, T, 3, H, W]` to feature maps `[B, C, T', h, w]`."""
        hidden, maps = self.model.stem(pixel_values.transpose(1, 2)), []
        for stage in (self.model.layer1, self.model.layer2, self.model.layer3, self.model.layer4):
            hidden = self.run_stage(stage, hidden)
            maps.append(hidden)
        return [F.avg_pool3d(maps[0], (1, 2, 2)), *maps[1:]]


class MViTEncoder(TorchvisionEncoder):
    """MViT v2, whose relative positions torchvision interpolates."""

    heads = ("head",)
    time_multiple = 2

    def __init__(self, model: Any):
        super().__init__(model)
        pools = [number for number, block in enumerate(model.blocks) if number and block.pool_skip is not None]
        self.last_blocks = [number - 1 for number in pools] + [len(model.blocks) - 1]
        self.channels = [model.blocks[number].norm2.normalized_shape[0] for number in self.last_blocks]

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """`[B, T, 3, H, W]` to feature maps `[B, C, T', h, w]`, before queries are pooled and at the end."""
        patches = self.model.conv_proj(pixel_values.transpose(1, 2))
        grid = tuple(patches.shape[2:])
        hidden, maps = self.model.pos_encoding(patches.flatten(2).transpose(1, 2)), []
        for number, block in enumerate(self.model.blocks):
            hidden, grid = self.run_stage(block, hidden, grid)
            if number in self.last_blocks:
                tokens = self.model.norm(hidden) if number == self.last_blocks[-1] else hidden
                maps.append(tokens[:, 1:].transpose(1, 2).unflatten(2, grid))
        return maps


class Swin3DEncoder(TorchvisionEncoder):
    """Video Swin."""

    heads = ("avgpool", "head")
    time_multiple = 2

    def __init__(self, model: Any):
        super().__init__(model)
        self.time_multiple = model.patch_embed.tuple_patch_size[0]
        stages = len(model.features) // 2 + 1
        self.channels = [model.num_features // 2 ** (stages - 1 - stage) for stage in range(stages)]

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """`[B, T, 3, H, W]` to feature maps `[B, C, T', h, w]`, before patches are merged and at the end."""
        hidden, maps = self.model.pos_drop(self.model.patch_embed(pixel_values.transpose(1, 2))), []
        for number, stage in enumerate(self.model.features):
            hidden = self.run_stage(stage, hidden)
            if number % 2 == 0:
                maps.append(hidden)
        maps[-1] = self.model.norm(maps[-1])
        return [one.permute(0, 4, 1, 2, 3) for one in maps]


TORCHVISION_ENCODERS = {
    "s3d": S3DEncoder,
    "r3d_18": VideoResNetEncoder,
    "mc3_18": VideoResNetEncoder,
    "r2plus1d_18": VideoResNetEncoder,
    "mvit_v2_s": MViTEncoder,
    "swin3d_t": Swin3DEncoder,
    "swin3d_s": Swin3DEncoder,
    "swin3d_b": Swin3DEncoder,
    "SwinTransformer3d": Swin3DEncoder,
}
"""By name in torchvision; the last one is of any size, given by `encoder_kwargs`."""


def build_torchvision_encoder(name: str, kwargs: Mapping[str, Any]) -> TorchvisionEncoder:
    """A network of `torchvision.models.video` with random weights.

    Raises:
        `ValueError`: an unknown name, or arguments that would fetch weights.
        `ImportError`: torchvision is not installed.
    """
    if name not in TORCHVISION_ENCODERS:
        raise ValueError(f"encoder_name must be one of {', '.join(TORCHVISION_ENCODERS)}, got {name!r}")
    if {"weights", "progress"} & set(kwargs):
        raise ValueError("encoder_kwargs cannot fetch weights; give VideoSaliencyModel.from_encoder the weights")
    video = importlib.import_module("torchvision.models.video")
    return TORCHVISION_ENCODERS[name](getattr(video, name)(**kwargs))


__all__ = ["COARSEST_STRIDE", "TORCHVISION_ENCODERS", "build_torchvision_encoder"]
