"""What `recipes/hunt.py` found: tables for the terminal and for Markdown, correlations, and the figure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from correlation import among_partners, with_interval
from evidence_report import markdown_table
from hunt_settings import REGIMES, WEAK
from matplotlib.figure import Figure

from hf_mutual_kd import render, whole

Pair = tuple[str, ...]
NOISE_SDS = 2.0
"""A peer is worse beyond noise where its mean over seeds is below 0 by more than so many standard errors."""


@dataclass
class Found:
    """A way of teaching, confirmed on one data set.

    Args:
        regime, way (`str`): their names.
        pairs, cohorts (`dict`): by its peers, per peer the gain in points on held rows in every seed.
        known (`dict`): by pair and peer, what was known before training.
        bars, starts (`dict[str, float]`): per peer, accuracy on held rows of what had to be beaten and of the start.
    """

    regime: str
    way: str
    pairs: Mapping[Pair, Mapping[str, Sequence[float]]]
    cohorts: Mapping[Pair, Mapping[str, Sequence[float]]]
    known: Mapping[Pair, Mapping[str, Mapping[str, float | None]]]
    bars: Mapping[str, float]
    starts: Mapping[str, float]

    def gains(self) -> list[tuple[Pair, str, Sequence[float]]]:
        """Every peer in every pair."""
        return [(pair, peer, each) for pair, peers in self.pairs.items() for peer, each in peers.items()]

    def strong_beside_weak(self) -> list[Sequence[float]]:
        """Gains of strong peers in pairs with a weak one."""
        return [
            each
            for pair, peer, each in self.gains()
            if not peer.startswith(WEAK) and any(one.startswith(WEAK) for one in pair)
        ]


def mean(gains: Iterable[Sequence[float]]) -> float:
    """Over peers and seeds."""
    return statistics.fmean(statistics.fmean(each) for each in gains)


def is_worse(gains: Sequence[float]) -> bool:
    """Whether a peer is below what it had to beat, with several seeds beyond their noise."""
    if len(gains) < 2:
        return gains[0] < 0
    return statistics.fmean(gains) < -NOISE_SDS * statistics.stdev(gains) / len(gains) ** 0.5


COLUMNS = (
    "rows",
    "data",
    "mean of pairs",
    "sd over seeds",
    "worst peer",
    "not worse",
    "above",
    "strong beside weak",
    "six peers",
    "eight peers",
)


def outcome_rows(found: Mapping[tuple[str, str], Found]) -> list[tuple[str, ...]]:
    """A line per regime and data set."""
    lines = []
    for (regime, data), one in found.items():
        gains = [each for _, _, each in one.gains()]
        by_seed = [statistics.fmean(seed) for seed in zip(*gains, strict=True)]
        strong = one.strong_beside_weak()
        cohorts = [f"{mean(peers.values()):+.2f}" for peers in one.cohorts.values()]
        lines.append(
            (
                regime,
                data,
                f"{mean(gains):+.2f}",
                f"{statistics.stdev(by_seed):.2f}" if len(by_seed) > 1 else "–",
                f"{min(statistics.fmean(each) for each in gains):+.2f}",
                f"{sum(not is_worse(each) for each in gains)}/{len(gains)}",
                f"{sum(statistics.fmean(each) > 0 for each in gains)}/{len(gains)}",
                f"{mean(strong):+.2f}" if strong else "–",
                *cohorts,
            )
        )
    return lines


def outcome_table(found: Mapping[tuple[str, str], Found]) -> str:
    """For the terminal."""
    return render(COLUMNS, outcome_rows(found), title="Points above the better of start and controls, held-out rows")


def predictors(one: Found) -> list[tuple[str, float, float, float, float]]:
    """Every number that is known before training: Spearman's ρ with a peer's gain, its interval, and ρ among partners.

    The strongest come first.
    """
    names = next(iter(next(iter(one.known.values())).values()))
    lines = []
    for name in names:
        points = [
            [(known[peer][name], statistics.fmean(gains)) for peer, gains in one.pairs[pair].items()]
            for pair, known in one.known.items()
        ]
        points = [[point for point in both if point[0] is not None] for both in points]
        by_peer: dict[str, list[tuple[Any, float]]] = {}
        for pair, peer, gains in one.gains():
            if one.known[pair][peer][name] is not None:
                by_peer.setdefault(peer, []).append((one.known[pair][peer][name], statistics.fmean(gains)))
        lines.append((name, *with_interval([both for both in points if both]), among_partners(by_peer)))
    return sorted(lines, key=lambda line: -abs(np.nan_to_num(line[1])))


def markdown(
    chosen: Mapping[str, Mapping[str, float]], found: Mapping[tuple[str, str], Found], facts: Mapping[str, Any]
) -> str:
    """The whole of `hunt.md`."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    held = ", ".join(f"{name} {rows:,}" for name, rows in facts["held"].items())
    lines = [
        "# Which way of teaching wins, and what predicts it?",
        "",
        f"Made by `{facts['command']}` (seeds {', '.join(map(str, facts['seeds']))}; {versions};",
        f"{facts['seconds'] / 60:.0f} minutes of CPU time on one thread).",
        f"Data: {'; '.join(facts['sources'].values())}. Held-out rows: {held}.",
        "",
        *(["**A quick run: its figures mean nothing.**", ""] if facts["quick"] else []),
        READING,
        "",
        "![Points above what each peer had to beat](hunt.png)",
        "",
    ]
    for name, means in chosen.items():
        lines += [f"## Chosen on validation: {REGIMES[name].title}", ""]
        lines += markdown_table(
            ("way of teaching", "gain on validation rows"), [(k, f"{v:+.2f}") for k, v in means.items()]
        )
    lines += ["## Confirmed on held-out rows", ""]
    lines += markdown_table(COLUMNS, outcome_rows(found))
    lines += [CONFIRMED, "", *(f"- {sentence}" for sentence in verdicts(found)), ""]
    lines += ["## What is to be beaten", "", BARS, ""]
    peers = list(next(iter(found.values())).bars)
    lines += markdown_table(
        ("rows", "data", *peers),
        [
            (regime, data, *(f"{one.starts[peer]:.1f} → {one.bars[peer]:.1f}" for peer in peers))
            for (regime, data), one in found.items()
        ],
    )
    lines += ["## What predicts a peer's gain", "", PREDICTING, ""]
    for (regime, data), one in found.items():
        lines += [f"### {REGIMES[regime].title}, {data}", ""]
        cells = [
            (name, f"{r:+.2f}", f"{low:+.2f} … {high:+.2f}", f"{among:+.2f}")
            for name, r, low, high, among in predictors(one)
        ]
        lines += markdown_table(("known before training", "ρ", "95 %", "ρ among partners"), cells)
    return "\n".join(lines).rstrip() + "\n"


