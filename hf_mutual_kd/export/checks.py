"""Files measured beside PyTorch on the same samples: batch by batch, so that memory does not grow with them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ExportError
from ..tasks.exporting import Batch, Given, TaskExport, Traceable
from .onnx_files import open_onnx

TOLERANCE = 1e-3
"""Of an output's size, which float32 in another order of operations stays well below."""
WARM_UP, TIMED = 5, 30
PYTORCH = "pytorch"


@dataclass
class Checked:
    """One file, or PyTorch itself, measured on the same samples.

    Args:
        what (`str`): `"PyTorch"`, `"float32"`, `"int8, dynamic"` or `"int8, static"`.
        bytes (`int`): of the file; of PyTorch's weights in memory.
        latency_ms (`float`): median of one sample on one core.
        max_difference (`float`): largest distance of a number in any output from PyTorch's.
        agreement (`float`): how near predictions are to PyTorch's, 1 where they are the same: the share of samples (of
            maps: pixels) of the same class, or the mean CC of densities.
        accuracy (`float`, *optional*): the task's metric of [`TaskWords`]' `kept`, where
            samples have a truth that the peer knows by name.
        refused (`str`, *optional*): why the file was deleted; of one that cannot run nothing is measured.
    """

    what: str
    bytes: int
    latency_ms: float | None = None
    max_difference: float | None = None
    agreement: float | None = None
    accuracy: float | None = None
    refused: str | None = None


@dataclass
class Runner:
    """What is measured: a file, or PyTorch.

    Args:
        what (`str`): as of [`Checked`].
        bytes (`int`): as of [`Checked`].
        run (callable): the inputs by name to the outputs by name.
    """

    what: str
    bytes: int
    run: Callable[[Given], dict[str, Tensor]]


@dataclass
class _Tally:
    """Sums over batches."""

    differences: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)
    alike: float = 0.0
    compared: int = 0
    right: float = 0.0
    judged: int = 0

    def add(self, task: TaskExport, batch: Batch, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        for name, value in expected.items():
            largest = float((found[name] - value).abs().max()), float(value.abs().max())
            for kept, one in zip((self.differences, self.sizes), largest, strict=True):
                kept[name] = float(np.maximum(kept.get(name, 0.0), one))  # unlike max, keeps NaN
        predictions = task.predictions(found, batch)
        alike, compared = task.alike(predictions, task.predictions(expected, batch))
        right, judged = task.right(predictions, batch)
        self.alike, self.compared = self.alike + alike, self.compared + compared
        self.right, self.judged = self.right + right, self.judged + judged

    def differing(self) -> str | None:
        """The first output that is not what float32 gives, in words."""
        for name, difference in self.differences.items():
            limit = TOLERANCE * max(1.0, self.sizes[name])
            if not difference <= limit:
                return f"{name}: largest difference {difference:.2g}, allowed {limit:.2g}"
        return None


@dataclass
class Measured:
    """What [`measure`] found.

    Args:
        samples (`int`): how many were looked at.
        checked (`dict[str, Checked]`): by the runners' names.
        differing (`dict[str, str | None]`): the first output that is not what float32 gives, in words.
    """

    samples: int
    checked: dict[str, Checked]
    differing: dict[str, str | None]


def measure(task: TaskExport, batches: Iterable[Batch], runners: Mapping[str, Runner]) -> Measured:
    """
    Run every batch through PyTorch and all files.

    Args:
        task ([`TaskExport`]): says what outputs are worth.
        batches: of [`TaskExport.batches`].
        runners (`dict[str, Runner]`): PyTorch, with which the others are compared, under `"pytorch"`.
    """
    tallies = {name: _Tally() for name in runners}
    times: dict[str, float] = {}
    samples = 0
    for batch in batches:
        given = task.inputs(batch)
        rows = len(next(iter(given.values())))
        times = times or _latencies(runners, {name: value[:1] for name, value in given.items()})
        expected = runners[PYTORCH].run(given)
        for name, runner in runners.items():
            tallies[name].add(task, batch, expected if name == PYTORCH else runner.run(given), expected)
        samples += rows
    checked = {
        name: Checked(
            runners[name].what,
            runners[name].bytes,
            times[name],
            max_difference=float(np.max(list(tally.differences.values()))),
            agreement=tally.alike / tally.compared if tally.compared else 1.0,
            accuracy=tally.right / tally.judged if tally.judged else None,
        )
        for name, tally in tallies.items()
    }
    return Measured(samples, checked, {name: tally.differing() for name, tally in tallies.items()})


def file_runner(path: Path, what: str, example: Given) -> Runner:
    """An ONNX file on one core, tried with a batch of two.

    Args:
        path (`Path`): the file.
        what (`str`): as of [`Checked`].
        example (`dict[str, torch.Tensor]`): one sample, `[1, ...]` each.

    Raises:
        [`ExportError`]: ONNX Runtime cannot open or run it.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    def run(given: Given) -> dict[str, Tensor]:
        found = session.run(names, {name: value.numpy() for name, value in given.items()})
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    try:
        session = open_onnx(path)
        names = [one.name for one in session.get_outputs()]
        run({name: torch.cat([value, value]) for name, value in example.items()})
    except (
        runtime.Fail,
        runtime.InvalidArgument,
        runtime.InvalidGraph,
        runtime.InvalidProtobuf,
        runtime.NotImplemented,
        runtime.RuntimeException,
    ) as error:
        reason = str(error).splitlines()[0].partition(" Status Message:")[0].rpartition(" : ")[2]
        reason = reason.replace(str(path), path.name)  # no folder of this machine
        raise ExportError(f"ONNX Runtime cannot run it ({reason})") from error
    return Runner(what, path.stat().st_size, run)


def torch_runner(traceable: Traceable, size: int) -> Runner:
    """PyTorch, on as many cores as it is set to."""

    def run(given: Given) -> dict[str, Tensor]:
        with torch.inference_mode():
            found = traceable(*given.values())
        return {name: value.float() for name, value in zip(traceable.outputs, found, strict=True)}

    return Runner("PyTorch", size, run)


def _latencies(runners: Mapping[str, Runner], given: Given) -> dict[str, float]:
    """Median milliseconds of a run on one core; in turns, so that all meet the same load of the machine."""
    threads = torch.get_num_threads()
    times: dict[str, list[float]] = {name: [] for name in runners}
    torch.set_num_threads(1)
    try:
        for _ in range(WARM_UP + TIMED):
            for name, runner in runners.items():
                began = time.perf_counter()
                runner.run(given)
                times[name].append(1000 * (time.perf_counter() - began))
    finally:
        torch.set_num_threads(threads)
    return {name: statistics.median(found[WARM_UP:]) for name, found in times.items()}
