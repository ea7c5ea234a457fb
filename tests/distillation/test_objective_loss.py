"""The objective alone, as a loop of one's own uses it: logits of N peers and labels, no cohort."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_mutual_kd import (
    AllRule,
    BestRule,
    CohortBatch,
    ConfigError,
    FixedRule,
    FrozenSource,
    GatedRule,
    LiveSource,
    MeanRule,
    Objective,
    PeerMasks,
    TableSource,
    assign_roles,
    margin_scores,
    transfer_loss,
)
from hf_mutual_kd.distillation.roles import MEAN, NOBODY, UNDECIDED
from hf_mutual_kd.distillation.teacher_rules import SelfRule

TRUTH = torch.tensor([0, 2, 1, 2, -1])


def drawn(peers=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 4, generator=generator).requires_grad_() for _ in range(peers)]


@pytest.mark.parametrize("peers", [1, 2, 4])
def test_logits_and_labels_are_enough(peers):
    """A loop of one's own that gets another loss than the cohort's formula, or a teacher that is pulled."""
    logits = drawn(peers)
    objective = Objective(BestRule(), LiveSource(), retain=False, weight=0.5, temperature=2.0)
    found = objective.loss(logits, TRUTH)
    teacher = torch.where(TRUTH >= 0, assign_roles(margin_scores(logits, TRUTH)), MEAN)
    assert found.teacher.tolist() == teacher.tolist()
    by_labels = [F.cross_entropy(one[:4], TRUTH[:4]) for one in logits]
    torch.testing.assert_close(found.supervised, torch.stack(by_labels))
    pulls = transfer_loss(logits, teacher, temperature=2.0).mean(1)
    torch.testing.assert_close(found.transfer, pulls)
    torch.testing.assert_close(found.loss, found.supervised.sum() + 0.5 * pulls.sum())
    expected = torch.autograd.grad(sum(by_labels) + 0.5 * pulls.sum(), logits)
    for one, other in zip(torch.autograd.grad(found.loss, logits), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_cohort_pays_what_its_logits_pay(make_cohort):
    """Two owners of one loss drift apart: with roles, counts, retention and a weight of the step in play."""
    cohort = make_cohort("vit", "cnx", "cnn")
    objective = Objective(BestRule(), LiveSource(), retain=True, unlabelled_rows=True, label_smoothing=0.1)
    cohort.set_objective(objective)
    with torch.no_grad():
        for parameter in cohort.peers.parameters():
            parameter.add_(0.05)
    pixels = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    inputs = {name: {"pixel_values": pixels} for name in cohort.names}
    step = {"roles": torch.tensor([UNDECIDED, 1, NOBODY, UNDECIDED, MEAN]), "row_counts": torch.tensor([9, 6])}
    step |= {"transfer_weight": 0.3}
    labels = TRUTH.clamp_max(2)
    out = cohort.eval()(inputs, labels, **step)
    starts = cohort.start_logits(inputs)
    found = objective.loss(list(out.outputs.values()), CohortBatch(labels, **step), starts=starts)
    for key in ("loss", "supervised", "teacher", "transfer"):
        torch.testing.assert_close(getattr(found, key), out[key])
    assert found.transfer.gt(0).all()


def test_starts_are_asked_for_where_they_count():
    """Copies that run on samples nobody looks at cost a third more time; one too few is held to zeros."""
    logits, starts, asked = drawn(), drawn(seed=5), []

    def run(wanted):
        asked.append(wanted)
        everywhere = torch.full((5,), wanted is None) if wanted is None else wanted
        return [one.detach().where(rows.unsqueeze(1), 0.0) for one, rows in zip(starts, everywhere, strict=True)]

    objective = Objective(BestRule(), LiveSource(), retain=True, unlabelled_rows=True)
    lazily = objective.loss(logits, TRUTH, starts=run)
    torch.testing.assert_close(lazily.loss, objective.loss(logits, TRUTH, starts=starts).loss)
    own = lazily.teacher == torch.arange(3).unsqueeze(1)
    assert torch.equal(asked[0], own | (TRUTH < 0))
    Objective(BestRule(), LiveSource(), retain=False).loss(logits, TRUTH, starts=run)
    assert len(asked) == 1


def test_peers_that_do_not_learn_cost_nothing():
    """A frozen teacher's own pull in the loss is a number that no update can lower."""
    objective = Objective(MeanRule(), LiveSource(), retain=False)
    whole, part = (objective.loss(drawn(), TRUTH, peers=PeerMasks(students)) for students in (None, [0, 2]))
    assert part.transfer[1] == 0 < whole.transfer[1]
    torch.testing.assert_close(part.transfer[::2], whole.transfer[::2])


@pytest.mark.parametrize("rule", [BestRule(), MeanRule(), AllRule(), SelfRule(0.3)], ids=lambda rule: rule.name)
def test_a_part_of_the_students_is_that_part_of_all(rule):
    """Processes that hold a peer each would train it by another one's transfer, or report a part as the whole."""
    objective = Objective(rule, FrozenSource() if rule.name == "self" else LiveSource())
    rule.bind(["a", "b", "c"], drawn()[0].shape[1])
    starts = [one.detach().flip(0) for one in drawn()]
    whole, part = [one.requires_grad_() for one in drawn()], [one.requires_grad_() for one in drawn()]
    expected = objective.loss(whole, TRUTH, starts=starts)
    expected.loss.backward()
    total = expected.transfer.detach()
    found = objective.loss(part, TRUTH, starts=starts, peers=PeerMasks([1], joined=lambda own: total.clone()))
    found.loss.backward()
    torch.testing.assert_close((found.loss, found.transfer), (expected.loss, expected.transfer))
    torch.testing.assert_close(part[1].grad, whole[1].grad)
    alone = objective.loss(drawn(), TRUTH, starts=starts, peers=PeerMasks([1])).transfer
    assert alone.tolist() == [0, pytest.approx(float(total[1])), 0]


def test_a_plain_loop_trains_peers_and_a_gate():
    """Rules with parameters of their own must be trained by the same loss, and nobody by an unbound one."""
    torch.manual_seed(0)
    peers = [nn.Linear(6, 4) for _ in range(2)]
    inputs, labels = torch.randn(64, 6), torch.randint(0, 4, (64,))
    objective = Objective(GatedRule(), LiveSource(), retain=False)
    with pytest.raises(ConfigError, match=r"call `objective.rule.bind\(peer_names, classes\)`"):
        objective.loss([peer(inputs) for peer in peers], labels)
    objective.rule.bind(["a", "b"], 4)
    learned = [*objective.rule.parameters(), *(weight for peer in peers for weight in peer.parameters())]
    optimizer = torch.optim.Adam(learned, lr=0.05)
    losses = []
    for _ in range(30):
        found = objective.loss([peer(inputs) for peer in peers], labels)
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        losses.append(found.loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert objective.rule.bias.abs().max() > 0


def test_what_is_missing_is_said():
    """A KeyError or a silent zero in the loss of somebody else's loop."""
    with pytest.raises(ConfigError, match="give the batch `labels`"):
        Objective(BestRule(), LiveSource()).loss(drawn(), CohortBatch())
    with pytest.raises(ConfigError, match="give their logits as `starts`"):
        Objective(BestRule(), FrozenSource()).loss(drawn(), TRUTH)
    with pytest.raises(ConfigError, match="TableCollator"):
        Objective(BestRule(), TableSource()).loss(drawn(), TRUTH)
    with pytest.raises(ConfigError, match="'fixed:a' must know the peers"):
        Objective(FixedRule("a"), LiveSource(), retain=False).loss(drawn(), TRUTH)
