"""Where the arms of a suite run: processes of this machine, a Slurm cluster by submitit, or a Ray cluster."""

from __future__ import annotations

import importlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from ..errors import ConfigError

ExecutorName = Literal["local", "slurm", "ray"]
EXECUTORS = get_args(ExecutorName)
FAILED = 1


class Job(Protocol):
    """A command under way."""

    def poll(self) -> int | None:
        """Its exit code, `None` while it runs."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...

    def wait(self) -> Any:
        """Until it has ended."""
        ...


class Executor(Protocol):
    """Starts commands somewhere; their words go to a file that every machine can write."""

    def start(self, words: Sequence[str], log: Path) -> Job:
        """Start a command."""
        ...


def make_executor(name: str, options: Mapping[str, Any], logs: Path) -> Executor:
    """
    The place where commands run.

    Args:
        name (`str`): one of [`EXECUTORS`].
        options (`dict`): of `"slurm"` what submitit's `update_parameters` takes, e.g. `timeout_min`,
            `slurm_partition`, `gpus_per_node`; of `"ray"` the resources of a command, e.g. `num_gpus`, and `address`.
        logs (`Path`): a folder that all machines share.

    Raises:
        [`ConfigError`]: unknown name or option, or the engine is not installed.
    """
    if name not in EXECUTORS:
        raise ConfigError(f"executor must be one of {', '.join(EXECUTORS)}, got {name!r}")
    if name == "local":
        if options:
            raise ConfigError(f"executor 'local' has no options, got {', '.join(options)}; --processes says how many")
        return LocalProcesses()
    try:
        return Slurm(options, logs) if name == "slurm" else Ray(options, logs)
    except ImportError as error:
        package = {"slurm": "submitit", "ray": "ray"}[name]
        raise ConfigError(f"executor {name!r} needs {package}: pip install {package}") from error
    except (TypeError, ValueError, NameError) as error:
        raise ConfigError(f"executor_options {dict(options)} do not fit executor {name!r}: {error}") from error


class LocalProcesses:
    """Processes of this machine."""

    def start(self, words: Sequence[str], log: Path) -> Job:
        """As [`Executor.start`]."""
        with open(log, "wb") as file:
            return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)


class Slurm:
    """Jobs of a Slurm cluster; `cluster="local"` in the options starts them on this machine by the same code."""

    def __init__(self, options: Mapping[str, Any], logs: Path):
        submitit = importlib.import_module("submitit")
        chosen = dict(options)
        self._executor = submitit.AutoExecutor(folder=logs / "submitit", cluster=chosen.pop("cluster", "slurm"))
        self._executor.update_parameters(**chosen)

    def start(self, words: Sequence[str], log: Path) -> Job:
        """As [`Executor.start`]."""
        return SlurmJob(self._executor.submit(run_words, list(words), str(log), os.getcwd()))


class SlurmJob:
    """A job of submitit."""

    def __init__(self, job: Any):
        self._job = job

    def poll(self) -> int | None:
        """As [`Job.poll`]; a job that the cluster ended has failed."""
        if not self._job.done():
            return None
        return FAILED if self._job.exception() is not None else int(self._job.result())

    def terminate(self) -> None:
        """As [`Job.terminate`]."""
        self._job.cancel()

    def wait(self) -> None:
        """As [`Job.wait`]."""
        self._job.wait()  # Asked for its result, submitit waits 15 s for one that a job that was ended does not have.


class Ray:
    """Tasks of a Ray cluster: the one at `address`, else the one that is found, else one on this machine."""

    def __init__(self, options: Mapping[str, Any], logs: Path):
        self._ray = importlib.import_module("ray")
        chosen = dict(options)
        address = chosen.pop("address", None)
        if not self._ray.is_initialized():
            self._ray.init(address=address, log_to_driver=False, include_dashboard=False)
        # An arm that failed says why; trying it again would hide that.
        self._task = self._ray.remote(run_words).options(**{"num_cpus": 1, "max_retries": 0, **chosen})

    def start(self, words: Sequence[str], log: Path) -> Job:
        """As [`Executor.start`]."""
        return RayJob(self._ray, self._task.remote(list(words), str(log), os.getcwd()))


class RayJob:
    """A task of Ray."""

    def __init__(self, ray: Any, task: Any):
        self._ray, self._task = ray, task

    def poll(self) -> int | None:
        """As [`Job.poll`]; a task whose machine was lost has failed."""
        ready, _ = self._ray.wait([self._task], timeout=0)
        return self.wait() if ready else None

    def terminate(self) -> None:
        """As [`Job.terminate`]."""
        self._ray.cancel(self._task, force=True)

    def wait(self) -> int:
        """As [`Job.wait`]."""
        try:
            return int(self._ray.get(self._task))
        except self._ray.exceptions.RayError:
            return FAILED


def run_words(words: list[str], log: str, place: str) -> int:
    """Run a command on the machine that it was sent to, in a folder that it shares; its exit code."""
    with open(log, "wb") as file:
        return subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, cwd=place, check=False).returncode
