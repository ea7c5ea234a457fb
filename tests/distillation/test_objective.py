"""Who teaches, against a slow implementation written from the formula: unit by unit, class by class, in float64."""

import itertools
import math

import pytest
import torch

from hf_mutual_kd import SOURCES, BestRule, LiveSource, Objective, TransferOptions, margin_scores
from hf_mutual_kd.distillation.roles import MEAN, NOBODY, UNDECIDED
from hf_mutual_kd.distillation.teacher_rules import RULES

UNITS, CLASSES = 4, 3
LABELS = torch.tensor([0, 2, -1, 1])


def softmax(logits, temperature=1.0):
    top = max(logits)
    raised = [math.exp((z - top) / temperature) for z in logits]
    return [value / sum(raised) for value in raised]


def kl(target, student):
    return sum(p * (math.log(p) - math.log(q)) for p, q in zip(target, student, strict=True) if p > 0)


def margin(logits, label):
    return logits[label] - math.log(sum(math.exp(z) for c, z in enumerate(logits) if c != label))


def slow(live, starts, labels, rule, source, retain, temperature, unlabelled):
    """`[N][B]` pulls and `[B]` teachers, from nested lists."""
    speakers = starts if source == "frozen" else live
    peers, pulls, teachers = range(len(live)), [[0.0] * len(labels) for _ in live], []
    for b, label in enumerate(labels):
        scores = [margin(speakers[m][b], label) for m in peers] if label >= 0 else []
        best = [m for m in peers if scores and scores[m] == max(scores)]
        teacher = MEAN if rule == "mean" or not scores else best[0] if len(best) == 1 else NOBODY
        teachers.append(teacher)
        spoken = starts if label < 0 and unlabelled and rule == "best" else speakers
        probs = [softmax(spoken[m][b], temperature) for m in peers]
        target = [sum(column) / len(live) for column in zip(*probs, strict=True)] if teacher == MEAN else None
        target = probs[teacher] if teacher >= 0 else target
        for m in peers:
            student = softmax(live[m][b], temperature)
            if teacher == m:
                pulls[m][b] = retain * temperature**2 * kl(softmax(starts[m][b], temperature), student)
            elif target is not None:
                pulls[m][b] = temperature**2 * kl(target, student)
    return pulls, teachers


def draw(peers, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, peers, UNITS, CLASSES, generator=generator, dtype=torch.float64)
    logits[:, :, 3] = logits[:, :1, 3]  # all peers say the same on the last unit: a tie
    return logits


def objective(rule="best", source="live", **changes):
    return Objective(RULES[rule](), SOURCES[source](), **{"retain": False, "unlabelled_rows": True} | changes)


CASES = list(itertools.product(("best", "mean"), ("live", "frozen"), (False, True), (1.0, 2.5), (1, 3, 5)))


@pytest.mark.parametrize(("rule", "source", "retain", "temperature", "peers"), CASES)
@pytest.mark.parametrize("detach", ["teacher", "none"])
def test_transfer_is_the_formula(rule, source, retain, temperature, peers, detach):
    """A wrong teacher, a missing T² or a swapped KL still trains, only worse."""
    live, starts = draw(peers)
    made = objective(rule, source, retain=retain, temperature=temperature, detach=detach)
    speakers = starts if source == "frozen" else live
    teacher = made.teachers(margin_scores(speakers, LABELS), LABELS >= 0)
    pulls = made.transfer(list(live), list(starts), teacher=teacher, labelled=LABELS >= 0)
    expected, teachers = slow(
        live.tolist(), starts.tolist(), LABELS.tolist(), rule, source, retain, temperature, unlabelled=True
    )
    if peers > 1 or rule == "mean":
        assert teacher.tolist() == teachers
    torch.testing.assert_close(pulls, torch.tensor(expected, dtype=pulls.dtype), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("rule", "detach"), list(itertools.product(("best", "mean"), ("teacher", "none"))))
def test_gradients_agree_with_finite_differences_of_what_may_move(rule, detach):
    """With a detached teacher the target is a constant; a gradient that leaks through it moves the better model."""
    live, starts = draw(3)
    made = objective(rule, detach=detach, retain=True, temperature=1.5)
    teacher = made.teachers(margin_scores(live, LABELS), LABELS >= 0)
    leaf = live.clone().requires_grad_()
    made.transfer(list(leaf), list(starts), teacher=teacher, labelled=LABELS >= 0).sum().backward()

    def value(moved):
        if detach == "none":
            return made.transfer(list(moved), list(starts), teacher=teacher, labelled=LABELS >= 0).sum()
        # The target stays where it was: moved students, one at a time, beside unmoved speakers.
        total = 0.0
        for m in range(3):
            mixed = [live[k] for k in range(3)]
            frozen = objective(rule, "frozen", retain=False, temperature=1.5, unlabelled_rows=False)
            mixed[m] = moved[m]
            spoken = live.clone()
            if rule == "best":
                spoken[:, LABELS < 0] = starts[:, LABELS < 0]
            total = total + frozen.transfer(mixed, list(spoken), teacher=teacher, labelled=LABELS >= 0)[m].sum()
            held = torch.tensor([k == m for k in teacher.tolist()])
            p = (starts[m] / 1.5).softmax(-1)
            gap = p.log() - (moved[m] / 1.5).log_softmax(-1)
            total = total + ((p * gap).sum(-1) * 1.5**2 * held).sum()
        return total

    numeric, step = torch.zeros_like(live), 1e-5
    for index in itertools.product(*map(range, live.shape)):
        up, down = live.clone(), live.clone()
        up[index] += step
        down[index] -= step
        numeric[index] = (value(up) - value(down)) / (2 * step)
    torch.testing.assert_close(leaf.grad, numeric, rtol=1e-4, atol=1e-7)


