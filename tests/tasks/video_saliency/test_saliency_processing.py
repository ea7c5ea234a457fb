"""Frames to tensors and log-densities to maps."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_mutual_kd import VideoSaliencyConfig, VideoSaliencyProcessor


def frames(count=3, height=20, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_every_form_of_a_clip_gives_the_same_tensor():
    """Channels last read as channels first, or one clip read as a batch, would train on scrambled pixels."""
    processor = VideoSaliencyProcessor(image_size=(16, 24))
    clip = frames()
    expected = processor(clip)["pixel_values"]
    assert expected.shape == (1, 3, 3, 16, 24)
    forms = (list(clip), [Image.fromarray(one) for one in clip], torch.from_numpy(clip), [clip], clip[None])
    for form in forms:
        torch.testing.assert_close(processor(form)["pixel_values"], expected)
    assert processor([clip, frames(seed=1)])["pixel_values"].shape == (2, 3, 3, 16, 24)
    assert isinstance(processor(clip, return_tensors="np")["pixel_values"], np.ndarray)


def test_own_mean_and_deviation():
    """Another model's statistics would shift every input without an error."""
    processor = VideoSaliencyProcessor(image_size=(1, 1), image_mean=[0.0, 0.5, 1.0], image_std=[1.0, 0.5, 0.25])
    white = np.full((1, 1, 1, 3), 255, np.uint8)
    assert processor(white)["pixel_values"].flatten().tolist() == [1.0, 1.0, 0.0]


def test_shrinking_averages():
    """Without a low-pass filter fine stripes become whatever the sampling hits."""
    stripes = np.zeros((1, 4, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255
    small = VideoSaliencyProcessor(image_size=(4, 8), image_mean=[0.0] * 3, image_std=[1.0] * 3)(stripes)
    assert (small["pixel_values"] - 0.5).abs().max() < 0.05


REFUSED = [
    ([], "none"),
    ([frames(2), frames(3)], "2, 3 frames"),
    (frames().astype(np.float32), "RGB bytes"),
    (frames()[..., :1], "RGB bytes"),
    (frames()[0], r"\[T, H, W, 3\]"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_is_no_clip_is_refused(given, message):
    """Floats in 0 to 1 divided by 255 again are black to the model."""
    with pytest.raises(ValueError, match=message):
        VideoSaliencyProcessor()(given)


def test_impossible_settings_are_refused():
    """A deviation of 0 makes every pixel infinite."""
    with pytest.raises(ValueError, match="image_std"):
        VideoSaliencyProcessor(image_std=[0.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="image_size"):
        VideoSaliencyProcessor(image_size=(224,))


def test_the_density_is_resampled_not_its_logarithm():
    """Interpolated logits are geometric means: a sharp peak beside nothing would lose its shoulder."""
    processor = VideoSaliencyProcessor()
    logits = torch.tensor([[0.0, -200.0]])
    density = processor.post_process(logits, (1, 4), kind="density")
    torch.testing.assert_close(density, torch.tensor([[0.5, 0.375, 0.125, 0.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(processor.post_process(logits, (1, 4)), density / density.max(), atol=1e-6, rtol=0)
    torch.testing.assert_close(processor.post_process(logits, kind="log_density").exp(), torch.tensor([[1.0, 0.0]]))
    with pytest.raises(ValueError, match="kind must be"):
        processor.post_process(logits, kind="heat")


def test_grey_values_use_the_whole_range():
    """Densities of 1e-5 written as bytes are black; a blank map divided by its peak is NaN."""
    processor = VideoSaliencyProcessor()
    maps = np.array([[[0.0, 1e-5]], [[0.0, 0.0]]])
    assert processor.to_integers(maps).tolist() == [[[0, 255]], [[0, 0]]]
    deep = processor.to_integers(maps, bits=16)
    assert deep.dtype == np.uint16
    assert deep.max() == 65535
    with pytest.raises(ValueError, match="8 or 16"):
        processor.to_integers(maps, bits=12)


def test_saved_settings_come_back(tmp_path):
    """A size that is lost on saving falls back to the default and halves the accuracy unnoticed."""
    config = VideoSaliencyConfig(image_size=(112, 192), num_frames=8, frame_stride=2, target="center")
    processor = VideoSaliencyProcessor.for_model(config, image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained(tmp_path)
    loaded = VideoSaliencyProcessor.from_pretrained(tmp_path)
    for name in ("image_size", "image_mean", "image_std", "num_frames", "frame_stride", "target"):
        assert getattr(loaded, name) == getattr(processor, name), name
