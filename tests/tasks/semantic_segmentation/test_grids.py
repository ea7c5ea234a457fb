"""Grids and scores by hand, against torch's own resizing, and with ignored, padded and broken pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from hf_mutual_kd import DataError, LabelError, assign_roles
from hf_mutual_kd.distillation.roles import NOBODY
from hf_mutual_kd.tasks.maps import coarsest_grid
from hf_mutual_kd.tasks.semantic_segmentation.grids import AT_ONCE, Resampler, nearest_labels, row_chunks, valid_cells
from hf_mutual_kd.tasks.semantic_segmentation.scores import SCORES, class_scores, image_scores, pixel_scores

CLASSES = 4


def peers_of(*grids, batch=3, classes=CLASSES, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(batch, classes, *grid, generator=generator, dtype=torch.float64) for grid in grids]
    return [(2 * z).log_softmax(1).to(dtype) for z in draw]


def labels_of(*shape, ignored=0.2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, shape, generator=generator)
    return labels.masked_fill(torch.rand(shape, generator=generator) < ignored, 255)


def test_half_of_the_labels_make_a_cell_valid():
    """The limit itself: half counts, just under half does not."""
    labels = torch.tensor([[[0, 255, 255, 255], [255, 3, 255, 1]]])
    assert valid_cells(labels, (1, 2)).tolist() == [[[True, False]]]
    assert torch.equal(valid_cells(labels, (2, 4)), labels != 255)
    assert valid_cells(labels.masked_fill(labels == 255, -100).to(torch.int16), (1, 2), -100).tolist() == [
        [[True, False]]
    ]


@pytest.mark.parametrize("size", [(3, 4), (5, 7), (1, 1), (12, 16), (20, 9)])
def test_valid_cells_equal_a_count_in_every_cell(size):
    """An off-by-one in the sums shifts every mask by a cell, which no loss curve shows."""
    labels = labels_of(2, 12, 16, ignored=0.5)
    found = valid_cells(labels, size)
    for b in range(2):
        for i in range(size[0]):
            for j in range(size[1]):
                rows = slice(i * 12 // size[0], math.ceil((i + 1) * 12 / size[0]))
                columns = slice(j * 16 // size[1], math.ceil((j + 1) * 16 / size[1]))
                share = (labels[b, rows, columns] != 255).double().mean()
                assert found[b, i, j] == (share >= 0.5)


@pytest.mark.parametrize("size", [(3, 4), (5, 7), (24, 32), (12, 16)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_nearest_labels_are_those_at_cell_centres(size, dtype):
    """Mode "nearest" takes the upper left corner: labels half a cell beside the logits."""
    labels = labels_of(2, 12, 16).to(dtype)
    expected = F.interpolate(labels[:, None].double(), size=size, mode="nearest-exact")[:, 0]
    assert torch.equal(nearest_labels(labels, size), expected.to(dtype))


@pytest.mark.parametrize("size", [(12, 16), (7, 9), (6, 9), (5, 16), (6, 8)])
@pytest.mark.parametrize("step", [1, 4, 100])
def test_without_ignored_pixels_resampling_is_torchs(size, step):
    """Chunks must be the rows of the whole, not small images with borders of their own."""
    (values,) = peers_of((6, 8), dtype=torch.float64)
    resample = Resampler((6, 8), size, labels_of(3, 24, 32, ignored=0))
    parts = []
    for start, stop in row_chunks(1, size, step):
        first, last = resample.source_rows(start, stop)
        parts.append(resample(values[:, :, first:last], start, stop))
    pooled = F.adaptive_avg_pool2d(values, (min(6, size[0]), min(8, size[1])))
    expected = F.interpolate(pooled, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(torch.cat(parts, dim=2), expected)
    torch.testing.assert_close(resample(values), expected)


def test_means_over_cells_do_not_alias():
    """Plain bilinear by a factor of 4 reads 2 of 4 pixels and drops the rest."""
    values = torch.arange(16.0).reshape(1, 1, 4, 4)
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    assert Resampler((4, 4), (2, 2), labels)(values).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


@pytest.mark.parametrize("size", [(4, 4), (16, 16), (5, 11)])
def test_fully_ignored_source_pixels_have_no_weight(size):
    """Interpolation would carry what a peer makes of padding into the pixels beside it."""
    (values,) = peers_of((8, 8), batch=1)
    labels = labels_of(1, 16, 16, ignored=0)
    labels[:, :, 8:] = 255
    poisoned = values.clone()
    poisoned[..., 4:] = math.nan
    resample = Resampler((8, 8), size, labels)
    valid = valid_cells(labels, size)
    a, b = resample(values), resample(poisoned)
    assert torch.equal(a[:, 0][valid], b[:, 0][valid])
    assert a[:, 0][valid].isfinite().all()


def test_a_padded_image_is_resampled_as_alone():
    """In a batch of mixed sizes every smaller image would get other values at its border."""
    (values,) = peers_of((4, 6), batch=1, dtype=torch.float64)
    labels = labels_of(1, 16, 24, ignored=0)
    alone = Resampler((4, 6), (16, 24), labels)(values)
    padded_labels = F.pad(labels, (0, 8, 0, 16), value=255)
    padded = Resampler((8, 8), (32, 32), padded_labels)(F.pad(values, (0, 2, 0, 4), value=7.0))
    torch.testing.assert_close(padded[:, :, :16, :24], alone)


def test_image_score_by_hand():
    """The score is minus the mean CE over valid pixels: a sum would let the number of labels decide."""
    peers = torch.tensor([[[0.5, 0.25], [0.5, 0.75]], [[0.8, 0.8], [0.2, 0.2]]]).log().reshape(2, 1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]])
    expected = [[math.log(0.5 * 0.75) / 2], [math.log(0.8 * 0.2) / 2]]
    torch.testing.assert_close(image_scores(peers, labels), torch.tensor(expected))
    labels[0, 0, 1] = 255
    torch.testing.assert_close(image_scores(peers, labels), torch.tensor([[0.5], [0.8]]).log())
    torch.testing.assert_close(image_scores(list(peers.double()), labels), torch.tensor([[0.5], [0.8]]).double().log())


def test_image_score_equals_cross_entropy_at_label_size():
    """Peers of stride 2 and 4 must be compared on the same labels, each by its own library's upsampling."""
    peers, labels = peers_of((8, 10), (4, 5), (16, 20)), labels_of(3, 16, 20, ignored=0)
    expected = []
    for z in peers:
        full = F.interpolate(z, size=(16, 20), mode="bilinear", align_corners=False)
        expected.append(-F.cross_entropy(full, labels, reduction="none").mean(dim=(1, 2)))
    torch.testing.assert_close(image_scores(peers, labels), torch.stack(expected))
    assert coarsest_grid(peers) == (4, 5)


