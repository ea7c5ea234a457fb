"""Peak memory of dense transfer and scores, time of a segmentation metric and the input pipeline, against their bars.

    python tests/benchmarks/bench_dense.py [--quick]

Two peers with 150 classes on 4 images of 512 x 512, fp32, one thread. Memory is how far the peak resident set is above
what was resident with the peers' maps in place, through forward and backward, gradients of those maps included; each
in a process of its own that gives freed blocks back at once (MALLOC_MMAP_THRESHOLD_), which makes the CPU time beside
it longer than it is in use. The input pipeline reads PNG files of image and mask, in a batch of 4 with crops of 512
pixels: images in a second of several peers, against what the processors that differ take alone. A FAIL makes the exit
status 1.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from bench_training import alternate
from PIL import Image
from torch import Tensor
from transformers import Mask2FormerImageProcessor, SegformerImageProcessor

from hf_mutual_kd import SegmentationScores, transfer_loss
from hf_mutual_kd.tasks.semantic_segmentation.collator import DenseCollator
from hf_mutual_kd.tasks.semantic_segmentation.scores import image_scores
from hf_mutual_kd.tasks.semantic_segmentation.transfer import Grid, mean_over_pixels
from hf_mutual_kd.tasks.semantic_segmentation.view import DenseView

CLASSES, IMAGES, PIXELS = 150, 4, 512
IMAGE_BAR_MS = 15.0
IMAGES_EVALUATED = 500
INPUT_BAR = 0.9
"""Least images in a second of several peers with one processor, as a share of one peer's."""


class Case(NamedTuple):
    """One row of the table: what is measured on peers of which strides; a bar of None is shown without a verdict."""

    name: str
    work: str
    strides: tuple[int, ...]
    at_label_size: bool = False
    chunk_rows: int | None = None
    bar_gib: float | None = None


CASES = [
    Case("transfer at stride 4", "transfer", (4, 4), bar_gib=0.5),
    Case("transfer at label size, peers of stride 4", "transfer", (4, 4), True, bar_gib=1.5),
    Case("transfer at label size, 32 rows", "transfer", (4, 4), True, 32, 1.5),
    Case("transfer at label size, peers of stride 1", "transfer", (1, 1), True, bar_gib=1.5),
    Case("transfer at stride 4, peers of stride 1, 4", "transfer", (1, 4)),
    Case("scores at label size, peers of stride 4", "scores", (4, 4), True, bar_gib=0.5),
    Case("transfer at label size, not chunked", "transfer", (4, 4), True, PIXELS),
    Case(f"metric over {IMAGES_EVALUATED} images", "metric", (), bar_gib=0.3),
]


