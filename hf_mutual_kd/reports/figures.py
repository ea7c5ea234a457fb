"""The figures of cards and reports as PNG bytes, the same for the same numbers; those of a page light and dark."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .charts import Chart, Series, curves_chart, levels_chart, losses_chart
from .curves import Curves
from .results import CONTROL, MUTUAL, START, PeerResult
from .task_words import TaskWords

if TYPE_CHECKING:
    from .report_data import Corrections

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

    def color(self, name: str) -> str:
        """A colour by its name, see [`Color`]."""
        kind, _, index = name.partition(" ")
        return self.peers[int(index) % len(self.peers)] if kind == "peer" else getattr(self, kind)


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

Paint = Callable[[Any, Theme], None]
"""Draws on a matplotlib figure in a theme."""


@dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Args:
        name (`str`): of its PNG file, without ending.
        alt (`str`): what it shows, with its numbers, in words.
        light, dark (`bytes`): PNG.
        caption (`str`): under the figure.
        chart ([`Chart`], *optional*): what it was drawn from, for pages that draw it themselves.
    """

    name: str
    alt: str
    light: bytes
    dark: bytes
    caption: str = ""
    chart: Chart | None = None


def draw(
    name: str, alt: str, what: Chart | Paint, size: tuple[float, float] = (4.6, 2.9), caption: str = ""
) -> Figure:
    """Draw a chart, or paint, on a figure of `size` inches, once in each theme."""
    chart, paint = (what, paint_charts(what)) if isinstance(what, Chart) else (None, what)
    light = _draw(paint, LIGHT, size)
    places = [axes.get_position() for axes in light.figure.axes]
    return Figure(name, alt, _bytes(light), _bytes(_draw(paint, DARK, size, places)), caption, chart)


def png(paint: Callable[[Any], None], width: float, *, height: float) -> bytes:
    """Paint on a white matplotlib figure of `width` × `height` inches; the PNG.

    The user's matplotlib settings neither change the figure nor are changed; pyplot is not loaded.
    """
    return _png(lambda figure, _: paint(figure), LIGHT, (width, height))


def _png(paint: Paint, theme: Theme, size: tuple[float, float]) -> bytes:
    return _bytes(_draw(paint, theme, size))


def _draw(paint: Paint, theme: Theme, size: tuple[float, float], places: Sequence[Any] | None = None) -> Any:
    """The canvas, drawn; `places` of its axes from the same figure in another theme save most of the time."""
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
        if places is not None:
            figure.set_layout_engine("none")
            for axes, place in zip(figure.axes, places, strict=True):
                axes.set_position(place)
        canvas.draw()
    return canvas


def _bytes(canvas: Any) -> bytes:
    buffer = io.BytesIO()
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    drawn.quantize(COLORS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def paint_charts(*charts: Chart) -> Paint:
    """Paints charts side by side."""

    def paint(figure: Any, theme: Theme) -> None:
        for place, chart in enumerate(charts, start=1):
            _paint_chart(figure, figure.add_subplot(1, len(charts), place), chart, theme)

    return paint


def _paint_chart(figure: Any, axes: Any, chart: Chart, theme: Theme) -> None:
    named: set[str] = set()
    if chart.upright is not None:
        place, name, color = chart.upright
        style, width = (":", 0.9) if name else ("-", 1.1)
        axes.axvline(place, color=theme.color(color), linewidth=width, linestyle=style, label=name or None)
    for series in chart.series:
        label = series.name if series.in_legend and series.name not in named else None
        named.add(series.name)
        axes.plot(series.x, series.y, label=label, **_style(series, theme))
    axes.set_xlabel(chart.x_title)
    axes.grid(axis="x" if chart.rows else "both", linewidth=0.6)
    axes.set_xlim(*chart.x_range)
    if chart.rows:
        axes.set_yticks(range(len(chart.rows)), chart.rows)
        axes.set_ylim(len(chart.rows) - 0.5, -0.5)
        axes.spines[["left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    else:
        axes.set_ylabel(chart.y_title)
        low, high = chart.y_range
        axes.set_ylim(low, axes.get_ylim()[1] * 1.15 if low is not None and high is None else high)
    if named and any(series.in_legend for series in chart.series):
        figure.legend(loc="outside upper center", ncols=3) if chart.rows else axes.legend()


def _style(series: Series, theme: Theme) -> dict[str, Any]:
    color = theme.color(series.color)
    return {
        "color": color,
        "linestyle": series.line or "none",
        "linewidth": series.width,
        "solid_capstyle": "butt",
        "marker": series.marker,
        "markersize": series.size,
        "markerfacecolor": theme.ground if series.hollow else color,
        "markeredgewidth": 1.6 if series.hollow or series.marker == "|" else 0,
        "zorder": 3 if series.marker else 2,
    }


def training_figure(curves: Curves, label: str, chosen: int | None = None) -> bytes:
    """Of a card: the metric on the validation split, against the control, and beside it the losses."""
    measured = [curves_chart(curves, label, chosen)] if curves.mutual or curves.control else []
    charts = [*measured, *([losses_chart(curves)] if curves.losses else [])]
    return _png(paint_charts(*charts), LIGHT, (4.6 * len(charts), 2.9))


def results_figure(peers: Mapping[str, PeerResult], words: TaskWords) -> bytes:
    """Every peer's deciding metric on the test split: at its start, in the control and with its peers."""
    chart = levels_chart(levels(peers, words.metric), words.shown[words.metric])
    return _png(paint_charts(chart), LIGHT, (6.2, 1.2 + 0.45 * len(peers)))


def levels(peers: Mapping[str, PeerResult], metric: str) -> dict[str, dict[str, Sequence[float]]]:
    """A metric of every peer in each arm, one value per seed; without peers that were not measured at their start."""
    return {
        name: {
            "start": [value],
            "control": peer.arms[CONTROL].per_seed if CONTROL in peer.arms else [],
            "after": peer.arms[MUTUAL].per_seed if MUTUAL in peer.arms else [],
        }
        for name, peer in peers.items()
        if (value := peer.value(START, metric)) is not None
    }


def teacher_figure(shares: Sequence[tuple[str, float]], own: str) -> bytes:
    """Of a card: horizontal bars, on which share of the samples each peer, the mean or nobody taught.

    Args:
        shares (`list[tuple[str, float]]`): who, and the share of decisions, 0 to 1.
        own (`str`): the peer of the card; on its bar it taught the others.
    """

    def paint(figure: Any, theme: Theme) -> None:
        axes = figure.add_subplot()
        rows = range(len(shares))
        marked = {own: theme.control, "nobody": theme.soft}
        colors = [marked.get(who, theme.mutual) for who, _ in shares]
        axes.barh(rows, [100 * share for _, share in shares], color=colors, height=0.62)
        axes.set_yticks(rows, [f"{who} (this model)" if who == own else who for who, _ in shares])
        axes.invert_yaxis()
        for row, (_, share) in zip(rows, shares, strict=True):
            axes.text(100 * share + 1, row, f"{100 * share:.1f} %", va="center")
        axes.set_xlim(0, max(100 * share for _, share in shares) * 1.15 + 3)
        axes.set_xlabel("share of training decisions, %")

    return _png(paint, LIGHT, (5.6, 0.9 + 0.38 * len(shares)))


def paint_flow(found: Corrections, peers: Sequence[str]) -> Paint:
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
