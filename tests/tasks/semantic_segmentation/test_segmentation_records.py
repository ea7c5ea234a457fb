"""What an evaluation of segmentation peers records for the report: flips, reliability, single images."""

import numpy as np
import pytest
import torch
from segmentation_run import segmentation_cohort, segmentation_rows
from torch.nn import functional as F

from hf_mutual_kd import IGNORE, SemanticSegmentation
from hf_mutual_kd.reports.pictures import read_map
from hf_mutual_kd.reports.samples import BINS
from hf_mutual_kd.tasks.semantic_segmentation.evaluation_facts import LATTICE, cell_reliability, on_lattice
from hf_mutual_kd.tasks.semantic_segmentation.head_losses import DenseOutput

SIDE = LATTICE


def said(maps, sure=0.8):
    """Answers of peers that say these classes `[N, B, H, W]`, always as sure, of three classes."""
    rest = (1 - sure) / 2
    chances = F.one_hot(maps, 3).permute(0, 1, 4, 2, 3).float() * (sure - rest) + rest
    return [DenseOutput({"logits": one.log()}, "pixel", (SIDE, SIDE), None) for one in chances]


def maps_of(*rows):
    """Maps of constant rows of classes: the class of the upper and of the lower half."""
    halves = torch.tensor(rows)
    return halves.repeat_interleave(SIDE // 2, -1).unsqueeze(-1).expand(*halves.shape[:-1], SIDE, SIDE).contiguous()


def evaluated(truth, maps, start=None, ids=(7, 3), size=2):
    task = SemanticSegmentation()
    evaluator = task.evaluator(["a", "b"], 3, start)
    for first in range(0, len(truth), size):
        part = slice(first, first + size)
        evaluator.add(task.evaluation_facts(said(maps[:, part]), truth[part], torch.tensor(ids)[part]))
    return evaluator


TRUTH = maps_of([0, 1], [1, 2])
START = maps_of([[0, 0], [0, 2]], [[1, 1], [1, 2]])
AFTER = maps_of([[0, 1], [1, 2]], [[1, 1], [2, 2]])


@pytest.mark.parametrize("size", [1, 2])
def test_flips_of_pixels_by_hand(size):
    """Flips of another image or peer, or pixels that are known to the learner itself."""
    start = evaluated(TRUTH, START, size=size)
    found = evaluated(TRUTH, AFTER, start, size=size).records()
    half = SIDE * SIDE // 2
    assert found["points"].tolist() == [half, 2 * half, half]
    # Peer a learns the lower half of the first image, which b knew, and the upper half of the second, which b knew.
    assert (found["flips"][0] / half).tolist() == [[0, 0, 0], [2, 0, 2], [0, 0, 0]]
    # Peer b loses the upper half of the second image.
    assert (found["flips"][1] / half).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert "flips" not in start.records()


def test_images_met_by_one_evaluation_alone_are_not_compared():
    """A sample that is compared with whatever lies beside it."""
    start = evaluated(TRUTH[:1], START[:, :1], ids=(3,))
    assert evaluated(TRUTH, AFTER, start).records()["points"].sum() == SIDE * SIDE
    assert evaluated(TRUTH, AFTER, evaluated(TRUTH, START, ids=(1, 2))).records()["points"].sum() == 0


def test_single_images_and_confusions():
    """The share of right pixels of one image under the id of another."""
    truth = TRUTH.clone()
    truth[0, : SIDE // 2] = IGNORE
    found = evaluated(truth, START).records()
    assert found["sample/id"].tolist() == [3, 7]
    assert found["sample/score"].tolist() == [[0.5, 1.0], [0.0, 1.0]]
    assert found["sample/teacher"].tolist() == [1, 1]
    half = SIDE * SIDE // 2
    confusions = {tuple(row[:3]): row[3] for row in found["confusions"].tolist()}
    assert confusions == {(0, 1, 0): 2 * half, (0, 2, 2): half, (1, 1, 1): 2 * half, (1, 2, 2): half}


def test_reliability_by_hand():
    """Cells that do not count, or counts that a lower precision rounds."""
    found = evaluated(TRUTH, START).records()["reliability"]
    cells = 2 * SIDE * SIDE
    assert found[:, 0].sum(1).tolist() == [cells, cells]
    assert found[0, :, int(0.8 * BINS)] == pytest.approx([cells, 0.8 * cells, cells / 2], rel=1e-5)
    log_probs = said(START[:, :1])[0].log_probs[0]
    with torch.autocast("cpu", torch.bfloat16):
        alone = cell_reliability(log_probs, TRUTH[:1])
    assert float(alone[0].sum()) == SIDE * SIDE
    assert float(cell_reliability(log_probs, torch.full((1, 5, 5), IGNORE)).sum()) == 0
    assert float(cell_reliability(log_probs * torch.nan, TRUTH[:1]).sum()) == 0


def test_the_lattice_is_the_same_place_in_every_map():
    """Truth and prediction that are compared at places beside each other."""
    plane = torch.arange(100 * 30).view(100, 30)
    found = on_lattice(plane)
    assert len(found) == LATTICE * LATTICE
    assert (int(found[0]), int(found[-1])) == (0, 99 * 30 + 29)


def test_an_image_is_drawn_as_both_cohorts_see_it():
    """The maps of the trained peers in both columns."""
    before, after = segmentation_cohort(), segmentation_cohort()
    with torch.no_grad():
        after.peers["segformer"].decode_head.classifier.bias[2] += 100
    row = segmentation_rows(1)[0] | {"sample_id": 4}
    found = before.task.draw(before, after, row)
    assert (found.id, found.name) == (4, "sample 4")
    assert np.unique(read_map(found.maps["after/segformer"])).tolist() == [2]
    assert np.unique(read_map(found.maps["before/segformer"])).tolist() != [2]
    assert found.maps["before/mask2former"] == found.maps["after/mask2former"]
    assert read_map(found.teacher).shape == read_map(found.truth).shape


def test_images_vote_on_the_metric_that_selects():
    """A peer that learns a rare class was dropped, as the margin looked at pixels while mIoU ranked the candidates."""
    rare = TRUTH.clone()
    rare[0, : SIDE // 2], rare[0, :1] = 1, 0  # one row of class 0
    missed = rare.clone()
    missed[0, :1] = 1
    evaluator = evaluated(rare, torch.stack([rare, missed]))
    peers = evaluator.compute()
    right, votes = evaluator.sample_scores().mean(0), evaluator.metric_scores("mIoU").mean(0)
    assert right[0] - right[1] < 0.01
    assert votes[0] == pytest.approx(peers["a"]["mIoU"]) == 1.0
    assert votes[0] - votes[1] > 0.3
    assert evaluator.metric_scores("loss").tolist() == evaluator.sample_scores().tolist()
