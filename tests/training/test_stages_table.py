"""A training in stages whose teachers speak from a score table: one peer, and no other in memory."""

import json

import pytest
from accelerate import Accelerator
from test_stages import few_labels, make_trainer

from hf_mutual_kd import ConfigError, MutualKDConfig
from hf_mutual_kd.experiments.launch import stages_for
from hf_mutual_kd.scoring.score_peers import score_peers
from hf_mutual_kd.scoring.score_shards import Scoring
from hf_mutual_kd.training import stages


@pytest.fixture
def table(make_cohort, tmp_path):
    scoring = Scoring(keep="8bit", accelerator=Accelerator(cpu=True))
    return score_peers(make_cohort("vit", "cnx"), few_labels(), tmp_path / "table", scoring)


def test_a_peer_is_taught_by_those_that_are_not_there(make_cohort, table, tmp_path, monkeypatch):
    """Stages that drop the table train two controls, and nobody sees that no other peer has spoken."""
    monkeypatch.setattr(stages, "ALPHAS", (0.5,))
    cohort = make_cohort("vit")
    trainer = make_trainer(cohort, tmp_path / "run", score_table=str(table.folder), self_training=False)
    trainer.train()
    assert cohort.starts is None
    done = json.loads((tmp_path / "run" / "stages" / "stages.json").read_text())
    assert set(done["facts"]["ways"]) == {"mean", "best"}
    way = done["facts"]["way"]
    assert [*done["facts"]["stages"]] == [f"way-{way}", "control"]
    logged = {
        stage: [json.loads(line) for line in (tmp_path / "run" / "stages" / stage / "history.jsonl").open()]
        for stage in done["facts"]["stages"]
    }
    pulls = {stage: max(one.get("vit/transfer", 0.0) for one in lines) for stage, lines in logged.items()}
    assert pulls["control"] == 0 < pulls[f"way-{way}"]
    assert done["facts"]["kept"]["vit"]["what"] in ("start", "control", "mutual")


def test_what_a_table_cannot_teach_in_stages_is_refused(make_cohort, table, tmp_path):
    """A table of peers as they were before they adapted teaches what their new heads said by chance."""
    with pytest.raises(ConfigError, match="adapt changes peers that a score_table knows"):
        make_trainer(make_cohort("vit"), tmp_path / "a", score_table=str(table.folder), adapt=True)
    with pytest.raises(ConfigError, match="needs augment false"):
        MutualKDConfig(str(tmp_path), teaching="auto", score_table=str(table.folder), use_cpu=True).resolved()
    assert stages_for({"score_table": "x"}) == {}
    assert stages_for({"fsdp": True}) == {}
