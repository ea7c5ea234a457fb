"""Peers that lack classes of each other: what they teach, by hand, and what must stay alone."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from hf_mutual_kd import (
    AllRule,
    BestRule,
    CohortBatch,
    ConfigError,
    FrozenSource,
    GatedRule,
    LabelError,
    LiveSource,
    MeanRule,
    Objective,
    PeerMasks,
    align_labels,
    make_rule,
)
from hf_mutual_kd.distillation.label_alignment import ClassColumns, known_classes
from hf_mutual_kd.distillation.roles import ALL, MEAN, NOBODY
from hf_mutual_kd.distillation.shared_classes import check_shared, shared_transfer, who_hears_whom

KNOWN = torch.tensor([[True, True, True, False], [False, True, True, True]])
SAID = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log()
"""Of the first peer, which has classes 0 to 2; the last is not looked at."""


def taught(own, classes=None, said=SAID, temperature=1.0):
    """What the second peer pays where it hears the first."""
    hears = torch.zeros(2, 2, *own.shape[:1], *own.shape[2:])
    hears[1, 0] = 1.0
    pulls = shared_transfer(
        [said, own], [said, own], weights=hears, known=KNOWN, classes=classes, temperature=temperature
    )
    assert (pulls[0] == 0).all()
    return pulls[1]


def test_value_and_gradient_by_hand():
    """A class that one of two peers lacks must not move: its logit means nothing to the other."""
    own = torch.zeros(1, 4, requires_grad=True)
    loss = taught(own)
    # Of the shared classes the teacher says 0.6 and 0.4, the student 0.5 and 0.5; half of its mass lies there.
    assert_close(loss, 0.5 * (0.6 * torch.tensor([1.2]).log() + 0.4 * torch.tensor([0.8]).log()))
    loss.sum().backward()
    assert_close(own.grad, torch.tensor([[0.0, -0.05, 0.05, 0.0]]))
    assert own.grad[0, [0, 3]].tolist() == [0.0, 0.0]


def test_it_is_a_part_of_the_whole_kl():
    """Without the teacher's mass a teacher that thinks of something else would pull as strongly as a sure one."""
    z, own = torch.randn(1, 4), torch.randn(1, 4)
    p, q = z.softmax(1), own.softmax(1)
    shared = torch.tensor([1, 2])
    inside, ours = p[:, shared].sum(), q[:, shared].sum()
    mass = inside * (inside / ours).log() + (1 - inside) * ((1 - inside) / (1 - ours)).log()
    beside = sum(p[0, c] / (1 - inside) * (p[0, c] / (1 - inside)).div(q[0, c] / (1 - ours)).log() for c in (0, 3)) * (
        1 - inside
    )
    whole = (p * (p / q).log()).sum()
    # The same peers with all classes, of which two are compared.
    found = shared_transfer(
        [z, own],
        [z, own],
        weights=torch.tensor([[[0.0], [0.0]], [[1.0], [0.0]]]),
        known=torch.tensor([[True] * 4, [False, True, True, False]]),
    )
    assert_close(found[1].sum(), whole - mass - beside)


def test_where_the_truth_is_not_shared_nobody_teaches():
    """A teacher that lacks the truth is wrong there, however sure; a student that lacks it is left alone."""
    own = torch.zeros(5, 4, requires_grad=True)
    pulls = taught(own, torch.tensor([0, 1, 2, 3, -1]), SAID.expand(5, 4))
    assert (pulls > 0).tolist() == [False, True, True, False, True]
    pulls.sum().backward()
    assert (own.grad[[0, 3]] == 0).all()


def test_broken_values_and_maps():
    """NaN in a class that does not count, or of a peer that nobody hears, must reach nobody."""
    said = SAID.clone()
    said[0, 3] = float("nan")
    assert_close(taught(torch.zeros(1, 4), said=said), taught(torch.zeros(1, 4)))
    own, half = torch.zeros(2, 4, requires_grad=True), torch.cat([torch.full((1, 4), float("nan")), SAID])
    weights = who_hears_whom(torch.tensor([0, 0]), [half, own])
    pulls = shared_transfer([own, own], [half, own], weights=weights, known=KNOWN)
    pulls.sum().backward()
    assert (pulls > 0).tolist() == [[False, False], [False, True]]
    assert (own.grad[0] == 0).all()
    assert own.grad.isfinite().all()
    maps = torch.randn(2, 4, 3, 3)
    cells = taught(maps, said=SAID[..., None, None].expand(2, 4, 3, 3), temperature=2.0)
    alone = taught(maps[1:, :, 2, 0], said=SAID, temperature=2.0)
    assert_close(cells[1, 2, 0], alone[0])


def test_who_hears_whom():
    """A mean over broken peers, or a teacher that hears itself, is another rule."""
    speakers = [torch.zeros(5, 3) for _ in range(3)]
    speakers[2] = torch.full((5, 3), float("nan"))
    heard = who_hears_whom(torch.tensor([0, 2, MEAN, ALL, NOBODY]), speakers)
    assert heard[:, :, 0].tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert (heard[:, :, [1, 4]] == 0).all()
    assert heard[:, :, 2].tolist() == [[0.5, 0.5, 0]] * 3
    assert heard[:, :, 3].tolist() == [[0, 1, 0], [1, 0, 0], [0.5, 0.5, 0]]


