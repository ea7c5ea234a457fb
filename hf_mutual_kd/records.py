"""What training leaves behind besides weights: averages for the log, and who taught whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accelerate.utils import gather_object
from torch import Tensor

from .cohort import CohortOutput
from .role_table import RoleTable
from .roles import MEAN
from .tasks import Task


class TrainingRecord:
    """Sums over the steps since the last log, kept on the device, and the role table of the run.

    Args:
        peer_names (`list[str]`): the cohort's peers.
        task ([`~hf_mutual_kd.tasks.Task`]): says how right a peer is.
    """

    def __init__(self, peer_names: Sequence[str], task: Task):
        self.peer_names = list(peer_names)
        self.task = task
        self.role_table = RoleTable(peer_names)
        self._sums: Tensor | None = None
        self._broken: Tensor | None = None
        self._decisions: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, output: CohortOutput, labels: Tensor, sample_ids: Tensor) -> None:
        """Take in one batch of a step."""
        with torch.no_grad():
            logits = list((output.logits or {}).values())
            supervised = torch.as_tensor(output.supervised)
            right = self.task.quality(logits, labels)
            broken = torch.stack([~peer.isfinite().all() for peer in logits])
            nothing = torch.zeros_like(supervised)
            taught = nothing if output.teacher is None else self._taught(output.teacher)
            transfer = nothing if output.transfer is None else output.transfer
            counts = torch.stack(
                [self.task.labelled(labels).sum(), torch.tensor(labels.numel(), device=labels.device)]
            )
            rows = torch.cat([supervised, transfer, right, taught, broken, counts]).double()
        self._sums = rows if self._sums is None else self._sums + rows
        self._broken = broken if self._broken is None else self._broken | broken
        if output.teacher is not None:
            self._decisions.append((sample_ids, output.teacher, labels))

    def take_broken(self) -> Tensor | None:
        """Which peers gave logits that are not finite since the last call: bool `[N]`."""
        broken, self._broken = self._broken, None
        return broken

    def _taught(self, teacher: Tensor) -> Tensor:
        """Units each peer taught `[N]`; a unit taught by the mean counts 1/N for every peer."""
        peers = torch.arange(len(self.peer_names), device=teacher.device)
        own = (teacher.flatten() == peers[:, None]).sum(1)
        return own + (teacher == MEAN).sum() / len(self.peer_names)

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
            logs[f"{name}/{self.task.metric}"] = round(right / labelled, 6)
            logs[f"{name}/taught"] = round(taught / units, 6)
            if broken:
                logs[f"{name}/not_finite"] = broken
        return logs

    def flush(self) -> None:
        """Put the decisions of all processes into the role table, in the order of steps."""
        mine = [tuple(part.flatten().cpu() for part in decision) for decision in self._decisions]
        self._decisions = []
        for step in zip(*gather_object([mine]), strict=True):
            for sample_ids, teacher, labels in step:
                self.role_table.record(sample_ids, teacher, labels)


def share_taught(table: RoleTable) -> dict[str, float]:
    """Each peer's share of all decisions in which somebody could have taught; the mean's decisions count 1/N each."""
    counts = table.counts()
    total = max(sum(counts.values()), 1)
    return {name: (counts[name] + counts["mean"] / len(table.peer_names)) / total for name in table.peer_names}
