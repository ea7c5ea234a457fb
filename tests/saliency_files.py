"""Tiny videos and data sets with gaze for the tests: the brightness of a frame tells its number."""

import io
from pathlib import Path

import av
import numpy as np
from PIL import Image

H, W = 48, 64
STEP = 10


def picture(number: int, height: int = H, width: int = W) -> np.ndarray:
    """Grey of `number * STEP`, with a black top left quarter to tell sides apart."""
    pixels = np.full((height, width, 3), number * STEP, np.uint8)
    pixels[: height // 2, : width // 2] = 0
    return pixels


def numbers_of(frames) -> list[int]:
    """Which frames these are, by the brightness of the bottom right corner."""
    return [round(float(np.asarray(frame)[-8:, -8:].mean()) / STEP) for frame in frames]


def mp4(frames=range(20), codec="libx264", kind="mp4", gop=6, size=(H, W)) -> bytes:
    """A video of the pictures of these numbers, with B-frames and a key frame every `gop`."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=kind) as container:
        video = container.add_stream(codec, rate=25, options={"qmin": "2", "qmax": "2"} if codec == "mpeg4" else {})
        video.height, video.width = size
        video.pix_fmt = "yuv444p" if codec == "ffv1" else "yuv420p"
        video.codec_context.gop_size = gop
        for number in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")))
        container.mux(video.encode())
    return stream.getvalue()


def save_grey(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def fixated(number: int) -> np.ndarray:
    """One fixation, at row 1 and column `number` of the frame."""
    pixels = np.zeros((H, W), np.uint8)
    pixels[1, number] = 255
    return pixels


def gaze_folder(folder: Path, frames=range(1, 6), name: str = "{:04d}", matlab: bool = False) -> Path:
    """A clip folder `{images,maps,fixation}` with a map whose brightest pixel is the fixation."""
    for number in frames:
        stem = name.format(number)
        save_grey(folder / "images" / f"{stem}.png", picture(number))
        save_grey(folder / "maps" / f"{stem}.png", fixated(number))
        if matlab:
            from scipy.io import savemat

            (folder / "fixation" / "maps").mkdir(parents=True, exist_ok=True)
            savemat(folder / "fixation" / "maps" / f"{stem}.mat", {"I": fixated(number) // 255})
        else:
            save_grey(folder / "fixation" / f"{stem}.png", fixated(number))
    return folder
