"""Few labels, many rows without: `python recipes/few_labels.py` writes docs/FEW_LABELS.md.

Cohorts of the embedded peers, with new heads and with trained ones, learn in stages (`teaching: auto`) from few labels
of the embedded Fashion-MNIST rows. Each run trains what a user would compare with, too: labels alone, at the learning
rate that validation picks, and self-training. Runs are kept and not repeated; `--report` writes the page again.

`--drawn` does the same with cohorts drawn from eight peers, one seed each, and writes docs/FEW_LABELS_COHORTS.md;
first `python recipes/suites/make_peers.py`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_mutual_kd import MutualKDConfig, PeerSpec, RecipeOptions, SuiteArm, write_text

ROOT = Path(__file__).resolve().parents[1]
PEERS = {name: f"recipes/embedded/peers/{name}" for name in ("vit", "resnet", "convnext")}
DATA = "runs/few_labels_data"
DRAWN_FROM = ("vit_0", "vit_1", "resnet_0", "resnet_1", "convnext_0", "convnext_1", "strong", "weak")
"""Of the suites' peers: two of each family, one that is far better than the others and one that is far worse."""
STAGES, ARMS, FILE = "stages", "arms.json", "stages.json"
PAGE = ROOT / "docs" / "FEW_LABELS.md"
DRAWN_PAGE = ROOT / "docs" / "FEW_LABELS_COHORTS.md"
CONTROLS = ("start", "control", "self")
"""What a user has without his peers."""
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}


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
    """Train one setting with one seed, unless that was done."""
    if read_stages(folder) is not None:
        return
    print(f"{cell.title}, seed {seed}", flush=True)
    recipe = {
        "peers": {name: PeerSpec(source(name)) for name in cell.peers},
        "dataset": DATA,
        "labels_per_class": cell.labels,
        "label_alignment": "new_head" if cell.heads == "new" else "exact",
    }
    batches = {"per_device_train_batch_size": 64, "per_device_eval_batch_size": 500}
    run_stages(folder, seed, options, recipe, learning_rate=options.learning_rate, **batches)
    for stage in (folder / STAGES).iterdir():
        if stage.is_dir():
            shutil.rmtree(stage)


def run_stages(folder: Path, seed: int, options: argparse.Namespace, recipe: Mapping[str, Any], **config: Any) -> None:
    """Train one cohort of classifiers in stages, beside the labels alone at each of the rates; go on with a run that
    has begun in this folder."""
    goes_on = (folder / STAGES / FILE).is_file()
    arm = MutualKDConfig(
        output_dir=str(folder),
        teaching="auto",
        control_learning_rates=list(options.rates),
        lr_scheduler_type="cosine",
        num_train_epochs=options.epochs,
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
        resume_from_checkpoint=goes_on,
        **config,
    )
    rows = {"max_train_samples": options.rows, "max_eval_samples": options.measured}
    chosen = RecipeOptions(overwrite_output_dir=not goes_on, seeds=[seed], **rows, **recipe)
    SuiteArm("image-classification", chosen, config=arm).run()


