"""Files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STAGING = ".unfinished"


def write_text(path: Path, text: str) -> None:
    """Write a file whole: beside its place, then renamed."""
    beside = path.with_name(f"{path.name}.unfinished")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole, keys in the order given."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


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
    made.mkdir(parents=True)
    try:
        yield made
        sync(made)
        replace_folder(made, place)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        remove_if_empty(made.parent)


def sync(folder: Path) -> None:
    """Have the system write all files of a folder to the disk, so that a rename never outruns its content."""
    for file in folder.rglob("*"):
        if file.is_file():
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
