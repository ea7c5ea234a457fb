"""What every report begins with: the results, against the control, and the curves of the training."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .blocks import Figures, Section, Table, Text
from .card_figures import read_curves
from .figures import draw, paint_curves, paint_lines, paint_results
from .model_card import result_rows
from .report_data import ReportData
from .results import table as closing_table
from .results import verdict
from .run_records import RunRecords
from .text import number


def metric_label(run: RunRecords) -> str:
    """The deciding metric as an axis calls it: `"accuracy, %"`."""
    return run.words.shown[run.words.metric]


def results_section(data: ReportData) -> Section | None:
    """The closing table, every metric, and a mark per seed."""
    run = data.run
    peers = run.results.get("peers") or {}
    if not peers:
        return None
    blocks: list[Any] = [
        Text("The control is the same training without transfer: only a gain over it is owed to the peers.")
    ]
    blocks.append(Table(f"Test split: {metric_label(run)}", *closing_table(run.results, run.words)))
    metric = run.words.metric
    seen = {
        name: {
            "start": [peer["start"][metric]],
            "control": peer["per_seed"].get("control", []),
            "after": peer["per_seed"]["mutual"],
        }
        for name, peer in peers.items()
        if metric in peer["start"]
    }
    if seen:
        label = metric_label(run)
        alt = f"Test {label}. " + " ".join(_arms_in_words(name, arms, label) for name, arms in seen.items())
        paint = paint_results(seen, label)
        blocks.append(Figures([draw("overview", alt, paint, (3.6, 1.2 + 0.45 * len(seen)), "A mark for each seed")]))
    rows = [[name, row] for name, peer in peers.items() for row in result_rows(run, peer)]
    columns = ("peer", "metric", "start", "control", "after", "after − control")
    keys = ("metric", "start", "control", "mutual", "difference")
    shown = [[name, *(row.get(key, "–") for key in keys)] for name, row in rows]
    blocks.append(
        Table("All metrics on the test split, mean ± standard deviation over seeds", columns, shown, True, words=2)
    )
    return Section("results", "Results", blocks)


def _arms_in_words(name: str, arms: Mapping[str, Sequence[float]], label: str) -> str:
    share = label.endswith("%")
    parts = [f"{arm} {number(statistics.fmean(values), share)}" for arm, values in arms.items() if values]
    return f"{name}: {', '.join(parts)}."


def training_section(data: ReportData) -> Section | None:
    """Per peer the metric against the control, and the losses."""
    run, label = data.run, metric_label(data.run)
    share = run.words.share
    measured, losses = [], []
    for name in data.peers:
        curves = read_curves(run.arm_folders(), name, run.words.metric)
        arms = {arm: lines for arm, lines in (("with its peers", curves.mutual), ("control", curves.control)) if lines}
        if arms:
            said = [
                f"{arm} from {number(lines[0][0][1], share)} to {number(lines[0][-1][1], share)}"
                for arm, lines in arms.items()
            ]
            alt = f"{name}, {label} on the validation split over the steps: {'; '.join(said)}."
            paint = paint_curves(curves, label, run.selected_step(name))
            measured.append(draw(f"curve-{name}", alt, paint, caption=name))
        if curves.losses:
            said = [f"{what} from {points[0][1]:.3f} to {points[-1][1]:.3f}" for what, points in curves.losses.items()]
            alt = f"{name}, training losses in nats: {'; '.join(said)}."
            paint = paint_lines(curves.losses, "training loss, nats")
            losses.append(draw(f"losses-{name}", alt, paint, caption=f"{name}, losses"))
    words = Text(
        "On the validation split, which chose the weights to keep; a line per seed. Losses are of the first seed."
    )
    blocks = [Figures(items) for items in (measured, losses) if items]
    return Section("training", "Training", [words, *blocks]) if blocks else None


def tiles(data: ReportData) -> list[dict[str, str]]:
    """What the page says first: every peer's result and whether it beat its control."""
    run, metric = data.run, data.run.words.metric
    share, seeds = run.words.share, len(run.fact("seeds") or [])
    said = {"better": "better than the control", "worse": "worse than the control", "within noise": "within noise"}
    found = []
    for name, peer in (run.results.get("peers") or {}).items():
        if metric not in peer["mutual"]:
            continue
        delta = peer.get("delta")
        word = verdict(delta, seeds) if delta else ""
        found.append(
            {
                "peer": name,
                "value": number(peer["mutual"][metric], share) + (" %" if share else ""),
                "start": number(peer["start"][metric], share),
                "delta": number(delta["mean"], share, sign=True) if delta else "",
                "verdict": said.get(word, f"{word}: no verdict") if delta else "no control was run",
                "mark": {"better": "up", "worse": "down"}.get(word, "flat"),
            }
        )
    return found
