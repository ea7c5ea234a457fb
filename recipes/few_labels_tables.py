"""What was found with few labels, read from the folders of runs in stages, and the pages that say it.

`recipes/few_labels.py` trains them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from few_labels import Cell

STAGES, ARMS, FILE, OTHERS = "stages", "arms.json", "stages.json", "others.json"
CONTROLS = ("start", "control", "smoothed", "self", "fixmatch")
"""What a user has without his peers."""
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}


def read(cell: Cell, folder: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Every seed's arms and facts, of those that were run."""
    found = []
    for place in (folder / cell.name / f"seed-{seed}" for seed in seeds):
        stages = read_stages(place)
        if stages is not None:
            facts = json.loads((place / "cohort.json").read_text(encoding="utf-8"))["dataset"]
            found.append(stages | {"labels": facts["labelled"]["train"]})
    return found


def labels_of(runs: Sequence[Mapping[str, Any]]) -> str:
    """How many training rows had a label, as the runs recorded it: `"100"`, or `"64 to 67"` where seeds differ."""
    counts = sorted({run["labels"] for run in runs})
    return f"{counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "")


def read_stages(folder: Path) -> dict[str, Any] | None:
    """The arms and facts of a run in stages, `None` where it is not done."""
    stages = folder / STAGES
    if not (stages / ARMS).is_file():
        return None
    arms = {one["name"]: one for one in json.loads((stages / ARMS).read_text(encoding="utf-8"))}
    others = folder / OTHERS
    for name, ends in json.loads(others.read_text(encoding="utf-8")).items() if others.is_file() else ():
        arms[name] = {"name": name, "end": ends}
    return {"arms": arms, "facts": json.loads((stages / FILE).read_text(encoding="utf-8"))["facts"]}


def values(runs: Sequence[Mapping[str, Any]], arm: str, peer: str) -> list[float]:
    """Accuracy in % of every seed."""
    if arm == "start":
        return [100 * run["arms"]["mutual"]["start"][peer]["accuracy"] for run in runs]
    if any(arm not in run["arms"] for run in runs):
        return []
    return [100 * run["arms"][arm]["end"][peer]["accuracy"] for run in runs]


def best_control(runs: Sequence[Mapping[str, Any]], peer: str) -> str:
    """The best that a user has alone, by its mean on the test rows."""
    known = [arm for arm in CONTROLS if values(runs, arm, peer)]
    return max(known, key=lambda arm: statistics.fmean(values(runs, arm, peer)))


def gain(runs: Sequence[Mapping[str, Any]], arm: str, peer: str) -> list[float]:
    """Points of every seed above the best control."""
    against = values(runs, best_control(runs, peer), peer)
    return [one - other for one, other in zip(values(runs, arm, peer), against, strict=True)]


def gain_on_validation(runs: Sequence[Mapping[str, Any]], peer: str) -> list[float]:
    """Points of every seed above that of start, labels alone and self-training which validation rows favour: what a
    user without peers would have kept."""
    favoured = [favoured_control(run["facts"], peer) for run in runs]
    against = [values([run], arm, peer)[0] for run, arm in zip(runs, favoured, strict=True)]
    return [one - other for one, other in zip(values(runs, "mutual", peer), against, strict=True)]


def favoured_control(facts: Mapping[str, Any], peer: str) -> str:
    """Of start, labels alone and self-training the best on the rows that choose."""
    known = facts["validation"]
    return max((arm for arm in ("start", "control", "self") if arm in known), key=lambda arm: known[arm][peer])


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
    "smoothed": "and smoothed",
    "self": "self-trained",
    "fixmatch": "FixMatch",
    "reference": "authors' form",
    "way-gated": "gated",
    "way-mean": "mean",
    "way-class": "class",
    "way-best": "best",
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


GROUPS: tuple[tuple[str, str, Callable[[int | None], bool]], ...] = (
    ("10 to 50 labels per class", "≥ +1.0", lambda labels: labels is not None and labels <= 50),
    ("100 labels per class", "not set", lambda labels: labels is not None and labels > 50),
    ("all labels", "≥ −0.05", lambda labels: labels is None),
)
"""What settings are summed up together: their title, the goal, and which they are by their labels per class."""


