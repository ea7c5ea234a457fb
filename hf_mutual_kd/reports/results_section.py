"""What every report begins with: what was found against the control, and the curves of the training."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .blocks import Figures, Section, Table, Text
from .card_data import result_rows
from .charts import Gain, curves_chart, gains_chart, levels_chart, losses_chart
from .closing_table import NONE, TOGETHER, headline, interval_note, spread, verdict
from .closing_table import table as closing_table
from .curves import Curves, read_curves
from .figures import draw, levels
from .kept import delta_of, reference_of, reference_words
from .report_data import ReportData
from .results import CONTROL, MUTUAL, START, PeerResult, Results
from .run_record import RunRecord
from .text import number

REFERENCES = {
    CONTROL: "The control is the same training without transfer: only a gain over it is owed to the peers.",
    START: "No control was run: how much of a gain plain fine-tuning alone would have brought is not known.",
}

BEST_CONTROL = "Δ is against the best of start, control and self-training on these rows. "


def metric_label(run: RunRecord) -> str:
    """The deciding metric as an axis calls it: `"accuracy, %"`."""
    return run.words.shown[run.words.metric]


def results_section(data: ReportData) -> Section | None:
    """The closing table, the differences with their intervals, a mark per seed, and every metric."""
    run, results = data.run, data.run.results
    if results is None:
        return None
    note = interval_note(results, run.words)
    best = BEST_CONTROL if results.kept else ""
    blocks: list[Any] = [Text(f"{REFERENCES[results.reference]} {best}{note}".rstrip()), _first_table(results, run)]
    figures = [figure for figure in (_gains(results, run), _levels(results, run)) if figure is not None]
    if figures:
        blocks.append(Figures(figures))
    titles = {START: "start", MUTUAL: "after"}
    columns = ("peer", "metric", *(titles.get(arm, arm) for arm in results.arms), "after − control")
    shown = [
        [name, row["metric"], *row["values"], row.get("difference", NONE)]
        for name, peer in results.peers.items()
        for row in result_rows(run, peer)
    ]
    words = "All metrics on the test split: means over seeds, ± standard deviation of the deciding one"
    blocks.append(Table(words, columns, [row for row in shown if len(row) == len(columns)], True, words=2))
    return Section("results", "Results", blocks)


def _first_table(results: Results, run: RunRecord) -> Table:
    """The closing table with the difference first, so that a narrow screen shows it; who taught and what flipped have
    sections of their own."""
    columns, rows = closing_table(results, run.words)
    shown = [index for index, name in enumerate(columns) if not name.startswith(("taught", "flips"))]
    order = sorted(shown, key=lambda index: (index > 0, not columns[index].startswith("Δ")))
    return Table(
        f"Test split: {metric_label(run)}",
        [columns[index] for index in order],
        [[row[index] for index in order] for row in rows],
    )


def _gains(results: Results, run: RunRecord) -> Any:
    """A line for every peer and the mean of all: the difference to the reference, its interval, a mark per seed."""
    metric, against = run.words.metric, reference_words(results)
    everybody = {**results.peers, **({TOGETHER["<mean>"]: results.ensemble} if results.ensemble else {})}
    gains = {}
    for name, peer in everybody.items():
        delta = delta_of(results, peer, run.words)
        if delta is None:
            continue
        low, high = delta.low, delta.high
        if (low is None or high is None) and delta.sd is not None:
            low, high = delta.mean - delta.sd, delta.mean + delta.sd
        gains[name] = Gain(delta.mean, low, high, _by_seed(peer, reference_of(results, peer, run.words), metric))
    if not gains:
        return None
    found = [delta_of(results, peer, run.words) for peer in everybody.values()]
    with_interval = any(delta is not None and delta.low is not None for delta in found)
    bars = "95 % interval" if with_interval else "spread over seeds"
    sentences = "; ".join(
        f"{name} {run.words.text(gain.mean, sign=True)}{spread(delta, run.words)}"
        for (name, gain), delta in zip(gains.items(), [one for one in found if one is not None], strict=True)
    )
    alt = f"Difference to the {against}, {run.words.points}: {sentences}."
    chart = gains_chart(gains, f"after − {against}, {run.words.points}", run.words.scale)
    size = (4.8, 0.9 + 0.42 * len(gains))
    return draw("gains", alt, chart, size, f"After − {against}, with its {bars}; small marks are seeds")


def _by_seed(peer: PeerResult, against: str, metric: str) -> list[float]:
    after = peer.arms[MUTUAL].per_seed
    before = peer.arms[against].per_seed or [peer.arms[against].metrics[metric]] * len(after)
    return [one - other for one, other in zip(after, before, strict=False)]


def _levels(results: Results, run: RunRecord) -> Any:
    """Every peer's metric in each arm, a mark per seed."""
    label = metric_label(run)
    seen = levels(results.peers, run.words.metric)
    if not seen:
        return None
    alt = f"Test {label}. " + " ".join(_arms_in_words(name, arms, label) for name, arms in seen.items())
    return draw("overview", alt, levels_chart(seen, label), (4.8, 1.2 + 0.45 * len(seen)), "A mark for each seed")


