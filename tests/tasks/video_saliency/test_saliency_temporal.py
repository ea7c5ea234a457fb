"""The temporal regulariser in training: pairs of neighbouring frames, seen alike, and nothing else is changed."""

import dataclasses

import pytest
import torch
from saliency_run import gaze_videos, saliency_cohort, saliency_trainer

from hf_mutual_kd.config.options import TransferOptions
from hf_mutual_kd.distillation.label_alignment import ClassColumns
from hf_mutual_kd.errors import ConfigError
from hf_mutual_kd.tasks.registry import VideoSaliency
from hf_mutual_kd.tasks.video_saliency.collator import FOLLOWS, ClipCollator
from hf_mutual_kd.tasks.video_saliency.data.clip_rows import ClipRows, ClipView, unit_parts
from hf_mutual_kd.tasks.video_saliency.data.fixations import FixationList
from hf_mutual_kd.tasks.video_saliency.data.truth_batches import DENSITY, split_truths
from hf_mutual_kd.tasks.video_saliency.model.losses import temporal_change

COLUMNS = ClassColumns("convnext")


def pairs_of(cohort, view, frames=(0, 2, 6, 11)):
    """Units of three videos of ten frames, of which the second has a cut before its frame 6, every third frame."""
    rows = ClipRows(gaze_videos(3, "train"), every=3)
    return ClipCollator(cohort.processors, view=view)([rows[place] for place in frames])


def test_neighbours_are_pairs_of_one_shot():
    """The change across a cut is none of the gaze's; a unit taken for the neighbour of another video's would move."""
    batch = pairs_of(saliency_cohort(), ClipView(1.0, flip=False, neighbours=True))
    found = unit_parts(batch["sample_ids"]).tolist()
    assert found == [[0, 0, 0], [0, 0, 5], [0, 0, 6], [1, 1, 6], [2, 0, 8], [2, 0, 9]]
    for inputs in batch["peer_inputs"].values():
        assert inputs[FOLLOWS].tolist() == [False, False, True, False, False, True]
        assert len(inputs["pixel_values"]) == 6
    assert FOLLOWS not in pairs_of(saliency_cohort(), ClipView())["peer_inputs"]["convnext"]


@pytest.mark.parametrize("seed", range(4))
def test_neighbours_are_seen_alike(seed):
    """Cropped or flipped one by one, a gaze that rests would jump."""
    cohort, rests = saliency_cohort(), FixationList([[[4, 6], [20, 28]]] * 10)
    videos = [
        dataclasses.replace(video, truth=dataclasses.replace(video.truth, fixations=rests))
        for video in gaze_videos(3, "train")
    ]
    rows = ClipRows(videos, every=3)
    batch = ClipCollator(cohort.processors, view=ClipView(0.3, neighbours=True, seed=seed))(
        [rows[place] for place in (1, 2, 7)]
    )
    truths = split_truths(batch["labels"])
    assert batch["peer_inputs"]["convnext"][FOLLOWS].tolist() == [False, True] * 3
    for later in (1, 3, 5):
        assert torch.equal(truths[later - 1], truths[later])


def test_the_change_is_added_to_both_of_a_pair():
    """Borne by one unit alone, its weight would depend on how many units a batch has that have no neighbour."""
    cohort = saliency_cohort()
    batch = pairs_of(cohort, ClipView(1.0, neighbours=True))
    inputs, labels = batch["peer_inputs"]["convnext"], batch["labels"]
    plain = VideoSaliency()
    with_change = VideoSaliency(temporal_weight=3.0)
    model = cohort.peers["convnext"]
    with torch.no_grad():
        logits, without = plain.supervised(model, inputs, COLUMNS, labels, 0.0)
        same, losses = with_change.supervised(model, inputs, COLUMNS, labels, 0.0)
    assert torch.equal(logits, same)
    truth = split_truths(labels)
    expected = torch.zeros(6)
    for later in (2, 5):
        pair = torch.stack([truth[later - 1][DENSITY], truth[later][DENSITY]])[None]
        expected[[later - 1, later]] = 3.0 * temporal_change(logits[None, [later - 1, later]], pair)
    torch.testing.assert_close(losses - without, expected, atol=1e-6, rtol=1e-5)
    assert (expected > 0).tolist() == [False, True, True, False, True, True]
    with pytest.raises(ConfigError, match="ClipView"):
        with_change.supervised(model.train(), {"pixel_values": inputs["pixel_values"]}, COLUMNS, labels, 0.0)


def test_trainings_take_it(tmp_path):
    """An option that no batch and no loss hears of gives the same model under another name."""
    supervised = []
    for weight in (0.0, 5.0):
        trainer = saliency_trainer(
            str(tmp_path / str(weight)), temporal_weight=weight, max_steps=1, logging_steps=1, eval_strategy="no",
            save_strategy="no", transfer_weight=0.0,
        )  # fmt: skip
        trainer.train()
        supervised.append(trainer.state.log_history[0]["convnext/supervised"])
        assert len(trainer.record.role_table) == 0
    assert supervised[0] != pytest.approx(supervised[1], abs=1e-3)


def test_what_it_cannot_be_joined_with_is_refused():
    """Without the view there are no neighbours, and a score table knows none of them."""
    for options, words in ((TransferOptions(augment=False), "augment"), (TransferOptions(score_table="x"), "table")):
        with pytest.raises(ConfigError, match=words):
            VideoSaliency(temporal_weight=1.0).check_transfer(options)
