"""A made-up run with the single predictions that a report shows; its numbers test the page, not the method."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from made_up_run import made_up_record, made_up_results, write_history, write_run
from PIL import Image

from hf_mutual_kd.reports.predictions import PREDICTIONS, PredictionRecorder, write_predictions

SAMPLES = 240


def recorder(right: np.ndarray, labels: np.ndarray, classes: int, sure: float) -> PredictionRecorder:
    """Peers that are right where `right` `[R, N]` says so, else take the next class, and are always this sure."""
    guess = np.where(right, labels[:, None], (labels[:, None] + 1) % classes)
    made = PredictionRecorder()
    made.add({
        "sample_ids": np.arange(len(labels)),
        "labels": labels,
        "top5": guess[:, :, None],
        "confidence": np.full(right.shape, sure),
        "loss": -np.log(np.where(right, sure, 0.1)),
    })  # fmt: skip
    return made


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
            before, now = recorder(start, labels, classes, 0.9), recorder(right, labels, classes, 0.8)
            write_predictions(place / PREDICTIONS, peers, before, now)
    taught = [{"step": step, **{f"{name}/taught": 0.4 + step / 5000 for name in peers}} for step in (100, 500)]
    with open(folder / "history.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in taught)
    columns = {"sample_id": range(60), "label": [i % classes if i % 10 else None for i in range(60)],
               "decisions": [4] * 60, "taught/<mean>": [0 if i % 10 else 4 for i in range(60)]}  # fmt: skip
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
