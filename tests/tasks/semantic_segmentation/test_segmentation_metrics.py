"""Scores of segmentation by hand, against sets of pixels, and over batches and processes."""

from __future__ import annotations

import copy

import evaluate
import numpy as np
import pytest
import torch

from hf_mutual_kd import ConfigError, DataError, LabelError, SegmentationScores
from hf_mutual_kd.tasks.semantic_segmentation.metrics import confusion_matrix


def maps_of(*shape, classes=5, ignored=0.2, seed=0):
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, classes, shape)
    guess = np.where(generator.random(shape) < 0.6, truth, generator.integers(0, classes, shape))
    return guess, np.where(generator.random(shape) < ignored, 255, truth)


def by_sets(guess, truth, classes, absent):
    """The definitions once more, class by class on sets of pixels."""
    keep = truth != 255
    guess, truth = guess[keep], truth[keep]
    ious, weights, accuracies = [], [], []
    for c in range(classes):
        both, either = ((guess == c) & (truth == c)).sum(), ((guess == c) | (truth == c)).sum()
        if (truth == c).any():
            accuracies.append(both / (truth == c).sum())
        if (truth == c).any() or (absent == "zero" and either):
            ious.append(both / either)
            weights.append((truth == c).mean())
    return {
        "mIoU": np.mean(ious),
        "fwIoU": np.dot(ious, weights),
        "mACC": np.mean(accuracies),
        "pACC": (guess == truth).mean(),
    }


@pytest.mark.parametrize(("absent", "expected"), [("skip", 0.75), ("zero", 0.5)])
def test_a_class_that_only_the_prediction_has(absent, expected):
    """`evaluate` says 0.50 and detectron2 0.75 here: mixing the two makes small sets incomparable."""
    metric = SegmentationScores(4, absent=absent)
    scores = metric.compute(predictions=[[0, 0], [1, 2]], references=[[0, 0], [1, 1]])
    assert scores["mIoU"] == expected
    assert (scores["fwIoU"], scores["mACC"], scores["pACC"]) == (0.75, 0.75, 0.75)
    assert scores["per_class_iou"] == [1.0, 0.5, None if absent == "skip" else 0.0, None]


def test_four_scores_by_hand():
    """Mean accuracy and pixel accuracy, and precision and recall, are easily swapped."""
    guess = [0, 0, 0, 1, 1, 0, 2, 0]
    truth = [0, 0, 0, 0, 1, 1, 2, 255]  # IoU 3/5, 1/3, 1; recall 3/4, 1/2, 1
    scores = SegmentationScores(3).compute(predictions=[guess], references=[truth])
    assert scores.pop("per_class_iou") == pytest.approx([3 / 5, 1 / 3, 1])
    assert scores == pytest.approx(
        {
            "mIoU": (3 / 5 + 1 / 3 + 1) / 3,
            "fwIoU": (4 * 3 / 5 + 2 / 3 + 1) / 7,
            "mACC": (3 / 4 + 1 / 2 + 1) / 3,
            "pACC": 5 / 7,
        }
    )


@pytest.mark.parametrize("absent", ["skip", "zero"])
@pytest.mark.parametrize("classes", [1, 5, 40])
def test_equals_the_definitions_on_sets(absent, classes):
    """A transposed confusion matrix keeps mIoU and pACC, and spoils the other two."""
    guess, truth = maps_of(3, 9, 7, classes=classes)
    scores = SegmentationScores(classes, absent=absent).compute(predictions=guess, references=truth)
    scores.pop("per_class_iou")
    assert scores == pytest.approx(by_sets(guess, truth, classes, absent))


