"""Dense transfer by hand and against plain formulas, and what must not change it: resolution, chunks, padding."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from hf_mutual_kd import BestRule, ConfigError, DataError, FrozenSource, Objective, assign_roles, transfer_loss
from hf_mutual_kd.distillation.roles import MEAN, NOBODY
from hf_mutual_kd.tasks.semantic_segmentation.grids import valid_cells
from hf_mutual_kd.tasks.semantic_segmentation.scores import SCORES, class_scores, image_scores, pixel_scores
from hf_mutual_kd.tasks.semantic_segmentation.transfer import Grid, cell_teachers, mean_over_pixels

CLASSES = 4
SAME = ((4, 5), (4, 5))
MIXED = ((8, 10), (4, 5), (16, 20))


def dense_transfer(peers, teacher, labels, temperature=1.0, detach="teacher", source=None, **grid):
    """The mean over an image's valid pixels of `transfer_loss`."""

    def pull(live, said, cells, classes):
        return transfer_loss(live, cells, temperature=temperature, detach=detach, source=said)

    return mean_over_pixels(pull, peers, teacher, labels, source=source, grid=Grid(**grid))


def peers_of(*grids, batch=3, classes=CLASSES, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(batch, classes, *grid, generator=generator, dtype=torch.float64) for grid in grids]
    return [(2 * z).log_softmax(1).to(dtype).requires_grad_() for z in draw]


def labels_of(*shape, ignored=0.2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, shape, generator=generator)
    return labels.masked_fill(torch.rand(shape, generator=generator) < ignored, 255)


def gradients(loss, peers):
    found = torch.autograd.grad(loss.sum(0).mean(), peers, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(z) if g is None else g for g, z in zip(found, peers, strict=True)]


def kl(teacher, student, temperature=1.0):
    """`T^2 KL` per pixel by softmax().log()."""
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    return temperature**2 * (p * (p.log() - q.log())).sum(1)


def test_value_by_hand():
    """Dividing by classes, or adding up pixels, gives a loss of another scale in every run."""
    peers = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log().reshape(2, 1, 2, 1, 1).repeat(1, 1, 1, 2, 2)
    peers[1, 0, :, 0, 0] = torch.tensor([0.9, 0.1]).log()
    labels = torch.tensor([[[0, 1], [1, 255]]])
    one = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    torch.testing.assert_close(dense_transfer(peers, torch.tensor([0]), labels), torch.tensor([[0.0], [2 * one / 3]]))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_equals_the_mean_of_kl_over_valid_pixels(temperature):
    """The authors' form takes 18 classes at a time and counts padding."""
    peers, labels = peers_of(*SAME, (4, 5)), labels_of(3, 16, 20)
    teacher, valid = torch.tensor([2, 0, NOBODY]), valid_cells(labels, (4, 5))
    found = dense_transfer(peers, teacher, labels, temperature=temperature)
    for b, t in enumerate(teacher.tolist()):
        for m in range(3):
            pays = 0.0 if t in (m, NOBODY) else kl(peers[t], peers[m], temperature)[b][valid[b]].mean()
            assert found[m, b].item() == pytest.approx(float(torch.as_tensor(pays).detach()), abs=1e-6, rel=1e-5)


def test_only_students_get_a_gradient():
    """The authors' segmentation passes none to anybody; a teacher that moves drifts towards the worse peer."""
    peers, labels = peers_of(*MIXED), labels_of(3, 16, 20)
    loss = dense_transfer(peers, torch.tensor([0, 1, NOBODY]), labels)
    for m, gradient in enumerate(gradients(loss, peers)):
        moved = gradient.flatten(1).abs().sum(1) > 0
        assert moved.tolist() == [m != 0, m != 1, False]
    both = gradients(dense_transfer(peers, torch.tensor([0, 1, NOBODY]), labels, detach="none"), peers)
    assert [bool(both[m][b].any()) for m, b in ((0, 0), (1, 1), (0, 2))] == [True, True, False]


