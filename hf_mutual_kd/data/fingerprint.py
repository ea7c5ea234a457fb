"""A fingerprint of the data of a run: equal for equal data, in any process and on any machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, IterableDataset, Value

from .class_labels import class_numbers
from .columns import label_values
from .mask_columns import has_mask_column, rows_with_mask
from .masks import COLORS, REDUCE
from .sources import Source

HASH_ALL_UP_TO = 20_000
"""Rows of a split up to which every image counts; of a larger one all labels and `HASH_SAMPLE` images do."""

HASH_SAMPLE = 2_000


def fingerprint(
    splits: Mapping[str, Dataset | IterableDataset], source: Source, label_names: list[str] | None, extra: Any = None
) -> tuple[str, str]:
    """What the data of a run is, in 32 hexadecimal digits, and in words what they cover.

    Map-style: labels, label names and the stored bytes of the images, in their order; of a split of more than 20,000
    rows, 2,000 evenly spaced images. Masks count as images do. Streams are not read: on the Hub the commit, else names
    and sizes of the files.

    Args:
        splits (`Mapping[str, Dataset | IterableDataset]`): with columns `image` and, if they have labels, `label`.
        source ([`Source`]): where they come from.
        label_names (`list[str]`, *optional*): the classes.
        extra: what else decides which rows a stream gives, of plain values.

    Example:
        >>> fingerprint({"train": train}, source, ["cat", "dog"])
        ('0b5c0a1d2f...', 'all rows')
    """
    sets = {name: split for name, split in splits.items() if isinstance(split, Dataset)}
    if sets:
        parts: Any = [(name, _hash_rows(split)) for name, split in sets.items()]
        is_whole = all(len(split) <= HASH_ALL_UP_TO for split in sets.values())
        what = "images and masks" if any(map(has_mask_column, sets.values())) else "images"
        covers = (
            "all rows" if is_whole else f"all labels, and {HASH_SAMPLE} {what} of each split above {HASH_ALL_UP_TO}"
        )
    elif source.revision:
        parts, covers = [source.name, source.config, source.revision, extra], "commit and splits"
    else:
        parts = [sorted((source.files or {}).items()), extra]
        covers = "names and sizes of files" if source.files else "splits only"
        parts += [] if source.files else [source.name, source.config]
    return hashlib.sha256(repr((parts, label_names)).encode()).hexdigest()[:32], covers


def labels_of(split: Dataset) -> np.ndarray:
    """The label of each row, `[rows]`, -1 for none; 0 for a mask."""
    if "label" not in split.column_names:
        return np.full(len(split), -1, dtype=np.int64)
    if has_mask_column(split):
        return rows_with_mask(split).astype(np.int64) - 1
    return class_numbers(label_values(split, "label"), split.features["label"], None, "rows")


def _hash_rows(split: Dataset) -> str:
    digest = hashlib.sha256(labels_of(split).astype("<i8").tobytes())
    total = len(split)
    if total > HASH_ALL_UP_TO:
        split = split.select(np.linspace(0, total - 1, HASH_SAMPLE).astype(int))
    inputs = (
        ["image"] if "image" in split.column_names else [n for n in split.column_names if n not in ("label", REDUCE)]
    )
    hashed = [*inputs, "label"] if has_mask_column(split) else inputs
    digest.update(REDUCE.encode() if REDUCE in split.column_names else b"")
    digest.update(str(split[0][COLORS]).encode() if COLORS in split.column_names and len(split) else b"")
    for row in split.select_columns(hashed):
        for column in hashed:
            digest.update(hashlib.sha256(_content(row[column])).digest())
    return digest.hexdigest()


def _content(value: Any) -> bytes:
    """The bytes of an image as stored; of a file that cannot be read a mark, as checking the images reports it."""
    if not isinstance(value, dict):
        return repr(value).encode()
    if value.get("bytes") is not None:
        return value["bytes"]
    try:
        with open(value.get("path") or "", "rb") as stream:
            return stream.read()
    except OSError:
        return b"unreadable"


def fingerprint_of_rows(rows: Any) -> str:
    """What the rows of a training are, without those who made them: all plain columns, and up to 2,000 images.

    Streams and rows that are no table are told apart by their kind, length and sample ids alone.

    Args:
        rows: as a trainer is given them, or a dict of several.
    """
    if isinstance(rows, dict):
        return " ".join(f"{name}:{fingerprint_of_rows(part)}" for name, part in sorted(rows.items()))
    rows = getattr(rows, "rows", rows)
    digest = hashlib.sha256(type(rows).__qualname__.encode())
    if isinstance(rows, Dataset):
        plain = [name for name, kind in rows.features.items() if isinstance(kind, Value | ClassLabel)]
        stored = rows.with_format("arrow")
        if plain:
            digest.update(repr(stored.select_columns(sorted(plain))[:].to_pydict()).encode())
        others = sorted(set(rows.column_names) - set(plain))
        places = (
            np.unique(np.linspace(0, max(len(rows) - 1, 0), HASH_SAMPLE).astype(int)) if others and len(rows) else ()
        )
        for place in places:
            for name, (value,) in stored.select_columns(others)[[int(place)]].to_pydict().items():
                digest.update(name.encode() + hashlib.sha256(_content(value)).digest())
    elif not isinstance(rows, IterableDataset):
        ids = rows.sample_ids() if hasattr(rows, "sample_ids") else ()
        digest.update(repr((len(rows) if hasattr(rows, "__len__") else None, list(ids))).encode())
    return digest.hexdigest()[:32]
