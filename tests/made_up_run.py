"""Runs of every task whose records say all that a card can tell. All numbers are made up: they test cards, no method.

`python tests/made_up_run.py` writes the cards of these runs to `tests/golden/`: run it by hand, and read them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from hf_mutual_kd import TASKS

SHA = {"vit": "1" * 40, "cnn": "2" * 40, "data": "3" * 40}
MODEL_TYPES = {"seg": "segformer", "m2f": "mask2former", "mae": "video_saliency", "s3d": "video_saliency"}
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


def words_of(task: str) -> dict:
    """What `cohort.json` says of a task."""
    return TASKS[task].words.to_record()


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
        "name": "someone/clothes",
        "config": "small",
        "revision": SHA["data"],
        "splits": splits,
        "rows": {"train": 45000, "validation": 5000, "test": 10000},
        "labelled": {"train": 1000, "validation": 5000, "test": 10000},
        "fingerprint": "0123456789abcdef",
        "fingerprint_of": "all bytes",
        "skipped_images": {"train": 2, "validation": 0, "test": 0},
    }
    rule = {"name": "mean", "description": "The mean teaches.", "citation": "Lan, Zhu, Gong: ONE, NeurIPS 2018"}
    return {
        "task": "image-classification",
        "words": words_of("image-classification"),
        "peers": peers,
        "labels": LABELS,
        "seeds": [0, 1, 2],
        "dataset": dataset,
        "versions": {"hf_mutual_kd": "0.1.0", "torch": "2.15.0"},
        "command": "accelerate launch recipes/vit_classify.py --output_dir /home/ann --hub_token hf_abcdefghijklmnop",
        "recipe": {"learning_rate": 1e-5, "output_dir": "/home/ann/runs/x"},
        "hyperparameters": {"changed": {"learning_rate": 1e-5}, "defaults": {"optim": "adamw_torch", "seed": 42}},
        "objective": {
            "rule": rule,
            "source": {"name": "frozen", "description": "Teachers are frozen."},
            "score": None,
            "retain": True,
            "detach": "teacher",
            "temperature": 1.0,
            "weight": 1.0,
            "labels": True,
        },
        "hardware": {"device": "A Made-up CPU", "processes": 2, "cores": 4},
        "co2_kg": 0.0123,
        "usage": {"vit": "Coat: 0.812\nDress: 0.100\nPullover: 0.050"},
        "example": {"row": 7, "label": "Coat"},
    }


def results_json(flat: dict) -> dict:
    """`results.json` of results in the short form of this file: a peer's arms beside each other."""
    metric = {"semantic-segmentation": "mIoU", "video-saliency": "CC"}.get(flat.get("task", ""), "accuracy")
    made = {key: value for key, value in flat.items() if key not in ("peers", "cohort")}
    made["cohort"] = flat.get("cohort", {}).get("start", {})
    made["peers"] = {}
    for name, peer in flat["peers"].items():
        flips = {"mutual": peer, "control": peer.get("control_flips", {})}
        arms = {
            arm: {
                "metrics": peer[arm],
                "per_seed": peer["per_seed"].get(arm, []),
                "by_class": peer["by_class"].get(arm, []),
                **{key: flips.get(arm, {}).get(key) for key in ("positive_flips", "negative_flips")},
            }
            for arm in ("start", "control", "mutual")
            if arm in peer
        }
        differences = {"start": {key: {"mean": peer["mutual"][key] - value} for key, value in peer["start"].items()}}
        if "control" in peer:
            others = {key: {"mean": peer["mutual"][key] - value} for key, value in peer["control"].items()}
            differences["control"] = others | {metric: peer["delta"]}
        made["peers"][name] = {"arms": arms, "differences": differences}
    return made


def with_intervals(results: dict) -> dict:
    """Made up: what a run adds that kept single outcomes and had rows without a label."""
    for name, low, high in (("vit", 0.0021, 0.0118), ("cnn", -0.0041, 0.0046)):
        results["peers"][name]["delta"] |= {"low": low, "high": high}
    arms = {
        arm: {"metrics": {"accuracy": value}, "per_seed": [value] * 3 if arm != "start" else []}
        for arm, value in (("start", 0.8888), ("control", 0.8931), ("mutual", 0.8954))
    }
    gain = {"mean": 0.0023, "sd": 0.0, "low": -0.001, "high": 0.006}
    labelled = {"vit": 30, "cnn": 50, "<mean>": 0, "<all>": 0, "nobody": 20}
    unlabelled = {"vit": 0, "cnn": 0, "<mean>": 900, "<all>": 0, "nobody": 0}
    ensemble = {"arms": arms, "differences": {"control": {"accuracy": gain}}}
    return {"units": 10_000, "ensemble": ensemble, "teachers": {"labelled": labelled, "unlabelled": unlabelled}}


