"""Make the embedded Parquet files of synthetic sounds: `python recipes/embedded_audio/make_data.py`.

No sound was recorded: all are made by the law of [`sound`]. Running it twice with the same libraries gives
byte-identical files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from datasets import Audio, ClassLabel, Dataset, Features, Value

from hf_mutual_kd import Sound, as_flac, whole

HERE = Path(__file__).resolve().parent
SEED = 20261201
RATE, SECONDS = 4000, 0.5
NAMES = ["falling", "noise", "rising", "steady", "trembling", "two"]
SPLITS = {"train": 210, "validation": 60, "test": 150}
"""Rows; classes come in turn."""
LOUDEST_NOISE = 0.35
"""Standard deviation of the noise under a sound of amplitude 0.5, at most."""
STEP = 1 / 128
"""Samples are rounded to it, so that files are small."""


def sound(kind: str, draw: np.random.Generator) -> np.ndarray:
    """
    The law, `[2000]` samples between -1 and 1: a wave of amplitude 0.5 under white noise, whose standard deviation is
    even between 0.05 and [`LOUDEST_NOISE`].

    With a pitch f, even between 300 and 900 Hz: `steady` has it throughout; `rising` goes from f to 1.6 f, `falling`
    from 1.6 f to f, linearly; `trembling` is f whose loudness swings 8 to 14 times a second; `two` is f and f times
    1.2 to 1.5, of half the amplitude each; `noise` is noise whose neighbours are alike (each sample 0.6 times the one
    before, plus noise).
    """
    count = int(RATE * SECONDS)
    at = np.arange(count) / RATE
    pitch, phase = draw.uniform(300, 900), draw.uniform(0, 2 * np.pi)
    change = {"rising": 0.6, "falling": -0.6}.get(kind, 0.0) * pitch
    begin = pitch * (1.6 if kind == "falling" else 1.0)
    wave = np.sin(2 * np.pi * (begin * at + change * at**2 / (2 * SECONDS)) + phase)
    if kind == "trembling":
        wave *= 0.5 + 0.5 * np.sin(2 * np.pi * draw.uniform(8, 14) * at)
    elif kind == "two":
        wave = (wave + np.sin(2 * np.pi * pitch * draw.uniform(1.2, 1.5) * at)) / 2
    elif kind == "noise":
        steps = draw.standard_normal(count)
        wave = np.zeros(count)
        for place in range(1, count):
            wave[place] = 0.6 * wave[place - 1] + steps[place]
        wave /= 2.5
    noise = draw.uniform(0.05, LOUDEST_NOISE) * draw.standard_normal(count)
    return np.round(np.clip(0.5 * wave + noise, -1, 1 - STEP) / STEP) * STEP


def rows(count: int, seed: list[int]) -> tuple[list[np.ndarray], np.ndarray]:
    """So many sounds `[2000]`, float32, and their classes."""
    draw = np.random.Generator(np.random.PCG64(seed))
    labels = np.arange(count) % len(NAMES)
    return [sound(NAMES[label], draw).astype(np.float32) for label in labels], labels


def main(arguments: list[str] | None = None) -> int:
    """Write all splits; print their rows and sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE / "synthetic_sounds", help="folder of the files")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    file = {"bytes": Value("binary"), "path": Value("string")}
    for place, (split, count) in enumerate(SPLITS.items()):
        waves, labels = rows(count, [SEED, place])
        files = [{"bytes": as_flac(Sound(wave, RATE)), "path": None} for wave in waves]
        features = Features({"audio": file, "label": ClassLabel(names=NAMES)})
        made = Dataset.from_dict({"audio": files, "label": labels.tolist()}, features).cast_column("audio", Audio())
        with whole(options.output / f"{split}.parquet") as beside:
            pq.write_table(made.data.table, beside, compression="zstd")
        print(f"{split:<10} {count:4} rows, {(options.output / f'{split}.parquet').stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