@pytest.mark.parametrize("granularity", list(SCORES))
def test_scores_ask_for_no_gradient_and_do_not_care_about_chunks(granularity):
    """Rows at the edge of a chunk need their neighbours in the next one."""
    peers, labels = peers_of((8, 10), (4, 5)), labels_of(3, 16, 20)
    peers[0].requires_grad_()
    whole = SCORES[granularity](peers, labels, size=(16, 20), chunk_rows=16)
    assert not whole.requires_grad
    for rows in (1, 5):
        torch.testing.assert_close(SCORES[granularity](peers, labels, size=(16, 20), chunk_rows=rows), whole)


@pytest.mark.parametrize("granularity", list(SCORES))
def test_scores_do_not_depend_on_batch_mates_or_the_order_of_peers(granularity):
    """A score normalised over the batch, as Mask2Former's loss is, gives an image other teachers at every epoch."""
    peers, labels = peers_of((8, 10), (4, 5)), labels_of(3, 16, 20)
    together = SCORES[granularity](peers, labels)
    alone = torch.cat([SCORES[granularity]([z[b : b + 1] for z in peers], labels[b : b + 1]) for b in range(3)], dim=1)
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)
    assert torch.equal(assign_roles(together), assign_roles(alone))
    torch.testing.assert_close(SCORES[granularity](peers[::-1], labels), together.flip(0))
    mates = [torch.cat([z[:1], torch.full_like(z[1:], math.nan)]) for z in peers]
    torch.testing.assert_close(SCORES[granularity](mates, labels)[:, 0], together[:, 0])


@pytest.mark.parametrize("granularity", list(SCORES))
def test_an_image_without_valid_pixels_has_no_teacher(granularity):
    """Every HF head gives NaN here; 0 / 0 in one image must not reach the others."""
    peers, labels = peers_of((4, 5), (4, 5)), labels_of(3, 16, 20)
    before = SCORES[granularity](peers, labels)
    labels[1] = 255
    scores = SCORES[granularity](peers, labels)
    assert (scores[:, 1] == 0).all()
    assert (assign_roles(scores)[1] == NOBODY).all()
    assert torch.equal(scores[:, [0, 2]], before[:, [0, 2]])


