"""What every task answers, from one table of cases, and the figures of classification by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LABELS, tiny_vit
from torch import Tensor
from transformers import AutoConfig

from hf_mutual_kd import (
    TASKS,
    ConfigError,
    DataError,
    ImageClassification,
    SemanticSegmentation,
    Task,
    VideoSaliency,
    assign_roles,
)
from hf_mutual_kd.data.masks import UNLABELLED
from hf_mutual_kd.distillation.label_alignment import ClassColumns
from hf_mutual_kd.tasks.remembered_rows import RememberedRows

NAN = float("nan")


@dataclass(frozen=True)
class Case:
    """Two peers, four samples: the first is better on 0, the second on 1; 2 has no label, 3 is a tie."""

    task: Task
    logits: Tensor
    """`[N, B, C, ...]`"""
    labels: Tensor
    right: list[float]
    """Summed quality per peer over labelled samples."""
    scores: tuple[str, ...]
    inputs: Callable[[Tensor], dict[str, Tensor]] = lambda logits: {"pixel_values": logits}
    """What a peer is given that says `logits`."""

    def outputs(self, rows=slice(None)) -> list[Any]:
        return [self.task.outputs(say, self.inputs(peer[rows]), ClassColumns("a")) for peer in self.logits]

    def log_probs(self, logits: Tensor) -> list[Tensor]:
        answers = [self.task.outputs(say, self.inputs(peer), ClassColumns("a")) for peer in logits]
        return [self.task.logits(answer) for answer in answers]


def say(pixel_values: Tensor) -> Tensor:
    """A peer whose input is what it says."""
    return pixel_values


say.saliency_output = "log_density"

LOGITS = torch.tensor([[[3.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 2]], [[1.0, 0, 0], [0, 3, 0], [0, 0, 1], [0, 0, 2]]])
CASES = {
    **{
        f"{kind}-classification": Case(
            task=TASKS[f"{kind}-classification"](),
            logits=LOGITS,
            labels=torch.tensor([0, 1, -1, 0]),
            right=[2.0, 2.0],
            scores=("margin", "loss", "confidence"),
        )
        for kind in ("image", "text", "audio", "video")
    },
    **{
        f"multi-label-{kind}-classification": Case(
            task=TASKS[f"multi-label-{kind}-classification"](),
            logits=LOGITS,
            labels=torch.tensor([[1, 0, 0], [0, 1, 0], [-1, -1, -1], [1, 0, 0]]),
            right=[2.0 + 1 / 3, 2.0 + 1 / 3],
            scores=("margin", "loss", "confidence"),
        )
        for kind in ("image", "text", "audio")
    },
    "semantic-segmentation": Case(
        task=SemanticSegmentation(),
        logits=LOGITS[..., None, None].expand(-1, -1, -1, 2, 2),
        labels=torch.tensor([0, 1, UNLABELLED, 0])[:, None, None].expand(-1, 2, 2),
        right=[2.0, 2.0],
        scores=("loss",),
        inputs=lambda logits: {"pixel_values": logits, "valid_sizes": torch.tensor([[2, 2]] * len(logits))},
    ),
    "video-saliency": Case(
        task=VideoSaliency(),
        logits=LOGITS[..., None],
        labels=torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]])[:, None, :, None].expand(-1, 2, -1, -1),
        right=[1.5, 1.5],
        scores=("loss",),
    ),
}
case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_every_task_is_in_the_table():
    """A task without a row here is one that no test drives."""
    assert set(CASES) == set(TASKS)
    assert all(name == task.name == CASES[name].task.name for name, task in TASKS.items())


@case
def test_answers_are_taken_from_any_output(case):
    """Plain modules return tensors, Hub models objects."""

    def say_as_object(**inputs):
        return type("Output", (), {"logits": say(**inputs)})()

    inputs = case.inputs(case.logits[0])
    said = [case.task.logits(case.task.outputs(model, inputs, ClassColumns("a"))) for model in (say, say_as_object)]
    torch.testing.assert_close(said[0], said[1])
    assert len(said[0]) == len(case.labels)


@case
def test_scores_rank_the_peers(case):
    """A score that is upside down lets the worse peer teach."""
    labelled = case.task.labelled(case.labels)
    assert labelled.tolist() == [True, True, False, True]
    assert case.task.default_score in case.scores
    for kind in case.scores:
        log_probs = case.log_probs(case.logits.clone().requires_grad_())
        scores = case.task.scores(kind, log_probs, case.labels)
        assert scores.shape == (2, 4)
        assert scores.dtype == torch.float32
        assert not scores.requires_grad
        assert assign_roles(scores).tolist() == [0, 1, -1, -1]
        if kind in case.task.label_free_scores:
            torch.testing.assert_close(case.task.scores(kind, log_probs, None), scores)
        else:
            with pytest.raises(ConfigError, match="needs labels"):
                case.task.scores(kind, log_probs, None)


@case
def test_supervised_loss_leaves_unlabelled_units_out(case):
    """Loss or gradient of a unit without a label teaches class -1, or divides by it."""
    for dtype, smoothing in ((torch.float32, 0.0), (torch.bfloat16, 0.0), (torch.float32, 0.1)):
        logits = case.logits[0].to(dtype).requires_grad_()
        _, loss = case.task.supervised(say, case.inputs(logits), ClassColumns("a"), case.labels, smoothing)
        assert (loss.dtype, loss.shape) == (torch.float32, (4,))
        loss.sum().backward()
        without = ~case.task.labelled(case.labels)
        assert not loss[without].any()
        assert not logits.grad[without].any()
        assert loss[~without].all()
    assert case.task.quality(case.outputs(), case.labels).tolist() == pytest.approx(case.right, abs=1e-5)


@case
def test_evaluation_does_not_depend_on_batches(case):
    """A metric that is a mean of batch means changes with the batch size."""
    labels = case.labels.clamp_min(0)
    rows = torch.arange(4)
    results = []
    for size in (1, 3, 4):
        evaluator = case.task.evaluator(["a", "b"], 3)
        for start in range(0, 4, size):
            part = slice(start, start + size)
            evaluator.add(case.task.evaluation_facts(case.outputs(part), labels[part], rows[part]))
        results.append((evaluator.compute(), evaluator.by_class()))
    for result, by_class in results:
        assert by_class == results[0][1]
        assert case.task.metric in result["a"]
        for name, values in result.items():
            assert values == pytest.approx(results[0][0][name])
    with pytest.raises(DataError, match="no rows"):
        case.task.evaluator(["a"], 3).compute()


# Image classification


def evaluate(logits, labels, ids=None, start=None, classes=6):
    evaluator = ImageClassification().evaluator(["a", "b"], classes, start)
    ids = torch.arange(len(labels)) if ids is None else torch.tensor(ids)
    evaluator.add(ImageClassification().evaluation_facts(list(logits), torch.tensor(labels), ids))
    return evaluator


def one_hot(classes, height=3.0):
    """Logits that rank `classes` first and all others in their order."""
    return height * torch.eye(6)[torch.tensor(classes)] - 0.01 * torch.arange(6)


def test_figures_by_hand():
    """Ensemble, oracle and shares are what the pre-flight report advises by."""
    labels = [0, 1, 2, 3]
    a, b = one_hot([0, 1, 5, 5]), one_hot([0, 4, 2, 5], height=2.0)
    b[3, 3] = -9.0  # ranked last: not among the top 5
    evaluator = evaluate([a, b], labels)
    by_class, result = evaluator.by_class(), evaluator.compute()
    assert (result["a"]["accuracy"], result["b"]["accuracy"]) == (0.5, 0.5)
    assert (result["a"]["top5_accuracy"], result["b"]["top5_accuracy"]) == (1.0, 0.75)
    assert result["a"]["loss"] == pytest.approx(torch.nn.functional.cross_entropy(a, torch.tensor(labels)).item())
    # The surer peer decides the ensemble: classes 0, 1, 5, 5.
    assert result["cohort"] == {"ensemble_accuracy": 0.5, "oracle_accuracy": 0.75, "samples": 4}
    assert (result["a"]["agreement"], result["b"]["agreement"]) == (1.0, 0.5)
    assert (result["a"]["expected_share"], result["b"]["expected_share"]) == (0.75, 0.25)
    assert by_class == {"a": [1.0, 1.0, 0.0, 0.0, None, None], "b": [1.0, 0.0, 1.0, 0.0, None, None]}
    assert "positive_flips" not in result["a"]


def test_flips_are_looked_up_by_sample():
    """Flips by position would compare different samples, as soon as order or batches differ."""
    start = evaluate([one_hot([0, 5, 2, 5]), one_hot([0, 1, 2, 3])], [0, 1, 2, 3], ids=[70, 10, 50, 30])
    after = [one_hot([5, 3, 1, 0]), one_hot([2, 3, 1, 5])]
    end = evaluate(after, [2, 3, 1, 0], ids=[50, 30, 10, 70], start=start).compute()
    # a: 70 right → right, 10 wrong → right, 50 right → wrong, 30 wrong → right
    assert (end["a"]["positive_flips"], end["a"]["negative_flips"]) == (0.5, 0.25)
    assert (end["b"]["positive_flips"], end["b"]["negative_flips"]) == (0.0, 0.25)
    other = evaluate([one_hot([5]), one_hot([0])], [0], ids=[99], start=start).compute()
    assert "positive_flips" not in other["a"]
    assert evaluate([one_hot([5]), one_hot([0])], [0], start=ImageClassification().evaluator(["a", "b"], 6)).compute()


def test_broken_peer_is_wrong_and_stays_out_of_the_ensemble():
    """NaN logits have an argmax too, and would poison the mean of all peers."""
    broken = torch.full((3, 6), NAN)
    result = evaluate([broken, one_hot([0, 1, 5])], [0, 1, 2]).compute()
    assert (result["a"]["accuracy"], result["a"]["top5_accuracy"], result["a"]["expected_share"]) == (0.0, 0.0, 0.0)
    assert np.isnan(result["a"]["loss"])
    assert result["b"]["accuracy"] == pytest.approx(2 / 3)
    assert result["b"]["agreement"] == 1.0
    assert result["cohort"]["ensemble_accuracy"] == pytest.approx(2 / 3)
    assert result["b"]["expected_share"] == 1.0


def test_peers_that_are_all_broken_are_all_wrong():
    """The argmax of nothing but NaN is class 0, which is some samples' truth."""
    broken = torch.full((2, 6), NAN)
    result = evaluate([broken, broken], [0, 0]).compute()
    assert result["cohort"] == {"ensemble_accuracy": 0.0, "oracle_accuracy": 0.0, "samples": 2}


