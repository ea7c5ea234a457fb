"""Who taught in training, and from whom peers may have learned single samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .blocks import MOST_CLASSES, Cell, Figures, Section, Table, Text
from .charts import lines_chart
from .figures import draw, paint_flow
from .report_data import ReportData, corrections, read_teaching, taught_over_time


def teaching_section(data: ReportData) -> Section | None:
    """Who taught in training: over time, by class, and whom."""
    found = None if data.run.is_control else read_teaching(data.run)
    if found is None:
        return None
    blocks: list[Any] = []
    lines = {name: points for name, points in taught_over_time(data.run).items() if len(points) > 1}
    if lines:
        sentences = [
            f"{name} from {100 * points[0][1]:.1f} to {100 * points[-1][1]:.1f} %" for name, points in lines.items()
        ]
        alt = f"Share of samples taught by each peer over the steps: {'; '.join(sentences)}."
        chart = lines_chart(lines, "share taught, %", scale=100, floor=0, decimals=1)
        caption = "Share of samples that each peer taught, first seed; all or their mean count for each equally"
        blocks.append(Figures([draw("taught", alt, chart, (4.8, 3.1), caption)]))
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
            sentences = [
                f"{name} learned {drawn.counts[index]:,}, {drawn.known[index]:,} of them known to another peer"
                for index, name in enumerate(data.peers)
            ]
            alt = f"Flow of learned test samples {title}: {'; '.join(sentences)}."
            figures.append(
                draw(f"flow-{arm}", alt, paint_flow(drawn, data.peers), (4.8, 3.5), f"Learned test samples, {title}")
            )
    return Section("sources", "Who knew it before", [*blocks, Figures(figures)] if figures else blocks)
