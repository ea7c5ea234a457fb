"""What an evaluation of saliency peers records for the report: videos, single frames, drawn samples."""

import numpy as np
import pytest
import torch
from saliency_run import gaze_videos, saliency_cohort

from hf_mutual_kd import ClipRows, VideoSaliency
from hf_mutual_kd.reports.pictures import read_map
from hf_mutual_kd.tasks.video_saliency.collator import ClipCollator


def test_frames_and_videos_are_those_of_the_means():
    """The numbers of one frame or video under the name of another, or blank frames that count."""
    cohort, videos, task = saliency_cohort(), gaze_videos(3, "test", blank=1), VideoSaliency()
    rows = ClipRows(videos, every=4)
    evaluator = task.evaluator(cohort.names, 0)
    batches = [ClipCollator(cohort.processors)([rows[place] for place in part]) for part in ([8, 7, 6, 3], [0, 1, 2])]
    for batch in batches:
        with torch.no_grad():
            answers = list(cohort.eval()(peer_inputs=batch["peer_inputs"]).outputs.values())
        evaluator.add(task.evaluation_facts(answers, batch["labels"], batch["sample_ids"]))
    found, means = evaluator.records(), evaluator.compute()
    ids = rows.sample_ids()
    assert found["sample/id"].tolist() == [ids[place] for place in (0, 1, 2, 6, 7, 8)]
    assert found["sample/group"].tolist() == [0, 0, 0, 2, 2, 2]
    assert found["videos"].tolist() == [0, 1, 2]
    assert found["video_frames"].tolist() == [3, 0, 3]
    assert np.isnan(found["video_means"][1]).all()
    metrics = task.row_facts(rows)["metrics"]
    assert task.row_facts(rows)["videos"] == ["test0", "test1", "test2"]
    for index, name in enumerate(cohort.names):
        assert found["sample/cc"][:, index].mean() == pytest.approx(means[name]["CC"], abs=1e-5)
        assert -found["sample/score"][:, index].mean() == pytest.approx(means[name]["loss"], abs=1e-5)
        by_video = np.nanmean(found["video_means"][:, index, metrics.index("CC")])
        assert by_video == pytest.approx(means[name]["video_CC"], abs=1e-5)
        assert found["video_means"][2, index, 0] == pytest.approx(found["sample/cc"][3:, index].mean(), abs=1e-5)


def test_a_frame_is_drawn_as_both_cohorts_see_it():
    """The maps of the trained peers in both columns, or a frame at which nobody looked."""
    before, after = saliency_cohort(), saliency_cohort()
    with torch.no_grad():
        for parameter in after.peers["convnext"].parameters():
            parameter.zero_()
    rows = ClipRows(gaze_videos(2, "test", blank=1), every=4)
    found = before.task.draw(before, after, rows[1])
    assert (found.id, found.name, found.teacher) == (rows.sample_ids()[1], "test0 frame 4", None)
    assert read_map(found.truth).max() == 255
    assert found.maps["before/convnext"] != found.maps["after/convnext"]
    assert found.maps["before/videomae"] == found.maps["after/videomae"]
    assert before.task.draw(before, after, rows[4]) is None
