"""One view for all peers, whoever draws it, and shared tensors that stay shared."""

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from conftest import draw, tiny_processor
from PIL import Image
from torch.utils.data._utils.pin_memory import pin_memory

from hf_mutual_kd import PeerError, SharedView
from hf_mutual_kd.data.processors import PeerInputs, PeerProcessors


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))


def test_draw_depends_on_seed_epoch_and_sample_alone(image):
    """A draw that follows the global generator differs between workers, processes and resumed runs."""
    view = SharedView(color_jitter=0.4, seed=1)
    first = view(image, sample_id=5, epoch=2).tobytes()
    torch.manual_seed(123)
    torch.rand(7)
    assert SharedView(color_jitter=0.4, seed=1)(image, sample_id=5, epoch=2).tobytes() == first


@pytest.mark.parametrize("min_area", [0.1, 0.6, 1.0])
@pytest.mark.parametrize("shape", [1.0, 4 / 3, 9.0])
def test_no_crop_is_smaller_than_a_processor_resizes(min_area, shape):
    """Of a photograph that is decoded at too small a size some draws alone are blurred."""
    view = SharedView(min_area=min_area, flip=False)
    shorter = view.least_side(50)
    photograph = Image.new("RGB", (round(shorter * shape), shorter))
    sides = [min(view(photograph, sample, 0).size) for sample in range(300)]
    assert min(sides) >= 50
    assert min(sides) <= 60 or shape > 2


def test_draws_differ_over_samples_epochs_and_seeds(image):
    """One draw for all samples or epochs is no augmentation."""
    draws = {
        SharedView(min_area=0.2, seed=seed)(image, sample, epoch).tobytes()
        for seed in range(2)
        for sample in (0, 1, 2**62 + 3, 2**63 - 1)
        for epoch in range(4)
    }
    assert len(draws) == 32


def test_generators_of_the_process_are_untouched(image, monkeypatch):
    """A view that moves the CPU's or a GPU's generator would change dropout, and what a resumed run draws."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    state = torch.get_rng_state()
    SharedView(color_jitter=0.5)(image, 3, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert seeded == []


def test_crop_keeps_its_share_of_the_image(image):
    """A crop below the smallest share can lose the object."""
    view = SharedView(min_area=0.6, flip=False)
    shares = [np.prod(view(image, sample, 0).size) / (120 * 160) for sample in range(50)]
    assert 0.55 < min(shares) < max(shares) <= 1
    assert len(set(shares)) > 20


def test_half_of_the_images_are_mirrored():
    """A flip that never or always happens."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = 255
    left = Image.fromarray(pixels)
    flipped = sum(np.asarray(SharedView(min_area=1.0)(left, sample, 0))[0, 0, 0] == 0 for sample in range(200))
    assert 70 < flipped < 130


def test_equal_processors_run_once():
    """Peers whose processors agree must not cost a second resize, and others must not share."""
    calls = []

    def plain(images):
        calls.append(len(images))
        return {"pixel_values": torch.zeros(len(images), 1)}

    processors = {"a": tiny_processor(), "b": tiny_processor(0.1), "c": tiny_processor(), "d": plain, "e": plain}
    made = PeerProcessors(processors)([draw(0, np.random.default_rng(0))] * 2)
    assert list(made) == list("abcde")
    assert made["a"]["pixel_values"] is made["c"]["pixel_values"]
    assert made["d"]["pixel_values"] is made["e"]["pixel_values"]
    assert not torch.equal(made["a"]["pixel_values"], made["b"]["pixel_values"])
    assert calls == [2]


def test_missing_processor_is_refused_at_the_start():
    """`'NoneType' object is not callable` from a worker process says nothing."""
    with pytest.raises(PeerError, match="peer 'vit' has no image processor; give PeerSpec"):
        PeerProcessors({"vit": None})


def inputs():
    shared, own = torch.arange(6.0), torch.ones(2)
    return PeerInputs({"a": {"x": shared}, "b": {"x": shared}, "c": {"x": own, "y": shared}})


def is_shared(moved):
    assert isinstance(moved, PeerInputs)
    assert moved["a"]["x"] is moved["b"]["x"] is moved["c"]["y"]
    assert moved["c"]["x"] is not moved["a"]["x"]


def test_moving_keeps_what_is_shared():
    """A second copy per peer doubles transfer and memory without any error."""
    moved = send_to_device({"peer_inputs": inputs(), "labels": torch.zeros(2)}, "meta")
    is_shared(moved["peer_inputs"])
    assert moved["peer_inputs"]["a"]["x"].device.type == "meta"
    is_shared(inputs().to("meta"))
    is_shared(inputs().to("cpu"))


def test_pinning_keeps_what_is_shared(monkeypatch):
    """Data loaders pin every tensor they find; the shared one would be pinned, and then moved, once per peer."""
    if pin_memory(type("Asked", (dict,), {"pin_memory": lambda self: "asked"})()) != "asked":
        pytest.skip("this torch pins what mappings hold, and asks only what is none")
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *device: pinned.append(tensor) or tensor.clone())
    is_shared(pin_memory({"peer_inputs": inputs(), "labels": torch.zeros(1)})["peer_inputs"])
    assert len(pinned) == 3
