"""The figures of a model card, as PNG bytes that are the same for the same numbers."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OutputFolderError
from .results import CONTROL, MUTUAL, START, PeerResult
from .task_words import TaskWords

Points = list[tuple[int, float]]

BLUE, ORANGE, GRAY, LIGHT = "#0b62a4", "#d1620a", "#8a8f98", "#d9dce1"
"""Apart also for colour-blind readers and in print; the card's words never rely on colour alone."""

DPI = 110


@dataclass
class Curves:
    """What one peer's training looked like; a list of points `(step, value)` per seed.

    Args:
        mutual (`list[Points]`): the metric on the validation split while peers taught each other.
        control (`list[Points]`): the same in the control.
        losses (`dict[str, Points]`): averages that were logged between steps, by the name to show; of the first seed.
    """

    mutual: list[Points] = field(default_factory=list)
    control: list[Points] = field(default_factory=list)
    losses: dict[str, Points] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(len(points) > 1 for points in [*self.mutual, *self.control, *self.losses.values()])

    def from_start(self, value: float | None) -> Curves:
        """The same with what the peer reached before training at step 0, where that is known."""
        if value is None:
            return self
        mutual, control = (
            [[(0, value), *points] if points[0][0] > 0 else points for points in lines]
            for lines in (self.mutual, self.control)
        )
        return Curves(mutual, control, self.losses)


def read_curves(arms: Mapping[str, Sequence[Path]], peer: str, metric: str, *, prefix: str = "eval") -> Curves:
    """Pick one peer's numbers out of the logs of all arms.

    Args:
        arms (`dict[str, list[Path]]`): under `"mutual"` and `"control"` the folders of their seeds; a folder without
            `history.jsonl` is passed over.
        peer (`str`): its name.
        metric (`str`): e.g. `"accuracy"`.
        prefix (`str`, *optional*, defaults to `"eval"`): of the evaluation set, `"eval_NAME"` where there are several.
    """
    histories = {arm: [read_history(folder) for folder in folders] for arm, folders in arms.items()}
    measured = {
        arm: [points for history in found if (points := _points(history, f"{prefix}_{peer}/{metric}"))]
        for arm, found in histories.items()
    }
    first = next(iter(histories.get("mutual", [])), [])
    losses = {"supervised loss": _points(first, f"{peer}/supervised"), "transfer": _points(first, f"{peer}/transfer")}
    losses = {words: points for words, points in losses.items() if any(value for _, value in points)}
    return Curves(measured.get("mutual", []), measured.get("control", []), losses)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """All that was logged into `folder`, empty where nothing was.

    Raises:
        [`OutputFolderError`]: `history.jsonl` is damaged.
    """
    path = folder / "history.jsonl"
    if not path.is_file():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not all(isinstance(row, dict) and isinstance(row.get("step", 0), int) for row in rows):
            raise ValueError("every line must be an object whose step is a whole number")
        return rows
    except (OSError, ValueError, RecursionError) as error:
        raise OutputFolderError(f"{path} is damaged: {error}; run again, or restore it") from None


def _points(history: Sequence[Mapping[str, Any]], key: str) -> Points:
    """`(step, value)` of a key, by step; a step that was logged twice, as after a resume, keeps the later value."""
    points = {
        entry["step"]: float(entry[key])
        for entry in history
        if isinstance(entry.get(key), int | float) and "step" in entry
    }
    return sorted((step, value) for step, value in points.items() if math.isfinite(value))


