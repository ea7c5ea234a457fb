"""Label maps: read as they are stored, padded and resampled with their images, turned into what heads learn from."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hf_mutual_kd.data.masks import (
    IGNORE,
    OUTSIDE,
    REDUCE,
    UNLABELLED,
    UNREADABLE,
    check_mask,
    decode_mask,
    read_mask,
    reduce,
)
from hf_mutual_kd.errors import DataError, LabelError
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
        (file_of(Image.new("RGB", (4, 4))), "mode RGB holds colours, not class numbers; store one channel"),
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
