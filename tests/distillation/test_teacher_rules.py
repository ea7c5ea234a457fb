"""Every rule and source on every shape of task: the values by hand, gradients, and what nobody may change."""

import itertools
import math

import pytest
import torch

from hf_mutual_kd import (
    IGNORE,
    SOURCES,
    ClassRule,
    ConfigError,
    DataError,
    FixedRule,
    GatedRule,
    Objective,
    SemanticSegmentation,
    TransferOptions,
    kl_to_target,
    loss_scores,
    make_rule,
    softened_log_probs,
    total_of,
)
from hf_mutual_kd.data.masks import UNLABELLED
from hf_mutual_kd.distillation.deep_mutual_learning import kl_from_others
from hf_mutual_kd.distillation.losses import mean_log_probs
from hf_mutual_kd.distillation.roles import ALL, MEAN, NOBODY
from hf_mutual_kd.distillation.rule_fitting import best_temperatures, class_sums, class_trust, temperature_sums
from hf_mutual_kd.distillation.teacher_rules import RULES

CLASSES = 3
SHAPES = {"images": (5,), "maps": (2, 3, 2)}
RULE_NAMES = (*RULES, "fixed:p0")


def names(peers):
    return [f"p{index}" for index in range(peers)]


def bound(rule, peers, calibrate=False):
    """A rule with something fitted and learned in it, other than its neutral beginning."""
    made = make_rule(rule, calibrate)
    made.bind(names(peers), CLASSES)
    with torch.no_grad():
        if isinstance(made, GatedRule):
            made.bias.copy_(torch.linspace(-1, 1, peers))
            made.slope.copy_(torch.linspace(2, -1, peers))
        if isinstance(made, ClassRule):
            made.trust.copy_(torch.sin(torch.arange(peers * CLASSES).reshape(peers, CLASSES).float()))
        if calibrate:
            made.temperatures.copy_(torch.linspace(0.5, 2, peers))
    return made


def draw(shape, peers, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (shape[0], CLASSES, *shape[1:])
    live, starts = 2 * torch.randn(2, peers, *size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, shape, generator=generator)
    labels[0] = -1
    return live, starts, labels


def pull(rule, source, live, starts, truth, retain=False, **changes):
    """`(pulls, teachers)` as a cohort makes them."""
    made = Objective(rule, SOURCES[source](), retain=retain, unlabelled_rows=True, **changes)
    labelled = (truth >= 0).flatten(1).any(1) if truth.ndim > 1 else truth >= 0
    speakers = rule.speak(list(starts if made.source.frozen else live))
    scores = loss_scores(speakers, truth) if rule.needs_scores else torch.zeros(len(live), len(truth))
    teacher = made.teachers(scores, labelled)
    teacher = teacher[:, None, None].expand(truth.shape) if teacher.ndim < truth.ndim else teacher
    return made.transfer(list(live), list(starts), teacher=teacher, labelled=labelled, classes=truth), teacher


CASES = list(itertools.product(RULE_NAMES, ("live", "frozen", "ema"), SHAPES, (1, 2, 3, 5), (True, False)))


@pytest.mark.parametrize(("rule", "source", "shape", "peers", "has_labels"), CASES)
def test_every_rule_with_every_source(rule, source, shape, peers, has_labels):
    """A pair of rule and source that nobody tried: not finite, or a teacher that moves."""
    live, starts, labels = draw(SHAPES[shape], peers)
    labels = labels if has_labels else torch.full_like(labels, -1)
    leaf, copies = live.clone().requires_grad_(), starts.clone().requires_grad_()
    pulls, teacher = pull(bound(rule, peers), source, leaf, copies, labels)
    assert pulls.shape == (peers, *SHAPES[shape])
    assert pulls.isfinite().all()
    assert (pulls > -1e-9).all()
    pulls.sum().backward()
    assert leaf.grad.isfinite().all()
    assert copies.grad is None
    own = torch.stack([teacher == index for index in range(peers)])
    assert not pulls[own | (teacher == NOBODY)].any()
    assert not leaf.grad.movedim(2, -1)[own | (teacher == NOBODY)].any()
    if peers == 1:
        ranked_by_starts = (source == "live" and rule == "best") * (labels < 0)
        by_starts = source != "live" or rule == "self"
        learns = torch.full(labels.shape, by_starts) & (teacher == MEAN) | ranked_by_starts
        assert not pulls[0][~learns].abs().gt(1e-6).any()
    else:
        assert pulls.detach().abs().sum() > 0


@pytest.mark.parametrize(("rule", "shape", "calibrate"), list(itertools.product(RULE_NAMES, SHAPES, (False, True))))
def test_order_of_peers_does_not_matter(rule, shape, calibrate):
    """A formula that favours the first or last peer would pass every test on one order."""
    live, starts, labels = draw(SHAPES[shape], 5, seed=3)
    order = [3, 0, 4, 2, 1]
    made, moved = bound(rule, 5, calibrate), bound(rule, 5, calibrate)
    if rule.startswith("fixed"):
        moved.teacher = "p1"
    with torch.no_grad():
        for key, value in moved.state_dict().items():
            value.copy_(made.state_dict()[key][order])
    one, _ = pull(made, "live", live, starts, labels, retain=True)
    other, _ = pull(moved, "live", live[order], starts[order], labels, retain=True)
    torch.testing.assert_close(one[order], other)


@pytest.mark.parametrize(("temperature", "detach"), [(1.0, "teacher"), (2.5, "none")])
@pytest.mark.parametrize("frozen", [False, True])
def test_all_pairs_at_the_cost_of_a_mean(temperature, detach, frozen):
    """The short form of Deep Mutual Learning must be its N (N - 1) divergences, in value and in gradient."""
    live, starts, _ = draw((4,), 4)
    found, expected = [], []
    for naive in (False, True):
        leaf = live.clone().requires_grad_()
        said = starts if frozen else leaf
        if not naive:
            source = list(starts) if frozen else None
            pulls = kl_from_others(list(leaf), temperature=temperature, detach=detach, source=source)
        else:
            targets = [softened_log_probs(z if detach == "none" else z.detach(), temperature) for z in said]
            pulls = torch.stack(
                [
                    sum(kl_to_target(z, targets[k], temperature=temperature) for k in range(4) if k != m) / 3
                    for m, z in enumerate(leaf)
                ]
            )
        pulls.sum().backward()
        (expected if naive else found).extend([pulls.detach(), leaf.grad])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert not kl_from_others(live[:1]).any()


def test_all_pairs_by_hand():
    """An example with a wrong digit is copied into tests and papers."""
    peers = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]], [[0.5, 0.5]]]).log()
    away = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    back = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    torch.testing.assert_close(kl_from_others(peers), torch.tensor([[away], [back / 2], [back / 2]]))
    assert f"{away:.4f}" in kl_from_others.__doc__
    assert f"{back / 2:.4f}" in kl_from_others.__doc__


