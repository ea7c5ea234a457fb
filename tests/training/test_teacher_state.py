"""Teachers that are fitted, learned or averaged: in a whole training, and after it was interrupted."""

import json

import pytest
import torch
from conftest import make_rows
from datasets import Dataset
from safetensors.torch import load_file

from hf_mutual_kd import ConfigError, DataError, MutualKDConfig, MutualKDTrainer, ResumeError, RoleTable
from hf_mutual_kd.training.teacher_state import TEACHERS, teacher_tensors

QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "pre_flight": False, "logging_steps": 2}
FITTED = {"teacher_rule": "class", "calibrate": True, "teacher_source": "frozen"}
KINDS = {
    "gated": {"teacher_rule": "gated", "calibrate": True},
    "ema": {"teacher_rule": "best", "teacher_source": "ema", "ema_decay": 0.8},
    "class": FITTED,
}


def config(folder, **changes) -> MutualKDConfig:
    settings = {"max_steps": 5, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "save_strategy": "no"}
    return MutualKDConfig(str(folder), **QUIET | settings | changes)


def trainer(cohort, folder, train_rows, **changes) -> MutualKDTrainer:
    return MutualKDTrainer(cohort, config(folder, **changes), train_dataset=train_rows, eval_dataset=make_rows(9, 1))


def everything(cohort):
    return {**cohort.peers.state_dict(), **teacher_tensors(cohort)}


@pytest.mark.parametrize("kind", KINDS)
def test_teachers_resume_exactly(tmp_path, make_cohort, train_rows, kind, monkeypatch):
    """A gate, an average or a table that begins anew teaches something else after every interruption."""
    settings = {"save_strategy": "steps", "save_steps": 3, **KINDS[kind]}
    whole = make_cohort("vit", "cnn")
    trainer(whole, tmp_path / "a", train_rows, **settings).train()
    first = make_cohort("vit", "cnn")
    trainer(first, tmp_path / "b", train_rows, **settings).train()
    (checkpoint,) = (path for path in (tmp_path / "b").glob("checkpoint-3"))
    assert (checkpoint / TEACHERS).is_file()
    again = make_cohort("vit", "cnn")
    resumed = trainer(again, tmp_path / "b", train_rows, **settings)
    # What was fitted before the interruption must not be fitted again.
    monkeypatch.setattr(resumed, "_fit_rule", lambda: pytest.fail("fitted again"))
    resumed.train(resume_from_checkpoint=str(checkpoint))
    expected, found = everything(whole), everything(again)
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert teacher_tensors(whole)


def test_a_checkpoint_of_another_teacher_is_refused(tmp_path, make_cohort, train_rows):
    """A gate of zeros in place of the one that was learned."""
    settings = {"save_strategy": "steps", "save_steps": 3}
    trainer(make_cohort("vit", "cnn"), tmp_path, train_rows, **settings).train()
    gated = trainer(make_cohort("vit", "cnn"), tmp_path, train_rows, **settings, teacher_rule="gated")
    with pytest.raises(ResumeError, match='teacher_rule was "best", now "gated"'):
        gated.train(resume_from_checkpoint=True)
    kept = trainer(make_cohort("vit", "cnn"), tmp_path / "gated", train_rows, **settings, teacher_rule="gated")
    kept.train()
    (tmp_path / "gated" / "checkpoint-3" / TEACHERS).write_bytes(b"x" * 20)
    with pytest.raises(ResumeError, match="damaged"):
        trainer(make_cohort("vit", "cnn"), tmp_path / "gated", train_rows, **settings, teacher_rule="gated").train(
            resume_from_checkpoint=str(tmp_path / "gated" / "checkpoint-3")
        )


