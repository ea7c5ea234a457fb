"""Label maps: read as they are stored, padded and resampled with their images, turned into what heads learn from."""

import io

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageColumn
from PIL import Image

from hf_mutual_kd import IGNORE, DataError, LabelError
from hf_mutual_kd.data.mask_columns import check_masks, numbers_of, settle_binary
from hf_mutual_kd.data.masks import (
    COLORS,
    IS_COLOR,
    OUTSIDE,
    REDUCE,
    UNLABELLED,
    UNREADABLE,
    check_mask,
    decode_mask,
    read_mask,
    reduce,
)
from hf_mutual_kd.tasks.semantic_segmentation.labels import (
    fill,
    image_sizes,
    labels_for_peer,
    pad_labels,
    query_targets,
)

NUMBERS = np.array([[0, 1, 2], [254, 255, 3]], np.uint8)


def file_of(image: Image.Image, kind: str = "PNG", **kwargs) -> dict:
    stream = io.BytesIO()
    image.save(stream, kind, **kwargs)
    return {"bytes": stream.getvalue(), "path": None}


def test_numbers_are_read_as_they_are_stored(tmp_path):
    """A palette that is applied, or 16 bits that are scaled to 8, silently make other classes."""
    palette = Image.fromarray(NUMBERS).convert("P")
    palette.putpalette([255 - index // 3 for index in range(768)])
    indices = np.asarray(palette).copy()
    wide = NUMBERS.astype(np.uint16) + 1000
    path = tmp_path / "mask.png"
    Image.fromarray(NUMBERS).save(path)
    cases = [
        (file_of(Image.fromarray(NUMBERS)), NUMBERS),
        (file_of(palette), indices),
        (file_of(Image.fromarray(wide)), wide),
        ({"bytes": None, "path": str(path)}, NUMBERS),
        (Image.fromarray(NUMBERS), NUMBERS),
        (NUMBERS.astype(np.int32), NUMBERS),
        (NUMBERS.tolist(), NUMBERS),
        (torch.from_numpy(NUMBERS), NUMBERS),
    ]
    for value, wanted in cases:
        mask = decode_mask(value)
        assert mask.dtype == torch.int64
        assert mask.tolist() == wanted.tolist()


def test_a_mask_is_turned_as_its_image_is():
    """An image is turned by its EXIF orientation; a mask that is not lies across it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_mask(file_of(Image.fromarray(NUMBERS), exif=exif))
    assert turned.tolist() == np.rot90(NUMBERS, -1).tolist()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (file_of(Image.new("RGB", (4, 4), "red")), "mode RGB holds colors, not class numbers; .*--label_colors"),
        (file_of(Image.new("L", (8, 8)), "JPEG"), "JPEG has other class numbers than were stored; store it as PNG"),
        ({"bytes": b"no image", "path": "a.png"}, "a.png: cannot be decoded"),
        ({"bytes": file_of(Image.fromarray(NUMBERS.repeat(99, 0)))["bytes"][:60], "path": None}, "cannot be decoded"),
        (None, r"nothing \(null\)"),
        (np.zeros((2, 2, 3), np.uint8), r"whole numbers \[H, W\] as a mask, got uint8 \[2, 2, 3\]"),
        (np.zeros((2, 2)), r"got float64 \[2, 2\]"),
        ([[1], [1, 2]], "no mask"),
    ],
)
def test_what_is_no_mask(value, message):
    """Colours read as numbers, and numbers that JPEG has blurred, train without an error."""
    with pytest.raises(DataError, match=message):
        decode_mask(value)


def test_rows_are_reduced_where_they_say_so():
    """Reduced by the data and again by a peer's processor, class 1 would be ignored."""
    assert reduce(torch.tensor([0, 1, 2, 254, 255])).tolist() == [255, 0, 1, 253, 255]
    assert read_mask({"label": [[0, 1, 255]]}).tolist() == [[0, 1, 255]]
    assert read_mask({"label": [[0, 1, 255]], REDUCE: True}).tolist() == [[255, 0, 255]]
    for empty in ({}, {"label": None}, {"label": {"bytes": None, "path": None}}):
        assert read_mask(empty) is None


def test_masks_are_checked():
    """A number beyond the classes is an index error on the device; a mask of another size is stretched silently."""
    mask = torch.tensor([[0, 4, 255], [1, 2, 3]])
    check_mask(mask, (2, 3), 5)
    check_mask(mask, (2, 3), None)
    with pytest.raises(LabelError, match=r"2 x 3 pixels \(height x width\), its image 3 x 2"):
        check_mask(mask, (3, 2), 5)
    with pytest.raises(LabelError, match="holds 4 at 1 of 6 pixels; classes are 0 to 3.*--reduce_labels true"):
        check_mask(mask, (2, 3), 4)
    with pytest.raises(LabelError, match="holds 2, 3, 4 at 3 of 6 pixels; classes are 0 to 1, and 255 .* ignored$"):
        check_mask(mask, (2, 3), 2)
    with pytest.raises(LabelError, match="holds 300"):
        check_mask(torch.full((1, 1), 300), (1, 1), None)


def test_a_batch_keeps_every_images_size():
    """Padding taken for a class, or for an ignored pixel of the image, stretches the map over the padding."""
    maps = [torch.full((2, 5), UNLABELLED), torch.full((4, 3), IGNORE), torch.full((1, 1), UNREADABLE)]
    labels = pad_labels(maps)
    assert labels.shape == (3, 4, 5)
    assert image_sizes(labels).tolist() == [[2, 5], [4, 3], [1, 1]]
    assert (labels[0, 2:] == OUTSIDE).all()
    assert (labels[2, 0, 1:] == OUTSIDE).all()
    filled = fill(labels)
    assert filled.shape == (3, 4, 5)
    assert [one.unique().tolist() for one in filled] == [[UNLABELLED], [IGNORE], [UNREADABLE]]


def test_filling_stretches_each_image():
    """By hand: 1 x 2 labels over a grid of 2 x 4; the neighbour's size does not matter."""
    labels = pad_labels([torch.tensor([[5, 7]]), torch.zeros(3, 3, dtype=torch.long)])
    assert fill(labels, (2, 4))[0].tolist() == [[5, 5, 7, 7], [5, 5, 7, 7]]


def test_a_peers_labels_lie_where_it_sees_the_image():
    """Labels stretched over a peer's padding teach it a shifted map."""
    labels = pad_labels([torch.tensor([[0, 1], [2, 255]]), torch.full((4, 4), UNLABELLED)])
    made = labels_for_peer(labels, torch.tensor([[2, 4], [3, 3]]), (3, 5))
    assert made[0].tolist() == [[0, 0, 1, 1, 255], [2, 2, 255, 255, 255], [255] * 5]
    assert (made[1] == IGNORE).all()


def test_query_targets_by_hand():
    """An ignored pixel in a mask of its own would be a class 255; an image without labels has no mask at all."""
    labels = torch.tensor([[[3, 3], [255, 1]], [[255, 255], [255, 255]]])
    masks, classes = query_targets(labels)
    assert [found.tolist() for found in classes] == [[1, 3], []]
    assert masks[0].tolist() == [[[0, 0], [0, 1]], [[1, 1], [0, 0]]]
    assert masks[1].shape == (0, 2, 2)
    assert (masks[0].dtype, classes[1].dtype) == (torch.float32, torch.int64)


def rows_of(*masks, **columns) -> Dataset:
    """Rows of a grey image and these masks as PNG, `None` for no mask."""
    cells = [None if mask is None else file_of(Image.fromarray(np.asarray(mask, np.uint8))) for mask in masks]
    images = [file_of(Image.new("RGB", (len(mask[0]), len(mask)) if mask else (2, 2))) for mask in masks]
    kind = ImageColumn(decode=False)
    return Dataset.from_dict({"image": images, "label": cells}, Features({"image": kind, "label": kind}))


def test_binary_masks_of_0_and_255_have_two_classes():
    """255 taken for "ignored" leaves one class, and every peer scores mIoU 100."""
    splits = {"train": rows_of([[0, 255]], [[0, 0]], None), "test": rows_of([[255, 0]])}
    settled = settle_binary(splits, 2)
    assert [read_mask(row).tolist() for row in settled["train"].select([0, 1])] == [[[0, 1]], [[0, 0]]]
    assert read_mask(settled["test"][0]).tolist() == [[1, 0]]
    rows, skipped, words = check_masks(settled["train"], "train", 2)
    assert (len(rows), skipped) == (3, 0)
    assert "1 rows have no mask" in words
    with_a_one = {"train": rows_of([[0, 255]], [[0, 1]]), "test": rows_of([[255, 0]])}
    assert settle_binary(with_a_one, 2) is with_a_one
    assert settle_binary(splits, None) is splits
    assert settle_binary(splits, 3) is splits


@pytest.mark.parametrize("classes", [2, None])
def test_0_and_255_without_a_decision_are_refused(classes):
    """From Python nobody has looked at the masks before: the same 100 % of one class."""
    with pytest.raises(LabelError, match=r"train: its masks hold 0 and 255 alone.*--label_colors 0 255"):
        check_masks(rows_of([[0, 255]], [[255, 0]]), "train", classes)
    assert check_masks(rows_of([[0, 255]], [[0, 1]]), "train", classes)[1] == 0


def test_a_split_whose_truth_is_empty_is_refused():
    """It ends a run with a KeyError after training, or measures nothing."""
    with pytest.raises(LabelError, match="test: every pixel of its masks is ignored"):
        check_masks(rows_of([[255, 255]], [[255]]), "test", 3)
    reduced = rows_of([[0, 0]]).add_column(REDUCE, [True])
    with pytest.raises(LabelError, match="leave out --reduce_labels"):
        check_masks(reduced, "test", 3)
    assert check_masks(rows_of(None, None), "train", 3)[2].startswith("all; 2 rows have no mask")


def test_a_mask_that_is_ignored_everywhere_is_none():
    """Its row would neither learn from labels nor from the others."""
    assert read_mask({"label": np.full((2, 2), 255)}) is None
    assert read_mask({"label": np.zeros((2, 2), int), REDUCE: True}) is None
    assert read_mask({"label": {"bytes": None, "path": None}}) is None


def test_colors_stand_for_classes():
    """RGB masks and greys such as 0, 127, 255 would be refused, or read as other classes."""
    pixels = np.array([[[0, 0, 0], [128, 0, 0]], [[0, 128, 0], [128, 0, 0]]], np.uint8)
    names = ["ground", "roof", "tree"]
    colors = numbers_of(["#000000", "#800000", "#008000"], names)
    opaque = Image.fromarray(np.dstack([pixels, np.full((2, 2), 255, np.uint8)]))
    palette = Image.fromarray(np.array([[5, 1], [2, 1]], np.uint8)).convert("P")
    palette.putpalette([0, 0, 9, 128, 0, 0, 0, 128, 0, 9, 9, 9, 9, 0, 9, 0, 0, 0])
    for image in (Image.fromarray(pixels), opaque, palette):
        assert read_mask({"label": file_of(image), COLORS: colors}).tolist() == [[0, 1], [2, 1]]
    greys = {"label": np.array([[0, 127], [255, 127]]), COLORS: numbers_of(["0", "127", "255"], names)}
    assert read_mask(greys).tolist() == [[0, 1], [2, 1]]
    ignored = {"label": np.array([[0, 255], [1, 0]]), COLORS: numbers_of(["0", "1"], names[:2])}
    assert read_mask(ignored).tolist() == [[0, 255], [1, 0]]
    with pytest.raises(LabelError, match=r"holds #008000, for which --label_colors names no class"):
        read_mask({"label": file_of(Image.fromarray(pixels)), COLORS: colors[:2]})
    assert colors[1] == IS_COLOR + 0x800000


def test_grey_in_three_channels_is_grey_and_alpha_counts():
    """Many tools store masks as RGB or RGBA; an alpha that says something is not dropped in silence."""
    numbers = np.array([[0, 1], [2, 255]], np.uint8)
    rgb = Image.fromarray(np.dstack([numbers] * 3))
    assert decode_mask(file_of(rgb)).tolist() == numbers.tolist()
    assert decode_mask(file_of(rgb.convert("RGBA"))).tolist() == numbers.tolist()
    clear = Image.fromarray(np.dstack([numbers] * 3 + [np.array([[0, 255], [255, 255]], np.uint8)]))
    with pytest.raises(DataError, match="alpha channel that is not opaque"):
        decode_mask(file_of(clear))


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        (["red"], "expected greys 0 to 65535 or colors such as #80ff00, got 'red'"),
        (["0", "#ffffff"], "greys and colors"),
        (["0", "0"], "names 0 twice"),
        (["0", "1", "2"], "names 3 colors, but there are 2 classes"),
    ],
)
def test_colors_that_cannot_be_meant_are_refused(colors, message):
    """A color too few moves all classes after it."""
    with pytest.raises(LabelError, match=message):
        numbers_of(colors, ["a", "b"])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_follows_the_orientation_of_its_image(orientation):
    """A photo of a phone is turned, its mask is not: every pixel has another's class."""
    numbers = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[274] = orientation
    image = file_of(Image.fromarray(numbers).convert("RGB"), exif=exif)
    wanted = decode_mask(file_of(Image.fromarray(numbers), exif=exif))
    same_tag = read_mask({"image": image, "label": file_of(Image.fromarray(numbers), exif=exif)})
    assert same_tag.tolist() == wanted.tolist()
    as_stored = {"image": image, "label": file_of(Image.fromarray(numbers))}
    if orientation in (2, 3, 4):
        with pytest.raises(LabelError, match=f"EXIF orientation is {orientation}, its mask has none"):
            read_mask(as_stored)
        return
    assert read_mask(as_stored).tolist() == wanted.tolist()
    upright = {"image": image, "label": file_of(Image.fromarray(wanted.numpy().astype(np.uint8)))}
    assert read_mask(upright).tolist() == wanted.tolist()


def test_greys_of_classes_are_told_how_to_be_named():
    """0, 127, 255 for three classes: 127 is refused, and 255 would be ignored."""
    with pytest.raises(LabelError, match=r"holds 127 .* --label_colors 0 … 127"):
        check_mask(torch.tensor([[0, 127], [255, 0]]), (2, 2), 3)
