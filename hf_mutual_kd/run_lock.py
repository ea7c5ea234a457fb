"""A folder to write into: tried before anything is loaded, and kept from other processes while one writes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import SoftFileLock, Timeout

from .errors import OutputFolderError
from .files import remove_if_empty

LOCK = ".lock"
"""Names the process, its host and when it began; one that a killed process of this host left is taken over."""


@contextlib.contextmanager
def claimed(folder: str | Path, option: str = "output_dir") -> Iterator[None]:
    """
    Make a folder where it is missing, and keep every other process out of it until the block ends.

    A folder that is still empty then is removed again. A process may claim a folder it has already claimed.

    Args:
        folder (`str` or `Path`): to write into.
        option (`str`, *optional*, defaults to `"output_dir"`): that named it, for the messages.

    Raises:
        [`OutputFolderError`]: it cannot be written, or another process writes into it.

    Example:

    ```python
    >>> with claimed("runs/vit"):
    ...     pass
    ```
    """
    folder = Path(folder)
    if str(folder).startswith("~"):
        raise OutputFolderError(f"{option} {folder}: there is no user of that name; give a path that exists")
    made: list[Path] = []
    try:
        with _told(folder, option):
            made = _make(folder)
            lock = SoftFileLock(str(folder / LOCK), timeout=0)
            is_mine_already = lock.is_lock_held_by_us
            if not is_mine_already:
                _acquire(lock, folder, option)
        try:
            yield
        finally:
            if not is_mine_already:
                lock.release()
    finally:
        for one in made:
            remove_if_empty(one)


def _make(folder: Path) -> list[Path]:
    """Make a folder with those above it; returns what is new, the innermost first."""
    new = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    folder.mkdir(parents=True, exist_ok=True)
    return new


def _acquire(lock: SoftFileLock, folder: Path, option: str) -> None:
    try:
        lock.acquire()
    except Timeout as error:
        held = str(error).partition("It is held by ")[2].partition(", which this host")[0]
        if held:
            raise OutputFolderError(
                f"{option} {folder} is in use by {held}; wait for it, choose another folder, or, if that process is "
                f"gone, remove {folder / LOCK}"
            ) from None
        raise OutputFolderError(
            f"{option} {folder} is in use by process {lock.pid} of this machine; wait for it or choose another folder"
        ) from None


@contextlib.contextmanager
def _told(folder: Path, option: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        what = "is a link that leads nowhere" if folder.is_symlink() else "is a file"
        raise OutputFolderError(f"{option} {folder} {what}; choose a folder, or remove it") from None
    except ValueError as error:
        if isinstance(error, OutputFolderError):
            raise
        raise OutputFolderError(f"{option} {str(folder)!r} cannot be a path: {error}") from None
    except OSError as error:
        shown = str(folder) if len(str(folder)) <= 200 else f"{str(folder)[:200]}…"
        raise OutputFolderError(
            f"{option} {shown} cannot be written: {error.strerror or error}; choose another folder"
        ) from None
