"""Transfer losses against formulas written a second time, at the edges of number formats, and with broken peers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from hf_mutual_kd import (
    ConfigError,
    DataError,
    assign_roles,
    kl_to_target,
    margin_scores,
    softened_log_probs,
    teacher_log_probs,
    transfer_loss,
)
from hf_mutual_kd.distillation.losses import gather_teacher, mean_log_probs
from hf_mutual_kd.distillation.roles import MEAN, NOBODY, UNDECIDED


def peers_of(n, *shape, dtype=torch.float32, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = [scale * torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(n)]
    return [z.to(dtype).requires_grad_() for z in values]


def teachers_of(n, *shape, lowest=NOBODY, seed=1):
    return torch.randint(lowest, n, shape, generator=torch.Generator().manual_seed(seed))


def all_pairs(peers, teacher, temperature=1.0):
    """All N(N-1) KLs by softmax().log(), masked afterwards; teachers are not detached."""
    probs = [(z / temperature).softmax(1) for z in peers]
    losses = []
    for m, q in enumerate(probs):
        loss = torch.zeros_like(q[:, 0])
        for t, p in enumerate(probs):
            if t != m:
                loss = loss + (teacher == t) * temperature**2 * (p * (p.log() - q.log())).sum(1)
        losses.append(loss)
    return torch.stack(losses)


def gradients(loss, peers):
    return torch.autograd.grad(loss.sum(0).mean(), peers, allow_unused=True)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_not_detached_equals_the_all_pairs_formula(n, temperature):
    """A gradient that misses the teacher's part, or counts it once for several students, trains another objective."""
    peers = peers_of(n, 16, 7)
    teacher = teachers_of(n, 16)
    ours = transfer_loss(peers, teacher, temperature=temperature, detach="none")
    theirs = all_pairs(peers, teacher, temperature)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    for mine, other in zip(gradients(ours, peers), gradients(theirs, peers), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)


def test_two_peers_equal_the_papers_sum():
    """`m1 KL(p1||p2) + m2 KL(p2||p1)` is what published numbers were trained with."""
    first, second = peers_of(2, 8, 5)
    labels = torch.arange(8) % 5
    p1, p2 = first.softmax(1), second.softmax(1)
    truth1, truth2 = p1.gather(1, labels[:, None])[:, 0], p2.gather(1, labels[:, None])[:, 0]
    kl12, kl21 = (p1 * (p1 / p2).log()).sum(1), (p2 * (p2 / p1).log()).sum(1)
    expected = ((truth1 > truth2) * kl12 + (truth2 > truth1) * kl21).mean()
    teacher = assign_roles(margin_scores([first, second], labels))
    assert (teacher == 0).any()
    assert (teacher == 1).any()
    torch.testing.assert_close(transfer_loss([first, second], teacher, detach="none").sum(0).mean(), expected)


def test_detached_teacher_gets_no_gradient_and_students_the_same_as_before():
    """Without detach the KL also pulls the better peer towards the worse, at full price in accuracy."""
    peers = peers_of(3, 6, 4)
    teacher = torch.tensor([0, 1, 2, 0, NOBODY, UNDECIDED])
    for m, (alone, both) in enumerate(
        zip(
            gradients(transfer_loss(peers, teacher), peers),
            gradients(transfer_loss(peers, teacher, detach="none"), peers),
            strict=True,
        )
    ):
        silent = (teacher == m) | (teacher < 0)
        assert torch.equal(alone[silent], torch.zeros_like(alone[silent]))
        torch.testing.assert_close(alone[~silent], both[~silent])
        assert (both[teacher == m] != 0).any()


def test_values_are_exactly_zero_where_nobody_learns():
    """A tiny loss on the teacher's own row would let every step drift it."""
    peers = peers_of(2, 4, 3)
    loss = transfer_loss(peers, torch.tensor([0, 1, NOBODY, UNDECIDED]))
    assert torch.equal(loss == 0, torch.tensor([[True, False, True, True], [False, True, True, True]]))