def read(cell: Cell, folder: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Every seed's arms and facts, of those that were run."""
    found = [read_stages(folder / cell.name / f"seed-{seed}") for seed in seeds]
    return [one for one in found if one is not None]


def read_stages(folder: Path) -> dict[str, Any] | None:
    """The arms and facts of a run in stages, `None` where it is not done."""
    stages = folder / STAGES
    if not (stages / ARMS).is_file():
        return None
    arms = {one["name"]: one for one in json.loads((stages / ARMS).read_text(encoding="utf-8"))}
    return {"arms": arms, "facts": json.loads((stages / FILE).read_text(encoding="utf-8"))["facts"]}


def values(runs: Sequence[Mapping[str, Any]], arm: str, peer: str) -> list[float]:
    """Accuracy in % of every seed."""
    if arm == "start":
        return [100 * run["arms"]["mutual"]["start"][peer]["accuracy"] for run in runs]
    if any(arm not in run["arms"] for run in runs):
        return []
    return [100 * run["arms"][arm]["end"][peer]["accuracy"] for run in runs]


def best_control(runs: Sequence[Mapping[str, Any]], peer: str) -> str:
    """The best of start, tuned labels alone and self-training, by its mean on the test rows."""
    known = [arm for arm in CONTROLS if values(runs, arm, peer)]
    return max(known, key=lambda arm: statistics.fmean(values(runs, arm, peer)))


def gain(runs: Sequence[Mapping[str, Any]], arm: str, peer: str) -> list[float]:
    """Points of every seed above the best control."""
    against = values(runs, best_control(runs, peer), peer)
    return [one - other for one, other in zip(values(runs, arm, peer), against, strict=True)]


def kept_words(choices: Sequence[Mapping[str, Any]]) -> str:
    """What every seed keeps: `"mutual, control at α 0.5"`."""
    return ", ".join(one["what"] + ("" if one["alpha"] == 1.0 else f" at α {one['alpha']:g}") for one in choices)


def half_width(differences: Sequence[float]) -> float:
    """Half of the 95 % interval of a paired t-test over seeds."""
    if len(differences) < 2:
        return float("inf")
    return T_95.get(len(differences), 2.6) * statistics.stdev(differences) / len(differences) ** 0.5


def spread(differences: Sequence[float]) -> str:
    """` ± 0.40`, or nothing for one seed."""
    return f" ± {half_width(differences):.2f}" if len(differences) > 1 else ""


COLUMNS = {
    "start": "start",
    "adapted": "adapted",
    "control": "labels alone, tuned",
    "self": "self-trained",
    "taught": "mutual",
    "mutual": "**kept**",
}


def table(cell: Cell, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """One setting's peers."""
    arms = [arm for arm in COLUMNS if values(runs, arm, cell.peers[0])]
    lines = [
        f"| peer | {' | '.join(COLUMNS[arm] for arm in arms)} | Δ of kept against the best control | kept is |",
        f"| --- |{' --: |' * (len(arms) + 1)} --- |",
    ]
    for peer in cell.peers:
        means = [f"{statistics.fmean(values(runs, arm, peer)):.1f}" for arm in arms]
        delta = gain(runs, "mutual", peer)
        what = kept_words([run["facts"]["kept"][peer] for run in runs])
        lines.append(
            f"| {peer} | {' | '.join(means)} | {statistics.fmean(delta):+.2f}{spread(delta)} "
            f"({best_control(runs, peer)}) | {what} |"
        )
    ways = ", ".join(str(run["facts"].get("way")) for run in runs)
    return [*lines, "", f"Ways that went on, by seed: {ways}.", ""]


def summary(cells: Mapping[Cell, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The goals, and what was reached of them."""
    few = {cell: runs for cell, runs in cells.items() if cell.labels is not None}
    lines = []
    for title, chosen in (("few labels", few), ("all labels", {c: r for c, r in cells.items() if c.labels is None})):
        deltas = {
            (cell.name, peer): gain(runs, "mutual", peer) for cell, runs in chosen.items() for peer in cell.peers
        }
        if not deltas:
            continue
        mean = statistics.fmean(statistics.fmean(one) for one in deltas.values())
        worse = [who for who, one in deltas.items() if statistics.fmean(one) + half_width(one) < 0]
        lowest = -min(statistics.fmean(one) for one in deltas.values())
        several = all(len(one) > 1 for one in deltas.values())
        noise = f"{len(worse)} of {len(deltas)} worse beyond noise, " if several else f"of {len(deltas)} "
        below = [who for who, one in deltas.items() if statistics.fmean(one) < 0]
        strongest = [statistics.fmean(gain(runs, "mutual", _strongest(cell, runs))) for cell, runs in chosen.items()]
        hindsight = statistics.fmean(
            max(statistics.fmean(values(runs, arm, peer)) for arm in COLUMNS if values(runs, arm, peer))
            - statistics.fmean(values(runs, "mutual", peer))
            for cell, runs in chosen.items()
            for peer in cell.peers
        )
        goal = "≥ +1.0" if title == "few labels" else "≥ −0.05"
        lines += [
            f"- **{title}** ({len(deltas)} peers in {len(chosen)} settings): kept against the best of start, tuned "
            f"labels alone and self-training {mean:+.2f} points in the mean (goal {goal}); {noise}"
            f"{len(below)} below at all, at most by {lowest:.2f}; the strongest peer of each cohort "
            f"{', '.join(f'{one:+.2f}' for one in strongest)}; {hindsight:.2f} points below the best arm in hindsight "
            "(goal 0.2).",
        ]
    cost = [_cost(run) for runs in cells.values() for run in runs]
    if cost:
        lines.append(
            f"- **cost**: all stages take {statistics.fmean(cost):.2f} × the time of one control and one mutual arm "
            "(goal 2), the control's further learning rates left out."
        )
    return lines


def _strongest(cell: Cell, runs: Sequence[Mapping[str, Any]]) -> str:
    """The peer that is best without the others."""
    return max(cell.peers, key=lambda peer: statistics.fmean(values(runs, best_control(runs, peer), peer)))


def _cost(run: Mapping[str, Any]) -> float:
    """Time of all stages over that of a control and the way that went on, to the end."""
    stages = run["facts"]["stages"]
    taught = stages[f"way-{run['facts']['way']}"]["seconds"]
    controls = [one["seconds"] for name, one in stages.items() if name.startswith("control")]
    total = sum(one["seconds"] for name, one in stages.items() if not name.startswith("control")) + controls[0]
    tried = taught / 3 * max(len(run["facts"].get("ways", {})), 1)
    return (total + tried) / (controls[0] + taught * 4 / 3)


def page(cells: Mapping[Cell, Sequence[Mapping[str, Any]]], options: argparse.Namespace) -> str:
    """docs/FEW_LABELS.md."""
    lines = [
        "# Few labels, many rows without",
        "",
        "Made by `make few-labels`; no number is written by hand.",
        "",
        f"Embedded peers and Fashion-MNIST rows: {options.rows:,} training rows of which few have a label, "
        f"{options.measured:,} validation rows of which a third calibrates and two thirds choose, as many test "
        f"rows that nothing was chosen on; seeds draw rows, labels, order and new heads, {options.epochs:g} epochs, "
        f"batches of 64, learning rate {options.learning_rate:g}; the control's rate is the best on validation of "
        f"{', '.join(f'{rate:g}' for rate in options.rates)}. Accuracy in %, mean over seeds; Δ in points with half "
        "of its 95 % interval over seeds (paired t-test; of one seed none); in brackets the best control.",
        "",
        "**Sizes are what two shared cores do in minutes**: three small peers of one data set, fewer settings than "
        "the goal asks for (8 peers, 12 cohorts, 10 to 100 labels), no label smoothing, FixMatch or preset "
        "`reference` beside. More: `python recipes/few_labels.py --rows 8000 --epochs 20 --seeds 0 1 2 3 4`.",
        "",
        "## What was reached",
        "",
        *summary(cells),
        "",
    ]
    for cell, runs in cells.items():
        count = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
        lines += [f"## {cell.title[0].upper()}{cell.title[1:]}: {count}", "", *table(cell, runs)]
    return "\n".join(lines).rstrip() + "\n"


def drawn_page(cells: Mapping[Cell, Sequence[Mapping[str, Any]]], options: argparse.Namespace) -> str:
    """docs/FEW_LABELS_COHORTS.md."""
    lines = [
        "# Few labels: cohorts drawn from eight peers",
        "",
        "Made by `python recipes/few_labels.py --drawn`; no number is written by hand.",
        "",
        f"{len(cells)} cohorts of two to four peers, drawn from {', '.join(DRAWN_FROM)} (small classifiers of three "
        f"families, see `recipes/suites/make_peers.py`), one seed each; {options.rows:,} training rows of "
        f"Fashion-MNIST, {options.measured:,} validation and as many test rows, {options.epochs:g} epochs, otherwise "
        "as in [FEW_LABELS.md](FEW_LABELS.md). Accuracy in %, Δ in points against the best of start, tuned labels "
        "alone and self-training **on the same test rows**, which favours that reference.",
        "",
        "## What was reached",
        "",
        *summary(cells),
        "",
        "## Every peer",
        "",
        "| labels | heads | peer | start | labels alone, tuned | self-trained | mutual | **kept** | Δ | kept |",
        f"| --- | --- | --- |{' --: |' * 6} --- |",
    ]
    for cell, runs in cells.items():
        for peer in cell.peers:
            means = [values(runs, arm, peer) for arm in ("start", "control", "self", "taught", "mutual")]
            shown = [f"{statistics.fmean(each):.1f}" if each else "–" for each in means]
            kept = kept_words([run["facts"]["kept"][peer] for run in runs])
            first = peer == cell.peers[0]
            labels = ("all" if cell.labels is None else str(cell.labels)) if first else ""
            delta = statistics.fmean(gain(runs, "mutual", peer))
            lines.append(
                f"| {labels} | {cell.heads if first else ''} | {peer} | {' | '.join(shown)} | {delta:+.2f} | {kept} |"
            )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=4_000, help="training rows")
    parser.add_argument("--measured", type=int, default=1_500, help="test rows")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    parser.add_argument("--cells", nargs="*", default=None, help="names of settings; all when left out")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/few_labels"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--drawn", type=int, nargs="?", const=15, default=0, help="so many cohorts of eight peers")
    parser.add_argument("--report", action="store_true", help="write the page of what was run, train nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    known, seeds = (drawn(options.drawn), [0]) if options.drawn else (CELLS, options.seeds)
    chosen = [cell for cell in known if options.cells is None or cell.name in options.cells]
    for seed in seeds if not options.report else ():
        for cell in chosen:
            run(cell, seed, options.output_dir / cell.name / f"seed-{seed}", options)
    found = {cell: read(cell, options.output_dir, seeds) for cell in known}
    done = {cell: runs for cell, runs in found.items() if runs}
    place, text = (DRAWN_PAGE, drawn_page) if options.drawn else (PAGE, page)
    write_text(place, text(done, options))
    print(f"Written: {place}")


if __name__ == "__main__":
    main()
