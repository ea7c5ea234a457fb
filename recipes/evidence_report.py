"""What `recipes/evidence.py` found: tables for the terminal and for Markdown, and the figure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence_settings import Setting
from matplotlib.figure import Figure

from hf_mutual_kd import render, whole

COLUMNS = ("peer", "start", "control", "arm", "Δ mean ± sd", "min", "bar", "reached", "flips + −", "reference Δ")
NOISE = 0.15
"""Points; a second data order moves a control by about as much."""


READING = """Numbers are percentages of {rows:,} held-out rows that nothing was trained or selected on; Δ is in points,
the mean over seeds of arm minus control, ± its standard deviation. A seed is another draw of pretraining rows, initial
weights and order; in E the same six peers learn in another order. Arm, control and reference share starts, row order,
augmentation and, but for the early-stopped or labels-only controls named below, steps. The last step is reported.
Differences below {noise} are noise. *reference Δ* is the authors' form of the loss (teacher not detached, no
retention) against the same control; it needs labels: B has none, in C and E it learns from the labelled rows alone.

- **A, A', D, even, four**: the package's defaults; peers go on learning from the rows they were pretrained on.
- **B, C, E**: the mean of the frozen starts teaches on every row. In C and E a batch of about 128 holds its share of
  the labelled rows (16 and 25); cross-entropy is their mean, transfer the mean over all rows. The control sees the
  labelled rows of the same batches (in E at either of two learning rates), or 20 epochs over the labelled rows in
  batches of 128 at one of three learning rates; per peer, the best of these on the validation rows counts. The
  reference is chosen among the same schedules, but for the second learning rate in E.
"""


@dataclass
class Outcome:
    """A setting with its runs.

    Args:
        name (`str`): the setting's.
        setting ([`Setting`]): what was compared.
        peers (`dict`): per peer one entry per seed: `start`, `control`, `arm` and, where it was run, `reference`, each
            with accuracies in percent.
    """

    name: str
    setting: Setting
    peers: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]

    def deltas(self, peer: str, arm: str = "arm") -> list[float]:
        """Points above the control on held rows, per seed; empty where the arm was not run."""
        return [one[arm]["held"] - one["control"]["held"] for one in self.peers[peer] if arm in one]

    def mean(self, peer: str, arm: str, key: str = "held") -> float:
        """Over seeds."""
        return statistics.fmean(one[arm][key] for one in self.peers[peer])

    @property
    def all_deltas(self) -> list[list[float]]:
        """Of every peer."""
        return [self.deltas(peer) for peer in self.peers]

    @property
    def average(self) -> float:
        """Points above the control, over peers and seeds."""
        return statistics.fmean(statistics.fmean(one) for one in self.all_deltas)

    @property
    def passed(self) -> bool | None:
        """Whether every figure was reached; `None` where none was promised."""
        found = [self.setting.bar.met(peer, self.deltas(peer)) for peer in self.peers]
        known = [one for one in (*found, self.setting.bar.average_met(self.all_deltas)) if one is not None]
        return all(known) if known else None


def spread(values: Sequence[float]) -> str:
    """`+0.51 ± 0.07`; nothing after the mean for one seed, a dash for none."""
    if not values:
        return "–"
    sd = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):+.2f}{sd}"


def verdict(reached: bool | None) -> str:
    """`yes`, `NO`, or a dash where nothing was promised."""
    return "–" if reached is None else "yes" if reached else "NO"


def rows(outcome: Outcome) -> list[Sequence[str]]:
    """One per peer, and one for their mean where a figure is promised for it."""
    bar = outcome.setting.bar
    found: list[Sequence[str]] = []
    for peer in outcome.peers:
        deltas = outcome.deltas(peer)
        found.append(
            (
                peer,
                f"{outcome.mean(peer, 'start'):.2f}",
                f"{outcome.mean(peer, 'control'):.2f}",
                f"{outcome.mean(peer, 'arm'):.2f}",
                spread(deltas),
                f"{min(deltas):+.2f}",
                bar.text(peer) or "–",
                verdict(bar.met(peer, deltas)),
                f"+{outcome.mean(peer, 'arm', 'gained'):.1f} −{outcome.mean(peer, 'arm', 'lost'):.1f}",
                spread(outcome.deltas(peer, "reference")),
            )
        )
    if bar.average is not None:
        reached = verdict(bar.average_met(outcome.all_deltas))
        blank = ("", "", "")
        worst = min(min(one) for one in outcome.all_deltas)
        text = f"≥ {bar.average:+.2f}"
        found.append(("all peers", *blank, f"{outcome.average:+.2f}", f"{worst:+.2f}", text, reached, "", ""))
    return found


def table(outcome: Outcome) -> str:
    """For the terminal."""
    return render(COLUMNS, rows(outcome), title=f"{outcome.name}: {outcome.setting.title}")


def figures(outcome: Outcome) -> dict[str, Any]:
    """For `results.json`: every seed of every peer, in percent and points."""
    peers = {
        peer: {
            "delta": outcome.deltas(peer),
            "bar": outcome.setting.bar.text(peer) or None,
            "reached": outcome.setting.bar.met(peer, outcome.deltas(peer)),
            "per_seed": seeds,
        }
        for peer, seeds in outcome.peers.items()
    }
    return {"title": outcome.setting.title, "reached": outcome.passed, "average": outcome.average, "peers": peers}


def markdown(outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> str:
    """The whole of `evidence.md`: how it was run, how to read it, the tables, what was not reached."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        "# Does mutual transfer beat plain fine-tuning?",
        "",
        f"Made by `{facts['command']}` (seeds {', '.join(map(str, facts['seeds']))}; {facts['machine']}; {versions};",
        f"{facts['training_seconds'] / 60:.0f} minutes of training). Data: {facts['source']}.",
        "",
        "![Points above the control for every setting and peer](evidence.png)",
        "",
        READING.format(rows=facts["held_rows"], noise=NOISE),
        missed(outcomes),
        "",
    ]
    if facts["quick"]:
        lines[1:1] = ["", "**A quick run: its figures mean nothing.**"]
    for outcome in outcomes:
        lines += [f"## {outcome.name}: {outcome.setting.title}", "", *markdown_table(COLUMNS, rows(outcome))]
    return "\n".join(lines)


