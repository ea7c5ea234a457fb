"""Readers of videos: what all of them do, and the one of image folders."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError
from .images import decode_image

FRAME_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
UNKNOWN_FPS = 30.0


class VideoReader(ABC):
    """Frames of one video: iterate over it for all frames in order with constant memory, or ask for some by number.

    Open with [`open_frames`], close with `with`. A reader is for one thread.

    Attributes:
        name (`str`): the file's name, for messages.
        fps (`float`): frames in a second; 30 where the file does not say.
    """

    name: str
    fps: float
    max_side: int | None = None
    _shape: tuple[int, ...] | None = None
    _opened: tuple[Any, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of frames, exact: from the file's index where it has one."""

    @abstractmethod
    def _decoded(self, numbers: list[int]) -> Iterable[tuple[int, np.ndarray]]:
        """The frames of ascending, different numbers, each with its number, before they are made smaller."""

    @abstractmethod
    def __iter__(self) -> Iterator[np.ndarray]:
        """All frames in order, uint8 `[H, W, 3]`."""

    def close(self) -> None:
        """Let go of the file."""
        for file in self._opened:
            file.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def frames(self, numbers: Sequence[int]) -> np.ndarray:
        """Frames by number, each decoded once however often it is asked for.

        Args:
            numbers (`Sequence[int]`): N numbers from 0, in any order, repeated or not.

        Returns:
            `np.ndarray`: uint8 `[N, H, W, 3]`, RGB, upright.

        Raises:
            [`DataError`]: there is no such frame, or it cannot be decoded (names the file).
        """
        wanted = sorted(set(numbers))
        if not wanted or wanted[0] < 0 or wanted[-1] >= len(self):
            raise DataError(f"{self.name}: frames {wanted[:1]} to {wanted[-1:]} were asked for, it has {len(self)}")
        found = {number: self._checked(frame, number) for number, frame in self._decoded(wanted)}
        missing = next((number for number in wanted if number not in found), None)
        if missing is not None:
            raise DataError(f"{self.name}: frame {missing} of {len(self)} cannot be decoded; the file is damaged")
        return np.stack([found[number] for number in numbers])

    def _checked(self, frame: np.ndarray, number: int) -> np.ndarray:
        """The frame, shrunk to `max_side`; all frames of a video have one size."""
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            raise DataError(
                f"{self.name}: frame {number} has {frame.shape[0]} x {frame.shape[1]} pixels, the others "
                f"{self._shape[0]} x {self._shape[1]}; all frames of a video must have one size"
            )
        height, width = frame.shape[:2]
        scale = (self.max_side or max(height, width)) / max(height, width)
        if scale >= 1:
            return frame
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))


class FolderReader(VideoReader):
    """A video as image files, in numeric order: `frame2.png` comes before `frame10.png`."""

    def __init__(self, files: Sequence[Path], name: str):
        if not files:
            raise DataError(f"{name}: the folder holds no frames ({', '.join(sorted(FRAME_ENDINGS))})")
        self.files, self.name, self.fps = files, name, UNKNOWN_FPS

    def __len__(self) -> int:
        return len(self.files)

    def _decoded(self, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for number in numbers:
            yield number, read_image(self.files[number])

    def __iter__(self) -> Iterator[np.ndarray]:
        for number, file in enumerate(self.files):
            yield self._checked(read_image(file), number)


def frame_files(folder: Path) -> list[Path]:
    """The images of a folder in numeric order, hidden files left out."""
    return sorted(
        (file for file in folder.iterdir() if file.suffix.lower() in FRAME_ENDINGS and not file.name.startswith(".")),
        key=lambda file: (natural_key(file.name), file.name),
    )


def read_image(file: Path) -> np.ndarray:
    """An image file as uint8 `[H, W, 3]`.

    Raises:
        [`DataError`]: it is missing or cannot be decoded (names the file).
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    return np.asarray(decode_image({"bytes": file.read_bytes(), "path": str(file)}))


def natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """Order in which `"clip_2"` precedes `"clip_10"`.

    Example:
        >>> sorted(["10", "9", "1b", "1a"], key=natural_key)
        ['1a', '1b', '9', '10']
    """
    parts = re.findall(r"([0-9]+)|([^0-9]+)", name)
    return tuple((int(number), "") if number else (-1, text) for number, text in parts)