@pytest.mark.parametrize("detach", ["teacher", "none"])
@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 3, 2)])
def test_gradients_against_finite_differences(detach, shape):
    """The gradient is written by hand; a wrong factor would only show as training that learns badly."""
    peers = peers_of(3, *shape, dtype=torch.float64)
    teacher = teachers_of(3, shape[0], *shape[2:], lowest=MEAN if detach == "none" else NOBODY)
    fixed = None if detach == "none" else [z.detach().clone() for z in peers]
    assert torch.autograd.gradcheck(
        lambda *z: transfer_loss(z, teacher, temperature=1.7, detach=detach, source=fixed), peers
    )


def test_kl_gradients_against_finite_differences_in_both_arguments():
    """`kl_to_target` says that gradients flow into the target, also one that is not quite normalised."""
    (student,) = peers_of(1, 3, 5, dtype=torch.float64)
    target = softened_log_probs(peers_of(1, 3, 5, dtype=torch.float64, seed=3)[0].detach()).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, t: kl_to_target(z, t, temperature=0.7), (student, target))
    keep = torch.tensor([True, False, True])
    assert torch.autograd.gradcheck(lambda z, t: kl_to_target(z, t, where=keep), (student, target))


def test_kl_equals_torch():
    """An independent implementation: F.kl_div with a log target."""
    (student,) = peers_of(1, 6, 9)
    target = softened_log_probs(peers_of(1, 6, 9, seed=4)[0].detach(), 3.0)
    expected = 9 * F.kl_div((student / 3).log_softmax(1), target, log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(kl_to_target(student, target, temperature=3.0), expected)


@pytest.mark.parametrize("detach", ["teacher", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_huge_logits_stay_finite(detach, dtype):
    """softmax().log() gives inf at a gap of about 110 in fp32 and 18 in fp16, and NaN weights one step later."""
    big = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [1e4, 1e4, -1e4]])
    peers = [big.to(dtype).requires_grad_(), (-big).to(dtype).requires_grad_(), torch.zeros(3, 3).requires_grad_()]
    loss = transfer_loss(peers, torch.tensor([0, 1, MEAN]), detach=detach)
    assert loss.isfinite().all()
    assert loss[1, 0].item() == pytest.approx(2e4, rel=1e-2)
    for gradient in gradients(loss, peers):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_fp32(dtype):
    """In bf16 a loss of 30.38 comes out as 30.25, and sums over 1000 classes lose the small ones."""
    peers = peers_of(2, 8, 50, dtype=dtype, scale=5.0)
    wide = [z.detach().float().requires_grad_() for z in peers]
    teacher = teachers_of(2, 8)
    loss = transfer_loss(peers, teacher)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, transfer_loss(wide, teacher))
    for half, full in zip(gradients(loss, peers), gradients(transfer_loss(wide, teacher), wide), strict=True):
        assert half.dtype == dtype
        torch.testing.assert_close(half.float(), full, atol=1e-4, rtol=1e-2)


def test_autocast_changes_nothing():
    """Autocast would take parts of the loss back to bf16."""
    peers = peers_of(2, 8, 50)
    teacher = teachers_of(2, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = transfer_loss(peers, teacher)
    assert torch.equal(inside, transfer_loss(peers, teacher))


def test_float64_is_not_rounded():
    """Taking everything to fp32 would make checks by finite differences meaningless."""
    peers = peers_of(2, 4, 5, dtype=torch.float64)
    teacher = torch.tensor([0, 1, 0, 1])
    loss = transfer_loss(peers, teacher)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, all_pairs(peers, teacher), atol=1e-13, rtol=0)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("whole_row", [False, True])
