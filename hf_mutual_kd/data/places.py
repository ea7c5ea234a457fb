"""Where files may lie that the rows of a data set name: in its own folder, unless the user allows more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, IterableDataset
from huggingface_hub.constants import HF_HUB_CACHE

from ..errors import DataError
from .file_columns import holds_files

ANYWHERE = "anywhere"
CACHES = (HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH)


@dataclass(frozen=True)
class Places:
    """Where rows may name files.

    Args:
        folders (`tuple[Path, ...]`): with all that is below them.
        addresses (`tuple[str, ...]`): how addresses begin that belong to the data set.
        anywhere (`bool`): whether the user allows every regular file, and every address where there is a network.
    """

    folders: tuple[Path, ...] = ()
    addresses: tuple[str, ...] = ()
    anywhere: bool = False

    def allowing(self, more: Sequence[str]) -> Places:
        """These and what `--files_from` says."""
        folders = tuple(Path(one).expanduser() for one in more if one != ANYWHERE)
        return Places(self.folders + folders, self.addresses, self.anywhere or ANYWHERE in more)

    def check(self, path: str) -> None:
        """Refuse a file that may not be read.

        Raises:
            [`DataError`]: it lies elsewhere, or is no regular file; what it is is not looked at.
        """
        local = local_path(path)
        if local is None:
            if not self.anywhere and not path.rpartition("::")[2].startswith(self.addresses):
                raise DataError("names an address outside of the data set; --files_from anywhere allows it")
            refuse_offline()
            return
        real = local.resolve()
        if not self.anywhere and not any(real.is_relative_to(folder.resolve()) for folder in self.folders):
            raise DataError(
                "names a file outside of the data set's folder; --files_from FOLDER allows those of one more folder"
            )
        refuse_special(local)


def cached(name: str) -> Places:
    """The places of a data set of the Hub: the caches of its client, and its own repository."""
    addresses = (
        f"hf://datasets/{name}@",
        f"hf://datasets/{name}/",
        f"https://huggingface.co/datasets/{name}/resolve/",
    )
    return Places(tuple(map(Path, CACHES)), addresses)


def local_path(path: str) -> Path | None:
    """The file on this machine that a path or a chain of `fsspec` leads to; `None` for an address."""
    last = path.rpartition("::")[2]
    scheme, separator, rest = last.partition("://")
    if not separator:
        return Path(last)
    return Path(rest) if scheme in ("file", "local") else None


def refuse_special(path: Path) -> None:
    """Refuse devices, pipes and folders, which never end or never begin; a missing file is for the reader to tell."""
    if path.exists() and not path.is_file():
        raise DataError("names no regular file")


def refuse_offline() -> None:
    """Refuse an address in offline mode."""
    if datasets.config.HF_HUB_OFFLINE:
        raise DataError("names an address, and offline mode is on (HF_HUB_OFFLINE)")


def check_places(rows: Dataset | IterableDataset, split: str, places: Places | None) -> Any:
    """Look at all files that rows name before any is opened; of a stream, as they come.

    Args:
        rows (`Dataset` or `IterableDataset`): with files that are not decoded.
        split (`str`): its name, for messages.
        places ([`Places`], *optional*): unset: the rows were made of files that were found, not named.

    Returns:
        The rows; of a stream, rows that are checked one by one.

    Raises:
        [`DataError`]: names split, row and file.
    """
    features = dict(rows.features or {})
    columns = [column for column, feature in features.items() if holds_files(feature)]
    if places is None or not columns:
        return rows
    if isinstance(rows, IterableDataset):
        check = partial(_checked_row, columns=columns, split=split, places=places)
        return rows.map(check, with_indices=True, features=rows.features)
    seen = set()
    for column in columns:
        start = 0
        for chunk in rows.data.column(column).chunks:
            outside = chunk.field("bytes").is_null().to_pylist()
            for row, (path, named) in enumerate(zip(chunk.field("path").to_pylist(), outside, strict=True), start):
                if named and path and path not in seen:
                    _check(path, split, row, places)
                    seen.add(path)
            start += len(chunk)
    return rows


def _checked_row(
    row: dict[str, Any], index: int, *, columns: Sequence[str], split: str, places: Places
) -> dict[str, Any]:
    for column in columns:
        cell = row[column]
        if isinstance(cell, Mapping) and cell.get("bytes") is None and cell.get("path"):
            _check(cell["path"], split, index, places)
    return row


def _check(path: str, split: str, row: int, places: Places) -> None:
    try:
        places.check(path)
    except DataError as error:
        raise DataError(f"{split} row {row}: {path[:200]} {error}") from None
