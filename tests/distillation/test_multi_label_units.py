"""Several labels of one sample: losses, scores and transfer by hand, and what must not change them."""

import math

import pytest
import torch
from torch.nn import functional as F

from hf_mutual_kd.distillation.multi_label import MultiLabelUnits, multi_label_loss, yes_or_no
from hf_mutual_kd.distillation.objective import Objective
from hf_mutual_kd.distillation.roles import MEAN, NOBODY
from hf_mutual_kd.distillation.teacher_rules import AllRule, BestRule, GatedRule, MeanRule
from hf_mutual_kd.distillation.teacher_sources import FrozenSource, LiveSource

LN3 = math.log(3)


def peers(count=3, batch=4, classes=5, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, classes, generator=generator, dtype=torch.float64).requires_grad_(grad)
            for _ in range(count)]  # fmt: skip


def truth(batch=4, classes=5):
    labels = torch.randint(0, 2, (batch, classes), generator=torch.Generator().manual_seed(9))
    labels[1] = -1
    labels[2] = 0
    return labels


def binary_kl(p, q):
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def test_the_loss_is_torchs_own_and_nothing_without_labels():
    """A sum in place of a mean, or a row without a label that counts as "none of the classes", trains other models."""
    logits, labels = peers(1, grad=True)[0], truth()
    loss = multi_label_loss(logits, labels)
    expected = F.binary_cross_entropy_with_logits(logits.float(), labels.float().clamp(0), reduction="none").mean(1)
    torch.testing.assert_close(loss[[0, 2, 3]], expected[[0, 2, 3]])
    assert loss[1] == 0
    assert loss[2] > 0
    loss.sum().backward()
    assert not logits.grad[1].any()
    smooth = multi_label_loss(torch.tensor([[LN3]]), torch.tensor([[1]]), label_smoothing=0.2)
    torch.testing.assert_close(smooth, torch.tensor([-0.9 * math.log(0.75) - 0.1 * math.log(0.25)]))


def test_scores_by_hand():
    """A score that sums, or forgets the classes that are absent, makes the peer teach that says yes to everything."""
    said = [yes_or_no(torch.tensor([[LN3, LN3]])), yes_or_no(torch.tensor([[0.0, -LN3]]))]
    labels = torch.tensor([[1, 0]])
    by_sample = MultiLabelUnits().scores("loss", said, labels)
    by_class = MultiLabelUnits("class").scores("loss", said, labels)
    torch.testing.assert_close(by_class, torch.tensor([[[0.75, 0.25]], [[0.5, 0.75]]]).log())
    torch.testing.assert_close(by_sample, by_class.mean(-1))
    torch.testing.assert_close(
        MultiLabelUnits("class").scores("margin", said, labels),
        torch.tensor([[[LN3, -LN3]], [[0.0, LN3]]]),
    )
    rule = BestRule()
    assert rule.teachers(by_sample, torch.tensor([True])).tolist() == [1]
    assert rule.teachers(by_class, torch.tensor([True])).tolist() == [[0, 1]]


@pytest.mark.parametrize("granularity", ["image", "class"])
def test_transfer_is_the_mean_binary_kl_towards_the_teacher(granularity):
    """A softmax over the classes, in place of one sigmoid each, moves no knowledge of classes that go together."""
    live, labels = peers(2, grad=True), truth()
    units = MultiLabelUnits(granularity)
    objective = Objective(BestRule(), LiveSource(), retain=False, unlabelled_rows=False)
    said = [yes_or_no(one) for one in live]
    losses = torch.stack([multi_label_loss(one, labels) for one in live])
    found = objective.loss(said, labels, losses=losses, units=units)
    probs = torch.stack([one.sigmoid() for one in live]).detach()
    scores = torch.where(labels == 1, probs, 1 - probs).log()
    best = scores.argmax(0) if granularity == "class" else scores.mean(-1).argmax(0).unsqueeze(1).expand(4, 5)
    expected = torch.zeros(2, 4, dtype=torch.float64)
    for m in range(2):
        pull = binary_kl(probs.gather(0, best.unsqueeze(0)).squeeze(0), probs[m]).where(best != m, 0.0)
        expected[m] = pull.mean(1)
    expected[:, 1] = 0.0  # Without a label the mean teaches.
    transfer = torch.autograd.grad(found.transfer.sum(), live, retain_graph=True)
    if granularity == "class":
        assert found.teacher.shape == (4, 5)
    assert all(bool(one.isfinite().all()) for one in transfer)
    by_mean = binary_kl(probs.mean(0)[1], probs[:, 1]).mean(1)
    torch.testing.assert_close(found.transfer, (expected.sum(1) + by_mean) / 4)
    assert (found.teacher[1] == MEAN).all()


@pytest.mark.parametrize("rule", [BestRule(), MeanRule(), AllRule(), GatedRule()])
def test_gradients_match_differences_and_the_teacher_is_not_moved(rule):
    """A gradient that is wrong, or that reaches the teacher, trains towards something else than the loss says."""
    units, labels = MultiLabelUnits("class"), truth()
    rule.bind(["a", "b", "c"], 5)
    objective = Objective(rule, FrozenSource(), retain=False, unlabelled_rows=True)
    live, starts = peers(3, grad=True), [yes_or_no(one) for one in peers(3, seed=7)]

    def transfer(*logits):
        said = [yes_or_no(one) for one in logits]
        losses = torch.zeros(3, 4)
        return objective.loss(said, labels, losses=losses, starts=starts, units=units).transfer

    assert torch.autograd.gradcheck(transfer, live, atol=1e-6)


def test_classes_apart_are_as_samples_of_one_class():
    """A class that changes another's roles or transfer makes results depend on which classes a data set lists."""
    labels = torch.randint(0, 2, (6, 3), generator=torch.Generator().manual_seed(1))
    live = peers(2, 6, 3)
    objective = Objective(BestRule(), LiveSource(), retain=False)
    units = MultiLabelUnits("class")

    def run(logits, truth):
        losses = torch.stack([multi_label_loss(one, truth) for one in logits])
        return objective.loss([yes_or_no(one) for one in logits], truth, losses=losses, units=units)

    whole = run(live, labels)
    parts = [run([one[:, c : c + 1] for one in live], labels[:, c : c + 1]) for c in range(3)]
    torch.testing.assert_close(whole.transfer, torch.stack([part.transfer for part in parts]).mean(0))
    torch.testing.assert_close(whole.teacher, torch.cat([part.teacher for part in parts], 1))


def test_a_broken_peer_and_extreme_logits_reach_nobody_else():
    """One NaN, or a logit of 1e4, that spreads ends the training of every peer."""
    live = [torch.tensor([[1e4, -1e4], [0.5, 0.5]]).requires_grad_(), torch.tensor([[-1e4, 1e4], [0.1, 0.2]])
            .requires_grad_(), torch.full((2, 2), math.nan).requires_grad_()]  # fmt: skip
    labels = torch.tensor([[1, 0], [0, 1]])
    objective = Objective(BestRule(), LiveSource(), retain=False)
    found = objective.loss([yes_or_no(one) for one in live], labels, losses=torch.zeros(3, 2), units=MultiLabelUnits())
    assert found.teacher.tolist() == [0, 1]
    found.transfer[:2].sum().backward()
    assert all(bool(one.grad.isfinite().all()) for one in live[:2])
    assert NOBODY not in found.teacher
