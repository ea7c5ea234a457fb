"""Tiny video saliency models, one for each kind of encoder."""

import torch
from transformers import (
    ConvNextConfig,
    Dinov2Config,
    TimesformerConfig,
    VideoMAEConfig,
    VivitConfig,
    VJEPA2Config,
)

from hf_mutual_kd import VideoSaliencyConfig, VideoSaliencyModel

FRAMES, SIDE, PATCH = 4, 32, 8
TOKENS = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
DECODER = {
    "decoder_channels": [16, 12, 8, 8],
    "attention_heads": 2,
    "center_prior_size": (3, 4),
    "num_frames": FRAMES,
    "image_size": (SIDE, SIDE),
}

VIDEO = {
    "videomae": lambda: VideoMAEConfig(image_size=SIDE, patch_size=PATCH, num_frames=FRAMES, **TOKENS),
    "timesformer": lambda: TimesformerConfig(image_size=SIDE, patch_size=PATCH, num_frames=FRAMES, **TOKENS),
    "vivit": lambda: VivitConfig(image_size=SIDE, num_frames=FRAMES, tubelet_size=[2, PATCH, PATCH], **TOKENS),
    "vjepa2": lambda: VJEPA2Config(
        crop_size=SIDE,
        patch_size=PATCH,
        frames_per_clip=FRAMES,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        pred_hidden_size=24,
        pred_num_hidden_layers=1,
        pred_num_attention_heads=2,
    ),
}
FRAME = {
    "convnext": lambda: ConvNextConfig(hidden_sizes=[8, 8, 12, 16], depths=[1, 1, 1, 1], out_indices=[1, 2, 3, 4]),
    "dinov2": lambda: Dinov2Config(
        image_size=28,
        patch_size=14,
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        out_indices=[1, 2, 3, 4],
    ),
}
TORCHVISION = {
    "swin3d": (
        "SwinTransformer3d",
        {
            "patch_size": [2, 4, 4],
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": [2, 3, 3],
        },
    ),
    "s3d": ("s3d", {}),
    "r3d": ("r3d_18", {}),
    "mvit": ("mvit_v2_s", {}),
}
LARGE = ("s3d", "r3d", "mvit")
"""Kinds whose width cannot be chosen."""
SMALL = [name for name in (*VIDEO, *FRAME, *TORCHVISION) if name not in LARGE]


def saliency_config(kind: str, **changes) -> VideoSaliencyConfig:
    """The tiny configuration of a kind of encoder."""
    given = DECODER | changes
    if kind in TORCHVISION:
        name, kwargs = TORCHVISION[kind]
        return VideoSaliencyConfig(encoder_name=name, encoder_kwargs=kwargs, **given)
    encoder_type = "transformers_video" if kind in VIDEO else "frame_backbone"
    return VideoSaliencyConfig(encoder_type=encoder_type, encoder_config=(VIDEO | FRAME)[kind](), **given)


def tiny_saliency(kind: str, **changes) -> VideoSaliencyModel:
    """A tiny model of a kind, the same for every call; tables that start at 0 are drawn, so that they show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VideoSaliencyModel(saliency_config(kind, **changes)).eval()
        for name, parameter in model.named_parameters():
            if name.endswith(("position_embeddings", "time_embeddings", "cls_token", "center_prior")):
                torch.nn.init.normal_(parameter, std=0.5)
    return model
