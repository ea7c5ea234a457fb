"""Charts for a page that draws them itself by Plotly: values under the pointer, zoom, series on and off."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from .charts import Chart, Series
from .figures import DARK, LIGHT, Theme

LIBRARY = Path(__file__).with_name("plotly-basic.min.js")
"""Of npm's `plotly.js-basic-dist-min`, whose version and licence are in its first lines."""
POINTS = 4 / 3
"""Pixels of a page in a point."""
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}
MARKERS = {"o": "circle", "s": "square", "^": "triangle-up", "|": "line-ns-open"}


def chart_json(chart: Chart) -> Markup:
    """Traces and layout, with names of colours in place of colours, as JSON that may stand in a page.

    Example:

    ```python
    >>> line = Series("vit", [0, 9], [1.0, 2.5], "peer 0", "-")
    >>> json.loads(chart_json(Chart([line], "optimizer step", "loss")))["data"][0]["y"]
    [1.0, 2.5]
    ```
    """
    named: set[str] = set()
    traces = [_trace(series, chart, named) for series in chart.series]
    axis = {"gridcolor": "@grid", "zeroline": False, "linecolor": "@grid", "automargin": True, "tickcolor": "@grid"}
    x: dict[str, Any] = {**axis, "title": {"text": chart.x_title}, **_range(*chart.x_range)}
    y: dict[str, Any] = {**axis, "title": {"text": chart.y_title}, **_range(*chart.y_range)}
    if chart.rows:
        last = len(chart.rows) - 0.5
        y |= {"tickvals": list(range(len(chart.rows))), "ticktext": list(chart.rows), "range": [last, -0.5]}
        y |= {"showgrid": False, "fixedrange": True}
    layout: dict[str, Any] = {"xaxis": x, "yaxis": y, "showlegend": any(trace["showlegend"] for trace in traces)}
    if chart.upright is not None:
        place, name, color = chart.upright
        line = {"color": f"@{color}", "width": 1, "dash": "dot" if name else "solid"}
        ends = {"x0": place, "x1": place, "yref": "paper", "y0": 0, "y1": 1}
        layout["shapes"] = [{"type": "line", "line": line, **ends}]
        if name:
            # Beside the line's foot, where there is room: above it stands the legend.
            is_right = 2 * place > max(value for series in chart.series for value in series.x)
            beside = {"xanchor": "right" if is_right else "left", "xshift": -3 if is_right else 3, "yanchor": "bottom"}
            layout["annotations"] = [{"text": name, "x": place, "yref": "paper", "y": 0, "showarrow": False, **beside}]
    return as_markup({"data": traces, "layout": layout})


def _trace(series: Series, chart: Chart, named: set[str]) -> dict[str, Any]:
    shown = series.in_legend and series.name not in named
    named.add(series.name)
    value = f":.{chart.decimals}f"
    if chart.rows:
        text = [f"{chart.rows[round(y)]}, {series.name}" for y in series.y]
        hover = f"%{{text}}: %{{x{value}}}<extra></extra>"
    else:
        text = []
        hover = f"%{{fullData.name}}<br>{chart.x_title} %{{x}}: %{{y{value}}}<extra></extra>"
    color = f"@{series.color}"
    marker: dict[str, Any] = {"symbol": MARKERS.get(series.marker or "", "circle"), "size": series.size * POINTS}
    marker |= {"color": "@ground" if series.hollow else color, "opacity": 1}
    marker["line"] = {"color": color, "width": 2 if series.hollow or series.marker == "|" else 0}
    modes = [mode for mode, given in (("lines", series.line), ("markers", series.marker)) if given]
    return {
        "type": "scatter",
        "name": series.name,
        "x": [_short(value) for value in series.x],
        "y": [_short(value) for value in series.y],
        "text": text,
        "mode": "+".join(modes),
        "line": {"color": color, "dash": DASHES[series.line or "-"], "width": series.width * POINTS},
        "marker": marker,
        "showlegend": shown,
        "legendgroup": series.name if series.in_legend else "",
        "hovertemplate": hover,
    }


def _range(low: float | None, high: float | None) -> dict[str, Any]:
    if low is not None and high is not None:
        return {"range": [low, high]}
    return {} if low is None else {"rangemode": "tozero"}


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")


def themes() -> Markup:
    """The colours that the names in charts stand for, in the light and in the dark."""
    return as_markup({"light": _colors(LIGHT), "dark": _colors(DARK)})


def _colors(theme: Theme) -> dict[str, str]:
    named = {name: color for name, color in asdict(theme).items() if name != "peers"}
    return named | {f"peer {index}": color for index, color in enumerate(theme.peers)}


def as_markup(content: Any) -> Markup:
    """JSON that ends no script and opens no comment."""
    return Markup(json.dumps(content).replace("<", "\\u003c"))
