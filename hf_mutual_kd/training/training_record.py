"""What training leaves behind besides weights: averages for the log, and who taught whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback

from ..data.role_table import RoleTable
from ..distillation.roles import ALL, MEAN, NOBODY
from ..peers.cohort_output import CohortOutput
from ..tasks.registry import Task


class TrainingRecord:
    """Sums over the steps since the last log, kept on the device, and the role table of the run.

    Args:
        peer_names (`list[str]`): the cohort's peers.
        task ([`Task`]): says how right a peer is.
        gather (`Callable`, *optional*): joins lists of all processes whose rows differ.
    """

    def __init__(
        self, peer_names: Sequence[str], task: Task, gather: Callable[[list[Any]], list[Any]] = gather_object
    ):
        self.peer_names = list(peer_names)
        self.task, self.gather = task, gather
        self.role_table = RoleTable(peer_names)
        self._sums: Tensor | None = None
        self._broken: Tensor | None = None
        self._decisions: list[tuple[Tensor, ...]] = []

    def add(self, output: CohortOutput, labels: Tensor, sample_ids: Tensor, counts: bool = True) -> None:
        """Take in one batch of a step; one that does not count adds nothing, but keeps processes in step."""
        with torch.no_grad():
            outputs = list((output.outputs or {}).values())
            supervised = torch.as_tensor(output.supervised)
            right = self.task.quality(outputs, labels)
            broken = torch.stack([~self.task.logits(one).isfinite().all() for one in outputs])
            nothing = torch.zeros_like(supervised)
            taught = nothing if output.teacher is None else self._taught(output.teacher)
            transfer = nothing if output.transfer is None else output.transfer
            rows_seen = torch.stack(
                [self.task.labelled(labels).sum(), torch.tensor(len(labels), device=labels.device)]
            )
            rows = torch.cat([supervised, transfer, right, taught, broken, rows_seen]).double()
            rows = rows if counts else torch.zeros_like(rows)
        self._sums = rows if self._sums is None else self._sums + rows
        self._broken = broken if self._broken is None else self._broken | broken
        if output.teacher is not None:
            classes = labels if labels.ndim == 1 else torch.full_like(sample_ids, -1)
            decided = (sample_ids, main_teacher(output.teacher, len(self.peer_names)), classes)
            self._decisions.append(decided if counts else tuple(part[:0] for part in decided))

    def take_broken(self) -> Tensor | None:
        """Which peers gave logits that are not finite since the last call: bool `[N]`."""
        broken, self._broken = self._broken, None
        return broken

    def _taught(self, teacher: Tensor) -> Tensor:
        """Samples each peer taught `[N]`: by parts where units are finer; 1/N each where the mean or all did."""
        peers = torch.arange(len(self.peer_names), device=teacher.device)
        units = teacher.flatten(1) if teacher.ndim > 1 else teacher.unsqueeze(1)
        decided = (units != NOBODY).sum(1).clamp(min=1)
        own = (units == peers[:, None, None]).sum(2) / decided
        together = (units == MEAN) | (units == ALL)
        return (own + together.sum(1) / decided / len(self.peer_names)).sum(1)

    def drain(self, reduce: Callable[[Tensor], Tensor], steps: int) -> dict[str, float]:
        """Averages over the `steps` since the last call, `{peer/metric: value}`; `reduce` sums over all processes."""
        self.flush()
        if self._sums is None:
            return {}
        *rows, tail = reduce(self._sums).cpu().split([len(self.peer_names)] * 5 + [2])
        self._sums = None
        labelled, units = (max(value, 1.0) for value in tail.tolist())
        logs: dict[str, float] = {}
        for index, name in enumerate(self.peer_names):
            supervised, transfer, right, taught, broken = (row[index].item() for row in rows)
            logs[f"{name}/supervised"] = round(supervised / steps, 6)
            logs[f"{name}/transfer"] = round(transfer / steps, 6)
            logs[f"{name}/{self.task.quality_name}"] = round(right / labelled, 6)
            logs[f"{name}/taught"] = round(taught / units, 6)
            if broken:
                logs[f"{name}/not_finite"] = broken
        return logs

    def flush(self) -> None:
        """Put the decisions of all processes into the role table, in the order of steps."""
        mine = [tuple(part.flatten().cpu() for part in decision) for decision in self._decisions]
        self._decisions = []
        for step in zip(*self.gather([mine]), strict=True):
            for sample_ids, teacher, labels in step:
                self.role_table.record(sample_ids, teacher, labels=labels)


def main_teacher(teacher: Tensor, peers: int) -> Tensor:
    """Who taught most of each sample: `[B, ...]` to `[B]`, `NOBODY` where nobody taught any of it."""
    if teacher.ndim == 1:
        return teacher
    speakers = torch.tensor([*range(peers), MEAN, ALL], device=teacher.device)
    counts = (teacher.flatten(1).unsqueeze(2) == speakers).sum(1)
    return speakers[counts.argmax(1)].masked_fill(counts.sum(1) == 0, NOBODY)


class LogWithSaves(TrainerCallback):
    """Closes the log's window at every checkpoint, so that a resumed run writes the same log."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log = control.should_log or control.should_save

    on_epoch_end = on_step_end
