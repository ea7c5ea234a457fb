"""The sections of a report: each is a function from a run's numbers to what the page shows, or to nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .card_figures import read_curves
from .card_run import RunRecords
from .card_text import number, scrub_command, spread
from .model_card import EXAMPLES, data_facts, hyperparameters, result_rows
from .predictions import Predictions
from .report_blocks import Cell, Code, Figures, Samples, Section, Table, Text
from .report_data import (
    ReportData,
    choose_flips,
    confusion,
    confusion_changes,
    corrections,
    read_teaching,
    reliability,
    taught_over_time,
)
from .report_figures import Figure, draw, paint_curves, paint_flow, paint_lines, paint_reliability, paint_results
from .results import table as closing_table
from .results import verdict

MOST_SAMPLES = 60
MOST_CLASSES = 30
"""Rows of a table by class; of more classes those with the largest numbers are shown."""

KINDS = {1: "learned", -1: "lost"}


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
    blocks.append(Table(f"Test split: {metric_label(run)}", *closing_table(run.results)))
    metric = run.words.metric
    seen = {
        name: {"start": [peer["start"][metric]], "control": peer["per_seed"].get("control", []),
               "after": peer["per_seed"]["mutual"]}
        for name, peer in peers.items() if metric in peer["start"]
    }  # fmt: skip
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
            measured.append(draw(f"curve-{name}", alt, paint_curves(curves, label, run.kept_step(name)), caption=name))
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


def teaching_section(data: ReportData) -> Section | None:
    """Who taught in training: over time, by class, and whom."""
    found = None if data.run.is_control else read_teaching(data.run)
    if found is None:
        return None
    blocks: list[Any] = []
    lines = {name: points for name, points in taught_over_time(data.run).items() if len(points) > 1}
    if lines:
        said = [
            f"{name} from {100 * points[0][1]:.1f} to {100 * points[-1][1]:.1f} %" for name, points in lines.items()
        ]
        alt = f"Share of samples taught by each peer over the steps: {'; '.join(said)}."
        paint = paint_lines(lines, "share taught, %", 100, floor=0)
        caption = "Share of samples that each peer taught, first seed; all or their mean count for each equally"
        blocks.append(Figures([draw("taught", alt, paint, (4.8, 3.1), caption)]))
    shown_as = {"<mean>": "mean of all", "<all>": "all others", "nobody": "nobody"}
    used = [index for index, count in enumerate(found.total) if count or index < len(data.peers)]
    who = [shown_as.get(found.who[index], found.who[index]) for index in used]
    rows = [_share_row("all", found.total, used)]
    largest = sorted(found.by_class, key=lambda value: (-found.by_class[value].sum(), value))[:MOST_CLASSES]
    for value in sorted(largest):
        name = data.label(value) if value >= 0 else "without label"
        rows.append(_share_row(name, found.by_class[value], used))
    cut = f", the {MOST_CLASSES} classes with most of them" if len(found.by_class) > MOST_CLASSES else ""
    blocks.append(Table(f"Who taught, % of the decisions by class{cut}", ("class", *who, "decisions"), rows))
    matrix = found.matrix(data.peers)
    total = max(1, int(found.total.sum()))
    teachers = [index for index in used if index < len(found.who) - 1]
    rows = [
        [f"{shown_as.get(found.who[index], found.who[index])} taught"]
        + [_percent(value, total) if value else Cell("–") for value in matrix[index].tolist()]
        for index in teachers
    ]
    blocks.append(Table("Who taught whom, % of the decisions over all seeds", ("teacher", *data.peers), rows))
    return Section("teaching", "Who taught", blocks)


def _share_row(name: str, counts: np.ndarray, used: Sequence[int]) -> list[str | Cell]:
    total = max(1, int(counts.sum()))
    return [name, *(_percent(int(counts[index]), total) for index in used), f"{int(counts.sum()):,}"]


def _percent(count: int, total: int) -> Cell:
    return Cell(f"{100 * count / total:.1f}", count / total)


def corrections_section(data: ReportData) -> Section | None:
    """From whom a peer may have learned what it learned, beside the same numbers of the control."""
    found = {arm: corrections(parts) for arm, parts in data.predictions.items()}
    mutual = found.get("mutual")
    if mutual is None or len(data.peers) < 2:
        return None
    control = found.get("control")
    rows = []
    for index, name in enumerate(data.peers):
        row: list[str | Cell] = [name]
        for part in (mutual, control) if control else (mutual,):
            count, known = int(part.counts[index]), int(part.known[index])
            row += [f"{count:,}", _percent(known, count) if count else Cell("–")]
        rows.append(row)
    columns = ["learned", "known, %", *(["control: learned", "control: known, %"] if control else [])]
    blocks: list[Any] = [
        Text(
            "Test samples that a peer got right only after training, and whether another peer had been right about "
            "them at its start (known). Labels teach such samples, too: read the share beside the control's."
        ),
        Table("Learned test samples, all seeds", ("peer", *columns), rows),
    ]
    figures = []
    for arm, drawn in (("with-peers", mutual), ("control", control)):
        if drawn is not None and drawn.counts.sum():
            title = arm.replace("-", " ")
            said = [
                f"{name} learned {drawn.counts[index]:,}, {drawn.known[index]:,} of them known to another peer"
                for index, name in enumerate(data.peers)
            ]
            alt = f"Flow of learned test samples {title}: {'; '.join(said)}."
            figures.append(
                draw(f"flow-{arm}", alt, paint_flow(drawn, data.peers), (4.8, 3.5), f"Learned test samples, {title}")
            )
    return Section("sources", "Who knew it before", [*blocks, Figures(figures)] if figures else blocks)


def flips_section(data: ReportData) -> Section | None:
    """Flips by class, and the samples behind them."""
    part = data.first
    if part is None or not part.flips().any():
        return None
    flips = part.flips()
    classes = [value for value in np.unique(part.labels).tolist() if value >= 0]
    changed = {value: int(np.abs(flips[part.labels == value]).sum()) for value in classes}
    largest = sorted(classes, key=lambda value: (-changed[value], value))[:MOST_CLASSES]
    rows: list[list[str | Cell]] = []
    for value in sorted(largest):
        of_class = flips[part.labels == value]
        gained, lost = (of_class > 0).sum(axis=0), (of_class < 0).sum(axis=0)
        net = (gained - lost) / len(of_class)
        cells = [Cell(f"+{g} −{s}", float(np.clip(3 * n, -1, 1))) for g, s, n in zip(gained, lost, net, strict=True)]
        rows.append([data.label(value), *cells, f"{len(of_class):,}"])
    chosen = choose_flips(part, MOST_SAMPLES)
    items = [_sample(data, part, row) for row in chosen]
    shown = {value: data.label(value) for value in sorted({int(part.labels[row]) for row in chosen})}
    cut = f", the {MOST_CLASSES} classes with most" if len(classes) > MOST_CLASSES else ""
    flipped = int(flips.any(axis=1).sum())
    return Section("flips", "Flips", [
        Text("A sample is learned when the peer was wrong at its start and is right now, lost when it is the other "
             "way round. These are the weights in the run's folders."),
        Table(f"Learned (+) and lost (−) test samples by class{cut}", ("class", *data.peers, "samples"), rows),
        Text(f"{len(items):,} of the {flipped:,} flipped samples: for every peer, kind and class in turn, those whose "
             "probability of the truth changed most."),
        Samples(items, data.peers, shown),
    ])  # fmt: skip


def _sample(data: ReportData, part: Predictions, row: int) -> dict[str, Any]:
    flips = part.flips()[row].tolist()
    beliefs = []
    for index, name in enumerate(data.peers):
        before, after = (
            {
                "guess": data.label(guess) if (guess := int(phase.guess[row, index])) >= 0 else "no finite output",
                "sure": f"{100 * float(np.nan_to_num(phase.probability[row, index])):.0f} %",
                "truth": round(100 * float(np.nan_to_num(phase.truth[row, index]))),
                "right": guess == int(part.labels[row]),
            }
            for phase in (part.start, part.after)
        )
        beliefs.append({"peer": name, "before": before, "after": after, "flip": KINDS.get(flips[index], "")})
    identity = int(part.ids[row])
    return {
        "id": identity,
        "label": data.label(int(part.labels[row])),
        "class": int(part.labels[row]),
        "flips": " ".join(f"{belief['peer']}:{belief['flip']}" for belief in beliefs if belief["flip"]),
        "image": data.thumbnails.get(identity),
        "beliefs": beliefs,
    }


def examples_section(data: ReportData) -> Section | None:
    """The figure of examples that tasks with maps draw."""
    path = data.run.folder / EXAMPLES
    if not path.is_file():
        return None
    drawn = path.read_bytes()
    rows = ", ".join(map(str, (data.run.fact("examples") or {}).get("rows") or []))
    alt = f"Test samples {rows} with what every peer says of them." if rows else "Test samples with what peers say."
    return Section("examples", "Examples", [Figures([Figure("examples", alt, drawn, drawn, data.run.words.examples)])])


def calibration_section(data: ReportData) -> Section | None:
    """Reliability and expected calibration error, before, in the control and after."""
    first = data.first
    if first is None or not (first.labels >= 0).any():
        return None
    control = data.predictions.get("control") or []
    mutual = data.predictions["mutual"]
    rows, figures = [], []
    for index, name in enumerate(data.peers):
        found = {
            "start": [reliability(part.start, part.labels, index) for part in mutual],
            "control": [reliability(part.after, part.labels, index) for part in control],
            "after": [reliability(part.after, part.labels, index) for part in mutual],
        }
        errors = {arm: [one.error for one in parts] for arm, parts in found.items()}
        said = {arm: number(statistics.fmean(each), True) for arm, each in errors.items() if each}
        rows.append([name, *(said[arm] + spread(errors[arm], True) if arm in said else "–" for arm in errors)])
        alt = f"{name}, accuracy over confidence; calibration error " + ", ".join(
            f"{a} {v} %" for a, v in said.items()
        )
        paint = paint_reliability({arm: parts[0] for arm, parts in found.items() if parts})
        figures.append(draw(f"reliability-{name}", f"{alt}.", paint, (3.6, 3.3), name))
    return Section("calibration", "Calibration", [
        Text("Expected calibration error: the mean gap between how sure a peer is and how often it is right, over 15 "
             "bins; 0 is perfect. Below the diagonal a peer is too sure. Figures are of the first seed."),
        Table("Expected calibration error on the test split, %", ("peer", "start", "control", "after"), rows),
        Figures(figures),
    ])  # fmt: skip


def confusion_section(data: ReportData) -> Section | None:
    """Which classes are mixed up less and more than before."""
    first, classes = data.first, len(data.run.labels)
    if first is None or not classes:
        return None
    control = next(iter(data.predictions.get("control") or []), None)
    blocks: list[Any] = [Text("Test samples of one class that are taken for another: the pairs that changed most.")]
    for index, name in enumerate(data.peers):
        before, after = (confusion(first, phase, index, classes) for phase in ("start", "after"))
        plain = confusion(control, "after", index, classes) if control else None
        rows = []
        for truth, guess in confusion_changes(before, after):
            counts = [before[truth, guess], *([plain[truth, guess]] if plain is not None else []), after[truth, guess]]
            change = int(counts[-1] - counts[0])
            shade = -change / max(1, int(before[truth].sum()))
            sign = f"{change:+d}".replace("-", "−")
            rows.append(
                [f"{data.label(truth)} → {data.label(guess)}", *(f"{count:,}" for count in counts)]
                + [Cell(sign, float(np.clip(4 * shade, -1, 1)))]
            )
        if rows:
            columns = ("truth → taken for", "start", *(["control"] if plain is not None else []), "after", "change")
            blocks.append(Table(f"{name}: confusions", columns, rows))
    return Section("confusions", "Confusions", blocks) if len(blocks) > 1 else None


def making_section(data: ReportData) -> Section:
    """Peers, data, options, command and versions."""
    run = data.run
    blocks: list[Any] = []
    sources = [
        [name, peer.get("architecture") or "–", f"{peer['parameters']:,}" if peer.get("parameters") else "–"]
        for name, peer in run.peers.items()
    ]
    blocks.append(Table("Peers", ("peer", "architecture", "parameters"), sources, words=2))
    facts = data_facts(run.fact("dataset") or {})
    if facts.get("splits"):
        splits = [
            [split["role"], split["origin"]]
            + ["–" if split[key] is None else f"{split[key]:,}" for key in ("rows", "labelled")]
            for split in facts["splits"]
        ]  # fmt: skip
        blocks.append(Table("Data", ("split", "rows from", "samples", "with a label"), splits, words=2))
    for part, values in hyperparameters(run).items():
        title = "Options set for this run" if part == "changed" else "Options at their defaults"
        blocks.append(Table(title, ("option", "value"), list(values.items()), True))
    versions = list((run.fact("versions") or {}).items())
    if versions:
        blocks.append(Table("Versions", ("package", "version"), versions, True))
    if run.fact("command"):
        blocks.append(Code(scrub_command(str(run.fact("command")))))
    return Section("making", "How it was made", blocks)


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
        found.append({
            "peer": name,
            "value": number(peer["mutual"][metric], share) + (" %" if share else ""),
            "start": number(peer["start"][metric], share),
            "delta": number(delta["mean"], share, sign=True) if delta else "",
            "verdict": said.get(word, f"{word}: no verdict") if delta else "no control was run",
            "mark": {"better": "up", "worse": "down"}.get(word, "flat"),
        })  # fmt: skip
    return found


SECTIONS: Sequence[Callable[[ReportData], Section | None]] = (
    results_section,
    training_section,
    teaching_section,
    corrections_section,
    flips_section,
    examples_section,
    calibration_section,
    confusion_section,
    making_section,
)
"""In the order of the page; one that has nothing to show of a run returns `None`."""
