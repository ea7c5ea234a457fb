"""Videos that nobody should have to decode: too large, cut off, lying, without pictures."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from saliency_files import mp4

LARGE = (12_000, 12_000)


def jpegs(*sizes: tuple[int, int], claimed: tuple[int, int] = (64, 48), kind: str = "avi") -> bytes:
    """A video of grey JPEGs of these sizes, whose header claims another one."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=kind) as container:
        video = container.add_stream("mjpeg", rate=25)
        video.width, video.height = claimed
        video.pix_fmt = "yuvj420p"
        container.start_encoding()
        for number, size in enumerate(sizes):
            picture = io.BytesIO()
            Image.new("RGB", size, "grey").save(picture, "JPEG", quality=20)
            packet = av.Packet(picture.getvalue())
            packet.stream, packet.time_base = video, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            container.mux(packet)
    return stream.getvalue()


def sound() -> bytes:
    """An MP4 without pictures."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = container.add_stream("aac", rate=8000, layout="mono")
        for number in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts = 8000, 1024 * number
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return stream.getvalue()


def no_frames() -> bytes:
    """An MP4 whose header promises pictures."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    return stream.getvalue()


def scratched() -> bytes:
    """A video with other bytes in place of many of its pictures'."""
    content = bytearray(mp4())
    for place in range(content.index(b"mdat") + 4, content.index(b"moov") - 4, 3):
        content[place] ^= 0x5A
    return bytes(content)


def turned(content: bytes) -> bytes:
    """An MP4 that a phone has held on its side: to be shown turned clockwise by a quarter."""
    parts = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    straight, quarter = (b"".join(one.to_bytes(4, "big", signed=True) for one in matrix) for matrix in parts)
    at = content.index(straight, content.index(b"tkhd"))
    return content[:at] + quarter + content[at + len(quarter) :]


def hostile_videos(folder: Path) -> dict[str, str]:
    """Write them; what a visitor is told of each."""
    whole = mp4()
    files = {
        "text.mp4": (b"I am no video", "no video"),
        "empty.mp4": (b"", "no video"),
        "image.mp4": (b"\x89PNG\r\n\x1a\n" + bytes(99), "no video"),
        "list.mp4": (b"#EXTM3U\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n", "no video"),
        "concat.mp4": (b"ffconcat version 1.0\nfile clip.mp4\n", "no video"),
        "cut.mp4": (whole[: len(whole) // 2], "no video"),
        "scratched.mp4": (scratched(), "damaged"),
        "sound.mp4": (sound(), "no moving pictures"),
        "no_frames.mp4": (no_frames(), "no moving pictures"),
        "large_frames.avi": (jpegs(LARGE, claimed=LARGE), "more than 3840 x 2160"),
        "lies.avi": (jpegs(LARGE), "more than 3840 x 2160"),
        "lies_later.mkv": (jpegs((64, 48), LARGE, kind="matroska"), "damaged"),
        "grows.mkv": (jpegs((64, 48), (96, 48), kind="matroska"), "changes its size"),
        "long_side.mp4": (mp4(range(2), size=(16, 512)), "more than 10 times"),
        "rare.mkv": (mp4(range(2), codec="ffv1", kind="matroska"), "coded as ffv1"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    return {name: words for name, (_, words) in files.items()}