def summary(cells: Mapping[Cell, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The goals, and what was reached of them."""
    lines = []
    for title, goal, fits in GROUPS:
        chosen = {cell: runs for cell, runs in cells.items() if fits(cell.labels)}
        deltas = {
            (cell.name, peer): gain(runs, "mutual", peer) for cell, runs in chosen.items() for peer in cell.peers
        }
        if not deltas:
            continue
        mean = statistics.fmean(statistics.fmean(one) for one in deltas.values())
        worse = [who for who, one in deltas.items() if statistics.fmean(one) + half_width(one) < 0]
        lowest = min(statistics.fmean(one) for one in deltas.values())
        several = all(len(one) > 1 for one in deltas.values())
        noise = f"{len(worse)} of {len(deltas)} worse beyond noise, " if several else f"of {len(deltas)} "
        below = [who for who, one in deltas.items() if statistics.fmean(one) < 0]
        strongest = [statistics.fmean(gain(runs, "mutual", _strongest(cell, runs))) for cell, runs in chosen.items()]
        favoured = statistics.fmean(
            statistics.fmean(gain_on_validation(runs, peer)) for cell, runs in chosen.items() for peer in cell.peers
        )
        hindsight = statistics.fmean(
            max(statistics.fmean(values(runs, arm, peer)) for arm in COLUMNS if values(runs, arm, peer))
            - statistics.fmean(values(runs, "mutual", peer))
            for cell, runs in chosen.items()
            for peer in cell.peers
        )
        lines += [
            f"- **{title}** ({len(deltas)} peers in {len(chosen)} settings): kept against the best control "
            f"{mean:+.2f} points in the mean (goal {goal}), against the one that validation favours "
            f"{favoured:+.2f}; {noise}"
            f"{len(below)} below at all{f', at most by {-lowest:.2f}' if below else ''}; the strongest peer of each "
            f"cohort {', '.join(f'{one:+.2f}' for one in strongest)}; {hindsight:.2f} points below the best arm "
            "in hindsight (goal 0.2).",
        ]
    every = [run for runs in cells.values() for run in runs]
    new, trained = (
        [run for run in every if ("adapt" in run["facts"]["stages"]) is adapts] for adapts in (True, False)
    )
    said = [f"trained heads {_cost(trained):.2f} ×"] if trained else []
    if new:
        said.append(f"new heads {_cost(new):.2f} ×, or {_cost(new, adapt_each=True):.2f} × if both must adapt first")
    lines.append(
        f"- **cost**: all stages take so many times what one control and one mutual arm take together: "
        f"{'; '.join(said)} (goal 2; the control's further learning rates left out)."
    )
    return lines


def _strongest(cell: Cell, runs: Sequence[Mapping[str, Any]]) -> str:
    """The peer that is best without the others."""
    return max(cell.peers, key=lambda peer: statistics.fmean(values(runs, best_control(runs, peer), peer)))


def _cost(runs: Sequence[Mapping[str, Any]], adapt_each: bool = False) -> float:
    """Time of all stages over that of a control and the way that went on, to the end; of all runs together."""
    spent, needed = 0.0, 0.0
    for run in runs:
        seconds = {name: stage["seconds"] for name, stage in run["facts"]["stages"].items()}
        last_part = seconds.pop(f"way-{run['facts']['way']}")
        ways = max(len(run["facts"].get("ways", {})), 1)
        taught, quarters = (last_part * 4 / 3, ways) if ways > 1 else (last_part, 0)
        control = statistics.fmean(seconds.pop(name) for name in [*seconds] if name.startswith("control"))
        spent += control + last_part + quarters * taught / 4 + sum(seconds.values())
        needed += control + taught + 2 * adapt_each * seconds.get("adapt", 0.0)
    return spent / needed


def page(cells: Mapping[Cell, Sequence[Mapping[str, Any]]], options: argparse.Namespace) -> str:
    """docs/FEW_LABELS.md."""
    lines = [
        "# Few labels, many rows without",
        "",
        "Made by `make few-labels ARGS=--controls` (without it, the main columns); no number is written by hand.",
        "",
        f"Embedded peers and Fashion-MNIST: {options.rows:,} training rows, of which seeds draw the ones that "
        f"keep their label, {options.measured:,} validation rows of which a third calibrates and two thirds choose, "
        f"as many test rows that nothing was chosen on; seeds draw order and heads, too; {options.epochs:g} epochs, "
        f"batches of 64, learning rate {options.learning_rate:g}; rates of controls are the best on validation of "
        f"{', '.join(f'{rate:g}' for rate in options.rates)}. Accuracy in %, mean over seeds; Δ in points with half "
        "of its 95 % interval over seeds (paired t-test); in brackets the best control on the same test rows, which "
        "favours that reference: of the start, labels alone (tuned), self-training and, where they were trained, "
        "labels alone with label smoothing and FixMatch (recipes/other_controls.py). The authors' form is the preset "
        "`reference`, for as many steps; *gated*, *mean*, *class* and *best* are the ways of teaching, each to its "
        "end, of which *mutual* is the one that validation picked after a quarter. Seeds "
        f"{', '.join(map(str, options.seeds))}: what was found with others decided how weights are chosen.",
        "",
        "**Sizes are what two shared cores do in minutes**: three small peers of one data set. More: "
        "`python recipes/few_labels.py --rows 8000 --epochs 20 --seeds 0 1 2 3 4`.",
        "",
        "## What was reached",
        "",
        *summary(cells),
        "",
    ]
    for cell, runs in cells.items():
        count = f"{labels_of(runs)} labels, {len(runs)} seed{'s' * (len(runs) > 1)}"
        lines += [f"## {cell.title[0].upper()}{cell.title[1:]}: {count}", "", *table(cell, runs)]
        some = [run for run in runs if "fixmatch" in run["arms"]]
        if 0 < len(some) < len(runs):
            lines += [f"Beside more controls, which only {len(some)} of these seeds have:", "", *table(cell, some)]
    return "\n".join(lines).rstrip() + "\n"


def drawn_page(cells: Mapping[Cell, Sequence[Mapping[str, Any]]], options: argparse.Namespace) -> str:
    """docs/FEW_LABELS_COHORTS.md."""
    drawn_from = sorted({peer for cell in cells for peer in cell.peers})
    columns = ["labels alone, tuned", "self-trained", "mutual", "**kept**", "Δ", "kept"]
    lines = [
        "# Few labels: cohorts drawn from eight peers",
        "",
        "Made by `python recipes/few_labels.py --drawn`; no number is written by hand.",
        "",
        f"{len(cells)} cohorts of two to four peers, drawn from {', '.join(drawn_from)} (small classifiers of three "
        f"families, see `recipes/suites/make_peers.py`), seed {options.seeds[0]} each; {options.rows:,} training rows "
        f"of Fashion-MNIST, {options.measured:,} validation and as many test rows, {options.epochs:g} epochs, "
        "otherwise as in [FEW_LABELS.md](FEW_LABELS.md). Accuracy in %, Δ in points against the best of start, tuned "
        "labels alone and self-training **on the same test rows**, which favours that reference.",
        "",
        "## What was reached",
        "",
        *summary(cells),
        "",
        "## Every peer",
        "",
        f"| labels per class | rows with one | heads | peer | start | {' | '.join(columns)} |",
        f"| --- | --: | --- | --- |{' --: |' * 6} --- |",
    ]
    for cell, runs in cells.items():
        for peer in cell.peers:
            means = [values(runs, arm, peer) for arm in ("start", "control", "self", "taught", "mutual")]
            shown = [f"{statistics.fmean(each):.1f}" if each else "–" for each in means]
            kept = kept_words([run["facts"]["kept"][peer] for run in runs])
            setting = ["all" if cell.labels is None else str(cell.labels), labels_of(runs), cell.heads]
            words = setting if peer == cell.peers[0] else [""] * len(setting)
            delta = statistics.fmean(gain(runs, "mutual", peer))
            lines.append(f"| {' | '.join([*words, peer, *shown])} | {delta:+.2f} | {kept} |")
    return "\n".join(lines) + "\n"