def teacher_figure(shares: Sequence[tuple[str, float]], own: str) -> bytes:
    """Horizontal bars: on which share of the samples each peer, the mean or nobody taught.

    Args:
        shares (`list[tuple[str, float]]`): who, and the share of decisions, 0 to 1.
        own (`str`): the peer of the card; on its bar it taught the others.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        rows = range(len(shares))
        colors = [ORANGE if who == own else GRAY if who == "nobody" else BLUE for who, _ in shares]
        axes.barh(rows, [100 * share for _, share in shares], color=colors, height=0.62)
        axes.set_yticks(rows, [f"{who} (this model)" if who == own else who for who, _ in shares])
        axes.invert_yaxis()
        for row, (_, share) in zip(rows, shares, strict=True):
            axes.text(100 * share + 1, row, f"{100 * share:.1f} %", va="center", fontsize=9)
        axes.set_xlim(0, max(100 * share for _, share in shares) * 1.15 + 3)
        axes.set_xlabel("share of training decisions, %")
        axes.spines[["top", "right"]].set_visible(False)

    return png(draw, width=6.4, height=0.95 + 0.42 * len(shares))


def training_figure(curves: Curves, metric: str, chosen: int | None = None) -> bytes:
    """The metric on the validation split, against the control, and beside it the losses.

    Args:
        curves ([`Curves`]): a thin line per seed.
        metric (`str`): the axis label, e.g. `"accuracy, %"`; shares are shown in percent.
        chosen (`int`, *optional*): the step whose weights were kept, in the first seed.
    """
    scale = 100 if metric.endswith("%") else 1

    def draw(figure: Any) -> None:
        measured = curves.mutual or curves.control
        panels = [draw_metric] * bool(measured) + [draw_losses] * bool(curves.losses)
        for place, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(1, len(panels), place)
            panel(axes)
            axes.set_xlabel("optimizer step")
            axes.set_xlim(left=0)
            axes.grid(color=LIGHT, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=8)

    def draw_metric(axes: Any) -> None:
        for label, lines, style in (
            ("with its peers", curves.mutual, {"color": BLUE, "marker": "o"}),
            ("control", curves.control, {"color": ORANGE, "marker": "s", "linestyle": "--"}),
        ):
            for index, points in enumerate(lines):
                steps, values = zip(*points, strict=True)
                shown = {"label": label} if index == 0 else {}
                axes.plot(steps, [scale * value for value in values], markersize=3, linewidth=1.2, **style, **shown)
        if chosen is not None:
            axes.axvline(chosen, color=BLUE, linewidth=0.8, alpha=0.4, label="weights kept")
        axes.set_ylabel(f"validation {metric}")

    def draw_losses(axes: Any) -> None:
        for (label, points), color in zip(curves.losses.items(), (GRAY, BLUE), strict=False):
            axes.plot(*zip(*points, strict=True), color=color, linewidth=1.2, label=label)
        axes.set_ylabel("training loss, nats")

    return png(draw, width=9.6 if curves.losses and (curves.mutual or curves.control) else 5.4, height=3.3)


def _seeds(peer: PeerResult, arm: str) -> Sequence[float]:
    return peer.arms[arm].per_seed if arm in peer.arms else []


def results_figure(peers: Mapping[str, PeerResult], words: TaskWords) -> bytes:
    """Every peer's deciding metric on the test split: at its start, in the control and with its peers, a dot per seed.

    Args:
        peers (`dict[str, PeerResult]`): by name.
        words ([`TaskWords`]): of their task.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for row, peer in enumerate(peers.values()):
            axes.axhline(row, color=LIGHT, linewidth=0.8, zorder=0)
            for label, values, offset, style in (
                ("start", [peer.arms[START].metrics[words.metric]], 0.0, {"color": GRAY, "marker": "|", "s": 160}),
                ("control", _seeds(peer, CONTROL), 0.14, {"color": ORANGE, "marker": "s", "s": 22}),
                ("with its peers", _seeds(peer, MUTUAL), -0.14, {"color": BLUE, "marker": "o", "s": 26}),
            ):
                shown = {"label": label} if row == 0 and values else {}
                axes.scatter([words.scale * value for value in values], [row + offset] * len(values), **style, **shown)
        axes.set_yticks(range(len(peers)), list(peers))
        axes.set_ylim(len(peers) - 0.5, -0.5)
        axes.set_xlabel(f"{words.metric} on the test split{', %' if words.share else ''}")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=3)

    return png(draw, width=6.8, height=0.9 + 0.55 * len(peers))


def png(draw: Callable[[Any], None], width: float, *, height: float) -> bytes:
    """Draw on a fresh white figure of `width` × `height` inches; the PNG.

    The user's matplotlib settings neither change the figure nor are changed; pyplot is not loaded.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
