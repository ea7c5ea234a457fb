"""A run whose records say all that a card can tell. All its numbers are made up: it tests cards, not the method."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SHA = {"vit": "1" * 40, "cnn": "2" * 40, "data": "3" * 40}
LABELS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal"]


def made_up_results() -> dict:
    """Made up: `results.json` of three seeds, in which vit gains and cnn stays within noise."""
    flips = {"positive_flips": 0.0311, "negative_flips": 0.0107}
    peers = {
        "vit": {
            "start": {"accuracy": 0.8498, "top5_accuracy": 0.991, "loss": 0.4312, "expected_share": 0.4},
            "mutual": {"accuracy": 0.8702, "top5_accuracy": 0.9931, "loss": 0.3821, "expected_share": 0.4},
            "control": {"accuracy": 0.8632, "top5_accuracy": 0.9922, "loss": 0.4},
            **flips,
            "control_flips": {"positive_flips": 0.0301, "negative_flips": 0.0167},
            "share_taught": 0.375,
            "by_class": {
                "start": [0.80, 0.95, 0.70, None, 0.85, 0.90],
                "control": [0.81, 0.96, 0.72, None, 0.85, 0.91],
                "mutual": [0.84, 0.96, 0.71, None, 0.89, 0.92],
            },
            "per_seed": {"mutual": [0.8692, 0.8702, 0.8712], "control": [0.8627, 0.8632, 0.8637]},
            "delta": {"mean": 0.0070, "sd": 0.0005},
        },
        "cnn": {
            "start": {"accuracy": 0.8801, "top5_accuracy": 0.994, "loss": 0.35, "expected_share": 0.6},
            "mutual": {"accuracy": 0.8794, "top5_accuracy": 0.994, "loss": 0.34, "expected_share": 0.6},
            "control": {"accuracy": 0.8792, "top5_accuracy": 0.994, "loss": 0.35},
            **flips,
            "control_flips": {"positive_flips": 0.02, "negative_flips": 0.021},
            "share_taught": 0.5,
            "by_class": {"start": [0.9] * 6, "control": [0.9] * 6, "mutual": [0.9] * 6},
            "per_seed": {"mutual": [0.878, 0.8794, 0.8808], "control": [0.8792] * 3},
            "delta": {"mean": 0.0002, "sd": 0.0014},
        },
    }
    cohort = {"start": {"ensemble_accuracy": 0.8888, "oracle_accuracy": 0.93, "samples": 10000}}
    seconds = {"mutual": [190.0, 200.0, 210.0], "control": [120.0] * 3}
    return {"peers": peers, "cohort": cohort, "steps": 1200, "seconds": seconds, "seeds": [0, 1, 2]}


def made_up_record() -> dict:
    """Made up: `cohort.json` with every fact that a card can tell."""
    peers = {
        "vit": {
            "source": "someone/vit-tiny",
            "revision": SHA["vit"],
            "architecture": "ViTForImageClassification",
            "parameters": 5717416,
            "base": {
                "license": "apache-2.0",
                "tags": ["vision", "arxiv:2010.11929"],
                "citation": "@misc{vit,\n  title = {ViT}\n}",
            },
        },
        "cnn": {
            "source": "someone/cnn",
            "revision": SHA["cnn"],
            "architecture": "ResNetForImageClassification",
            "parameters": 77000,
            "base": {"license": "cc-by-nc-4.0"},
        },
    }
    splits = {"train": "train", "validation": "a tenth of train (seed 0)", "test": "test"}
    dataset = {
        "name": "someone/clothes", "config": "small", "revision": SHA["data"], "splits": splits,
        "rows": {"train": 45000, "validation": 5000, "test": 10000},
        "labelled": {"train": 1000, "validation": 5000, "test": 10000},
        "fingerprint": "0123456789abcdef", "fingerprint_of": "all bytes",
        "skipped_images": {"train": 2, "validation": 0, "test": 0},
    }  # fmt: skip
    rule = {"name": "mean", "description": "The mean teaches.", "citation": "Lan, Zhu, Gong: ONE, NeurIPS 2018"}
    return {
        "task": "image-classification",
        "peers": peers,
        "labels": LABELS,
        "seeds": [0, 1, 2],
        "dataset": dataset,
        "versions": {"hf_mutual_kd": "0.1.0", "torch": "2.15.0"},
        "command": "accelerate launch recipes/vit_classify.py --output_dir /home/ann --hub_token hf_abcdefghijklmnop",
        "recipe": {"learning_rate": 1e-5, "output_dir": "/home/ann/runs/x"},
        "hyperparameters": {"changed": {"learning_rate": 1e-5}, "defaults": {"optim": "adamw_torch", "seed": 42}},
        "objective": {
            "rule": rule, "source": {"name": "frozen", "description": "Teachers are frozen."}, "score": None,
            "retain": True, "detach": "teacher", "temperature": 1.0, "weight": 1.0, "labels": True,
        },
        "hardware": {"device": "A Made-up CPU", "processes": 2, "cores": 4},
        "co2_kg": 0.0123,
        "usage": {"vit": "Coat: 0.812\nDress: 0.100\nPullover: 0.050"},
        "example": {"row": 7, "label": "Coat"},
    }  # fmt: skip


def write_roles(path: Path, taught: dict[str, list[int]], decisions: list[int]) -> None:
    columns = {"sample_id": list(range(len(decisions))), "decisions": decisions}
    columns |= {f"taught/{who}": counts for who, counts in taught.items()}
    pq.write_table(pa.table(columns), path)


def write_history(folder: Path, rise: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": 400 * epoch, "eval_vit/accuracy": 0.85 + rise * epoch, "eval_my_vit/accuracy": 0.1, "epoch": epoch}
        for epoch in (1, 2, 3)
    ]
    lines += [
        {"step": 100 * k, "vit/supervised": 0.5 / k, "vit/transfer": 0.1 / k, "loss": 1.0, "learning_rate": 1e-5}
        for k in range(1, 13)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_run(folder: Path, record: dict, results: dict | None = None) -> Path:
    """A run folder of a record and results, with an empty-looking transformers folder for every peer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cohort.json").write_text(json.dumps(record), encoding="utf-8")
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    for name in record["peers"]:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    return folder
