"""Losses and scores of saliency: hand values, the metrics as a second opinion, gradients, blank truth, precision."""

from __future__ import annotations

import math

import pytest
import torch

from hf_mutual_kd.tasks.video_saliency.metrics import functions as metrics
from hf_mutual_kd.tasks.video_saliency.metrics.maps import resize_map
from hf_mutual_kd.tasks.video_saliency.model.losses import (
    has_truth,
    log_density,
    resample_log_density,
    saliency_loss,
    score,
    temporal_change,
)

ALL_TERMS = {"kld": 1.0, "cc": 0.7, "sim": 0.5, "nss": 0.3, "temporal": 0.4}


def clips(*shape, truth_size=None, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = truth_size or shape[-2:]
    logits = 2 * torch.randn(shape, generator=generator, dtype=dtype)
    truth = torch.rand((*shape[:-2], *size), generator=generator, dtype=dtype) ** 3
    fixations = torch.rand(truth.shape, generator=generator) < 0.2
    return logits, truth, fixations


def test_loss_by_hand():
    """A wrong sign or a swapped KL still trains, towards something else."""
    logits, truth = torch.tensor([[[3.0, 1.0]]]).log(), torch.tensor([[[1.0, 1.0]]])
    assert saliency_loss(logits, truth).item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    swapped = saliency_loss(truth.log(), logits.exp())  # g = 3/4, 1/4 and p = 1/2: CC of a constant is 0
    assert swapped.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    opposite = saliency_loss(logits, torch.tensor([[[1.0, 3.0]]]), {"kld": 0.0})
    assert opposite.item() == pytest.approx(1.0, abs=1e-5)


def test_terms_are_the_metrics():
    """A loss that drifts from the metric of the same name optimises what nobody measures."""
    logits, truth, fixations = clips(3, 9, 14)
    for name, expected in {
        "kld": lambda p, g, f: metrics.kld(p, g),
        "cc": lambda p, g, f: -metrics.cc(p, g),
        "sim": lambda p, g, f: -metrics.sim(p, g, "tuebingen"),
        "nss": lambda p, g, f: -metrics.nss(p, f, ddof=0),
    }.items():
        weights = {"kld": 0.0, "cc": 0.0, name: 1.0}
        found = saliency_loss(logits, truth, weights, fixations)
        frames = zip(log_density(logits).exp().numpy(), truth.numpy(), fixations.numpy(), strict=True)
        assert found.tolist() == pytest.approx([expected(*frame) for frame in frames], rel=2e-6)


def test_score_is_the_metric_at_the_truths_size():
    """Peers with different grids would be compared on different pixels."""
    logits, truth, _ = clips(2, 6, 8, truth_size=(18, 32), dtype=torch.float32)
    for prediction, target, found in zip(logits, truth, score(logits, truth), strict=True):
        density = resize_map(log_density(prediction).exp().numpy(), (18, 32))
        expected = metrics.cc(density, target.numpy()) - metrics.kld(density, target.numpy())
        assert found.item() == pytest.approx(expected, rel=1e-5)
    perfect = truth.clamp_min(1e-9).log()
    assert score(perfect, truth).tolist() == pytest.approx([1.0, 1.0], abs=1e-4)


def test_score_has_the_same_bits_whatever_the_batch():
    """Roles would shift with batch mates."""
    logits, truth, _ = clips(7, 11, 17, truth_size=(36, 64), dtype=torch.float32)
    whole = score(logits, truth)
    assert torch.equal(whole, torch.cat([score(logits[i : i + 1], truth[i : i + 1]) for i in range(7)]))
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    assert torch.equal(whole[order], score(logits[order], truth[order]))
    mixed = [truth[0], truth[1, ::2], *truth[2:]]
    assert torch.equal(score(logits, mixed)[[0, 2, 3, 4, 5, 6]], whole[[0, 2, 3, 4, 5, 6]])
    assert not score(logits.requires_grad_(), truth).requires_grad
    assert score(logits[:0], truth[:0]).shape == (0,)


def test_nobody_teaches_where_there_is_nothing_to_judge_by():
    """A blank clip would have a best peer, and a peer with NaN could be it."""
    logits, truth, _ = clips(3, 4, 5)
    truth[0] = 0
    logits[1, 0, 0] = torch.nan
    assert score(logits, truth)[:2].tolist() == [-math.inf, -math.inf]
    assert score(logits, truth)[2].isfinite()
    assert has_truth(truth).tolist() == [False, True, True]


@pytest.mark.parametrize("content", [0.0, math.nan, math.inf])
def test_blank_truth_adds_nothing_to_value_or_gradient(content):
    """One blank frame would make the loss NaN, or its gradient."""
    logits, truth, fixations = clips(3, 4, 6, 7, truth_size=(9, 8))
    alone = logits[[0, 2]].clone().requires_grad_()
    logits[1] = content
    truth[1] = 0
    logits = logits.requires_grad_()
    loss = saliency_loss(logits, truth, ALL_TERMS, fixations)
    loss.sum().backward()
    assert loss[1].item() == 0
    assert not logits.grad[1].any()
    rest = saliency_loss(alone, truth[[0, 2]], ALL_TERMS, fixations[[0, 2]])
    rest.sum().backward()
    assert torch.allclose(loss[[0, 2]], rest, rtol=1e-12)
    assert torch.allclose(logits.grad[[0, 2]], alone.grad, rtol=1e-10)


def test_a_blank_frame_leaves_its_clips_other_frames():
    """A clip would be thrown away for one frame, or its mean be divided by all frames."""
    logits, truth, _ = clips(1, 3, 5, 6)
    truth[0, 1] = 0
    expected = saliency_loss(logits[0, [0, 2]], truth[0, [0, 2]]).mean()
    assert saliency_loss(logits, truth).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("level", [0.0, 3.0, -50.0])
def test_constant_predictions_have_finite_values_and_gradients(dtype, level):
    """A new head predicts a constant: the standard deviation is 0 and its gradient infinite."""
    _, truth, fixations = clips(2, 3, 6, 7)
    logits = torch.full((2, 3, 6, 7), level, dtype=dtype, requires_grad=True)
    loss = saliency_loss(logits, truth.float(), ALL_TERMS, fixations)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()
    assert logits.grad.any()


def test_constant_truth_and_no_fixation_are_finite():
    """The same on the other side: a truth without contrast, and NSS of nothing."""
    logits, truth, fixations = clips(2, 6, 7)
    loss = saliency_loss(logits.requires_grad_(), torch.ones_like(truth), {"nss": 1.0}, torch.zeros_like(fixations))
    loss.sum().backward()
    assert logits.grad.isfinite().all()
    assert loss.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_computes_in_fp32(dtype):
    """2.2e-16 is 0 in fp16, and sums over 230400 pixels are lost in bf16."""
    logits, truth, fixations = clips(2, 3, 40, 60, dtype=torch.float32)
    rounded = logits.to(dtype)
    expected = saliency_loss(rounded.float(), truth, ALL_TERMS, fixations)
    with torch.autocast("cpu", dtype):
        found = saliency_loss(rounded, truth.to(torch.float16), ALL_TERMS, fixations)
        judged = score(rounded[:, 0], truth[:, 0])
        moved = resample_log_density(rounded, (20, 33))
    assert found.dtype == judged.dtype == moved.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=2e-3)
    assert torch.equal(judged, score(rounded[:, 0].float(), truth[:, 0]))
    assert torch.equal(moved, resample_log_density(rounded.float(), (20, 33)))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 255.0, 1e30])
