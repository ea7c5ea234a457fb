"""A fingerprint of videos with gaze: equal for equal data, wherever it lies."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .fixations import FixationList
from .truth import LazyRow, SaliencyVideo

COVERS = "names, lengths, cuts and fixations of the videos, bytes of those in rows, names and sizes of files"


def fingerprint_videos(videos: Sequence[SaliencyVideo]) -> str:
    """
    What videos and their gaze are, in 32 hexadecimal digits, see [`COVERS`]; the videos' order counts.

    Example:

    ```python
    >>> fingerprint_videos(splits.train)
    '8c1f0b5e…'
    ```
    """
    digest = hashlib.sha256()
    for video in videos:
        digest.update(json.dumps(_stamp(video)).encode())
    return digest.hexdigest()[:32]


def _stamp(value: Any) -> Any:
    """Plain values that tell one part of a video from another."""
    if isinstance(value, FixationList):
        return hashlib.sha256(value.content()).hexdigest()
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, LazyRow):
        return _stamp(value.read())
    if isinstance(value, Path):
        return [value.name, value.stat().st_size if value.is_file() else None]
    if isinstance(value, Mapping):
        return _stamp(value["bytes"] if value.get("bytes") is not None else Path(value.get("path") or ""))
    if dataclasses.is_dataclass(value):
        return [type(value).__name__, *(_stamp(getattr(value, item.name)) for item in dataclasses.fields(value))]
    if isinstance(value, list | tuple):
        return [_stamp(item) for item in value]
    return value if isinstance(value, str | int | float | None) else type(value).__qualname__
