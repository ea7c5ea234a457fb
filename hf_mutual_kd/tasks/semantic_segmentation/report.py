"""What a report of semantic segmentation says of classes and pixels, in tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...reports.blocks import MOST_CLASSES, Cell, Section, Table, Text, shaded
from ...reports.calibration import calibration_of
from ...reports.report_data import ReportData, confusion_changes, reliability_of
from ...reports.samples import Samples
from ...reports.text import number

FULL = 0.1
"""The change of a share that is shaded fully."""

LEARNED, LOST, KNOWN = range(3)
"""Columns of the counts of flips."""


def classes_section(data: ReportData) -> Section | None:
    """The metric of every class at the start, in the control and after, the biggest changes first."""
    blocks: list[Any] = []
    pixels = _pixels_by_class(data)
    for name, peer in data.run.peer_results.items():
        keys = {"start": "start", "control": "control", "after": "mutual"}
        by_class = {arm: peer.arms[key].by_class for arm, key in keys.items() if key in peer.arms}
        arms: dict[str, list[Any]] = {arm: values for arm, values in by_class.items() if values}
        if "start" not in arms or "after" not in arms:
            continue
        known = [index for index in range(len(data.run.labels)) if all(v[index] is not None for v in arms.values())]
        bases = [arm for arm in ("start", "control") if arm in arms]
        rows: list[list[str | Cell]] = []
        for index in sorted(known, key=lambda i: (-abs(arms["after"][i] - arms[bases[-1]][i]), i))[:MOST_CLASSES]:
            changes = [arms["after"][index] - arms[base][index] for base in bases]
            rows.append(
                [
                    data.label(index),
                    *([_percent(pixels[index])] if pixels is not None else []),
                    *(_percent(values[index]) for values in arms.values()),
                    *(shaded(number(change, True, sign=True), change, FULL) for change in changes),
                ]
            )
        cut = f", the {MOST_CLASSES} classes that changed most" if len(known) > MOST_CLASSES else ""
        columns = ("class", *(["pixels"] if pixels is not None else []), *arms, *(f"after − {base}" for base in bases))
        if rows:
            blocks.append(Table(f"{name}: {data.run.words.by_class} by class, %{cut}", columns, rows))
    words = Text(
        "Means over seeds on the test split, the biggest changes first. Shaded: blue for better, orange for worse."
    )
    return Section("classes", "Classes", [words, *blocks]) if blocks else None


def _percent(share: float) -> str:
    return number(float(share), True)


def _pixels_by_class(data: ReportData) -> np.ndarray | None:
    """Each class's share of the labelled pixels of the test split."""
    parts = data.samples.get("mutual") or []
    if not parts:
        return None
    counts = pixel_confusion(parts[:1], "after", 0, len(data.run.labels)).sum(1)
    return counts / max(1, counts.sum())