def test_the_truths_unit_does_not_matter(scale):
    """Maps come as 0..1, 0..255 and as densities; a sum that leaves the range of fp32 reads as blank or as NaN."""
    logits, truth, fixations = clips(2, 3, 8, 9, dtype=torch.float32)
    expected = saliency_loss(logits, truth, ALL_TERMS, fixations)
    assert torch.allclose(saliency_loss(logits, truth * scale, ALL_TERMS, fixations), expected, rtol=1e-5)


def test_extreme_logits_stay_finite():
    """A confident peer underflows to probability 0 where the truth is not."""
    logits = torch.full((1, 2, 8, 8), -300.0)
    logits[..., 0, 0] = 300.0
    logits.requires_grad_()
    truth = torch.ones(1, 2, 16, 16)
    loss = saliency_loss(logits, truth, ALL_TERMS, truth) + resample_log_density(logits, (5, 13)).mean()
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()
    assert score(logits.detach(), truth).isfinite().all()


def test_density_is_resampled_and_not_its_logarithm():
    """Resampled logits give geometric means: a lone peak loses most of its mass."""
    logits = torch.tensor([[[0.0, 8.0, 0.0, 0.0]]])
    density = log_density(logits).exp()
    wider = resample_log_density(logits, (1, 8)).exp()
    bilinear = torch.nn.functional.interpolate(density[None], size=(1, 8), mode="bilinear")[0]
    assert torch.allclose(wider, bilinear / bilinear.sum(), atol=1e-6)
    assert torch.equal(resample_log_density(logits, (1, 4)), log_density(logits))
    assert torch.allclose(resample_log_density(logits + 5, (1, 8)).exp(), wider)


@pytest.mark.parametrize("size", [(3, 5), (7, 4), (13, 29), (1, 1)])
def test_resampling_keeps_a_density_of_any_shape(size):
    """Swapped axes or lost mass show on H != W only; a one-pixel peak can fall between the pixels of a small grid."""
    logits, _, _ = clips(2, 3, 9, 16)
    logs = resample_log_density(logits, size)
    assert logs.shape == (2, 3, *size)
    assert torch.allclose(logs.exp().sum((-2, -1)), torch.ones(2, 3, dtype=torch.float64))
    for row, column in [(0, 0), (4, 7), (8, 15)]:
        peak = torch.full((1, 9, 16), -40.0)
        peak[0, row, column] = 10.0
        where = resample_log_density(peak, size).flatten().argmax().item()
        assert where == (2 * row + 1) * size[0] // 18 * size[1] + (2 * column + 1) * size[1] // 32