@pytest.mark.parametrize("detach", ["teacher", "none"])
@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_broken_peer_harms_nobody(poison, whole_row, detach, broken):
    """`0 * inf` is NaN: one bad unit of one peer would destroy the weights of all of them."""
    clean = peers_of(3, 4, 5)
    dirty = [z.detach().clone() for z in clean]
    dirty[broken][1, slice(None) if whole_row else 2] = poison
    dirty = [z.requires_grad_() for z in dirty]
    teacher = torch.tensor([0, 1, 2, NOBODY])
    loss = transfer_loss(dirty, teacher, detach=detach)
    expected = transfer_loss(clean, teacher, detach=detach)
    others = torch.tensor([0, 2, 3])
    torch.testing.assert_close(loss[:, others], expected[:, others])
    learns = (torch.arange(3) != broken) & (teacher[1] != broken)
    torch.testing.assert_close(loss[:, 1], expected[:, 1] * learns)
    for m, (gradient, wanted) in enumerate(zip(gradients(loss, dirty), gradients(expected, clean), strict=True)):
        torch.testing.assert_close(gradient[others], wanted[others])
        assert gradient.isfinite().all()
        if m == broken or teacher[1] == broken:
            assert torch.equal(gradient[1], torch.zeros(5))


@pytest.mark.parametrize("detach", ["teacher", "none"])
def test_the_mean_leaves_a_broken_peer_out(detach):
    """One NaN peer would make the ensemble NaN and with it every student."""
    peers = peers_of(3, 2, 4)
    broken = peers[2].detach().clone()
    broken[0, 1] = math.nan
    dirty = [peers[0], peers[1], broken.requires_grad_()]
    loss = transfer_loss(dirty, torch.full((2,), MEAN), detach=detach)
    mean = torch.stack([peers[0].softmax(1), peers[1].softmax(1)]).mean(0)
    torch.testing.assert_close(loss[0, 0], (mean * (mean.log() - peers[0].log_softmax(1)))[0].sum())
    assert loss[2, 0] == 0
    for gradient in gradients(loss, dirty):
        assert gradient.isfinite().all()
    nobody_left = transfer_loss([torch.full((1, 3), math.nan)] * 2, torch.tensor([MEAN]))
    assert torch.equal(nobody_left, torch.zeros(2, 1))


@pytest.mark.parametrize("detach", ["teacher", "none"])
def test_masked_classes_take_no_part(detach):
    """A class at -inf in all peers gives 0 * (-inf + inf) = NaN, where the answer is the KL over the other classes."""
    small = peers_of(2, 3, 4)
    peers = [F.pad(z.detach(), (0, 1), value=-math.inf).requires_grad_() for z in small]
    teacher = torch.tensor([0, 1, MEAN])
    loss = transfer_loss(peers, teacher, detach=detach)
    expected = transfer_loss(small, teacher, detach=detach)
    torch.testing.assert_close(loss, expected)
    for gradient, wanted in zip(gradients(loss, peers), gradients(expected, small), strict=True):
        torch.testing.assert_close(gradient[:, :4], wanted)
        assert torch.equal(gradient[:, 4], torch.zeros(3))


def test_a_student_that_rules_out_what_the_teacher_believes_is_left_alone():
    """Its KL is infinite: the unit must not turn the sum over the batch into inf."""
    peers = [torch.tensor([[1.0, 0.0]]).requires_grad_(), torch.tensor([[0.0, -math.inf]]).requires_grad_()]
    loss = transfer_loss(peers, torch.tensor([0]))
    assert torch.equal(loss, torch.zeros(2, 1))
    assert torch.equal(gradients(loss, peers)[1], torch.zeros(1, 2))
    assert kl_to_target(peers[1], peers[0].log_softmax(1)).item() == math.inf


