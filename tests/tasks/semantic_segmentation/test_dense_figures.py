"""The figure of examples: whose map is where, who can teach, and colours that stay apart."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from segmentation_peers import CLASSES, SIZE, tiny_segmenter
from transformers import SegformerImageProcessor

from hf_mutual_kd import Cohort, LoadedPeer, PeerSpec, SemanticSegmentation
from hf_mutual_kd.distillation.roles import NOBODY
from hf_mutual_kd.tasks.semantic_segmentation.figures import (
    CHUNK,
    NONE,
    OTHER,
    PALETTE,
    Example,
    class_colors,
    examples_figure,
    painted,
    read_examples,
    who_can_teach,
)
from hf_mutual_kd.tasks.semantic_segmentation.task import DenseOutput


def answer(logits):
    """What a per-pixel head says of one image."""
    return DenseOutput({"logits": logits}, "pixel", tuple(logits.shape[2:]), None)


def example(classes=3, height=8, width=10, peers=2, seed=0):
    """A made-up image whose first row of pixels does not count."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, (height, width))
    truth[0] = -1
    maps = rng.integers(0, classes, (2, peers, height, width))
    image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Example("sample 7", image, truth, maps[0], maps[1], rng.integers(-1, peers, (height, width)))


def test_who_gives_the_truth_more_can_teach():
    """A map of the most confident peer looks alike and says who is sure, not who is right."""
    sure = torch.tensor([9.0, 0.0])[None, :, None, None].expand(1, 2, 1, 4)
    unsure = torch.tensor([0.0, 0.5])[None, :, None, None].expand(1, 2, 1, 4)
    truth = torch.tensor([[0, 1, -1, 0]])
    teacher = who_can_teach([answer(sure), answer(unsure)], truth)
    assert teacher.tolist() == [[0, 1, NOBODY, 0]]
    assert who_can_teach([answer(sure), answer(sure)], truth).tolist() == [[NOBODY] * 4]


def test_rows_in_chunks_join_to_the_whole_map():
    """A seam, or a shifted row, at the border of two chunks."""
    height = 2 * CHUNK + 3
    generator = torch.Generator().manual_seed(0)
    peers = [answer(torch.randn(1, 4, height, 5, generator=generator)) for _ in range(3)]
    truth = torch.randint(0, 4, (height, 5), generator=generator)
    scores = torch.stack([peer.log_probs.gather(1, truth[None, None])[0, 0] for peer in peers])
    assert torch.equal(who_can_teach(peers, truth), scores.argmax(0))


def cohort(seed):
    processor = SegformerImageProcessor(size={"height": SIZE, "width": SIZE})
    peers = {
        name: LoadedPeer(tiny_segmenter(head, seed), processor, PeerSpec())
        for name, head in (("seg", "segformer"), ("m2f", "mask2former"))
    }
    return Cohort(peers, SemanticSegmentation(), label_names=CLASSES)


def test_rows_are_read_at_their_own_size_with_both_cohorts():
    """Maps of the trained peers on both sides, of another size than the picture, or a crash on a broken last image."""
    before, after = cohort(0), cohort(1)
    mask = np.full((40, 60), 2, np.uint8)
    mask[:5] = 255
    rows = [
        {"sample_id": 3, "image": Image.new("RGB", (60, 40), "green"), "label": Image.fromarray(mask)},
        {"sample_id": 4, "image": {"bytes": b"broken", "path": None}, "label": Image.fromarray(mask)},
    ]
    (found,) = read_examples(before, after, rows)
    assert (found.name, found.image.shape) == ("sample 3", (40, 60, 3))
    assert (found.truth[:5] == -1).all()
    assert (found.truth[5:] == 2).all()
    assert (found.teacher[:5] == NOBODY).all()
    assert set(np.unique(found.teacher[5:])) <= {NOBODY, 0, 1}
    (same,) = read_examples(before, before, rows[:1])
    assert np.array_equal(same.before, same.after)
    assert np.array_equal(same.before, found.before)
    assert not np.array_equal(found.before, found.after)
    assert found.before.shape == found.after.shape == (2, 40, 60)


def test_the_task_draws_into_the_path(tmp_path):
    """A figure that nobody draws, or a file without one where no image can be read."""
    peers, task = cohort(0), SemanticSegmentation()
    row = {"sample_id": 0, "image": Image.new("RGB", (30, 20)), "label": np.zeros((20, 30), np.uint8)}
    task.examples(peers, peers, [row], tmp_path / "examples.png")
    assert Image.open(tmp_path / "examples.png").format == "PNG"
    task.examples(peers, peers, [row | {"image": {"bytes": b"", "path": None}}], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_every_id_has_its_colour_and_none_has_the_empty_one():
    """Ignored pixels in the colour of class 255, or of the last class."""
    colours = painted(np.array([[0, 1], [-1, 2]]), {0: "#010203", 1: "#040506"})
    assert colours.tolist() == [[[1, 2, 3], [4, 5, 6]], [list(bytes.fromhex(NONE[1:]))] * 2]


def test_a_class_keeps_its_colour_and_the_rarest_of_many_share_one():
    """Water that is blue in one figure and red in the next; 150 classes of which two look alike."""
    assert class_colors([example(3)], 17) == {0: PALETTE[0], 1: PALETTE[1], 2: PALETTE[2]}
    many = example(60, 40, 40)
    colours = class_colors([many], 150)
    assert len(colours) == 60
    assert sorted(colours.values())[-20:] != [OTHER] * 20
    assert sum(colour == OTHER for colour in colours.values()) == 60 - len(PALETTE)
    counts = np.bincount(np.concatenate([many.truth[1:].ravel(), many.before.ravel(), many.after.ravel()]))
    assert min(counts[i] for i in colours if colours[i] != OTHER) >= max(
        counts[i] for i in colours if colours[i] == OTHER
    )


@pytest.mark.parametrize("peers", [1, 4])
def test_the_figure_is_the_same_for_the_same_arrays_and_takes_any_name(peers):
    """A push that commits a figure anew each time; a class called `$x` that ends a run in a parser's error."""
    names = ["$\\frac{$", "_hidden", "a" * 200]
    drawn = [
        examples_figure([example(peers=peers, seed=seed) for seed in (0, 1)], list("abcd")[:peers], names)
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    width, height = Image.open(io.BytesIO(drawn[0])).size
    assert width > 500
    assert height > 250


def test_no_two_colours_are_closer_than_two_of_okabe_and_ito():
    """A palette that grew by a colour that some readers cannot tell from another."""
    # Machado et al. 2009, severity 1, of linear RGB; OKLab by Ottosson 2020.
    eyes = [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
    to_lms = np.array(
        [
            [0.41222147, 0.53633254, 0.05144599],
            [0.2119035, 0.68069955, 0.10739696],
            [0.08830246, 0.28171884, 0.62997870],
        ]
    )
    to_lab = np.array(
        [
            [0.21045426, 0.79361779, -0.00407205],
            [1.9779985, -2.42859221, 0.45059371],
            [0.02590404, 0.78277177, -0.80867577],
        ]
    )
    rgb = np.array([list(bytes.fromhex(colour[1:])) for colour in PALETTE]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = [np.cbrt(np.clip(linear @ np.array(eye).T, 0, 1) @ to_lms.T) @ to_lab.T for eye in eyes]
    apart = np.min([np.linalg.norm(lab[:, None] - lab[None], axis=2) for lab in seen], axis=0) + 9 * np.eye(len(rgb))
    assert apart.min() >= apart[:7, :7].min()
