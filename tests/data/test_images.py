"""Images: every form becomes upright RGB; what is damaged is named before the training."""

import io

import numpy as np
import pytest
from data_sets import pixels, png, table
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from hf_mutual_kd.data.splits import check_inputs, decode_image
from hf_mutual_kd.errors import DataError


def test_unreadable_image_names_its_row(tmp_path):
    """A damaged file must be found before the training, and be named."""
    data = table(6)
    broken = [{"bytes": b"no image", "path": "b.png"} if row == 3 else data[row]["image"] for row in range(6)]
    kept = Dataset.from_dict({"image": broken}, features=Features({"image": ImageFeature(decode=False)}))
    with pytest.raises(DataError, match=r"train row 3: b.png: cannot be decoded.*--on_bad_row skip"):
        check_inputs(kept, "train")
    left, skipped = check_inputs(kept, "train", "skip")
    assert (len(left), skipped) == (5, 1)
    assert pixels(left) == [0, 1, 2, 4, 5]
    assert check_inputs(left, "train", "skip") == (left, 0)
    with pytest.raises(DataError, match="train: none of its 1 images is readable"):
        check_inputs(kept.select([3]), "train", "skip")


def test_check_looks_at_the_whole_length(capsys):
    """With a limit the rows are spread: the last rows of a large split are looked at too."""
    images = [{"bytes": png(), "path": None}] * 49 + [{"bytes": None, "path": None}]
    data = Dataset.from_dict({"image": images}).cast_column("image", ImageFeature(decode=False))
    with pytest.raises(DataError, match=r"test row 49: the row has no image \(neither bytes nor a path\)"):
        check_inputs(data, "test", limit=5)
    stream = data.to_iterable_dataset()
    assert check_inputs(stream, "test") == (stream, 0)


def encode(image: Image.Image, form: str = "PNG", **kwargs) -> dict:
    stream = io.BytesIO()
    image.save(stream, form, **kwargs)
    return {"bytes": stream.getvalue(), "path": None}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I"])
def test_every_mode_becomes_rgb(mode):
    """16-bit grey converted by Pillow alone is white everywhere."""
    grey = np.full((4, 6), 128, np.uint8)
    if mode in ("I;16", "I"):
        image = Image.fromarray((grey.astype(np.uint16) << 8) + 77)
        image = image if mode == "I;16" else image.convert("I")
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    decoded = decode_image(image)
    assert (decoded.mode, decoded.size) == ("RGB", (6, 4))
    if mode not in ("1", "P"):  # black, white and a palette of few colours come close only
        assert all(abs(channel - 128) <= 2 for channel in decoded.getpixel((3, 2)))
    if mode == "CMYK":
        assert decode_image(encode(image, "TIFF")).size == (6, 4)
    elif mode != "I":
        assert decode_image(encode(image)).tobytes() == decoded.tobytes()


def test_arrays_and_lists():
    """Grey is repeated over the channels; what is no picture is refused with its shape."""
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(np.asarray(decode_image(grey)), np.stack([grey] * 3, -1))
    colour = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    assert np.array_equal(np.asarray(decode_image(colour[:, ::-1])), colour[:, ::-1])
    assert np.array_equal(np.asarray(decode_image(grey.tolist())), np.asarray(decode_image(grey)))
    for wrong in (grey.astype(np.float32), np.zeros((3, 4, 4), np.uint8), np.zeros((3, 4, 5), np.uint8)):
        with pytest.raises(DataError, match=r"expected uint8 \[H, W\] or \[H, W, 3\], got"):
            decode_image(wrong)
    for wrong in ([[1, 2], [3]], [[300]], np.zeros((0, 4), np.uint8)):
        with pytest.raises(DataError):
            decode_image(wrong)


def test_orientation_is_applied():
    """A camera stores a portrait as a landscape and a note; a model must see it upright."""
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    assert decode_image(encode(image, "JPEG", exif=exif)).size == (4, 6)


def test_decompression_bomb_is_refused(monkeypatch):
    """A file of a few bytes must not fill the memory."""
    bomb = encode(Image.new("L", (20, 20)))
    for limit in (399, 150):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match="pixels"), pytest.warns() if limit == 399 else _nothing():
            decode_image(bomb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode_image(bomb).size == (20, 20)


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"got nothing \(null\)"),
        (3, "got int"),
        ({"bytes": None, "path": None}, "has no image"),
        ({"bytes": b"", "path": None}, "cannot be decoded"),
        ({"bytes": png(size=(64, 64))[:50], "path": "x/y.png"}, "x/y.png: cannot be decoded"),
        ({"bytes": None, "path": "/nowhere/a.png"}, "/nowhere/a.png: no such file"),
        (Image.new("F", (2, 2)), "floating-point"),
    ],
)
def test_values_that_are_no_image(value, message):
    """What the collator meets in a row must end in one kind of error."""
    with pytest.raises(DataError, match=message):
        decode_image(value)
