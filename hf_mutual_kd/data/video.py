"""Frames of a video from a file, a folder of images or a row of a data set: by number, or one after the other."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from PIL import Image

from ..errors import DataError
from .frame_readers import UNKNOWN_FPS, FolderReader, VideoReader, frame_files

DISPLAY_MATRIX = Type.DISPLAYMATRIX
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,ogg,flv,asf,gif,ivf,nut,mxf,yuv4mpegpipe"
"""Formats that hold their own frames. Play lists (HLS, DASH, concat) are not read: they name other files."""


def _vp8_shows(packet: Any) -> bool:
    """The frame header's `show_frame` (RFC 6386, 9.1); hidden frames are only referred to."""
    return bool(bytes(packet)[0] >> 4 & 1)


def _vp9_shows(packet: Any) -> bool:
    """`show_existing_frame` or `show_frame` (VP9 bitstream, 6.2); a superframe ends with a frame that is shown."""
    content = bytes(packet)
    if content[-1] >> 5 == 0b110:
        return True
    bits = content[0] << 1 if content[0] >> 4 & 3 == 3 else content[0]  # Profile 3 has a bit more.
    return bool(bits >> 3 & 1 or bits >> 1 & 1)


SHOWN = {"vp8": _vp8_shows, "libvpx": _vp8_shows, "vp9": _vp9_shows, "libvpx-vp9": _vp9_shows}
"""By codec: whether a packet holds a frame that is shown."""


class FrameIndex(NamedTuple):
    """Times of all frames in the order of display, and of the key frames; no `keys` where frames can't be sought."""

    times: list[int]
    keys: list[int]

    def key_before(self, number: int) -> int:
        """Time of the last key frame that is not after a frame."""
        return self.keys[max(bisect_right(self.keys, self.times[number]) - 1, 0)]


