"""The names of the classes where the labels do not bring them: as the user gives them, or as they lie by the data."""

from __future__ import annotations

import glob
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from ..config.options import RecipeOptions
from ..config.task_options import MaskOptions
from ..errors import LabelError
from .sources import Source, as_data_error

BESIDE = ("names.json", "id2label.json", "object_id2label.json")
"""Files that hold names, beside the data or in the data set's repository; the first that is there counts."""
IN_SCHEMA = b"names"
"""Key of the metadata of a Parquet schema under which names may stand, as JSON."""


def given_names(options: RecipeOptions) -> list[str] | None:
    """The names of `--label_names`: a JSON file, names apart, or one text with commas; `None` where it is unset.

    Raises:
        [`LabelError`]: a file that cannot be read or holds no names, or a name twice.

    Example:
        >>> given_names(RecipeOptions(label_names=["water,ice"]))
        ['water', 'ice']
    """
    given = options.label_names
    if len(given) == 1:
        path = Path(given[0]).expanduser()
        if path.suffix == ".json":
            return _read(path, f"--label_names {given[0]}", options)
        given = [name.strip() for name in given[0].split(",")]
    return _checked(given, "--label_names") or None


def names_beside(source: Source, options: RecipeOptions) -> list[str] | None:
    """The names in the schema of Parquet files, or in one of the files [`BESIDE`]; `None` where there are none.

    Raises:
        [`LabelError`]: names that are found but no names.
    """
    found = _local_files(str(options.dataset))
    if not found:
        return _from_hub(source, options)
    for path in (path for path in found if path.suffix == ".parquet"):
        written = (pq.read_schema(path).metadata or {}).get(IN_SCHEMA)
        if written is not None:
            return _parsed(written.decode("utf-8", "replace"), f"the schema of {path.name}", options)
    folder = found[0] if found[0].is_dir() else found[0].parent
    beside = [folder / name for name in BESIDE if (folder / name).is_file()]
    return _read(beside[0], beside[0].name, options) if beside else None


def _local_files(given: str) -> list[Path]:
    """A folder and its Parquet files, or the files themselves; nothing for a Hub id."""
    path = Path(given).expanduser()
    if path.is_dir():
        return [path, *sorted(path.glob("*.parquet"))]
    return [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]


def _from_hub(source: Source, options: RecipeOptions) -> list[str] | None:
    for name in BESIDE:
        with as_data_error(source.name), suppress(EntryNotFoundError):
            path = hf_hub_download(source.name, name, repo_type="dataset", revision=source.revision)
            return _read(Path(path), f"{name} of {source.name}", options)
    return None


def _read(path: Path, where: str, options: RecipeOptions) -> list[str]:
    try:
        return _parsed(path.read_text(encoding="utf-8"), where, options)
    except FileNotFoundError:
        raise LabelError(f"{where}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{where} cannot be read: {error}") from None


def _parsed(text: str, where: str, options: RecipeOptions) -> list[str]:
    """Names out of a JSON list, or a mapping of ids to names or of names to ids."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise LabelError(f"{where} is no JSON: {error}") from None
    if isinstance(content, list):
        return _checked(content, where)
    if not isinstance(content, dict) or not content:
        raise LabelError(f"{where} must be a list of names or a mapping of ids to names, got {type(content).__name__}")
    if all(isinstance(number, int) for number in content.values()):
        content = {number: name for name, number in content.items()}
    try:
        by_id = {int(number): name for number, name in content.items()}
    except ValueError:
        raise LabelError(f"{where} must be a list of names or a mapping of ids to names") from None
    first = 1 if isinstance(options, MaskOptions) and options.reduce_labels and 0 not in by_id else 0
    missing = next((number for number in range(first, first + len(by_id)) if number not in by_id), None)
    if missing is not None:
        raise LabelError(
            f"{where} has {len(by_id)} names but none for class {missing}; ids are 0 to C - 1, or, with "
            "--reduce_labels true, 1 to C"
        )
    return _checked([by_id[number] for number in sorted(by_id)], where)


def _checked(names: list[Any], where: str) -> list[str]:
    wrong = next((name for name in names if not isinstance(name, str) or not name), None)
    if wrong is not None or len(set(names)) < len(names):
        what = f"{wrong!r} is none" if wrong is not None else "a name is there twice"
        raise LabelError(f"{where} must be different names of classes; {what}")
    return names
