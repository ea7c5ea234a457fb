"""Saliency of a video file or a folder of frames, written as an overlay video or as maps in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import av
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ...data.video import open_frames
from ...errors import DataError, OutputFolderError
from ...files import staged, whole
from .figures import overlay
from .streaming import Streaming, stream_saliency

if TYPE_CHECKING:
    from .model.modeling_video_saliency import VideoSaliencyModel
    from .model.processing_video_saliency import VideoSaliencyProcessor

OVERLAY = "overlay.mp4"
MAP_FORMATS = ("png", "npy")
CODECS = ("libx264", "mpeg4")


def predict_video(
    model: VideoSaliencyModel,
    processor: VideoSaliencyProcessor,
    *,
    video: str | Path,
    out: str | Path,
    map_format: Literal["png", "npy"] = "png",
    streaming: Streaming | None = None,
) -> int:
    """Predict every frame of a video and write what was found; it appears whole or not at all.

    `OUT.mp4` is the video with the map over it. A folder gets `overlay.mp4`, `maps/0001.png` (16 bits, the peak of
    each frame is the largest value) or `maps/0001.npy` (fp32 density that sums to 1), and `density/0001.png` (8 bits,
    as benchmarks take them). Frames are numbered from 1.

    Args:
        model ([`VideoSaliencyModel`]): on the device it shall run on.
        processor ([`VideoSaliencyProcessor`]): its processor.
        video (`str` or `Path`): a video file, or a folder of images.
        out (`str` or `Path`): a name that ends in `.mp4`, or a folder; must not exist.
        map_format (`str`, *optional*, defaults to `"png"`): of the folder's `maps`, `"png"` or `"npy"`.
        streaming ([`Streaming`], *optional*): where shots begin, how often is predicted, how many windows at once.

    Returns:
        `int`: frames.

    Raises:
        [`OutputFolderError`]: `out` exists, or its parent does not.
        [`DataError`]: the video cannot be read.
        [`ConfigError`]: an option breaks its rule.
    """
    out = check_out(out)
    if map_format not in MAP_FORMATS:
        raise DataError(f"maps are written as one of {', '.join(MAP_FORMATS)}, got {map_format!r}")
    with open_frames(video) as reader, ExitStack() as open_files:
        # Answers come a little after their frames; `tee` keeps only the frames between.
        read, shown = tee(reader)
        densities = stream_saliency(model, processor, frames=read, streaming=streaming, kind="density")
        both = zip(shown, densities, strict=True)
        bar = tqdm(both, total=len(reader), unit="frame", disable=None)
        if out.suffix.lower() == ".mp4":
            return _write(bar, [open_files.enter_context(_overlay_file(out, reader.fps))])
        place = open_files.enter_context(staged(out))
        overlay = open_files.enter_context(_overlay_file(place / OVERLAY, reader.fps))
        return _write(bar, [overlay, _map_folder(place, map_format, processor)])


def check_out(out: str | Path) -> Path:
    """The place of the output, which must be free.

    Raises:
        [`OutputFolderError`]: it is not, has no parent folder, or is a video of another kind.
    """
    out = Path(out).expanduser().absolute()
    if out.exists():
        raise OutputFolderError(f"{out.name}: exists already; give another --out or remove it")
    if not out.parent.is_dir():
        raise OutputFolderError(f"{out.parent}: no such folder; make it first")
    if out.suffix.lower() in (".avi", ".mkv", ".mov", ".webm", ".gif"):
        raise OutputFolderError(f"{out.name}: videos are written as .mp4; a name without ending makes a folder")
    return out


Writer = Callable[[np.ndarray, np.ndarray], None]
"""Takes a frame `[H, W, 3]` and its density `[H, W]`."""


def _write(answers: Iterable[tuple[np.ndarray, np.ndarray]], writers: list[Writer]) -> int:
    count = 0
    for frame, density in answers:
        for write in writers:
            write(frame, density)
        count += 1
    return count


@contextmanager
def _overlay_file(path: Path, fps: float) -> Iterator[Writer]:
    with video_file(path, fps) as write:
        yield lambda frame, density: write(overlay(frame, density))


@contextmanager
def video_file(path: Path, fps: float, crf: int | None = None) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an MP4 frame by frame; it appears whole or not at all.

    Args:
        path (`Path`): of the file.
        fps (`float`): frames in a second.
        crf (`int`, *optional*): x264's constant rate factor, where smaller is better; its own when unset.

    Returns:
        A context that gives a callable for frames, uint8 `[H, W, 3]`, all of one size.
    """
    with whole(path) as beside, av.open(str(beside), "w", format="mp4") as container:
        codec = next(name for name in CODECS if name in av.codecs_available)
        options = {"crf": str(crf)} if crf is not None and codec == "libx264" else {}
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.pix_fmt = "yuv420p"

        def write(frame: np.ndarray) -> None:
            picture = _even(frame)
            if not stream.codec_context.is_open:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))

        yield write
        container.mux(stream.encode(None))


def _even(picture: np.ndarray) -> np.ndarray:
    """Rows and columns made even, as the codec's colours need, by repeating the last."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _map_folder(place: Path, map_format: str, processor: VideoSaliencyProcessor) -> Writer:
    maps, densities = place / "maps", place / "density"
    maps.mkdir()
    densities.mkdir()
    number = 0

    def write(frame: np.ndarray, density: np.ndarray) -> None:
        nonlocal number
        number += 1
        if map_format == "npy":
            np.save(maps / f"{number:04d}.npy", density)
        else:
            Image.fromarray(processor.to_integers(density, bits=16)).save(maps / f"{number:04d}.png")
        Image.fromarray(processor.to_integers(density)).save(densities / f"{number:04d}.png")

    return write


__all__ = ["overlay", "predict_video"]