@pytest.mark.parametrize("detach", ["teacher", "none"])
def test_a_broken_peer_reaches_nobody(detach):
    """NaN times a mask of zeros is NaN, and one peer's overflow would end every other's training."""
    live, _, _ = draw((3,), 4)
    live[1, 0] = float("nan")
    live[2, 1, 0] = float("-inf")
    live[:, 2, 1] = float("-inf")  # masked in every peer
    live[3, 2] = 1e4 * live[3, 2]
    leaf = live.clone().requires_grad_()
    pulls = kl_from_others(list(leaf), detach=detach)
    pulls.sum().backward()
    assert pulls.isfinite().all()
    assert leaf.grad.isfinite().all()
    assert pulls[1, 0] == 0
    assert pulls[2, 1] == 0  # it rules out what the others think possible
    whole = [0, 2, 3]
    torch.testing.assert_close(pulls[whole, 0], kl_from_others(list(live[whole]))[:, 0])
    for rule in ("gated", "class"):
        leaf.grad = None
        found, _ = pull(bound(rule, 4), "live", leaf, live, torch.zeros(3, dtype=torch.long), detach=detach)
        found.sum().backward()
        assert found.isfinite().all()
        assert leaf.grad.isfinite().all()


def test_a_weighted_mean_by_hand():
    """Shares that are not normalised over the peers that count would teach too much or too little."""
    peers = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]], [[0.1, 0.9]]]).log()
    shares = torch.tensor([[3.0], [1.0], [4.0]])
    found = mean_log_probs(peers, shares=shares).exp()
    torch.testing.assert_close(found, torch.tensor([[(2.7 + 0.5 + 0.4) / 8, (0.3 + 0.5 + 3.6) / 8]]))
    two = mean_log_probs(peers, torch.tensor([[True], [True], [False]]), shares).exp()
    torch.testing.assert_close(two, torch.tensor([[(2.7 + 0.5) / 4, (0.3 + 0.5) / 4]]))
    torch.testing.assert_close(mean_log_probs(peers, shares=torch.ones(3, 1)), mean_log_probs(peers))


