"""The charts of cards and reports as plain data; `figures.py` draws them as PNG, `interactive.py` for a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .curves import Curves, Points

if TYPE_CHECKING:
    from .report_data import Reliability

Color = str
"""Of a theme: `"mutual"`, `"control"`, `"soft"`, `"grid"`, `"ground"`, or `"peer 2"` for one of its peers."""
DASHES = ("-", "--", "-.", ":")
MOST_MARKED = 30
"""Points of a line that are marked one by one."""
COLORS = 6
"""Of peers in a theme."""


@dataclass(frozen=True)
class Series:
    """Points of one kind, joined by a line, marked, or both.

    Args:
        name (`str`): what the legend calls it.
        x, y (`list[float]`): where the points are; with [`Chart.rows`] y counts rows from 0, at the top.
        color (`str`): see [`Color`].
        line (`str`, *optional*): one of [`DASHES`], by which they are joined.
        marker (`str`, *optional*): `"o"`, `"s"`, `"^"` or `"|"`, as matplotlib's.
        size (`float`, *optional*, defaults to 3.5): of a marker, in points.
        width (`float`, *optional*, defaults to 1.6): of the line, in points.
        hollow (`bool`, *optional*, defaults to `False`): markers are filled with the ground.
        in_legend (`bool`, *optional*, defaults to `True`): the first series of a name is in the legend.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: Color
    line: str | None = None
    marker: str | None = None
    size: float = 3.5
    width: float = 1.6
    hollow: bool = False
    in_legend: bool = True


@dataclass(frozen=True)
class Chart:
    """Series on one pair of axes.

    Args:
        series (`list[Series]`): later ones lie above.
        x_title, y_title (`str`): of the axes.
        rows (`list[str]`): what the y axis says in place of numbers, from the top.
        x_range, y_range (`tuple`): ends of the axes; `None` fits the data, beside a least of 0 alone.
        upright (`tuple[float, str, str]`, *optional*): a vertical line's place, name and colour; no name, no legend.
        decimals (`int`, *optional*, defaults to 2): of values that are shown on demand.
    """

    series: Sequence[Series]
    x_title: str
    y_title: str = ""
    rows: Sequence[str] = ()
    x_range: tuple[float | None, float | None] = (None, None)
    y_range: tuple[float | None, float | None] = (None, None)
    upright: tuple[float, str, Color] | None = None
    decimals: int = 2


def curves_chart(curves: Curves, label: str, chosen: int | None) -> Chart:
    """The metric on the validation split: with peers and in the control, a thin line per seed.

    Args:
        curves ([`Curves`]): of one peer.
        label (`str`): of the metric, e.g. `"accuracy, %"`; shares are shown in percent.
        chosen (`int`, *optional*): the step whose weights were kept, in the first seed.
    """
    scale = 100 if label.endswith("%") else 1
    arms = (("with its peers", curves.mutual, "mutual", "-", "o"), ("control", curves.control, "control", "--", "s"))
    series = [
        Series(name, *_columns(points, scale), color, line, marker)
        for name, lines, color, line, marker in arms
        for points in lines
    ]
    upright = None if chosen is None else (chosen, "weights kept", "soft")
    return Chart(series, "optimizer step", f"validation {label}", x_range=(0, None), upright=upright)


def lines_chart(
    lines: Mapping[str, Points],
    y_title: str,
    *,
    scale: float = 1,
    dashed: Sequence[str] = (),
    floor: float | None = None,
    decimals: int = 2,
) -> Chart:
    """A line for each name over the steps, those in `dashed` dashed; values from `floor` on where that is given."""
    series = [
        Series(
            name,
            *_columns(points, scale),
            f"peer {index % COLORS}",
            "--" if name in dashed else DASHES[index // COLORS % len(DASHES)],
            "o" if len(points) < MOST_MARKED else None,
        )
        for index, (name, points) in enumerate(lines.items())
    ]
    return Chart(series, "optimizer step", y_title, x_range=(0, None), y_range=(floor, None), decimals=decimals)


def losses_chart(curves: Curves) -> Chart:
    """The losses of one peer over the steps."""
    return lines_chart(curves.losses, "training loss, nats", decimals=4)


def reliability_chart(arms: Mapping[str, Reliability]) -> Chart:
    """Accuracy over confidence at the start, in the control and after; the diagonal is perfect calibration."""
    styles = {"start": ("soft", ":", "^"), "control": ("control", "--", "s"), "after": ("mutual", "-", "o")}
    series = [Series("as sure as right", [0, 100], [0, 100], "grid", "-", width=1.2, in_legend=False)]
    for arm, found in arms.items():
        filled = found.share > 0
        x, y = (100 * found.confidence[filled]).tolist(), (100 * found.accuracy[filled]).tolist()
        color, line, marker = styles[arm]
        series.append(Series(arm, x, y, color, line, marker))
    return Chart(series, "confidence, %", "accuracy, %", x_range=(0, 102), y_range=(0, 102), decimals=1)


def levels_chart(rows: Mapping[str, Mapping[str, Sequence[float]]], label: str) -> Chart:
    """Every peer on the test split, a mark per seed: `{peer: {arm: values}}` with arms `start`, `control`, `after`."""
    scale = 100 if label.endswith("%") else 1
    series = []
    for arm, name, color, marker, size, offset in (
        ("start", "start", "soft", "|", 14, 0.0),
        ("control", "control", "control", "s", 5.5, 0.16),
        ("after", "with its peers", "mutual", "o", 6, -0.16),
    ):
        each = ((row, arms.get(arm, [])) for row, arms in enumerate(rows.values()))
        found = [(scale * value, row + offset) for row, values in each for value in values]
        if found:
            x, y = map(list, zip(*found, strict=True))
            series.append(Series(name, x, y, color, marker=marker, size=size))
    return Chart(series, f"test {label}", rows=list(rows))


@dataclass(frozen=True)
class Gain:
    """A difference, the ends of what is drawn around it, and each seed's."""

    mean: float
    low: float | None
    high: float | None
    seeds: Sequence[float] = ()


def gains_chart(rows: Mapping[str, Gain], label: str, scale: float) -> Chart:
    """A line for each name, with its interval and a line at zero; filled where the interval leaves out 0."""
    series = []
    for row, gain in enumerate(rows.values()):
        ends = [gain.mean if end is None else end for end in (gain.low, gain.high)]
        sure = (ends[0] > 0) == (ends[1] > 0) and gain.low is not None
        color = ("mutual" if gain.mean > 0 else "control") if sure else "soft"
        interval, seeds = [scale * end for end in ends], [scale * one for one in gain.seeds]
        series += [
            Series("interval", interval, [row, row], color, "-", width=2.2, in_legend=False),
            Series("mean", [scale * gain.mean], [row], color, marker="o", size=7.2, hollow=not sure, in_legend=False),
            Series("seed", seeds, [row + 0.26] * len(seeds), "soft", marker="o", size=3, in_legend=False),
        ]
    drawn = [0.0, *(value for each in series for value in each.x)]
    room = 0.05 * (max(drawn) - min(drawn)) or 1.0
    x_range = (min(drawn) - room, max(drawn) + room)
    return Chart(series, label, rows=list(rows), x_range=x_range, upright=(0, "", "soft"))


def _columns(points: Points, scale: float) -> tuple[list[float], list[float]]:
    return [step for step, _ in points], [scale * value for _, value in points]
