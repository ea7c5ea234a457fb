"""Make the embedded synthetic gaze data: `python recipes/embedded_saliency/make_data.py`.

Scenes, motion and gaze are all made, by the law that `README.md` beside this file tells. Running it twice with the
same libraries gives byte-identical files.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, List, Value, Video
from PIL import Image

from hf_mutual_kd import whole

HERE = Path(__file__).resolve().parent
SPRITES = HERE.parent / "embedded" / "fashion_mnist"

SEED = 20251022
CLIPS = {"train": 120, "validation": 20, "test": 40}
HEIGHT, WIDTH, FPS = 64, 112, 25
LENGTHS = (32, 48)
CUT_SHARE = 0.25

OBSERVERS = 15
LAG, LAG_SD = 6, 1.0
"""Frames between what happens and what an observer does about it, and how much observers differ."""

RECHOOSE = 1 / 8
"""Chance in each frame that an observer looks for another target: fixations of 8 frames (0.3 s) on average."""

SIGMA = 4.0
"""Pixels of one degree, the frame being 28 degrees wide: the Gaussian that makes densities of fixations."""

FIXATION_SD, TREMOR_SD = 2.0, 0.7
BLINKS = 0.03
ATTRACTIVE = {5, 7, 8, 9}
"""Fashion-MNIST's Sandal, Sneaker, Bag and Ankle boot draw gaze; clothes do not."""

CLASS_PULL, ONSET_PULL, MOTION_PULL, CENTRE_PULL, ELSEWHERE_PULL = 2.2, 3.0, 0.5, 0.5, -0.5
ONSET_DECAY = 8
"""Frames after which the pull of a motion's onset is down to 1/e."""

FEATURES = Features(
    {
        "name": Value("string"),
        "video": Video(),
        "fixations": List(List(List(Value("uint8")))),
        "size": List(Value("int32")),
        "sigma": Value("float32"),
        "cuts": List(Value("int32")),
    }
)


@dataclass
class Sprite:
    """One thing in a scene: its picture, its class, and where its middle is in every frame of the shot."""

    alpha: np.ndarray
    color: np.ndarray
    kind: int
    places: np.ndarray
    onset: int
    stop: int


@dataclass
class Shot:
    """A still background and the sprites before it."""

    background: np.ndarray
    sprites: list[Sprite]
    length: int


def make_background(rng: np.random.Generator) -> np.ndarray:
    """A still scene, `[H, W, 3]` in 0..1: coloured 1/f noise and a few blurred, motionless shapes.

    Double precision here and in `draw`: in single precision numpy's results differ from run to run by the last bit,
    often enough to change a pixel.
    """
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.fftfreq(WIDTH)[None]) + 1 / WIDTH
    spectrum = rng.normal(size=(3, HEIGHT, WIDTH)) / frequency ** rng.uniform(0.9, 1.5)
    noise = np.fft.ifft2(spectrum * np.exp(2j * np.pi * rng.random((3, HEIGHT, WIDTH)))).real
    noise /= noise.std(axis=(1, 2), keepdims=True)
    mixed = 0.8 * noise[:1] + 0.2 * noise
    scene = np.moveaxis(rng.uniform(0.25, 0.6, (3, 1, 1)) + 0.07 * mixed, 0, -1)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for _ in range(rng.integers(3, 7)):
        middle, radius = rng.uniform(0, 1, 2) * [HEIGHT, WIDTH], rng.uniform(4, 12, 2)
        distance = np.maximum(abs(y - middle[0]) / radius[0], abs(x - middle[1]) / radius[1])
        if rng.random() < 0.5:
            distance = np.hypot((y - middle[0]) / radius[0], (x - middle[1]) / radius[1])
        cover = 0.7 / (1 + np.exp(np.clip(8 * (distance - 1), -40, 40)))[..., None]
        scene = scene * (1 - cover) + cover * rng.uniform(0.15, 0.8, 3)
    return scene.clip(0, 1)


