"""Made-up runs of tiny peers that a Space can be made of; their numbers test the app, not the method."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from conftest import LABELS, MAKERS, make_rows, tiny_processor
from datasets import DatasetDict
from segmentation_peers import CLASSES, tiny_segmenter
from segmentation_run import PEERS, SQUARE, segmentation_rows
from transformers import Mask2FormerImageProcessor, SegformerImageProcessor


def write_record(folder: Path, task: str, labels: list[str], sources: dict[str, str], rows: dict) -> Path:
    result = {"start": {}, "mutual": {}}
    record = {
        "task": task, "labels": labels,
        "peers": {name: {"source": source, "revision": None, "parameters": 1234} for name, source in sources.items()},
        "recipe": {"dataset": str(folder / "data")},
        "objective": {"rule": {"description": "The best peer teaches."}},
        "dataset": {"name": "someone/shapes & <b>forms", "rows": rows, "skipped_images": dict.fromkeys(rows, 0)},
        "versions": {"python": "3.11.2", "torch": "2.15.0+cpu", "torchvision": "0.29.2", "transformers": "5.23.0"},
    }  # fmt: skip
    run = folder / "run"
    (run / "cohort.json").write_text(json.dumps(record), encoding="utf-8")
    (run / "results.json").write_text(json.dumps({"peers": dict.fromkeys(sources, result), "task": task}))
    return run


def write_classifiers(folder: Path) -> Path:
    """vit has its labels in another order than the data; cnx started without a classifier for them."""
    splits = {"train": make_rows(12), "validation": make_rows(6, 1), "test": make_rows(9, 2)}
    DatasetDict(splits).save_to_disk(folder / "data")
    sources = {}
    for seed, name in enumerate(("vit", "cnn", "cnx")):
        for phase in ("start", "end"):
            place = folder / "starts" / name if phase == "start" else folder / "run" / name
            torch.manual_seed(10 * seed + len(phase))
            model = MAKERS[name]()
            if name == "vit":
                model.config.id2label = dict(enumerate(LABELS[::-1]))
            elif name == "cnx" and phase == "start":
                model.config.id2label = dict(enumerate("abc"))
            model.config.label2id = {label: index for index, label in model.config.id2label.items()}
            model.save_pretrained(place)
            tiny_processor().save_pretrained(place)
        (folder / "run" / name / "training_args.bin").write_bytes(b"PICKLE")
        sources[name] = str(folder / "starts" / name)
    return write_record(
        folder, "image-classification", LABELS, sources, {name: len(split) for name, split in splits.items()}
    )


def write_segmenters(folder: Path) -> Path:
    """A per-pixel and a query-based peer."""
    splits = {"train": segmentation_rows(5), "validation": segmentation_rows(5, 1), "test": segmentation_rows(5, 2)}
    DatasetDict(splits).save_to_disk(folder / "data")
    processors = (SegformerImageProcessor(size=SQUARE), Mask2FormerImageProcessor(size=SQUARE, ignore_index=255))
    sources = {}
    for name, processor in zip(PEERS, processors, strict=True):
        for place in (folder / "starts" / name, folder / "run" / name):
            tiny_segmenter(name).save_pretrained(place)
            processor.save_pretrained(place)
        sources[name] = str(folder / "starts" / name)
    return write_record(
        folder, "semantic-segmentation", CLASSES, sources, {name: len(split) for name, split in splits.items()}
    )
