"""Decoder of video saliency models: feature maps to the log-density of gaze at any frames of the clip."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

FINEST_STRIDE = 4
"""Pixels per cell of the finest level that tokens of one grid are reassembled to; each further level has twice it."""
LONGEST_WAVE = 100.0
DELAY_SCALE = 8.0
"""Frames; brings the delays that the temporal attention sees to about 1."""


class Lateral(GradientCheckpointingLayer):
    """The feature map of one level in the decoder's channels, computed frame by frame."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.project = nn.Conv2d(channels, out_channels, 1)
        self.norm = group_norm(out_channels)

    def forward(self, features: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """`[B, C, T, h, w]` to `[B, D, T, h', w']`, with `size` for h' and w' where it is given."""
        frames = self.project(features.transpose(1, 2).flatten(0, 1))
        if size is not None and size != tuple(frames.shape[-2:]):
            frames = resize_maps(frames, size)
        return self.norm(frames).unflatten(0, (features.shape[0], features.shape[2])).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention over the last axis but one."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[N, L, C]` to `[N, L, C]`, without the residual."""
        split = self.query_key_value(self.norm(tokens)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).flatten(2))


class SpaceTimeLayer(GradientCheckpointingLayer):
    """Self-attention over the frames of every place, then over the places of every frame, then an MLP."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.time = SelfAttention(channels, heads)
        self.space = SelfAttention(channels, heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """`[B, T, N, C]` to the same shape."""
        by_place = tokens.transpose(1, 2).flatten(0, 1)
        tokens = tokens + self.time(by_place).unflatten(0, (tokens.shape[0], -1)).transpose(1, 2)
        tokens = tokens + self.space(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return tokens + self.mlp(tokens)


class GroupedConv(nn.Module):
    """A grouped 3D convolution, a shuffle that mixes the groups, a norm and GELU."""

    def __init__(self, channels: int, out_channels: int, kernel: int, groups: int):
        super().__init__()
        self.groups = math.gcd(channels, out_channels, groups)
        self.conv = nn.Conv3d(channels, out_channels, kernel, padding=kernel // 2, groups=self.groups, bias=False)
        self.norm = group_norm(out_channels)

    def forward(self, volume: Tensor) -> Tensor:
        """`[B, C, T, h, w]` to `[B, D, T, h, w]`."""
        volume = self.conv(volume)
        shuffled = volume.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        return F.gelu(self.norm(shuffled))


class DecoderStage(GradientCheckpointingLayer):
    """One step of the U-Net: to the next finer level's channels and size, then joined with that level."""

    def __init__(self, channels: int, out_channels: int, groups: int):
        super().__init__()
        self.reduce = GroupedConv(channels, out_channels, 1, groups)
        self.fuse = GroupedConv(2 * out_channels, out_channels, 3, groups)

    def forward(self, volume: Tensor, skip: Tensor) -> Tensor:
        """`[B, C, T, h, w]` and the finer level `[B, D, T', h', w']` to `[B, D, T', h', w']`."""
        volume = self.reduce(volume)
        if volume.shape[2:] != skip.shape[2:]:
            volume = F.interpolate(volume, size=skip.shape[2:], mode="trilinear", align_corners=False)
        return self.fuse(torch.cat([volume, skip], 1))


