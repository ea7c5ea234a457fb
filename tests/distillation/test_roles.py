"""Scores and the teacher that follows from them."""

from __future__ import annotations

import math

import pytest
import torch

from hf_mutual_kd import LabelError, assign_roles, confidence_scores, loss_scores, margin_scores
from hf_mutual_kd.distillation import roles
from hf_mutual_kd.distillation.roles import NOBODY


def random_logits(*shape, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_margin_by_hand():
    """z[y] - log(sum of e^z over the others)."""
    logits = torch.tensor([[[2.0, 0.0, 0.0]]])
    assert margin_scores(logits, torch.tensor([0])).item() == pytest.approx(2 - math.log(2))
    assert margin_scores(logits, torch.tensor([1])).item() == pytest.approx(-math.log(math.exp(2) + 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_margins_do_not_saturate(dtype):
    """p(truth) is exactly 1.0 for both from a margin of 17 on: a false tie, and nobody teaches."""
    logits = torch.tensor([[[40.0, 0.0]], [[80.0, 0.0]], [[1e4, -1e4]]], dtype=dtype)
    scores = margin_scores(logits, torch.tensor([0]))
    assert scores.dtype == torch.float32
    assert scores[0].item() == pytest.approx(40)
    assert scores[2].item() == pytest.approx(2e4, rel=1e-2)
    assert assign_roles(scores).item() == 2
    assert assign_roles(loss_scores(logits[:2], torch.tensor([0]))).item() == 1
    assert assign_roles(confidence_scores(logits[:2])).item() == 1


def test_scores_order_as_probabilities_do():
    """All scores of the truth are the same order; another one would be another method."""
    logits, labels = random_logits(4, 20, 7), torch.arange(20) % 7
    truth = logits.softmax(-1).gather(-1, labels.expand(4, 20).unsqueeze(-1)).squeeze(-1)
    for scores in (margin_scores(logits, labels), loss_scores(logits, labels)):
        assert torch.equal(scores.argsort(0), truth.argsort(0))
    torch.testing.assert_close(loss_scores(logits, labels), truth.log())
    torch.testing.assert_close(confidence_scores(logits), logits.log_softmax(-1).amax(-1))


def test_units_without_a_label_are_ties():
    """Label -1 as an index would silently take the last class as the truth."""
    logits = random_logits(3, 2, 4)
    logits[1, 0] = math.nan
    for scores in (margin_scores, loss_scores):
        result = scores(logits, torch.tensor([-1, -100]))
        assert torch.equal(result, torch.zeros(3, 2))
        assert torch.equal(assign_roles(result), torch.tensor([NOBODY, NOBODY]))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, slice(None)])
def test_a_broken_peer_never_teaches(poison, place):
    """+inf at the truth would make a peer that has diverged the best of all."""
    logits, labels = random_logits(3, 2, 4), torch.tensor([0, 0])
    clean = margin_scores(logits, labels)
    logits[1, 0, place] = poison
    for scores in (margin_scores(logits, labels), loss_scores(logits, labels), confidence_scores(logits)):
        assert scores[1, 0] == -math.inf
        assert scores[[0, 2]].isfinite().all()
        assert assign_roles(scores)[0] != 1
    torch.testing.assert_close(margin_scores(logits, labels)[:, 1], clean[:, 1])


def test_a_class_masked_in_all_peers_is_no_fault():
    """Masking unused classes with -inf is usual; it must not switch transfer off."""
    logits, labels = random_logits(2, 3, 4), torch.tensor([0, 1, 2])
    expected = margin_scores(logits[..., :3], labels)
    logits[..., 3] = -math.inf
    torch.testing.assert_close(margin_scores(logits, labels), expected)
    logits[..., 1:] = -math.inf
    assert margin_scores(logits, torch.tensor([0, 0, 0])).eq(math.inf).all()


def test_dense_equals_flattened_and_sequences_equal_tensors():
    """A score over the wrong dimension of `[B, C, h, w]` still gives a number."""
    logits = random_logits(3, 2, 5, 4, 3)
    labels = torch.randint(-1, 5, (2, 4, 3), generator=torch.Generator().manual_seed(1))
    flat = logits.movedim(2, -1).reshape(3, -1, 5)
    dense = margin_scores(logits, labels)
    assert dense.shape == (3, 2, 4, 3)
    torch.testing.assert_close(dense.reshape(3, -1), margin_scores(flat, labels.reshape(-1)))
    assert torch.equal(dense, margin_scores(list(logits), labels))
    torch.testing.assert_close(confidence_scores(logits).reshape(3, -1), confidence_scores(flat))


def test_float64_is_kept_and_mixed_peers_work():
    """Peers may run in different dtypes; taking the narrowest would round everybody's scores."""
    logits = random_logits(2, 3, 4).double()
    labels = torch.tensor([0, 1, 2])
    assert margin_scores(logits, labels).dtype == torch.float64
    mixed = margin_scores([logits[0].float(), logits[1].bfloat16()], labels)
    torch.testing.assert_close(mixed[0], margin_scores(logits.float(), labels)[0])


def test_inputs_are_left_alone():
    """Scores share buffers inside; the logits go on to the loss and must not change."""
    logits = random_logits(2, 3, 4).requires_grad_()
    before = logits.detach().clone()
    assert not margin_scores(logits, torch.tensor([0, 1, 2])).requires_grad
    assert torch.equal(logits, before)
    scores = torch.tensor([[math.nan], [1.0]])
    assign_roles(scores)
    assert scores[0].isnan().all()


def test_one_class_is_refused():
    """With one class the margin is z - log 0 = inf for every peer."""
    with pytest.raises(LabelError, match="two or more"):
        margin_scores(torch.zeros(2, 3, 1), torch.zeros(3, dtype=torch.long))


def test_assign_roles_by_hand():
    """Ties for the best give nobody, ties below it do not matter, NaN and -inf never teach."""
    nan, inf = math.nan, math.inf
    scores = torch.tensor(
        [
            [3.0, 1.0, 2.0, nan, -inf, nan, 0.0],
            [1.0, 1.0, 1.0, 0.0, -inf, nan, inf],
            [2.0, 0.0, 1.0, -1.0, -inf, -inf, 1.0],
        ]
    )
    teacher = assign_roles(scores)
    assert teacher.dtype == torch.int64
    assert teacher.tolist() == [0, NOBODY, 0, 1, NOBODY, NOBODY, 1]


def test_one_peer_is_its_own_teacher():
    """Retention holds for teachers: a cohort of one needs it too."""
    assert assign_roles(torch.tensor([[0.5, -math.inf, math.nan]])).tolist() == [0, NOBODY, NOBODY]


def test_order_of_peers_only_renames_the_teacher():
    """The reference code gives ties to the second model: the place in the list must decide nothing."""
    scores = torch.randint(0, 4, (4, 50), generator=torch.Generator().manual_seed(0)).float()
    order = torch.tensor([2, 0, 3, 1])
    teacher, moved = assign_roles(scores), assign_roles(scores[order])
    assert torch.equal(torch.where(moved < 0, moved, order[moved]), teacher)
    assert torch.equal(assign_roles(scores[:, 7:8]), teacher[7:8])
    assert torch.equal(assign_roles(scores.reshape(4, 10, 5)), teacher.reshape(10, 5))


@pytest.mark.parametrize("shape", [(30, 7), (3, 5, 9, 4), (2, 5, 30)])
@pytest.mark.parametrize("piece", [1, 40, 200])
def test_scores_of_pieces_are_those_of_the_whole(monkeypatch, shape, piece):
    """Large maps are scored in pieces on CPU; a seam would rank peers by other numbers."""
    peers = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    peers[1].view(-1)[3] = float("nan")
    labels = torch.randint(-1, shape[1], (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(3))
    whole = margin_scores(peers, labels), confidence_scores(peers)
    monkeypatch.setattr(roles, "PIECE", piece)
    for found, expected in zip((margin_scores(peers, labels), confidence_scores(peers)), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
