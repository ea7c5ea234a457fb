"""A video with its gaze: frames, cuts, and the truth of every frame as a density and as fixation points."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....data.frame_readers import VideoReader
from ....data.video import open_frames
from ....errors import DataError
from .clips import shot_of
from .fixation_files import read_fixations
from .fixations import FixationList, fixation_density, fixation_points
from .map_files import read_map


class Truth(ABC):
    """Where people looked in each frame of a video."""

    @abstractmethod
    def density(self, frame: int) -> np.ndarray:
        """Float32 `[H, W]` that sums to 1; 0 everywhere where nobody looked."""

    @abstractmethod
    def points(self, frame: int) -> np.ndarray:
        """Float32 `[K, 2]`: row and column of every fixation, in pixels of the density."""


@dataclass(frozen=True)
class FolderTruth(Truth):
    """Maps as grey images; fixations as images or as Matlab files whose key `I` is a map."""

    maps: Sequence[Path]
    fixations: Sequence[Path]
    maxima: bool = False
    """Whether fixations are local maxima of greys, see [`read_fixations`]."""

    def density(self, frame: int) -> np.ndarray:
        return as_density(_read(self.maps[frame]))

    def points(self, frame: int) -> np.ndarray:
        file = self.fixations[frame]
        marked, size = _named(file, lambda: read_fixations(file, self.maxima)), _read(self.maps[frame]).shape
        if marked.shape != size:
            raise DataError(f"{file}: {marked.shape} pixels, but the map {self.maps[frame].name} has {size}")
        return fixation_points(marked)


@dataclass(frozen=True)
class PointTruth(Truth):
    """Fixation points of every frame; the density is a Gaussian of `sigma` pixels at each."""

    fixations: FixationList
    size: tuple[int, int]
    sigma: float

    def density(self, frame: int) -> np.ndarray:
        return fixation_density(self.points(frame), self.size, sigma=self.sigma)

    def points(self, frame: int) -> np.ndarray:
        return self.fixations[frame]


@dataclass(frozen=True)
class MapVideoTruth(Truth):
    """Maps as the frames of a grey video, fixation points of every frame."""

    maps: Path
    fixations: FixationList

    def density(self, frame: int) -> np.ndarray:
        with open_frames(self.maps) as video:
            return as_density(video.frames([frame])[0].mean(-1, dtype=np.float32))

    def points(self, frame: int) -> np.ndarray:
        return self.fixations[frame]


@dataclass(frozen=True)
class LazyRow:
    """The video of one row of a `datasets.Dataset` (column `video`), read when needed; paths stay inside `roots`."""

    dataset: Any
    row: int
    roots: tuple[Path, ...]

    def read(self) -> Any:
        """`{"bytes": …, "path": …}`, or the path of a file that lies in the data set's folder.

        Raises:
            [`DataError`]: the row names a file elsewhere.
        """
        value = self.dataset[self.row]["video"]
        value = {"path": value} if isinstance(value, str) else dict(value or {})
        if value.get("bytes") is not None or not value.get("path"):
            return value
        for root in self.roots:
            path = (root / value["path"]).resolve()
            if path.is_relative_to(root.resolve()):
                return path
        raise DataError(f"the video {value['path']!r} lies outside the data set's folder; such files are not read")


@dataclass(frozen=True)
class SaliencyVideo:
    """One video of a data set.

    Args:
        name (`str`): unique in the data set, usable as a file's name.
        source: what [`open_frames`] takes, or a [`LazyRow`].
        length (`int`): frames.
        truth ([`Truth`], *optional*): of every frame; `None` where no gaze was recorded.
        cuts (`tuple[int, ...]`, *optional*): numbers of frames that begin a new shot.
    """

    name: str
    source: Any
    length: int
    truth: Truth | None
    cuts: tuple[int, ...] = ()

    @property
    def has_gaze(self) -> bool:
        """Whether it was recorded where people looked, be it nowhere."""
        return self.truth is not None

    def open(self, max_side: int | None = None) -> VideoReader:
        """A reader of its frames; close it."""
        source = self.source.read() if isinstance(self.source, LazyRow) else self.source
        return open_frames(source, max_side)

    def shot(self, frame: int) -> range:
        """The frames between the two cuts around a frame."""
        return shot_of(frame, self.length, self.cuts)


def as_density(values: np.ndarray) -> np.ndarray:
    """Non-negative `[H, W]` scaled to sum to 1 as float32, or 0 everywhere."""
    total = values.sum(dtype=np.float64)
    return (values / total if total > 0 else np.zeros_like(values)).astype(np.float32)


def check_aspect(size: tuple[int, int], frame: tuple[int, int]) -> None:
    """
    Refuse a truth that is not of its frames.

    Args:
        size (`tuple[int, int]`): H and W of the truth.
        frame (`tuple[int, int]`): those of the frames, which may be larger or smaller.

    Raises:
        [`DataError`]: heights and widths are in another proportion, by more than 3 % and than a pixel.
    """

    def fits(height: int, width: int) -> bool:
        product = height * frame[1]
        return abs(product - width * frame[0]) <= max(0.03 * product, *frame)

    if not fits(*size):
        turned = "; it looks like [W, H], expected [H, W]" if fits(size[1], size[0]) else ""
        raise DataError(
            f"the size of the gaze is {size[0]} x {size[1]} (height x width), of another aspect than the frames' "
            f"{frame[0]} x {frame[1]}{turned}"
        )


def _read(file: Path) -> np.ndarray:
    """A map as float32 `[H, W]`."""
    return _named(file, lambda: read_map(file).astype(np.float32))


def _named(file: Path, read: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return read()
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
