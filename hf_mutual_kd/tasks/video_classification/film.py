"""A video of which single frames are shown: in which stretch, in which part of the picture, and decoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from datasets import Value
from datasets.packaged_modules.videofolder.videofolder import VideoFolder
from torch import Tensor
from torchvision.transforms import v2

from ...config.rules import check_numbers
from ...data.file_columns import FILE, as_file, may_be_files
from ...data.inputs import Inputs
from ...data.video import open_frames
from ...data.views import draws_of
from ...errors import DataError


class Box(NamedTuple):
    """A part of a picture, in shares of its height and width, mirrored or not."""

    top: float = 0.0
    left: float = 0.0
    side: float = 1.0
    mirrored: bool = False


def even_frames(begin: int, count: int, wanted: int) -> list[int]:
    """
    Numbers of so many frames, evenly spaced in a stretch of `count`, as the processors of transformers take them.

    Example:
        >>> even_frames(10, 8, 4), even_frames(0, 3, 4)
        ([10, 12, 14, 16], [0, 0, 1, 2])
    """
    return [begin + place * count // wanted for place in range(wanted)]


@dataclass(frozen=True)
class Film:
    """
    A video, of which nothing is decoded until [`Film.loaded`].

    Args:
        source: what [`open_frames`] opens.
        count (`int`): frames of the stretch that is shown.
        fps (`float`): frames in a second.
        begin (`int`, *optional*, defaults to 0): where the stretch begins.
        box ([`Box`], *optional*): what is shown of each frame.
        color (callable, *optional*): changes all frames alike, uint8 `[T, 3, H, W]`.
    """

    source: Any
    count: int
    fps: float
    begin: int = 0
    box: Box = Box()
    color: Callable[[Tensor], Tensor] | None = None
    frames: Mapping[int, Tensor] = field(default_factory=dict)

    def loaded(self, counts: Sequence[int], max_side: int | None = None) -> Film:
        """With all frames that are needed to show these numbers of them, decoded and cut.

        Raises:
            [`DataError`]: a frame cannot be decoded.
        """
        numbers = sorted({number for wanted in counts for number in even_frames(self.begin, self.count, wanted)})
        with open_frames(self.source, max_side) as reader:
            pixels = reader.frames(numbers)
        height, width = pixels.shape[1:3]
        rows, columns = max(1, round(height * self.box.side)), max(1, round(width * self.box.side))
        top, left = int(self.box.top * (height - rows + 1)), int(self.box.left * (width - columns + 1))
        pixels = pixels[:, top : top + rows, left : left + columns]
        pixels = np.ascontiguousarray(pixels[:, :, ::-1] if self.box.mirrored else pixels)
        shown = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        shown = shown if self.color is None else self.color(shown)
        return replace(self, frames=dict(zip(numbers, shown, strict=True)))

    def shown(self, wanted: int) -> Tensor:
        """So many frames, uint8 `[T, 3, H, W]`."""
        return torch.stack([self.frames[number] for number in even_frames(self.begin, self.count, wanted)])


def read_film(value: Any) -> Film:
    """
    One cell of the video column; its index is read, no frame is decoded.

    Args:
        value: a video file's bytes or path, `{"bytes": …, "path": …}`, or a folder of frames; see [`open_frames`].

    Raises:
        [`DataError`]: no video, cut off, or empty.
    """
    if not isinstance(value, Mapping | bytes | str):
        kind = "nothing (null)" if value is None else type(value).__name__
        raise DataError(f"expected a video file's bytes or path, or a dict of both, got {kind}")
    with open_frames(value) as reader:
        return Film(value, len(reader), reader.fps)


def _may_be_video(feature: Any) -> bool:
    return may_be_files(feature, datasets.Video)


def _is_video(feature: Any) -> bool:
    return isinstance(feature, datasets.Video)


def _stored(feature: Any) -> Any:
    return datasets.Video(decode=False) if isinstance(feature, Value) else FILE


class _Black(Film):
    def loaded(self, counts: Sequence[int], max_side: int | None = None) -> Film:
        return replace(self, frames={0: torch.zeros(3, 32, 32, dtype=torch.uint8)})


def _blank() -> Film:
    return _Black(None, 1, 1.0).loaded(())


def _endings() -> frozenset[str]:
    return frozenset(VideoFolder.EXTENSIONS) | {".m4v", ".mpg", ".webm"}


FILMS = Inputs(
    "video",
    "video",
    read_film,
    _blank,
    _may_be_video,
    typical=_is_video,
    feature=_stored,
    cell=as_file,
    endings=_endings,
)
"""Video files, or their paths."""


class SharedStretch:
    """
    One random stretch of each video, and one random crop and flip of all its frames, the same for all peers.

    The draw depends on the seed, the epoch and the sample id alone. A crop keeps the picture's aspect.

    Args:
        seconds (`float`): how long a stretch is; shorter videos stay whole.
        min_area (`float`, *optional*, defaults to 0.6): smallest share of the area that a crop keeps.
        color_jitter (`float`, *optional*, defaults to 0.0): strength of brightness, contrast and saturation changes.
        seed (`int`, *optional*, defaults to 0): of all draws.

    Example:

    ```python
    >>> SharedStretch(2.0)(read_film("clip.mp4"), sample_id=17, epoch=2).count  # of 25 frames a second
    50
    ```
    """

    def __init__(self, seconds: float, min_area: float = 0.6, *, color_jitter: float = 0.0, seed: int = 0):
        check_numbers(seconds=seconds, min_area=min_area, color_jitter=color_jitter)
        self.seconds, self.min_area, self.seed = seconds, min_area, seed
        self.jitter = v2.ColorJitter(*(color_jitter,) * 3) if color_jitter else None

    def __call__(self, film: Film, sample_id: int, epoch: int) -> Film:
        count = min(film.count, max(1, round(self.seconds * film.fps)))
        with draws_of(self.seed, epoch, sample_id):
            begin = int(torch.randint(film.count - count + 1, ()))
            area, top, left, flip = torch.rand(4).tolist()
        side = (self.min_area + (1 - self.min_area) * area) ** 0.5
        color = partial(self._recolored, self.jitter, sample_id=sample_id, epoch=epoch) if self.jitter else None
        return replace(film, begin=begin, count=count, box=Box(top, left, side, flip < 0.5), color=color)

    def _recolored(self, jitter: v2.ColorJitter, frames: Tensor, *, sample_id: int, epoch: int) -> Tensor:
        with draws_of(self.seed, epoch, sample_id):
            return jitter(frames)
