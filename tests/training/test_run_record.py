"""A run made in Python leaves the record, cards and report that one made by a recipe leaves."""

import json

import pytest
from test_trainer import config

from hf_mutual_kd import MutualKDTrainer
from hf_mutual_kd.errors import ConfigError


def test_a_run_in_python_says_what_it_was_trained_on_and_against_what(make_cohort, tmp_path, train_rows, eval_rows):
    """Its card had neither data nor options nor a control beside its gain."""
    trainer = MutualKDTrainer(make_cohort("vit", "cnx"), config(tmp_path, max_steps=3), train_rows, eval_rows)
    trainer.train_control()
    trainer.measure_start()
    trainer.train()
    trainer.evaluate()
    trainer.create_model_card()
    record = json.loads((tmp_path / "cohort.json").read_text())
    assert record["dataset"]["rows"] == {"train": 48, "validation": 21}
    assert record["dataset"]["labelled"] == {"train": 48, "validation": 21}
    assert len(record["dataset"]["fingerprint"]) == 32
    assert record["hyperparameters"]["changed"]["learning_rate"] == 1e-2
    assert "teacher_rule" not in record["hyperparameters"]["changed"], "the preset's, not the user's"
    assert record["hardware"]
    results = json.loads((tmp_path / "results.json").read_text())
    arms = results["peers"]["vit"]["arms"]
    assert {"start", "control", "mutual"} <= set(arms)
    assert arms["control"] != arms["mutual"]
    assert (tmp_path / "report" / "index.html").is_file()
    assert (tmp_path / "control" / "vit" / "model.safetensors").is_file()
    assert "48" in (tmp_path / "vit" / "README.md").read_text()
    with pytest.raises(ConfigError, match="call it before"):
        trainer.train_control()
