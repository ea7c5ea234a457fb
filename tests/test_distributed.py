"""Two processes over gloo against one process with twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from hf_mutual_kd import RoleTable

SCRIPT = Path(__file__).parent / "distributed_run.py"


def run(processes: int, out: Path, batch: int, *options: str) -> dict:
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--rdzv-backend", "c10d",
              "--rdzv-endpoint", "localhost:0"] if processes > 1 else []  # fmt: skip
    done = subprocess.run(
        [sys.executable, *launch, str(SCRIPT), str(out), str(batch), *options],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "outcome.json").read_text())


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    return out, run(1, out, 8)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    return out, run(2, out, 4)


def test_updates_and_losses_are_equal(one, two):
    """Forgetting the number of processes doubles or halves the loss without any error."""
    for peer in ("vit", "cnx"):
        left, right = (load_file(out / "checkpoint-6" / peer / "model.safetensors") for out, _ in (one, two))
        for key, value in left.items():
            assert_close(value, right[key], rtol=1e-5, atol=1e-5)
    shown = ("loss", "vit/supervised", "vit/transfer", "cnx/taught", "cnx/accuracy")
    logs = [
        [{key: entry[key] for key in shown} for entry in outcome["history"] if "loss" in entry]
        for _, outcome in (one, two)
    ]
    assert len(logs[0]) == 2
    for left, right in zip(*logs, strict=True):
        assert left == pytest.approx(right, abs=1e-5)


def test_roles_and_metrics_are_equal(one, two):
    """A sample counted twice or not at all hides behind nearly equal shares."""
    left, right = (RoleTable.load(out / "roles.parquet") for out, _ in (one, two))
    assert left.counts() == right.counts()
    assert len(left) == len(right) == 48
    assert (left.lookup(range(48)) == right.lookup(range(48))).all()
    numbers = [{key: value for key, value in outcome["metrics"].items() if "/" in key} for _, outcome in (one, two)]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-5)
    assert numbers[0]["test_cohort/samples"] == 21


def test_resume_with_two_processes_is_exact(two, tmp_path):
    """The RNG, roles and bests of every process have to come back."""
    run(2, tmp_path, 4, "max_steps=3")
    (tmp_path / "outcome.json").unlink()
    run(2, tmp_path, 4, "resume=true")
    for peer in ("vit", "cnx"):
        straight, resumed = (
            load_file(out / "checkpoint-6" / peer / "model.safetensors") for out in (two[0], tmp_path)
        )
        assert all((straight[key] == resumed[key]).all() for key in straight)
    assert (two[0] / "roles.parquet").read_bytes() == (tmp_path / "roles.parquet").read_bytes()


def test_stream_is_shared_between_processes(tmp_path):
    """Every process reading the whole stream would train on each sample twice."""
    run(2, tmp_path, 4, "streaming=true")
    table = RoleTable.load(tmp_path / "roles.parquet")
    assert len(table) == sum(table.counts().values()) == 48