def test_rows_that_measure_need_a_label():
    """A row without a label counted as wrong lowers every peer's accuracy."""
    with pytest.raises(DataError, match="sample 8 of an evaluation split has no label"):
        evaluate([one_hot([0, 1]), one_hot([0, 1])], [0, -1], ids=[7, 8])


def test_fewer_than_five_classes():
    """`topk(5)` of three classes raises."""
    logits = torch.eye(3)
    assert evaluate([logits, logits], [0, 1, 2], classes=3).compute()["a"]["top5_accuracy"] == 1.0


@pytest.mark.parametrize("batches", [[[30, 10, 20]], [[30], [10, 20]]])
def test_remembered_rows(batches):
    """Binary search in ids that are not sorted finds some and misses others."""
    rows = RememberedRows()
    assert len(rows.lookup(np.array([1]))[0]) == 0
    for batch in batches:
        rows.add(np.array(batch), np.array([[i == 10, i == 20] for i in batch]))
    places, right = rows.lookup(np.array([20, 5, 10, 99, 30, 20]))
    assert places.tolist() == [0, 2, 4, 5]
    assert right.tolist() == [[False, True], [True, False], [False, False], [False, True]]
    rows.add(np.array([5, 10]), np.array([[True, True], [False, False]]))
    places, right = rows.lookup(np.array([5, 10, 30]))
    assert places.tolist() == [0, 1, 2]
    assert right.tolist() == [[True, True], [True, False], [False, False]]  # the first of a double counts


def test_new_head_has_the_data_sets_labels(tmp_path):
    """A classifier of the old size would index past the data set's labels."""
    tiny_vit().save_pretrained(tmp_path)
    names = ["a", "b", "c", "d"]
    model, drawn = ImageClassification().new_head(str(tmp_path), AutoConfig.from_pretrained(tmp_path), names)
    assert model.classifier.out_features == 4
    assert drawn == ["classifier.bias", "classifier.weight"]
    assert model.config.id2label == dict(enumerate(names))
    assert len(LABELS) == 3
