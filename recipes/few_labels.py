"""Few labels, many rows without: `python recipes/few_labels.py` writes docs/FEW_LABELS.md.

Cohorts of the embedded peers, with new heads and with trained ones, learn in stages (`teaching: auto`) from few labels
of the embedded Fashion-MNIST rows. Each run trains what a user would compare with, too: labels alone, at the learning
rate that validation picks, and self-training. Runs are kept and not repeated; `--report` writes the page again.

`--controls` trains, in three of the settings, what else a user could do alone: label smoothing and FixMatch; the form
of the authors' code; and each way of teaching to its end, from which `auto` picks one. `--drawn` does the same with
cohorts drawn from eight peers, one seed each, and writes docs/FEW_LABELS_COHORTS.md; first `python
recipes/suites/make_peers.py`.

All rows need a label here, which some then hide: first `apt-get install dataset-fashion-mnist` and
`python recipes/embedded/make_data.py --label_every 1 --output runs/few_labels_data`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from embedded.make_peers import preprocess
from few_labels_tables import ARMS, FILE, OTHERS, STAGES, drawn_page, page, read, read_stages
from other_controls import Rows, Schedule, tuned_fixmatch

from hf_mutual_kd import (
    TASKS,
    WAYS,
    ClassOptions,
    Cohort,
    MutualKDConfig,
    PeerSpec,
    SuiteArm,
    load_splits,
    write_json,
    write_text,
)

ROOT = Path(__file__).resolve().parents[1]
PEERS = {name: f"recipes/embedded/peers/{name}" for name in ("vit", "resnet", "convnext")}
DATA = "runs/few_labels_data"
BATCHES = {"per_device_train_batch_size": 64, "per_device_eval_batch_size": 500}
DRAWN_FROM = ("vit_0", "vit_1", "resnet_0", "resnet_1", "convnext_0", "convnext_1", "strong", "weak")
"""Of the suites' peers: two of each family, one that is far better than the others and one that is far worse."""
PAGE = ROOT / "docs" / "FEW_LABELS.md"
DRAWN_PAGE = ROOT / "docs" / "FEW_LABELS_COHORTS.md"
SMOOTHING = 0.1
"""Of the control that has it."""
WEIGHT = TASKS["image-classification"].teaching_weight
"""Of transfer in the ways of teaching: what `--teaching auto` takes for classes."""


@dataclass(frozen=True)
class Cell:
    """One setting: how many labels, which heads, which peers."""

    labels: int | None
    heads: str
    peers: tuple[str, ...] = tuple(PEERS)

    @property
    def name(self) -> str:
        """Its folder."""
        labels = "all" if self.labels is None else str(self.labels)
        return f"{self.heads}-{labels}-{'+'.join(self.peers)}"

    @property
    def title(self) -> str:
        """Its words."""
        labels = "all rows have a label" if self.labels is None else f"{self.labels} labels per class"
        return f"{self.heads} heads, {labels}, {' + '.join(self.peers)}"


CELLS = (
    *(Cell(labels, "new") for labels in (10, 25, 50, 100, None)),
    *(Cell(labels, "trained") for labels in (10, 50, None)),
)

WITH_OTHERS = tuple(cell for cell in CELLS if (cell.heads, cell.labels) in {("new", 10), ("new", 50), ("trained", 10)})
"""The settings that other controls are trained in, too."""


def drawn(count: int) -> tuple[Cell, ...]:
    """Cohorts of two to four peers, each with one number of labels; which heads are new alternates."""
    draw, cells = random.Random(0), []
    for index in range(count):
        peers = tuple(sorted(draw.sample(DRAWN_FROM, 2 + index % 3)))
        cells.append(Cell((10, 25, 50, 100, None)[index % 5], ("new", "trained")[index % 2], peers))
    return tuple(cells)


def source(peer: str) -> str:
    """Where a peer lies."""
    return PEERS.get(peer) or f"runs/suite_peers/{peer}"


def run(cell: Cell, seed: int, folder: Path, options: argparse.Namespace) -> None:
    """Train of one setting with one seed what was not trained yet."""
    if read_stages(folder) is None:
        print(f"{cell.title}, seed {seed}", flush=True)
        run_stages(folder, seed, options, recipe_of(cell), learning_rate=options.learning_rate, **BATCHES)
    if options.controls and cell in WITH_OTHERS and not (folder / OTHERS).is_file():
        print(f"{cell.title}, seed {seed}: other controls", flush=True)
        run_others(cell, seed, folder, options)
    for stage in (folder / STAGES).iterdir():
        if stage.is_dir():
            shutil.rmtree(stage)


def recipe_of(cell: Cell) -> dict[str, Any]:
    """What a setting asks of the command."""
    return {
        "peers": {name: PeerSpec(source(name)) for name in cell.peers},
        "dataset": DATA,
        "labels_per_class": cell.labels,
        "label_alignment": "new_head" if cell.heads == "new" else "exact",
    }