def test_gradients_against_differences():
    """A detached or masked term trains in silence."""
    logits, truth, fixations = clips(2, 2, 4, 5, truth_size=(6, 7))
    cuts = torch.tensor([[False], [True]])
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: saliency_loss(z, truth, ALL_TERMS, fixations, cuts), logits)
    assert torch.autograd.gradcheck(lambda z: resample_log_density(z, (7, 3)), logits)
    assert torch.autograd.gradcheck(lambda z: temporal_change(z, truth), logits)
    for name in ALL_TERMS:
        weights = {**dict.fromkeys(ALL_TERMS, 0.0), name: 1.0}
        (gradient,) = torch.autograd.grad(saliency_loss(logits, truth, weights, fixations).sum(), logits)
        assert gradient.abs().sum() > 1e-3, name
        assert gradient.sum((-2, -1)).abs().max() < 1e-9, name  # a constant added to the logits changes nothing


def test_clips_and_pixels_in_any_order():
    """A clip's loss would depend on its batch mates, or on where in the frame it happens."""
    logits, truth, fixations = clips(4, 3, 6, 7, dtype=torch.float32)
    whole = saliency_loss(logits, truth, ALL_TERMS, fixations)
    order = [2, 0, 3, 1]
    turned = saliency_loss(logits[order], truth[order], ALL_TERMS, fixations[order])
    assert torch.allclose(whole[order], turned, rtol=1e-6)
    flipped = saliency_loss(logits.flip(-1, -2), truth.flip(-1, -2), ALL_TERMS, fixations.flip(-1, -2))
    assert torch.allclose(whole, flipped, rtol=1e-5)
    swapped = saliency_loss(logits.mT, truth.mT, ALL_TERMS, fixations.mT)
    assert torch.allclose(whole, swapped, rtol=1e-5)


def test_temporal_change_by_hand():
    """Smoothing in place of matching punishes a prediction that follows what moves."""
    left, right, flat = [[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]]
    truth = torch.tensor([[left, right, right]])
    moving = truth.clamp_min(1e-30).log()
    assert temporal_change(moving, truth).item() == pytest.approx(0, abs=1e-6)
    still = torch.tensor([[flat, flat, flat]]).log()
    assert temporal_change(still, truth).item() == pytest.approx(math.log(2) / 2)
    jumpy = torch.tensor([[left, flat, flat]]).clamp_min(1e-30).log()
    js = 0.5 * math.log(1 / 0.75) + 0.5 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    assert temporal_change(jumpy, truth).item() == pytest.approx((math.log(2) - js) / 2, rel=1e-5)


def test_cuts_and_blank_frames_are_no_change():
    """Across a cut the right prediction jumps, and between blank frames there is no truth to match."""
    left, right, blank = [[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 0.0]]
    truth = torch.tensor([[left, right, blank], [blank, left, left]])
    still = torch.zeros(2, 3, 1, 2, requires_grad=True)
    assert temporal_change(still, truth).tolist() == pytest.approx([math.log(2), 0.0])
    cut = temporal_change(still, truth, torch.tensor([[True, False], [False, True]]))
    cut.sum().backward()
    assert cut.tolist() == [0.0, 0.0]
    assert not still.grad.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"klt": 1.0}}, "loss weights are kld, cc, sim, nss, temporal, got klt"),
        ({"weights": {"nss": 1.0}}, "weight nss 1.0 needs fixations"),
        ({"weights": {"temporal": 1.0}}, r"needs \[B, T, h, w\], got shape \[2, 4, 5\]"),
        ({"truth": torch.ones(3, 4, 5)}, r"got shapes \[2, 4, 5\] and \[3, 4, 5\]"),
        ({"truth": torch.ones(2, 1, 4, 5)}, "got shapes"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    """Broadcasting would compare every clip with every truth."""
    call = {"logits": torch.zeros(2, 4, 5), "truth": torch.ones(2, 4, 5), **change}
    with pytest.raises(ValueError, match=message):
        saliency_loss(**call)
    with pytest.raises(ValueError, match="one per pair"):
        temporal_change(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="one truth per clip"):
        score(torch.zeros(2, 4, 5), torch.ones(3, 4, 5))


def test_the_file_stands_alone():
    """It is pushed beside the model's code, where the package is not installed."""
    import ast
    import inspect

    import hf_mutual_kd.tasks.video_saliency.model.losses as module

    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    assert {name.split(".")[0] for name in found} <= {"__future__", "collections", "torch", "typing"}