def make_places(
    rng: np.random.Generator, length: int, start: np.ndarray, radius: float
) -> tuple[np.ndarray, int, int]:
    """Still until an onset, then straight and even, off the edges, until it stops; two in five never move."""
    onset, stop = length, length
    velocity = np.zeros(2)
    if rng.random() < 0.6:
        onset = int(rng.integers(2, length - 4))
        stop = min(length, onset + int(rng.integers(8, 21)))
        angle = rng.uniform(0, 2 * np.pi)
        velocity = rng.uniform(0.7, 1.8) * np.array([np.sin(angle), np.cos(angle)])
    places, place = [], start.astype(float)
    for frame in range(length):
        if onset <= frame < stop:
            place = place + velocity
            low, high = np.full(2, radius), np.array([HEIGHT, WIDTH]) - radius
            velocity = np.where((place < low) | (place > high), -velocity, velocity)
            place = place.clip(low, high)
        places.append(place)
    return np.array(places), onset, stop


def make_shot(rng: np.random.Generator, length: int, pictures: np.ndarray, kinds: np.ndarray) -> Shot:
    """A scene with three or four sprites, at least one that draws gaze by its class and one that does not."""
    count = int(rng.integers(3, 5))
    attractive = np.isin(kinds, list(ATTRACTIVE))
    pools = [np.flatnonzero(attractive), np.flatnonzero(~attractive)]
    which = [0, 1, *rng.integers(0, 2, count - 2)]
    sprites: list[Sprite] = []
    for pool in which:
        row = int(rng.choice(pools[pool]))
        side = int(rng.integers(18, 25))
        picture = Image.fromarray(pictures[row]).resize((side, side), Image.Resampling.BILINEAR)
        alpha = np.clip(np.asarray(picture, np.float64) / 255 * 1.6, 0, 1)
        radius = side / 2
        for _ in range(30):
            start = rng.uniform([radius, radius], [HEIGHT - radius, WIDTH - radius])
            if all(np.hypot(*(start - other.places[0])) > 20 for other in sprites):
                break
        places, onset, stop = make_places(rng, length, start, radius)
        sprites.append(Sprite(alpha, rng.uniform(0.5, 1.0, 3), int(kinds[row]), places, onset, stop))
    return Shot(make_background(rng), sprites, length)


def draw(shot: Shot, frame: int) -> np.ndarray:
    """One frame, uint8 `[H, W, 3]`; sprites are placed to the nearest pixel."""
    canvas = shot.background.copy()
    for sprite in shot.sprites:
        side = sprite.alpha.shape[0]
        top, left = np.rint(sprite.places[frame] - side / 2).astype(int).clip(0, [HEIGHT - side, WIDTH - side])
        alpha = sprite.alpha[..., None]
        shade = 0.35 + 0.65 * alpha
        part = canvas[top : top + side, left : left + side]
        part[:] = part * (1 - alpha**0.5) + alpha**0.5 * sprite.color * shade
    return np.rint(canvas * 255).astype(np.uint8)


def pulls(shot: Shot, frame: int) -> np.ndarray:
    """How strongly each sprite, the centre and any other place draw gaze: chances `[sprites + 2]`."""
    strengths = []
    for sprite in shot.sprites:
        strength = CLASS_PULL if sprite.kind in ATTRACTIVE else 0.0
        if frame >= sprite.onset:
            strength += ONSET_PULL * np.exp((sprite.onset - frame) / ONSET_DECAY)
        if sprite.onset <= frame < sprite.stop:
            strength += MOTION_PULL
        strengths.append(strength)
    chances = np.exp([*strengths, CENTRE_PULL, ELSEWHERE_PULL])
    return chances / chances.sum()