class TemporalCollapse(nn.Module):
    """Attention over the time steps of every place, one answer for each target frame.

    The weight of a time step follows from what is there and from its delay against the target, so that any number of
    steps and any target works, and the order of frames counts.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.score = nn.Conv3d(channels, 1, 1)
        self.delay = nn.Sequential(nn.Linear(2, 16), nn.GELU(), nn.Linear(16, 1))
        self.decay = nn.Parameter(torch.ones(1))

    def forward(self, volume: Tensor, times: Tensor, targets: Tensor) -> Tensor:
        """Args:
            volume (`Tensor` of shape `[B, C, T, h, w]`): features.
            times (`Tensor` of shape `[T]`): the frame of each time step.
            targets (`Tensor` of shape `[O]`): frames that are asked for.

        Returns:
            `Tensor` of shape `[B, C, O, h, w]`.
        """
        delays = ((targets[:, None] - times) / DELAY_SCALE).to(volume.dtype)
        learned = self.delay(torch.stack([delays, delays.abs()], -1)).squeeze(-1)
        bias = (learned - self.decay * delays.abs())[None, :, :, None, None]
        weights = (self.score(volume) + bias).softmax(2)
        return torch.einsum("bothw,bcthw->bcohw", weights, volume)


class SaliencyDecoder(nn.Module):
    """Levels to logits: attention at the coarsest, a 3D U-Net, a collapse over time, a head."""

    def __init__(self, channels: Sequence[int], groups: int, layers: int, heads: int):
        super().__init__()
        self.attention = nn.ModuleList(SpaceTimeLayer(channels[0], heads) for _ in range(layers))
        self.stages = nn.ModuleList(
            DecoderStage(coarse, fine, groups) for coarse, fine in zip(channels, channels[1:], strict=False)
        )
        self.collapse = TemporalCollapse(channels[-1])
        self.head = nn.Sequential(
            nn.Conv2d(channels[-1], channels[-1], 3, padding=1), nn.GELU(), nn.Conv2d(channels[-1], 1, 1)
        )

    def forward(
        self, levels: Sequence[Tensor], size: tuple[int, int], clock: Clock, targets: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Args:
            levels (`list` of `Tensor` of shape `[B, D, T, h, w]`): fine to coarse.
            size (`tuple[int, int]`): of the logits.
            clock ([`Clock`]): when the time steps are.
            targets (`Tensor` of shape `[O]`): frames that are asked for.

        Returns:
            Logits `[B, O, *size]` and the volume of each step, coarse to fine.
        """
        *finer, volume = levels
        volume = self._attend(volume, clock)
        volumes = [volume]
        for stage, skip in zip(self.stages, reversed(finer), strict=True):
            volume = stage(volume, skip)
            volumes.append(volume)
        answers = self.collapse(volume, clock.times(volume), targets).transpose(1, 2)
        frames = answers.flatten(0, 1)
        if tuple(frames.shape[-2:]) != size:
            frames = resize_maps(frames, size)
        return self.head(frames).squeeze(1).unflatten(0, answers.shape[:2]), tuple(volumes)

    def _attend(self, volume: Tensor, clock: Clock) -> Tensor:
        tokens = volume.permute(0, 2, 3, 4, 1)
        tokens = tokens + place_and_time(clock.times(volume), volume.shape[3:], volume.shape[1]).to(volume)
        hidden = tokens.flatten(2, 3)
        for layer in self.attention:
            hidden = layer(hidden)
        return hidden.unflatten(2, volume.shape[3:]).permute(0, 4, 1, 2, 3)


class Clock:
    """When the time steps of feature volumes are, in frames of the clip.

    Args:
        frames (`int`): T of the clip.
        lead (`int`): copies of the first frame that were put before it.
    """

    def __init__(self, frames: int, lead: int):
        self.frames, self.lead = frames, lead

    def times(self, volume: Tensor) -> Tensor:
        """Middle of each of the volume's T' steps, `[T']`.

        Example:

        ```python
        >>> Clock(frames=3, lead=1).times(torch.zeros(1, 1, 2, 1, 1))
        tensor([-0.5000, 1.5000])
        ```
        """
        steps = volume.shape[2]
        middle = torch.arange(steps, device=volume.device, dtype=torch.float32) + 0.5
        return middle * ((self.frames + self.lead) / steps) - 0.5 - self.lead


def place_and_time(times: Tensor, size: Sequence[int], channels: int) -> Tensor:
    """Sinusoids of time, row and column `[T, h, w, channels]`; places count from 0 to 32 whatever the size."""
    count = channels // 6
    waves = LONGEST_WAVE ** (-torch.arange(count, device=times.device) / max(count, 1))
    axes = [times, *((torch.arange(n, device=times.device) + 0.5) * (32.0 / n) for n in size)]
    code = times.new_zeros(len(times), *size, channels)
    for axis, values in enumerate(axes):
        shape = [1, 1, 1, 2 * count]
        shape[axis] = len(values)
        angles = values[:, None] * waves
        code[..., 2 * count * axis : 2 * count * (axis + 1)] = torch.cat([angles.sin(), angles.cos()], 1).view(shape)
    return code


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """`[N, C, h, w]` at another size: bilinear, averaged over the area where it gets smaller."""
    if size[0] <= maps.shape[-2] and size[1] <= maps.shape[-1]:
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def level_sizes(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """Sizes at strides of 4, 8, 16, … pixels, fine to coarse.

    Example:

    ```python
    >>> level_sizes((64, 40), 3)
    [(16, 10), (8, 5), (4, 3)]
    ```
    """
    strides = [FINEST_STRIDE * 2**level for level in range(levels)]
    return [(math.ceil(size[0] / stride), math.ceil(size[1] / stride)) for stride in strides]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of at most 4 groups."""
    return nn.GroupNorm(math.gcd(channels, 4), channels)


__all__ = ["Clock", "Lateral", "SaliencyDecoder", "level_sizes"]
