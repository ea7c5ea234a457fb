"""Images: every form becomes upright RGB; what is damaged is named before the training."""

import io

import numpy as np
import pytest
import torch
from data_sets import pixels, png, table
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from hf_mutual_kd import DataError
from hf_mutual_kd.data.splits import check_inputs, decode_image


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
    for wrong in (np.zeros((6, 4, 5), np.uint8), np.zeros((2, 3, 4, 3), np.uint8)):
        with pytest.raises(DataError, match=r"expected an image \[H, W\], \[H, W, C\] or \[C, H, W\]"):
            decode_image(wrong)
    for wrong in ([[1, 2], [3]], [[300]], [["a"]], np.zeros((0, 4), np.uint8)):
        with pytest.raises(DataError):
            decode_image(wrong)


RAMP = np.arange(0, 256, 5, dtype=np.uint8)[None]
"""Bytes from black to white."""
FORMS = {
    "bytes of grey": RAMP,
    "truth values": RAMP > 127,
    "16 bits": RAMP.astype(np.uint16) * 257,
    "whole numbers": RAMP.astype(np.int64),
    "real numbers": RAMP / 255,
    "half precision": torch.tensor(RAMP / 255).bfloat16(),
    "tensor": torch.tensor(RAMP),
    "tensor of real numbers": torch.tensor(RAMP / 255),
    "grey tensor": torch.tensor(RAMP / 255)[None],
    "colour tensor": torch.tensor(RAMP / 255).expand(3, -1, -1),
    "transparent tensor": torch.cat([torch.tensor(RAMP).expand(3, -1, -1), torch.zeros(1, *RAMP.shape).byte()]),
    "channels last": np.stack([RAMP] * 3, -1),
    "transparent": np.stack([RAMP] * 3 + [RAMP * 0], -1),
    "lists": RAMP.tolist(),
    "lists of real numbers": (RAMP / 255).tolist(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_ramp_is_that_ramp(form):
    """White of 0 to 1 that is divided by 255 again is black, and real numbers cut to whole ones are, too."""
    value = FORMS[form]
    if isinstance(value, torch.Tensor | np.ndarray) and value.shape[-2:] == RAMP.shape:
        value = value.repeat(2, -2) if isinstance(value, np.ndarray) else torch.cat([value] * 2, -2)
    elif isinstance(value, np.ndarray):
        value = value.repeat(2, 0)
    seen = np.asarray(decode_image(value))[0]
    wanted = np.where(RAMP > 127, 255, 0) if form == "truth values" else RAMP
    assert np.abs(seen.astype(int) - wanted[0][:, None]).max() <= (1 if form == "half precision" else 0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.full((2, 5), 254.0), "float64 images are read as 0 to 1, and this one holds 254"),
        (np.full((2, 5), -0.1), "holds -0.1"),
        (np.full((2, 5), np.nan), "float64 images are read as 0 to 1"),
        (torch.full((2, 5), 300), "int64 images are read as 0 to 255"),
        (np.zeros((2, 5), complex), "expected numbers"),
        (torch.zeros(2, 5, 7), "of 1, 3 or 4 channels, got float32"),
        (torch.zeros(5), "expected an image"),
    ],
)
def test_numbers_that_are_no_picture(value, words):
    """Normalised values, or channels that are rows, train as noise."""
    with pytest.raises(DataError, match=words):
        decode_image(value)


def test_sixteen_bits_are_scaled_alike_in_every_image():
    """Scaled by each image's own maximum, 255 stays 255 and 256 becomes 1."""
    ramp = np.array([[0, 1, 255, 256, 257, 4095, 32768, 65535]], np.uint16)
    wanted = [0, 0, 1, 1, 1, 16, 128, 255]
    whole = Image.fromarray(ramp)
    for value in (whole, encode(whole), encode(whole, "TIFF"), ramp, whole.convert("I")):
        assert [pixel[0] for pixel in np.asarray(decode_image(value))[0]] == wanted
    for part in range(8):
        alone = np.asarray(decode_image(encode(Image.fromarray(ramp[:, part : part + 1]))))
        assert alone[0, 0, 0] == wanted[part]


@pytest.mark.parametrize("value", [65_536, -1, 2**31 - 1])
def test_thirty_two_bits_are_refused(value):
    """They wrapped modulo 256."""
    image = Image.fromarray(np.array([[0, value]], np.int32))
    for one in (image, encode(image, "TIFF")):
        with pytest.raises(DataError, match="grey values of 32 bits"):
            decode_image(one)


def test_twelve_bits_in_sixteen_are_named():
    """4095 of 65535 is as good as black, for all peers, and nothing says so."""
    dark = [encode(Image.fromarray(np.full((4, 4), most, np.uint16))) for most in (4095, 100)]
    data = Dataset.from_dict({"image": dark}).cast_column("image", ImageFeature(decode=False))
    with pytest.raises(DataError, match="train: its images of 16 bits hold 4,095 at most"):
        check_inputs(data, "train")
    bright = encode(Image.fromarray(np.full((4, 4), 9000, np.uint16)))
    data = Dataset.from_dict({"image": [*dark, bright]}).cast_column("image", ImageFeature(decode=False))
    assert check_inputs(data, "train")[1] == 0


def test_files_as_bytes_and_paths(tmp_path):
    """A column of paths or of bytes is the commonest of all."""
    image = Image.new("RGB", (6, 4), (1, 2, 3))
    image.save(tmp_path / "a.png")
    for value in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()):
        assert decode_image(value).tobytes() == image.tobytes()
    for value, words in ((str(tmp_path / "b.png"), "b.png: no such file"), (b"x", "cannot be decoded")):
        with pytest.raises(DataError, match=words):
            decode_image(value)


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
