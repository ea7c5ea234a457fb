"""Batch norms after global pooling: one row in a batch gives them one value per channel."""

import copy

import pytest
import torch
import transformers as hf
from conftest import LABELS, tiny_processor
from distributed_run import Pooled
from segmentation_peers import CLASSES, SIZE, tiny_segmenter

from hf_mutual_kd import Cohort, LoadedPeer, PeerSpec
from hf_mutual_kd.peers.batch_norms import batch_norms, rest_on_single_values


def levit():
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    small = {"num_attention_heads": [1] * 3, "depths": [1] * 3, "key_dim": [8] * 3, "hidden_sizes": [16] * 3}
    return hf.LevitForImageClassification(
        hf.LevitConfig(image_size=64, attention_ratio=[1] * 3, mlp_ratio=[1] * 3, **small, **labels)
    )


def of_timm(name):
    """A model of timm, with an attention over what it has pooled."""
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    shown = {"num_classes": 3, "input_size": [3, SIZE, SIZE], "mean": [0.5] * 3, "std": [0.5] * 3}
    return hf.TimmWrapperForImageClassification(
        hf.TimmWrapperConfig(architecture=name, pretrained_cfg=shown, **labels)
    )


CLASSIFIERS = {
    "pooled": Pooled,
    "levit": levit,
    "skresnet": lambda: of_timm("skresnet18"),
    "resnest": lambda: of_timm("resnest14d"),
}


def cohort_of(kind, **kwargs):
    torch.manual_seed(0)
    if kind in CLASSIFIERS:
        model, task, names = CLASSIFIERS[kind](), "image-classification", LABELS
    else:
        model, task, names = tiny_segmenter(kind), "semantic-segmentation", CLASSES
    return Cohort({"a": LoadedPeer(model, tiny_processor(), PeerSpec("a", **kwargs))}, task, label_names=names)


def step(cohort, rows):
    pixels = torch.randn(rows, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(rows))
    if cohort.task.name == "image-classification":
        labels, inputs = torch.arange(rows) % 3, {"pixel_values": pixels}
    else:
        labels = torch.randint(0, 5, (rows, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
        inputs = {"pixel_values": pixels, "valid_sizes": torch.tensor([[SIZE, SIZE]] * rows)}
    loss = cohort.train()(peer_inputs={"a": inputs}, labels=labels).loss
    loss.backward()
    return loss


@pytest.mark.parametrize("kind", [*CLASSIFIERS, "beit", "mobilenet_v2", "mobilevit", "upernet"])
def test_one_row_is_a_batch(kind):
    """The last row of an epoch ends a training of hours: `Expected more than 1 value per channel`."""
    cohort = cohort_of(kind)
    layers = batch_norms(cohort.peers["a"])
    assert torch.isfinite(step(cohort, 1))
    assert all(layer.training for layer in layers), "only that one batch rests"
    counted = [int(layer.num_batches_tracked) for layer in layers]
    assert set(counted) <= {0, 1}, "the batch is counted once"
    assert 0 in counted, "no layer met a single value, so the case shows nothing"
    step(cohort, 2)
    assert [int(layer.num_batches_tracked) for layer in layers] == [count + 1 for count in counted]


def test_statistics_at_rest_are_those_of_evaluation():
    """Statistics of a single value would replace what many batches have found."""
    cohort = cohort_of("pooled")
    for _ in range(3):
        step(cohort, 4)
    last = cohort.peers["a"].head[0]
    kept = copy.deepcopy(last.state_dict())
    seen = []
    last.register_forward_hook(lambda layer, given, output: seen.append((given[0], output)))
    step(cohort, 1)
    torch.testing.assert_close(last.state_dict(), kept)
    given, output = seen[0]
    torch.testing.assert_close(output, copy.deepcopy(last).eval()(given))


def test_recomputed_and_copied_peers_rest_alike():
    """A recomputation, or a copy, that has no such layers raises where the first pass did not."""
    cohort = cohort_of("pooled")
    cohort.peer_checkpointing = True
    step(cohort, 1)
    step(cohort, 1)
    assert int(cohort.peers["a"].body[1].num_batches_tracked) == 2
    model = copy.deepcopy(cohort.peers["a"]).train()
    rest_on_single_values(model)
    assert len(model.head[0]._forward_pre_hooks) == 1
    model(torch.randn(1, 3, 8, 8))


def test_it_is_told_once(caplog):
    """A line per step drowns the log, none hides it."""
    hf.utils.logging.warning_once.cache_clear()
    cohort = cohort_of("pooled")
    step(cohort, 1)
    step(cohort, 1)
    assert sum("after global pooling" in record.message for record in caplog.records) == 1
