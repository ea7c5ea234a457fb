"""What a run logged while it trained: a peer's numbers over the steps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OutputFolderError

Points = list[tuple[int, float]]


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
