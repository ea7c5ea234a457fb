"""Where files that options name lie: paths in a configuration are relative to it; `examples:` is the example data."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from ..errors import ConfigError
from .values import Mismatch, RawValue, nearest

EXAMPLES = "examples:"
EXAMPLES_VARIABLE = "HF_MUTUAL_KD_EXAMPLES"
CONFIGS = Path(__file__).parents[1] / "configs"
"""Configurations that the package brings."""

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_]+):(?!/)(.+)", re.DOTALL)
"""`dhf1k:FOLDER`, the layout of a folder before it."""


def find_config(given: str) -> Path:
    """The file of `--config`: a path, or the name of a configuration that the package brings.

    Raises:
        [`ConfigError`]: it is neither.
    """
    shipped = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    if os.path.lexists(given) or given not in shipped:
        if not os.path.lexists(given):
            raise ConfigError(
                f"--config {given}: cannot be read: No such file; the package brings {', '.join(shipped)}"
                f"{nearest(given, shipped)}"
            )
        return Path(given)
    return CONFIGS / f"{given}.yaml"


def examples_folder() -> Path:
    """The folder of the small data sets and peers that the embedded defaults use: that of the environment variable
    `HF_MUTUAL_KD_EXAMPLES`, else `recipes/` of the checkout that the package was installed from.

    Raises:
        [`ConfigError`]: there is none.
    """
    given = os.environ.get(EXAMPLES_VARIABLE)
    folder = Path(given).expanduser() if given else Path(__file__).parents[2] / "recipes"
    if not (folder / "embedded").is_dir():
        what = (
            f"{EXAMPLES_VARIABLE}={given} has no folder embedded/"
            if given
            else "it is not part of the installed package"
        )
        raise ConfigError(
            f"the example data is missing: {what}. Clone the package's repository and set {EXAMPLES_VARIABLE} to its "
            "folder recipes/, or give --peers and --dataset of your own"
        )
    return folder


def near_path(path: str) -> str:
    """`" (nearest: runs/vit)"` where a path that is not there nearly is, else nothing.

    Example:
        >>> near_path("no/such/folder")
        ''
    """
    wanted = Path(path).expanduser()
    if os.path.lexists(wanted) or not wanted.parent.is_dir():
        return ""
    found = difflib.get_close_matches(wanted.name, os.listdir(wanted.parent), 1, 0.6)
    return f" (nearest: {wanted.parent / found[0]})" if found else ""


def place(written: RawValue) -> RawValue:
    """A value that names a file or folder, as it is found from the working folder; Hub ids stay as they are.

    In a file a path is relative to that file where something lies there, or where it begins with `./` or `../`.

    Raises:
        [`Mismatch`]: it is there and below the working folder, too.
        [`ConfigError`]: it is `examples:…` and there are none.
    """
    if isinstance(written.value, list):
        return RawValue([place(item) for item in written.value], written.text, written.where, written.typed)
    if not isinstance(written.value, str):
        return written
    found = SCHEME.fullmatch(written.text)
    scheme, path = (f"{found[1]}:", found[2]) if found and not Path(written.text).exists() else ("", written.text)
    if scheme == EXAMPLES:
        placed = os.path.relpath(examples_folder() / path)
    elif scheme == "python:":
        return written
    else:
        placed = scheme + _beside(path, written)
    return RawValue(placed, placed, written.where, written.typed)


def _beside(path: str, written: RawValue) -> str:
    folder = Path(written.folder)
    if not written.folder or Path(path).is_absolute() or path.startswith("~"):
        return path
    beside = os.path.relpath(folder / path)
    fixed = re.split(r"[*?\[]", path)[0]
    is_beside, is_here = (os.path.lexists(start / fixed) for start in (folder, Path()))
    explicit = path.startswith(("./", "../"))
    if is_beside and is_here and not explicit and not os.path.samefile(folder / fixed, fixed):
        raise Mismatch(
            f"{written.where}: {path} is beside this file and in the working folder; write ./{path} for the former, "
            f"{os.path.relpath(path, folder)} for the latter"
        )
    return beside if explicit or is_beside else path
