"""Two processes over gloo against one process with twice the batch: 41 rows, so that the last batch is short."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import distributed_run
import pytest
from conftest import make_rows, write_place
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForImageClassification
from two_processes import launch, outcome

from hf_mutual_kd import ConfigError, ResumeError, RoleTable
from hf_mutual_kd.training.processes import check_processes

ROWS = distributed_run.ROWS
PEERS = ("vit", "cnx")
pytestmark = pytest.mark.timeout(600)  # The first test waits for all launches.


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process, from rows that are counted and from a stream."""
    out = tmp_path_factory.mktemp("alone")
    distributed_run.train(str(out / "run"), "8")
    distributed_run.train(str(out / "stream"), "8", "streams=yes")
    distributed_run.train(str(out / "share"), "8", "labelled_share=0.25")
    distributed_run.train(str(out / "share_stream"), "8", "streams=yes", "labelled_share=0.25")
    distributed_run.train(str(out / "staged"), "8", "teaching=auto")
    return out


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Two processes of which one was killed: the folder, what was said, and seconds."""
    out = tmp_path_factory.mktemp("killed")
    began = time.monotonic()
    done = launch(str(out), "4", "dies_at=4")
    return out, done, time.monotonic() - began


@pytest.fixture(scope="module")
def together(tmp_path_factory, alone, killed):
    """Everything that two processes do, in one launch: importing takes longer than training."""
    out = tmp_path_factory.mktemp("together")
    trainings = [
        f"{out}/run 4",
        f"{out}/stream 4 streams=yes",
        f"{out}/pools 4 pools=yes",
        f"{out}/share 4 labelled_share=0.25",
        f"{out}/share_stream 4 streams=yes labelled_share=0.25",
        f"{out}/resumed 4 goes_on_from={killed[0]}",
        f"{out}/more 4 goes_on_from={alone}/run",
        f"{out}/staged 4 teaching=auto",
        f"{out}/split 4 splits=yes load_best_model_at_end=1",
        f"{out}/split_again 4 splits=yes load_best_model_at_end=1 goes_on_from={out}/split",
    ]
    done = launch(*" -- ".join(trainings).split())
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stderr


def assert_same_training(left: Path, right: Path, exactly: bool = False) -> None:
    for peer in PEERS:
        a, b = (load_file(out / "checkpoint-6" / peer / "model.safetensors") for out in (left, right))
        for key, value in a.items():
            assert_close(value, b[key], rtol=0 if exactly else 1e-5, atol=0 if exactly else 1e-5)
    assert (left / "roles.parquet").read_bytes() == (right / "roles.parquet").read_bytes()


def test_updates_and_losses_are_equal(alone, together):
    """Forgetting the number of processes, or counting the rows that fill up the last batch, shows in no error."""
    assert_same_training(alone / "run", together[0] / "run")
    shown = ("loss", "vit/supervised", "vit/transfer", "cnx/taught", "cnx/accuracy")
    logs = [
        [{key: entry[key] for key in shown} for entry in outcome(out / "run")["history"] if "loss" in entry]
        for out in (alone, together[0])
    ]
    assert len(logs[0]) == 2
    for left, right in zip(*logs, strict=True):
        assert left == pytest.approx(right, abs=1e-5)


@pytest.mark.parametrize("kind", ["run", "stream"])
def test_roles_and_metrics_are_equal(kind, alone, together):
    """A sample counted twice or not at all hides behind nearly equal shares."""
    assert_same_training(alone / kind, together[0] / kind)
    table = RoleTable.load(together[0] / kind / "roles.parquet")
    assert len(table) == sum(table.counts().values()) == ROWS
    metrics = [outcome(out / kind)["metrics"] for out in (alone, together[0])]
    numbers = [{key: value for key, value in found.items() if "/" in key} for found in metrics]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)
    assert numbers[0]["test_cohort/samples"] == 21


@pytest.mark.parametrize("kind", ["share", "share_stream"])
def test_a_share_of_labelled_rows_is_equal(kind, alone, together):
    """Processes that draw for themselves, or fill up a step that is whole, train on other rows than one process."""
    assert_same_training(alone / kind, together[0] / kind)
    metrics = [outcome(out / kind)["metrics"] for out in (alone, together[0])]
    numbers = [{key: value for key, value in found.items() if "/" in key} for found in metrics]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)


def test_stages_are_equal(alone, together):
    """Processes that try or keep different weights wait for each other for ever, or leave a mixture."""
    stages = [folder / "staged" / "stages" for folder in (alone, together[0])]
    one, two = (json.loads((folder / "stages.json").read_text()) for folder in stages)
    assert one["done"] == two["done"]
    assert one["facts"]["way"] == two["facts"]["way"]
    for peer in PEERS:
        assert one["facts"]["kept"][peer]["what"] == two["facts"]["kept"][peer]["what"]
        for stage in ("control", "self", f"way-{one['facts']['way']}"):
            left, right = (load_file(folder / stage / peer / "model.safetensors") for folder in stages)
            for key, value in left.items():
                assert_close(value, right[key], rtol=1e-5, atol=1e-5)


def test_a_killed_process_ends_the_job(killed):
    """Processes that wait for a dead one hang for half an hour, and nobody is told why."""
    out, done, seconds = killed
    assert done.returncode != 0
    assert seconds < 280
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert (out / "checkpoint-3").is_dir()
    assert not (out / "checkpoint-6").exists()


def test_one_row_of_a_process_passes_batch_norms_after_pooling(together):
    """The last row of an epoch, which one of two processes gets, ends the training of both."""
    found = outcome(together[0] / "pools")
    assert max(line["step"] for line in found["history"]) == 6
    assert 0 <= found["metrics"]["test_cnx/accuracy"] <= 1
    kept = load_file(together[0] / "pools" / "cnx" / "model.safetensors")
    assert all(value.isfinite().all() for value in kept.values())
    # The epoch's last batch had one row; of six the batch norm after pooling has seen one less.
    assert int(kept["body.1.num_batches_tracked"]) - int(kept["head.0.num_batches_tracked"]) == 1


def test_what_a_killed_process_left_resumes_exactly(together):
    """The RNG, roles and bests of every process have to come back."""
    assert_same_training(together[0] / "run", together[0] / "resumed", exactly=True)


def test_other_numbers_of_processes_go_on(alone, killed, together, tmp_path):
    """A checkpoint that only its own number of processes can read is lost with one machine."""
    assert together[1].count("going on with") == 1
    assert "going on with 2 processes where 1 began" in together[1]
    assert "8 rows per step, gradient_accumulation_steps is 1" in together[1]
    assert_same_training(alone / "run", together[0] / "more")
    # One process, whose batches of 4 become steps of 8.
    distributed_run.train(str(tmp_path), "4", f"goes_on_from={killed[0]}")
    assert_same_training(alone / "run", tmp_path)


def test_steps_of_other_rows_are_refused(killed, tmp_path):
    """Checkpoints count steps: with other rows in each, part of the data would be left out or trained on twice."""
    with pytest.raises(ResumeError, match="2 processes and 8 rows per step, and 1 processes take at least 3; set"):
        distributed_run.train(str(tmp_path), "3", f"goes_on_from={killed[0]}")


def test_split_weights_train_save_and_resume_as_whole_ones(alone, together):
    """FSDP: peers would be saved in parts, clipped together, or wait for each other where a start is not needed."""
    split, again = together[0] / "split", together[0] / "split_again"
    assert_same_training(alone / "run", split)
    assert_same_training(split, again, exactly=True)
    for peer in PEERS:
        _, report = AutoModelForImageClassification.from_pretrained(split / peer, output_loading_info=True)
        assert not report["missing_keys"]


@pytest.mark.parametrize(("setting", "named"), [("even_batches", "leave"), ("dispatch_batches", "repeats rows")])
def test_settings_that_hang_or_repeat_are_refused(setting, named):
    """The first waits for ever at the end of an epoch, the second trains on rows of a stream twice."""
    settings = {"even_batches": True, "dispatch_batches": None, setting: False}
    args = SimpleNamespace(world_size=2, accelerator_config=SimpleNamespace(**settings))
    stream = make_rows(4).to_iterable_dataset()
    with pytest.raises(ConfigError, match=f"{setting}=false.*{named}"):
        check_processes(args, stream)
    args.world_size = 1
    check_processes(args, stream)


def printed_command() -> list[str]:
    """The guide's command of several processes, word for word."""
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "multi_gpu.md").read_text(encoding="utf-8")
    lines = [line for line in guide.splitlines() if line.startswith("accelerate launch --config_file")]
    assert len(lines) == 1
    return lines[0].removesuffix(" …").split()


@pytest.mark.parametrize("sees", [True, False])
def test_the_printed_command_is_one_training(sees, tmp_path):
    """Processes that do not see each other are two trainings that write over one another in one folder."""
    place = write_place(tmp_path / "place", train=16, validation=6, test=6)
    words = [word for word in printed_command() if sees or word != "--use_cpu"]
    words[2:2] = ["--main_process_port", "0"]
    words += ["--peers", f"vit={place / 'vit'}", f"cnx={place / 'cnx'}", "--dataset", str(place / "data")]
    words += ["--max_steps", "2", "--control", "false", "--output_dir", str(tmp_path / "run"), "--report_to", "none"]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *words[2:]],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if sees:
        assert done.returncode == 0, done.stderr[-3000:]
        assert json.loads((tmp_path / "run" / "cohort.json").read_text())["hardware"]["processes"] == 2
    else:
        assert done.returncode != 0
        assert "the launcher started 2 processes, but each sees only 1; on CPUs give --use_cpu" in done.stderr
        assert not (tmp_path / "run").exists()