def pixel_confusion(parts: Sequence[Samples], phase: str, peer: int, classes: int) -> np.ndarray:
    """Pixels by truth and prediction `[C, C]`, over all seeds."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    for part in parts:
        found = (part.start if phase == "start" else part.after)["confusions"]
        own = found[found[:, 0] == peer]
        np.add.at(counts, (own[:, 1], own[:, 2]), own[:, 3])
    return counts


def pixel_confusion_section(data: ReportData) -> Section | None:
    """Which classes are taken for each other on fewer and on more pixels than before."""
    parts, plain = data.samples.get("mutual") or [], data.samples.get("control") or []
    classes = len(data.run.labels)
    if not parts or not classes:
        return None
    against = "control" if plain else "start"
    blocks: list[Any] = [
        Text(
            "Pixels of one class that are taken for another, in % of the pixels of that class over all seeds: the "
            f"pairs for which most pixels changed against the {against}. Blue: fewer than there."
        )
    ]
    for index, name in enumerate(data.peers):
        arms = {"start": pixel_confusion(parts, "start", index, classes)}
        arms |= {"control": pixel_confusion(plain, "after", index, classes)} if plain else {}
        arms["after"] = pixel_confusion(parts, "after", index, classes)
        shares = {arm: counts / counts.sum(1, keepdims=True).clip(min=1) for arm, counts in arms.items()}
        rows: list[list[str | Cell]] = []
        bases = [arm for arm in arms if arm != "after"]
        for truth, guess in confusion_changes(arms[against], arms["after"]):
            now = shares["after"][truth, guess]
            changes = [float(now - shares[base][truth, guess]) for base in bases]
            texts = [number(change, True, sign=True) for change in changes]
            values = [_percent(found[truth, guess]) for found in shares.values()]
            shade = shaded(texts[-1], -changes[-1], FULL)
            rows.append([f"{data.label(truth)} → {data.label(guess)}", *values, *texts[:-1], shade])
        if rows:
            columns = ("truth → taken for", *arms, *(f"after − {base}" for base in bases))
            blocks.append(Table(f"{name}: confusions", columns, rows))
    return Section("confusions", "Confusions", blocks) if len(blocks) > 1 else None


def pixel_flips_section(data: ReportData) -> Section | None:
    """Pixels that were learned and lost, by class, and whether another peer had known them."""
    parts, plain = data.samples.get("mutual") or [], data.samples.get("control") or []
    if not parts or "flips" not in parts[0].after:
        return None
    flips, points = _flips(parts), _points(parts)
    if not flips.any():
        return None
    changed = flips[:, :, :KNOWN].sum((0, 2))
    occurring = np.flatnonzero(changed).tolist()
    largest = sorted(occurring, key=lambda value: (-changed[value], value))[:MOST_CLASSES]
    total = int(points.sum())
    rows = [_flips_row("all classes", flips.sum(1), total, total)]
    rows += [_flips_row(data.label(value), flips[:, value], int(points[value]), total) for value in largest]
    cut = f", the {MOST_CLASSES} classes with most" if len(occurring) > MOST_CLASSES else ""
    sources: list[list[str | Cell]] = []
    arms = [(flips, total)]
    if plain and "flips" in plain[0].after:
        arms.append((_flips(plain), int(_points(plain).sum())))
    for index, name in enumerate(data.peers):
        row: list[str | Cell] = [name]
        for found, of in arms:
            learned, lost, known = found[index].sum(0).tolist()
            row += [_percent(learned / max(1, of)), _percent(lost / max(1, of))]
            row += [Cell(_percent(known / learned), known / learned) if learned else Cell("–")]
        sources.append(row)
    columns = [f"{arm}{what}" for arm in ("", "control: ")[: len(arms)] for what in ("learned", "lost", "known")]
    return Section(
        "flips",
        "Flips of pixels",
        [
            Text(
                "A pixel is learned when the peer was wrong at its start and is right now, lost when it is the other "
                "way round; counted on 64 × 64 pixels spread evenly over every test image, over all seeds."
            ),
            Table(f"Learned (+) and lost (−) pixels, % of the class{cut}", ("class", *data.peers, "pixels"), rows),
            Text(
                "Known: the share of the learned pixels that another peer had right at its start. Labels teach such "
                "pixels, too: read it beside the control's."
            ),
            Table("Learned and lost, % of all pixels; known, % of the learned", ("peer", *columns), sources),
        ],
    )


def _flips(parts: Sequence[Samples]) -> np.ndarray:
    """`[N, C, 3]`, over all seeds."""
    return np.sum([part.after["flips"] for part in parts], axis=0)


def _points(parts: Sequence[Samples]) -> np.ndarray:
    """Compared points of every class `[C]`, over all seeds."""
    return np.sum([part.after["points"] for part in parts], axis=0)


def _flips_row(name: str, counts: np.ndarray, points: int, total: int) -> list[str | Cell]:
    cells = []
    for learned, lost, _ in counts.tolist():
        text = f"+{_percent(learned / max(1, points))} −{_percent(lost / max(1, points))}"
        cells.append(shaded(text, (learned - lost) / max(1, points), FULL))
    return [name, *cells, _percent(points / max(1, total))]


def pixel_calibration_section(data: ReportData) -> Section | None:
    """Reliability over the cells of each peer's own grid."""
    mutual, control = data.samples.get("mutual") or [], data.samples.get("control") or []
    if not mutual or not mutual[0].start["reliability"].any():
        return None
    return calibration_of(
        data.peers,
        "the cells of each peer's own grid in all test images",
        [
            {
                "start": [reliability_of(part.start["reliability"][index]) for part in mutual],
                "control": [reliability_of(part.after["reliability"][index]) for part in control],
                "after": [reliability_of(part.after["reliability"][index]) for part in mutual],
            }
            for index in range(len(data.peers))
        ],
    )
