"""What a training in stages has done so far: a small file beside the stages' folders, which a resumed run reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from ..config.training_config import MutualKDConfig
from ..errors import ResumeError
from ..files import read_json, write_json
from .checkpoint_state import ANOTHER, check_state, check_whole, progress_of, read_state
from .fingerprints import Change, changed_options, check_parts
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
        made ([`Callable`]): gives what [`made_with`] says of the training; called when it is needed.
        args ([`MutualKDConfig`]): its configuration; says whether this process writes.
    """

    def __init__(
        self, folder: Path, identity: dict[str, Any], made: Callable[[], dict[str, Any]], args: MutualKDConfig
    ):
        self.folder, self.identity, self.made, self.args = folder, identity, made, args
        self.done: list[str] = []
        self.facts: dict[str, Any] = {}
        self.changes: list[Change] = []
        """Options that had other values before, as those of a checkpoint."""

    def load(self) -> None:
        """
        Go on where an earlier run stopped.

        Raises:
            [`ResumeError`]: nothing was begun here, or with another cohort, other rows or options.
        """
        found, made = read_stages(self.folder), self.made()
        self.changes = check_stages(self.folder, self.identity, made["options"], self.args)
        check_parts(self.folder.parent, made, found["made_with"])
        self.done, self.facts = found["done"], found["facts"]

    def save(self) -> None:
        """Write the file whole."""
        if self.args.should_save:
            self.folder.mkdir(parents=True, exist_ok=True)
            made = self.made()
            made = made | {"options": with_length(made["options"], self.args)}
            state = {"done": self.done, "facts": self.facts, "made_with": made, "processes": self.args.world_size}
            write_json(self.folder / FILE, self.identity | state | {"changes": self.changes})

    def finish(self, stage: str, **facts: Any) -> None:
        """A stage is done, and its folder holds its weights; facts are for what comes after it."""
        self.facts.update(facts)
        if stage not in self.done:
            self.done.append(stage)
        self.save()


def read_stages(folder: Path) -> dict[str, Any]:
    """What the file of a run's stages says.

    Raises:
        [`ResumeError`]: there is none, or it is damaged.
    """
    if not (folder / FILE).is_file():
        raise ResumeError(
            f"there are no stages to go on with in {folder.parent}; leave resume_from_checkpoint out to start anew"
        )
    found = read_json(folder / FILE, error=ResumeError, advice=ANOTHER)
    kinds = {"done": list, "facts": dict, "made_with": dict, "processes": int, "changes": list}
    wrong = [name for name, kind in kinds.items() if not isinstance(found.get(name), kind)]
    if wrong:
        raise ResumeError(f"{folder / FILE} is damaged: {wrong[0]} is missing or of another kind; {ANOTHER}")
    return found


def check_stages(
    folder: Path, identity: Mapping[str, Any], options: Mapping[str, Any], args: MutualKDConfig
) -> list[Change]:
    """
    Refuse stages that a training cannot go on from as if it had never stopped; nothing is loaded or changed.

    Args:
        folder (`Path`): of the stages.
        identity (`dict`): those of task, peers, labels and starting weights that are known already.
        options (`dict`): [`options_of`] the training that is to go on.
        args ([`MutualKDConfig`]): its own.

    Returns:
        `list[dict]`: as [`check_checkpoint`]; steps are those of all stages together.

    Raises:
        [`ResumeError`]: other options, or a file or checkpoint that is damaged.
    """
    found = read_stages(folder)
    check_state(folder.parent, found, identity)
    changed = changed_options(folder.parent, found, with_length(options, args), args)
    ended = found["facts"].get("stages", {})
    steps = sum(one.get("steps", 0) for one in ended.values())
    for stage in sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in found["done"]):
        last = get_last_checkpoint(str(folder / stage))
        if last is not None:
            missing = check_whole(Path(last), read_state(Path(last)), args.world_size, args.resume_changes == "allow")
            changed |= dict.fromkeys(missing, ("kept", "made anew"))
            steps += progress_of(Path(last)).global_step
    made = [{"step": steps, "option": name, "from": old, "to": new} for name, (old, new) in changed.items()]
    return [*found["changes"], *made]


def with_length(options: Mapping[str, Any], args: MutualKDConfig) -> dict[str, Any]:
    """Options with how long a stage trains: all stages are compared, so that it counts whatever the schedule."""
    return {**options, "max_steps": args.max_steps, "num_train_epochs": args.num_train_epochs}


def read_history(folder: Path) -> list[dict[str, Any]]:
    """What a stage has logged; nothing where it has not ended."""
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def is_over(checkpoint: Path, tries: bool) -> bool:
    """Whether a checkpoint is the last that its stage was to write; one that only tries a way ends early."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return state["global_step"] >= (steps_tried(state["max_steps"]) if tries else state["max_steps"])
