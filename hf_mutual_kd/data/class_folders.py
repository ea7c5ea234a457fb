"""Folders of files: which folders are splits, which are classes, and what is left to the user to say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features

from ..errors import DataError
from .file_columns import FILE
from .inputs import Inputs

SPLIT_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""Names under which data sets keep their splits, in any case, first choice first."""
NOT_OF_THE_DATA = {"__macosx", "@eadir", "lost+found", "thumbs.db"}
"""What systems and archives leave beside data, like all that is hidden."""


def role_of(name: str) -> str | None:
    """The role whose split a name is: `"train"`, `"validation"`, `"test"` or none.

    Example:

    ```python
    >>> role_of("Testing"), role_of("VAL"), role_of("tests")
    ('test', 'validation', None)
    ```
    """
    return next((role for role, names in SPLIT_ALIASES.items() if name.casefold() in names), None)


@dataclass(frozen=True)
class ClassFolders:
    """
    Class folders, or split folders of class folders, with files of one kind; the folder names alone decide.

    A file called `test_1.jpg` is in no other split than its neighbours. A folder that holds nothing but one other
    folder of folders only wraps it. Links are followed, hidden and system files are passed over.

    Args:
        inputs ([`Inputs`]): what kind of files, by their endings, and what their column is called.
    """

    inputs: Inputs

    def read(
        self, path: Path, asked: Mapping[str, str | None]
    ) -> tuple[dict[str, Dataset], dict[str, list[tuple[str, int]]]] | None:
        """
        The rows below a folder.

        Args:
            path (`Path`): the folder.
            asked (`dict[str, str]`): by role, the folders that the user names as splits.

        Returns:
            `tuple` of the splits and of the names and sizes of their files, by the folders' names; `None` where there
            are no such files.

        Raises:
            [`DataError`]: folders that can be read in two ways, or files outside of class folders.
        """
        roots = self.splits(path, asked)
        found = {split: self._files_in(root) for split, root in roots.items()}
        if not any(found.values()):
            return None
        classes = {
            split: {file.relative_to(roots[split]).parts[0] for file in files} for split, files in found.items()
        }
        names = sorted({part for split, parts in classes.items() for part in parts if (roots[split] / part).is_dir()})
        splits = {split: self._as_rows(split, roots[split], files, names) for split, files in found.items()}
        sizes = {
            split: [(file.relative_to(roots[split]).as_posix(), file.stat().st_size) for file in files]
            for split, files in found.items()
        }
        return splits, sizes

    def splits(self, path: Path, asked: Mapping[str, str | None]) -> dict[str, Path]:
        """Where each split lies; everything is `train` where no folder is called like a split."""
        named_by_user = {name for role, name in asked.items() if name is not None and name != role}
        path = self._unwrapped(path, named_by_user)
        folders = [folder for folder in _folders_in(path) if folder.name in named_by_user or self._holds_any(folder)]
        named = [folder for folder in folders if role_of(folder.name) or folder.name in named_by_user]
        # A class may be called `train`; its folder then holds files and has neighbours that are no splits.
        if not named or (len(named) < len(folders) and not all(map(_folders_in, named))):
            return {"train": path}
        others = [folder.name for folder in folders if folder not in named]
        if others:
            raise DataError(
                f"{path}: beside the splits {_listed(named)} there is the folder {others[0]} with "
                f"{self.inputs.noun}s; if it is a split, name it (--test_split {others[0]}, say); if they are "
                f"classes, rename {named[0].name}; else move it away"
            )
        for role, name in asked.items():
            alike = [folder for folder in named if role_of(folder.name) == role]
            if len(alike) > 1 and (name is None or all(folder.name != name for folder in alike)):
                raise DataError(f"{path}: the folders {_listed(alike)} are all {role}; choose one with --{role}_split")
        return {folder.name: self._unwrapped(folder, set()) for folder in named}

    def _unwrapped(self, path: Path, known: set[str]) -> Path:
        """Without folders that hold nothing but one other folder of folders."""
        while True:
            folders = _folders_in(path)
            if len(folders) != 1 or folders[0].name in known or role_of(folders[0].name) or self._has_any(path):
                return path
            if not _folders_in(folders[0]) or self._has_any(folders[0]):
                return path
            path = folders[0]

    def _as_rows(self, split: str, root: Path, files: list[Path], names: list[str]) -> Dataset:
        cells = [{"bytes": None, "path": os.path.abspath(file)} for file in files]
        columns: dict[str, list[Any]] = {self.inputs.column: cells}
        features = Features({self.inputs.column: self.inputs.feature(FILE)})
        labels = [file.relative_to(root).parts[0] for file in files]
        loose = [label for label in labels if label not in names]
        if loose and len(loose) < len(labels):
            raise DataError(f"{split}: {loose[0]} lies in no class folder, others do; move it into its class or away")
        if names and not loose:
            columns["label"] = [names.index(label) for label in labels]
            features["label"] = datasets.ClassLabel(names=names)
        return Dataset.from_dict(columns, features=features)

    def _is_one(self, name: str) -> bool:
        return _is_data(name) and os.path.splitext(name)[1].lower() in self.inputs.endings()

    def _has_any(self, folder: Path) -> bool:
        return any(self._is_one(item.name) and item.is_file() for item in folder.iterdir())

    def _holds_any(self, folder: Path) -> bool:
        return bool(self._files_in(folder, first=True))

    def _files_in(self, folder: Path, first: bool = False) -> list[Path]:
        """All such files below a folder, links followed, each folder once."""
        files, seen = [], set()
        for at, folders, names in os.walk(folder, followlinks=True):
            real = os.path.realpath(at)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(filter(_is_data, folders))
            files += [path for name in names if self._is_one(name) and (path := Path(at) / name).is_file()]
            if files and first:
                break
        return sorted(files)


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name.casefold() not in NOT_OF_THE_DATA


def _folders_in(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if item.is_dir() and _is_data(item.name))


def _listed(folders: list[Path]) -> str:
    return ", ".join(folder.name for folder in folders)