def test_zero_probability_targets_contribute_exactly_zero():
    """p log p at p = 0 is 0, and NaN when written as 0 * log 0."""
    target = torch.tensor([[0.0, -math.inf, -math.inf]]).requires_grad_()
    student = torch.tensor([[2.0, 1.0, 0.0]]).requires_grad_()
    loss = kl_to_target(student, target)
    torch.testing.assert_close(loss, -student.log_softmax(1)[:, 0])
    loss.sum().backward()
    torch.testing.assert_close(student.grad, student.detach().softmax(1) - torch.tensor([[1.0, 0.0, 0.0]]))
    assert target.grad.isfinite().all()


def test_broken_students_show_without_a_mask():
    """Where the caller did not ask for masking, NaN must not be reported as a perfect 0."""
    target = torch.zeros(1, 2).log_softmax(1)
    assert kl_to_target(torch.tensor([[math.nan, 0.0]]), target).isnan().all()
    assert kl_to_target(torch.zeros(1, 2), target * math.nan).isnan().all()


def test_a_nan_from_above_shows():
    """Masking NaN gradients must not hide that the loss itself was multiplied by NaN."""
    peers = peers_of(2, 2, 3)
    loss = transfer_loss(peers, torch.tensor([0, NOBODY]))
    (gradient,) = torch.autograd.grad(loss.sum() * math.nan, peers[1])
    assert gradient[0].isnan().all()
    assert torch.equal(gradient[1], torch.zeros(3))


def test_order_of_peers_and_units_does_not_matter():
    """A peer's loss must not depend on its place in the cohort, nor a unit's on the batch around it."""
    peers = peers_of(4, 6, 5)
    teacher = teachers_of(4, 6)
    loss = transfer_loss(peers, teacher)
    order, places = torch.tensor([2, 0, 3, 1]), torch.tensor([5, 3, 1, 0, 2, 4])
    moved = torch.where(teacher < 0, teacher, order.argsort()[teacher.clamp(min=0)])
    torch.testing.assert_close(transfer_loss([peers[m] for m in order], moved), loss[order])
    torch.testing.assert_close(transfer_loss([z[places] for z in peers], teacher[places]), loss[:, places])
    torch.testing.assert_close(transfer_loss([z[:1] for z in peers], teacher[:1]), loss[:, :1])


def test_one_tensor_equals_a_sequence():
    """Both forms are public; a different result would depend on how the caller happens to hold logits."""
    peers = peers_of(3, 4, 5)
    teacher = torch.tensor([0, MEAN, 2, 1])
    stacked = torch.stack([z.detach() for z in peers]).requires_grad_()
    loss = transfer_loss(stacked, teacher)
    assert torch.equal(loss, transfer_loss(peers, teacher))
    (whole,) = torch.autograd.grad(loss.sum(0).mean(), stacked)
    assert torch.equal(whole, torch.stack(gradients(transfer_loss(peers, teacher), peers)))


def test_dense_equals_flattened():
    """A KL over the wrong dimension of `[B, C, h, w]` still gives a number."""
    peers = peers_of(3, 2, 5, 3, 4)
    teacher = teachers_of(3, 2, 3, 4, lowest=MEAN)
    flat = [z.movedim(1, -1).reshape(-1, 5) for z in peers]
    loss = transfer_loss(peers, teacher)
    assert loss.shape == (3, 2, 3, 4)
    torch.testing.assert_close(loss.reshape(3, -1), transfer_loss(flat, teacher.reshape(-1)))


def test_the_mean_teaches_everyone_as_written():
    """Deep ensembles as a teacher: mean of probabilities, not of logits."""
    peers = peers_of(3, 4, 5)
    mean = torch.stack([z.softmax(1) for z in peers]).mean(0)
    expected = torch.stack([(mean * (mean.log() - z.log_softmax(1))).sum(1) for z in peers])
    torch.testing.assert_close(transfer_loss(peers, torch.full((4,), MEAN)), expected)


