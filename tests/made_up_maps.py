"""Made-up runs of tasks with maps, with all that their reports show; the numbers test the page, not the method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from made_up_run import RUNS, write_full_run, write_run

from hf_mutual_kd.reports.pictures import PICTURES, SampleImages, class_map, density_map, photograph, write_pictures
from hf_mutual_kd.reports.samples import BINS, SAMPLES_FILE, write_samples

SAMPLES = 6
MAP_TASKS = ("semantic-segmentation", "video-saliency")
VIDEOS = ["made-up <b>video</b>", "another"]


def write_map_run(folder: Path, task: str, record: dict | None = None) -> Path:
    """A run of two peers of which the first gains on even samples and loses on odd ones, and the second stays."""
    write_full_run(folder, task)
    made, results = (make() for make in RUNS[task])
    record = record or made
    write_run(folder, record, results)
    (folder / "report" / "examples.png").unlink(missing_ok=True)
    peers = list(record["peers"])
    segments = task == "semantic-segmentation"
    records, facts = (segmentation_records, {}) if segments else (saliency_records, video_facts())
    for seed in record["seeds"]:
        for arm, gain in (("", 0.2), ("control", 0.1)):
            place = folder / ("" if seed == 0 else f"seed-{seed}") / arm
            write_samples(place / SAMPLES_FILE, peers, records(0.0), records(gain), facts)
    draw = segmented if segments else looked_at
    write_pictures(folder / PICTURES, peers, [draw(place, peers) for place in range(SAMPLES)])
    return folder


def scores(gain: float) -> np.ndarray:
    signs = np.where(np.arange(SAMPLES) % 2, -1, 1)
    return np.stack([0.5 + gain * signs, np.full(SAMPLES, 0.5)], axis=1).astype(np.float32)


def singles(gain: float) -> dict[str, np.ndarray]:
    ids = np.arange(SAMPLES)
    return {"sample/id": ids, "sample/score": scores(gain), "sample/teacher": np.array([0, 1, -1] * 2)}


def segmentation_records(gain: float) -> dict[str, np.ndarray]:
    """Of 100 pixels of each class the first peer has 60 right at the start, and 20 more or 10 more after."""
    right = 60 + round(100 * gain)
    rows = [
        [peer, c, g, n]
        for peer in (0, 1)
        for c in (0, 1)
        for g, n in ((c, right if peer == 0 else 50), (1 - c, 100 - right if peer == 0 else 50))
    ]
    sums = np.zeros((2, 3, BINS))
    sums[:, :, -1] = 100, 98, right
    found = {"confusions": np.array(rows), "reliability": sums, "sample/loss": 1 - scores(gain), **singles(gain)}
    if gain:
        flips = np.zeros((2, 3, 3), np.int64)
        flips[0, 0] = 100 * gain + 5, 5, 10
        found |= {"flips": flips, "points": np.array([100, 100, 0])}
    return found


def video_facts() -> dict:
    return {"videos": VIDEOS, "metrics": ["CC", "SIM", "NSS", "AUC-J", "sAUC", "KLD"]}


def saliency_records(gain: float) -> dict[str, np.ndarray]:
    means = np.full((2, 2, 6), 0.5)
    means[0, 0] += gain
    return singles(gain) | {
        "sample/cc": scores(gain),
        "sample/group": np.arange(SAMPLES) % 2,
        "videos": np.arange(2),
        "video_frames": np.array([3, 3]),
        "video_means": means,
    }


def segmented(place: int, peers: list[str]) -> SampleImages:
    truth = np.zeros((10, 12), int)
    truth[:, place:] = 1
    truth[0] = -1
    wrong = np.where(truth < 0, 0, 1 - truth)
    maps = {
        f"{phase}/{name}": class_map(wrong if phase == "before" else truth.clip(0))
        for name in peers
        for phase in ("before", "after")
    }
    image = np.full((20, 24, 3), 40 * place, np.uint8)
    return SampleImages(place, f"sample {place}", photograph(image), class_map(truth), maps, class_map(truth))


def looked_at(place: int, peers: list[str]) -> SampleImages:
    density = np.zeros((9, 16), np.float32)
    density[place, 2 * place] = 1
    maps = {f"{phase}/{name}": density_map(density) for name in peers for phase in ("before", "after")}
    image = np.full((18, 32, 3), 40 * place, np.uint8)
    name = f"{VIDEOS[place % 2]} frame {place}"
    return SampleImages(place, name, photograph(image), density_map(density), maps)