def test_the_fixed_teacher_teaches_and_does_not_learn():
    """Classic distillation from the wrong peer, or one that pulls its own teacher."""
    live, starts, labels = draw((5,), 3)
    pulls, teacher = pull(bound("fixed:p0", 3), "live", live, starts, labels)
    assert teacher.tolist() == [0] * 5
    assert not pulls[0].any()
    torch.testing.assert_close(pulls[2], kl_to_target(live[2], live[0].log_softmax(1)))
    kept, _ = pull(bound("fixed:p0", 3), "live", live, starts, labels, retain=True)
    torch.testing.assert_close(kept[0], kl_to_target(live[0], starts[0].log_softmax(1)))
    with pytest.raises(ConfigError, match="p7 names no peer; the peers are p0, p1"):
        FixedRule("p7").bind(names(2), CLASSES)


def test_the_gate_by_hand_and_by_training():
    """A gate that the transfer moves, or that learns to trust the peer that is wrong."""
    rule = make_rule("gated")
    rule.bind(names(2), 2)
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 3.0], [0.5, 0.0]]])
    torch.testing.assert_close(rule.shares(list(logits), None), torch.full((2, 2), 0.5))
    with torch.no_grad():
        rule.bias.copy_(torch.tensor([1.0, -1.0]))
        rule.slope.copy_(torch.tensor([2.0, 0.5]))
    sure = [math.log(1 / (1 + math.exp(-2))), math.log(1 / (1 + math.exp(-3)))]
    gate = [math.exp(1 + 2 * sure[0]), math.exp(-1 + 0.5 * sure[1])]
    assert rule.shares(list(logits), None)[0, 0].item() == pytest.approx(gate[0] / sum(gate))
    leaf = logits.clone().requires_grad_()
    truth = torch.tensor([0, -1])
    loss = rule.loss([(list(leaf), truth)])
    probs = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(3))]
    expected = -math.log((gate[0] * probs[0] + gate[1] * probs[1]) / sum(gate))
    assert loss.tolist() == pytest.approx([expected, 0.0])
    loss.sum().backward()
    assert leaf.grad is None
    assert rule.bias.grad[0] < 0 < rule.bias.grad[1]
    assert rule.bias.grad.sum().abs() < 1e-6


def test_the_gate_of_maps_is_the_mean_over_their_pixels():
    """A gate trained by sums would follow the largest image."""
    live, _, labels = draw((2, 4, 3), 3)
    labels[1, 0] = -1
    rule = bound("gated", 3)
    whole = rule.loss([(list(live), labels)])
    chunks = [([z[:, :, rows] for z in live], labels[:, rows]) for rows in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(rule.loss(chunks), whole)
    flat = [z[1].flatten(1).T for z in live]
    pixels = rule.loss([(flat, labels[1].flatten())])
    torch.testing.assert_close(whole[1], pixels.sum() / (labels[1] >= 0).sum())
    assert whole[0] == 0


def test_temperatures_are_those_of_least_loss():
    """A temperature off by its own inverse makes sure peers surer still."""
    logits = torch.tensor([[2.0, 0.0]]).expand(4, 2)
    sums = total_of(temperature_sums([([logits, 3 * logits, logits * 0], torch.tensor([0, 0, 0, 1]))]))
    found = best_temperatures(sums)
    right = 2 / math.log(3)
    assert found[0].item() == pytest.approx(right, rel=2e-2)
    assert found[1].item() == pytest.approx(3 * right, rel=2e-2)
    assert found.isfinite().all()
    assert f"{found[0].item():.4f}" in best_temperatures.__doc__
    live, _, labels = draw((60,), 2, seed=4)
    labels[10:] = live.sum(0).argmax(1)[10:]
    calibrated = best_temperatures(total_of(temperature_sums([(list(live), labels)])))
    for z, temperature in zip(live, calibrated, strict=True):
        best = loss_scores([z / temperature], labels).sum()
        assert all(best >= loss_scores([z / (temperature * t)], labels).sum() for t in (0.9, 1.1))


def test_trust_is_the_likelihood_of_the_truth_in_each_class():
    """A table of the wrong class, or with a hole where validation has no row, weighs peers at random."""
    live, _, labels = draw((2, 4, 3), 2)
    chunks = [([z[:, :, rows] for z in live], labels[:, rows]) for rows in (slice(0, 1), slice(1, 4))]
    sums = class_sums(chunks, CLASSES + 1)
    assert {key: value.shape for key, value in sums.items()} == {"truths": (2, 2, 4), "units": (2, 4)}
    trust = class_trust(total_of(sums))
    truth = loss_scores(list(live), labels)
    for peer, each in enumerate(truth):
        overall = each[labels >= 0].mean()
        for label in range(CLASSES):
            here = each[labels == label]
            assert trust[peer, label].item() == pytest.approx(((here.sum() + overall) / (len(here) + 1)).item())
        assert trust[peer, CLASSES].item() == pytest.approx(overall.item())
    with pytest.raises(DataError, match="no validation row has a label"):
        class_trust(total_of(class_sums([(list(live), torch.full_like(labels, -1))], CLASSES)))


def test_trust_weighs_by_the_class_of_the_unit():
    """Units without a label that take a class of their own choice, or none."""
    rule = make_rule("class")
    rule.bind(names(2), 3)
    rule.trust.copy_(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]))
    logits = [torch.tensor([[0.0, 0.0, 3.0]] * 3), torch.zeros(3, 3)]
    shares = rule.shares(logits, torch.tensor([0, 1, -1]))
    e = math.e
    expected = [[0.5, e / (e + 1), 1 / (1 + e**2)], [0.5, 1 / (e + 1), e**2 / (1 + e**2)]]
    torch.testing.assert_close(shares, torch.tensor(expected))
    torch.testing.assert_close(rule.shares(logits, None), shares[:, [2, 2, 2]])
    live, starts, labels = draw((5,), 2)
    ignoring, _ = pull(bound("class", 2), "live", live, starts, labels, labels=False)
    unlabelled, _ = pull(bound("class", 2), "live", live, starts, torch.full_like(labels, -1))
    torch.testing.assert_close(ignoring, unlabelled)


