"""What goes on exactly: streams in any epoch, runs that were killed; and weights that are not finite."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import make_rows
from edge_cases import RECIPE, Row, but
from safetensors.torch import load_file

from hf_mutual_kd import MutualKDConfig, MutualKDTrainer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("save_at", [2, 3, 4, 7])
def test_a_stream_goes_on_in_the_epoch_where_it_stopped(save_at, make_cohort, tmp_path):
    """Of a stream nobody knows the length: resumed after its first epoch it began anew, with the wrong rows."""

    def trainer(out, **changes):
        args = MutualKDConfig(
            str(tmp_path / out),
            max_steps=8,
            per_device_train_batch_size=8,
            lr_scheduler_type="constant",
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            pre_flight=False,
            save_strategy="steps",
            save_steps=save_at,
            **changes,
        )
        rows = make_rows(24).to_iterable_dataset().shuffle(seed=3, buffer_size=8)
        return MutualKDTrainer(make_cohort("vit", "cnx"), args, train_dataset=rows)

    straight = trainer("a")
    straight.train()
    resumed = trainer("b")
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{save_at}"))
    for name in ("vit", "cnx"):
        left, right = (load_file(tmp_path / run / name / "model.safetensors") for run in "ab")
        assert all(left[key].equal(right[key]) for key in left)
    assert (tmp_path / "a" / "roles.parquet").read_bytes() == (tmp_path / "b" / "roles.parquet").read_bytes()


def test_a_training_that_was_over_is_only_ended(make_cohort, tmp_path, train_rows):
    """Killed between its last checkpoint and its records, a run was resumed by one step more than it was to do."""

    def trainer(out, **changes):
        settings = {
            "max_steps": 4,
            "lr_scheduler_type": "constant",
            "save_strategy": "steps",
            "save_steps": 2,
        } | changes
        args = MutualKDConfig(
            str(tmp_path / out), per_device_train_batch_size=16, learning_rate=1e-2, use_cpu=True, report_to="none",
            disable_tqdm=True, pre_flight=False, augment=False, **settings,
        )  # fmt: skip
        return MutualKDTrainer(make_cohort("vit", "cnx"), args, train_dataset=train_rows)

    trainer("a").train()
    shutil.copytree(tmp_path / "a" / "checkpoint-4", tmp_path / "b" / "checkpoint-4")
    ended = trainer("b")
    ended.train(resume_from_checkpoint=True)
    assert ended.state.global_step == 4
    for name in ("vit/model.safetensors", "cnx/model.safetensors", "roles.parquet", "history.jsonl"):
        if name == "history.jsonl":
            left, right = ([json.loads(line) for line in (tmp_path / run / name).open()] for run in "ab")
            # The line that sums up a training is written after its last checkpoint.
            assert [line for line in left if "loss" in line] == right
        else:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    longer = trainer("b", max_steps=6)
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 6


def test_weights_that_are_not_finite_are_not_saved(entry):
    """NaN over the good weights of a peer, found in the last table or by who loads it."""
    row = Row("", but(RECIPE, "--learning_rate", "1e300"), says=["'vit' is broken", "learning_rate"], writes=True)
    entry.check(row)
    for path in entry.here.rglob("*.safetensors"):
        assert all(np.isfinite(value.numpy()).all() for value in load_file(path).values()), path


def test_a_broken_peer_keeps_its_best_and_is_named(entry):
    """A run would go on with NaN, or end, because of one of its peers."""
    row = Row(
        "",
        but(
            RECIPE,
            "--peers.vit.learning_rate",
            "1e300",
            "--eval_strategy",
            "steps",
            "--eval_steps",
            "1",
            "--load_best_model_at_end",
            "true",
            "--eval_delay",
            "0",
        ),
        says="peer 'vit' is broken",
        code=0,
        writes=True,
    )
    ended = entry.check(row)
    assert "peer 'vit' is broken: its weights are not finite, as was found at step 1; what is kept" in ended.out
    for path in entry.here.rglob("*.safetensors"):
        assert all(np.isfinite(value.numpy()).all() for value in load_file(path).values()), path
    state = json.loads((entry.here / "out" / "checkpoint-2" / "cohort_state.json").read_text())
    assert state["broken"] == {"vit": 1}
