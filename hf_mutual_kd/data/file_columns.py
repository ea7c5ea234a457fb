"""Columns whose cells bring or name files: images, sounds and videos, of which nothing is decoded here."""

from __future__ import annotations

from typing import Any

import datasets
from datasets import Value

FILE = {"bytes": Value("binary"), "path": Value("string")}
"""What a column of files holds that nobody decodes but us."""


DECODING = (datasets.Image, datasets.Audio, datasets.Video)
"""Features whose cells `datasets` itself would decode."""


def is_file_struct(feature: Any) -> bool:
    """Whether a column holds files that nobody has said to be images, sounds or videos."""
    return isinstance(feature, dict) and bool({"bytes", "path"} & set(feature))


def may_be_files(feature: Any, kind: type) -> bool:
    """Whether a column may hold files of a kind, such as `datasets.Audio`: as it is, as bytes, or by their paths."""
    if isinstance(feature, Value):
        return feature.dtype.removeprefix("large_") in ("binary", "string")
    undecoded = isinstance(feature, datasets.Image) and not feature.decode  # of a row that is a dict
    return is_file_struct(feature) or isinstance(feature, kind) or undecoded


def holds_files(feature: Any) -> bool:
    """Whether cells of a column bring or name files."""
    return is_file_struct(feature) or isinstance(feature, DECODING)


def without_decoding(feature: Any) -> Any:
    """As what a column of files is read, whatever decoders are installed."""
    return datasets.Image(decode=False) if isinstance(feature, datasets.Image) else FILE


def as_file(value: Any) -> Any:
    """The cell of a stream as bytes and path, where it is one of them."""
    if isinstance(value, bytes | str):
        return {"bytes": value, "path": None} if isinstance(value, bytes) else {"bytes": None, "path": value}
    return value
