"""The folder of a run: what may be replaced, and an earlier run that comes back where the new one fails."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import OutputFolderError, ResumeError
from ..files import STAGING, clear_staging
from ..peers.cohort_record import COHORT
from ..reports.results import RESULTS
from ..run_lock import LOCK
from ..training.checkpoint_state import ROLES
from ..training.run_state import SUMMARY, arms_of, peers_on_record, refuse_links, resumable
from ..training.stage_state import STAGES
from ..training.table_refresh import REFRESHED

REPLACED = ".replaced"
"""Holds the earlier run until the one that replaces it has its results."""

REPLACING = ".replacing"
"""The same while the earlier run is being moved there."""

PLAN, COST = "arm.json", "cost.json"
"""What a suite writes into an arm that has ended: its options, and what it cost."""

OURS = frozenset(
    {
        COHORT,
        PLAN,
        COST,
        RESULTS,
        SUMMARY,
        ROLES,
        REFRESHED,
        STAGES,
        "history.jsonl",
        "report",
        "control",
        "onnx",
        "space",
        "runs",
    }
)
"""What a run holds besides peers, checkpoints and further seeds; `runs` is TensorBoard's."""

OUR_NAMES = re.compile(r"checkpoint-\d+|seed-\d+|\.pushing-.*")


class RunFolder:
    """
    The folder that a recipe writes; to be used while it is claimed, changed by the main process alone.

    Args:
        folder (`Path`): `output_dir`.
        resumes (`bool` or `str`): the run goes on with what is there, or from a checkpoint elsewhere.
        replaces (`bool`): `overwrite_output_dir`.
    """

    def __init__(self, folder: Path, resumes: bool | str, replaces: bool):
        self.folder, self.resumes, self.replaces = folder, resumes, replaces
        self._is_new = False

    def entries(self) -> list[Path]:
        """What the folder holds of a run."""
        hidden = {LOCK, STAGING, REPLACED, REPLACING}
        return sorted(path for path in self.folder.iterdir() if path.name not in hidden)

    @property
    def replaces_a_run(self) -> bool:
        """Whether starting would move something aside."""
        return self.replaces and not self.resumes and bool(self.entries())

    def check(self) -> None:
        """
        Refuse a folder that the run may not use; nothing is changed.

        Raises:
            [`OutputFolderError`]: it holds something that would be lost.
            [`ResumeError`]: there is nothing to go on from.
        """
        aside = self.folder / REPLACED
        note = f"; the earlier run lies in {aside} until this one has its results" if aside.is_dir() else ""
        if self.resumes:
            refuse_links(self.folder, peers_on_record(self.folder))
            if self.resumes is True and not self._is_resumable():
                raise ResumeError(
                    f"resume_from_checkpoint: there is no checkpoint in {self.folder}{note}; "
                    "leave resume_from_checkpoint out to start anew"
                )
        elif self.replaces:
            self._check_replaceable()
        elif self._holds_something() and peers_on_record(self.folder) and not self._is_resumable():
            raise OutputFolderError(
                f"output_dir {self.folder} holds peers of a run that was stopped before its first checkpoint; replace "
                f"it by --overwrite_output_dir true, or choose another{note}"
            )
        elif self._holds_something():
            raise OutputFolderError(
                f"output_dir {self.folder} is in use; go on with it by --resume_from_checkpoint true, "
                f"replace it by --overwrite_output_dir true, or choose another{note}"
            )

    def check_sources(self, sources: Mapping[str, str]) -> None:
        """
        Refuse to replace what the run reads.

        Args:
            sources (`dict[str, str]`): paths and Hub ids, by what they are.

        Raises:
            [`OutputFolderError`]: one of them lies in the folder.
        """
        for what, source in sources.items():
            path = Path(source).expanduser()
            if path.exists() and path.resolve().is_relative_to(self.folder.resolve()):
                raise OutputFolderError(
                    f"--overwrite_output_dir would delete {source} ({what}), which the run reads; choose another "
                    "output_dir, or move it first"
                )

    def restore(self) -> None:
        """Undo what a start that was killed has begun: an earlier run that was moved aside comes back."""
        moving, aside = self.folder / REPLACING, self.folder / REPLACED
        if moving.is_dir():
            _move_all(moving, self.folder)
        if aside.is_dir() and not self._holds_something():
            self._bring_back()

    def prepare(self) -> None:
        """Make room for a new run: the earlier one is moved aside."""
        if self.resumes:
            return
        self._is_new = True
        aside, moving = self.folder / REPLACED, self.folder / REPLACING
        if aside.is_dir() or not self._holds_something():
            # An unfinished replacement, or a start that came to nothing.
            _remove(self.entries())
            return
        moving.mkdir()
        for path in self.entries():
            os.replace(path, moving / path.name)
        os.replace(moving, aside)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Within the block a run is trained; one that fails with nothing worth keeping leaves all as it was before."""
        try:
            yield
        except BaseException:
            for arm in arms_of(self.folder):
                clear_staging(arm)
            if self._is_new and not self._holds_something():
                self._bring_back()
            raise

    def finish(self) -> None:
        """The new run has its results: the earlier one goes."""
        shutil.rmtree(self.folder / REPLACED, ignore_errors=True)

    def _bring_back(self) -> None:
        _remove(self.entries())
        _move_all(self.folder / REPLACED, self.folder)

    def _is_resumable(self) -> bool:
        return any(map(resumable, arms_of(self.folder)))

    def _holds_something(self) -> bool:
        """Whether anything in the folder would be missed: a checkpoint, an arm, a peer, or what is no run's."""
        peers = peers_on_record(self.folder)
        if any(resumable(arm) or any((arm / peer).is_dir() for peer in peers) for arm in arms_of(self.folder)):
            return True
        return any(not _is_ours(path, peers) for path in self.entries()) or bool(self.entries() and not peers)

    def _check_replaceable(self) -> None:
        """Only what this package wrote may go, whatever `overwrite_output_dir` says."""
        if not self.entries():
            return
        way_out = "choose another output_dir, or remove it yourself"
        for what, place in (("the working directory", Path.cwd()), ("your home folder", Path.home())):
            if place.resolve().is_relative_to(self.folder.resolve()):
                raise OutputFolderError(
                    f"--overwrite_output_dir would delete {self.folder}, which is or holds {what}; {way_out}"
                )
        if self.folder.is_symlink():
            raise OutputFolderError(f"--overwrite_output_dir does not replace a link: {self.folder}; {way_out}")
        peers = peers_on_record(self.folder)
        if not peers:
            raise OutputFolderError(
                f"--overwrite_output_dir replaces runs only, and {self.folder} has no {COHORT} of one; {way_out}"
            )
        for path in self.entries():
            if not _is_ours(path, peers):
                raise OutputFolderError(
                    f"--overwrite_output_dir replaces runs only, and {path} is no part of one; {way_out}"
                )


def _is_ours(path: Path, peers: list[str]) -> bool:
    known = path.name in OURS or path.name in peers or OUR_NAMES.fullmatch(path.name) is not None
    return known and not path.is_symlink()


def _remove(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _move_all(source: Path, target: Path) -> None:
    if source.is_dir():
        for path in source.iterdir():
            os.replace(path, target / path.name)
        source.rmdir()
