"""Streaming metrics: values by hand, batches against the whole, and nothing on disk."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import torch

from hf_mutual_kd import DataError
from hf_mutual_kd.tasks.classification.metrics import Agreement, Flips, Mean, TopK

RANKED = [[2, 0, 1], [1, 2, 0], [0, 1, 2], [2, 1, 0]]
LABELS = [2, 2, 2, -1]


@pytest.mark.parametrize(
    ("metric", "predictions", "references", "expected"),
    [
        (TopK(1), RANKED, LABELS, {"accuracy": 1 / 3}),
        (TopK(2), RANKED, LABELS, {"accuracy": 2 / 3}),
        (TopK(5), RANKED, LABELS, {"accuracy": 1.0}),
        (TopK(1), [1, 0], [1, 1], {"accuracy": 0.5}),
        (TopK(1), [[0.1, 0.9], [0.9, 0.1]], [1, 1], {"accuracy": 0.5}),
        (Mean(), [1.0, 2.0, 6.0], None, {"mean": 3.0}),
        (Mean(), [True, False], None, {"mean": 0.5}),
        (Agreement(), [1, 2, 3, 4], [1, 2, 0, 0], {"agreement": 0.5}),
        (
            Flips(),
            [True, True, False, True],
            [False, True, True, True],
            {"positive_flips": 0.25, "negative_flips": 0.25, "positive_flips_count": 1, "negative_flips_count": 1},
        ),
    ],
)
def test_values_by_hand(metric, predictions, references, expected):
    """Positive and negative flips are easily swapped, and labels of -1 easily counted."""
    assert metric.compute(predictions=predictions, references=references) == pytest.approx(expected)


def test_ties_and_nan_are_not_right_by_accident():
    """A peer that gives the same logit to all classes, or NaN, must not reach 100 %."""
    assert TopK(1).compute(predictions=torch.zeros(4, 4), references=torch.arange(4)) == {"accuracy": 0.25}
    assert TopK(1).compute(predictions=torch.full((2, 3), math.nan), references=[0, 1]) == {"accuracy": 0.0}
    assert math.isnan(Mean().compute(predictions=[1.0, math.nan])["mean"])


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, list])
def test_batches_equal_the_whole_and_states_merge(kind):
    """A mean of batch means is wrong for a short last batch, and processes see different numbers of samples."""
    ranked, labels = np.random.default_rng(0).integers(0, 3, (23, 2)), np.random.default_rng(1).integers(-1, 3, 23)
    whole = TopK(1).compute(predictions=ranked, references=labels)
    first, second = TopK(1), TopK(1)
    for start, stop, metric in ((0, 10, first), (10, 20, second), (20, 23, first)):
        metric.add_batch(predictions=kind(ranked[start:stop].tolist()), references=kind(labels[start:stop].tolist()))
    assert len(first) + len(second) == (labels >= 0).sum()
    first.merge(second.state())
    assert first.compute() == whole
    assert first.compute() == {}
    with pytest.raises(DataError, match="state of"):
        first.merge(Mean().state())


def test_one_by_one_equals_a_batch():
    """`add` of the base class would open a cache file."""
    metric = Agreement()
    for prediction, reference in ((1, 1), (2, 0)):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute() == {"agreement": 0.5}


def test_instances_share_nothing_and_are_evaluate_metrics():
    """One metric per peer lives at a time; shared sums would mix the peers."""
    first, second = TopK(1), TopK(1)
    first.add_batch(predictions=[0], references=[0])
    twin = copy.deepcopy(first)
    twin.add_batch(predictions=[1], references=[0])
    assert isinstance(first, evaluate.Metric)
    assert (len(first), len(second), len(twin)) == (1, 0, 2)
    assert twin.compute() == {"accuracy": 0.5}
    assert first.compute() == {"accuracy": 1.0}


def test_nothing_is_written_and_no_network_is_needed(tmp_path):
    """`evaluate.load` fetches code at run time, and the base class makes folders in the home."""
    code = (
        "from hf_mutual_kd.tasks.classification.metrics import TopK\n"
        "metric = TopK(1)\n"
        "metric.add_batch(predictions=[0, 1], references=[0, 0])\n"
        "print(metric.compute())"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'accuracy': 0.5}"
    assert not list(tmp_path.rglob("metrics"))
    assert not list(tmp_path.rglob("*.arrow"))


@pytest.mark.parametrize(
    ("metric", "inputs"),
    [
        (TopK(1), {"predictions": [0, 1], "references": [0]}),
        (TopK(1), {"predictions": [0, 1]}),
        (Mean(), {"predictions": [0.0], "references": [0]}),
        (Mean(), {"predictions": [[0.0]]}),
        (Mean(), {"predictions": 1.0}),
        (Agreement(), {"references": [0]}),
        (Flips(), {"predictions": [True], "references": [True], "weights": [1]}),
    ],
)
def test_inputs_that_do_not_fit_are_refused(metric, inputs):
    """Broadcasting `[B]` against `[1]` gives a plausible share."""
    with pytest.raises(DataError):
        metric.add_batch(**inputs)
    assert metric.compute() == {}


def test_k_must_be_positive():
    """k=0 would report 0 for every peer."""
    with pytest.raises(DataError, match="k must be 1 or more"):
        TopK(0)
