"""Folders that cannot be written, or whose content would be lost."""

import os
import shutil
import socket
from pathlib import Path

import pytest
from edge_cases import RECIPE, RESUME, Row, but, snapshot

RECIPES = Path(__file__).parents[2] / "recipes"
DATA = ["--dataset", "{place}/data", "--use_cpu"]
OVERWRITE = ["--overwrite_output_dir", "true"]


def into(folder: str) -> list[str]:
    return but(RECIPE, "--output_dir", folder)


def score_into(folder: str) -> list[str]:
    return ["hf-mutual-kd", "score", "--peers", "vit={place}/vit", *DATA, "--out", folder]


def scout_into(folder: str) -> list[str]:
    return ["hf-mutual-kd", "scout", "--model", "{place}/vit", "--candidates", "{place}/cnx", *DATA, "--out", folder]


def a_file(here):
    (here / "file").write_text("mine")


def a_dangling_link(here):
    (here / "out").symlink_to(here / "nowhere")


def own_files(here):
    (here / "notes.txt").write_text("mine")
    (here / "data.csv").write_text("1,2")


def notes_in_the_run(here):
    (here / "run" / "notes.txt").write_text("mine")


def a_linked_run(here):
    (here / "run").rename(here / "elsewhere")
    (here / "run").symlink_to(here / "elsewhere")


def a_linked_peer(here):
    (here / "stopped" / "vit").rename(here / "vit")
    (here / "stopped" / "vit").symlink_to(here / "vit")


def held_by(host: str, pid: int, start: str):
    def make(here):
        (here / "stopped" / ".lock").write_text(f"{pid}\n{host}\n{start}\n")

    return make


def held_by_another_host(here):
    held_by("another-host", 4711, "1")(here)


def held_by_this_host(here):
    from filelock import SoftFileLock

    lock = SoftFileLock(str(here / "stopped" / ".lock"))
    lock.acquire()
    HELD.append(lock)


HELD: list = []


def without_checkpoints(here):
    for path in (here / "run").glob("checkpoint-*"):
        shutil.rmtree(path)
    for name in ("summary.json", "results.json"):
        (here / "run" / name).unlink()


def no_checkpoint(here):
    (here / "out").mkdir()


def start_that_came_to_nothing(here):
    (here / "out").mkdir()
    (here / "out" / "cohort.json").write_bytes((here / "run" / "cohort.json").read_bytes())


ROWS = [
    *[
        Row(f"{name}: {what}", words(folder), says=[option, says], make=make)
        for name, option, words in (
            ("recipe", "output_dir", into),
            ("score", "--out", score_into),
            ("scout", "--out", scout_into),
        )
        for what, folder, says, make in (
            ("a file", "{here}/file", "is a file", a_file),
            ("below a file", "{here}/file/below", "Not a directory", a_file),
            ("a dangling link", "{here}/out", "a link that leads nowhere", a_dangling_link),
            ("not writable", "/proc/out", "cannot be written", None),
            ("NUL", "{here}/a\0b", "cannot be a path", None),
            ("5,000 characters", "{here}/" + "x" * 5000, "File name too long", None),
            ("a user that is not there", "~nosuchuser/out", "there is no user of that name", None),
        )
    ],
    Row("the working directory", into(".") + OVERWRITE, says="the working directory", make=own_files),
    Row("above the working directory", into("..") + OVERWRITE, says="the working directory"),
    Row("the root", into("/") + OVERWRITE, says="the working directory"),
    Row("home", into("{here}") + OVERWRITE, says="is or holds", env={"HOME": "/tmp"}, make=own_files),
    Row("no run", into("{here}/out") + OVERWRITE, says="no cohort.json", make=lambda here: own_files_in(here / "out")),
    Row("a run and more", into("{run}") + OVERWRITE, says="notes.txt is no part of one", make=notes_in_the_run),
    Row("a linked run", into("{run}") + OVERWRITE, says="does not replace a link", make=a_linked_run),
    Row("in use", into("{run}"), says="--overwrite_output_dir true"),
    Row(
        "stopped before a checkpoint",
        into("{run}"),
        says="before its first checkpoint; replace it by --overwrite_out",
        make=without_checkpoints,
    ),
    Row("resume: a linked peer", RESUME, says="vit is a link", make=a_linked_peer),
    Row(
        "resume: no checkpoint",
        [*RECIPE, "--resume_from_checkpoint", "true"],
        says="there is no checkpoint",
        make=no_checkpoint,
    ),
    Row("resume: no folder", [*RECIPE, "--resume_from_checkpoint", "true"], says="there is no checkpoint"),
    Row(
        "resume: a path that is not there",
        [*RECIPE, "--resume_from_checkpoint", "{here}/no/check/point"],
        says="neither a folder nor a repository",
    ),
    Row("locked by another host", RESUME, says=["4711", "another-host", "remove", ".lock"], make=held_by_another_host),
    Row("locked by a process", RESUME, says=[str(os.getpid()), "of this machine"], make=held_by_this_host),
    Row("a typo destroys nothing", into("{run}") + [*OVERWRITE, "--learning_rate", "x"], says="learning_rate"),
    Row("nor does a missing peer", [*into("{run}"), *OVERWRITE, "--peers.zoe.frozen", "true"], says="zoe"),
]


def own_files_in(folder):
    folder.mkdir()
    own_files(folder)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_folders_that_must_not_be_written_are_refused_first(row, entry):
    """Deleted work, two runs in one folder, or a refusal after minutes of loading."""
    entry.check(row)


def test_a_stale_lock_is_taken_over(entry):
    """A killed run could never go on: its lock names a process that is gone, or a number that another process has."""
    row = Row("", RESUME)
    entry.here.mkdir()
    entry.point.copy_runs(row, entry.here)
    held_by(socket.gethostname(), os.getpid(), "1")(entry.here)
    ended = entry.run(row)
    assert ended.code == 0, ended.err[-3000:]
    assert not (entry.here / "stopped" / ".lock").exists()


def test_a_start_that_came_to_nothing_is_no_run_in_use(entry):
    """Who corrects a typo would have to delete a folder first."""
    entry.here.mkdir()
    entry.point.copy_finished(entry.here / "run")
    start_that_came_to_nothing(entry.here)
    ended = entry.run(Row("", RECIPE))
    assert ended.code == 0, ended.err[-3000:]


def test_the_earlier_run_goes_only_when_the_new_one_has_its_results(entry):
    """A run that fails at its end would leave neither the old nor the new."""
    entry.here.mkdir()
    entry.point.copy_finished(entry.here / "run")
    old = snapshot(entry.here / "run")
    # The process' own end, in the first step, leaves the earlier run aside; the next start brings it back.
    killed = f"""
import os, sys
import hf_mutual_kd.training.trainer as trainer
trainer.MutualKDTrainer.training_step = lambda *a, **k: os._exit(137)
sys.argv = ["vit_classify.py", *{[*into("{run}"), *OVERWRITE][1:]!r}]
import runpy
runpy.run_path({str(RECIPES / "vit_classify.py")!r}, run_name="__main__")
"""
    assert entry.run(Row("", ["python", killed])).code == 137
    assert (entry.here / "run" / ".replaced" / "results.json").is_file()
    assert entry.run(Row("", into("{run}"))).code == 2
    assert snapshot(entry.here / "run") == old
    ended = entry.run(Row("", [*into("{run}"), *OVERWRITE, "--seed", "7"]))
    assert ended.code == 0, ended.err[-3000:]
    new = snapshot(entry.here / "run")
    assert new.keys() == old.keys()
    assert new["vit/model.safetensors"] != old["vit/model.safetensors"]
