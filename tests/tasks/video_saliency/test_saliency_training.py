"""The trainer with clips: exact resume, peers as ordinary folders, two processes as one, a recipe's whole run."""

import json
import subprocess
import sys

import pytest
import saliency_run
import torch
from saliency_peers import FRAMES, SIDE, tiny_saliency
from saliency_run import PEERS, gaze_videos, saliency_cohort, saliency_trainer
from task_run import SETTINGS, check_resume
from test_saliency_model import WITHOUT_PACKAGE, clean_environment
from transformers import AutoModel, AutoProcessor
from two_processes import two

from hf_mutual_kd import (
    ClipRows,
    Cohort,
    MutualKDConfig,
    MutualKDTrainer,
    PeerError,
    PeerSpec,
    RoleTable,
    VideoSaliencyProcessor,
)
from hf_mutual_kd.distillation.roles import NOBODY
from hf_mutual_kd.hub.files import select
from hf_mutual_kd.peers.adapters import adapter_weights
from hf_mutual_kd.tasks.video_saliency.data.clip_rows import unit_parts

UNITS = range(8)


def roles_of(folder):
    """Teacher by video and frame."""
    table = RoleTable.load(folder / "roles.parquet", PEERS)
    ids = torch.tensor([video << 40 | frame for video in range(8) for frame in range(10)])
    return dict(zip(map(tuple, unit_parts(ids).tolist()), table.lookup(ids).tolist(), strict=True))


def test_resume_is_exact(tmp_path):
    """Target frames that are drawn anew, or an epoch that is counted from 0, give another run."""
    check_resume(saliency_trainer, tmp_path, PEERS)
    assert roles_of(tmp_path / "a") == roles_of(tmp_path / "b")


def test_epochs_draw_other_frames_and_blank_videos_teach_nobody(tmp_path):
    """One frame of each video for ever; or a video at which nobody looked that teaches."""
    saliency_trainer(str(tmp_path), max_steps=8).train()
    decided = {unit: teacher for unit, teacher in roles_of(tmp_path).items() if teacher != -2}
    frames = {video: [unit[2] for unit in decided if unit[0] == video] for video in UNITS}
    assert sum(len(found) > 1 for found in frames.values()) >= 6
    assert {teacher for unit, teacher in decided.items() if unit[0] == 3} == {NOBODY}


def test_an_adapter_is_trained_and_loaded_again(tmp_path):
    """An adapter that trains nothing of an encoder, or whose model's own code cannot be built again."""
    for part in (tiny_saliency("convnext"), VideoSaliencyProcessor((SIDE, SIDE), num_frames=FRAMES)):
        part.save_pretrained(tmp_path / "base")
    made = Cohort.from_pretrained({"a": PeerSpec(str(tmp_path / "base"), peft="lora")}, "video-saliency")
    args = MutualKDConfig(str(tmp_path / "run"), **SETTINGS | {"max_steps": 2, "save_strategy": "no"})
    rows = ClipRows(gaze_videos(4, "train")), ClipRows(gaze_videos(2, "validation"), every=4)
    MutualKDTrainer(made, args, train_dataset=rows[0], eval_dataset=rows[1]).train()
    again = Cohort.from_pretrained({"a": str(tmp_path / "run" / "a")}, "video-saliency")
    trained, found = (adapter_weights(cohort.peers["a"]) for cohort in (made, again))
    assert all(found[key].equal(value) for key, value in trained.items())
    assert any(value.any() for key, value in trained.items() if "lora_B" in key)


def test_trained_peers_are_ordinary_models_with_their_code(tmp_path):
    """A peer that only this package can load is lost to everybody else; code that is not ours must not be pushed."""
    trainer = saliency_trainer(str(tmp_path), max_steps=2, load_best_model_at_end=True)
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "convnext/CC" in entry)
    assert logged["convnext/taught"] + logged["videomae/taught"] <= 1.0
    for name in PEERS:
        folder = tmp_path / name
        model = AutoModel.from_pretrained(folder)
        mine = trainer.cohort.peers[name].state_dict()
        assert all(value.equal(mine[key]) for key, value in model.state_dict().items())
        assert AutoProcessor.from_pretrained(folder).num_frames == 4
        names = {file.name for file in select(folder).files}
        assert {"modeling_video_saliency.py", "losses.py", "config.json"} <= names
        config = next(file for file in select(folder).files if file.name == "config.json")
        assert "auto_map" in json.loads(config.read())
    alone = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, str(tmp_path / "videomae")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean_environment(tmp_path),
    )
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout.splitlines()[-1])[0].startswith("transformers_modules.")
    again = Cohort.from_pretrained({name: tmp_path / name for name in PEERS}, task="video-saliency")
    assert again.label_names == []
    (tmp_path / "convnext" / "losses.py").write_text("import os\n")
    chosen = select(tmp_path / "convnext")
    assert "modeling_video_saliency.py" in chosen.left_out
    config = next(file for file in chosen.files if file.name == "config.json")
    assert "auto_map" not in json.loads(config.read())


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    alone, together = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    saliency_run.main(str(alone), "4")
    one = json.loads((alone / "outcome.json").read_text())
    return [(alone, one), (together, two(together, script="saliency_run.py", batch=2))]


def test_two_processes_see_what_one_sees(outcomes):
    """A frame that is scored twice or never, or frames that are gathered in another order, hides behind means."""
    left, right = (roles_of(folder) for folder, _ in outcomes)
    assert left == right
    numbers = [{key: value for key, value in found["metrics"].items() if "/" in key} for _, found in outcomes]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)
    assert numbers[0]["test_cohort/samples"] == 12
    assert {"test_convnext/consistency", "test_cohort/centre_prior_CC", "test_cohort/left_out"} <= set(numbers[0])


def test_start_is_shown(tmp_path, capsys):
    """Without the centre prior nobody can read a CC."""
    saliency_trainer(str(tmp_path), max_steps=1, pre_flight=True).train()
    assert "centre prior" in capsys.readouterr().out


def test_peers_of_other_tasks_are_refused_when_they_are_loaded(tmp_path):
    """A classifier in a cohort of saliency models fails in the middle of the first batch."""
    from conftest import tiny_vit

    tiny_vit().save_pretrained(tmp_path)
    with pytest.raises(PeerError, match="is a ViTForImageClassification, not a model for video-saliency"):
        Cohort.from_pretrained({"a": tmp_path}, task="video-saliency")


def test_measured_frames_are_of_the_videos(tmp_path):
    """Without training there is a measurement, too."""
    trainer = saliency_trainer(str(tmp_path))
    found = trainer.measure_start(ClipRows(gaze_videos(2, "test"), every=5))
    assert found["cohort"]["samples"] == 4
    assert set(saliency_cohort().names) < set(found)
