"""Saliency: what caching features of frames saves, memory over a long video, speed of the small model and of input.

    python tests/benchmarks/bench_saliency.py [--quick] [--frames N]

Random weights and frames of noise; input is read from compressed videos, in clips of 16 frames for a batch of 2. A
FAIL makes the exit status 1.
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import time
from collections.abc import Iterator

import av
import numpy as np
import torch
from bench_training import alternate
from PIL import Image
from transformers import ConvNextConfig

from hf_mutual_kd import (
    ClipRows,
    Streaming,
    VideoSaliencyConfig,
    VideoSaliencyModel,
    VideoSaliencyProcessor,
    stream_saliency,
)
from hf_mutual_kd.tasks.video_saliency.collator import ClipCollator
from hf_mutual_kd.tasks.video_saliency.data.clip_rows import ClipView
from hf_mutual_kd.tasks.video_saliency.data.truth import PointTruth, SaliencyVideo

FRAMES = 16
LEAST_GAIN = 3.0
"""How many times as fast a frame must be when features of frames are kept."""
LARGEST_DIFFERENCE = 1e-5
"""Between maps from kept features and from whole windows."""
INPUT_BAR = 0.9
"""Least clips in a second of 4 peers with one processor, as a share of one peer's."""
MOST_GROWTH = 100
"""MB; what a video of any length may add."""


def noise(count: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Frames of one shot, made one after the other."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        yield generator.integers(0, 256, (*size, 3), dtype=np.uint8)


def framewise(size: tuple[int, int], widths: list[int], depths: list[int], channels: list[int]) -> VideoSaliencyModel:
    """A ConvNeXt on every frame."""
    encoder = ConvNextConfig(hidden_sizes=widths, depths=depths, out_indices=[1, 2, 3, 4])
    config = VideoSaliencyConfig(
        encoder_type="frame_backbone",
        encoder_config=encoder,
        num_frames=FRAMES,
        image_size=size,
        decoder_channels=channels,
    )
    torch.manual_seed(0)
    return VideoSaliencyModel(config).eval()


def seconds_per_frame(model: VideoSaliencyModel, size: tuple[int, int], count: int) -> tuple[float, list[np.ndarray]]:
    """Time of a frame and the maps, after the first frame (which fills caches and allocates)."""
    processor = VideoSaliencyProcessor.for_model(model.config)
    stream = stream_saliency(model, processor, frames=noise(count + 1, size), streaming=Streaming(cut_threshold=None))
    maps = [next(stream)]
    began = time.perf_counter()
    maps += stream
    return (time.perf_counter() - began) / count, maps


def verdict(holds: bool) -> str:
    """How a line ends."""
    return "ok" if holds else "FAIL"


def bench_cache(size: tuple[int, int], count: int) -> bool:
    """ConvNeXt-T's features kept for every frame, against 16 of them encoded for every map."""
    model = framewise(size, [96, 192, 384, 768], [3, 3, 9, 3], [192, 96, 48, 24])
    model.encoder.framewise = False
    again, expected = seconds_per_frame(model, size, count)
    model.encoder.framewise = True
    cached, maps = seconds_per_frame(model, size, count)
    difference = max(np.abs(a - b).max() for a, b in zip(maps, expected, strict=True))
    print(f"ConvNeXt-T {size[0]} x {size[1]}, T = {FRAMES}: {cached:.3f} s a frame cached, {again:.3f} s not")
    holds = again / cached >= LEAST_GAIN and difference <= LARGEST_DIFFERENCE
    print(
        f"caching: {again / cached:.1f} times as fast (bar {LEAST_GAIN:.0f}), largest difference of a map "
        f"{difference:.1e} (bar {LARGEST_DIFFERENCE:.0e}): {verdict(holds)}"
    )
    return holds


def bench_memory(count: int) -> bool:
    """Peak memory over a long video of small frames, after its first tenth."""
    size = (32, 32)
    model = framewise(size, [8, 8, 12, 16], [1, 1, 1, 1], [16, 12, 8, 8])
    processor = VideoSaliencyProcessor.for_model(model.config)
    began, before = time.perf_counter(), 0.0
    for number, _ in enumerate(stream_saliency(model, processor, frames=noise(count, size))):
        if number == count // 10:
            before = peak_mb()
    growth = peak_mb() - before
    took = time.perf_counter() - began
    holds = growth <= MOST_GROWTH
    print(f"{count} frames: peak memory grew by {growth:.1f} MB (bar {MOST_GROWTH}) in {took:.0f} s: {verdict(holds)}")
    return holds


def bench_small(size: tuple[int, int]) -> None:
    """One clip through the default model (S3D)."""
    model = VideoSaliencyModel(VideoSaliencyConfig(image_size=size)).eval()
    clip = torch.randn(1, FRAMES, 3, *size)
    with torch.no_grad():
        model(clip)
        began = time.perf_counter()
        model(clip)
    took = time.perf_counter() - began
    print(
        f"S3D, {model.num_parameters() / 1e6:.2f} M parameters, {FRAMES} x {size[0]} x {size[1]}: {took:.2f} s a clip"
    )


def video_file(frames: int, size: tuple[int, int]) -> bytes:
    """A picture that drifts, as H.264."""
    small = np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            frame = np.ascontiguousarray(np.roll(picture, 4 * number, axis=1))
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
    return stream.getvalue()


def bench_input(repeats: int) -> bool:
    """Speed of the input of 4 peers with one processor, as a share of one peer's."""
    size, length = (360, 640), 2 * FRAMES
    content = video_file(length, size)
    gaze = PointTruth([np.array([[number, number]], np.float32) for number in range(length)], size, 20.0)
    rows = ClipRows([SaliencyVideo(name, content, length, gaze) for name in ("first", "second")])
    processor = VideoSaliencyProcessor(num_frames=FRAMES)
    batch = [rows[0], rows[1]]
    one, four = (ClipCollator(dict.fromkeys(names, processor), ClipView()) for names in ("a", "abcd"))
    seconds = alternate({"one": lambda: one(batch), "four": lambda: four(batch)}, repeats)
    ratio = seconds["one"] / seconds["four"]
    print(
        f"input, one peer: {1000 * seconds['one'] / len(batch):.0f} ms a clip; clips/s of 4 peers with one processor "
        f"/ 1 peer: {ratio:.2f} x (bar {INPUT_BAR:g}): {verdict(ratio >= INPUT_BAR)}"
    )
    return ratio >= INPUT_BAR


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Run all four; 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the long video")
    parser.add_argument("--frames", type=int, default=10_000, help="length of the long video")
    parser.add_argument("--size", type=int, nargs=2, default=(112, 192), help="height and width for the timing")
    parser.add_argument("--timed", type=int, default=8, help="frames that are timed")
    options = parser.parse_args()
    size = (options.size[0], options.size[1])
    bench_small(size)
    held = [bench_input(5 if options.quick else 15), bench_cache(size, options.timed)]
    held += [bench_memory(options.frames // (10 if options.quick else 1))]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