def _arms_in_words(name: str, arms: Mapping[str, Sequence[float]], label: str) -> str:
    share = label.endswith("%")
    parts = [f"{arm} {number(statistics.fmean(values), share)}" for arm, values in arms.items() if values]
    return f"{name}: {', '.join(parts)}."


def training_section(data: ReportData) -> Section | None:
    """Per peer the metric against the control, on each evaluation set, and the losses."""
    run = data.run
    measured, losses, rows = [], [], []
    for name in data.peers:
        for place, (given, prefix) in enumerate(run.eval_sets.items()):
            start = run.first_arm.validation.get(name, {}).get(run.words.metric) if run.first_arm else None
            curves = read_curves(run.arm_folders(), name, run.words.metric, prefix=prefix)
            curves = curves.from_start(None if place else start)
            title = f"{name}, {given}" if given else name
            drawn = _measured(run, title, curves, None if place else run.selected_step(name))
            # Only names of peers are names of files.
            measured += [replace(figure, name=f"curve-{name}{f'-{place}' if place else ''}") for figure in drawn]
            if given and curves.mutual:
                ends = (curves.mutual[0][0][1], curves.mutual[0][-1][1])
                rows.append([name, given, *(number(end, run.words.share) for end in ends)])
        if curves.losses:
            sentences = [
                f"{what} from {points[0][1]:.3f} to {points[-1][1]:.3f}" for what, points in curves.losses.items()
            ]
            alt = f"{name}, training losses in nats: {'; '.join(sentences)}."
            losses.append(draw(f"losses-{name}", alt, losses_chart(curves), caption=f"{name}, losses"))
    words = Text(
        "On the validation split, which chose the weights to keep; a line per seed. Losses are of the first seed."
    )
    blocks: list[Any] = [Figures(items) for items in (measured, losses) if items]
    if rows:
        first = next(iter(run.eval_sets))
        caption = f"{metric_label(run)} on every evaluation set; {first} chose the weights to keep"
        blocks.append(Table(caption, ("peer", "set", "first", "last"), rows, True, words=2))
    return Section("training", "Training", [words, *blocks]) if blocks else None


def _measured(run: RunRecord, title: str, curves: Curves, chosen: int | None) -> list[Any]:
    """The figure of one peer on one evaluation set; none where it was not measured there."""
    label, share = metric_label(run), run.words.share
    arms = {arm: lines for arm, lines in (("with its peers", curves.mutual), ("control", curves.control)) if lines}
    if not arms:
        return []
    sentences = [
        f"{arm} from {number(lines[0][0][1], share)} to {number(lines[0][-1][1], share)}"
        for arm, lines in arms.items()
    ]
    alt = f"{title}, {label} on the validation split over the steps: {'; '.join(sentences)}."
    return [draw("curve", alt, curves_chart(curves, label, chosen), caption=title)]


def title_of(data: ReportData) -> str:
    """The message of a report, or who was trained where there is none yet."""
    if data.run.results is not None:
        return headline(data.run.results, data.run.words)
    return ", ".join(data.peers)


def tiles(data: ReportData) -> list[dict[str, str]]:
    """What the page says first: every peer's result and whether it beat what it is compared with."""
    run, results = data.run, data.run.results
    if results is None:
        return []
    metric, share, against = run.words.metric, run.words.share, reference_words(results)
    sentences = {
        "better": f"better than the {against}",
        "worse": f"worse than the {against}",
        "within noise": "within noise",
    }
    found = []
    for name, peer in results.peers.items():
        value, start, delta = peer.value(MUTUAL, metric), peer.value(START, metric), delta_of(results, peer, run.words)
        if value is None or start is None or delta is None:
            continue
        word = verdict(delta, len(results.seeds))
        found.append(
            {
                "peer": name,
                "value": number(value, share) + (" %" if share else ""),
                "start": number(start, share),
                "delta": f"{run.words.text(delta.mean, sign=True)}{spread(delta, run.words)} {run.words.points}",
                "against": against,
                "verdict": sentences.get(word, f"{word}: no verdict"),
                "mark": {"better": "up", "worse": "down"}.get(word, "flat")
                if results.reference == CONTROL
                else "flat",
            }
        )
    return found
