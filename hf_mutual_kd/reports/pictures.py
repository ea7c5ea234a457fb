"""Small images of test samples, with every peer's map before and after where a task has maps: one Parquet file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..errors import OutputFolderError
from ..files import whole

PICTURES = Path("report") / "pictures.parquet"
"""Where a run keeps them, inside its folder."""

MOST_PICTURES = 24
"""With two peers and their maps, a page of about a megabyte."""

IMAGE_PIXELS, MAP_PIXELS, THUMBNAIL_PIXELS = 192, 128, 128
"""Longest sides of what is kept."""

IMAGES = ("image", "truth", "teacher")

NO_CLASS = 65_535
"""In maps of class ids, of pixels that do not count."""


@dataclass(frozen=True)
class SampleImages:
    """One test sample with what N peers made of it; all images are encoded.

    Args:
        id (`int`): its sample id.
        name (`str`): what it is called on the page.
        image (`bytes`): JPEG, of sounds FLAC; empty of samples that are neither.
        truth (`bytes`): PNG of one channel: class ids in 16 bits ([`class_map`]), or a density in 8 ([`density_map`]);
            empty without maps.
        maps (`dict[str, bytes]`): `"before/NAME"` and `"after/NAME"` of each peer, as `truth`; empty without maps.
        teacher (`bytes`, *optional*): PNG as [`class_map`]: which peer can teach where, for tasks whose maps have it.
        text (`str`, *optional*): of samples that are texts.
    """

    id: int
    name: str
    image: bytes = b""
    truth: bytes = b""
    maps: Mapping[str, bytes] = field(default_factory=dict)
    teacher: bytes | None = None
    text: str = ""


def photograph(image: np.ndarray) -> bytes:
    """RGB `[H, W, 3]`, uint8, as a small JPEG."""
    return thumbnail(Image.fromarray(image), IMAGE_PIXELS)


def thumbnail(image: Image.Image, side: int = THUMBNAIL_PIXELS) -> bytes:
    """An RGB image as a JPEG whose longer side is at most `side` pixels."""
    small = image.copy()
    small.thumbnail((side, side))
    return encoded(small, "JPEG", quality=85)


def class_map(plane: np.ndarray) -> bytes:
    """
    Class ids `[H, W]`, below 0 where a pixel does not count, as a PNG of 16 bits, larger ones thinned to `MAP_PIXELS`.

    Example:

    ```python
    >>> read_map(class_map(np.array([[0, 1], [-1, 300]]))).tolist()
    [[0, 1], [65535, 300]]
    ```
    """
    step = max(1.0, max(plane.shape) / MAP_PIXELS)
    rows, columns = (
        ((np.arange(max(1, int(side / step))) + 0.5) * side / max(1, int(side / step))).astype(int)
        for side in plane.shape
    )
    ids = plane[rows[:, None], columns]
    return encoded(Image.fromarray(np.where(ids < 0, NO_CLASS, ids).astype(np.uint16)), "PNG", optimize=True)


def density_map(density: np.ndarray) -> bytes:
    """A density `[H, W]`, relative to its peak, as a PNG of 8 bits, larger ones shrunk to `MAP_PIXELS`."""
    relative = density / max(float(density.max()), np.finfo(np.float32).tiny)
    small = Image.fromarray(np.rint(255 * relative).astype(np.uint8))
    small.thumbnail((MAP_PIXELS, MAP_PIXELS))
    return encoded(small, "PNG", optimize=True)


def read_map(content: bytes) -> np.ndarray:
    """What [`class_map`] or [`density_map`] encoded, `[h, w]`."""
    return np.asarray(Image.open(io.BytesIO(content)))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image in a file format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_pictures(path: Path, peers: Sequence[str], samples: Sequence[SampleImages]) -> None:
    """Write samples as Parquet; the file appears whole or not at all.

    Columns: `sample_id` (int64), `name`, `text` (string), `image`, `truth`, `teacher` (may be null), and for every
    peer `before/NAME` and `after/NAME` (binary).
    """
    columns = {
        "sample_id": pa.array([one.id for one in samples], pa.int64()),
        "name": pa.array([one.name for one in samples], pa.string()),
        "text": pa.array([one.text for one in samples], pa.string()),
        **{key: pa.array([getattr(one, key) for one in samples], pa.binary()) for key in IMAGES},
        **{key: pa.array([one.maps.get(key) for one in samples], pa.binary()) for key in _map_names(peers)},
    }
    with whole(path) as beside:
        pq.write_table(pa.table(columns), beside)


def read_pictures(path: Path, peers: Sequence[str]) -> list[SampleImages]:
    """What [`write_pictures`] wrote, nothing where there is no such file.

    Raises:
        [`OutputFolderError`]: the file is damaged or belongs to other peers.
    """
    if not path.is_file():
        return []
    try:
        found = pq.read_table(path, partitioning=None)
        table = found.select(["sample_id", "name", *IMAGES, *_map_names(peers)])
        texts = found["text"].to_pylist() if "text" in found.column_names else [""] * len(found)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise OutputFolderError(f"{path} is damaged: {error}; run again, or restore it") from None
    return [
        SampleImages(
            row["sample_id"],
            row["name"],
            row["image"],
            row["truth"],
            {key: row[key] for key in _map_names(peers) if row[key] is not None},
            row["teacher"],
            text or "",
        )
        for row, text in zip(table.to_pylist(), texts, strict=True)
    ]


def _map_names(peers: Sequence[str]) -> list[str]:
    return [f"{phase}/{name}" for name in peers for phase in ("before", "after")]
