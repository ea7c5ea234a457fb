"""The score table as training reads it: roles, targets, and a trainer whose teachers are not in memory."""

import copy
import json
import pickle

import pytest
import torch
from accelerate import Accelerator
from conftest import LABELS, make_rows
from torch.testing import assert_close

from hf_mutual_kd import (
    BestRule,
    ConfigError,
    DataError,
    MeanRule,
    MutualKDConfig,
    MutualKDTrainer,
    Objective,
    ResumeError,
    RoleTaggingCollator,
    SharedView,
    TableSource,
    assign_roles,
    identified,
    kl_to_target,
    teacher_log_probs,
)
from hf_mutual_kd.distillation.roles import MEAN, NOBODY, UNDECIDED
from hf_mutual_kd.scoring.score_peers import score_peers
from hf_mutual_kd.scoring.score_shards import Scoring
from hf_mutual_kd.scoring.score_table import ScoreTable
from hf_mutual_kd.scoring.table_teacher import TableCollator, TableTeacher


def cpu() -> Accelerator:
    """Anew each time: other tests put the shared state back."""
    return Accelerator(cpu=True)


@pytest.fixture
def rows(train_rows):
    return train_rows.map(lambda row, i: {"label": -1 if i % 5 == 0 else row["label"]}, with_indices=True)


@pytest.fixture
def table(make_cohort, rows, tmp_path):
    scoring = Scoring(keep="full", shard_rows=20, accelerator=cpu())
    return score_peers(make_cohort("vit", "cnx", "cnn"), rows, tmp_path / "t", scoring)


def objective(rule=BestRule, **changes):
    return Objective(rule(), TableSource(), **changes)


def test_roles_are_those_of_the_scores(table, rows):
    """A tag that belongs to another sample or peer order swaps teachers without a sound."""
    labels = torch.tensor(rows["label"])
    roles = table.roles()
    found = roles.lookup(torch.arange(48))
    assert torch.equal(found, torch.where(labels >= 0, assign_roles(table.scores("margin")), UNDECIDED))
    assert set(found[labels >= 0].tolist()) > {0}
    assert (table.roles("mean").lookup(torch.arange(48)) == MEAN).all()
    assert (table.teachers()[labels < 0] == MEAN).all()
    assert (table.teachers(kind="confidence") != MEAN).all()
    two = ScoreTable.load(table.folder, ["cnn", "vit"])
    assert torch.equal(two.teachers()[labels >= 0], assign_roles(two.scores())[labels >= 0])
    assert two.roles().peer_names == ["cnn", "vit"]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("rule", [BestRule, MeanRule])
def test_targets_are_what_frozen_teachers_in_memory_would_say(make_cohort, table, rows, rule, temperature):
    """The whole promise of the table: the same loss without the teachers."""
    cohort = make_cohort("vit", "cnx", "cnn").eval()
    batch = RoleTaggingCollator(cohort.processors)([identified(rows)[index] for index in (7, 0, 33, 20, 4)])
    with torch.no_grad():
        said = list(cohort(peer_inputs=batch["peer_inputs"]).outputs.values())
    teacher = table.teachers(rule.name)[batch["sample_ids"]]
    expected, known = teacher_log_probs(said, teacher, temperature=temperature)
    live = [torch.randn(5, 3), torch.randn(5, 3)]
    for retain in (True, False):
        teach = TableTeacher(table, ["cnn", "vit"], objective(rule, temperature=temperature, retain=retain))
        given = teach(batch["sample_ids"])
        assert_close(given["table"]["targets"], expected, rtol=3e-3, atol=3e-3)
        places = torch.tensor([2, 0])
        assert torch.equal(given["table"]["taught"], known[:, None] & (retain | (teacher[:, None] != places)))
        assert given["roles"].tolist() == [{2: 0, 0: 1, 1: UNDECIDED}.get(one, one) for one in teacher.tolist()]
        pulls = objective(rule, temperature=temperature).transfer_from_table(live, **given["table"])
        by_hand = kl_to_target(live[1], expected, temperature=temperature, where=given["table"]["taught"][:, 1])
        assert_close(pulls[1], by_hand, rtol=1e-2, atol=1e-2)


def test_nobody_teaches_at_a_tie(make_cohort, rows, tmp_path):
    """Two equal peers: a target from either would be an arbitrary pull."""
    cohort = make_cohort("vit_a", "vit_b")
    table = score_peers(cohort, rows, tmp_path / "tie", Scoring(keep="full", accelerator=cpu()))
    given = TableTeacher(table, ["vit_a"], objective())(torch.arange(1, 5))
    assert (given["roles"] == NOBODY).all()
    assert not given["table"]["taught"].any()


