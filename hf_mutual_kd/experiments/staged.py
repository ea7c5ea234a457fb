"""The arms of one training in stages: each measured on the test split, what was kept last."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files import read_json, write_json
from ..reports.results import Arm
from ..reports.samples import SAMPLES_FILE, write_samples
from ..training.stage_state import FILE, STAGES
from ..training.trainer import MutualKDTrainer

ARMS = "arms.json"
"""What was measured of every arm, below the stages' folder; written last."""

KEPT = "mutual"
"""The arm whose weights lie in the run's folder, as of every run; what the peers were taught to is `"taught"`."""

HISTORY, SUMMARY = "history.jsonl", "summary.json"


def folder_of(run: Path, arm: str) -> Path:
    """Where the records of an arm lie in a run's folder: what is kept is the run's own, as its peers are."""
    return run if arm == KEPT else run / "control" if arm == "control" else run / STAGES / arm


def measure_stages(trainer: MutualKDTrainer, test: Any, resume: bool) -> list[Arm]:
    """
    Train in stages, and measure on the test split what every stage ended with.

    Args:
        trainer ([`MutualKDTrainer`]): with `teaching="auto"`.
        test: rows that nothing was selected on.
        resume (`bool`): go on with what lies in the trainer's folder.

    Returns:
        `list[Arm]`: `"adapted"`, `"control"`, `"self"` and `"taught"`, where they were trained, and what is kept.
    """
    folder = trainer.folder
    done = folder / STAGES / ARMS
    if resume and done.is_file():
        return read_json(done, list[Arm])
    trainer.settle()
    trainer.measure_start(test, "test")
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=True if resume and (folder / STAGES / FILE).is_file() else None)
    seconds = round(time.perf_counter() - began, 1)
    stages = trainer.stages
    if stages is None:
        raise ConfigError("the trainer trains in one stage: set teaching to 'auto'")
    arms = []
    for what in stages.arms[1:]:
        stages.load(what)
        name = {"mutual": "taught", "kept": KEPT}.get(what, what)
        trainer.settle(folder_of(folder, name))
        trainer.evaluate(test, metric_key_prefix="test")
        record: dict[str, Any] = {"seconds": seconds} | stages.record_of(what)
        if what not in ("mutual", "kept"):
            record["teachers"] = {}
        arms.append(dataclasses.replace(trainer.arm(name, "test", seconds), **record))
        if trainer.is_world_process_zero():
            write_measured(trainer, test, folder_of(folder, name))
    if trainer.is_world_process_zero():
        # Where figures look for the control's course.
        shutil.copyfile(folder / STAGES / next(iter(stages.controls)) / HISTORY, folder / "control" / HISTORY)
        for arm in arms:
            if arm.name in (KEPT, "control"):
                write_json(folder_of(folder, arm.name) / SUMMARY, dataclasses.asdict(arm))
        write_json(done, [dataclasses.asdict(arm) for arm in arms])
    trainer.accelerator.wait_for_everyone()
    return arms


def stage_facts(folders: Sequence[Path]) -> dict[str, Any]:
    """What results say of the choice, from the stages of every seed: fields of [`Results`]."""
    facts = [read_json(folder / STAGES / FILE)["facts"] for folder in folders]
    return {
        "kept": {name: [one["kept"][name] for one in facts] for name in facts[0]["kept"]},
        "validation": [one["validation"] for one in facts],
        "labelled_share": facts[0].get("labelled_share"),
    }


def write_measured(trainer: MutualKDTrainer, test: Any, folder: Path) -> None:
    """Write into the folder of an arm what was measured of each row of the test split, before and after."""
    before, after = (one.evaluator for one in trainer.evaluations["test"].both("test"))
    facts = trainer.task.row_facts(test) | {"outcomes": after.outcome_facts()}
    write_samples(folder / SAMPLES_FILE, trainer.peer_names, before.records(), after.records(), facts)