def test_a_frozen_source_speaks_for_the_teachers():
    """With a frozen source, live logits must not leak into the target."""
    live, frozen = peers_of(2, 3, 4), peers_of(2, 3, 4, seed=9)
    teacher = torch.tensor([0, 1, NOBODY])
    loss = transfer_loss(live, teacher, source=frozen)
    expected = kl_to_target(live[1][:1], softened_log_probs(frozen[0][:1].detach()))
    torch.testing.assert_close(loss[1, :1], expected)
    assert gradients(loss, frozen) == (None, None)


def test_mean_log_probs_by_hand_and_with_peers_left_out():
    """The mean of log-probabilities would be another teacher: it is the log of the mean."""
    rows = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]], [[0.1, 0.9]]]).log()
    torch.testing.assert_close(mean_log_probs(rows).exp(), torch.tensor([[0.5, 0.5]]))
    two = mean_log_probs(rows, torch.tensor([[True], [True], [False]]))
    torch.testing.assert_close(two.exp(), torch.tensor([[0.7, 0.3]]))
    assert torch.equal(mean_log_probs(rows, torch.zeros(3, 1, dtype=torch.bool)), torch.full((1, 2), -math.inf))
    far = torch.tensor([[[-2000.0, 0.0]], [[-3000.0, 0.0]]])
    assert mean_log_probs(far)[0, 0].item() == pytest.approx(-2000 - math.log(2))


def test_gather_teacher_never_leaves_the_range():
    """Markers such as NOBODY are negative: as an index they would silently pick the last peer."""
    rows = torch.arange(12.0).reshape(3, 2, 2)
    chosen = gather_teacher(rows, torch.tensor([2, MEAN]))
    assert torch.equal(chosen, torch.stack([rows[2, 0], rows[0, 1]]))
    target, taught = teacher_log_probs(rows, torch.tensor([7, UNDECIDED]))
    assert target.shape == (2, 2)
    assert not taught.any()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_bad_temperature_is_refused(temperature):
    """Division by 0 would give NaN, which the masks would turn into a silent 0."""
    with pytest.raises(ConfigError, match="temperature must be greater than 0"):
        transfer_loss(torch.zeros(2, 1, 3), torch.tensor([0]), temperature=temperature)


def test_bad_shapes_and_choices_are_refused():
    """Broadcasting a teacher per image over pixels by accident gives a plausible number."""
    with pytest.raises(ConfigError, match="detach must be one of"):
        transfer_loss(torch.zeros(2, 1, 3), torch.tensor([0]), detach="student")
    with pytest.raises(DataError, match="one shape"):
        transfer_loss([torch.zeros(1, 3), torch.zeros(1, 4)], torch.tensor([0]))
    with pytest.raises(DataError, match="one entry per unit"):
        transfer_loss(torch.zeros(2, 1, 3, 4, 4), torch.tensor([0]))
    with pytest.raises(DataError, match="one shape"):
        kl_to_target(torch.zeros(1, 3), torch.zeros(1, 4))


def test_a_broken_unit_changes_nothing_for_the_others_of_its_batch():
    """Where all sums are finite a pass is left out: a batch in which one is not must take it, also on the way back."""
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(4, 5, 3, generator=generator).requires_grad_() for _ in range(2)]
    teacher = torch.tensor([[0, 1, 0]] * 4)
    transfer_loss(whole, teacher).sum().backward()
    spoiled = [one.detach().clone() for one in whole]
    spoiled[0][1, 2, 0], spoiled[1][2, 4, 1], spoiled[0][3, :2, 2] = float("nan"), float("inf"), float("-inf")
    for one in spoiled:
        one.requires_grad_()
    values = transfer_loss(spoiled, teacher)
    values.sum().backward()
    assert values.isfinite().all()
    touched = torch.zeros(4, 3, dtype=torch.bool)
    touched[[1, 2, 3], [0, 1, 2]] = True
    for one, other in zip(whole, spoiled, strict=True):
        assert other.grad.isfinite().all()
        unspoiled = ~touched.unsqueeze(1).expand_as(other)
        assert torch.equal(one.grad[unspoiled], other.grad[unspoiled])
