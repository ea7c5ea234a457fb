"""Folders of images: which folders are splits, which are classes, and what is left to the user to say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features
from PIL import Image

from ..errors import DataError

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


def read_image_folder(
    path: Path, asked: Mapping[str, str | None]
) -> tuple[dict[str, Dataset], dict[str, list[tuple[str, int]]]] | None:
    """
    Class folders, or split folders of class folders; the folder names alone decide.

    A file called `test_1.jpg` is in no other split than its neighbours. A folder that holds nothing but one other
    folder of folders only wraps it. Links are followed, hidden and system files are passed over.

    Args:
        path (`Path`): the folder.
        asked (`dict[str, str]`): by role, the folders that the user names as splits.

    Returns:
        `tuple` of the splits and of the names and sizes of their files, by the folders' names; `None` where there are
        no images.

    Raises:
        [`DataError`]: folders that can be read in two ways, or images outside of class folders.
    """
    roots = split_folders(path, asked)
    found = {split: _images_in(root) for split, root in roots.items()}
    if not any(found.values()):
        return None
    classes = {split: {file.relative_to(roots[split]).parts[0] for file in files} for split, files in found.items()}
    names = sorted({part for split, parts in classes.items() for part in parts if (roots[split] / part).is_dir()})
    splits = {split: _as_rows(split, roots[split], files, names) for split, files in found.items()}
    sizes = {
        split: [(file.relative_to(roots[split]).as_posix(), file.stat().st_size) for file in files]
        for split, files in found.items()
    }
    return splits, sizes


def split_folders(path: Path, asked: Mapping[str, str | None]) -> dict[str, Path]:
    """Where each split lies; everything is `train` where no folder is called like a split."""
    named_by_user = {name for role, name in asked.items() if name is not None and name != role}
    path = _unwrapped(path, named_by_user)
    folders = [folder for folder in _folders_in(path) if folder.name in named_by_user or _holds_images(folder)]
    named = [folder for folder in folders if role_of(folder.name) or folder.name in named_by_user]
    # A class may be called `train`; its folder then holds images and has neighbours that are no splits.
    if not named or (len(named) < len(folders) and not all(map(_folders_in, named))):
        return {"train": path}
    others = [folder.name for folder in folders if folder not in named]
    if others:
        raise DataError(
            f"{path}: beside the splits {_listed(named)} there is the folder {others[0]} with images; if it is a "
            f"split, name it (--test_split {others[0]}, say); if they are classes, rename {named[0].name}; else move "
            "it away"
        )
    for role, name in asked.items():
        alike = [folder for folder in named if role_of(folder.name) == role]
        if len(alike) > 1 and (name is None or all(folder.name != name for folder in alike)):
            raise DataError(f"{path}: the folders {_listed(alike)} are all {role}; choose one with --{role}_split")
    return {folder.name: _unwrapped(folder, set()) for folder in named}


def _unwrapped(path: Path, known: set[str]) -> Path:
    """Without folders that hold nothing but one other folder of folders."""
    while True:
        folders = _folders_in(path)
        if len(folders) != 1 or folders[0].name in known or role_of(folders[0].name) or _has_images(path):
            return path
        if not _folders_in(folders[0]) or _has_images(folders[0]):
            return path
        path = folders[0]


def _as_rows(split: str, root: Path, files: list[Path], names: list[str]) -> Dataset:
    columns: dict[str, list[Any]] = {"image": [os.path.abspath(file) for file in files]}
    features = Features({"image": datasets.Image(decode=False)})
    labels = [file.relative_to(root).parts[0] for file in files]
    loose = [label for label in labels if label not in names]
    if loose and len(loose) < len(labels):
        raise DataError(f"{split}: {loose[0]} lies in no class folder, others do; move it into its class or away")
    if names and not loose:
        columns["label"] = [names.index(label) for label in labels]
        features["label"] = datasets.ClassLabel(names=names)
    return Dataset.from_dict(columns, features=features)


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name.casefold() not in NOT_OF_THE_DATA


def _folders_in(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if item.is_dir() and _is_data(item.name))


def _is_image(name: str) -> bool:
    return _is_data(name) and os.path.splitext(name)[1].lower() in Image.registered_extensions()


def _has_images(folder: Path) -> bool:
    return any(_is_image(item.name) and item.is_file() for item in folder.iterdir())


def _holds_images(folder: Path) -> bool:
    return bool(_images_in(folder, first=True))


def _images_in(folder: Path, first: bool = False) -> list[Path]:
    """All images below a folder, links followed, each folder once."""
    files, seen = [], set()
    for at, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(filter(_is_data, folders))
        files += [path for name in names if _is_image(name) and (path := Path(at) / name).is_file()]
        if files and first:
            break
    return sorted(files)


def _listed(folders: list[Path]) -> str:
    return ", ".join(folder.name for folder in folders)
