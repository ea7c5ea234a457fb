"""Commands that end well although nobody can read what they show, and badly in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from edge_cases import RECIPE, Row, but

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("stdout", "encoding"), [("/dev/full", "utf-8"), ("{here}.stdout", "ascii")])
def test_output_that_cannot_be_written_does_not_end_a_training(stdout, encoding, entry):
    """Hours of training without report and push, because a table has a frame or a log's disk is full."""
    ended = entry.run(Row("", RECIPE, stdout=stdout, encoding=encoding))
    assert ended.code == 0, ended.err[-3000:]
    assert (entry.here / "out" / "report" / "index.html").is_file()
    if encoding == "ascii":
        assert "Report: " in ended.out


@pytest.mark.parametrize("how", ["| head -1", ">&-"])
def test_neither_does_output_that_nobody_reads(how, entry_point, tmp_path):
    """`| head` closes the pipe after its lines; `>&-` gives the first file that is opened what is printed."""
    words = [word.replace("{place}", str(entry_point.place)) for word in ("env", "push", "{place}")[:1]]
    command = f"{sys.executable} -m hf_mutual_kd {' '.join(words)} {how}; echo ${{PIPESTATUS[0]}} >&2"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "0", done.stderr
    assert "Exception ignored" not in done.stderr
    assert not list(tmp_path.iterdir())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.mark.parametrize(("number", "code", "says"), [("INT", 130, "interrupted"), ("TERM", 143, "terminated")])
def test_a_stopped_run_says_in_one_line_how_it_goes_on(number, code, says, entry):
    """A screen of traceback hides that nothing is lost."""
    program = f"""
import os, signal, sys
from transformers import TrainerCallback
import hf_mutual_kd.training.trainer as trainer
def stop(self, *a, **k):
    if self.state.global_step == 1:
        os.kill(os.getpid(), signal.SIG{number})
    return step(self, *a, **k)
step, trainer.MutualKDTrainer.training_step = trainer.MutualKDTrainer.training_step, stop
import runpy
sys.argv = ["vit_classify.py", *{RECIPE[1:]!r}]
runpy.run_path({str(ROOT / "recipes" / "vit_classify.py")!r}, run_name="__main__")
"""
    ended = entry.run(Row("", ["python", program]))
    assert ended.code == code, ended.err[-3000:]
    last = ended.err.splitlines()[-1]
    assert last.startswith(f"{says} the last checkpoint is ")
    assert "out/checkpoint-1; go on with --resume_from_checkpoint true" in last
    assert "Traceback" not in ended.err
    assert not (entry.here / "out" / ".lock").exists()


def test_a_full_disk_is_one_line_and_keeps_what_is_whole(entry):
    """Half a checkpoint that keeps the space, below three screens of traceback; `ulimit -f` stands for a full disk."""
    ended = entry.run(Row("", RECIPE))
    assert ended.code == 0
    largest = max(path.stat().st_size for path in (entry.here / "out" / "checkpoint-2").rglob("*"))
    fails = but(RECIPE, "--output_dir", "{here}/full")
    ended = entry.run(Row("", fails, file_size=largest - 1))
    assert ended.code == 2, ended.err[-3000:]
    assert "the disk is full" in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err
    assert not (entry.here / "full").exists()


def test_a_disk_that_fills_later_keeps_the_checkpoint_and_says_how_to_go_on(entry):
    """The only whole checkpoint lost to one that did not fit, or a run that nobody knows how to go on with."""
    entry.here.mkdir()
    entry.point.copy_finished(entry.here / "straight")
    largest = max(path.stat().st_size for path in (entry.here / "straight" / "checkpoint-2").rglob("*"))
    program = f"""
import resource, signal, sys, runpy
import hf_mutual_kd.training.trainer as trainer
def fill(self, *a, **k):
    if self.state.global_step == 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({largest - 1}, {largest - 1}))
    return step(self, *a, **k)
step, trainer.MutualKDTrainer.training_step = trainer.MutualKDTrainer.training_step, fill
sys.argv = ["vit_classify.py", *{RECIPE[1:]!r}]
runpy.run_path({str(ROOT / "recipes" / "vit_classify.py")!r}, run_name="__main__")
"""
    ended = entry.run(Row("", ["python", program]))
    out = entry.here / "out"
    assert ended.code == 2, ended.err[-3000:]
    last = ended.err.splitlines()[-1]
    assert f"what is there is whole: the last checkpoint is {out / 'checkpoint-1'}; go on with --resume_from" in last
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint-1", "cohort.json"]
    ended = entry.run(Row("", [*RECIPE, "--resume_from_checkpoint", "true"]))
    assert ended.code == 0, ended.err[-3000:]
    for name in ("vit", "cnx"):
        weights = [(entry.here / run / name / "model.safetensors").read_bytes() for run in ("straight", "out")]
        assert weights[0] == weights[1]


def test_an_error_does_not_blame_codecarbon(entry):
    """Every traceback began with a module that has nothing to do with it."""
    program = f"""
import sys, runpy
import hf_mutual_kd.training.trainer as trainer
def fail(*a, **k):
    raise RuntimeError("the true cause")
trainer.MutualKDTrainer.training_step = fail
sys.argv = ["vit_classify.py", *{RECIPE[1:]!r}]
runpy.run_path({str(ROOT / "recipes" / "vit_classify.py")!r}, run_name="__main__")
"""
    ended = entry.run(Row("", ["python", program]))
    assert ended.code == 1
    assert "the true cause" in ended.err
    assert "codecarbon" not in ended.err
    assert not (entry.here / "out").exists()
