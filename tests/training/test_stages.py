"""Adapt, teach, choose: what is kept is never worse, resumes wherever it was killed, and says what it did."""

import json
import shutil

import pytest
import torch
from conftest import make_rows
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_mutual_kd import ConfigError, DataError, MutualKDConfig, MutualKDTrainer, ResumeError
from hf_mutual_kd.peers.loading import load_weights
from hf_mutual_kd.training import ways

ARMS = ["start", "adapted", "control", "self", "mutual", "kept"]


def few_labels(count=48, every=6):
    return make_rows(count).map(
        lambda row, index: {"label": row["label"] if index % every == 0 else -1}, with_indices=True
    )


def make_trainer(cohort, folder, callbacks=(), train=None, validation=None, **changes):
    settings = {
        "teaching": "auto",
        "max_steps": 4,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "augment": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "pre_flight": False,
        "logging_steps": 2,
        "load_best_model_at_end": True,
    }
    args = MutualKDConfig(str(folder), **settings | changes)
    train = few_labels() if train is None else train
    validation = make_rows(66, 1) if validation is None else validation
    return MutualKDTrainer(cohort, args, train, validation, callbacks=list(callbacks))


@pytest.fixture
def new_heads(make_cohort):
    def make(*names):
        cohort = make_cohort(*names)
        cohort.new_heads = frozenset(names)
        return cohort

    return make


@pytest.fixture
def by_the_mean(monkeypatch):
    """One way of teaching, where a test is not of the ways."""
    monkeypatch.setattr(ways, "WAYS", {"mean": ways.WAYS["mean"]})


def peers_of(folder, *names):
    return {
        f"{name}/{key}": value
        for name in names
        for key, value in load_file(folder / name / "model.safetensors").items()
    }


class Killed(Exception):
    pass


class KillAt(TrainerCallback):
    """Ends the process, as it were, as the so many-th optimizer step of all stages ends."""

    def __init__(self, step):
        self.left = step

    def on_step_end(self, args, state, control, **kwargs):
        self.left -= 1
        if not self.left:
            raise Killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory, request):
    """One run from beginning to end, from new heads."""
    import copy

    from conftest import LABELS, MAKERS, tiny_processor

    from hf_mutual_kd import Cohort
    from hf_mutual_kd.peers.loading import LoadedPeer
    from hf_mutual_kd.peers.spec import PeerSpec

    torch.manual_seed(0)
    peers = {
        name: LoadedPeer(MAKERS[name]().eval(), tiny_processor(), PeerSpec(source=name)) for name in ("vit", "cnx")
    }
    folder = tmp_path_factory.mktemp("whole")

    def fresh():
        cohort = Cohort(copy.deepcopy(peers), label_names=LABELS)
        cohort.new_heads = frozenset(peers)
        return cohort

    trainer = make_trainer(fresh(), folder)
    trainer.train()
    return trainer, folder, fresh


def test_what_is_kept_lies_in_the_folder_and_is_never_worse(whole):
    """A run threw away the start and the control, which it had measured and trained, and kept what was worse."""
    trainer, folder, _ = whole
    stages = trainer.stages
    assert stages.arms == ARMS
    facts = json.loads((folder / "stages" / "stages.json").read_text())["facts"]
    for name in ("vit", "cnx"):
        kept, measured = facts["kept"][name], facts["validation"]
        assert kept["value"] >= max(measured[arm][name] for arm in ("start", "adapted", "control"))
        assert kept["rows"] == 44
    for name, peer in trainer.cohort.peers.items():
        load_weights(name, peer, folder / name)
    values = {name: value for name, (value, _) in stages._measure().items()}
    assert values == pytest.approx({name: one["value"] for name, one in facts["kept"].items()})


def test_teachers_are_the_adapted_peers_and_a_random_head_never_teaches(whole):
    """Frozen copies of random heads taught: every peer in every seed ended below its control."""
    _, folder, _ = whole
    adapted = peers_of(folder / "stages" / "adapt", "vit", "cnx")
    begins = peers_of(folder / "stages" / "way-mean" / "checkpoint-1", "vit", "cnx")
    moved = [(begins[key] - adapted[key]).abs().max() for key in adapted if adapted[key].is_floating_point()]
    assert 0 < max(moved) < 0.05


@pytest.mark.parametrize("step", [9, *(pytest.param(step, marks=pytest.mark.slow) for step in (2, 4, 6, 13, 17))])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(whole, tmp_path, step):
    """A stage that is done twice, or begins from another stage's weights, ends in a model that nobody can repeat."""
    trainer, folder, fresh = whole
    with pytest.raises(Killed):
        make_trainer(fresh(), tmp_path, [KillAt(step)]).train()
    again = make_trainer(fresh(), tmp_path)
    again.train(resume_from_checkpoint=True)
    left, right = peers_of(folder, "vit", "cnx"), peers_of(tmp_path, "vit", "cnx")
    assert all(torch.equal(left[key], right[key]) for key in left)
    found = [json.loads((one / "stages" / "stages.json").read_text()) for one in (folder, tmp_path)]
    for one in found:
        for stage in one["facts"]["stages"].values():
            stage.pop("seconds")
    assert found[0] == found[1]
    assert trainer.state.global_step == again.state.global_step == 4