def write_roles(path: Path, taught: dict[str, list[int]], decisions: list[int]) -> None:
    columns = {"sample_id": list(range(len(decisions))), "decisions": decisions}
    columns |= {f"taught/{who}": counts for who, counts in taught.items()}
    pq.write_table(pa.table(columns), path)


def segmentation_results() -> dict:
    """Made up: three seeds in which seg gains and m2f is better without its peer; the third class does not occur."""

    def peer(start: float, control: list[float], mutual: list[float], delta: dict[str, float]) -> dict:
        def metrics(value: float) -> dict[str, float]:
            return {
                "mIoU": value,
                "fwIoU": value + 0.2,
                "mACC": value + 0.1,
                "pACC": value + 0.3,
                "loss": 1 - value,
                "expected_share": 0.5,
                "agreement": 0.8,
            }

        return {
            "start": metrics(start),
            "control": metrics(sum(control) / 3),
            "mutual": metrics(sum(mutual) / 3),
            "positive_flips": None,
            "negative_flips": None,
            "control_flips": {"positive_flips": None, "negative_flips": None},
            "share_taught": 0.4,
            "by_class": {"start": [0.8, 0.3, None], "control": [0.82, 0.32, None], "mutual": [0.83, 0.31, None]},
            "per_seed": {"mutual": mutual, "control": control},
            "delta": delta,
        }

    return {
        "peers": {
            "seg": peer(0.41, [0.43, 0.44, 0.42], [0.45, 0.46, 0.44], {"mean": 0.02, "sd": 0.0}),
            "m2f": peer(0.47, [0.49, 0.50, 0.48], [0.46, 0.47, 0.45], {"mean": -0.03, "sd": 0.001}),
        },
        "cohort": {"start": {"ensemble_mIoU": 0.5, "oracle_pACC": 0.9, "samples": 66}},
        "steps": 300,
        "seconds": {"mutual": [90.0] * 3, "control": [80.0] * 3},
        "seeds": [0, 1, 2],
        "task": "semantic-segmentation",
        "usage": {"seg": "water: 61.0% of the pixels"},
        "example": {"row": 0},
        "examples": {"rows": [0, 17, 34, 51]},
    }


def saliency_results() -> dict:
    """Made up: one seed with a control, and a metric of which less is better."""

    def metrics(value: float) -> dict[str, float]:
        return {
            "CC": value,
            "SIM": value - 0.1,
            "NSS": 4 * value,
            "AUC-J": 0.9,
            "sAUC": 0.7,
            "KLD": 2 - value,
            "loss": 2 - 2 * value,
            "expected_share": 0.5,
        }

    def peer(start: float, control: float, mutual: float) -> dict:
        return {
            "start": metrics(start),
            "control": metrics(control),
            "mutual": metrics(mutual),
            "positive_flips": None,
            "negative_flips": None,
            "share_taught": 0.5,
            "control_flips": {"positive_flips": None, "negative_flips": None},
            "by_class": {"start": [], "control": [], "mutual": []},
            "per_seed": {"mutual": [mutual], "control": [control]},
            "delta": {"mean": mutual - control, "sd": None},
        }

    return {
        "peers": {"mae": peer(0.41, 0.44, 0.4625), "s3d": peer(0.51, 0.52, 0.505)},
        "cohort": {"start": {"ensemble_CC": 0.55, "centre_prior_CC": 0.2, "samples": 40}},
        "steps": 100,
        "seconds": {"mutual": [60.0], "control": [50.0]},
        "seeds": [0],
        "task": "video-saliency",
    }


def record_of(task: str, peers: dict[str, tuple[str, str]], labels: list[str], seeds: list[int]) -> dict:
    """Made up: `cohort.json` of a task with few other facts; `peers` name their source and architecture."""
    described = {
        name: {"source": source, "revision": SHA["vit"], "architecture": architecture, "parameters": 3_700_000}
        for name, (source, architecture) in peers.items()
    }
    splits = {"train": "train", "validation": "validation", "test": "test"}
    dataset = {
        "name": "someone/data",
        "config": None,
        "revision": SHA["data"],
        "splits": splits,
        "rows": {"train": 280, "validation": 30, "test": 66 if labels else 40},
    }
    facts = {"task": task, "words": words_of(task), "seeds": seeds, "dataset": dataset}
    return facts | {"peers": described, "labels": labels}


