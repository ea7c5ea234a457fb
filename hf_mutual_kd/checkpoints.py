"""Folders that appear whole or not at all, and what a checkpoint says of the cohort it belongs to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import ResumeError

STAGING = ".unfinished"
COHORT_STATE = "cohort_state.json"


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


def fingerprint(model: nn.Module) -> str:
    """A hash of all weights, equal for equal starts."""
    digest = hashlib.blake2b(digest_size=16)
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """Everything that was logged, a JSON object a line; `null` for what is not finite."""
    lines = [{key: value if is_number(value) else None for key, value in entry.items()} for entry in history]
    write_text(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def is_number(value: Any) -> bool:
    """Whether JSON can hold a logged value; it has no NaN and no infinity."""
    return not isinstance(value, float) or math.isfinite(value)


def epoch_of(checkpoint: Path) -> float:
    """How many epochs of training lie behind a checkpoint."""
    return float(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8")).get("epoch") or 0.0)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of its cohort.

    Raises:
        [`~hf_mutual_kd.errors.ResumeError`]: it is no checkpoint of a cohort.
    """
    try:
        return json.loads((checkpoint / COHORT_STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResumeError(
            f"{checkpoint} is no checkpoint of a cohort ({COHORT_STATE} is missing or broken); "
            "give the checkpoint-… folder of an earlier run, or leave resume_from_checkpoint out"
        ) from error


def check_state(checkpoint: Path, state: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse a checkpoint of other peers, task, labels or starting weights, naming the first that differs."""
    for key, value in expected.items():
        if state.get(key) != value:
            raise ResumeError(
                f"{checkpoint} was made with other {key.replace('_', ' ')}: {_brief(state.get(key))}, "
                f"now {_brief(value)}; resume with the same, or start anew in another output_dir"
            )


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}…"
