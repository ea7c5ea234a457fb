"""Peers whose processor or configuration cannot work are named before anything is trained or written."""

import copy
import json

import pytest
import torch
from conftest import LABELS, make_rows, tiny_processor, tiny_vit
from segmentation_peers import CLASSES, SIZE, tiny_segmenter
from segmentation_run import segmentation_rows
from torch import nn
from transformers import SegformerImageProcessor

from hf_mutual_kd import Cohort, LoadedPeer, PeerError, PeerSpec
from hf_mutual_kd.peers.first_look import look_at_rows
from hf_mutual_kd.peers.loading import save_peer


def cohort_with(processor=None, model=None):
    good = LoadedPeer(tiny_vit(), tiny_processor(), PeerSpec("good"))
    odd = LoadedPeer(model or tiny_vit(), processor or tiny_processor(), PeerSpec("odd"))
    return Cohort({"good": good, "odd": odd}, label_names=LABELS)


def changed(**settings):
    processor = copy.deepcopy(tiny_processor())
    for key, value in settings.items():
        setattr(processor, key, value)
    return processor


class Broken(nn.Linear):
    """Fails, or answers what is no number."""

    def __init__(self, answer):
        super().__init__(1, 1)
        self.answer = answer

    def forward(self, pixel_values):
        if self.answer is None:
            raise ZeroDivisionError
        return torch.full((len(pixel_values), len(LABELS)), self.answer)


ODD = {
    "a size that the model does not take": (cohort_with, {"processor": changed(size={"height": 20, "width": 24})}),
    "a mean of two channels": (cohort_with, {"processor": changed(image_mean=[0.5, 0.5])}),
    "a deviation of 0": (cohort_with, {"processor": changed(image_std=[0.0, 0.0, 0.0])}),
    "a mean that is a text": (cohort_with, {"processor": changed(image_mean="0.5")}),
    "a model that fails": (cohort_with, {"model": Broken(None)}),
    "a model that answers NaN": (cohort_with, {"model": Broken(float("nan"))}),
}


@pytest.mark.parametrize("case", ODD)
def test_the_peer_is_named(case):
    """A traceback out of an image library, after the old run was deleted, says nothing of the peer."""
    make, settings = ODD[case]
    cohort = make(**settings).train()
    rows = make_rows(3)
    drawn = torch.random.get_rng_state()
    with pytest.raises(PeerError, match="peer 'odd' .*row of validation"):
        look_at_rows(cohort, {"validation": rows})
    assert cohort.training
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_good_peers_pass_and_broken_rows_are_passed_over():
    """What is wrong with a row is said where rows are checked."""
    rows = make_rows(3)
    cells = [{"bytes": b"x", "path": None}, *rows["image"][1:]]
    odd = rows.remove_columns("image").add_column("image", cells)
    look_at_rows(cohort_with(), {"train": odd, "validation": rows, "test": rows.to_iterable_dataset()})
    look_at_rows(cohort_with(), {"train": odd.select([0])})


def test_segmenters_are_looked_at_with_masks():
    """Grids and labels that do not fit each other show only in the loss."""
    size = {"height": SIZE, "width": SIZE}
    good = LoadedPeer(tiny_segmenter("segformer"), SegformerImageProcessor(size=size), PeerSpec("good"))
    processor = SegformerImageProcessor(size=size, image_mean=[0.5, 0.5])
    odd = LoadedPeer(tiny_segmenter("segformer"), processor, PeerSpec("odd"))
    rows = segmentation_rows(2)
    look_at_rows(Cohort({"good": good}, "semantic-segmentation", label_names=CLASSES), {"train": rows})
    with pytest.raises(PeerError, match="peer 'odd' cannot work on a row of train"):
        look_at_rows(Cohort({"odd": odd}, "semantic-segmentation", label_names=CLASSES), {"train": rows})


def test_a_run_writes_nothing_before(tmp_path):
    """The folder of an earlier run is replaced for a peer that cannot work."""
    from conftest import write_place

    from hf_mutual_kd.cli import main as cli

    place = write_place(tmp_path / "place", 6, 6, 6)
    save_peer(tiny_vit(), tiny_processor(), place / "odd", None)
    path = place / "odd" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": {"height": 20, "width": 24}}))
    words = ["--peers", f"a={place / 'vit'}", f"odd={place / 'odd'}", "--dataset", str(place / "data")]
    assert cli.main(["score", *words, "--out", str(tmp_path / "table"), "--use_cpu"]) == 2
    assert not (tmp_path / "table").exists()
