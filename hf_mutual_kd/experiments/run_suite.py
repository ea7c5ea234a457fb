"""Runs a suite: every arm once, in this process or in several, and goes on where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.options import TransferOptions, names_in
from ..config.recipe import Recipe
from ..data.splits import Splits
from ..errors import ConfigError, MutualKDError, OutputFolderError
from ..files import read_json, write_json
from ..peers.spec import PeerSpec
from ..reports.results import Arm, Results
from ..run_lock import claimed
from ..training.run_state import SUMMARY
from .executors import Job, make_executor
from .experiment import Experiment, data_seed
from .peak_memory import forget_peak, peak_memory
from .run_folder import COST, PLAN
from .suite import PlannedArm, Suite, read_suite
from .suite_report import FinishedArm, write_comparison
from .suite_trainer import SuiteTrainer

PAUSE_S = 0.5
LOGS = "logs"
STARTS = ".starts"
"""What frozen starts say, until all arms are trained: see [`MutualKDTrainer.shared_starts`]."""

_splits: dict[str, Splits] = {}
"""Splits that earlier arms of this process have loaded and checked."""


class ArmFailed(MutualKDError):
    """An arm of a suite, trained by a process of its own, ended with an error."""


class SuiteArm(Experiment):
    """An experiment of one arm that shares splits and inputs with others and leaves records but no models."""

    trainer_class = SuiteTrainer

    def _load_data(self) -> Splits:
        settings = [
            {name: getattr(holder, name) for name in names_in("data", kind)}
            for holder, kind in ((self.options, type(self.options)), (self.config, TransferOptions))
        ]
        key = json.dumps([self.task.name, data_seed(self.config), settings])
        if key not in _splits:
            _splits[key] = super()._load_data()
        return dataclasses.replace(_splits[key], facts=dict(_splits[key].facts))

    def _finish(self, results: Results, splits: Splits, specs: dict[str, PeerSpec]) -> None:
        results.write(self.folder)
        self.place.finish()
        for name in specs:
            shutil.rmtree(self.folder / name, ignore_errors=True)


def run_suite(
    path: str,
    processes: int = 1,
    *,
    output_dir: str | None = None,
    executor: str = "local",
    executor_options: Mapping[str, Any] | None = None,
) -> str:
    """
    Train all arms of a suite that have not finished, and write the comparison.

    Args:
        path (`str`): the suite's YAML, see [`read_suite`].
        processes (`int`, *optional*, defaults to 1): 1 trains in this process; more train so many arms at a time, each
            in a process of its own. What they say goes to `logs/`.
        output_dir (`str`, *optional*): in place of the suite's.
        executor (`str`, *optional*, defaults to `"local"`): where those processes run: `"local"`, `"slurm"` or
            `"ray"`, whose machines share the suite's folder.
        executor_options (`dict`, *optional*): see [`make_executor`].

    Returns:
        `str`: the table for the terminal.

    Raises:
        [`ConfigError`]: the suite is wrong somewhere; before any training.
        [`OutputFolderError`]: the folder holds arms of the same names with other options.
        [`ArmFailed`]: one arm of several processes failed; those that finished stay.
    """
    if processes < 1:
        raise ConfigError(f"--processes must be 1 or more, got {processes}")
    suite = read_suite(path, output_dir)
    with claimed(suite.folder):
        todo = [arm for arm in suite.arms if not is_finished(suite, arm)]
        print(f"{suite.folder}: {len(suite.arms)} arms, {len(suite.arms) - len(todo)} of them finished", flush=True)
        if processes == 1 and executor == "local":
            _run_here(suite, todo)
        else:
            place = make_executor(executor, executor_options or {}, suite.folder / LOGS)
            words = [sys.executable, "-m", "hf_mutual_kd", "compare", "--config", path]
            words += ["--output_dir", output_dir] if output_dir else []
            _run_apart(suite, todo, processes, lambda arm: place.start([*words, "--only", arm], _log(suite, arm)))
        shutil.rmtree(suite.folder / STARTS, ignore_errors=True)
        return write_comparison(suite, [read_arm(suite, arm) for arm in suite.arms])


def _run_here(suite: Suite, todo: Sequence[PlannedArm]) -> None:
    """One arm after the other in this process, which reads the rows once."""
    for index, arm in enumerate(todo, start=1):
        print(f"[{index}/{len(todo)}] {arm.name}", flush=True)
        with open(_log(suite, arm.name), "w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
            run_arm(suite, arm)


def run_one(path: str, name: str, output_dir: str | None = None) -> None:
    """Train one arm of a suite by its name, as the processes of [`run_suite`] do."""
    suite = read_suite(path, output_dir)
    chosen = [arm for arm in suite.arms if arm.name == name]
    if not chosen:
        raise ConfigError(f"{path} has no arm {name!r}; it has {', '.join(arm.name for arm in suite.arms[:20])}")
    run_arm(suite, chosen[0])


def run_arm(suite: Suite, arm: PlannedArm) -> None:
    """Train one arm and record what it found and cost; nothing counts as finished before both are written."""
    folder = suite.folder / arm.name
    gc.collect()
    forget_peak()
    trained = SuiteArm(suite.task, arm.recipe.options, config=arm.recipe.config, program="", given=arm.recipe.given)
    trained.shared_starts = suite.folder / STARTS
    trained.run()
    write_json(folder / PLAN, _plan(arm.recipe))
    write_json(folder / COST, {"peak_memory": peak_memory()})


def is_finished(suite: Suite, arm: PlannedArm) -> bool:
    """
    Whether an arm has been trained.

    Raises:
        [`OutputFolderError`]: it has, but with other options.
    """
    folder = suite.folder / arm.name
    if not all((folder / name).is_file() for name in (PLAN, COST, SUMMARY)):
        return False
    trained, wanted = json.loads((folder / PLAN).read_text(encoding="utf-8")), _plan(arm.recipe)
    if trained != wanted:
        changed = next(key for key in {**trained, **wanted} if trained.get(key) != wanted.get(key))
        raise OutputFolderError(
            f"{folder} was trained with {changed} {trained.get(changed)!r}, the suite now says "
            f"{wanted.get(changed)!r}; remove that folder, rename the setting, or choose another --output_dir"
        )
    return True


def read_arm(suite: Suite, arm: PlannedArm) -> FinishedArm:
    """What a finished arm found."""
    folder = suite.folder / arm.name
    found = read_json(folder / SUMMARY, Arm)
    cost = json.loads((folder / COST).read_text(encoding="utf-8"))
    return FinishedArm(arm, found, cost["peak_memory"])


def _plan(recipe: Recipe) -> dict[str, Any]:
    """The options that say what an arm is, as JSON gives them back."""
    own = {"output_dir", "overwrite_output_dir"}
    return json.loads(json.dumps({key: value for key, value in recipe.given.items() if key not in own}))


def _run_apart(suite: Suite, todo: Sequence[PlannedArm], processes: int, start: Callable[[str], Job]) -> None:
    """Each arm in a process of its own, `processes` at a time."""
    waiting = list(todo)
    running: dict[str, Job] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                arm = waiting.pop(0)
                print(f"[{len(todo) - len(waiting)}/{len(todo)}] {arm.name}", flush=True)
                running[arm.name] = start(arm.name)
            time.sleep(PAUSE_S)
            for name, job in list(running.items()):
                code = job.poll()
                if code is not None:
                    del running[name]
                    if code:
                        log = _log(suite, name)
                        raise ArmFailed(f"{name} failed:\n{_last_lines(log)}\nall of it: {log}")
    finally:
        for job in running.values():
            job.terminate()
        for job in running.values():
            job.wait()


def _log(suite: Suite, name: str) -> Path:
    """Where the words of an arm go."""
    path = suite.folder / LOGS / f"{name.replace('/', '.')}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _last_lines(log: Path, most: int = 8) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-most:]) if log.is_file() else ""