@pytest.mark.parametrize("rule", [BestRule, MeanRule, AllRule])
@pytest.mark.parametrize("source", [LiveSource, FrozenSource])
def test_peers_that_know_all_learn_as_without(rule, source):
    """Two formulas for one method: of a mean the gradient is the same, of one teacher the loss is, too."""
    logits = [torch.randn(6, 4, requires_grad=True) for _ in range(3)]
    starts = [torch.randn(6, 4) for _ in range(3)]
    truth = torch.tensor([0, 1, 2, 3, 0, -1])
    objective = Objective(rule(), source(), temperature=2.0, unlabelled_rows=True)
    everything = torch.ones(3, 4, dtype=torch.bool)
    found = [
        objective.loss(logits, CohortBatch(truth), starts=starts, peers=PeerMasks(known=one))
        for one in (None, everything)
    ]
    left, right = (torch.autograd.grad(one.loss, logits, retain_graph=True) for one in found)
    assert torch.equal(found[0].teacher, found[1].teacher)
    for one, other in zip(left, right, strict=True):
        assert_close(one, other)
    if rule is AllRule:
        assert_close(found[0].transfer, found[1].transfer)


def test_peers_are_ranked_by_classes_that_all_know():
    """The peer with fewer classes has the easier question, and would win for that alone."""
    # Over all of its classes the first is less sure of class 1; over the shared ones it is surer.
    logits = [torch.tensor([[3.0, 2.0, 0.0, -14.0]]), torch.tensor([[-14.0, 1.0, 0.0, -3.0]])]
    objective = Objective(BestRule(), LiveSource(), retain=False)
    assert objective.loss(logits, torch.tensor([1])).teacher.tolist() == [1]
    assert objective.loss(logits, torch.tensor([1]), peers=PeerMasks(known=KNOWN)).teacher.tolist() == [0]
    gated = Objective(GatedRule(), FrozenSource(), retain=False)
    gated.rule.bind(["a", "b"], 4)
    gated.loss(logits, torch.tensor([1]), starts=logits, peers=PeerMasks(known=KNOWN)).loss.backward()
    assert gated.rule.bias.grad[0] < 0 < gated.rule.bias.grad[1]
    gated.rule.zero_grad()
    gated.loss(logits, torch.tensor([3]), starts=logits, peers=PeerMasks(known=KNOWN)).loss.backward()
    assert gated.rule.bias.grad.abs().sum() == 0


def test_columns_of_peers_that_lack_classes():
    """A class that a peer lacks gets a probability that nothing can move, not the neighbour's logit."""
    wanted = ["sky", "road", "sea", "car"]
    assert align_labels("a", ["car", "Road", "tree"], dataset_labels=wanted, mode="overlap") == [-1, 1, -1, 0]
    assert align_labels("a", wanted, dataset_labels=wanted, mode="overlap") is None
    assert align_labels("a", ["tree", *wanted], dataset_labels=wanted, mode="overlap") == [1, 2, 3, 4]
    with pytest.raises(LabelError, match="new_head"):
        align_labels("a", ["car", "tree"], dataset_labels=wanted, mode="overlap")
    with pytest.raises(LabelError, match="overlap teaches the classes that peers share"):
        align_labels("a", ["car", "Road", "tree"], dataset_labels=wanted)
    columns = ClassColumns("a", 4, torch.tensor([-1, 1, -1, 0]), lacks=True)
    logits = torch.tensor([[2.0, 1.0, 9.0]], requires_grad=True)
    found = columns.select(logits)
    assert_close(found[0, [1, 3]], torch.tensor([1.0, 2.0]))
    assert_close(found.softmax(1)[0, [0, 2]], torch.tensor([1e-6, 1e-6]))
    F.cross_entropy(found, torch.tensor([3])).backward()
    assert logits.grad[0, 2] == 0
    assert_close(
        logits.grad[0, :2], torch.tensor([-1.0, 1.0]) * torch.tensor([2.0, 1.0]).softmax(0)[1], rtol=1e-4, atol=0
    )
    assert columns.known_labels(torch.tensor([0, 1, 2, 3, -1, 255]), 255).tolist() == [255, 1, 255, 3, -1, 255]


def test_what_cannot_be_taught_is_refused():
    """Peers that share one class would train beside each other in silence."""
    labels = ["sky", "road", "sea", "car"]
    assert known_classes({"a": None, "b": [0, 1, 2, 3]}, labels) is None
    assert known_classes({"a": None, "b": [0, -1, -1, 1]}, labels).tolist() == [[True] * 4, [True, False, False, True]]
    with pytest.raises(LabelError, match="peer 'a' shares 1 of the 4 labels"):
        known_classes({"a": [0, 1, -1, -1], "b": [-1, 0, 1, 2]}, labels)
    narrow = torch.tensor([[True, True, True, False], [False, True, True, True], [True, True, False, True]])
    check_shared(Objective(MeanRule(), FrozenSource()), narrow)
    for objective, message in (
        (Objective(BestRule(), LiveSource()), "these are 1; use teacher_rule 'mean'"),
        (Objective(make_rule("class"), FrozenSource()), "teacher_rule 'class' does not go"),
        (Objective(MeanRule(calibrate=True), FrozenSource()), "calibrate does not go"),
        (Objective(MeanRule(), LiveSource(), detach="none"), "detach 'none' does not go"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_shared(objective, narrow)