READING = """\
Eight peers: three small CNNs and three perceptrons that start at about 87 to 88 % on Fashion-MNIST, and two tiny
ViTs that start at about 80 % (`vitt`, the weak ones). Peers of one number were pretrained on the same third of the
pretraining rows. They then train on fresh rows, of which one in five has a label or all have. Of the 28 pairs, 7
choose the way of teaching by their validation rows with one seed; the other 21 and the cohorts confirm it once.
Nothing was chosen on held-out rows or on the digits."""

CONFIRMED = """\
Points above what each peer had to beat. *Not worse*: peers in pairs whose mean over seeds is not below 0 by more than
two standard errors. *Above*: whose mean is above 0. *Strong beside weak*: CNNs and perceptrons in a pair with a tiny
ViT."""

BARS = """\
Accuracy on held-out rows, in percent: start → what had to be beaten, the best on the validation rows of the start
and of cross-entropy alone (learning rates 1e-3 to 3e-5, with and without label smoothing 0.1; where few rows have a
label also on these alone in batches of 128). It is chosen per peer and seed, transfer's way once for all peers."""

PREDICTING = """\
Spearman's rank correlation of a number that is known before training, on the validation rows, with a peer's mean
gain over what it had to beat, over both peers of the 21 pairs. Intervals are a bootstrap over pairs. *Among partners*
is the mean over peers of the correlation among the partners of one peer: that is what `hf-mutual-kd scout` ranks, by
*ensemble − my accuracy*."""


def verdicts(found: Mapping[tuple[str, str], Found]) -> list[str]:
    """Which of the aims each confirmation reached: +0.3 on average, 95 % not worse, the weak help the strong."""
    said = []
    for (regime, data), one in found.items():
        gains = [each for _, _, each in one.gains()]
        fine = sum(not is_worse(each) for each in gains) / len(gains)
        strong = mean(one.strong_beside_weak()) if one.strong_beside_weak() else None
        aims = [
            ("mean ≥ +0.30", mean(gains) >= 0.3),
            ("≥ 95 % of the peers not worse", fine >= 0.95),
            *([(f"strong peers beside weak ones above 0 ({strong:+.2f})", strong > 0)] if strong is not None else []),
        ]
        words = "; ".join(f"{aim}: {'yes' if reached else 'NO'}" for aim, reached in aims)
        said.append(f"{REGIMES[regime].title}, {data} (*{one.way}*): {words}.")
    return said


def draw(found: Mapping[tuple[str, str], Found], path: Path) -> None:
    """A panel per confirmation: every peer in every pair, its gain over what the scout says of the pair to it."""
    columns = min(2, len(found))
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(3.9 * columns, 0.6 + 3.0 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel in panels[len(found) :]:
        panel.set_axis_off()
    for panel, ((regime, data), one) in zip(panels, found.items(), strict=False):
        panel.axhline(0, color="0.4", linewidth=0.8)
        for weak, color, label in ((False, "C0", "an ordinary peer"), (True, "C1", "a weak peer")):
            points = [
                (100 * one.known[pair][peer]["ensemble − my accuracy"], statistics.fmean(each))
                for pair, peer, each in one.gains()
                if peer.startswith(WEAK) is weak
            ]
            if points:
                panel.scatter(*zip(*points, strict=True), s=14, color=color, alpha=0.8, linewidths=0, label=label)
        panel.set_title(f"{regime}, {data}", loc="left", fontsize=9, fontweight="bold")
        panel.tick_params(labelsize=8)
    handles = {label: h for panel in panels for h, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", frameon=False, ncols=len(handles), fontsize=8
    )
    figure.supxlabel("ensemble − my accuracy before training, points, validation rows", fontsize=9)
    figure.supylabel("gain, points, held-out rows", fontsize=9)
    with whole(path) as beside:
        figure.savefig(beside, dpi=150)
