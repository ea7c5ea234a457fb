"""Decodes a few frames of a video for `videos.py`: `python decode_video.py REQUEST` writes JSON, then pixels.

It is a process of its own because what anybody may have made goes through FFmpeg here: memory and time are bounded
before the file is opened, and what goes wrong ends this process and not the app.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from PIL import Image
from uploads import LONGEST_SHAPE
from videos import clip_frames

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
"""Known by what is in the file, not by its name. Play lists, which name other files, are not among them."""
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg")
DECODERS = "h264,hevc,vp8,vp9,libvpx,libvpx-vp9,av1,libdav1d,mpeg4,mjpeg"
MOST_FRAMES = 600
"""Frames from the start that are looked at: 20 seconds at 30 a second."""
MOST_PIXELS = 9_000_000
"""Of a frame, known before one is decoded: 4K has 8.3 million."""
MOST_SIDE = 640
"""Pixels; larger frames are shrunk."""
TARGETS = 3
MOST_MEMORY = 2_000_000_000
MOST_SECONDS = 40
"""Of the processor."""

NO_VIDEO = "This file is no video, or a damaged one, whatever its name says; send MP4, MOV, WebM, MKV or AVI."
NO_PICTURES = "There are no moving pictures in this file; send a video, not sound alone."
DAMAGED = "The video is damaged and cannot be decoded; send another one, or encode it again."


class Unfit(Exception):
    """The file cannot be used; the text is for the visitor."""


def bound() -> None:
    """Take away from this process what it does not need, where the system can; its time is also bounded outside."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, most in (("AS", MOST_MEMORY), ("CPU", MOST_SECONDS), ("FSIZE", 0), ("CORE", 0)):
        number = getattr(resource, f"RLIMIT_{kind}")
        allowed = resource.getrlimit(number)[1]
        limit = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
        with suppress(ValueError, OSError):  # macOS bounds no memory
            resource.setrlimit(number, (limit, limit))


def decode(path: str, offsets: Sequence[int], targets: Sequence[int] | None, cuts: Sequence[int]) -> dict[str, Any]:
    """What a [`~videos.Film`] is made of, `frames` with their numbers.

    Raises:
        [`Unfit`]: it cannot be used.
    """
    with open(path, "rb") as file:
        count, rate = look(file)
        found: dict[int, np.ndarray] = {}
        # Again where the file's index counts more frames than there are.
        for _ in range(2):
            shown = min(count, MOST_FRAMES)
            asked = [target for target in targets if target < shown] if targets is not None else spread(shown)
            wanted = {number for target in asked for number in clip_frames(target, offsets, shown, cuts)}
            found, there = keep(file, wanted)
            if not there:
                raise Unfit(NO_PICTURES)
            if wanted <= set(found):
                break
            count = there
        else:
            raise Unfit(DAMAGED)
    return {"frames": found, "count": shown, "targets": asked, "fps": rate, "goes_on": count > MOST_FRAMES}