@pytest.mark.parametrize("grids", [SAME, ((2, 6), (5, 3))])
@pytest.mark.parametrize("chunk_rows", [None, 2])
@pytest.mark.parametrize("detach", ["teacher", "none"])
def test_gradients_against_finite_differences(grids, chunk_rows, detach):
    """Resampling, masks and chunks each have a backward of their own; a wrong factor only trains badly."""
    peers, labels = peers_of(*grids, batch=2, classes=3, dtype=torch.float64), labels_of(2, 8, 6, ignored=0.4)
    labels[0, :, :3] = 255
    teacher = torch.tensor([0, 1])
    source = [z.detach().clone() for z in peers] if detach == "teacher" else None

    def loss(*z):
        return dense_transfer(
            z, teacher, labels, temperature=1.5, detach=detach, source=source, size=(5, 6), chunk_rows=chunk_rows
        )

    assert torch.autograd.gradcheck(loss, peers)


@pytest.mark.parametrize("grids", [((16, 20), (16, 20)), MIXED])
@pytest.mark.parametrize("size", [None, (16, 20), (10, 7)])
@pytest.mark.parametrize("detach", ["teacher", "none"])
def test_chunked_equals_unchunked(grids, size, detach):
    """Rows at the edge of a chunk share source rows with the next: their gradients must add up, not replace."""
    peers, labels = peers_of(*grids, dtype=torch.float64), labels_of(3, 16, 20, ignored=0.5)
    teacher = torch.tensor([0, 1, MEAN if detach == "none" else NOBODY])
    whole = dense_transfer(peers, teacher, labels, detach=detach, size=size, chunk_rows=99)
    for rows in (1, 3):
        parts = dense_transfer(peers, teacher, labels, detach=detach, size=size, chunk_rows=rows)
        torch.testing.assert_close(parts, whole)
        for a, b in zip(gradients(parts, peers), gradients(whole, peers), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("chunk_rows", [None, 3])
def test_ignored_and_padded_pixels_change_nothing(chunk_rows):
    """What a peer makes of padding would pull its student as hard as the image does, NaN would end the run."""
    labels = labels_of(3, 16, 20, ignored=0)
    labels[:, :, 12:] = 255
    labels[1, 8:] = 255
    teacher = torch.tensor([0, 1, 0])
    for size in (None, (16, 20)):
        results = []
        for junk in (None, 50.0, math.nan):
            peers = peers_of(*MIXED[:2])
            if junk is not None:
                with torch.no_grad():
                    peers[0][..., 6:], peers[1][..., 3:] = junk * torch.randn(3, CLASSES, 8, 4), junk
                    peers[0][1, :, 4:], peers[1][1, :, 2:] = junk, junk * torch.randn(CLASSES, 2, 5)
            loss = dense_transfer(peers, teacher, labels, size=size, chunk_rows=chunk_rows)
            results.append((loss.detach(), *gradients(loss, peers)))
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                assert torch.equal(a, b)
        assert not results[0][1][..., 6:].any()
        assert not results[0][2][1, :, 2:].any()


def test_a_padded_image_pays_what_it_pays_alone():
    """Otherwise an image's loss depends on the largest image of its batch."""
    peers, labels = peers_of((8, 8), (4, 4), batch=1), labels_of(1, 16, 16)
    alone = dense_transfer(peers, torch.tensor([0]), labels, size=(16, 16))
    wide = [F.pad(z, (0, z.shape[3] // 2, 0, z.shape[2]), value=3.0) for z in peers]
    padded_labels = F.pad(labels, (0, 8, 0, 16), value=255)
    torch.testing.assert_close(dense_transfer(wide, torch.tensor([0]), padded_labels, size=(32, 24)), alone)


@pytest.mark.parametrize("chunk_rows", [None, 2])
def test_an_image_or_batch_without_labels_is_finite_and_still(chunk_rows):
    """Every HF head gives NaN here, which ends the training of all peers."""
    teacher, labels = torch.tensor([0, 1, 0]), labels_of(3, 16, 20)
    peers = peers_of(*MIXED[:2])
    before = dense_transfer(peers, teacher, labels, chunk_rows=chunk_rows)
    was = gradients(before, peers)
    labels[1] = 255
    loss = dense_transfer(peers, teacher, labels, chunk_rows=chunk_rows)
    assert (loss[:, 1] == 0).all()
    torch.testing.assert_close(loss[:, [0, 2]], before[:, [0, 2]])
    for now, then in zip(gradients(loss, peers), was, strict=True):
        assert not now[1].any()
        torch.testing.assert_close(now[[0, 2]], then[[0, 2]])
    silent = dense_transfer(peers, teacher, torch.full_like(labels, 255), chunk_rows=chunk_rows)
    assert (silent == 0).all()
    assert all(not g.any() for g in gradients(silent, peers))


def test_doubling_every_pixel_changes_nothing():
    """A crop of twice the resolution must not get four times the transfer."""
    peers, labels = peers_of((8, 8), (8, 8)), labels_of(3, 8, 8)
    teacher = torch.tensor([0, 1, 0])
    twice = [z.detach().repeat_interleave(2, 2).repeat_interleave(2, 3) for z in peers]
    doubled = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(dense_transfer(twice, teacher, doubled), dense_transfer(peers, teacher, labels))


def test_order_of_peers_and_batch_does_not_matter():
    """An index that is off by one teaches the wrong peer; the sum over peers would hide it."""
    peers, labels = peers_of(*MIXED), labels_of(3, 16, 20)
    teacher = torch.tensor([0, 2, NOBODY])
    before = dense_transfer(peers, teacher, labels)
    turned = dense_transfer([peers[2], peers[0], peers[1]], torch.tensor([1, 0, NOBODY]), labels)
    torch.testing.assert_close(turned, before[[2, 0, 1]])
    order = torch.tensor([2, 0, 1])
    shuffled = dense_transfer([z[order] for z in peers], teacher[order], labels[order])
    torch.testing.assert_close(shuffled, before[:, order])


def test_roles_per_image_class_and_pixel_agree_where_they_say_the_same():
    """Three granularities, one loss: only who teaches differs."""
    peers, labels = peers_of(*SAME), labels_of(3, 4, 5)
    by_image = dense_transfer(peers, torch.tensor([0, 1, 0]), labels)
    by_class = dense_transfer(peers, torch.tensor([0, 1, 0])[:, None].expand(3, CLASSES), labels)
    by_pixel = dense_transfer(peers, torch.tensor([0, 1, 0])[:, None, None].expand(3, 4, 5), labels)
    torch.testing.assert_close(by_class, by_image)
    torch.testing.assert_close(by_pixel, by_image)


@pytest.mark.parametrize("granularity", list(SCORES))
def test_scores_of_each_granularity_make_roles_that_fit(granularity):
    """A specialist of one region is to teach there and nowhere else, unless roles are per image."""
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :, 4:] = 1
    good = F.one_hot(labels, 2).movedim(3, 1).float() * 3
    left, right = good.clone(), good.clone()
    left[..., 4:], right[..., :4] = 0, -good[..., :4] * 0.1
    teacher = assign_roles(SCORES[granularity]([left, right], labels))
    cells = cell_teachers(teacher, labels, (8, 8))
    if granularity == "image":
        assert (cells == 0).all()
    else:
        assert torch.equal(cells, labels)
    assert dense_transfer([left, right], teacher, labels).isfinite().all()


def test_cells_without_a_valid_label_have_no_teacher():
    """The share that a peer taught is counted on these cells."""
    labels = torch.tensor([[[0, 1, 255], [0, 255, 255]]])
    assert cell_teachers(torch.tensor([1]), labels, (2, 3)).tolist() == [[[1, 1, -1], [1, -1, -1]]]
    assert cell_teachers(torch.tensor([[0, 1]]), labels, (2, 3)).tolist() == [[[0, 1, -1], [0, -1, -1]]]
    pixel = torch.tensor([[[0, 1, 1], [1, 1, 1]]])
    assert cell_teachers(pixel, labels, (2, 3)).tolist() == [[[0, 1, -1], [1, -1, -1]]]
    wide = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    for roles in (torch.tensor([1]), torch.tensor([[0, 1]]), pixel):
        assert torch.equal(cell_teachers(roles, wide, (2, 3)), cell_teachers(roles, labels, (2, 3)))


def test_an_objective_with_retention_can_be_the_loss_per_cell():
    """Rules, sources and retention are the cohort's, dense or not; only means and grids are added here."""
    objective = Objective(rule=BestRule(), source=FrozenSource(), retain=True, temperature=2.0)
    live, starts, labels = (
        peers_of(*MIXED[:2]),
        [z.detach() for z in peers_of(*MIXED[:2], seed=5)],
        labels_of(3, 16, 20),
    )

    def pull(logits, said, teacher, classes):
        return objective.transfer(logits, said, teacher=teacher, labelled=torch.ones_like(teacher, dtype=torch.bool))

    teacher = torch.tensor([0, 1, NOBODY])
    found = mean_over_pixels(pull, live, teacher, labels, source=starts)
    assert (found[:, :2] > 0).all()
    assert (found[:, 2] == 0).all()
    chunked = mean_over_pixels(pull, live, teacher, labels, source=starts, grid=Grid(chunk_rows=1))
    torch.testing.assert_close(chunked, found)
    for a, b in zip(gradients(chunked, live), gradients(found, live), strict=True):
        torch.testing.assert_close(a, b)
    students = dense_transfer(live, teacher, labels, temperature=2.0, source=starts)
    torch.testing.assert_close(students[1, 0], found[1, 0])


def test_precision_is_fp32_and_autocast_changes_nothing():
    """In bf16 a mean over 16384 pixels stops growing at the 256th."""
    peers, labels, teacher = peers_of(*MIXED[:2]), labels_of(3, 16, 20), torch.tensor([0, 1, 0])
    half = [z.detach().bfloat16().requires_grad_() for z in peers]
    wide = [z.detach().float().requires_grad_() for z in half]
    loss = dense_transfer(half, teacher, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, dense_transfer(wide, teacher, labels))
    for chunk_rows in (None, 2):
        plain = dense_transfer(peers, teacher, labels, chunk_rows=chunk_rows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = dense_transfer(peers, teacher, labels, chunk_rows=chunk_rows)
        assert torch.equal(inside, plain)


def test_on_one_grid_it_is_transfer_loss():
    """Dense and per-sample transfer are one function of cells."""
    peers, labels = peers_of(*SAME), labels_of(3, 4, 5, ignored=0)
    teacher = assign_roles(pixel_scores(peers, labels))
    expected = transfer_loss(peers, teacher).mean(dim=(2, 3))
    torch.testing.assert_close(dense_transfer(peers, teacher, labels), expected)


def test_the_better_peer_teaches_and_the_worse_comes_closer():
    """End to end: a gradient of the wrong sign would pass every test of symmetry."""
    peers, labels = peers_of((8, 10), (4, 5)), labels_of(3, 16, 20)
    teacher = assign_roles(image_scores(peers, labels))
    assert (teacher >= 0).all()
    loss = dense_transfer(peers, teacher, labels)
    moved = [z.detach() - g for z, g in zip(peers, gradients(loss, peers), strict=True)]
    assert (dense_transfer(moved, teacher, labels).sum(0) < loss.sum(0)).all()
    assert class_scores(peers, labels).shape == (2, 3, CLASSES)


def test_shapes_that_do_not_fit_are_refused():
    """A teacher map of another grid would be broadcast, or cropped, without a word."""
    peers, labels = peers_of(*SAME), labels_of(3, 16, 20)
    for roles in (torch.zeros(2), torch.zeros(3, 16, 20), torch.zeros(3, 1, 4, 5), torch.tensor(0)):
        with pytest.raises(DataError, match="Roles of 3 images"):
            dense_transfer(peers, roles.long(), labels)
    with pytest.raises(DataError, match="same images and classes"):
        dense_transfer([peers[0], peers[1][:, :2]], torch.zeros(3).long(), labels)
    with pytest.raises(DataError, match="as many maps"):
        dense_transfer(peers, torch.zeros(3).long(), labels, source=peers[:1])
    with pytest.raises(ConfigError, match="temperature"):
        dense_transfer(peers, torch.zeros(3).long(), labels, temperature=0.0)