def test_what_stands_under_ignored_labels_does_not_matter():
    """Peers differ most in padding, which no label judges."""
    peers, labels = peers_of((8, 10), (4, 5)), labels_of(3, 16, 20)
    labels[:, :, 12:] = 255
    before = image_scores(peers, labels)
    peers[0][..., 6:], peers[1][..., 3:] = math.nan, 1e4
    assert torch.equal(image_scores(peers, labels), before)


def test_doubling_every_pixel_changes_no_score():
    """A score that grows with the resolution favours nobody, but weights of losses would."""
    peers, labels = peers_of((8, 8), (8, 8)), labels_of(3, 8, 8)
    twice = [z.repeat_interleave(2, 2).repeat_interleave(2, 3) for z in peers]
    doubled = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(image_scores(twice, doubled), image_scores(peers, labels))
    torch.testing.assert_close(class_scores(twice, doubled), class_scores(peers, labels))


def test_a_broken_peer_never_teaches():
    """NaN compared with anything is false, so that a broken peer could win."""
    peers, labels = peers_of((4, 5), (4, 5)), labels_of(3, 16, 20, ignored=0)
    peers[0][1, 2, 3, 3] = math.nan
    assert image_scores(peers, labels)[0].isfinite().tolist() == [True, False, True]
    assert assign_roles(image_scores(peers, labels))[1] == 1


def test_class_scores_are_means_over_the_pixels_of_a_class():
    """Ignored pixels stand in a class of their own, which must not come out as class 0."""
    peers, labels = peers_of((6, 7), (6, 7)), labels_of(3, 6, 7)
    scores = class_scores(peers, labels)
    assert scores.shape == (2, 3, CLASSES)
    for b in range(3):
        for c in range(CLASSES):
            expected = torch.stack([z[b, c][labels[b] == c].mean() for z in peers])
            torch.testing.assert_close(scores[:, b, c], expected)
    absent = class_scores(peers, labels.masked_fill(labels == 2, 255))
    assert (absent[:, :, 2] == 0).all()


def test_pixel_scores_are_the_truths_log_probability_on_the_coarsest_grid():
    """Roles per pixel live where transfer takes place; an invalid cell has no teacher."""
    peers, labels = peers_of((8, 10), (4, 5)), labels_of(3, 16, 20)
    scores = pixel_scores(peers, labels)
    truth, valid = nearest_labels(labels, (4, 5)), valid_cells(labels, (4, 5))
    counted = valid & (truth != 255)
    assert not counted.all()
    expected = peers[1].gather(1, truth.clamp(max=CLASSES - 1)[:, None])[:, 0]
    torch.testing.assert_close(scores[1][counted], expected[counted])
    assert (scores[:, ~counted] == 0).all()


def test_chunks_cover_the_rows_once_and_depend_on_the_size_alone():
    """A row that is left out, or counted twice, moves a mean a little and nothing else."""
    for rows in (1, 3, 10, 99):
        chunks = row_chunks(5, (10, 4), rows)
        assert [r for start, stop in chunks for r in range(start, stop)] == list(range(10))
    assert row_chunks(4, (1024, 1024)) == [(0, 1024)]
    assert AT_ONCE == 4 * 1024 * 1024
    assert len(row_chunks(5, (1024, 1024))) > 1
    assert len(row_chunks(5, (16, 16), sources=[(1024, 1024)])) > 1
    with pytest.raises(DataError, match="chunk_rows must be 1 or more"):
        row_chunks(5, (10, 4), 0)


def test_labels_and_shapes_that_do_not_fit_are_refused():
    """An index out of range is an assertion on the device, without a word about the image."""
    peers, labels = peers_of((4, 5), (4, 5)), labels_of(3, 16, 20)
    labels[2, 3, 4] = CLASSES
    with pytest.raises(LabelError, match="Image 2 of the batch has label 4"):
        image_scores(peers, labels)
    with pytest.raises(DataError, match="same images and classes"):
        image_scores([peers[0], peers[1][:, :2]], labels)
    with pytest.raises(DataError, match="same images and classes"):
        image_scores(peers, labels[:2])
