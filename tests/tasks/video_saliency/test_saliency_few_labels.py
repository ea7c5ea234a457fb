"""Clips without gaze: peers teach each other on them, nobody is measured on them, and blank frames stay blank."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from saliency_files import gaze_folder, mp4
from saliency_run import gaze_videos, saliency_cohort, saliency_trainer

from hf_mutual_kd import (
    BestRule,
    ClipRows,
    DataError,
    FrozenSource,
    LiveSource,
    Objective,
    RecipeOptions,
    VideoSaliency,
    load_videos,
)
from hf_mutual_kd.data.labelled_rows import which_labelled
from hf_mutual_kd.distillation.label_alignment import ClassColumns
from hf_mutual_kd.distillation.roles import MEAN, NOBODY
from hf_mutual_kd.tasks.video_saliency.collator import ClipCollator
from hf_mutual_kd.training import stages, ways

VIDEO = {"bytes": mp4(range(1, 6)), "path": None}
GAZE = [[[1.0, 2.0]]] * 5
FEATURES = Features(
    {"video": {"bytes": Value("binary"), "path": Value("string")}, "fixations": List(List(List(Value("float32"))))}
)


def load(dataset, **options):
    return load_videos(RecipeOptions(dataset=str(dataset), **options), seed=0)


def save(folder, **splits):
    for name, gaze in splits.items():
        rows = [{"video": VIDEO, "fixations": fixations} for fixations in gaze]
        Dataset.from_list(rows, features=FEATURES).to_parquet(folder / f"{name}.parquet")


def without_gaze(videos, *places):
    return [dataclasses.replace(video, truth=None) if n in places else video for n, video in enumerate(videos)]


def batch_of(videos, cohort, every=6):
    rows = ClipRows(videos, every=every)
    return ClipCollator(cohort.processors)([rows[place] for place in range(len(rows))])


def test_rows_may_lack_gaze(tmp_path):
    """Null that is refused, or read as a blank map, leaves everybody without what most data sets have most of."""
    save(tmp_path, train=[GAZE, None, [], [[]] * 5], validation=[GAZE], test=[GAZE])
    found = load(tmp_path)
    assert [video.has_gaze for video in found.train] == [True, False, False, True]
    assert [video.length for video in found.train] == [5] * 4
    assert which_labelled(ClipRows(found.train, every=5)).tolist() == [True, False, False, True]
    save(tmp_path, train=[GAZE, [*GAZE[:2], None, *GAZE[:2]]])
    with pytest.raises(DataError, match="train row 1 .*frame 2 has null .*nobody looked, null in place of the whole"):
        load(tmp_path)
    save(tmp_path, train=[GAZE], test=[None])
    with pytest.raises(DataError, match="test row 0 .*measures nothing"):
        load(tmp_path)
    splits = {"train": [None], "validation": [GAZE], "test": [GAZE]}
    save(tmp_path, **splits)
    with pytest.raises(DataError, match="no training video has gaze"):
        VideoSaliency(RecipeOptions(dataset=str(tmp_path))).load_splits(0, labels=True)
    assert len(VideoSaliency(RecipeOptions(dataset=str(tmp_path))).load_splits(0, labels=False).train) == 1


def test_folders_may_lack_gaze(tmp_path):
    """Half a truth is a broken download; no truth at all is a clip that can still be learned from."""
    for number in (1, 2, 3):
        gaze_folder(tmp_path / f"{number:04d}")
    gaze_folder(tmp_path / "0601")
    for part in ("maps", "fixation"):
        (tmp_path / "0002" / part).rename(tmp_path / f"gone_{part}")
    found = load(f"dhf1k:{tmp_path}")
    assert {video.name: video.has_gaze for video in found.train + found.validation}["0002"] is False
    assert found.validation[0].has_gaze
    (tmp_path / "gone_maps").rename(tmp_path / "0002" / "maps")
    with pytest.raises(DataError, match="0002: there are neither images in fixation"):
        load(f"dhf1k:{tmp_path}")


def test_gaze_is_hidden_on_request(tmp_path):
    """Curves over the number of labels need the same videos, and none of the hidden gaze in the centre prior."""
    save(tmp_path, train=[GAZE] * 6 + [None], validation=[GAZE], test=[GAZE])
    few, more = (load(tmp_path, max_labelled_samples=count) for count in (2, 4))
    seen = [{video.name for video in found.train if video.has_gaze} for found in (few, more)]
    assert [len(one) for one in seen] == [2, 4]
    assert seen[0] < seen[1]
    assert few.facts["fingerprint"] != more.facts["fingerprint"]
    assert len(ClipRows(few.train).reference.places) == 10
    with pytest.raises(DataError, match="max_labelled_samples is 7, but only 6"):
        load(tmp_path, max_labelled_samples=7)


@pytest.mark.parametrize("source", [FrozenSource(), LiveSource()])
def test_the_mean_teaches_where_no_gaze_was_recorded(source):
    """Taken for a blank frame, a clip without gaze teaches nobody anything; a blank frame that teaches is made up."""
    cohort = saliency_cohort()
    videos = without_gaze(gaze_videos(3, "train", blank=2), 1)
    cohort.set_objective(Objective(BestRule(), source, score="loss", unlabelled_rows=True))
    batch = batch_of(videos, cohort)
    output = cohort.train()(**batch)
    known = torch.tensor([0, 1, 2]).repeat_interleave(2)
    assert (output.teacher[known == 0] >= 0).all()
    assert (output.teacher[known == 1] == MEAN).all()
    assert (output.teacher[known == 2] == NOBODY).all()
    labels = batch["labels"]
    task, logits = cohort.task, list(output.outputs.values())
    assert task.labelled(labels).tolist() == [True, True, False, False, False, False]
    for name, outputs in output.outputs.items():
        loss = task.supervised(cohort.peers[name], batch["peer_inputs"][name], ClassColumns(name, 0), labels, 0.0)[1]
        assert outputs.isfinite().all()
        assert (loss[2:] == 0).all()
    assert torch.isnan(task.table_scores(logits, labels)["score"][:, 2:]).all()
    assert task.ranked(labels).tolist() == [True, True, False, False, True, True]


def test_a_video_without_gaze_changes_no_measure():
    """A mean over frames of which nothing is known is lower than any model deserves, or NaN."""
    cohort, task, videos = saliency_cohort().eval(), VideoSaliency(), gaze_videos(3, "test")
    results = []
    for some in (videos, without_gaze([*videos, dataclasses.replace(videos[0], name="more")], 3)):
        batch, evaluator = batch_of(some, cohort), task.evaluator(cohort.names, 0)
        with torch.no_grad():
            outputs = list(cohort(peer_inputs=batch["peer_inputs"]).outputs.values())
        evaluator.add(task.evaluation_facts(outputs, batch["labels"], batch["sample_ids"]))
        results.append((evaluator.compute(), evaluator.sample_scores()))
    (plain, scores), (more, others) = results
    for name in cohort.names:
        assert more[name] == pytest.approx(plain[name], abs=1e-6)
    assert (more["cohort"]["samples"], more["cohort"]["left_out"]) == (8, 2)
    assert scores.shape == others.shape == (3, 2)  # by video: its frames are not independent
    assert scores == pytest.approx(others, abs=1e-6)


def test_stages_learn_from_clips_without_gaze(tmp_path, monkeypatch):
    """What classification has, saliency refused: steps with a share of labels, a self-trained control, a choice."""
    monkeypatch.setattr(ways, "WAYS", {"mean": ways.WAYS["mean"]})
    monkeypatch.setattr(stages, "ALPHAS", (0.5,))
    trainer = saliency_trainer(str(tmp_path), teaching="auto", max_steps=2)
    trainer.train_dataset.rows.videos = without_gaze(trainer.train_dataset.rows.videos, *range(2, 8))
    trainer.train()
    assert trainer.stages.arms == ["start", "control", "self", "mutual", "kept"]
    facts = json.loads((tmp_path / "stages" / "stages.json").read_text())["facts"]
    assert facts["labelled_share"] == 0.25
    for name, kept in facts["kept"].items():
        assert kept["rows"] == 2
        assert np.isfinite([values[name] for values in facts["validation"].values()]).all()
