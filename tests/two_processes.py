"""Starts a script of this folder in several processes over gloo, as `accelerate launch` does."""

import json
import os
import subprocess
import sys
from pathlib import Path


def launch(*words: str, script: str = "distributed_run.py", processes: int = 2) -> subprocess.CompletedProcess:
    tests = Path(__file__).parent
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    launcher += ["--main_process_port", "0", "--config_file"]
    return subprocess.run(
        [*launcher, str(tests.parent / "recipes/accelerate/ddp_cpu.yaml"), str(tests / script), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def two(out: Path, *options: str, script: str, batch: int) -> dict:
    """What a script found that two processes ran."""
    done = launch(str(out), str(batch), *options, script=script)
    assert done.returncode == 0, done.stderr[-3000:]
    return outcome(out)


def outcome(out: Path) -> dict:
    return json.loads((out / "outcome.json").read_text())
