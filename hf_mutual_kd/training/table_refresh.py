"""Table refresh."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..errors import ResumeError
from ..peers.cohort import Cohort
from ..scoring.score_peers import score_peers
from ..scoring.score_table import ScoreTable
from .checkpoint_state import epoch_of

REFRESHED = "score_table"
"""Folder of a run that holds the tables which `refresh_epochs` made, one per refresh."""


def refreshed(
    table: ScoreTable,
    cohort: Cohort,
    rows: Any,
    *,
    run: Path,
    epoch: int,
    every: int,
    accelerator: Accelerator,
    resumed_at: float | None = None,
) -> ScoreTable:
    """
    The table for an epoch, the trained peers scored anew at the start of every `every`-th.

    Args:
        table ([`ScoreTable`]): the one before.
        cohort ([`Cohort`]): the trained peers.
        rows: the training rows.
        run (`Path`): folder of the run.
        epoch (`int`): that begins, from 0.
        every (`int`): epochs between refreshes.
        accelerator (`accelerate.Accelerator`): of the training.
        resumed_at (`float`, *optional*): in the first epoch of a resumed training, how many epochs lie behind it;
            what this epoch began with is then read.

    Raises:
        [`ResumeError`]: that is gone.
    """
    latest = epoch // every * every
    place = run / REFRESHED / f"epoch-{latest:04d}"
    if latest == 0:
        return table
    if latest < epoch or (resumed_at or 0) > epoch:
        if resumed_at is None:
            return table
        if not place.is_dir():
            raise ResumeError(f"{place} is missing: training cannot go on inside epoch {epoch}; resume an earlier one")
        return table.take_over(ScoreTable.load(place))
    if accelerator.is_main_process:
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(exist_ok=True)
        _remove_unneeded(run, every, place)
    accelerator.wait_for_everyone()
    manifest = table.manifest
    with torch.random.fork_rng():
        newer = score_peers(
            cohort,
            rows,
            place,
            name=manifest["data"]["name"],
            keep=manifest["keep"],
            shard_rows=manifest["shard_rows"],
            accelerator=accelerator,
        )
    return table.take_over(newer)


def _remove_unneeded(run: Path, every: int, newest: Path) -> None:
    """Remove earlier refreshes that no checkpoint would go on from."""
    needed = {newest.name}
    for state in run.glob("checkpoint-*/trainer_state.json"):
        needed.add(f"epoch-{int(epoch_of(state.parent)) // every * every:04d}")
    for folder in newest.parent.glob("epoch-*"):
        if folder.name not in needed:
            shutil.rmtree(folder)