def test_averages_follow_after_every_step(tmp_path, make_cohort, train_rows):
    """An average of one step too few, of copies of itself, or one that also moves frozen peers."""
    cohort = make_cohort("vit", "cnn", "cnx")
    weights = [{key: value.clone() for key, value in cohort.peers.state_dict().items()}]

    cohort.freeze(["cnx"])

    class Watched(MutualKDTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step:
                weights.append({key: value.clone() for key, value in self.cohort.peers.state_dict().items()})
            return super().training_step(*args, **kwargs)

    made = Watched(
        cohort,
        config(
            tmp_path,
            teacher_source="ema",
            ema_decay=0.75,
            teacher_rule="mean",
            gradient_accumulation_steps=1,
            max_steps=3,
        ),
        train_dataset=train_rows,
    )
    made.train()
    weights.append(cohort.peers.state_dict())
    parameters = dict(cohort.peers.named_parameters())
    for key, value in cohort.starts.state_dict().items():
        expected = weights[0][key]
        for step in weights[1:]:
            expected = 0.75 * expected + 0.25 * step[key] if key in parameters else step[key]
        torch.testing.assert_close(value, expected)
    assert not any(parameter.requires_grad for parameter in cohort.starts.parameters())


def test_the_gate_learns_and_the_control_has_none(tmp_path, make_cohort, train_rows):
    """A gate without an optimizer stays the plain mean for ever; in the control it would be an unused parameter."""
    cohort = make_cohort("vit", "cnn")
    made = trainer(cohort, tmp_path / "a", train_rows, teacher_rule="gated", gate_learning_rate=0.1)
    made.train()
    assert cohort.rule.bias.abs().min() > 0
    groups = {group["lr"] / group["initial_lr"] for group in made.optimizer.param_groups}
    assert len(made.optimizer.param_groups[-1]["params"]) == 2
    assert len(groups) == 1
    control = make_cohort("vit", "cnn")
    trainer(control, tmp_path / "b", train_rows, teacher_rule="gated", transfer_weight=0.0).train()
    assert control.rule is None
    plain = make_cohort("vit", "cnn")
    trainer(plain, tmp_path / "c", train_rows, transfer_weight=0.0).train()
    assert all(torch.equal(a, b) for a, b in zip(control.parameters(), plain.parameters(), strict=True))


def test_the_gates_own_loss_moves_no_peer(tmp_path, make_cohort, train_rows):
    """With a gate that cannot move, the gated rule is the mean; anything else would be a second supervised loss."""
    cohorts = {rule: make_cohort("vit", "cnn") for rule in ("gated", "mean")}
    for rule, cohort in cohorts.items():
        trainer(cohort, tmp_path / rule, train_rows, teacher_rule=rule, gate_learning_rate=0.0, optim="sgd").train()
    for a, b in zip(*(cohort.peers.parameters() for cohort in cohorts.values()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_what_was_fitted_is_recorded(tmp_path, make_cohort, train_rows):
    """A teacher that nobody can look up afterwards."""
    cohort = make_cohort("vit", "cnn")
    made = trainer(cohort, tmp_path, train_rows, **FITTED)
    made.measure_start(make_rows(9, 1), "test")
    made.train()
    made.evaluate(make_rows(9, 1), metric_key_prefix="test")
    arm = made.arm("mutual", "test", 1.0)
    assert json.loads(json.dumps(arm.rule)) == arm.rule
    assert set(arm.rule) == {"temperatures", "log_likelihood_by_class"}
    assert all(len(row) == 3 for row in arm.rule["log_likelihood_by_class"].values())
    made.create_model_card()
    card = (tmp_path / "vit" / "README.md").read_text(encoding="utf-8")
    assert f"vit {arm.rule['temperatures']['vit']:.3f}" in card


def test_fitting_does_not_change_what_follows(tmp_path, make_cohort, train_rows):
    """A pass over validation rows that draws random numbers changes the order of the training rows."""
    orders = []
    for rule in ("mean", "class"):
        made = trainer(make_cohort("vit", "cnn"), tmp_path / rule, train_rows, teacher_rule=rule)
        made.train()
        orders.append(list(made.record.role_table._rows))
    assert orders[0] == orders[1]


def test_rules_are_refused_before_training(tmp_path, make_cohort, train_rows):
    """A misspelt teacher found after the control has been trained."""
    with pytest.raises(ConfigError, match="names 'vti', but the peers are vit, cnn"):
        trainer(make_cohort("vit", "cnn"), tmp_path, train_rows, teacher_rule="fixed:vti")
    for wrong in ("fixed", "fixed:", "all:vit", "gatd", "MEAN"):
        with pytest.raises(ConfigError, match="teacher_rule must be one of best, mean, all, fixed:NAME, gated, class"):
            config(tmp_path, teacher_rule=wrong)
    with pytest.raises(ConfigError, match="ema_decay must be 0 or more and below 1, got 1.0"):
        config(tmp_path, teacher_source="ema", ema_decay=1.0)
    with pytest.raises(ConfigError, match="gated' trains its gate by labels"):
        config(tmp_path, teacher_rule="gated", labels=False)
    made = MutualKDTrainer(make_cohort("vit", "cnn"), config(tmp_path, teacher_rule="class"), train_dataset=train_rows)
    with pytest.raises(ConfigError, match="fitted on validation rows; give eval_dataset"):
        made.train()
    rows = make_rows(9, 1).map(lambda row: {"label": -1})
    unlabelled = MutualKDTrainer(
        make_cohort("vit", "cnn"), config(tmp_path, calibrate=True), train_dataset=train_rows, eval_dataset=rows
    )
    with pytest.raises(DataError, match="no validation row has a label"):
        unlabelled.train()
    with pytest.raises(ConfigError, match="moving averages change with every step"):
        trainer(
            make_cohort("vit", "cnn"), tmp_path, train_rows, teacher_source="ema", cache_frozen=True, augment=False
        ).train()


def test_everybody_teaches_is_a_decision_of_its_own(tmp_path, make_cohort, train_rows):
    """Deep Mutual Learning that the role table calls the mean, or that cannot be read again."""
    cohort = make_cohort("vit", "cnn", "cnx")
    made = trainer(cohort, tmp_path, train_rows, teacher_rule="all", max_steps=3)
    made.train()
    table = RoleTable.load(tmp_path / "roles.parquet", cohort.names)
    assert table.counts() == {"vit": 0, "cnn": 0, "cnx": 0, "nobody": 0, "mean": 0, "all": 24}
    log = made.state.log_history[0]
    assert log["vit/taught"] == log["cnx/taught"] == pytest.approx(1 / 3)
    assert cohort.starts is None  # no single peer teaches, so no start is held in memory
    replayed = make_cohort("vit", "cnn", "cnx")
    other = trainer(
        replayed, tmp_path / "b", train_rows, role_table=str(tmp_path / "roles.parquet"), max_steps=3, retain=False
    )
    other.train()
    assert all(torch.equal(a, b) for a, b in zip(cohort.peers.parameters(), replayed.peers.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["gated", "class"])
def test_rows_without_labels_are_taught_too(tmp_path, make_cohort, train_rows: Dataset, kind):
    """A rule that knows labels and forgets the rows that have none."""
    rows = train_rows.map(lambda row, index: {"label": -1 if index % 3 else row["label"]}, with_indices=True)
    cohort = make_cohort("vit", "cnn")
    made = trainer(cohort, tmp_path, rows, teacher_rule=kind)
    made.train()
    assert made.record.role_table.counts()["mean"] == 40
    assert all(value.isfinite().all() for value in load_file(tmp_path / "vit" / "model.safetensors").values())