def watch(rng: np.random.Generator, shots: list[Shot]) -> np.ndarray:
    """Where one observer looks in every frame: rows and columns `[length, 2]`, NaN in a blink."""
    when = [(number, frame) for number, shot in enumerate(shots) for frame in range(shot.length)]
    lag = int(np.clip(np.rint(rng.normal(LAG, LAG_SD)), LAG - 2, LAG + 2))
    centre = np.array([HEIGHT, WIDTH]) / 2
    seen_shot, target, spot, offset = -1, -1, centre, rng.normal(0, FIXATION_SD, 2)
    gaze = []
    for now in range(len(when)):
        if now >= lag:
            shot_number, frame = when[now - lag]
            shot = shots[shot_number]
            if shot_number != seen_shot or rng.random() < RECHOOSE:
                target, seen_shot = int(rng.choice(len(shot.sprites) + 2, p=pulls(shot, frame))), shot_number
                offset = rng.normal(0, FIXATION_SD, 2)
                elsewhere = target == len(shot.sprites) + 1
                spot = rng.normal(centre, [HEIGHT / 5, WIDTH / 5]) if elsewhere else centre
            if target < len(shot.sprites):
                spot = shot.sprites[target].places[frame]
        place = spot + offset + rng.normal(0, TREMOR_SD, 2)
        gaze.append(place if rng.random() >= BLINKS else [np.nan, np.nan])
    return np.array(gaze)


def encode(frames: Iterator[np.ndarray]) -> bytes:
    """The frames as MPEG-4 in MP4; x264 was tried and gave other bytes in every tenth run."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        options = {"flags": "+bitexact", "qmin": "3", "qmax": "3", "threads": "1"}
        video = container.add_stream("mpeg4", rate=FPS, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.gop_size = 16
        for frame in frames:
            # Through an array: encoders read a converted frame's padding, which is not the same in every run.
            planes = av.VideoFrame.from_ndarray(frame, format="rgb24").to_ndarray(format="yuv420p")
            container.mux(video.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(video.encode())
    return stream.getvalue()


def make_clip(rng: np.random.Generator, name: str, pictures: np.ndarray, kinds: np.ndarray) -> dict:
    """One row of the Parquet file."""
    length = int(rng.integers(LENGTHS[0], LENGTHS[1] + 1))
    first = int(rng.integers(length // 3, 2 * length // 3)) if rng.random() < CUT_SHARE else length
    lengths = [first, length - first] if first < length else [length]
    shots = [make_shot(rng, part, pictures, kinds) for part in lengths]
    gaze = np.stack([watch(rng, shots) for _ in range(OBSERVERS)], axis=1)
    nearest = np.rint(gaze)
    inside = ((nearest >= 0) & (nearest < [HEIGHT, WIDTH])).all(-1)
    return {
        "name": name,
        "video": {"bytes": encode(draw(shot, frame) for shot in shots for frame in range(shot.length)), "path": None},
        "fixations": [points[kept].astype(int).tolist() for points, kept in zip(nearest, inside, strict=True)],
        "size": [HEIGHT, WIDTH],
        "sigma": SIGMA,
        "cuts": [first] if first < length else [],
    }


def read_sprites(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 `[rows, 28, 28]` and classes `[rows]` of the labelled rows of an embedded Fashion-MNIST file."""
    rows = [row for row in pq.read_table(path).to_pylist() if row["label"] >= 0]
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows])
    return pictures, np.array([row["label"] for row in rows])


def write_split(path: Path, rows: list[dict]) -> int:
    """Write one Parquet file, whole or not at all; gives its size in bytes."""
    table = pa.Table.from_pylist(rows, FEATURES.arrow_schema)
    with whole(path) as beside:
        pq.write_table(table, beside, compression="zstd", row_group_size=20)
    return path.stat().st_size


def main(arguments: list[str] | None = None) -> int:
    """Write the three splits and print what each holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE / "synthetic_gaze", help="folder of the Parquet files")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate(CLIPS.items()):
        pictures, kinds = read_sprites(SPRITES / f"{split}.parquet")
        rows = [
            make_clip(np.random.default_rng([SEED, number, clip]), f"{split}-{clip:03d}", pictures, kinds)
            for clip in range(count)
        ]
        size = write_split(options.output / f"{split}.parquet", rows)
        frames = sum(len(row["fixations"]) for row in rows)
        print(f"{split:<10} {count:>4} clips, {frames:>6} frames, {size / 1e6:5.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