def test_a_table_goes_to_worker_processes_without_its_content(table):
    """Pickling memory maps would copy gigabytes into every worker."""
    before = len(pickle.dumps(table))
    table.log_probs("vit", torch.arange(48))
    assert len(pickle.dumps(table)) == before
    assert torch.equal(
        pickle.loads(pickle.dumps(table)).log_probs("vit", torch.tensor([5])),
        table.log_probs("vit", torch.tensor([5])),
    )


def test_tables_that_cannot_be_used_are_refused(table, make_cohort, rows, tmp_path):
    """A file is input from outside; each fault has its own words."""
    with pytest.raises(DataError, match="make one with"):
        ScoreTable.load(tmp_path)
    with pytest.raises(DataError, match="lacks resnet; it has vit, cnx, cnn"):
        ScoreTable.load(table.folder, ["vit", "resnet"])
    with pytest.raises(DataError, match="samples 0 to 47"):
        table.log_probs("vit", torch.tensor([48]))
    with pytest.raises(ConfigError, match="'best' or 'mean'"):
        table.teachers("all")
    with pytest.raises(ConfigError, match="margin, loss, confidence"):
        table.scores("entropy")
    plain = score_peers(make_cohort("vit"), rows, tmp_path / "plain", Scoring(accelerator=cpu()))
    with pytest.raises(DataError, match="--keep 8bit"):
        plain.log_probs("vit", torch.tensor([0]))
    (table.folder / "vit" / "shard-00001.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="shard-00001.safetensors of vit"):
        table.log_probs("vit", torch.tensor([25]))
    manifest = json.loads((table.folder / "table.json").read_text())
    for change in ({"format": 99}, {"peers": {"../../etc": {}}}, {"keep": "pickle"}, {"data": {}}):
        (table.folder / "table.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(ValueError, match="score again|is no score table"):
            ScoreTable.load(table.folder)
    (table.folder / "table.json").write_text(json.dumps(manifest))
    (table.folder / "index.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="damaged"):
        ScoreTable.load(table.folder)


def config(folder, table, **changes):
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "pre_flight": False,
        "augment": False,
        "teacher_source": "table",
        "save_strategy": "no",
        "score_table": None if table is None else str(table.folder),
        "logging_steps": 3,
    }
    return MutualKDConfig(str(folder), **settings | changes)


def train(cohort, args, rows, resume=None):
    torch.manual_seed(0)
    trainer = MutualKDTrainer(cohort, args, rows)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_one_peer_learns_from_all_without_them(make_cohort, table, rows, tmp_path):
    """With the others in memory the table would save nothing; with another loss it would be another method."""
    # Not Adam: it makes a rounding error of a gradient near 0 a step of full length.
    plain = {"temperature": 2.0, "optim": "sgd", "learning_rate": 0.05}
    alone = train(make_cohort("vit"), config(tmp_path / "alone", table, **plain), rows)
    assert alone.cohort.starts is None
    together = make_cohort("vit", "cnx", "cnn")
    together.freeze(["cnx", "cnn"])
    args = config(tmp_path / "together", None, teacher_source="frozen", cache_frozen=False, **plain)
    both = train(together, args, rows)
    left, right = alone.cohort.peers["vit"].state_dict(), both.cohort.peers["vit"].state_dict()
    moved = max((left[key] - value).abs().max() for key, value in make_cohort("vit").peers["vit"].state_dict().items())
    apart = max((left[key] - right[key]).abs().max() for key in left)
    assert apart < 1e-3 * moved
    log = next(entry for entry in alone.state.log_history if "vit/taught" in entry)
    assert 0 < log["vit/taught"] < 1
    assert log["vit/transfer"] > 0


def test_roles_from_the_table_tag_batches(make_cohort, table, rows, tmp_path):
    """A score table with augmentation: live teachers, roles that were decided in advance."""
    args = config(tmp_path, table, teacher_source="live", augment=True, max_steps=1)
    trainer = MutualKDTrainer(make_cohort("cnn", "vit"), args, rows)
    batch = next(iter(trainer.get_train_dataloader()))
    wanted = ScoreTable.load(table.folder, ["cnn", "vit"]).roles().lookup(batch["sample_ids"])
    assert torch.equal(batch["roles"], wanted)
    assert (wanted >= 0).any()


def test_refreshed_tables_hold_the_trained_peers_as_they_are(make_cohort, table, rows, tmp_path):
    """A refresh that rescored the start would be none; one that is lost on resume changes the training."""
    args = config(
        tmp_path / "whole",
        table,
        max_steps=-1,
        num_train_epochs=4,
        refresh_epochs=2,
        save_strategy="steps",
        save_steps=15,
    )
    whole = train(make_cohort("vit"), args, rows)
    assert [folder.name for folder in (tmp_path / "whole" / "score_table").iterdir()] == ["epoch-0002"]
    ids = torch.arange(48)
    assert not torch.equal(whole.score_table.log_probs("vit", ids), table.log_probs("vit", ids))
    assert torch.equal(whole.score_table.log_probs("cnx", ids), table.log_probs("cnx", ids))
    assert whole.data_collator.teacher.table is whole.score_table
    checkpoint = str(tmp_path / "whole" / "checkpoint-15")
    resumed = train(make_cohort("vit"), args, rows, checkpoint)
    for key, value in whole.cohort.peers["vit"].state_dict().items():
        assert torch.equal(value, resumed.cohort.peers["vit"].state_dict()[key]), key
    for file in (tmp_path / "whole" / "score_table").rglob("*"):
        file.is_file() and file.unlink()
    for folder in sorted((tmp_path / "whole" / "score_table").rglob("*"), reverse=True):
        folder.rmdir()
    with pytest.raises(ResumeError, match="epoch-0002 is missing"):
        train(make_cohort("vit"), args, rows, checkpoint)


def test_tables_that_do_not_fit_the_run_are_refused_before_training(make_cohort, table, rows, eval_rows, tmp_path):
    """A table of the start of another run, or of other rows, teaches with conviction what is wrong."""
    with pytest.raises(DataError, match="number of rows"):
        MutualKDTrainer(make_cohort("vit"), config(tmp_path, table), eval_rows)
    with pytest.raises(DataError, match="images or labels"):
        MutualKDTrainer(make_cohort("vit"), config(tmp_path, table), make_rows(48, 0))
    other = make_cohort("vit")
    with torch.no_grad():
        other.peers["vit"].classifier.bias += 1
    with pytest.raises(DataError, match="the weights of peer 'vit'"):
        MutualKDTrainer(other, config(tmp_path, table), rows)
    with pytest.raises(ConfigError, match="leave out `view`"):
        MutualKDTrainer(make_cohort("vit"), config(tmp_path, table), rows, view=SharedView())
    control = config(tmp_path, table, transfer_weight=0.0)
    assert MutualKDTrainer(make_cohort("vit"), control, eval_rows).score_table is None
    bare = make_cohort("vit")
    bare.set_objective(objective())
    batch = RoleTaggingCollator(bare.processors)([identified(rows)[1]])
    with pytest.raises(ConfigError, match="TableCollator"):
        bare(**{key: batch[key] for key in ("peer_inputs", "labels", "roles")})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": True}, "augment false"),
        ({"score_table": None}, "score_table is missing"),
        ({"role_source": "step"}, "leave role_source out"),
        ({"role_table": "x"}, "both say who teaches"),
        ({"detach": "none"}, "detach 'teacher'"),
        ({"teacher_source": "live", "refresh_epochs": 2}, "refresh_epochs needs"),
        ({"refresh_epochs": 0}, "1 or more"),
    ],
)
def test_options_that_contradict_the_table(tmp_path, table, changes, message):
    """An option that is silently without effect is worse than a refusal."""
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, table, **changes)


def test_the_collator_passes_through_what_the_trainer_asks(make_cohort, table):
    """Epochs that do not reach the view, or a count of skipped images that stays 0."""
    inner = RoleTaggingCollator(make_cohort("vit").processors, on_bad_row="skip")
    collator = TableCollator(inner, TableTeacher(table, ["vit"], objective()))
    collator.set_epoch(3)
    assert int(inner._epoch) == 3
    good = {"image": make_rows(1)[0]["image"], "label": 0, "sample_id": 1}
    batch = collator([{"image": {"bytes": b"?", "path": None}, "label": 0, "sample_id": 0}, good])
    assert (batch["sample_ids"].tolist(), len(batch["table"]["targets"]), collator.skipped) == ([1], 1, 1)
    assert copy.copy(table).label_names == LABELS
