"""Files and folders that appear whole or not at all, and JSON whose shape is checked where it is read."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import MutualKDError, OutputFolderError

STAGING = ".unfinished"
MOST_TRIES = 100

ESCAPE = re.compile(rb"\\u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|(\\u[dD][89a-fA-F]\w\w)|\\.")
"""In JSON: a character in two halves, half of one (the group), and all others."""


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    A place to write a file to, beside `path` and with its ending; it becomes `path` when the block ends well.

    Otherwise it vanishes, so that a full disk has its space back, and a file that was there stays. Missing folders
    above are made.

    Example:

    ```python
    >>> with whole("runs/x/roles.parquet") as beside:
    ...     pq.write_table(table, beside)
    ```
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{STAGING}-{path.name}")
    try:
        yield beside
        _to_disk(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole."""
    with whole(path) as beside:
        beside.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole, as UTF-8; half a character, which UTF-8 cannot hold, as its escape."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON whole, keys in the order given."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(
    path: str | os.PathLike[str],
    kind: Any = dict[str, Any],
    error: type[MutualKDError] = OutputFolderError,
    advice: str = "run again, or restore it",
) -> Any:
    """
    Read JSON that must have a shape; numbers, text and objects are never turned into each other. Half a character,
    which names of classes may hold, is read as U+FFFD.

    Args:
        path (`str` or `os.PathLike`): of the file.
        kind: what is expected: a type, a generic such as `dict[str, float]`, or a dataclass, of which an instance is
            made. Fields that it does not have are left out.
        error (`type`, *optional*, defaults to [`OutputFolderError`]): raised where the file is missing, cut, no JSON,
            nested without end or of another shape.
        advice (`str`, *optional*): the way out, for the message.

    Example:

    ```python
    >>> read_json("runs/x/summary.json", dict[str, float])
    OutputFolderError: runs/x/summary.json is damaged: at start.vit expected a number; run again, or restore it
    ```
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(ESCAPE.sub(_whole_character, Path(path).read_bytes()), strict=True)
    except ValidationError as reason:
        first = reason.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, first["loc"]))
        raise error(f"{path} is damaged: {f'at {at}: ' if at else ''}{first['msg']}; {advice}") from None
    except (OSError, ValueError) as reason:
        raise error(f"{path} cannot be read: {getattr(reason, 'strerror', None) or reason}; {advice}") from None


def _whole_character(match: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if match[1] else match[0]


def replace_folder(made: Path, place: Path) -> None:
    """Put a finished folder in its place; an old one there goes only after the new one stands."""
    old = made.with_name(f"{made.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        os.replace(place, old)
    os.replace(made, place)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def staged(place: Path) -> Iterator[Path]:
    """A folder to write into that becomes `place` when the block ends well, and vanishes otherwise."""
    made = place.parent / STAGING / place.name
    shutil.rmtree(made, ignore_errors=True)
    _make(made)
    try:
        yield made
        sync(made)
        replace_folder(made, place)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        remove_if_empty(made.parent)


def _make(folder: Path) -> None:
    """Make a folder, though another process may remove the one above it, as it is empty, at the same time."""
    for _ in range(MOST_TRIES - 1):
        with contextlib.suppress(FileNotFoundError):
            folder.mkdir(parents=True)
            return
    folder.mkdir(parents=True)


@contextlib.contextmanager
def cleared_on_failure(folder: Path) -> Iterator[None]:
    """A block that, where it fails, leaves nothing unfinished in `folder`."""
    try:
        yield
    except BaseException:
        clear_staging(folder)
        raise


def sync(folder: Path) -> None:
    """Have the system write all files of a folder to the disk, so that a rename never outruns its content."""
    for file in folder.rglob("*"):
        if file.is_file():
            _to_disk(file)


def _to_disk(file: Path) -> None:
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())


def remove_if_empty(folder: Path) -> None:
    """Remove a folder in which nothing is left."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def clear_staging(folder: Path) -> None:
    """Remove what an interrupted process left unfinished."""
    shutil.rmtree(folder / STAGING, ignore_errors=True)


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder by hard links where the file system has them; its files are only ever replaced, never changed."""
    shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> str:
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
