"""The figures of a report as PNG bytes, light and dark, the same for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .card_figures import Curves, Points
from .report_data import Corrections, Reliability

DPI = 144
COLORS = 96
"""Of the stored PNG: a third of the bytes, and nothing that one can see."""


@dataclass(frozen=True)
class Theme:
    """Colours of a figure; those of `peers` differ also for colour-blind readers (after Okabe and Ito)."""

    ground: str
    ink: str
    soft: str
    grid: str
    mutual: str
    control: str
    peers: tuple[str, ...]


LIGHT = Theme(
    "#ffffff",
    "#1c2430",
    "#5b6675",
    "#dfe4ea",
    "#0b62a4",
    "#c2570c",
    ("#0b62a4", "#c2570c", "#0f7f5f", "#a8478b", "#7a6a00", "#4b5563"),
)
DARK = Theme(
    "#171c24",
    "#e6e9ee",
    "#9aa5b4",
    "#323b47",
    "#62b0f0",
    "#f59a52",
    ("#62b0f0", "#f59a52", "#4fc9a2", "#e08cc6", "#d6c445", "#aab4c2"),
)
"""Grounds equal those of the page's cards."""


@dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Args:
        name (`str`): of its PNG file, without ending.
        alt (`str`): what it shows, with its numbers, in words.
        light, dark (`bytes`): PNG.
        caption (`str`): under the figure.
    """

    name: str
    alt: str
    light: bytes
    dark: bytes
    caption: str = ""


def draw(
    name: str, alt: str, paint: Callable[[Any, Theme], None], size: tuple[float, float] = (4.6, 2.9), caption: str = ""
) -> Figure:
    """Paint on a fresh figure of `size` inches once in each theme.

    The user's matplotlib settings neither change the figure nor are changed; pyplot is not loaded.
    """
    return Figure(name, alt, _png(paint, LIGHT, size), _png(paint, DARK, size), caption)


def _png(paint: Callable[[Any, Theme], None], theme: Theme, size: tuple[float, float]) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    settings: Any = {
        "text.color": theme.ink,
        "axes.labelcolor": theme.soft,
        "axes.edgecolor": theme.grid,
        "axes.facecolor": "none",
        "xtick.color": theme.soft,
        "ytick.color": theme.soft,
        "grid.color": theme.grid,
        "text.parse_math": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "font.size": 9.5,
        "legend.fontsize": 8.5,
        "lines.linewidth": 1.6,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        figure = Canvas(figsize=size, dpi=DPI, layout="constrained", facecolor=theme.ground)
        canvas = FigureCanvasAgg(figure)
        paint(figure, theme)
        canvas.draw()
    buffer = io.BytesIO()
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    drawn.quantize(COLORS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def paint_curves(curves: Curves, label: str, chosen: int | None) -> Callable[[Any, Theme], None]:
    """The metric on the validation split: with peers and in the control, a thin line per seed."""
    scale = 100 if label.endswith("%") else 1

    def paint(figure: Any, theme: Theme) -> None:
        axes = _axes(figure, "optimizer step", f"validation {label}")
        for arm, lines, style in (
            ("with its peers", curves.mutual, {"color": theme.mutual, "marker": "o"}),
            ("control", curves.control, {"color": theme.control, "marker": "s", "linestyle": "--"}),
        ):
            for index, points in enumerate(lines):
                steps, values = zip(*points, strict=True)
                named = {"label": arm} if index == 0 else {}
                axes.plot(steps, [scale * value for value in values], markersize=3.5, **style, **named)
        if chosen is not None:
            axes.axvline(chosen, color=theme.soft, linewidth=0.9, linestyle=":", label="weights kept")
        axes.set_xlim(left=0)
        axes.legend()

    return paint


def paint_lines(
    lines: Mapping[str, Points], ylabel: str, scale: float = 1, dashed: Sequence[str] = (), floor: float | None = None
) -> Callable[[Any, Theme], None]:
    """A line for each name over the steps, those in `dashed` dashed; values from `floor` on where that is given."""

    def paint(figure: Any, theme: Theme) -> None:
        axes = _axes(figure, "optimizer step", ylabel)
        styles = ("-", "--", "-.", ":")
        for index, (name, points) in enumerate(lines.items()):
            steps, values = zip(*points, strict=True)
            color = theme.peers[index % len(theme.peers)]
            style = "--" if name in dashed else styles[index // len(theme.peers) % len(styles)]
            marker = "o" if len(points) < 30 else None
            axes.plot(
                steps,
                [scale * value for value in values],
                style,
                color=color,
                marker=marker,
                markersize=3.5,
                label=name,
            )
        axes.set_xlim(left=0)
        if floor is not None:
            axes.set_ylim(floor, axes.get_ylim()[1] * 1.15)
        axes.legend()

    return paint


def paint_reliability(arms: Mapping[str, Reliability]) -> Callable[[Any, Theme], None]:
    """Accuracy over confidence at the start, in the control and after; the diagonal is perfect calibration."""

    def paint(figure: Any, theme: Theme) -> None:
        axes = _axes(figure, "confidence, %", "accuracy, %")
        axes.plot([0, 100], [0, 100], color=theme.grid, linewidth=1.2)
        styles = {
            "start": {"color": theme.soft, "marker": "^", "linestyle": ":"},
            "control": {"color": theme.control, "marker": "s", "linestyle": "--"},
            "after": {"color": theme.mutual, "marker": "o"},
        }
        for arm, found in arms.items():
            filled = found.share > 0
            axes.plot(
                100 * found.confidence[filled], 100 * found.accuracy[filled], markersize=3.5, label=arm, **styles[arm]
            )
        axes.set(xlim=(0, 102), ylim=(0, 102))
        axes.legend(loc="upper left")

    return paint


def paint_results(rows: Mapping[str, Mapping[str, Sequence[float]]], label: str) -> Callable[[Any, Theme], None]:
    """Every peer on the test split, a mark per seed: `{peer: {arm: values}}` with arms `start`, `control`, `after`."""
    scale = 100 if label.endswith("%") else 1

    def paint(figure: Any, theme: Theme) -> None:
        axes = figure.add_subplot()
        marks = {
            "start": ({"color": theme.soft, "marker": "|", "s": 190}, 0.0),
            "control": ({"color": theme.control, "marker": "s", "s": 30}, 0.16),
            "after": ({"color": theme.mutual, "marker": "o", "s": 36}, -0.16),
        }
        for row, arms in enumerate(rows.values()):
            axes.axhline(row, color=theme.grid, linewidth=0.8, zorder=0)
            for arm, (style, offset) in marks.items():
                values = [scale * value for value in arms.get(arm, ())]
                named = {"label": "with its peers" if arm == "after" else arm} if row == 0 and values else {}
                axes.scatter(values, [row + offset] * len(values), **style, **named)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(f"test {label}")
        axes.spines[["left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper center", ncols=3)

    return paint


@dataclass(frozen=True)
class Gain:
    """A difference, the ends of what is drawn around it, and each seed's."""

    mean: float
    low: float | None
    high: float | None
    seeds: Sequence[float] = ()


