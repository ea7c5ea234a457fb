"""Checkpoints on the loopback Hub: what each strategy pushes, and training that resumes from what comes back."""

import json
import logging
import shutil
import time
from pathlib import Path

import pytest
import torch
from conftest import make_rows
from hub_run import BRISK, PUSHED, REPOS, TOKEN, contents, destination, write_record

from hf_mutual_kd import HubError, MutualKDTrainer
from hf_mutual_kd.hub.calls import HubCalls
from hf_mutual_kd.hub.checkpoints import PushInBackground, pull_checkpoint, push_checkpoint


def train(make_cohort, folder, steps, resume=None, **changes):
    from hf_mutual_kd import MutualKDConfig

    torch.manual_seed(0)
    args = MutualKDConfig(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        save_steps=3,
        save_strategy="steps",
        eval_strategy="steps",
        eval_steps=3,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        pre_flight=False,
        **changes,
    )
    trainer = MutualKDTrainer(make_cohort("vit", "cnx"), args, make_rows(48), make_rows(9, 1))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_training_resumes_exactly_from_a_pushed_checkpoint(hub, make_cohort, tmp_path, monkeypatch):
    """A state that lost a bit on its way to the Hub resumes without complaint and ends elsewhere."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    whole = train(make_cohort, tmp_path / "whole", 6)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    write_record(tmp_path / "whole", "vit", "cnx", dataset="shapes")
    pushed = push_checkpoint(tmp_path / "whole", checkpoint, "checkpoint", destination(hub), BRISK)
    assert pushed.repositories["vit"] == "ada/vit-shapes-mutual"
    names = {name for repo in pushed.repositories.values() for name in hub.files(repo)}
    assert {Path(name).suffix for name in names} <= {".json", ".safetensors"}
    assert [len(hub.commits(repo)) for repo in pushed.repositories.values()] == [2, 2]
    assert str(tmp_path).encode() not in hub.everything_received()
    calls = HubCalls(TOKEN, hub.url, BRISK)
    pulled = pull_checkpoint("ada/vit-shapes-mutual", tmp_path / "resumed", calls=calls)
    assert pulled == tmp_path / "resumed" / "checkpoint-3"
    ours, theirs = contents(checkpoint), contents(pulled)
    assert set(theirs) == set(ours)
    state = json.loads(ours.pop("trainer_state.json"))
    # The path of the best checkpoint is this machine's and stays here.
    assert json.loads(theirs["trainer_state.json"]) == state | {"best_model_checkpoint": None}
    for name in ours:
        if not name.endswith((".pt", ".pth")):
            assert theirs[name] == ours[name], name
    resumed = train(make_cohort, tmp_path / "resumed", 6, resume=str(pulled))
    for key, value in whole.cohort.peers.state_dict().items():
        assert torch.equal(value, resumed.cohort.peers.state_dict()[key]), key
    assert torch.equal(
        *(
            torch.load(tmp_path / run / "checkpoint-6/rng_state.pth", weights_only=False)["cpu"]
            for run in ("whole", "resumed")
        )
    )
    assert contents(tmp_path / "whole" / "vit") == contents(tmp_path / "resumed" / "vit")
    with pytest.raises(HubError, match="checkpoint-3 exists already"):
        pull_checkpoint("ada/vit-shapes-mutual", tmp_path / "resumed", calls=calls)
    with pytest.raises(
        HubError, match="holds no checkpoint in last-checkpoint; give the repository of the cohort's fi"
    ):
        pull_checkpoint("ada/cnx-shapes-mutual", tmp_path / "other", calls=calls)


def fake_checkpoint(run: Path, step: int, **files: bytes) -> Path:
    folder = run / f"checkpoint-{step}"
    for name in "abcd":
        shutil.copytree(run / name, folder / name, symlinks=True)
        (folder / name / "config.json").write_text(json.dumps({"model_type": "vit", "step": step}))
    state = {"global_step": step, "best_model_checkpoint": str(run / "checkpoint-1")}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    torch.save({"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(3)}}}, folder / "optimizer.pt")
    (folder / "training_args.bin").write_bytes(b"PICKLE")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_strategies_push_what_their_names_say(hub, run):
    """`all_checkpoints` keeps every state, `checkpoint` the last; stale parts of the last one would mix two steps."""
    push_checkpoint(run, fake_checkpoint(run, 1), "every_save", destination(hub), BRISK)
    assert set(hub.files(REPOS[0])) == PUSHED
    shutil.copytree(run / "checkpoint-1" / "a", run / "checkpoint-1" / "best" / "a", symlinks=True)
    push_checkpoint(run, run / "checkpoint-1", "checkpoint", destination(hub), BRISK)
    assert "last-checkpoint/best/a/model.safetensors" in hub.files(REPOS[0])
    push_checkpoint(run, fake_checkpoint(run, 2), "checkpoint", destination(hub), BRISK)
    first, second = hub.files(REPOS[0]), hub.files(REPOS[1])
    assert "last-checkpoint/best/a/model.safetensors" not in first
    assert json.loads(first["last-checkpoint/a/config.json"])["step"] == json.loads(first["config.json"])["step"] == 2
    state = {name for name in first if name.startswith("last-checkpoint/") and name.count("/") == 1}
    assert {Path(name).name for name in state} == {
        "trainer_state.json",
        "optimizer.pt.json",
        "optimizer.pt.safetensors",
        "pushed_checkpoint.json",
    }
    assert {name.split("/")[1] for name in second if name.startswith("last-checkpoint/")} == {"b"}
    for step in (3, 4):
        push_checkpoint(run, fake_checkpoint(run, step), "all_checkpoints", destination(hub), BRISK)
    assert {name.split("/")[0] for name in hub.files(REPOS[0])} >= {"checkpoint-3", "checkpoint-4", "last-checkpoint"}
    assert b"PICKLE" not in hub.everything_received()
    assert str(run).encode() not in hub.everything_received()
    with pytest.raises(HubError, match="strategy must be one of every_save, checkpoint, all_checkpoints, got 'end'"):
        push_checkpoint(run, run / "checkpoint-1", "end", destination(hub), BRISK)


def test_state_that_would_need_pickles_is_refused_before_anything_is_sent(hub, run):
    """State of a sharded run silently left out would be found missing when it is needed."""
    checkpoint = fake_checkpoint(run, 1, **{"__0_0.distcp": b"x"})
    with pytest.raises(HubError, match=r"__0_0.distcp is state of a sharded run.*use hub_strategy 'every_save'"):
        push_checkpoint(run, checkpoint, "checkpoint", destination(hub), BRISK)
    assert hub.requests == []
    push_checkpoint(run, checkpoint, "every_save", destination(hub), BRISK)


def test_pushes_in_the_background_neither_block_nor_stop_training(hub, run, caplog, monkeypatch):
    """A Hub that is down for an hour must cost a warning, not the training; a rotated checkpoint must still arrive."""
    monkeypatch.setattr(logging.getLogger("hf_mutual_kd"), "propagate", True)
    hub.fail("POST", "/commit/", delay=0.5)
    pushes = PushInBackground(run, "checkpoint", destination(hub), BRISK)
    began = time.monotonic()
    for step in (1, 2, 3):
        checkpoint = fake_checkpoint(run, step)
        pushes.push_checkpoint(checkpoint)
        shutil.rmtree(checkpoint)
        time.sleep(0.1 if step == 1 else 0)
    assert time.monotonic() - began < 0.5
    assert [done.step for done in pushes.finish()] == [1, 3]
    assert json.loads(hub.files(REPOS[0])["last-checkpoint/trainer_state.json"])["global_step"] == 3
    assert not list(run.glob(".pushing-*"))
    hub.fail("POST", "/commit/", status=403)
    pushes.push_checkpoint(fake_checkpoint(run, 4))
    pushes.finish()
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("hf_mutual_kd")]
    assert len(warnings) == 1
    assert "checkpoint-4 is not pushed, training goes on: pushing to ada/b" in warnings[0]
    pushes.push_checkpoint(fake_checkpoint(run, 5))
    assert [done.step for done in pushes.finish()] == [1, 3, 5]
    idle = PushInBackground(run, "end", destination(hub), BRISK)
    idle.push_checkpoint(run / "checkpoint-5")
    assert idle.finish() == []
    every = PushInBackground(run, "all_checkpoints", destination(hub), BRISK)
    for step in (4, 5):
        every.push_checkpoint(run / f"checkpoint-{step}")
    assert [done.step for done in every.finish()] == [4, 5]