def test_calibrated_teachers_say_what_was_fitted():
    """Temperatures that are fitted and then not used, or used on the students too."""
    live, starts, labels = draw((4,), 2)
    rule = bound("mean", 2, calibrate=True)
    found, _ = pull(rule, "frozen", live, starts, labels)
    target = ((starts[0] / 0.5).softmax(1) + (starts[1] / 2.0).softmax(1)) / 2
    torch.testing.assert_close(found[1], kl_to_target(live[1], target.log()))
    assert rule.facts() == {"temperatures": {"p0": 0.5, "p1": 2.0}}


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_maps_of_different_size_in_chunks(rule, monkeypatch):
    """Classes, gates or shares that are of another row of the grid than the pixels they weigh."""
    generator = torch.Generator().manual_seed(7)
    task = SemanticSegmentation()
    sizes = ((4, 6), (8, 6), (4, 12))
    live = [torch.randn(2, CLASSES, *size, generator=generator, dtype=torch.float64) for size in sizes]
    labels = torch.randint(0, CLASSES, (2, 16, 12), generator=generator)
    labels[0, :6] = IGNORE
    labels[1] = UNLABELLED
    made = bound(rule, 3)
    objective = Objective(made, SOURCES["frozen"](), retain=False, score="loss", unlabelled_rows=True)
    scored = task.labelled(labels)
    teacher = made.teachers(task.scores("loss", live, labels), scored)
    starts = [torch.randn(z.shape, generator=generator, dtype=torch.float64) for z in live]
    found = []
    for at_once in (2**22, 1):
        monkeypatch.setattr("hf_mutual_kd.tasks.semantic_segmentation.grids.AT_ONCE", at_once)
        monkeypatch.setattr("hf_mutual_kd.tasks.semantic_segmentation.grids.CHUNK", at_once)
        leaves = [z.clone().requires_grad_() for z in live]
        pulls = task.run_over(objective.pull(starts, scored), leaves, teacher, labels)
        pulls.sum().backward()
        gate = [made.loss(task.units(live, labels))] if isinstance(made, GatedRule) else []
        assert len(list(task.units(live, labels))) == (1 if at_once > 1 else 4)
        found.append([pulls, *gate, *(leaf.grad for leaf in leaves)])
    for whole, chunked in zip(*found, strict=True):
        torch.testing.assert_close(whole, chunked, check_dtype=False)
    assert found[0][0].detach().abs().sum() > 0


def test_what_is_said_of_rules_and_sources():
    """A card without a word on who taught, or without the paper it comes from."""
    for name in RULE_NAMES:
        rule = make_rule(name)
        assert rule.name == name
        assert rule.description.endswith(".")
        assert rule.citation
    assert make_rule("all").teachers(torch.zeros(2, 3), torch.ones(3, dtype=torch.bool)).tolist() == [ALL] * 3
    assert "1703.01780" in SOURCES["ema"].citation


def test_a_peer_that_is_not_sure_enough_teaches_itself_nothing():
    """An option that says how sure a peer must be and changes nothing."""
    options = TransferOptions(teacher_rule="self", teacher_source="frozen", self_confidence=0.9).resolved()
    objective = Objective.from_options(options)
    starts = torch.tensor([[[4.0, 0.0], [1.0, 0.0]]])  # 98 % and 73 % sure
    pulls = objective.transfer(torch.zeros(1, 2, 2), starts, teacher=torch.tensor([MEAN, MEAN]), labelled=None)
    assert pulls[0, 0] > 0
    assert pulls[0, 1] == 0
