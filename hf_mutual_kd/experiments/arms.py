"""The trainings that an experiment is made of: which there are, where each lies, and what it goes on from."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from ..config.training_config import MutualKDConfig
from ..training.run_state import SUMMARY, last_checkpoint
from ..training.stage_state import FILE, STAGES

CONTROL: dict[str, Any] = {"transfer_weight": 0.0, "role_table": None, "pre_flight": False}
"""What differs in the control: nothing but the transfer."""

UNIFIED: dict[str, Any] = {"input_column": None, "label_column": None, "control": False}
"""What the trainer need not know: the columns have been found and named alike, and the control is an arm."""


class Arms:
    """The control and the mutual training of every seed.

    Args:
        config ([`MutualKDConfig`]): of the mutual arm.
        seeds (`list[int]`): each trains all arms; the first one's mutual arm lies in the run's own folder.
        control (`bool`): whether a control is wanted; without labels or transfer there is none.
    """

    def __init__(self, config: MutualKDConfig, seeds: list[int], control: bool):
        self.config, self.seeds, self.folder = config, seeds, Path(str(config.output_dir))
        has_control = control and config.labels and config.transfer_weight != 0
        self.names = ("control", "mutual") if has_control else ("mutual",)

    @property
    def count(self) -> int:
        """Trainings of all seeds."""
        return len(self.names) * len(self.seeds)

    def place_of(self, name: str, seed: int) -> int:
        """Which of all trainings it is, from 1."""
        return self.seeds.index(seed) * len(self.names) + self.names.index(name) + 1

    def folder_of(self, name: str, seed: int) -> Path:
        """Where a training is written."""
        folder = self.folder if seed == self.seeds[0] else self.folder / f"seed-{seed}"
        return folder if name == "mutual" else folder / name

    def config_of(self, name: str, seed: int) -> MutualKDConfig:
        """What a training is configured by: the run's own, but for what its arm and seed say."""
        folder = self.folder_of(name, seed)
        pushes = self.config.push_to_hub and folder == self.folder
        changes: dict[str, Any] = {"output_dir": str(folder), "seed": seed, "push_to_hub": pushes}
        changes |= UNIFIED | (CONTROL if name == "control" else {})
        return dataclasses.replace(self.config, **changes)

    def checkpoint_of(self, name: str, seed: int) -> Path | None:
        """What it goes on from: a path that was given is the first mutual run's, others look into their folder."""
        folder, resume = self.folder_of(name, seed), self.config.resume_from_checkpoint
        if self.config.teaching:
            return folder / STAGES if resume and (folder / STAGES / FILE).is_file() else None
        if isinstance(resume, str) and folder == self.folder:
            # On the Hub it is until all else has been checked.
            return Path(resume) if Path(resume).is_dir() else None
        return last_checkpoint(folder) if resume else None

    def resumed(self) -> list[tuple[Path, MutualKDConfig]]:
        """The checkpoints that trainings go on from, with their configurations; of a run in stages their folder."""
        found = []
        if not self.config.resume_from_checkpoint:
            return []
        for name, seed in itertools.product(("mutual",) if self.config.teaching else self.names, self.seeds):
            done = (self.folder_of(name, seed) / SUMMARY).is_file()
            checkpoint = None if done else self.checkpoint_of(name, seed)
            if checkpoint is not None:
                found.append((checkpoint, self.config_of(name, seed).resolved()))
        return found
