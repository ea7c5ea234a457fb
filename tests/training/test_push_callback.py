"""Pushing while training is a callback that sees whole checkpoints, and that can be taken out."""

import pytest
from conftest import make_rows
from test_trainer import config

from hf_mutual_kd import HubError, MutualKDTrainer
from hf_mutual_kd.training import pushing


class Recorder:
    """In place of the thread that sends: which files a checkpoint had when it was handed over."""

    made: list["Recorder"] = []

    def __init__(self, run_dir, strategy, to):
        self.strategy, self.namespace, self.seen, self.finished = strategy, to.namespace, {}, 0
        Recorder.made.append(self)

    def push_checkpoint(self, checkpoint):
        self.seen[checkpoint.name] = {path.name for path in checkpoint.iterdir()}

    def finish(self):
        self.finished += 1


@pytest.fixture
def trainer(make_cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(pushing, "PushInBackground", Recorder)
    monkeypatch.setattr(pushing, "check_rights", lambda target: None)
    monkeypatch.setattr(Recorder, "made", [])
    settings = {"push_to_hub": True, "hub_namespace": "ada", "save_strategy": "steps", "save_steps": 1}
    return MutualKDTrainer(make_cohort("vit", "cnx"), config(tmp_path, max_steps=2, **settings), make_rows(16))


def test_every_whole_checkpoint_is_handed_over_and_waited_for(trainer):
    """A checkpoint that is pushed before it is whole, or a process that ends while one is under way."""
    trainer.train()
    (pushes,) = Recorder.made
    assert (pushes.strategy, pushes.namespace, pushes.finished) == ("every_save", "ada", 1)
    assert list(pushes.seen) == ["checkpoint-1", "checkpoint-2"]
    for files in pushes.seen.values():
        assert {"vit", "cnx", "cohort_state.json", "optimizer.pt", "trainer_state.json"} <= files


def test_without_the_callback_nothing_is_pushed_while_training(trainer):
    """A user who takes it out still has every checkpoint sent."""
    trainer.remove_callback(pushing.PushCheckpoints)
    trainer.train()
    assert Recorder.made == []


def test_names_that_no_hub_takes_are_refused_before_training(make_cohort, tmp_path, train_rows):
    """An hour of training that ends with a name which was wrong from the start."""
    with pytest.raises(HubError, match="namespace 'a b' is no user or organisation"):
        MutualKDTrainer(make_cohort("vit"), config(tmp_path, push_to_hub=True, hub_namespace="a b"), train_rows)


@pytest.mark.parametrize("settings", [{}, {"control": True}, {"teaching": "auto", "eval_strategy": "no"}])
def test_rights_are_asked_before_anything_is_trained(make_cohort, tmp_path, train_rows, monkeypatch, settings):
    """Hours of control or stages, and then a token that may not write."""

    def refuse(target):
        raise HubError("may not write")

    monkeypatch.setattr(pushing, "check_rights", refuse)
    given = config(tmp_path, max_steps=1, push_to_hub=True, hub_namespace="ada", **settings)
    trainer = MutualKDTrainer(make_cohort("vit", "cnx"), given, train_rows, eval_dataset=make_rows(8))
    with pytest.raises(HubError, match="may not write"):
        trainer.train()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
