"""Video transformers as encoders: tokens of one grid, of any size and length.

The layers are the library's; positions are made for the actual grid here, as the library's own forwards take other
sizes or lengths wrongly or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

ROPE_GRID = 4096
"""Rows and columns that V-JEPA 2's positions are counted in; larger than any grid, so that all are told apart."""


class TokenEncoder(nn.Module):
    """A video transformer whose tokens form one grid `[T / tubelet, H / patch, W / patch]`.

    Args:
        config (`PreTrainedConfig`): of the transformer.
        out_indices (`list[int]`, *optional*): layers whose tokens are used, from 0; evenly spaced when unset.
        levels (`int`): their number when unset.

    Raises:
        `ValueError`: there are no such layers.
    """

    framewise = False
    class_tokens = 0
    model: Any

    def __init__(self, config: Any, out_indices: Sequence[int] | None, levels: int):
        super().__init__()
        self.time_multiple, *patch = self.tubelet(config)
        self.stride = tuple(patch)
        self.table_grid = self.pretraining_grid(config)
        self.out_indices = list(out_indices or _spread(config.num_hidden_layers, levels))
        if max(self.out_indices) >= config.num_hidden_layers or min(self.out_indices) < 0:
            raise ValueError(f"out_indices must be from 0 to {config.num_hidden_layers - 1}, got {self.out_indices}")
        self.channels = [config.hidden_size] * len(self.out_indices)
        self.model = AutoModel.from_config(config)
        self.keep_what_is_used(self.model)

    def load_encoder(self, loaded: PreTrainedModel) -> None:
        """Take the weights of a model of the same configuration, which loses what is not used."""
        self.keep_what_is_used(loaded)
        self.model.load_state_dict(loaded.state_dict())

    def tubelet(self, config: Any) -> tuple[int, int, int]:
        """Frames, rows and columns of a token."""
        return (config.tubelet_size, *height_and_width(config.patch_size))

    def pretraining_grid(self, config: Any) -> tuple[int, ...]:
        """The grid that the position table is of."""
        sizes = (config.num_frames, *height_and_width(config.image_size))
        return tuple(size // step for size, step in zip(sizes, (self.time_multiple, *self.stride), strict=True))

    def layers(self, model: Any) -> nn.ModuleList:
        """The transformer's layers."""
        return model.encoder.layer

    def norm(self) -> nn.Module | None:
        """The norm after the last layer."""
        return self.model.layernorm

    def keep_what_is_used(self, model: Any) -> None:
        """Drop layers after the last one used: parameters without gradient would stop distributed training."""
        del self.layers(model)[max(self.out_indices) + 1 :]

    def embed(self, pixel_values: Tensor, grid: Sequence[int]) -> Tensor:
        """Frames to tokens with positions."""
        raise NotImplementedError

    def run_layer(self, layer: nn.Module, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """Tokens through one layer."""
        return layer(tokens)

    def to_volume(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """Tokens `[B, T * H * W, C]` to `[B, C, T, H, W]`."""
        return tokens.unflatten(1, tuple(grid)).permute(0, 4, 1, 2, 3)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """`[B, T, 3, H, W]` of whole tubelets to one `[B, C, T', H', W']` for each of `out_indices`."""
        sizes = (pixel_values.shape[1], *pixel_values.shape[3:])
        grid = [size // step for size, step in zip(sizes, (self.time_multiple, *self.stride), strict=True)]
        tokens, states = self.embed(pixel_values, grid), []
        for layer in self.layers(self.model):
            tokens = self.run_layer(layer, tokens, grid)
            states.append(tokens)
        return [self.to_volume(self._normed(states[index]), grid) for index in self.out_indices]

    def _normed(self, tokens: Tensor) -> Tensor:
        tokens, norm = tokens[:, self.class_tokens :], self.norm()
        return F.layer_norm(tokens, tokens.shape[-1:]) if norm is None else norm(tokens)


class VideoMAEEncoder(TokenEncoder):
    """VideoMAE; its fixed table of sinusoids is interpolated in time and space."""

    def embed(self, pixel_values: Tensor, grid: Sequence[int]) -> Tensor:
        """Patches and their table."""
        embeddings = self.model.embeddings
        patches = embeddings.patch_embeddings.projection(pixel_values.transpose(1, 2)).flatten(2).transpose(1, 2)
        return patches + interpolate_table(embeddings.position_embeddings.to(patches), self.table_grid, grid)


class VivitEncoder(TokenEncoder):
    """ViViT; its learned table is interpolated in time and space (the library does so in space alone)."""

    class_tokens = 1

    def tubelet(self, config: Any) -> tuple[int, int, int]:
        """ViViT gives all three together."""
        return tuple(config.tubelet_size)

    def layers(self, model: Any) -> nn.ModuleList:
        """ViViT's are not in an encoder."""
        return model.layers

    def keep_what_is_used(self, model: Any) -> None:
        """Also drop what pools the class token."""
        super().keep_what_is_used(model)
        model.pooler = None

    def embed(self, pixel_values: Tensor, grid: Sequence[int]) -> Tensor:
        """The class token, then patches and their table."""
        embeddings = self.model.embeddings
        patches = embeddings.patch_embeddings.projection(pixel_values.transpose(1, 2)).flatten(2).transpose(1, 2)
        first, table = embeddings.position_embeddings.split((1, math.prod(self.table_grid)), 1)
        first = (embeddings.cls_token + first).expand(patches.shape[0], -1, -1)
        return embeddings.dropout(torch.cat([first, patches + interpolate_table(table, self.table_grid, grid)], 1))


class VJEPA2Encoder(TokenEncoder):
    """V-JEPA 2; its rotations follow the actual grid.

    The library counts rows and columns in the pretraining grid whatever the size, which gives neighbours positions far
    apart; at the pretraining size both agree.
    """

    def pretraining_grid(self, config: Any) -> tuple[int, ...]:
        """There is no table."""
        return ()

    def norm(self) -> nn.Module | None:
        """V-JEPA 2's is part of the encoder."""
        return self.model.encoder.layernorm

    def keep_what_is_used(self, model: Any) -> None:
        """Also drop the predictor."""
        super().keep_what_is_used(model)
        model.predictor = None
        for layer in model.encoder.layer:
            layer.attention.grid_size = ROPE_GRID

    def embed(self, pixel_values: Tensor, grid: Sequence[int]) -> Tensor:
        """Patches alone."""
        return self.model.encoder.embeddings(pixel_values)

    def run_layer(self, layer: nn.Module, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """A layer, told where the tokens are."""
        return layer(tokens, self.places(grid, tokens.device).expand(tokens.shape[0], -1))[0]

    def places(self, grid: Sequence[int], device: torch.device | None = None) -> Tensor:
        """Numbers `[T * H * W]` from which the layers read time, row and column."""
        time, row, column = (torch.arange(size, device=device) for size in grid)
        return ((time[:, None, None] * ROPE_GRID + row[:, None]) * ROPE_GRID + column).flatten()


class TimesformerEncoder(TokenEncoder):
    """TimeSformer with divided attention; its tables of space and of time are interpolated linearly."""

    class_tokens = 1

    def __init__(self, config: Any, out_indices: Sequence[int] | None, levels: int):
        if config.attention_type != "divided_space_time":
            raise ValueError(f"TimeSformer needs attention_type 'divided_space_time', got {config.attention_type!r}")
        super().__init__(config, out_indices, levels)

    def tubelet(self, config: Any) -> tuple[int, int, int]:
        """A token is of one frame."""
        return (1, *height_and_width(config.patch_size))

    def embed(self, pixel_values: Tensor, grid: Sequence[int]) -> Tensor:
        """The class token, then the frames of every patch."""
        embeddings, (frames, *places) = self.model.embeddings, grid
        patches = embeddings.patch_embeddings.projection(pixel_values.flatten(0, 1))
        patches = patches.flatten(2).unflatten(0, pixel_values.shape[:2]).permute(0, 3, 1, 2)
        first, table = embeddings.position_embeddings.tensor_split([1], 1)
        space = interpolate_table(table, (1, *self.table_grid[1:]), (1, *places))
        time = interpolate_table(embeddings.time_embeddings, (self.table_grid[0], 1, 1), (frames, 1, 1))
        body = embeddings.time_drop(embeddings.pos_drop(patches + space[:, :, None]) + time[:, None])
        first = embeddings.pos_drop(embeddings.cls_token + first).expand(patches.shape[0], -1, -1)
        return torch.cat([first, body.flatten(1, 2)], 1)

    def run_layer(self, layer: nn.Module, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """A layer on the actual grid, recomputed in backward where it is set to."""
        if layer.gradient_checkpointing and layer.training:
            return layer._gradient_checkpointing_func(divided_space_time, layer, tokens, grid)  # type: ignore[operator]
        return divided_space_time(layer, tokens, grid)

    def to_volume(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """Tokens of all frames of a patch lie together."""
        return tokens.unflatten(1, (*grid[1:], grid[0])).permute(0, 4, 3, 1, 2)


def divided_space_time(layer: Any, tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """A TimeSformer layer on any grid (the library's forward takes frames and width from the configuration).

    Args:
        layer (`TimesformerLayer`): with its weights.
        tokens (`Tensor` of shape `[B, 1 + H * W * T, C]`): the class token, then the frames of every patch.
        grid (`Sequence[int]`): T, H and W.

    Returns:
        `Tensor` of the same shape.
    """
    frames, places = grid[0], grid[1] * grid[2]
    first, body = tokens[:, :1], tokens[:, 1:].unflatten(1, (places, frames))
    attended = layer.temporal_attention(layer.temporal_layernorm(body.flatten(0, 1)))[0]
    body = body + layer.temporal_dense(layer.drop_path(attended).unflatten(0, body.shape[:2]))
    by_frame = torch.cat([first.expand(-1, frames, -1).unsqueeze(2), body.transpose(1, 2)], 2)
    attended = layer.drop_path(layer.attention(layer.layernorm_before(by_frame.flatten(0, 1)))[0])
    attended = attended.unflatten(0, by_frame.shape[:2])
    first = first + attended[:, :, 0].mean(1, keepdim=True)
    body = body + attended[:, :, 1:].transpose(1, 2)
    tokens = torch.cat([first, body.flatten(1, 2)], 1)
    hidden = layer.output(layer.intermediate(layer.layernorm_after(tokens)))
    return tokens + layer.drop_path(hidden)


def interpolate_table(table: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Positions `[1, T * H * W, C]` of the grid `old`, read off at the places of the grid `new`.

    Example:

    ```python
    >>> table = torch.arange(4.0).view(1, 4, 1)
    >>> interpolate_table(table, (1, 2, 2), (1, 2, 4)).flatten()
    tensor([0.0000, 0.2500, 0.7500, 1.0000, 2.0000, 2.2500, 2.7500, 3.0000])
    ```
    """
    if tuple(old) == tuple(new):
        return table
    volume = table.transpose(1, 2).unflatten(2, tuple(old))
    resized = F.interpolate(volume.float(), size=tuple(new), mode="trilinear", align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(table.dtype)


TOKEN_ENCODERS = {
    "videomae": VideoMAEEncoder,
    "vivit": VivitEncoder,
    "vjepa2": VJEPA2Encoder,
    "timesformer": TimesformerEncoder,
}
"""By transformers' model type."""


def build_token_encoder(
    config: PreTrainedConfig | None, out_indices: Sequence[int] | None, levels: int
) -> TokenEncoder:
    """A video transformer with random weights.

    Raises:
        `ValueError`: the configuration is of another model.
    """
    kind = getattr(config, "model_type", None)
    if kind not in TOKEN_ENCODERS:
        raise ValueError(
            f"encoder_config: model type {kind!r} is no video encoder known here; there are "
            f"{', '.join(TOKEN_ENCODERS)}. Image backbones go with encoder_type 'frame_backbone'"
        )
    return TOKEN_ENCODERS[kind](config, out_indices, levels)


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """A size that a configuration gives as one number or as two."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _spread(layers: int, levels: int) -> list[int]:
    """Numbers of evenly spaced layers, the last one included; of fewer layers than levels some come twice."""
    return [math.ceil(layers * (level + 1) / levels) - 1 for level in range(levels)]


__all__ = ["TOKEN_ENCODERS", "build_token_encoder", "height_and_width", "interpolate_table"]
