"""Videos with gaze as rows: Parquet files, or a data set on the Hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Video
from datasets.config import HF_DATASETS_CACHE
from huggingface_hub.constants import HF_HUB_CACHE

from ....config.options import RecipeOptions
from ....data.sources import open_source
from ....errors import DataError
from .fixations import FixationList, check_points
from .truth import LazyRow, PointTruth, SaliencyVideo, check_aspect

Maker = Callable[[], SaliencyVideo]
"""Makes a video, or raises what is wrong with it."""

Found = dict[str, list[Maker]]
"""The videos of every split that a data set has."""

SAFE_NAME = re.compile(r"\w[\w .()+-]{0,199}")
DEGREES_WIDE = 30
"""Where rows bring no sigma, a frame is taken to be so many degrees wide, and sigma to be one degree."""


def find_rows(options: RecipeOptions) -> Found:
    """The rows of `--dataset`, columns as [`load_videos`] says.

    Raises:
        [`DataError`]: no such data set or split, a stream, or a column is missing.
    """
    source = open_source(options)
    place = Path(options.dataset or "").expanduser()
    local = (place if place.is_dir() else place.parent,) if place.exists() else None
    asked = {"train": options.train_split, "validation": options.validation_split, "test": options.test_split}
    found: Found = {}
    for role, name in asked.items():
        split = source.splits.get(name or role)
        if split is None and name is not None:
            raise DataError(f"--{role}_split {name}: {options.dataset} has only {', '.join(source.splits)}")
        if split is None:
            continue
        columns = split.column_names or []
        wanted = ["video"] if role == "train" else ["video", "fixations"]
        if not isinstance(split, Dataset) or not set(wanted) <= set(columns):
            raise DataError(
                f"--dataset {options.dataset}: {role} must hold rows (no stream) with the columns video and "
                f"fixations, it has {', '.join(columns)}"
            )
        if isinstance(split.features["video"], Video):
            split = split.cast_column("video", Video(decode=False))
        videos, gaze = split.select_columns(["video"]), split.remove_columns("video")
        lazy = [
            LazyRow(videos, row, local or (Path(HF_HUB_CACHE), Path(HF_DATASETS_CACHE))) for row in range(len(split))
        ]
        found[role] = [partial(_of_row, role, row, gaze) for row in lazy]
    return found


def _of_row(role: str, source: LazyRow, gaze: Dataset) -> SaliencyVideo:
    row = gaze[source.row]
    name = str(row.get("name") or f"{role}-{source.row:05d}")
    if not SAFE_NAME.fullmatch(name):
        raise DataError(f"{role} row {source.row}: the name {name!r} is no file name of letters, digits and -_.()+")
    try:
        # Of a list for every frame, which may be empty, an empty one in place of them says as little as none.
        fixations = FixationList(row["fixations"]) if row.get("fixations") else None
        with SaliencyVideo(name, source, 0, None).open() as reader:
            length, shape = len(reader), reader.frames([0, len(reader) - 1]).shape
        if fixations is None and role != "train":
            raise DataError("there are no fixations, so that it measures nothing")
        if fixations is None:
            return SaliencyVideo(name, source, length, None, _cuts(row, length))
        if length != len(fixations):
            raise DataError(f"{length} frames, but fixations of {len(fixations)}")
        truth = _truth(row, fixations, shape[1:3])
        check_aspect(truth.size, shape[1:3])
        check_points(fixations.points, truth.size)
        return SaliencyVideo(name, source, length, truth, _cuts(row, length))
    except (ValueError, TypeError) as error:
        raise DataError(f"{role} row {source.row} ({name}): {error}") from None


def _truth(row: Mapping[str, Any], fixations: FixationList, size: tuple[int, int]) -> PointTruth:
    height, width = map(int, row.get("size") or size)
    sigma = float(row.get("sigma") or width / DEGREES_WIDE)
    if height < 1 or width < 1 or not sigma > 0:
        raise DataError(f"size and sigma must be above 0, got {height} x {width} and {sigma}")
    return PointTruth(fixations, (height, width), sigma)


def _cuts(row: Mapping[str, Any], length: int) -> tuple[int, ...]:
    cuts = tuple(int(cut) for cut in row.get("cuts") or ())
    if list(cuts) != sorted(set(cuts)) or any(not 0 <= cut < length for cut in cuts):
        raise DataError(f"cuts must be ascending numbers of frames below {length}, got {cuts}")
    return cuts