def inputs(strides: tuple[int, ...], images: int = IMAGES, pixels: int = PIXELS) -> tuple[list[Tensor], Tensor]:
    """Maps that need a gradient, and labels of which a border is ignored."""
    generator = torch.Generator().manual_seed(0)
    peers = []
    for stride in strides:
        z = torch.empty(images, CLASSES, pixels // stride, pixels // stride)
        peers.append(z.normal_(generator=generator).requires_grad_())
    labels = torch.randint(CLASSES, (images, pixels, pixels), generator=generator)
    labels[:, :, pixels - pixels // 8 :] = 255
    return peers, labels


def pull(live: list[Tensor], said: None, cells: Tensor, classes: None) -> Tensor:
    """What every cell costs its students."""
    return transfer_loss(live, cells)


def run(case: Case, peers: list[Tensor], labels: Tensor) -> None:
    size = tuple(labels.shape[1:]) if case.at_label_size else None
    if case.work == "transfer":
        teacher = torch.arange(len(labels)) % len(peers)
        loss = mean_over_pixels(pull, peers, teacher, labels, grid=Grid(size, chunk_rows=case.chunk_rows))
        loss.sum(dim=0).mean().backward()
    elif case.work == "scores":
        image_scores(peers, labels, size=size, chunk_rows=case.chunk_rows)
    else:
        metric = SegmentationScores(CLASSES)
        for _ in range(IMAGES_EVALUATED if len(labels) > 1 else 1):
            metric.add_batch(predictions=labels[0].clamp(max=CLASSES - 1), references=labels[0])
        metric.compute()


def measure(case: Case) -> tuple[float, float]:
    """The child's work, GiB and seconds; a tiny run before, so that code and thread pools are not counted."""
    run(case, *inputs(tuple(1 for _ in case.strides), 1, 8))
    peers, labels = inputs(case.strides)
    before, start = resident_kib("VmRSS"), time.process_time()
    run(case, peers, labels)
    return (resident_kib("VmHWM") - before) / 2**20, time.process_time() - start


def resident_kib(field: str) -> int:
    """VmRSS or the peak, VmHWM, of this process; `ru_maxrss` will not do, as a child starts with its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise OSError(f"no {field} in /proc/self/status: peak memory can only be measured on Linux")


def image_ms() -> float:
    """Median milliseconds that the metric takes for one image."""
    generator = torch.Generator().manual_seed(0)
    guess, truth = (torch.randint(CLASSES, (PIXELS, PIXELS), generator=generator) for _ in range(2))
    metric, spent = SegmentationScores(CLASSES), []
    for _ in range(31):
        start = time.process_time()
        metric.add_batch(predictions=guess, references=truth)
        spent.append(time.process_time() - start)
    return 1000 * statistics.median(spent[1:])


def file_rows() -> list[dict]:
    """Smooth images with a little noise, and masks of blocks, as PNG files of 640 x 480."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(IMAGES):
        small = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        image = np.asarray(small.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
        image = (image + generator.integers(-4, 5, image.shape)).clip(0, 255).astype(np.uint8)
        mask = generator.integers(0, CLASSES, (12, 16), dtype=np.uint8).repeat(40, axis=0).repeat(40, axis=1)
        files = [{"bytes": png(array), "path": None} for array in (image, mask)]
        rows.append({"image": files[0], "label": files[1], "sample_id": index})
    return rows


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def bench_input(repeats: int) -> bool:
    """Speed of the input of several peers, as a share of what their different processors allow."""
    per_pixel, queries = SegformerImageProcessor(), Mask2FormerImageProcessor()
    peers = {
        "one": {"a": per_pixel},
        "four": dict.fromkeys("abcd", per_pixel),
        "one beside": {"a": per_pixel, "m2f": queries},
        "four beside": dict.fromkeys("abcd", per_pixel) | {"m2f": queries},
    }
    collators = {}
    for name, processors in peers.items():
        collators[name] = DenseCollator(processors, DenseView(PIXELS))
        collators[name].label_names = [str(index) for index in range(CLASSES)]
    rows = file_rows()
    seconds = alternate({name: (lambda made=made: made(rows)) for name, made in collators.items()}, repeats)
    print(
        f"input, one peer: {1000 * seconds['one'] / IMAGES:.0f} ms an image; Mask2Former beside it adds "
        f"{1000 * (seconds['one beside'] - seconds['one']) / IMAGES:.0f} ms"
    )
    held = []
    for what, suffix in (("4 per-pixel peers / 1", ""), ("4 and Mask2Former / 1 and Mask2Former", " beside")):
        ratio = seconds[f"one{suffix}"] / seconds[f"four{suffix}"]
        held.append(ratio >= INPUT_BAR)
        print(f"images/s, {what:<40}{ratio:6.2f} x (bar {INPUT_BAR:g} {'PASS' if held[-1] else 'FAIL'})", flush=True)
    return all(held)


def verdict(value: float, bar: float | None, unit: str) -> tuple[str, bool]:
    if bar is None:
        return f"{value:6.2f} {unit}", True
    return f"{value:6.2f} {unit} (bar {bar:g} {'PASS' if value <= bar else 'FAIL'})", value <= bar


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the rows that have a bar")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.child is not None:
        print(json.dumps(measure(CASES[options.child])))
        return 0
    text, passed = verdict(image_ms(), IMAGE_BAR_MS, "ms")
    print(f"{'metric, one image':<46}{text}", flush=True)
    passed = bench_input(5 if options.quick else 15) and passed
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    for index, case in enumerate(CASES):
        if options.quick and case.bar_gib is None:
            continue
        command = [sys.executable, __file__, "--child", str(index)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        gib, seconds = json.loads(done.stdout)
        text, kept = verdict(gib, case.bar_gib, "GiB")
        passed = passed and kept
        print(f"{case.name:<46}{text:<32}{seconds:7.1f} s", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