def spread(count: int) -> list[int]:
    """Evenly spaced frames of so many."""
    return sorted({(2 * place + 1) * count // (2 * TARGETS) for place in range(TARGETS)})


def opened(file: Any) -> tuple[Any, Any]:
    """The container and its pictures, after all that can be checked without decoding has been.

    A file object, not a name: FFmpeg would take a name for an address of any of its protocols.
    """
    file.seek(0)
    options = {
        "format_whitelist": FORMATS,
        "codec_whitelist": DECODERS,
        "protocol_whitelist": "",
        "max_pixels": str(MOST_PIXELS),
    }
    try:
        container: Any = av.open(file, options=options)
    except (av.FFmpegError, OSError, ValueError):
        raise Unfit(NO_VIDEO) from None
    streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if not streams or streams[0].codec_context is None:
        raise Unfit(NO_PICTURES)
    context = streams[0].codec_context
    if context.codec.canonical_name not in CODECS:
        raise Unfit(f"The pictures are coded as {context.codec.canonical_name}; send {', '.join(CODECS)}.")
    check_shape(context.width, context.height)
    # The header's limit above does not bind a stream that changes its size on the way.
    context.options = {"max_pixels": str(MOST_PIXELS)}
    context.thread_count = 2
    return container, streams[0]


def check_shape(width: int, height: int) -> None:
    """Refuse frames that would fill the memory, now or when a processor has scaled them."""
    if width * height > MOST_PIXELS:
        raise Unfit(f"The video has {width:,} x {height:,} pixels; send one with at most 3840 x 2160.")
    if min(width, height) < 1:
        raise Unfit("The size of the video cannot be read: it is damaged, or has more than 3840 x 2160 pixels.")
    if max(width, height) > LONGEST_SHAPE * min(width, height):
        raise Unfit(f"One side of the video is more than {LONGEST_SHAPE} times the other; cut out a part of it.")


def look(file: Any) -> tuple[int, float]:
    """How many frames the index lists, counted a little beyond [`MOST_FRAMES`], and how many are in a second."""
    container, stream = opened(file)
    count = 0
    with container:
        for packet in container.demux(stream):
            count += packet.size > 0 and not packet.is_discard
            if count > MOST_FRAMES:
                break
        return count, float(stream.average_rate or 0)


def keep(file: Any, wanted: set[int]) -> tuple[dict[int, np.ndarray], int]:
    """These frames, upright and small, and how many were decoded, up to the last of them."""
    container, stream = opened(file)
    found: dict[int, np.ndarray] = {}
    there = 0
    with container:
        for number, frame in enumerate(pictures(container, stream)):
            there = number + 1
            if number in wanted:
                found[number] = small(frame)
                if found[number].shape != next(iter(found.values())).shape:
                    raise Unfit("The video changes its size on the way; send one whose frames have one size.")
            if there > max(wanted, default=-1):
                break
    return found, there


def pictures(container: Any, stream: Any) -> Iterator[Any]:
    """The first frames in the order of display."""
    number = 0
    for packet in container.demux(stream):
        for frame in packet.decode():
            check_shape(frame.width, frame.height)
            yield frame
            number += 1
            if number >= MOST_FRAMES:
                return


def small(frame: Any) -> np.ndarray:
    """Upright RGB of at most [`MOST_SIDE`] pixels a side."""
    pixels = as_displayed(frame.to_ndarray(format="rgb24"), frame.side_data.get(Type.DISPLAYMATRIX))
    longer = max(pixels.shape[:2])
    if longer <= MOST_SIDE:
        return pixels
    height, width = (max(1, round(side * MOST_SIDE / longer)) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def as_displayed(pixels: np.ndarray, matrix: Any) -> np.ndarray:
    """A frame `[H, W, 3]` turned and mirrored as its display matrix, nine int32, says, to the nearest quarter turn."""
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    swaps = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if swaps else (a, d)
    made = pixels.swapaxes(0, 1) if swaps else pixels
    made = made[:, ::-1] if across < 0 else made
    return np.ascontiguousarray(made[::-1] if down < 0 else made)


def respond(request: dict[str, Any]) -> dict[str, Any]:
    """What [`decode`] found, or `{"refused": …}` in words for the visitor."""
    try:
        return decode(**request)
    except Unfit as unfit:
        return {"refused": str(unfit)}
    except av.FFmpegError as error:
        print(error, file=sys.stderr)
        return {"refused": DAMAGED}


def main() -> None:
    bound()
    reply = respond(json.loads(sys.argv[1]))
    frames = reply.pop("frames", {})
    if frames:
        reply |= {"numbers": sorted(frames), "size": frames[min(frames)].shape[:2]}
    sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
    for number in sorted(frames):
        sys.stdout.buffer.write(frames[number].tobytes())


if __name__ == "__main__":
    main()
