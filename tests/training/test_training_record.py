"""Averages of the log, and who taught whom, by hand."""

import math

import pytest
import torch

from hf_mutual_kd import CohortOutput, ImageClassification
from hf_mutual_kd.distillation.roles import MEAN, NOBODY
from hf_mutual_kd.training.training_record import TrainingRecord


def output(teacher, a, b, supervised=(1.0, 2.0), transfer=(0.5, 0.25)):
    logits = {name: 5 * torch.eye(3)[torch.tensor(classes)] for name, classes in (("a", a), ("b", b))}
    return CohortOutput(
        loss=torch.tensor(1.0),
        outputs=logits,
        teacher=None if teacher is None else torch.tensor(teacher),
        supervised=torch.tensor(supervised, requires_grad=True),
        transfer=None if transfer is None else torch.tensor(transfer),
    )


@pytest.fixture
def record():
    return TrainingRecord(["a", "b"], ImageClassification())


def test_averages_by_hand(record):
    """Shares over units, losses over steps: a wrong divisor changes with the batch size."""
    record.add(output([0, 1, NOBODY, MEAN], [0, 1, 2, 0], [0, 0, 0, 0]), torch.tensor([0, 1, 2, -1]), torch.arange(4))
    record.add(output([0, 0], [1, 1], [0, 1], (3.0, 4.0), (1.5, 0.0)), torch.tensor([0, 1]), torch.tensor([0, 1]))
    logs = record.drain(lambda sums: sums, steps=2)
    assert logs == {
        "a/supervised": 2.0,
        "a/transfer": 1.0,
        "a/accuracy": 0.8,
        "a/taught": round(3.5 / 6, 6),
        "b/supervised": 3.0,
        "b/transfer": 0.125,
        "b/accuracy": 0.6,
        "b/taught": 0.25,
    }
    assert record.drain(lambda sums: sums, steps=2) == {}
    assert record.role_table.counts() == {"a": 3, "b": 1, "nobody": 1, "mean": 1}
    assert record.role_table.lookup([0, 1, 2, 3, 4]).tolist() == [0, 0, NOBODY, MEAN, -2]


def test_accumulation_and_processes_add_up(record):
    """Two micro-batches of one step are one step; two processes give twice the sums."""
    for _ in range(2):
        record.add(output([0, 1], [0, 1], [0, 0]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    logs = record.drain(lambda sums: 2 * sums, steps=1)
    assert (logs["a/supervised"], logs["a/accuracy"], logs["b/accuracy"], logs["a/taught"]) == (4.0, 1.0, 0.5, 0.5)


def test_control_has_neither_teacher_nor_transfer(record):
    """A control that counts decisions would look like a run with transfer."""
    record.add(output(None, [0, 1], [0, 0], transfer=None), torch.tensor([0, 1]), torch.tensor([0, 1]))
    logs = record.drain(lambda sums: sums, steps=1)
    assert (logs["a/transfer"], logs["a/taught"], logs["a/supervised"]) == (0.0, 0.0, 1.0)
    assert len(record.role_table) == 0


def test_broken_peer_is_reported(record):
    """A peer that stops being finite must not do so silently, nor blur the others' figures."""
    broken = output([1, 1], [0, 1], [0, 1], (float("nan"), 2.0), (0.0, 0.0))
    broken.outputs["a"][1, 0] = float("nan")
    record.add(broken, torch.tensor([0, 1]), torch.tensor([0, 1]))
    logs = record.drain(lambda sums: sums, steps=1)
    assert logs["a/not_finite"] == 1
    assert "b/not_finite" not in logs
    assert math.isnan(logs["a/supervised"])
    assert logs["b/supervised"] == 2.0


def test_rows_without_any_label(record):
    """0 / 0 in the log of a run without labels."""
    record.add(output([MEAN, MEAN], [0, 1], [0, 0]), torch.tensor([-1, -1]), torch.tensor([0, 1]))
    logs = record.drain(lambda sums: sums, steps=1)
    assert (logs["a/accuracy"], logs["a/taught"], logs["b/taught"]) == (0.0, 0.5, 0.5)


def test_a_batch_that_does_not_count_keeps_processes_in_step(record):
    """Processes gather step by step: one that leaves a step out would shift the roles of all later ones."""
    record.add(output([0, 1], [0, 1], [0, 0]), torch.tensor([0, 1]), torch.tensor([0, 1]), counts=False)
    assert len(record._decisions) == 1
    logs = record.drain(lambda sums: sums, steps=1)
    assert (logs["a/supervised"], logs["a/accuracy"], logs["a/taught"]) == (0.0, 0.0, 0.0)
    assert len(record.role_table) == 0