def segmentation_record() -> dict:
    """Made up: two peers with heads of two kinds."""
    peers = {
        "seg": ("someone/segformer", "SegformerForSemanticSegmentation"),
        "m2f": ("someone/mask2former", "Mask2FormerForUniversalSegmentation"),
    }
    return record_of("semantic-segmentation", peers, ["water", "forest", "ice"], [0, 1, 2])


def saliency_record() -> dict:
    """Made up: two peers of our own model class."""
    peers = {"mae": ("someone/mae", "VideoSaliencyModel"), "s3d": ("someone/s3d", "VideoSaliencyModel")}
    return record_of("video-saliency", peers, [], [0])


RUNS: dict[str, tuple[Callable[[], dict], Callable[[], dict]]] = {
    "image-classification": (made_up_record, made_up_results),
    "semantic-segmentation": (segmentation_record, segmentation_results),
    "video-saliency": (saliency_record, saliency_results),
}
"""Record and results of each task."""


def write_full_run(folder: Path, task: str = "image-classification") -> Path:
    """A run with every record there can be."""
    record, results = (make() for make in RUNS[task])
    first, second = record["peers"]
    results["teachers"] = {"all": {first: 3, second: 3, "<mean>": 1, "<all>": 0, "nobody": 1}}
    if task == "image-classification":
        results |= with_intervals(results)
    write_run(folder, record, results)
    write_roles(folder / "roles.parquet", {first: [3, 0], second: [1, 2], "<mean>": [0, 1]}, [4, 4])
    metric = next(iter(results["peers"][first]["mutual"]))
    for seed in record["seeds"]:
        place = folder if seed == 0 else folder / f"seed-{seed}"
        write_history(place, 0.006 + 0.0005 * seed, first, metric)
        write_history(place / "control", 0.004 + 0.0005 * seed, first, metric)
    summary = {"name": "mutual", "seed": 0, "steps": 1200, "seconds": 200.0, "best_steps": {first: 1200}, "start": {}}
    ends = {name: peer["mutual"] for name, peer in results["peers"].items()}
    summary["end"] = ends if task != "image-classification" else {}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    if "examples" in results:
        (folder / "report").mkdir()
        (folder / "report" / "examples.png").write_bytes(b"a figure")
    return folder


def write_history(folder: Path, rise: float, peer: str, metric: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": 400 * k, f"eval_{peer}/{metric}": 0.85 + rise * k, f"eval_my_{peer}/{metric}": 0.1, "epoch": k}
        for k in (1, 2, 3)
    ]
    lines += [
        {"step": 100 * k, f"{peer}/supervised": 0.5 / k, f"{peer}/transfer": 0.1 / k, "loss": 1.0, "learning_rate": 1}
        for k in range(1, 13)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_run(folder: Path, record: dict, results: dict | None = None) -> Path:
    """A run folder of a record and results, with a transformers folder without weights for every peer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cohort.json").write_text(json.dumps(record), encoding="utf-8")
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results_json(results)), encoding="utf-8")
    for name in record["peers"]:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text(
            json.dumps({"model_type": MODEL_TYPES.get(name, "vit")}), encoding="utf-8"
        )
        (folder / name / "preprocessor_config.json").write_text("{}", encoding="utf-8")
        save_file({}, folder / name / "model.safetensors")
    return folder


def golden_cards(folder: Path) -> dict[str, str]:
    """The cards of all runs, by peer; the first of each is pushed to `me/NAME-mutual`."""
    from hf_mutual_kd.reports.model_card import write_cards

    cards = {}
    for task, (record, _) in RUNS.items():
        first = next(iter(record()["peers"]))
        run = write_full_run(folder / task, task)
        for name, card in write_cards(run, repositories={first: f"me/{first}-mutual"}).items():
            cards[name] = card.read_text(encoding="utf-8")
    return cards


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for peer, text in golden_cards(Path(scratch)).items():
            golden = Path(__file__).parent / "golden" / f"model_card_{peer}.md"
            golden.write_text(text, encoding="utf-8")
            print(golden)
