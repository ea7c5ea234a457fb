"""Saliency maps in folders: which frames there are, and one map read from a PNG, NumPy or Matlab file."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ....data.frame_readers import natural_key
from ....data.images import BROKEN
from ....errors import DataError
from .matlab import read_matrix

IMAGES = (".png", ".jpg", ".jpeg")
FAILURES = (*BROKEN, tokenize.TokenError, MemoryError, NotImplementedError, Image.DecompressionBombError)
"""What Pillow and NumPy, which parses headers as Python, raise for damaged files."""

MATLAB_KEY = "I"
"""Variable of the fixation files that come with DHF1K, Hollywood-2 and UCF-Sports."""


def subfolders(folder: Path, root: Path) -> dict[str, Path]:
    """The folders in a folder by name, in numerical order, without hidden ones.

    Raises:
        [`DataError`]: no such folder, or a link that leads out of the root.
    """
    return {path.name: path for path in _entries(folder, root) if path.is_dir()}


def frame_files(folder: Path, root: Path, suffixes: tuple[str, ...]) -> dict[int, Path]:
    """
    The files of a folder by frame number, in the order of the numbers; other kinds of files are passed over.

    The number is the last run of digits in the name: 12 in `0012.png` as in `clip3_00012.mat`.

    Args:
        folder (`Path`): holds the files.
        root (`Path`): links may not lead out of it.
        suffixes (`tuple[str, ...]`): the kinds that count, in small letters.

    Raises:
        [`DataError`]: no such folder, a name without a number, two files for one frame, or a
            link that leads out of the root.
    """
    files = (path for path in _entries(folder, root) if path.suffix.lower() in suffixes and path.is_file())
    return by_number(files, lambda path: relative(path, root))


def by_number(files: Iterable[Path], shown: Callable[[Path], str] = str) -> dict[int, Path]:
    """
    Files by the last number in their names, ascending.

    Args:
        files (`Iterable[Path]`): of one folder.
        shown (callable, *optional*): a file's name in messages; its path when unset.

    Raises:
        [`DataError`]: a name without a number, or two files for one frame.
    """
    found: dict[int, Path] = {}
    for path in files:
        digits = re.findall(r"[0-9]+", path.stem)
        if not digits:
            raise DataError(f"{shown(path)}: expected a frame number in the name, such as 0001{path.suffix}")
        number = int(digits[-1])
        if number in found:
            raise DataError(f"{shown(path)}: frame {number} is also {found[number].name}; keep one of them")
        found[number] = path
    return dict(sorted(found.items()))


def relative(path: Path, root: Path) -> str:
    """A name for messages and records: from the root's own name on, as absolute paths say where somebody lives."""
    return (Path(root.absolute().name) / path.relative_to(root)).as_posix()


def read_map(path: Path) -> np.ndarray:
    """
    One map in its own type: a grey image of 8 or 16 bits, an array in `.npy`, or the variable `I` in `.mat`.

    Of an image of one colour whose alpha channel varies that is the map.

    Args:
        path (`Path`): its suffix says what it is. Pickled arrays are refused.

    Returns:
        `np.ndarray` `[H, W]`.

    Raises:
        [`DataError`]: unreadable, in colour, or no map; the message does not name the file.
    """
    try:
        if path.suffix.lower() == ".mat":
            found = read_matrix(path.read_bytes(), MATLAB_KEY)
        elif path.suffix.lower() == ".npy":
            found = np.load(path, allow_pickle=False)
        else:
            found = _read_image(path)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError("cannot be decoded: no image that Pillow knows") from None
    except FAILURES as error:
        reason = str(error).replace(str(path), path.name) or type(error).__name__
        raise DataError(f"cannot be decoded: {reason}") from None
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "biuf" or not found.size:
        shown = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
        raise DataError(f"expected numbers of shape [H, W], got {shown}")
    return found


def _entries(folder: Path, root: Path) -> list[Path]:
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from None
    for path in paths:
        if not path.resolve().is_relative_to(root.resolve()):
            raise DataError(
                f"{relative(path, root)}: leads out of the folder {root.name}; such links are not followed"
            )
    return sorted(paths, key=lambda path: (natural_key(path.name), path.name))


def _read_image(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            return np.asarray(image)
        if image.mode in ("1", "L"):
            return np.asarray(image.convert("L"))
        pixels = np.asarray(image.convert("RGBA"))
    colors, alpha = pixels[..., :3], pixels[..., 3]
    varies = bool((alpha != alpha[0, 0]).any())
    if varies and (colors == colors[0, 0]).all():
        return alpha
    if (colors != colors[..., :1]).any():
        raise DataError("is a colour image; a saliency map is grey, and the colours of a heat map cannot be ordered")
    if varies and colors[alpha < 255].any():
        raise DataError("holds greys and an alpha channel that says something else; save it without one of them")
    return colors[..., 0]
