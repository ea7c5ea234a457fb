"""The shared view of an image and its mask: one geometry for both, a pure function of seed, epoch and sample."""

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from hf_mutual_kd import IGNORE, ConfigError, SegmentationOptions, SemanticSegmentation
from hf_mutual_kd.tasks.semantic_segmentation.view import NEUTRAL, DenseView


def scene(height: int = 40, width: int = 60) -> tuple[Image.Image, torch.Tensor]:
    """A slope: the image's red and the mask are x + 2 y."""
    y, x = np.mgrid[:height, :width]
    slope = x + 2 * y
    return Image.fromarray(np.stack([slope, slope * 0, slope * 0 + 50], -1).astype(np.uint8)), torch.from_numpy(slope)


@pytest.mark.parametrize("tensor", [False, True], ids=["pil", "tensor"])
def test_image_and_mask_stay_together(tensor):
    """A mask that is flipped, cropped or scaled otherwise than its image trains without an error."""
    image, mask = scene()
    view = DenseView(32, seed=3)
    flipped = padded = 0
    for sample in range(40):
        given = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) if tensor else image
        seen, labels = view(given, mask, sample, 0)
        if tensor:
            seen = Image.fromarray(seen.permute(1, 2, 0).numpy())
        assert (seen.height, seen.width) == tuple(labels.shape) == (32, 32)
        red = torch.from_numpy(np.asarray(seen)[..., 0].astype(int))
        assert (red - labels).abs()[labels != IGNORE].max() <= 4
        padded += bool((labels == IGNORE).any())
        row = labels[0][labels[0] != IGNORE]
        flipped += bool(row[0] > row[-1])
    assert 10 < flipped < 30
    assert 3 < padded < 37


def test_one_size_without_scaling_is_a_plain_crop():
    """At factor 1 and the crop's own size nothing may be resampled."""
    image, mask = scene(40, 40)
    seen, labels = DenseView(40, scale=(1.0, 1.0), flip=False)(image, mask, 5, 1)
    assert seen.tobytes() == image.tobytes()
    assert torch.equal(labels, mask)


def test_padding_is_neutral_and_ignored():
    """Padding that is black, or class 0, teaches that black is class 0."""
    image, mask = scene()
    seen, labels = DenseView(32, scale=(0.5, 0.5), flip=False, color_jitter=0.5)(image, mask, 0, 0)
    pixels = torch.from_numpy(np.asarray(seen).copy())
    assert (labels[:16, :24] != IGNORE).all()
    assert (labels[16:] == IGNORE).all()
    assert (labels[:, 24:] == IGNORE).all()
    assert (pixels[labels == IGNORE] == torch.tensor(NEUTRAL)).all()


def test_the_view_depends_on_seed_epoch_and_sample_alone():
    """A draw from the process's own generator differs between workers, and moves everything that is drawn after."""
    image, mask = scene()
    before = torch.random.get_rng_state()
    first = DenseView(32, color_jitter=0.4, seed=1)(image, mask, 5, 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    again = DenseView(32, color_jitter=0.4, seed=1)(image, mask, 5, 2)
    assert again[0].tobytes() == first[0].tobytes()
    assert torch.equal(again[1], first[1])
    for seed, sample, epoch in ((2, 5, 2), (1, 6, 2), (1, 5, 3)):
        other = DenseView(32, color_jitter=0.4, seed=seed)(image, mask, sample, epoch)
        assert other[0].tobytes() != first[0].tobytes()


def test_scales_cover_their_range():
    """A factor that is always 1 never shows an object smaller or larger than it was."""
    image, mask = scene(40, 40)
    view = DenseView(40, flip=False, seed=0)
    shares = torch.tensor([(view(image, mask, sample, 0)[1] != IGNORE).float().mean() for sample in range(60)])
    assert shares.min() < 0.4
    assert (shares == 1).sum() > 20
    spans = [(row := view(image, mask, sample, 0)[1][0])[row != IGNORE].max() - row.min() for sample in range(60)]
    assert min(spans) < 24
    assert max(spans) == 39


def test_crop_size_follows_the_peers():
    """A crop smaller than what a peer looks at is blown up, and learned at a size it never meets."""
    processors = {
        "a": hf.SegformerImageProcessor(size={"height": 256, "width": 384}),
        "b": hf.Mask2FormerImageProcessor(size={"shortest_edge": 320, "longest_edge": 2048}),
        "c": lambda images: images,
    }
    view = DenseView.from_options(SegmentationOptions(color_jitter=0.2), processors, seed=4)
    assert (view.crop, view.scale, view.seed) == (384, (0.5, 2.0), 4)
    assert DenseView.from_options(SegmentationOptions(), {"c": processors["c"]}, 0).crop == 512
    options = SegmentationOptions(crop_size=64, scale_range=[1.0, 1.5])
    assert DenseView.from_options(options, processors, 0).crop == 64
    wrong_ranges = ([2.0, 0.5], [1.0], [0.0, 1.0], [0.5, 1000.0])
    for wrong in ({"crop_size": 0}, {"crop_size": 1_000_000}, *({"scale_range": ends} for ends in wrong_ranges)):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SemanticSegmentation(**wrong)
