"""Video saliency models: where people look in a frame, as a log-density, from a clip of frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MODEL_FOR_BACKBONE_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_video_saliency import TARGETS, VideoSaliencyConfig
from .decoder_video_saliency import Clock, Lateral, SaliencyDecoder, TemporalCollapse, level_sizes
from .encoders_video_saliency import build_encoder
from .losses import saliency_loss
from .token_encoders_video_saliency import TOKEN_ENCODERS
from .torchvision_encoders_video_saliency import TORCHVISION_ENCODERS


@dataclass
class VideoSaliencyOutput(ModelOutput):
    """Output of a [`VideoSaliencyModel`].

    Args:
        loss (`Tensor` of shape `[]`, *optional*): mean of `loss_per_clip`; 0 where no clip has a truth.
        loss_per_clip (`Tensor` of shape `[B]`, *optional*): KLD - CC or what `loss_weights` say; 0 for blank truths.
        logits (`Tensor` of shape `[B, O, h, w]`): unnormalised log-density of gaze in each target frame, fp32; its
            softmax over h * w is the density.
        hidden_states (`tuple` of `Tensor` of shape `[B, D, T, h, w]`, *optional*): the decoder's levels, coarse to
            fine.
    """

    loss: Tensor | None = None
    loss_per_clip: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class VideoSaliencyModel(PreTrainedModel):
    """An encoder, a 3D U-Net and a learned centre prior that predict where people look.

    Frames of any H and W are resized to the encoder's next multiple; clips of any T are made as long as its tubelets
    ask for by repeating the first frame. The logits cover the whole frame.

    Args:
        config ([`VideoSaliencyConfig`]): weights are random; [`~VideoSaliencyModel.from_encoder`] and
            `from_pretrained` bring trained ones.

    Raises:
        `ValueError`: the encoder has another number of levels than `decoder_channels`.
    """

    config_class = VideoSaliencyConfig
    base_model_prefix = "video_saliency"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = [
        "Lateral",
        "SpaceTimeLayer",
        "DecoderStage",
        "TemporalCollapse",
        "SepInceptionBlock3D",
        "BasicBlock",
        "MultiscaleBlock",
        "SwinTransformerBlock",
    ]

    def __init__(self, config: VideoSaliencyConfig):
        super().__init__(config)
        channels = config.decoder_channels
        self.encoder = build_encoder(config, len(channels))
        if len(self.encoder.channels) != len(channels):
            raise ValueError(
                f"decoder_channels must have one number for each of the encoder's {len(self.encoder.channels)} "
                f"levels, got {channels}"
            )
        self.laterals = nn.ModuleList(
            Lateral(given, wanted) for given, wanted in zip(self.encoder.channels, reversed(channels), strict=True)
        )
        self.decoder = SaliencyDecoder(
            channels, config.decoder_groups, config.temporal_attention_layers, config.attention_heads
        )
        self.center_prior = nn.Parameter(torch.zeros(config.center_prior_size)) if config.center_prior else None
        self.post_init()

    @classmethod
    def from_encoder(
        cls,
        encoder: str,
        revision: str | None = None,
        *,
        weights: Mapping[str, Tensor] | None = None,
        out_indices: Sequence[int] | None = None,
        **config: Any,
    ) -> VideoSaliencyModel:
        """A model with a pretrained encoder and a decoder that is still random.

        Args:
            encoder (`str`): Hub id or folder of a video transformer or an image backbone, or the name of a network of
                `torchvision.models.video`.
            revision (`str`, *optional*): branch, tag or commit on the Hub.
            weights (`dict[str, Tensor]`, *optional*): of the torchvision network, which stays random without; for
                example `torchvision.models.video.s3d(weights="DEFAULT").state_dict()` or
                `safetensors.torch.load_file(FILE)`.
            out_indices (`list[int]`, *optional*): layers of a video transformer, or stages of a backbone; unset: 4
                evenly spaced layers, the last 4 stages.
            config (*optional*): all else of [`VideoSaliencyConfig`].

        Raises:
            `ValueError`: weights that belong to another network, or for an encoder that is no torchvision network.
            `OSError`: the Hub or the folder has no such model, or only pickled weights.

        Example:

        ```python
        >>> model = VideoSaliencyModel.from_encoder("s3d", image_size=(112, 192))
        >>> model.num_parameters()
        8899540
        ```
        """
        if encoder in TORCHVISION_ENCODERS:
            model = cls(VideoSaliencyConfig(encoder_name=encoder, **config))
            if weights is not None:
                model.encoder.load_encoder(weights)
            return model
        if weights is not None:
            raise ValueError(f"weights go with a torchvision network, {encoder!r} brings its own")
        source = {"revision": revision, "trust_remote_code": False}
        encoder_config = AutoConfig.from_pretrained(encoder, **source)
        video = encoder_config.model_type in TOKEN_ENCODERS
        if video:
            loaded, report = AutoModel.from_pretrained(
                encoder, use_safetensors=True, output_loading_info=True, **source
            )
            _check_found(encoder, report)
        else:
            loaded = _load_backbone(encoder, encoder_config, out_indices, revision)
        given = VideoSaliencyConfig(
            encoder_type="transformers_video" if video else "frame_backbone",
            encoder_config=loaded.config,
            encoder_name=encoder,
            out_indices=out_indices if video else None,
            **config,
        )
        model = cls(given)
        model.encoder.load_encoder(loaded)
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv3d | nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
            return
        super()._init_weights(module)
        if isinstance(module, TemporalCollapse):
            init.ones_(module.decay)
        if isinstance(module, SaliencyDecoder):
            # Starts near the uniform density: a random peak costs more than it tells.
            init.normal_(module.head[-1].weight, std=self.config.initializer_range)
        if isinstance(module, VideoSaliencyModel) and module.center_prior is not None:
            init.zeros_(module.center_prior)

    def encode(self, pixel_values: Tensor) -> list[Tensor]:
        """Levels that [`decode`] needs, fine to coarse.

        Where `self.encoder.framewise` holds, the levels of a clip are those of its frames side by side, so that
        frames can be encoded once and joined with `torch.cat(…, 2)` into any clip.

        Args:
            pixel_values (`Tensor` of shape `[B, T, 3, H, W]`): normalised frames.

        Returns:
            `list` of `Tensor` of shape `[B, D, T', h, w]`.
        """
        frames = self._fit(pixel_values)
        maps = self.encoder(frames)
        height, width = frames.shape[-2:]
        alike = len({tuple(one.shape[-2:]) for one in maps}) == 1 and len(maps) > 1
        sizes = level_sizes((height, width), len(maps)) if alike else [None] * len(maps)
        return [lateral(one, size) for lateral, one, size in zip(self.laterals, maps, sizes, strict=True)]

    def decode(
        self, levels: Sequence[Tensor], num_frames: int, size: tuple[int, int], target: str | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits of a clip.

        Args:
            levels (`list[Tensor]`): from [`encode`].
            num_frames (`int`): T of the clip.
            size (`tuple[int, int]`): H and W of its frames.
            target (`str`, *optional*): instead of the configuration's.

        Returns:
            Logits `[B, O, h, w]` in fp32, and the decoder's hidden states.

        Raises:
            `ValueError`: an unknown target.
        """
        target = target or self.config.target
        if target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
        first, last = {"last": (num_frames - 1,) * 2, "center": (num_frames // 2,) * 2, "all": (0, num_frames - 1)}[
            target
        ]
        targets = torch.arange(first, last + 1, device=levels[0].device)
        clock = Clock(num_frames, -num_frames % self.encoder.time_multiple)
        height, width = (math.ceil(n / self.config.output_stride) for n in size)
        logits, hidden = self.decoder(levels, (height, width), clock, targets)
        logits = logits.float()
        if self.center_prior is not None:
            prior = self.center_prior.float()[None, None]
            logits = logits + F.interpolate(prior, size=(height, width), mode="bilinear", align_corners=False)
        return logits, hidden

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        fixations: Tensor | None = None,
        cuts: Tensor | None = None,
        target: str | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> VideoSaliencyOutput | tuple:
        """Args:
            pixel_values (`Tensor` of shape `[B, T, 3, H, W]`): from a [`VideoSaliencyProcessor`].
            labels (`Tensor` of shape `[B, H', W']`, or `[B, T, H', W']` for target `"all"`, *optional*):
                density of gaze in the target frame, of any size and sum; all 0 where nobody looked.
            fixations (`Tensor` of the shape of `labels`, *optional*): above 0 where somebody fixated; for the NSS
                term.
            cuts (`Tensor` of shape `[B, T - 1]`, *optional*): whether a cut lies between two frames; for the temporal
                term.
            target (`str`, *optional*): instead of the configuration's.
            output_hidden_states (`bool`, *optional*): also return the decoder's levels.
            return_dict (`bool`, *optional*): `False` for a tuple.

        Returns:
            [`VideoSaliencyOutput`]
        """
        levels = self.encode(pixel_values)
        height, width = pixel_values.shape[-2:]
        logits, hidden = self.decode(levels, pixel_values.shape[1], (height, width), target)
        loss = loss_per_clip = None
        if labels is not None:
            if fixations is not None:
                fixations = _like_logits(logits, fixations)
            truth = _like_logits(logits, labels)
            loss_per_clip = saliency_loss(logits, truth, self.config.loss_weights, fixations, cuts)
            loss = loss_per_clip.mean()
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = VideoSaliencyOutput(loss, loss_per_clip, logits, hidden if wanted else None)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def _fit(self, pixel_values: Tensor) -> Tensor:
        """Whole patches and tubelets: resized to multiples of the encoder's, led by copies of the first frame."""
        if pixel_values.ndim != 5 or pixel_values.shape[2] != 3:
            raise ValueError(f"pixel_values must have the shape [B, T, 3, H, W], got {list(pixel_values.shape)}")
        height, width = pixel_values.shape[-2:]
        size = [math.ceil(n / step) * step for n, step in zip((height, width), self.encoder.stride, strict=True)]
        if size != [height, width]:
            frames = F.interpolate(pixel_values.flatten(0, 1), size=size, mode="bilinear", align_corners=False)
            pixel_values = frames.unflatten(0, pixel_values.shape[:2])
        lead = -pixel_values.shape[1] % self.encoder.time_multiple
        if lead:
            pixel_values = torch.cat([pixel_values[:, :1].expand(-1, lead, -1, -1, -1), pixel_values], 1)
        return pixel_values.to(self.dtype)


def _load_backbone(
    source: str, config: PreTrainedConfig, out_indices: Sequence[int] | None, revision: str | None
) -> PreTrainedModel:
    """A pretrained image backbone (`AutoBackbone.from_pretrained` takes no folders and asks the Hub when offline)."""
    if type(config) not in MODEL_FOR_BACKBONE_MAPPING:
        raise ValueError(
            f"{source!r} is a {config.model_type}, which is neither an image backbone nor one of the video encoders "
            f"{', '.join(TOKEN_ENCODERS)}"
        )
    stages = len(config.stage_names)
    config.out_indices = list(out_indices or range(max(1, stages - 4), stages))
    backbone = MODEL_FOR_BACKBONE_MAPPING[type(config)]
    loaded, report = backbone.from_pretrained(
        source, config=config, use_safetensors=True, revision=revision, output_loading_info=True
    )
    _check_found(source, report)
    return loaded


def _check_found(source: str, report: Mapping[str, Any]) -> None:
    """Only norms of what an encoder gives out, and what it pools, may be random."""
    random = [
        key for key in sorted(report["missing_keys"]) if not {"pooler", "hidden_states_norms"} & {*key.split(".")}
    ]
    random = [key for key in random if "norm" not in key.split(".")[0]]
    if random:
        raise ValueError(f"{source!r} lacks weights of its encoder ({random[0]}, …), which would stay random")


def _like_logits(logits: Tensor, truth: Tensor) -> Tensor:
    """Truth `[B, H, W]` as `[B, 1, H, W]` beside logits `[B, 1, h, w]`."""
    return truth[:, None] if truth.ndim == 3 and logits.shape[1] == 1 else truth


VideoSaliencyModel.register_for_auto_class("AutoModel")

__all__ = ["VideoSaliencyModel", "VideoSaliencyOutput"]
