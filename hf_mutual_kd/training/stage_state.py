"""What a training in stages has done so far: a small file beside the stages' folders, which a resumed run reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ResumeError
from ..files import write_json
from .checkpoint_state import check_state
from .ways import steps_tried

STAGES = "stages"
"""Folder of a run below which every stage has one of its own."""

FILE = "stages.json"


class StageState:
    """
    Which stages are done, and what was decided between them.

    Args:
        folder (`Path`): of the stages.
        identity (`dict`): of the cohort and its starting weights; another one is not gone on with.
        writes (`bool`): whether this process writes.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], writes: bool):
        self.folder, self.identity, self.writes = folder, identity, writes
        self.done: list[str] = []
        self.facts: dict[str, Any] = {}

    def load(self) -> None:
        """
        Go on where an earlier run stopped.

        Raises:
            [`ResumeError`]: nothing was begun here, or with another cohort.
        """
        path = self.folder / FILE
        if not path.is_file():
            raise ResumeError(
                f"there are no stages to go on with in {self.folder.parent}; leave resume_from_checkpoint out to "
                "start anew"
            )
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            self.done, self.facts = list(found["done"]), dict(found["facts"])
        except (ValueError, KeyError, TypeError) as error:
            raise ResumeError(f"{path} is damaged: {error}; start anew in another output_dir") from None
        check_state(self.folder.parent, found, self.identity)

    def save(self) -> None:
        """Write the file whole."""
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / FILE, self.identity | {"done": self.done, "facts": self.facts})

    def finish(self, stage: str, **facts: Any) -> None:
        """A stage is done, and its folder holds its weights; facts are for what comes after it."""
        self.facts.update(facts)
        if stage not in self.done:
            self.done.append(stage)
        self.save()


def read_history(folder: Path) -> list[dict[str, Any]]:
    """What a stage has logged; nothing where it has not ended."""
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def is_over(checkpoint: Path, tries: bool) -> bool:
    """Whether a checkpoint is the last that its stage was to write; one that only tries a way ends early."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return state["global_step"] >= (steps_tried(state["max_steps"]) if tries else state["max_steps"])