def run_others(cell: Cell, seed: int, folder: Path, options: argparse.Namespace) -> None:
    """Train what else there is in one setting with one seed, for as many steps as adapting and going on takes."""
    epochs = options.epochs * (2 if cell.heads == "new" else 1)
    usual = {**BATCHES, "learning_rate": options.learning_rate}
    found: dict[str, dict[str, dict[str, float]]] = {"smoothed": {}}
    for name in cell.peers:
        alone, place = Cell(cell.labels, cell.heads, (name,)), folder / "smoothed" / name
        smoothed = {"label_smoothing_factor": SMOOTHING, "self_training": False}
        run_stages(place, seed, options, recipe_of(alone), **usual, **smoothed)
        arms = json.loads((place / STAGES / ARMS).read_text(encoding="utf-8"))
        found["smoothed"][name] = next(one["end"][name] for one in arms if one["name"] == "control")
    plain = {**usual, "labelled_share": 0.25}
    recipe = recipe_of(cell) | {"control": False}
    reference = train(
        folder / "reference", seed, recipe, options, **plain, preset="reference", num_train_epochs=epochs
    )
    found["reference"] = {name: reference[name]["arms"]["mutual"]["metrics"] for name in cell.peers}
    found["fixmatch"] = fixmatch(cell, seed, epochs, options)
    if cell.heads == "new":
        recipe |= {"peers": adapted(cell, folder), "label_alignment": "exact"}
    for way, teaches in WAYS.items():
        taught = train(folder / way, seed, recipe, options, **plain, **teaches, transfer_weight=WEIGHT)
        found[f"way-{way}"] = {name: taught[name]["arms"]["mutual"]["metrics"] for name in cell.peers}
    write_json(folder / OTHERS, found)
    for made in ("smoothed", "reference", *WAYS):
        shutil.rmtree(folder / made)


def adapted(cell: Cell, folder: Path) -> dict[str, PeerSpec]:
    """The peers as a run in stages adapted them."""
    places = {name: folder / STAGES / "adapt" / name for name in cell.peers}
    if not all(place.is_dir() for place in places.values()):
        raise SystemExit(f"{folder} has lost its adapted peers, with which the ways begin; remove it")
    return {name: PeerSpec(str(place)) for name, place in places.items()}


def fixmatch(cell: Cell, seed: int, epochs: float, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """FixMatch of every peer alone."""
    hidden = ClassOptions(
        dataset=DATA, labels_per_class=cell.labels, max_train_samples=options.rows, max_eval_samples=options.measured
    )
    splits = load_splits(hidden, seed=seed)
    parts = [Rows.of(rows) for rows in (splits.train, splits.validation, splits.test)]
    size = BATCHES["per_device_train_batch_size"]
    schedule = Schedule(round(epochs * options.rows / size), size, seed)
    found = {}
    for name in cell.peers:
        torch.manual_seed(seed)
        alignment = "new_head" if cell.heads == "new" else "exact"
        cohort = Cohort.from_pretrained(
            {name: source(name)}, label_names=splits.label_names, label_alignment=alignment
        )
        process = partial(preprocess, cohort.processors[name])
        reached = tuned_fixmatch(cohort.peers[name], process, parts, rates=options.rates, schedule=schedule)
        found[name] = {"accuracy": reached}
    return found


def run_stages(folder: Path, seed: int, options: argparse.Namespace, recipe: Mapping[str, Any], **config: Any) -> None:
    """Train one cohort of classifiers in stages, beside the labels alone at each of the rates; go on with a run that
    has begun in this folder."""
    goes_on = (folder / STAGES / FILE).is_file()
    stages = {"teaching": "auto", "control_learning_rates": list(options.rates), "resume_from_checkpoint": goes_on}
    train(folder, seed, recipe, options, **stages, **config)


def train(folder: Path, seed: int, recipe: Mapping[str, Any], options: argparse.Namespace, **config: Any) -> Any:
    """Train one cohort of classifiers; what `results.json` says of its peers."""
    usual = {"num_train_epochs": options.epochs, "resume_from_checkpoint": False}
    arm = MutualKDConfig(
        output_dir=str(folder),
        lr_scheduler_type="cosine",
        augment=False,
        eval_strategy="epoch",
        save_strategy="no",
        load_best_model_at_end=True,
        seed=seed,
        data_seed=seed,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        pre_flight=False,
        **(usual | config),
    )
    rows = {"max_train_samples": options.rows, "max_eval_samples": options.measured}
    goes_on = bool(arm.resume_from_checkpoint)
    chosen = ClassOptions(overwrite_output_dir=not goes_on, seeds=[seed], **rows, **recipe)
    SuiteArm("image-classification", chosen, config=arm).run()
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["peers"]


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[6, 7, 8])
    parser.add_argument("--rows", type=int, default=4_000, help="training rows")
    parser.add_argument("--measured", type=int, default=1_500, help="test rows")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3, 3e-3])
    parser.add_argument("--cells", nargs="*", default=None, help="names of settings; all when left out")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/few_labels"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--controls", action="store_true", help="smoothing, FixMatch, the authors' form, each way")
    parser.add_argument("--drawn", type=int, nargs="?", const=15, default=0, help="so many cohorts of eight peers")
    parser.add_argument("--report", action="store_true", help="write the page of what was run, train nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    known, seeds = (drawn(options.drawn), options.seeds[:1]) if options.drawn else (CELLS, options.seeds)
    chosen = [cell for cell in known if options.cells is None or cell.name in options.cells]
    for seed in seeds if not options.report else ():
        for cell in chosen:
            folder = options.output_dir / cell.name / f"seed-{seed}"
            run(cell, seed, folder, options)
    found = {cell: read(cell, options.output_dir, seeds) for cell in known}
    done = {cell: runs for cell, runs in found.items() if runs}
    if not done:
        parser.error(f"{options.output_dir} holds no run of these settings; leave out --report to train them")
    place, text = (DRAWN_PAGE, drawn_page) if options.drawn else (PAGE, page)
    write_text(place, text(done, options))
    print(f"Written: {place}")


if __name__ == "__main__":
    main()
