"""What a report of classification shows of single test samples: flips, calibration, confusions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...reports.blocks import FLAC, MOST_CLASSES, Cell, Samples, Section, Table, Text
from ...reports.calibration import calibration_of
from ...reports.predictions import Predictions
from ...reports.report_data import (
    MOST_SAMPLES,
    ReportData,
    choose_flips,
    confusion,
    confusion_changes,
    reliability,
)

KINDS = {1: "learned", -1: "lost"}


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
    return Section(
        "flips",
        "Flips",
        [
            Text(
                "A sample is learned when the peer was wrong at its start and is right now, lost when it is the other "
                "way round. These are the weights in the run's folders."
            ),
            Table(f"Learned (+) and lost (−) test samples by class{cut}", ("class", *data.peers, "samples"), rows),
            Text(
                f"{len(items):,} of the {flipped:,} flipped samples: for every peer, kind and class in turn, those "
                "whose probability of the truth changed most."
            ),
            Samples(items, data.peers, shown),
        ],
    )


def _sample(data: ReportData, part: Predictions, row: int) -> dict[str, Any]:
    flips = part.flips()[row].tolist()
    outputs = []
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
        outputs.append({"peer": name, "before": before, "after": after, "flip": KINDS.get(flips[index], "")})
    identity = int(part.ids[row])
    seen = next((one for one in data.pictures if one.id == identity), None)
    return {
        "id": identity,
        "label": data.label(int(part.labels[row])),
        "class": int(part.labels[row]),
        "flips": " ".join(f"{output['peer']}:{output['flip']}" for output in outputs if output["flip"]),
        "image": seen.image if seen else b"",
        "sounds": seen is not None and seen.image.startswith(FLAC),
        "text": seen.text if seen else "",
        "outputs": outputs,
    }


def calibration_section(data: ReportData) -> Section | None:
    """Reliability and expected calibration error, before, in the control and after."""
    first = data.first
    if first is None or not (first.labels >= 0).any():
        return None
    control = data.predictions.get("control") or []
    mutual = data.predictions["mutual"]
    return calibration_of(
        data.peers,
        "test samples",
        [
            {
                "start": [reliability(part.start, part.labels, index) for part in mutual],
                "control": [reliability(part.after, part.labels, index) for part in control],
                "after": [reliability(part.after, part.labels, index) for part in mutual],
            }
            for index in range(len(data.peers))
        ],
    )


def confusion_section(data: ReportData) -> Section | None:
    """Which classes are mixed up less and more than before."""
    first, classes = data.first, len(data.run.labels)
    if first is None or not classes:
        return None
    control = next(iter(data.predictions.get("control") or []), None)
    against = "start" if control is None else "control"
    blocks: list[Any] = [
        Text(
            "Test samples of one class that are taken for another: the pairs that changed most against the "
            f"{against}, which also shades the change: blue for fewer, orange for more."
        )
    ]
    for index, name in enumerate(data.peers):
        before, after = (confusion(first, phase, index, classes) for phase in ("start", "after"))
        plain = confusion(control, "after", index, classes) if control else None
        rows: list[list[str | Cell]] = []
        bases = {"start": before} | ({"control": plain} if plain is not None else {})
        for truth, guess in confusion_changes(bases[against], after):
            counts = [found[truth, guess] for found in (*bases.values(), after)]
            changes = [int(counts[-1] - count) for count in counts[:-1]]
            shade = -changes[-1] / max(1, int(before[truth].sum()))
            signs = [f"{change:+d}".replace("-", "−") for change in changes]
            rows.append(
                [
                    f"{data.label(truth)} → {data.label(guess)}",
                    *(f"{count:,}" for count in counts),
                    *signs[:-1],
                    Cell(signs[-1], float(np.clip(4 * shade, -1, 1))),
                ]
            )
        if rows:
            columns = ("truth → taken for", *bases, "after", *(f"after − {base}" for base in bases))
            blocks.append(Table(f"{name}: confusions", columns, rows))
    return Section("confusions", "Confusions", blocks) if len(blocks) > 1 else None