def paint_gains(rows: Mapping[str, Gain], label: str, scale: float) -> Callable[[Any, Theme], None]:
    """A line for each name, with its interval and a line at zero; filled where the interval leaves out 0."""

    def paint(figure: Any, theme: Theme) -> None:
        axes = figure.add_subplot()
        axes.axvline(0, color=theme.soft, linewidth=1.1)
        for row, gain in enumerate(rows.values()):
            ends = [gain.mean if end is None else end for end in (gain.low, gain.high)]
            sure = (ends[0] > 0) == (ends[1] > 0) and gain.low is not None
            color = (theme.mutual if gain.mean > 0 else theme.control) if sure else theme.soft
            axes.plot([scale * end for end in ends], [row, row], color=color, linewidth=2.2, solid_capstyle="butt")
            face = color if sure else theme.ground
            axes.scatter([scale * gain.mean], [row], s=52, zorder=3, color=face, edgecolors=color, linewidths=1.6)
            axes.scatter([scale * one for one in gain.seeds], [row + 0.26] * len(gain.seeds), s=9, color=theme.soft)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.grid(axis="x", linewidth=0.6)
        axes.spines[["left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)

    return paint


def paint_flow(found: Corrections, peers: Sequence[str]) -> Callable[[Any, Theme], None]:
    """Bands from who knew a sample at the start (left) to the peer that learned it (right)."""

    def paint(figure: Any, theme: Theme) -> None:
        axes = figure.add_subplot()
        total = found.flow.sum()
        gap = 0.05 * total
        left = _stack(found.flow.sum(axis=1), gap)
        right = _stack(found.flow.sum(axis=0), gap)
        out, into = left.copy(), right.copy()
        for source in range(len(peers) + 1):
            color = theme.soft if source == len(peers) else theme.peers[source % len(theme.peers)]
            for student in range(len(peers)):
                width = found.flow[source, student]
                if width:
                    _band(axes, out[source], into[student], width, color)
                    out[source] += width
                    into[student] += width
            _block(
                axes,
                (0, "right"),
                left[source],
                height=found.flow[source].sum(),
                name=[*peers, "nobody else"][source],
                color=color,
            )
        for student, name in enumerate(peers):
            color = theme.peers[student % len(theme.peers)]
            _block(axes, (1, "left"), right[student], height=found.flow[:, student].sum(), name=name, color=color)
        axes.set(xlim=(-0.42, 1.42), ylim=(total + gap * (len(peers) + 1), -0.09 * total))
        axes.text(0, -0.03 * total, "was right at the start", ha="center", color=theme.soft, fontsize=8.5)
        axes.text(1, -0.03 * total, "learned it", ha="center", color=theme.soft, fontsize=8.5)
        axes.set_axis_off()

    return paint


def _stack(heights: np.ndarray, gap: float) -> np.ndarray:
    """Where each of a column of blocks begins."""
    return np.concatenate([[0.0], np.cumsum(heights + gap)[:-1]])


def _band(axes: Any, begin: float, end: float, width: float, color: str) -> None:
    """A smooth band between the columns, from height `begin` at the left to `end` at the right."""
    x = np.linspace(0, 1, 40)
    y = begin + (end - begin) * (3 * x**2 - 2 * x**3)
    axes.fill_between(0.03 + 0.94 * x, y, y + width, color=color, alpha=0.38, linewidth=0)


def _block(axes: Any, place: tuple[int, str], begin: float, *, height: float, name: str, color: str) -> None:
    """A named block of a column, which is `(x, side of its names' alignment)`; nothing where it has no height."""
    if not height:
        return
    at, side = place
    axes.fill_between([at - 0.03, at + 0.03], begin, begin + height, color=color, linewidth=0)
    shown = name if len(name) <= 16 else f"{name[:15]}…"
    axes.text(at + (0.05 if at else -0.05), begin + height / 2, shown, ha=side, va="center", fontsize=9)


def _axes(figure: Any, xlabel: str, ylabel: str) -> Any:
    axes = figure.add_subplot()
    axes.grid(linewidth=0.6)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return axes