def test_teacher_moves_only_when_it_is_not_detached():
    """The authors' form pulls the better model to the worse; the default must not."""
    live, labels = draw(2)[0].requires_grad_(), torch.tensor([0, 2, 1, 1])
    for detach, moves in (("teacher", False), ("none", True)):
        live.grad = None
        made = objective(detach=detach, unlabelled_rows=False)
        teacher = made.teachers(margin_scores(live, labels), labels >= 0)
        made.transfer(list(live), None, teacher=teacher, labelled=labels >= 0).sum().backward()
        taught = [(b, t) for b, t in enumerate(teacher.tolist()) if t >= 0]
        assert taught
        assert all(bool(live.grad[t, b].any()) is moves for b, t in taught)
        assert all(live.grad[1 - t, b].any() for b, t in taught)


@pytest.mark.parametrize("rule", ["best", "mean"])
def test_order_of_peers_does_not_matter(rule):
    """A formula that favours the first or last peer would pass every test on one order."""
    live, starts = draw(5, seed=3)
    order = [3, 0, 4, 2, 1]
    made = objective(rule, retain=True)
    one, other = (
        made.transfer(
            list(z), list(s), teacher=made.teachers(margin_scores(z, LABELS), LABELS >= 0), labelled=LABELS >= 0
        )
        for z, s in ((live, starts), (live[order], starts[order]))
    )
    torch.testing.assert_close(one[order], other)


def test_decided_roles_come_first():
    """A role table that loses against this step's scores, or against a missing label, changes nothing."""
    live, starts = draw(3)
    roles = torch.tensor([1, NOBODY, 2, UNDECIDED])
    made = objective(retain=True)
    teacher = made.teachers(margin_scores(live, LABELS), LABELS >= 0, roles=roles)
    assert teacher.tolist() == [1, NOBODY, 2, NOBODY]
    pulls = made.transfer(list(live), list(starts), teacher=teacher, labelled=LABELS >= 0)
    assert not pulls[:, [1, 3]].any()
    for unit, t in ((0, 1), (2, 2)):
        said, held = softmax(live[t, unit].tolist()), softmax(starts[t, unit].tolist())
        for m in range(3):
            expected = kl(held if m == t else said, softmax(live[m, unit].tolist()))
            assert pulls[m, unit].item() == pytest.approx(expected)


def test_dense_units_are_units():
    """Pixels that are flattened in the wrong order would learn from their neighbours' teacher."""
    generator = torch.Generator().manual_seed(1)
    live = torch.randn(3, 2, CLASSES, 4, 5, generator=generator)
    labels = torch.randint(0, CLASSES, (2, 4, 5), generator=generator)
    made = objective(unlabelled_rows=False)
    flat, flat_labels = live.movedim(2, -1).reshape(3, -1, CLASSES), labels.flatten()
    dense = made.transfer(
        list(live), None, teacher=made.teachers(margin_scores(live, labels), labels >= 0), labelled=labels >= 0
    )
    teacher = made.teachers(margin_scores(flat, flat_labels), flat_labels >= 0)
    expected = made.transfer(list(flat), None, teacher=teacher, labelled=flat_labels >= 0)
    torch.testing.assert_close(dense.reshape(3, -1), expected)


def test_docstring_example_is_right():
    """An example with a wrong digit is copied into tests and papers."""
    made = Objective(rule=BestRule(), source=LiveSource(), retain=False)
    live = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])]
    pulls = made.transfer(live, None, teacher=torch.tensor([0]), labelled=torch.tensor([True]))
    assert [f"{value:.4f}" for value in pulls.flatten().tolist()] == ["0.0000", "0.3278"]
    assert "0.3278" in Objective.__doc__


def test_options_become_the_objective():
    """An option that never reaches the objective is a setting without effect."""
    options = TransferOptions(preset="reference", temperature=2.0, transfer_weight=0.5, role_score="loss")
    made = Objective.from_options(options, label_smoothing=0.1)
    got = (made.rule.name, made.source.name, made.detach, made.retain, made.temperature, made.weight, made.score)
    assert got == ("best", "live", "none", False, 2.0, 0.5, "loss")
    assert (made.label_smoothing, made.needs_starts, made.unlabelled_rows) == (0.1, False, False)
    made = Objective.from_options(TransferOptions(labels=False))
    assert (made.rule.name, made.source.name, made.retain, made.labels) == ("mean", "frozen", False, False)
    assert made.needs_starts
    assert made.unlabelled_rows


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({}, False),
        ({"retain": True}, True),
        ({"source": "frozen"}, True),
        ({"unlabelled_rows": True}, True),
        ({"retain": True, "weight": 0.0}, False),
    ],
)
def test_starts_are_kept_only_where_they_are_needed(changes, needs):
    """Needless copies double the memory of every peer; missing ones end the run at the first step."""
    assert objective(**{"unlabelled_rows": False} | changes).needs_starts is needs