def markdown_table(columns: Sequence[str], cells: Iterable[Sequence[str]]) -> list[str]:
    """Lines of Markdown, an empty one last."""
    head = ["| " + " | ".join(columns) + " |", "|" + "|".join([" --- ", *[" ---: "] * (len(columns) - 1)]) + "|"]
    return [*head, *("| " + " | ".join(row) + " |" for row in cells), ""]


def missed(outcomes: Sequence[Outcome]) -> str:
    """Which peers did not reach their figure, in a sentence."""
    found = []
    for outcome in outcomes:
        bar = outcome.setting.bar
        short = [peer for peer in outcome.peers if bar.met(peer, outcome.deltas(peer)) is False]
        short += ["mean of all peers"] if bar.average_met(outcome.all_deltas) is False else []
        found += [f"{outcome.name} ({', '.join(short)})"] if short else []
    return f"**Figures not reached: {'; '.join(found)}.**" if found else "All figures that were promised are reached."


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """One panel per setting: what every peer gained over its control, each seed a dot, and what was promised."""
    columns = min(4, len(outcomes))
    lines = -(-len(outcomes) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.9 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel in panels[len(outcomes) :]:
        panel.set_axis_off()
    for panel, outcome in zip(panels, outcomes, strict=False):
        panel.axhspan(-NOISE, NOISE, color="0.92", label=f"noise, ± {NOISE}")
        panel.axhline(0, color="0.4", linewidth=0.8)
        for place, peer in enumerate(outcome.peers):
            draw_peer(panel, place, outcome, peer)
        panel.set_xticks(range(len(outcome.peers)), list(outcome.peers), fontsize=8 if len(outcome.peers) < 5 else 6)
        panel.set_xlim(-0.6, len(outcome.peers) - 0.4)
        panel.set_title(outcome.name, loc="left", fontweight="bold")
        panel.tick_params(axis="y", labelsize=8)
    handles = {label: h for panel in panels for h, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=8)
    figure.supylabel("points above the control, held-out rows", fontsize=9)
    with whole(path) as beside:
        figure.savefig(beside, dpi=150)


def draw_peer(panel: Any, place: int, outcome: Outcome, peer: str) -> None:
    """One peer's dots: transfer to the left, the authors' form to the right."""
    for arm, side, color, label in (("arm", -0.15, "C0", "this package"), ("reference", 0.15, "C3", "authors' form")):
        deltas = outcome.deltas(peer, arm)
        if deltas:
            panel.bar(place + side, statistics.fmean(deltas), width=0.28, color=color, alpha=0.45, label=label)
            panel.plot([place + side] * len(deltas), deltas, "o", color=color, markersize=3)
    if peer in outcome.setting.bar.mean:
        height = outcome.setting.bar.mean[peer]
        panel.hlines(height, place - 0.4, place + 0.4, color="k", linestyles="--", label="figure to reach")
