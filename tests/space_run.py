"""Made-up runs of tiny peers that a Space can be made of; their numbers test the app, not the method."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from conftest import LABELS, MAKERS, make_rows, tiny_processor
from datasets import DatasetDict, Features, List, Value, Video
from made_up_run import words_of
from saliency_files import mp4
from saliency_peers import tiny_saliency
from segmentation_peers import CLASSES, tiny_segmenter
from segmentation_run import PEERS, SQUARE, segmentation_rows
from transformers import Mask2FormerImageProcessor, SegformerImageProcessor

from hf_mutual_kd import VideoSaliencyProcessor

SALIENCY_ROWS = Features(
    {
        "name": Value("string"),
        "video": Video(decode=False),
        "fixations": List(List(List(Value("float32")))),
        "sigma": Value("float32"),
        "cuts": List(Value("int32")),
    }
)


def write_record(folder: Path, task: str, labels: list[str], sources: dict[str, str], rows: dict) -> Path:
    result = {"arms": {"start": {"metrics": {}}, "mutual": {"metrics": {}}}}
    results = {"peers": dict.fromkeys(sources, result), "seeds": [0], "steps": 1, "task": task}
    record = {
        "task": task,
        "words": words_of(task),
        "labels": labels,
        "peers": {name: {"source": source, "revision": None, "parameters": 1234} for name, source in sources.items()},
        "recipe": {"dataset": str(folder / "data")},
        "objective": {
            "rule": {"name": "best", "description": "The best peer teaches."},
            "source": {"name": "live", "description": "As they are at each step."},
        },
        "dataset": {"name": "someone/shapes & <b>forms", "rows": rows, "skipped_images": dict.fromkeys(rows, 0)},
        "versions": {"python": "3.11.2", "torch": "2.15.0+cpu", "torchvision": "0.29.2", "transformers": "5.23.0"},
    }
    run = folder / "run"
    (run / "cohort.json").write_text(json.dumps(record), encoding="utf-8")
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
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


def write_saliency(folder: Path) -> Path:
    """Two peers of different clips; the first test video has a cut, at the second nobody looked."""
    (folder / "data").mkdir()
    for split in ("train", "validation", "test"):
        rows = [saliency_row(f"{split}-{number}", [8] if number == 0 else [], number == 1) for number in range(3)]
        pq.write_table(pa.Table.from_pylist(rows, SALIENCY_ROWS.arrow_schema), folder / "data" / f"{split}.parquet")
    clips = {"convnext": {"num_frames": 4, "frame_stride": 2}, "videomae": {"num_frames": 4, "target": "center"}}
    for name, clip in clips.items():
        for place, shift in ((folder / "starts" / name, 0.0), (folder / "run" / name, 0.5)):
            model = tiny_saliency(name)
            torch.nn.init.normal_(model.center_prior, std=0.5 + shift)
            model.save_pretrained(place)
            VideoSaliencyProcessor((32, 32), **clip).save_pretrained(place)
    sources = {name: str(folder / "starts" / name) for name in clips}
    run = write_record(folder, "video-saliency", [], sources, {})
    record = json.loads((run / "cohort.json").read_text())
    record["dataset"] |= {"note": "Made up for a test."}
    record["recipe"]["eval_frame_step"] = 3
    (run / "cohort.json").write_text(json.dumps(record), encoding="utf-8")
    return run


def saliency_row(name: str, cuts: list[int], blank: bool) -> dict:
    """A video of 20 frames that tell their number, whose gaze moves to the right."""
    points = [[] if blank else [[20.0, 3.0 * frame], [30.0, 9.0]] for frame in range(20)]
    video = {"bytes": mp4(range(20)), "path": None}
    return {"name": name, "video": video, "fixations": points, "sigma": 4.0, "cuts": cuts}
