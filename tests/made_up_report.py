"""A made-up run with the single predictions that a report shows; its numbers test the page, not the method."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from made_up_run import made_up_record, made_up_results, write_history, write_run
from PIL import Image

from hf_mutual_kd.reports.samples import SAMPLES_FILE, write_samples
from hf_mutual_kd.tasks.classification.evaluator import ClassificationEvaluator

SAMPLES = 240
OUTCOMES = {"statistic": "means", "metrics": ["accuracy", "top5_accuracy", "loss"]}


def recorded(right: np.ndarray, labels: np.ndarray, classes: int, sure: float) -> dict[str, np.ndarray]:
    """Peers that are right where `right` `[R, N]` says so, else take the next class, and are always this sure; the
    ensemble says what the first peer says."""
    guess = np.where(right, labels[:, None], (labels[:, None] + 1) % classes)
    made = ClassificationEvaluator([f"peer{place}" for place in range(right.shape[1])], classes)
    facts = {
        "sample_ids": np.arange(len(labels)),
        "labels": labels,
        "top5": guess[:, :, None],
        "confidence": np.full(right.shape, sure),
        "loss": -np.log(np.where(right, sure, 0.1)),
        "ensemble": guess[:, 0],
        "teacher": np.zeros_like(labels),
    }
    made.add({key: torch.from_numpy(value) for key, value in facts.items()})
    return made.records()


def write_report_run(folder: Path, record: dict | None = None, results: dict | None = None) -> Path:
    """A run of two peers: vit learns 3 in 10 test samples, all known to cnn, and cnn loses 1 in 10."""
    record = record or made_up_record()
    write_run(folder, record, results or made_up_results())
    peers, classes = list(record["peers"]), len(record["labels"])
    labels = np.arange(SAMPLES) % classes
    tenth = np.arange(SAMPLES) // classes % 10
    start = np.stack([tenth >= 5, tenth >= 2], axis=1)
    after = {"": np.stack([tenth >= 2, tenth >= 3], axis=1), "control": np.stack([tenth >= 4, tenth >= 2], axis=1)}
    for arm, right in after.items():
        for seed in ("", "seed-1", "seed-2"):
            place = folder / seed / arm
            write_history(place, 0.004 + 0.002 * (arm == ""), "vit", "accuracy")
            before, now = recorded(start, labels, classes, 0.9), recorded(right, labels, classes, 0.8)
            write_samples(place / SAMPLES_FILE, peers, before, now, {"outcomes": OUTCOMES})
    taught = [{"step": step, **{f"{name}/taught": 0.4 + step / 5000 for name in peers}} for step in (100, 500)]
    with open(folder / "history.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in taught)
    columns = {
        "sample_id": range(60),
        "label": [i % classes if i % 10 else None for i in range(60)],
        "decisions": [4] * 60,
        "taught/<mean>": [0 if i % 10 else 4 for i in range(60)],
    }
    columns |= {f"taught/{name}": [2 if i % 10 else 0 for i in range(60)] for name in peers}
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), folder / "roles.parquet")
    return folder


def rows_of_test(record: dict | None = None) -> list[dict]:
    """The rows of the test split, each image in a grey of its own."""
    classes = len((record or made_up_record())["labels"])
    rows = []
    for place in range(SAMPLES):
        buffer = io.BytesIO()
        Image.new("RGB", (28, 20), (place, place, 255 - place)).save(buffer, "PNG")
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": place % classes})
    return rows