class PyAVReader(VideoReader):
    """A video file or its bytes, decoded by PyAV. Random access seeks to the key frame before a frame."""

    def __init__(self, source: Path | bytes, name: str):
        self.name = name
        self._file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        try:
            # A file object, not a name: FFmpeg would take a name for a URL of any of its protocols.
            options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "", "max_pixels": str(_max_pixels())}
            self._container: Any = av.open(self._file, options=options)
        except av.FFmpegError as error:
            self._file.close()
            raise DataError(f"{name}: cannot be read as a video: {error.strerror or error}") from None
        self._opened = (self._container, self._file)
        try:
            self._stream = self._checked_stream()
        except DataError:
            self.close()
            raise
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else UNKNOWN_FPS
        self._index: FrameIndex | None = None
        self._moved = False

    def _checked_stream(self) -> Any:
        if not self._container.streams.video:
            raise DataError(f"{self.name}: holds no video stream")
        stream = self._container.streams.video[0]
        pixels = stream.codec_context.width * stream.codec_context.height
        if pixels > _max_pixels():
            raise DataError(
                f"{self.name}: frames of {pixels} pixels are more than PIL.Image.MAX_IMAGE_PIXELS = {_max_pixels()}"
            )
        # The header's limit above does not bind a stream that changes its size on the way.
        stream.codec_context.options = {"max_pixels": str(_max_pixels())}
        return stream

    @property
    def container(self) -> str:
        """FFmpeg's name of the file's format, e.g. `"avi"`."""
        return self._container.format.name

    @property
    def _promised(self) -> int:
        """Frames that the header counts: exactly in MP4, whose header lists them all; elsewhere 0, unknown."""
        return self._stream.frames if self.container.startswith("mov,") else 0

    @property
    def _timed(self) -> bool:
        """
        Whether packets say which frame is shown when.

        Those of AVI say when they are decoded; after a seek in an MPEG program stream FFmpeg guesses, and gives a
        neighbor.
        """
        reorders = bool(self._stream.codec_context.has_b_frames)
        return self.container != "mpeg" and not (self.container == "avi" and reorders)

    def __len__(self) -> int:
        return len(self.index.times)

    @property
    def index(self) -> FrameIndex:
        """Made on first use from the packets, without decoding where they carry their times."""
        if self._index is None:
            with self._as_data_error("the index"):
                self._index = self._made_index()
            if not self._index.times:
                raise DataError(f"{self.name}: holds no frames")
        return self._index

    def _made_index(self) -> FrameIndex:
        self._rewind()
        packets = [packet for packet in self._container.demux(self._stream) if packet.size]
        self._check_count(len(packets))
        is_shown = SHOWN.get(self._stream.codec_context.name, lambda packet: True)
        shown = [packet for packet in packets if not packet.is_discard and is_shown(packet)]
        times = sorted(packet.pts for packet in shown if packet.pts is not None)
        if shown and (not self._timed or len(set(times)) < len(shown)):
            return FrameIndex(list(range(sum(1 for _ in self._from_start()))), [])
        return FrameIndex(times, sorted(packet.pts for packet in shown if packet.is_keyframe))

    def _check_count(self, found: int) -> None:
        if found < self._promised:
            raise DataError(
                f"{self.name}: its header counts {self._promised} frames, but {found} are there; the file is cut off"
            )

    def _decoded(self, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        with self._as_data_error(f"frames {numbers[0]} to {numbers[-1]}"):
            missing = list(numbers)
            if self.index.keys:
                for key, group in groupby(numbers, self.index.key_before):
                    for number, frame in self._after_key(key, list(group)):
                        missing.remove(number)
                        yield number, frame
            if missing:
                wanted = set(missing)
                for number, frame in enumerate(self._from_start()):
                    if number in wanted:
                        yield number, _pixels(frame)
                    if number >= missing[-1]:
                        break

    def _after_key(self, key: int, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """What of `numbers` comes after a seek; a demuxer may land behind the key frame."""
        wanted = {self.index.times[number]: number for number in numbers}
        self._container.seek(key, stream=self._stream)
        for frame in self._container.decode(self._stream):
            if frame.pts in wanted:
                yield wanted.pop(frame.pts), _pixels(frame)
            if not wanted or (frame.pts is not None and frame.pts > max(wanted)):
                return

    def _from_start(self) -> Iterator[Any]:
        self._rewind()
        packets = 0
        for packet in self._container.demux(self._stream):
            packets += packet.size > 0
            yield from packet.decode()
        self._check_count(packets)

    def _rewind(self) -> None:
        """Back to the start; not on first use, as a file without frames cannot be sought."""
        if self._moved:
            self._container.seek(0)
        self._moved = True

    def __iter__(self) -> Iterator[np.ndarray]:
        number = -1
        with self._as_data_error("a frame"):
            for number, frame in enumerate(self._from_start()):
                yield self._checked(_pixels(frame), number)
        if number < 0:
            raise DataError(f"{self.name}: holds no frames")

    def _as_data_error(self, what: str) -> _AsDataError:
        return _AsDataError(self.name, what)


class _AsDataError:
    """Turns what a decoder raises into an error that names the file."""

    def __init__(self, name: str, what: str):
        self.name, self.what = name, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, av.FFmpegError | RuntimeError | IndexError | ValueError | EOFError) and not isinstance(
            error, DataError
        ):
            reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
            raise DataError(f"{self.name}: {self.what} cannot be decoded: {reason}") from error


def open_frames(
    source: str | Path | bytes | Mapping[str, Any] | Sequence[Path],
    max_side: int | None = None,
) -> VideoReader:
    """Open a video for random access and for going through all its frames in order.

    Args:
        source: a video file or a folder of frames (`str` or `Path`), the paths of frames in order, the bytes of a
            video file, or a row of `datasets.Video(decode=False)`: `{"path": …, "bytes": …}`.
        max_side (`int`, *optional*): frames whose longer side is longer are shrunk to it as they are decoded.

    Returns:
        [`VideoReader`].

    Raises:
        [`DataError`]: no such file or folder, empty, no video, a play list, more pixels in a
            frame than `PIL.Image.MAX_IMAGE_PIXELS` (names the file).

    Example:

    ```python
    >>> with open_frames("clip.mp4") as video:
    ...     past = video.frames([0, 0, 0, 1])  # [4, H, W, 3]
    ...     for frame in video:  # constant memory
    ...         ...
    ```
    """
    reader = _open(source)
    reader.max_side = max_side
    return reader


def _open(source: Any) -> VideoReader:
    if isinstance(source, Mapping):
        content, path = source.get("bytes"), source.get("path")
        if content is None and not path:
            raise DataError("the row has no video (neither bytes nor a path)")
        if content is None:
            return _open(str(path))
        name = Path(path).name if path else "video"
    elif isinstance(source, bytes):
        content, name = source, "video"
    elif isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.is_dir():
            return FolderReader(frame_files(path), str(path))
        if not path.is_file():
            raise DataError(f"{path}: no such video file or folder of frames")
        if not path.stat().st_size:
            raise DataError(f"{path}: the file is empty")
        return PyAVReader(path, str(path))
    else:
        return FolderReader(list(source), str(source[0].parent) if source else "frames")
    if not content:
        raise DataError(f"{name}: the video is empty (0 bytes)")
    return PyAVReader(bytes(content), name)


def _pixels(frame: Any) -> np.ndarray:
    """A decoded frame as upright RGB."""
    return as_displayed(frame.to_ndarray(format="rgb24"), frame.side_data.get(DISPLAY_MATRIX))


def as_displayed(pixels: np.ndarray, matrix: Any) -> np.ndarray:
    """
    A frame turned and mirrored as its display matrix says, to the nearest quarter turn.

    Args:
        pixels (`np.ndarray` `[H, W, 3]`): as decoded.
        matrix (bytes-like, *optional*): nine int32 `a b u c d v x y w`; a point `(x, y)` goes to
            `(a x + c y, b x + d y)` (ISO 14496-12, 6.2.2).

    Example:

    ```python
    >>> quarter = np.array([0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30], np.int32)
    >>> as_displayed(np.array([[[1], [2], [3]]]), quarter)[..., 0]
    array([[1],
           [2],
           [3]])
    ```
    """
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    swaps = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if swaps else (a, d)
    made = pixels.swapaxes(0, 1) if swaps else pixels
    made = made[:, ::-1] if across < 0 else made
    return np.ascontiguousarray(made[::-1] if down < 0 else made)


def _max_pixels() -> int:
    return Image.MAX_IMAGE_PIXELS or 2**31 - 1