def test_confusion_matrix_by_hand():
    """Row and column: entry [y, p] is truth y predicted as p; ignored pixels are in no entry."""
    found = confusion_matrix(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 255]), 2)
    assert torch.equal(found, torch.tensor([[1, 1], [0, 1]]))
    assert found.dtype == torch.int64
    assert torch.equal(
        confusion_matrix(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), 2), 0 * found
    )
    inside = confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 1]), 2, ignore_index=0)
    assert torch.equal(inside, torch.tensor([[0, 0], [0, 1]]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_small_integers_do_not_overflow(dtype):
    """`150 * label + prediction` in uint8 wraps around and still looks like a class."""
    guess, truth = maps_of(2, 20, 20, classes=150)
    found = SegmentationScores(150).compute(predictions=guess.astype(dtype), references=truth.astype(dtype))
    assert found == SegmentationScores(150).compute(predictions=guess, references=truth)


def test_batches_processes_and_sizes_equal_the_whole():
    """A mean of per-image scores is another number; processes see images of different sizes."""
    guess, truth = maps_of(6, 8, 8)
    whole = SegmentationScores(5).compute(predictions=guess, references=truth)
    first, second = SegmentationScores(5), SegmentationScores(5)
    first.add_batch(predictions=torch.as_tensor(guess[:3]), references=torch.as_tensor(truth[:3]))
    second.add_batch(predictions=[guess[3], guess[4, :5]], references=[truth[3], truth[4, :5]])
    second.add(prediction=guess[4, 5:], reference=truth[4, 5:])
    second.add_batch(predictions=guess[5:].tolist(), references=truth[5:].tolist())
    assert len(first) + len(second) == (truth != 255).sum()
    state = second.state()
    second.add_batch(predictions=guess, references=truth)
    first.merge(state)
    assert first.compute() == whole
    assert first.compute() == {}


def test_nothing_labelled_is_nothing_to_state():
    """0 / 0 would be NaN in a table, or a 0 that drags a mean down."""
    metric = SegmentationScores(3)
    assert metric.compute(predictions=[[0, 1]], references=[[255, 255]]) == {}
    assert len(metric) == 0


def test_instances_share_nothing_and_are_evaluate_metrics():
    """One metric per peer lives at a time; shared counts would mix the peers."""
    first, second = SegmentationScores(2), SegmentationScores(2)
    first.add_batch(predictions=[[0]], references=[[0]])
    twin = copy.deepcopy(first)
    twin.add_batch(predictions=[[1]], references=[[0]])
    assert isinstance(first, evaluate.Metric)
    assert (len(first), len(second), len(twin)) == (1, 0, 2)


@pytest.mark.parametrize("predicted", [-1, 3, 255])
def test_predictions_out_of_range_are_refused(predicted):
    """-1 or C would silently count for the class next door; then nothing of the batch may be counted."""
    metric = SegmentationScores(3)
    with pytest.raises(DataError, match=f"0 to 2, got .*{predicted}"):
        metric.add_batch(predictions=[np.array([[0]]), np.array([[predicted]])], references=[np.array([[0]])] * 2)
    assert len(metric) == 0


@pytest.mark.parametrize("label", [-1, 3, 254])
def test_labels_out_of_range_are_refused(label):
    """A label of C, from labels that were not reduced, would be taken for an ignored pixel."""
    with pytest.raises(LabelError, match=f"got {label}"):
        SegmentationScores(3).add_batch(predictions=[[0, 0]], references=[[0, label]])


@pytest.mark.parametrize(
    "inputs",
    [
        {"predictions": [[0, 1]], "references": [[0]]},
        {"predictions": [[0.0, 1.0]], "references": [[0, 1]]},
        {"predictions": [[0]]},
        {"references": [[0]]},
        {"predictions": [[0]], "references": [[0]], "weights": [1]},
        {"predictions": [np.zeros((1, 1), int)], "references": [np.zeros((1, 1), int)] * 2},
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs):
    """Logits in place of classes, or maps that broadcast, give plausible scores."""
    metric = SegmentationScores(2)
    with pytest.raises(DataError):
        metric.add_batch(**inputs)
    assert metric.compute() == {}


def test_options_and_states_that_do_not_fit_are_refused():
    """A misspelt choice would fall back to the other definition."""
    with pytest.raises(ConfigError, match="absent must be one of"):
        SegmentationScores(2, absent="nan")
    with pytest.raises(ConfigError, match="num_classes"):
        SegmentationScores(0)
    with pytest.raises(DataError, match="2 classes"):
        SegmentationScores(2).merge(SegmentationScores(3).state())
    with pytest.raises(DataError, match="state of"):
        SegmentationScores(2).merge({"count": 1.0})
