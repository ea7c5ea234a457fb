"""Processor of video saliency models: frames to tensors, and log-densities back to maps of the frame's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from .losses import resample_log_density

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MapKind = Literal["map", "density", "log_density"]


class VideoSaliencyProcessor(ProcessorMixin):
    """Resizes and normalises the frames of a clip, and makes maps of what a model answers.

    Args:
        image_size (`tuple[int, int]`, *optional*, defaults to `(224, 384)`):
            H and W that frames are resized to, whatever their shape.
        image_mean (`list[float]`, *optional*): of red, green and blue in 0 to 1; ImageNet's when unset.
        image_std (`list[float]`, *optional*): ImageNet's when unset.
        num_frames (`int`, *optional*, defaults to 16): T of the model's clips.
        frame_stride (`int`, *optional*, defaults to 1): distance of neighbouring frames of a clip.
        target (`str`, *optional*, defaults to `"last"`): the frame that is predicted.

    Raises:
        `ValueError`: sizes or statistics that are no numbers above 0 of the right count.

    Example:

    ```python
    >>> processor = VideoSaliencyProcessor(image_size=(32, 48))
    >>> clip = np.zeros((4, 90, 160, 3), np.uint8)
    >>> processor(clip)["pixel_values"].shape
    torch.Size([1, 4, 3, 32, 48])
    ```
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        image_size: Sequence[int] = (224, 384),
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
        num_frames: int = 16,
        frame_stride: int = 1,
        target: str = "last",
    ):
        super().__init__()
        self.image_size = list(image_size)
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.num_frames, self.frame_stride, self.target = num_frames, frame_stride, target
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"image_size must be a height and a width of 1 or more, got {self.image_size}")
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or min(self.image_std) <= 0:
            raise ValueError(
                "image_mean and image_std must be 3 numbers each, the latter above 0, "
                f"got {self.image_mean} and {self.image_std}"
            )

    @classmethod
    def for_model(cls, config: Any, **changes: Any) -> VideoSaliencyProcessor:
        """The processor that fits a [`VideoSaliencyConfig`], with ImageNet's statistics unless given."""
        names = ("image_size", "num_frames", "frame_stride", "target")
        return cls(**{name: getattr(config, name) for name in names} | changes)

    def __call__(self, videos: Any, return_tensors: str = "pt") -> BatchFeature:
        """Clips of a batch, all of the same length.

        Args:
            videos: one clip or a list of clips; a clip is a list of PIL images or arrays `[H, W, 3]`, or one array
                or tensor `[T, H, W, 3]`, uint8, RGB.
            return_tensors (`str`, *optional*, defaults to `"pt"`): or `"np"`.

        Returns:
            `BatchFeature`: `pixel_values`, a `Tensor` of shape `[B, T, 3, H, W]`.

        Raises:
            `ValueError`: no frames, clips of different lengths, or frames that are no RGB bytes.
        """
        clips = [[self.frame(frame) for frame in clip] for clip in _clips(videos)]
        lengths = sorted({len(clip) for clip in clips})
        if not clips or lengths[0] == 0:
            raise ValueError("expected clips of one frame or more, got none")
        if len(lengths) > 1:
            raise ValueError(f"clips of a batch must have the same length, got {', '.join(map(str, lengths))} frames")
        pixel_values = torch.stack([frame for clip in clips for frame in clip]).unflatten(0, (len(clips), -1))
        return BatchFeature({"pixel_values": pixel_values}, tensor_type=return_tensors)

    def frame(self, frame: Any) -> Tensor:
        """One frame, `[H, W, 3]` or a PIL image, as the model sees it: `[3, *image_size]`, fp32.

        Resized bilinearly, with a low-pass filter where it gets smaller.

        Raises:
            `ValueError`: no RGB bytes.
        """
        pixels = np.asarray(frame.convert("RGB") if isinstance(frame, Image.Image) else frame)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
            raise ValueError(f"a frame must be RGB bytes [H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
        values = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
        if list(values.shape[-2:]) != self.image_size:
            values = F.interpolate(
                values, size=tuple(self.image_size), mode="bilinear", align_corners=False, antialias=True
            )
        return (values[0] - torch.tensor(self.image_mean)[:, None, None]) / torch.tensor(self.image_std)[:, None, None]

    def post_process(self, logits: Any, size: Sequence[int] | None = None, *, kind: MapKind = "map") -> Tensor:
        """Log-densities as maps; what is resampled is the density, not its logarithm.

        Args:
            logits (`Tensor` of shape `[..., h, w]`, or a model's output): unnormalised log-densities.
            size (`tuple[int, int]`, *optional*): H and W of the maps; those of the logits when unset.
            kind (`str`, *optional*, defaults to `"map"`): `"map"`: the density over its peak, in 0 to 1; `"density"`:
                sums to 1; `"log_density"`: its natural logarithm.

        Returns:
            `Tensor` of shape `[..., H, W]`, fp32.

        Raises:
            `ValueError`: another kind.

        Example:

        ```python
        >>> processor = VideoSaliencyProcessor()
        >>> processor.post_process(torch.tensor([[1.0, 3.0]]).log())
        tensor([[0.3333, 1.0000]])
        ```
        """
        if kind not in ("map", "density", "log_density"):
            raise ValueError(f"kind must be map, density or log_density, got {kind!r}")
        logits = getattr(logits, "logits", logits)
        logs = resample_log_density(logits, logits.shape[-2:] if size is None else size)
        if kind == "log_density":
            return logs
        return (logs - logs.amax((-2, -1), keepdim=True)).exp() if kind == "map" else logs.exp()

    def to_integers(self, maps: Any, bits: Literal[8, 16] = 8) -> np.ndarray:
        """Maps as grey values for PNG files, the peak of each as the largest value; blank ones stay 0.

        Args:
            maps (`Tensor` or `np.ndarray` of shape `[..., H, W]`): not negative.
            bits (`int`, *optional*, defaults to 8): 8 or 16.

        Returns:
            `np.ndarray` of shape `[..., H, W]`, uint8 or uint16.

        Raises:
            `ValueError`: another number of bits.

        Example:

        ```python
        >>> VideoSaliencyProcessor().to_integers(torch.tensor([[0.0, 0.1, 0.2]]))
        array([[  0, 128, 255]], dtype=uint8)
        ```
        """
        if bits not in (8, 16):
            raise ValueError(f"bits must be 8 or 16, got {bits}")
        values = np.asarray(maps.cpu() if isinstance(maps, Tensor) else maps, np.float64)
        peaks = values.max((-2, -1), keepdims=True)
        scaled = values / np.where(peaks > 0, peaks, 1) * (2**bits - 1)
        return np.rint(scaled).astype(np.uint8 if bits == 8 else np.uint16)


def _clips(videos: Any) -> list:
    """One clip or several to a list of clips."""
    if isinstance(videos, np.ndarray | Tensor):
        if videos.ndim not in (4, 5):
            raise ValueError(f"a clip must have the shape [T, H, W, 3], got {list(videos.shape)}")
        return [videos] if videos.ndim == 4 else list(videos)
    videos = list(videos)
    first = videos[0] if videos else None
    is_frame = isinstance(first, Image.Image) or (isinstance(first, np.ndarray | Tensor) and first.ndim == 3)
    return [videos] if is_frame else videos


VideoSaliencyProcessor.register_for_auto_class()

__all__ = ["VideoSaliencyProcessor"]
