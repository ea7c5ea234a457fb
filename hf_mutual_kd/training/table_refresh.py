"""Score tables that are made anew while training."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..errors import ResumeError
from ..peers.cohort import Cohort
from ..scoring.score_peers import score_peers
from ..scoring.score_shards import Scoring
from ..scoring.score_table import ScoreTable
from .checkpoint_state import epoch_of

REFRESHED = "score_table"
"""Folder of a run that holds the tables which `refresh_epochs` made, one per refresh."""


@dataclass(frozen=True)
class TableRefresh:
    """
    Score tables that are made anew while training.

    Args:
        run (`Path`): folder of the run.
        every (`int`): epochs between refreshes.
        accelerator (`accelerate.Accelerator`): of the training.
    """

    run: Path
    every: int
    accelerator: Accelerator

    def table_of(
        self, epoch: int, table: ScoreTable, cohort: Cohort, rows: Any, *, resumed_at: float | None = None
    ) -> ScoreTable:
        """
        The table for an epoch, the trained peers scored anew at the start of every `every`-th.

        Args:
            epoch (`int`): that begins, from 0.
            table ([`ScoreTable`]): the one before.
            cohort ([`Cohort`]): the trained peers.
            rows: the training rows.
            resumed_at (`float`, *optional*): in the first epoch of a resumed training, how many epochs lie behind it;
                what this epoch began with is then read.

        Raises:
            [`ResumeError`]: that is gone.
        """
        latest = epoch // self.every * self.every
        place = self.run / REFRESHED / f"epoch-{latest:04d}"
        if latest == 0:
            return table
        if latest < epoch or (resumed_at or 0) > epoch:
            if resumed_at is None:
                return table
            if not place.is_dir():
                raise ResumeError(
                    f"{place} is missing: training cannot go on inside epoch {epoch}; resume an earlier one"
                )
            return table.take_over(ScoreTable.load(place))
        if self.accelerator.is_main_process:
            shutil.rmtree(place, ignore_errors=True)
            place.parent.mkdir(exist_ok=True)
            _remove_unneeded(self.run, self.every, place)
        self.accelerator.wait_for_everyone()
        manifest = table.manifest
        scoring = Scoring(
            manifest["data"]["name"],
            manifest["keep"],
            shard_rows=manifest["shard_rows"],
            accelerator=self.accelerator,
        )
        with torch.random.fork_rng():
            return table.take_over(score_peers(cohort, rows, place, scoring))


def _remove_unneeded(run: Path, every: int, newest: Path) -> None:
    """Remove earlier refreshes that no checkpoint would go on from."""
    needed = {newest.name}
    for state in run.glob("checkpoint-*/trainer_state.json"):
        needed.add(f"epoch-{int(epoch_of(state.parent)) // every * every:04d}")
    for folder in newest.parent.glob("epoch-*"):
        if folder.name not in needed:
            shutil.rmtree(folder)
