"""What of a run is whole, and how it goes on: asked before a run is started, and told where one was stopped."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from ..errors import OutputFolderError
from ..reports.run_record import read_run
from .stage_state import FILE, STAGES

SUMMARY = "summary.json"
"""Written when an arm of a run has been trained and measured."""

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
FULL_IN_WORDS = ("PytorchStreamWriter failed", "iostream error", *(f"os error {number})" for number in FULL))
"""How torch and safetensors say that a disk is full or a file as large as it may be."""


def arms_of(folder: Path) -> list[Path]:
    """The folders of a run's trainings: its own, the control's, those of stages, and all of further seeds."""
    parts = ("", "control", f"{STAGES}/*")
    return [path for part in (*parts, *(f"seed-*/{part}" for part in parts)) for path in _found(folder, part)]


def _found(folder: Path, pattern: str) -> list[Path]:
    paths = [folder] if not pattern else sorted(folder.glob(pattern))
    return [path for path in paths if path.is_dir()]


def resumable(arm: Path) -> bool:
    """Whether a training has been finished, or has a checkpoint."""
    return (arm / SUMMARY).is_file() or (arm / STAGES / FILE).is_file() or last_checkpoint(arm) is not None


def last_checkpoint(arm: Path) -> Path | None:
    """The newest checkpoint of a training; `None` where there is none, or no folder."""
    found = get_last_checkpoint(str(arm)) if arm.is_dir() else None
    return None if found is None else Path(found)


def peers_on_record(folder: Path) -> list[str]:
    """The peers that the record of a run names; none where there is no such record."""
    try:
        return list(read_run(folder).peers)
    except OutputFolderError:
        return []


def refuse_links(folder: Path, peers: Sequence[str]) -> None:
    """Raise [`OutputFolderError`] where a peer's folder is a link, which its new weights would replace."""
    for name in peers:
        if (folder / name).is_symlink():
            raise OutputFolderError(
                f"{folder / name} is a link, which the peer's new weights would replace by a folder; put the folder "
                "itself there"
            )


def newest_checkpoint(folder: Path) -> Path | None:
    """The one of a run, of whichever of its trainings, that was written last."""
    found = [one for one in map(last_checkpoint, arms_of(folder)) if one is not None]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def how_to_go_on(folder: Path) -> str:
    """For the line that ends a run early: its last checkpoint, and how training goes on from there."""
    newest = newest_checkpoint(folder)
    if newest is None:
        return f"there is no checkpoint in {folder} yet"
    return f"the last checkpoint is {newest}; go on with --resume_from_checkpoint true"


@contextlib.contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """
    Say in one line that the disk is full, and what of a run is whole.

    Raises:
        [`OutputFolderError`]: in place of what torch, safetensors or the system raised.
    """
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise OutputFolderError(
            f"{folder} cannot be written, as the disk is full or a file as large as the system allows; what was being "
            f"written is removed, and what is there is whole: {how_to_go_on(folder)} when there is room"
        ) from error


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL or any(text in str(error) for text in FULL_IN_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
