"""A run made in Python: the record, cards, page and control of one made by a recipe, in a folder of its own."""

import json
import os
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_trainer import config
from transformers import TrainerCallback

from hf_mutual_kd import ConfigError, MutualKDTrainer, OutputFolderError, PeerSpec, ResumeError


def weights(folder):
    return {name: load_file(folder / name / "model.safetensors") for name in ("vit", "cnx")}


def are_equal(left, right):
    return all(left[name][key].equal(right[name][key]) for name in left for key in left[name])


@pytest.fixture
def make(make_cohort, tmp_path, train_rows, eval_rows):
    """`make("a", control=True)`: a trainer of three steps that writes into a folder of this name."""

    def made(out, callbacks=(), **changes):
        cohort = make_cohort("vit", "cnx")
        cohort.specs["vit"] = PeerSpec(str(tmp_path / "my" / "vit"))
        settings = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "pre_flight": False} | changes
        return MutualKDTrainer(
            cohort, config(tmp_path / out, **settings), train_rows, eval_rows, callbacks=list(callbacks)
        )

    return made


def test_a_run_in_python_says_what_it_was_trained_on_and_against_what(make, tmp_path, monkeypatch):
    """Its card had neither data nor options nor a control beside its gain, and named the user's folders."""
    monkeypatch.chdir(tmp_path)
    trainer = make("run")
    trainer.train_control()
    trainer.measure_start()
    trainer.train()
    trainer.evaluate()
    report = trainer.push_to_hub(namespace="ada", dry_run=True)
    run = tmp_path / "run"
    record = json.loads((run / "cohort.json").read_text())
    assert record["dataset"]["rows"] == record["dataset"]["labelled"] == {"train": 48, "validation": 21}
    assert len(record["dataset"]["fingerprint"]) == 32
    assert record["hyperparameters"]["changed"]["learning_rate"] == 1e-2
    assert "teacher_rule" not in record["hyperparameters"]["changed"], "the preset's, not the user's"
    assert record["hardware"]
    assert record["peers"]["vit"]["source"] == "my/vit"
    arms = json.loads((run / "results.json").read_text())["peers"]["vit"]["arms"]
    assert list(arms) == ["start", "control", "mutual"]
    assert arms["control"] != arms["mutual"]
    assert (run / "control" / "vit" / "model.safetensors").is_file()
    assert "48" in (run / "vit" / "README.md").read_text()
    assert "control" in (run / "report" / "index.html").read_text()
    for path in (run / "cohort.json", run / "control" / "cohort.json", run / "results.json"):
        assert str(tmp_path) not in path.read_text()
    # No network is there, and nothing was asked of one.
    assert report.dry_run
    assert [one.url for one in report.peers] == [
        f"https://huggingface.co/ada/{one.repo_id[4:]}" for one in report.peers
    ]
    assert set(report.peers[0].files) >= {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert report.peers[0].commit is None
    with pytest.raises(ConfigError, match="call it before"):
        trainer.train_control()


def test_a_control_leaves_the_run_as_it_is_without(make, tmp_path):
    """A gain over the control would partly be other random numbers."""
    make("alone").train()
    make("beside", control=True).train()
    assert are_equal(weights(tmp_path / "alone"), weights(tmp_path / "beside"))
    make("zero", transfer_weight=0.0).train()
    assert are_equal(weights(tmp_path / "zero"), weights(tmp_path / "beside" / "control"))


class Stop(TrainerCallback):
    """Ends a training from outside, the first time that it comes to a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["control", "run"])
def test_a_run_with_a_control_goes_on_where_it_was_stopped(make, tmp_path, where):
    """A control of hours that is trained again, or left out of the results."""
    make("straight", control=True).train()
    stopped = make("stopped", control=True)
    if where == "run":
        stopped.train_control()
    stopped.add_callback(Stop(2))
    stopped._own_callbacks.append(Stop(2))
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed = make("stopped", control=True)
    resumed.train(resume_from_checkpoint=True)
    for part in (Path(), Path("control")):
        assert are_equal(weights(tmp_path / "straight" / part), weights(tmp_path / "stopped" / part))
    assert set(resumed.control_arms) == {"eval"}
    with pytest.raises(ResumeError, match="there is no checkpoint"):
        make("nothing", control=True).train(resume_from_checkpoint=True)
    assert not list((tmp_path / "nothing").iterdir())


@pytest.mark.parametrize(
    ("changes", "says"), [({"teaching": "auto"}, "trains its own control"), ({"transfer_weight": 0.0}, "itself")]
)
def test_a_control_that_compares_nothing_is_refused(make, changes, says):
    """Hours of the same training twice."""
    with pytest.raises(ConfigError, match=says):
        make("run", control=True, eval_strategy="epoch", **changes).train()


def test_folders_of_others_are_left_alone(make, tmp_path):
    """Two trainings that write over each other, and a link that becomes a folder."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "vit").symlink_to(tmp_path / "mine")
    with pytest.raises(OutputFolderError, match="vit is a link"):
        make("run").train()
    assert (tmp_path / "run" / "vit").is_symlink()
    assert not list((tmp_path / "mine").iterdir())
    (tmp_path / "run" / "vit").unlink()
    (tmp_path / "run" / ".lock").write_text(f"{os.getppid()}\nanother-host\n1\n")
    with pytest.raises(OutputFolderError, match="is in use by .*another-host"):
        make("run").train()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
