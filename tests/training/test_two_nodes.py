"""Two launchers, as on two machines: one training, whose processes meet at an address."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import distributed_run
import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

TESTS = Path(__file__).parents[1]
TRAININGS = {"run": "4", "apart": "8 peer_parallel=1"}
"""By their folder: every machine with all peers and half the rows, and every machine with one peer."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def launcher(rank: int, port: int, words: list[str]) -> subprocess.Popen:
    """`accelerate launch` as the guide has it, of the machine with this rank."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(TESTS.parent / "recipes/accelerate/ddp_cpu.yaml"), "--num_machines", "2"]
    command += ["--machine_rank", str(rank), "--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
    return subprocess.Popen(
        [*command, str(TESTS / "distributed_run.py"), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_launchers_are_one_training(tmp_path):
    """Machines that do not meet train twice, each on all rows, and write over one another."""
    distributed_run.train(str(tmp_path / "alone"), "8")
    words = " -- ".join(f"{tmp_path / name} {settings}" for name, settings in TRAININGS.items()).split()
    port = free_port()
    machines = [launcher(rank, port, words) for rank in range(2)]
    said = [machine.communicate(timeout=500)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    for name in TRAININGS:
        for peer in ("vit", "cnx"):
            left, right = (
                load_file(tmp_path / run / "checkpoint-6" / peer / "model.safetensors") for run in ("alone", name)
            )
            for key, value in left.items():
                assert_close(value, right[key], rtol=1e-5, atol=1e-5)
        assert (tmp_path / name / "roles.parquet").read_bytes() == (tmp_path / "alone/roles.parquet").read_bytes()
