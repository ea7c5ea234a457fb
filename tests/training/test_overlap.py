"""Cohorts whose peers lack classes of the data set, from loading to results."""

import copy

import pytest
import torch
from conftest import LABELS, tiny_vit
from saliency_run import saliency_cohort
from segmentation_peers import CLASSES
from segmentation_run import segmentation_cohort, segmentation_rows
from task_run import SETTINGS, config_of
from torch.testing import assert_close

from hf_mutual_kd import (
    Cohort,
    ConfigError,
    LabelError,
    LoadedPeer,
    MeanRule,
    MutualKDConfig,
    MutualKDTrainer,
    Objective,
    PeerSpec,
)
from hf_mutual_kd.distillation.teacher_sources import FrozenSource

OWN = {
    "segformer": ["lava", "forest", "grass", "city", "ice"],
    "mask2former": ["water", "forest", "grass", "city", "sand"],
}
"""Each lacks the class that the other's first or last is, and knows one that nobody asks for."""


def renamed(model, labels):
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in enumerate(labels)}
    return model


def overlapping() -> Cohort:
    plain = segmentation_cohort()
    peers = {
        name: LoadedPeer(renamed(plain.peers[name], labels), plain.processors[name], PeerSpec(name))
        for name, labels in OWN.items()
    }
    return Cohort(peers, "semantic-segmentation", label_names=CLASSES, label_alignment="overlap")


def test_segmenters_teach_the_classes_that_both_know():
    """A gradient in a class that one of them lacks teaches it to say something else there."""
    cohort = overlapping().eval()
    assert cohort.known.tolist() == [[False, True, True, True, True], [True, True, True, True, False]]
    cohort.set_objective(Objective(MeanRule(), FrozenSource(), weight=1.0, unlabelled_rows=True))
    with torch.no_grad():
        for parameter in cohort.starts.parameters():
            parameter.mul_(3)
    collator = cohort.task.collator_class(cohort.processors)
    collator.label_names = CLASSES
    rows = [{"sample_id": index, **row} for index, row in enumerate(segmentation_rows(5))]
    batch = collator(rows)
    assert (batch["labels"][4] < 0).all()
    head = cohort.peers["segformer"].decode_head.classifier
    cohort(**batch, transfer_weight=1.0).transfer[0].backward()
    moved = head.bias.grad.abs()
    assert (moved[1:4] > 1e-6).all()
    # Of a start that is its own teacher all classes move; of the other one none that it lacks.
    alone = cohort(**batch, transfer_weight=1.0).outputs["segformer"].log_probs
    assert_close(alone.exp()[:, 0], torch.full_like(alone[:, 0], 1e-6), rtol=1e-3, atol=0)


def test_a_class_that_a_peer_lacks_is_ignored_by_its_loss():
    """Its own head has another class in that place, which would be trained on it."""
    cohort = overlapping().eval()
    collator = cohort.task.collator_class(cohort.processors)
    collator.label_names = CLASSES
    batch = collator([{"sample_id": 0, **segmentation_rows(1)[0]}])
    plain = segmentation_cohort().eval()
    plain.peers.load_state_dict(cohort.peers.state_dict())
    without = copy.deepcopy(batch)
    without["labels"] = without["labels"].masked_fill(without["labels"] == 0, 255)
    ours = cohort.outputs_of("segformer", batch["peer_inputs"]["segformer"], labels=batch["labels"])[1]
    theirs = plain.outputs_of("segformer", without["peer_inputs"]["segformer"], labels=without["labels"])[1]
    assert_close(ours, theirs)
    every = plain.outputs_of("segformer", batch["peer_inputs"]["segformer"], labels=batch["labels"])[1]
    assert (ours - every).abs() > 1e-5


def test_a_run_from_the_start_to_results(tmp_path):
    """Infinite losses of classes that a peer cannot say end in NaN long after the training."""
    cohort = overlapping()
    args = config_of(cohort, tmp_path, **SETTINGS | {"max_steps": 2, "crop_size": 64, "augment": False})
    trainer = MutualKDTrainer(cohort, args, segmentation_rows(8), segmentation_rows(5, 1))
    trainer.train()
    found = trainer.evaluate()
    assert all(torch.tensor(value).isfinite() for value in found.values())
    by_class = trainer.evaluations["eval"].end.evaluator.by_class()
    assert [by_class["segformer"][0], by_class["mask2former"][4]] == [0, 0]
    logged = next(entry for entry in trainer.state.log_history if "segformer/transfer" in entry)
    assert logged["segformer/transfer"] > 0 or logged["mask2former/transfer"] > 0


def test_classifiers_too_and_what_is_refused(tmp_path, train_rows):
    """Rows of a class that a peer lacks would train its head towards whatever has that number."""
    peers = {
        "a": LoadedPeer(renamed(tiny_vit(), [*LABELS[:2], "tree"]), None, PeerSpec("a")),
        "b": LoadedPeer(renamed(tiny_vit(), ["tree", *LABELS[1:]]), None, PeerSpec("b")),
    }
    with pytest.raises(LabelError, match="peer 'a' shares 1 of the 3 labels"):
        Cohort(peers, label_names=LABELS, label_alignment="overlap")
    peers["b"] = LoadedPeer(renamed(tiny_vit(), LABELS), None, PeerSpec("b"))
    cohort = Cohort(peers, label_names=LABELS, label_alignment="overlap")
    pixels = torch.randn(3, 3, 16, 16)
    inputs = {name: {"pixel_values": pixels} for name in cohort.names}
    losses = cohort.outputs_of("a", inputs["a"], labels=torch.tensor([0, 2, 1]))[1]
    assert (losses > 0).tolist() == [True, False, True]
    out = cohort(inputs, labels=torch.tensor([0, 2, 1]))
    assert out.loss.isfinite()
    for source, message in (("table", "'table' does not go"), ("live", "some lack some")):
        args = MutualKDConfig(
            str(tmp_path), score_table="x", teacher_source=source, augment=False, use_cpu=True, retain=False
        )
        with pytest.raises(ConfigError, match=message):
            MutualKDTrainer(cohort, args, train_rows)
    assert saliency_cohort().known is None
    assert Cohort({"a": peers["a"]}, label_names=LABELS, label_alignment="overlap").known is not None
