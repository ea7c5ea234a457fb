"""Folders that appear whole or not at all, and what a checkpoint says of the cohort it belongs to."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..errors import ResumeError
from ..files import write_text

COHORT_STATE = "cohort_state.json"


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """Everything that was logged, a JSON object a line; `null` for what is not finite."""
    lines = [{key: value if is_number(value) else None for key, value in entry.items()} for entry in history]
    write_text(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def is_number(value: Any) -> bool:
    """Whether JSON can hold a logged value; it has no NaN and no infinity."""
    return not isinstance(value, float) or math.isfinite(value)


def epoch_of(checkpoint: Path) -> float:
    """How many epochs of training lie behind a checkpoint."""
    return float(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8")).get("epoch") or 0.0)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of its cohort.

    Raises:
        [`ResumeError`]: it is no checkpoint of a cohort.
    """
    try:
        return json.loads((checkpoint / COHORT_STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResumeError(
            f"{checkpoint} is no checkpoint of a cohort ({COHORT_STATE} is missing or broken); "
            "give the checkpoint-… folder of an earlier run, or leave resume_from_checkpoint out"
        ) from error


def check_state(checkpoint: Path, state: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse a checkpoint of other peers, task, labels or starting weights, naming the first that differs."""
    for key, value in expected.items():
        if state.get(key) != value:
            raise ResumeError(
                f"{checkpoint} was made with other {key.replace('_', ' ')}: {_brief(state.get(key))}, "
                f"now {_brief(value)}; resume with the same, or start anew in another output_dir"
            )


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}…"