def test_stages_go_on_with_what_they_were_made_with_or_say_what_changed(whole, tmp_path):
    """Arms that were trained with other rates, rows or lengths would be compared, and the card names one of them."""
    _, folder, fresh = whole
    shutil.copytree(folder, tmp_path / "run")
    state = tmp_path / "run" / "stages" / "stages.json"
    for says, changes in (
        ("learning_rate was 0.01, now 0.001", {"learning_rate": 1e-3}),
        ("max_steps was 4, now 6", {"max_steps": 6}),
        ("other data", {"train": few_labels(every=8)}),
    ):
        before = state.read_bytes()
        with pytest.raises(ResumeError, match=says):
            make_trainer(fresh(), tmp_path / "run", **changes).train(resume_from_checkpoint=True)
        assert state.read_bytes() == before
    again = make_trainer(fresh(), tmp_path / "run", learning_rate=1e-3, resume_changes="allow")
    again.train(resume_from_checkpoint=True)
    record = json.loads((tmp_path / "run" / "cohort.json").read_text())
    # Four stages of 4 steps, and one step each of three ways that were not chosen.
    assert record["hyperparameters"]["changed"]["learning_rate"] == "0.01 until step 19, then 0.001"
    for damaged in (b"{", b"[]", b'{"done": 3}'):
        state.write_bytes(damaged)
        with pytest.raises(ResumeError, match="stages.json is damaged"):
            make_trainer(fresh(), tmp_path / "run").train(resume_from_checkpoint=True)


def test_trained_heads_go_without_adapting_and_one_peer_without_teachers(make_cohort, tmp_path):
    """A stage that is run where it has nothing to do costs a training, and its column says nothing."""
    trainer = make_trainer(make_cohort("vit"), tmp_path, max_steps=2)
    trainer.train()
    assert trainer.stages.arms == ["start", "control", "self", "kept"]
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == ["control", "self", "stages.json"]


def test_without_rows_that_lack_a_label_nobody_teaches_itself(make_cohort, tmp_path, by_the_mean):
    """A second control that equals the first is a training for nothing."""
    trainer = make_trainer(
        make_cohort("vit", "cnx"), tmp_path, train=make_rows(48), control_learning_rates=[1e-2, 1e-5], max_steps=2
    )
    trainer.train()
    assert trainer.stages.arms == ["start", "control", "mutual", "kept"]
    assert {"control-0.01", "control-1e-05"} <= {path.name for path in (tmp_path / "stages").iterdir()}


def test_keep_mutual_is_what_was_kept_before(make_cohort, tmp_path, by_the_mean):
    """Who compares ways of teaching must get what they taught, better or not."""
    trainer = make_trainer(make_cohort("vit", "cnx"), tmp_path, keep="mutual", self_training=False, max_steps=2)
    trainer.train()
    assert {choice.what for choice in trainer.stages.choices.values()} == {"mutual"}
    way = trainer.stages.state.facts["way"]
    kept, taught = peers_of(tmp_path, "vit", "cnx"), peers_of(tmp_path / "stages" / f"way-{way}", "vit", "cnx")
    assert all(torch.equal(kept[key], taught[key]) for key in kept)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"adapt": False}, ConfigError, "new head"),
        ({"validation": few_labels(24, 48).remove_columns("label")}, DataError, "no validation row"),
    ],
)
def test_what_stages_cannot_do_is_refused_before_training(new_heads, tmp_path, changes, error, words):
    """A random head that teaches, or a choice by nothing, costs a day before it is noticed."""
    trainer = make_trainer(new_heads("vit", "cnx"), tmp_path, **changes)
    with pytest.raises(error, match=words):
        trainer.train()
    assert not list(tmp_path.glob("stages/*/checkpoint-*"))


def test_a_frozen_peer_with_a_new_head_is_refused(new_heads, tmp_path):
    """It would teach what its random head says to the very end."""
    cohort = new_heads("vit", "cnx")
    cohort.freeze(["vit"])
    with pytest.raises(ConfigError, match="neither learn nor teach"):
        make_trainer(cohort, tmp_path).train()


def test_stages_of_another_run_are_not_gone_on_with(make_cohort, tmp_path):
    """Weights of one cohort under the names of another load without an error."""
    trainer = make_trainer(make_cohort("vit", "cnx"), tmp_path)
    with pytest.raises(ResumeError, match="no stages"):
        trainer.train(resume_from_checkpoint=True)
    (tmp_path / "stages").mkdir()
    state = {"done": [], "facts": {}, "made_with": {}, "processes": 1, "changes": [], "task": "x"}
    (tmp_path / "stages" / "stages.json").write_text(json.dumps(state))
    with pytest.raises(ResumeError, match="other task"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher_rule": "mean"}, "teacher_rule"),
        ({"labels": False}, "labels"),
        ({"teaching": None, "keep": "mutual"}, "keep"),
        ({"control_learning_rates": [1e-3, 1e-3]}, "differ"),
        ({"self_confidence": 1.0}, "self_confidence"),
    ],
)
def test_options_that_contradict_stages_are_refused(tmp_path, changes, words):
    """An option that is overruled in silence is believed to have had an effect."""
    with pytest.raises(ConfigError, match=words):
        MutualKDConfig(str(tmp_path), **{"teaching": "auto", "use_cpu": True} | changes)
