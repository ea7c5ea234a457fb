"""kill -9 at any moment: the same command goes on, and ends bit for bit where it would have ended undisturbed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from edge_cases import RECIPE, BoundEntry, Row, but
from task_kinds import ALL, READERS

ROOT = Path(__file__).parents[2]
EVALUATES = ("--eval_strategy", "steps", "--eval_steps", "1", "--load_best_model_at_end", "true", "--eval_delay", "0")
CLASSIFY = but(RECIPE, "--max_steps", "4", *EVALUATES)
STAGES = but(RECIPE, "--teaching", "auto", "--control", "true", *EVALUATES, "--learning_rate", "1e-2")

IN_PYTHON = f"""
import os, sys, torch
sys.path.insert(0, {str(ROOT / "tests")!r})
from transformers.trainer_utils import get_last_checkpoint
torch.manual_seed(0)
{{make}}
is_begun = os.path.isdir("out") and get_last_checkpoint("out") is not None
trainer.train(resume_from_checkpoint=is_begun or None)
"""
SAVES = "max_steps=4, save_strategy='steps', save_steps=1, save_total_limit=None"
SEGMENT = f"""
from segmentation_run import segmentation_trainer
trainer = segmentation_trainer("out", {SAVES}, learning_rate=1e-2)
"""
SALIENCY = f"""
from saliency_run import saliency_trainer
trainer = saliency_trainer("out", {SAVES}, learning_rate=1e-2)
"""
ADAPTERS = f"""
from conftest import LABELS, make_rows
from hf_mutual_kd import Cohort, MutualKDConfig, MutualKDTrainer, PeerSpec
peers = {{{{name: PeerSpec("{{place}}/vit", peft="lora") for name in ("vit", "cnx")}}}}
args = MutualKDConfig("out", {SAVES}, learning_rate=0.1, use_cpu=True, report_to="none", disable_tqdm=True,
                      per_device_train_batch_size=8, pre_flight=False)
trainer = MutualKDTrainer(Cohort.from_pretrained(peers, label_names=LABELS), args, train_dataset=make_rows(24))
"""

OF_KINDS = f"""
from task_kinds import TRAINED
from hf_mutual_kd import MutualKDConfig, MutualKDTrainer
kind = TRAINED["{{{{name}}}}"]
args = MutualKDConfig("out", {SAVES}, learning_rate=1e-2, use_cpu=True, report_to="none", disable_tqdm=True,
                      pre_flight=False)
trainer = MutualKDTrainer(kind.cohort(), args, train_dataset=kind.rows(24, 0))
"""


@dataclass(frozen=True)
class Killed:
    """What is started, how it goes on, and the file that says that it can."""

    words: list[str]
    goes_on: list[str]
    processes: int = 1

    def begun(self, here: Path) -> bool:
        """Whether there is something to go on with."""
        out = here / "out"
        checkpoints = [*out.glob("checkpoint-*/cohort_state.json"), *out.glob("stages/stages.json")]
        return bool(checkpoints) or (out / "summary.json").is_file()

    def row(self, here: Path, timeout: float) -> Row:
        """The command that goes on: the same where nothing is there yet, or only the peers as they began."""
        words = self.goes_on if self.begun(here) else self.words
        if words[0] != "python" and not self.begun(here) and (here / "out" / "vit").is_dir():
            words = [*words, "--overwrite_output_dir", "true"]
        return Row("", words, timeout=timeout)


def recipe(words: list[str], processes: int = 1) -> Killed:
    return Killed(words, [*words, "--resume_from_checkpoint", "true"], processes)


def python(make: str) -> Killed:
    program = ["python", IN_PYTHON.replace("{make}", make).replace("{{", "{").replace("}}", "}")]
    return Killed(program, program)


KINDS = {
    "classification": recipe(CLASSIFY),
    "segmentation": python(SEGMENT),
    "saliency": python(SALIENCY),
    "adapters": python(ADAPTERS),
    "stages": recipe(STAGES),
    "two processes": recipe(CLASSIFY, processes=2),
    **{name: python(OF_KINDS.replace("{{name}}", name)) for name in ALL | READERS},
}


def run(kind: Killed, point, here: Path, timeout: float) -> tuple[int | None, str]:
    """The exit code, `None` where it was killed after so many seconds; and what it said."""
    if kind.processes == 1:
        ended = BoundEntry(point, here).run(kind.row(here, timeout))
        return ended.code, ended.err
    words = [
        word.replace("{place}", str(point.place)).replace("{here}", str(here)) for word in kind.row(here, 0).words
    ]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file"]
    launcher += [str(ROOT / "recipes/accelerate/ddp_cpu.yaml"), str(ROOT / "recipes" / f"{words[0]}.py"), *words[1:]]
    here.mkdir(exist_ok=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        launcher,
        cwd=here,
        env=env,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    try:
        return process.wait(timeout), process.stderr.read()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None, ""


def result(here: Path) -> dict[str, bytes]:
    """What a run is for: its peers, and who taught them."""
    found = {
        str(path.relative_to(here)): path.read_bytes()
        for path in (here / "out").glob("*/*.safetensors")
        if not path.parent.name.startswith("checkpoint-") and path.parent.name != "report"
    }
    assert len(found) == 2, sorted(found)
    return found | {"roles": (here / "out" / "roles.parquet").read_bytes()}


def check(kind: Killed, point, folder: Path, moments: Callable[[float], list[float]]) -> list[float]:
    """Run undisturbed and killed at moments of its length, again and again; returns when it was killed, in seconds."""
    began = time.monotonic()
    code, said = run(kind, point, folder / "straight", 300)
    assert code == 0, said[-3000:]
    length = time.monotonic() - began
    killed = []
    for moment in moments(length):
        code, said = run(kind, point, folder / "killed", moment)
        assert code in (None, 0), said[-3000:]
        killed += [moment] if code is None else []
    code, said = run(kind, point, folder / "killed", 300)
    assert code == 0, said[-3000:]
    assert result(folder / "killed") == result(folder / "straight")
    left = [path for path in (folder / "killed" / "out").rglob("*") if path.name in (".lock", ".unfinished")]
    assert not left
    return killed


def test_a_killed_run_ends_where_it_would_have_ended(entry_point, tmp_path):
    """Hours that are lost, or that end otherwise, because a machine was taken away."""
    assert len(check(KINDS["classification"], entry_point, tmp_path, lambda length: [0.5 * length])) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_it_does_so_at_every_moment(kind, entry_point, tmp_path, capsys):
    """A moment between two files, of which one says what the other does not hold yet."""
    draws = random.Random(os.environ.get("KILLS_SEED", "0") + kind)
    times = 2 if kind == "two processes" else 3
    done = []
    for place in range(times):
        folder = tmp_path / str(place)
        folder.mkdir()
        done.append(
            check(KINDS[kind], entry_point, folder, lambda length: [draws.uniform(0.1, 1) * length for _ in "ab"])
        )
    with capsys.disabled():
        print(f"\n{kind}: {json.dumps([[round(one, 2) for one in each] for each in done])} s")
