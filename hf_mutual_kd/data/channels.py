"""Peers that see grey: how many channels a processor makes, and one for models of a single channel."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from torchvision.transforms.v2 import functional as vision

CHANNELS = "num_channels"
"""Attribute of a processor; three where it is absent."""


def sees_gray(processor: Any) -> bool:
    """Whether a processor is given images of one channel."""
    return getattr(processor, CHANNELS, 3) == 1


def in_gray(image: Any) -> Any:
    """An image of one channel, by the weights of luminance; of a tensor `[3, H, W]` a tensor `[1, H, W]`."""
    return vision.rgb_to_grayscale(image) if isinstance(image, Tensor) else image.convert("L")


def gray_processor(processor: Any) -> Any:
    """A copy of an image processor for images of one channel, whose statistics are the mean of those of all three."""
    if hasattr(processor, "data_config"):
        settings = dict(processor.data_config)
        settings |= {key: (sum(settings[key]) / len(settings[key]),) for key in ("mean", "std")}
        settings["input_size"] = (1, *settings["input_size"][1:])
        changed = type(processor)(pretrained_cfg=settings)
    else:
        changed = copy.deepcopy(processor)
        for key in ("image_mean", "image_std"):
            values = getattr(changed, key, None)
            if isinstance(values, list | tuple) and values:
                setattr(changed, key, [sum(values) / len(values)])
        if hasattr(changed, "do_convert_rgb"):
            changed.do_convert_rgb = False
    setattr(changed, CHANNELS, 1)
    return changed
