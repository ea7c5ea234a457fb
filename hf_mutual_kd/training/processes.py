"""What the trainer does differently when it is several processes."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers.utils import logging

from ..config.training_config import MutualKDConfig
from ..data.labelled_rows import LabelledShareSampler
from ..distillation.objective import Objective
from ..errors import ConfigError, ResumeError
from ..peers.cohort import Cohort
from ..peers.launched import check_launch
from ..peers.peer_mesh import PeerMesh
from ..peers.sharding import check_sharded, layers_to_split, share_buffers, whole, zero_with_graph
from ..tasks.base import Task
from .checkpoint_state import CohortState
from .given_data import CohortData
from .labelled_batches import share_sampler
from .repeated_rows import REPEATED, fresh_rows, without_repeats

logger = logging.get_logger(__name__)


class CohortProcesses(CohortData):
    """The part of [`MutualKDTrainer`] that makes several processes one training."""

    args: MutualKDConfig
    task: Task
    model: nn.Module
    mesh: PeerMesh
    """Which process holds which peers, and works on which rows."""
    _shares: LabelledShareSampler | None = None

    @property
    def cohort(self) -> Cohort:
        """The peers, without the wrappers of a distributed run."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def is_sharded(self) -> bool:
        """Whether single processes hold only parts of the weights."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def create_accelerator_and_postprocess(self) -> None:
        """As the Trainer's, for the processes' mesh."""
        super().create_accelerator_and_postprocess()
        self.mesh.join(self.accelerator)

    def get_tp_size(self) -> int:
        """How many processes work on the same rows, by which the Trainer counts those of a step."""
        return len(self.mesh.places) if self.mesh.is_split else super().get_tp_size()

    def _read(self, rows: Any, name: str, trains: bool = False) -> Any:
        read = super()._read(rows, name, trains)
        self.mesh.check_rows(read, name)
        return read

    def _prepare_devices(self, cohort: Cohort, objective: Objective) -> None:
        if self.args.n_gpu > 1:
            logger.warning("only one of %d GPUs is used; start with `accelerate launch` to use all", self.args.n_gpu)
            self.args._n_gpu = 1
        self.mesh.compile(self.accelerator, cohort)
        if not self.is_sharded:
            asked = self.args.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP")
            if asked and self.is_world_process_zero():
                logger.warning(
                    "fsdp splits nothing here, as Accelerate has it on GPUs alone: processes hold whole peers"
                )
            return
        check_sharded(self.accelerator, cohort, self.args, objective)
        # They are measured before they are split.
        cohort.to(self.args.device)
        cohort.is_split = True
        cohort._no_split_modules = layers_to_split(cohort.peers)  # type: ignore[assignment]
        if self.is_deepspeed_enabled and self.args.max_grad_norm > 0:
            logger.warning("DeepSpeed clips the gradients of all peers by their common norm, not each by its own")

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        with self.mesh.splitting(self.accelerator):
            return super()._prepare_for_training(*args, **kwargs)

    def _share_buffers(self) -> None:
        """Where weights are split, evaluate and save with the batch norms of the first process that holds them."""
        if self.is_sharded:
            share_buffers(self.cohort, self.mesh.holders(self.args.device))

    def _full_state(self) -> dict[str, Any] | None:
        """For processes that write, the whole weights of peers that are split; `None` of peers that are not."""
        if not self.is_sharded:
            return None
        if not self.mesh.is_split:
            return self.accelerator.get_state_dict(self.model_wrapped)
        writes = self.mesh.data_rank == 0
        return {name: whole(weight, writes) for name, weight in self.cohort.state_dict().items()}

    def _with_all_peers(self, loss: Tensor, outputs: dict[str, Any]) -> Tensor:
        """The same loss; where weights are split every peer is in the backward of every process."""
        return loss + zero_with_graph(list(map(self.task.logits, outputs.values()))) if self.is_sharded else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        self._shares = share_sampler(self.args, rows, self.get_total_train_batch_size(self.args))
        return self._shares or super()._get_train_sampler(train_dataset)

    def _run_epoch(self, model, epoch, train_dataloader, **kwargs):
        if self._shares is not None:
            # Accelerate does not reach a sampler below batches that it skips.
            self._shares.set_epoch(epoch)
        super()._run_epoch(model=model, epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """As the Trainer's, without the rows that fill up the last batch of an epoch: they would count twice."""
        if self.args.world_size > 1:
            epoch_iterator = map(self._without_repeats, epoch_iterator)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | None:
        """Units, and labelled units, of one optimizer step over all its batches and processes: `[2]`."""
        if not batch_samples:
            return None
        labels = [batch["labels"] for batch in batch_samples if REPEATED not in batch]
        counts = torch.tensor(
            [sum(len(part) for part in labels), sum(int(self.task.labelled(part).sum()) for part in labels)],
            device=device,
        )
        return self.accelerator.reduce(counts, reduction="sum") if self.args.world_size > 1 else counts

    def _without_repeats(self, batch: dict[str, Any]) -> dict[str, Any]:
        state, rows = self.accelerator.gradient_state, len(batch["labels"])
        fresh = rows
        if not self.args.dataloader_drop_last and self._shares is None and self.mesh.data_ranks > 1:
            fresh = fresh_rows(state, self.train_dataset, rows, self.mesh.data_ranks, self.mesh.data_rank)
        return without_repeats(batch, fresh, may_skip=self.args.on_bad_row == "skip")

    def _go_on_from(self, checkpoint: CohortState) -> None:
        """Keep an optimizer step what it was when another number of processes goes on, and say what is not exact.

        Raises:
            [`ResumeError`]: a step would have to take other rows.
        """
        before, now = checkpoint.processes, self.args.world_size
        if (before, checkpoint.data_ranks or before) == (now, self.mesh.data_ranks):
            if checkpoint.places not in (None, self.mesh.places) and self.is_world_process_zero():
                logger.warning(
                    "peers are together as %s, where this run began with %s: it goes on, but not bit for bit, as "
                    "dropout draws anew",
                    self.mesh.places,
                    checkpoint.places,
                )
            return
        if self.is_deepspeed_enabled:
            raise ResumeError(
                f"this run began with {before} processes, and DeepSpeed has cut the optimizer's state for as many; "
                f"go on with {before}, not {now}"
            )
        rows, at_once = checkpoint.rows_per_step, self.args.train_batch_size * self.mesh.data_ranks
        if rows % at_once:
            raise ResumeError(
                f"this run began with {before} processes and {rows} rows per step, and {now} processes take at least "
                f"{at_once}; set per_device_train_batch_size so that {self.mesh.data_ranks} times it divides {rows}"
            )
        self.args.gradient_accumulation_steps = rows // at_once
        if self.is_world_process_zero():
            logger.warning(
                "going on with %d processes where %d began: rows, steps, optimizer and schedule stay as they were "
                "(%d rows per step, gradient_accumulation_steps is %d), but not bit for bit: sums are rounded in "
                "another order, dropout draws anew, and batch norms see batches of another size",
                now,
                before,
                rows,
                rows // at_once,
            )


def check_processes(args: MutualKDConfig, train_dataset: Any) -> None:
    """
    Refuse settings with which processes would wait for each other for ever, or train on rows twice.

    Raises:
        [`ConfigError`]: one of them is set, or a launcher started more processes than see each other.
    """
    check_launch(PartialState())
    if args.world_size == 1:
        return
    if not args.accelerator_config.even_batches:
        raise ConfigError("even_batches=false leaves a process without a batch for which others wait; leave it out")
    if isinstance(train_dataset, IterableDataset) and args.accelerator_config.dispatch_batches is False:
        raise ConfigError("dispatch_batches=false repeats rows of a stream at its end; leave it out")
