"""Outputs of the frozen starts, computed once where every epoch shows the same inputs."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm

from ..peers.cohort import Cohort

LARGEST = 2 * 1024**3
"""Bytes of memory a cache may take without being asked for."""


class StartCache:
    """The logits of every peer's start for every training sample.

    Args:
        logits (`torch.Tensor` of shape `[samples, N, C, ...]`): by sample id.
    """

    def __init__(self, logits: Tensor):
        self.logits = logits

    @staticmethod
    def obstacle(dataset: Any, view: Any, cohort: Cohort, asked: bool = False) -> str | None:
        """Why there can be no cache, in words; `None` when there can."""
        if cohort.objective is not None and cohort.objective.source.decay is not None:
            return "moving averages change with every step; set cache_frozen=false"
        if isinstance(dataset, IterableDataset):
            return "the rows of a stream have no place in a cache; set cache_frozen=false"
        if not cohort.task.caches_starts:
            return f"the maps of {cohort.task.name} are too large to keep for every sample; set cache_frozen=false"
        if view is not None:
            return "outputs for one random view do not fit the next; set augment=false, or cache_frozen=false"
        size = len(dataset) * len(cohort.names) * len(cohort.label_names) * 4
        if size > LARGEST and not asked:
            return f"it would take {size / 1024**3:.1f} GiB of memory"
        return None

    @classmethod
    def fill(cls, cohort: Cohort, loader: DataLoader, samples: int, accelerator: Accelerator) -> StartCache:
        """Run the frozen starts once over all samples, shared by the processes."""
        cached = torch.empty(0)
        quiet = not accelerator.is_local_main_process
        for batch in tqdm(loader, desc="frozen starts", leave=False, disable=quiet):
            with accelerator.autocast():
                logits = torch.stack(cohort.start_logits(batch["peer_inputs"]), dim=1).float()
            sample_ids, logits = accelerator.gather_for_metrics((batch["sample_ids"], logits))
            if not len(cached):
                cached = torch.full((samples, *logits.shape[1:]), float("nan"))
            cached[sample_ids.cpu()] = logits.cpu()
        return cls(cached)

    def lookup(self, sample_ids: Tensor) -> Tensor:
        """`[B, N, C, ...]` for `[B]` sample ids, on their device."""
        return self.logits[sample_ids.cpu()].to(sample_ids.device)
