"""One shared random view of an image and its mask: scale, crop, flip, colour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as vision

from ...data.masks import IGNORE
from ...data.processors import is_plain
from ...data.views import draws_of
from ...errors import ConfigError
from .grids import nearest_labels
from .options import SegmentationOptions

NEUTRAL = (124, 116, 104)
"""Colour of padding: ImageNet's mean, which peers' normalisation turns into about 0."""
CROP = 512
"""Side of a crop where no peer's processor says a size."""


class DenseView:
    """One random scale, crop, flip and colour draw per sample, the same for image and mask and for all peers.

    The image is scaled so that its shorter side becomes `crop` times a random factor (bilinear, antialiased; the mask
    nearest), and a square of `crop` pixels is cut out; what is smaller is padded below and to the right with a neutral
    colour, its mask with `IGNORE`. So all crops of a batch have one size, and each peer's processor resizes them. The
    draw depends on the seed, the epoch and the sample id alone.

    Args:
        crop (`int`): side of the crop in pixels.
        scale (`tuple[float, float]`, *optional*, defaults to `(0.5, 2.0)`): range of the factor.
        flip (`bool`, *optional*, defaults to `True`): mirror half of the images.
        color_jitter (`float`, *optional*, defaults to 0.0): strength of brightness, contrast and saturation changes.
        seed (`int`, *optional*, defaults to 0): of all draws.

    Raises:
        [`ConfigError`]: a crop below 1, or a range that is none.

    Example:

    ```python
    >>> view = DenseView(crop=512, seed=0)
    >>> crop, its_mask = view(image, mask, sample_id=17, epoch=2)
    >>> crop.size, its_mask.shape
    ((512, 512), torch.Size([512, 512]))
    ```
    """

    def __init__(
        self,
        crop: int,
        scale: tuple[float, float] = (0.5, 2.0),
        flip: bool = True,
        color_jitter: float = 0.0,
        seed: int = 0,
    ):
        if crop < 1:
            raise ConfigError(f"crop_size must be 1 or more, got {crop}")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ConfigError(f"scale_range must be two numbers, 0 < least <= greatest, got {list(scale)}")
        self.crop, self.scale, self.flip, self.seed = crop, (float(scale[0]), float(scale[1])), flip, seed
        self.color = v2.ColorJitter(*(color_jitter,) * 3) if color_jitter else None

    @classmethod
    def from_options(cls, options: SegmentationOptions, processors: Mapping[str, Any], seed: int) -> DenseView:
        """The view that a user asked for; `crop_size` unset is the largest size among the peers' processors."""
        crop = options.crop_size or max((size_of(processor) for processor in processors.values()), default=0) or CROP
        least, greatest = options.scale_range
        return cls(crop, (least, greatest), color_jitter=options.color_jitter, seed=seed)

    def __call__(self, image: Any, mask: Tensor, sample_id: int, epoch: int) -> tuple[Any, Tensor]:
        """The view of an image (PIL or `[3, H, W]`) and its mask `[H, W]`."""
        with draws_of(self.seed, epoch, sample_id):
            image, mask = self._scaled(image, mask)
            image, mask = self._cropped(image, mask)
            if self.flip and torch.rand(()) < 0.5:
                image, mask = vision.horizontal_flip(image), mask.flip(1)
            if self.color is not None:
                image = self.color(image)
            return self._padded(image, mask)

    def _scaled(self, image: Any, mask: Tensor) -> tuple[Any, Tensor]:
        height, width = mask.shape
        least, greatest = self.scale
        factor = self.crop * (least + (greatest - least) * torch.rand(()).item()) / min(height, width)
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        image = vision.resize(image, list(size), InterpolationMode.BILINEAR, antialias=True)
        return image, nearest_labels(mask[None], size)[0]

    def _cropped(self, image: Any, mask: Tensor) -> tuple[Any, Tensor]:
        height, width = (min(self.crop, side) for side in mask.shape)
        top, left = (
            int(torch.randint(side - kept + 1, ())) for side, kept in zip(mask.shape, (height, width), strict=True)
        )
        return vision.crop(image, top, left, height, width), mask[top : top + height, left : left + width]

    def _padded(self, image: Any, mask: Tensor) -> tuple[Any, Tensor]:
        below, right = (self.crop - side for side in mask.shape)
        if not below and not right:
            return image, mask
        neutral: list[float] = list(NEUTRAL)
        if isinstance(image, Tensor) and image.is_floating_point():
            neutral = [value / 255 for value in NEUTRAL]
        padding = [0, 0, right, below]
        return vision.pad(image, padding, fill=neutral), torch.nn.functional.pad(
            mask, (0, right, 0, below), value=IGNORE
        )


def size_of(processor: Any) -> int:
    """The side to which a processor resizes images: the longer of a fixed size, else the shortest edge; 0 for none."""
    processor = getattr(processor, "image_processor", processor)
    if is_plain(processor) or not getattr(processor, "do_resize", False):
        return 0
    size = dict(processor.size)
    return max(size.get(side) or 0 for side in ("height", "width", "shortest_edge"))
