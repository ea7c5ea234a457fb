"""How the trainer saves, keeps each peer's best and resumes: ordinary model folders, checkpoints whole or absent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import has_length, rotate_checkpoints
from transformers.utils import logging

from ..config.training_config import MutualKDConfig
from ..data.role_table import RoleTable
from ..errors import ConfigError, PeerError, ResumeError
from ..files import STAGING, cleared_on_failure, link_tree, remove_if_empty, replace_folder, staged, sync, write_json
from ..peers.adapters import is_adapter, merged
from ..peers.cohort import Cohort
from ..peers.loading import load_weights, save_peer
from ..peers.weights_hash import fill_with_nan, is_finite
from ..tasks.registry import Task
from . import checkpoint_state as checkpoints
from .evaluating import CohortEvaluation
from .fingerprints import Change, check_checkpoint, check_parts, made_with
from .peer_bests import PeerBests
from .peer_states import join_parts, load_part, write_part
from .run_state import full_disk_told, last_checkpoint
from .teacher_state import load_teachers, save_teachers
from .training_record import TrainingRecord

logger = logging.get_logger(__name__)


class CohortSaving(CohortEvaluation):
    """The half of [`MutualKDTrainer`] that writes and reads folders."""

    args: MutualKDConfig
    control: Any
    data_collator: Any
    optimizer: Any
    lr_scheduler: Any
    task: Task
    peer_names: list[str]
    selects_by: str
    """The metric by which weights are selected."""
    bests: PeerBests
    record: TrainingRecord
    start_fingerprint: str
    recipe_data: str | None
    changes: list[Change]
    """Options that had other values before this training was resumed, with the step from which the new one held."""
    _made: dict[str, Any] | None = None
    _saving_into: str | None = None

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return Path(str(self.args.output_dir))

    def _get_output_dir(self, trial) -> str:
        return self._saving_into or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the Trainer does, but beside the checkpoint's place; it is renamed when it is whole."""
        self._note_broken()
        if not self._whole():
            return
        name = f"checkpoint-{self.state.global_step}"
        staging = self.folder / STAGING
        self.record.flush()
        self._share_buffers()
        self._saving_into = str(staging)
        with full_disk_told(self.folder), cleared_on_failure(self.folder):
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._saving_into = None
            if self.mesh.writes(self.mesh.held[0], self.args.should_save):
                save_teachers(self.cohort, staging / name, self.mesh.place)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                made = staging / name
                join_parts(made, self.peer_names)
                self._save_cohort_state(made)
                sync(made)
                replace_folder(made, self.folder / name)
                remove_if_empty(staging)
        if self.args.should_save:
            rotate_checkpoints(output_dir=str(self.folder), save_total_limit=self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def _save_cohort_state(self, made: Path) -> None:
        # Each peer has its own best; the Trainer's would be looked for where a checkpoint is not finished yet.
        self.state.best_model_checkpoint = None
        self.state.save_to_json(str(made / TRAINER_STATE_NAME))
        self.record.role_table.save(made / checkpoints.ROLES)
        for peer in self.bests.found:
            link_tree(self.folder / peer, made / "best" / peer)
        rows = self.get_total_train_batch_size(self.args)
        state = {"bests": self.bests.state(), "processes": self.args.world_size, "rows_per_step": rows}
        state |= {"data_ranks": self.mesh.data_ranks}
        state |= {"places": self.mesh.places} if self.mesh.is_split else {}
        state |= {"made_with": self._made_with(), "changes": self.changes, "broken": self.bests.broken}
        write_json(made / checkpoints.COHORT_STATE, self._identity() | state)

    def _made_with(self) -> dict[str, Any]:
        if self._made is None:
            rows = {"training": self.train_dataset, "validation": self.eval_dataset}
            self._made = made_with(self.cohort, self.args, rows if self.recipe_data is None else {}, self.recipe_data)
        return self._made

    def _identity(self) -> dict[str, Any]:
        return {
            "task": self.task.name,
            "peers": self.peer_names,
            "labels": self.cohort.label_names,
            "starting_weights": self.start_fingerprint,
        }

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the Trainer's; weights that are split are gathered, whatever their optimizer is saved as."""
        if self.is_sharded:
            self._save(output_dir, self._full_state())
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Every peer an ordinary model folder; no pickled arguments."""
        for name in self._whole():
            if self.mesh.writes(name, self.args.should_save):
                self.cohort.save_peer(name, Path(output_dir or self.folder) / name, state_dict=state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.mesh.is_split:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.is_sharded or self.mesh.data_rank == 0:
            writes = self.mesh.data_rank == 0
            write_part(Path(output_dir), self.mesh.place, self.optimizer, self.lr_scheduler, writes=writes)

    def _save_peers(self, names: Sequence[str]) -> None:
        """Write these peers, as they are now, to the run's own folder."""
        weights = self._full_state() if names else None
        for name in names:
            if self.mesh.writes(name, self.args.should_save):
                with staged(self.folder / name) as made:
                    self.cohort.save_peer(name, made, state_dict=weights)
        self.accelerator.wait_for_everyone()

    def _check_merging(self) -> None:
        """Merge once before training, so that a method that cannot be merged is not found out after it."""
        if self.is_sharded:
            raise ConfigError("merge_adapters needs whole peers on every process, which FSDP and ZeRO 3 split")
        for peer in self.cohort.peers.values():
            merged(peer)

    def _merge_adapters(self) -> None:
        """Put whole models in the place of the adapters in the run's own folder, where that was asked for."""
        for name, peer in self.cohort.peers.items() if self.args.merge_adapters else ():
            if is_adapter(peer) and self.mesh.writes(name, self.args.should_save):
                with staged(self.folder / name) as made:
                    save_peer(merged(peer), self.cohort.processors[name], made, None)
        self.accelerator.wait_for_everyone()

    def _begin_with_start(self, resumes: bool) -> None:
        """Let the weights that training begins with be the first of each peer's best; a checkpoint brings its own."""
        if not self.args.load_best_model_at_end or self.eval_dataset is None:
            return
        prefix = self._eval_prefix
        known = self.evaluations[prefix].start
        start = self.measure_start(metric_key_prefix=prefix) if known is None else known.metrics
        if not resumes and all(self.selects_by in start[name] for name in self.peer_names):
            values = {name: start[name][self.selects_by] for name in self.peer_names}
            self._save_peers(self.bests.update(values, step=0))
            self.bests.waited = dict.fromkeys(self.peer_names, 0)

    def _determine_best_metric(self, metrics, trial) -> bool:
        """Per peer: keep the best weights in `output_dir/NAME`, and rest peers that gain no more."""
        keys = {name: f"{self._eval_prefix}_{name}/{self.selects_by}" for name in self.peer_names}
        if any(key not in metrics for key in keys.values()):
            # Rows without labels select nothing.
            return False
        values = {name: metrics[key] for name, key in keys.items()}
        self._note_broken()
        improved = self.bests.update(values, self.state.global_step)
        self._save_peers(improved)
        if self.bests.found:
            # Where one number is wanted it is the mean of the peers' bests.
            self.state.best_metric = sum(self.bests.values.values()) / len(self.bests.values)
            self.state.best_global_step = max(self.bests.steps.values())
        self.cohort.resting = set(self.bests.stopped)
        if len(self.bests.stopped) == len(self.peer_names):
            self.control.should_training_stop = True
        return bool(improved)

    def _end_peers(self) -> None:
        self._note_broken()
        if not self.args.load_best_model_at_end:
            self.bests.forget()
        self._load_best_peers()
        # What lies in the folder is what is measured: of peers without a best the last weights.
        self._save_peers([name for name in self._whole() if name not in self.bests.found])
        self._merge_adapters()

    def _load_best_peers(self) -> None:
        self.accelerator.wait_for_everyone()
        for name, peer in self.cohort.peers.items():
            if name in self.bests.found:
                load_weights(name, peer, self.folder / name)

    def _find_checkpoint(self, resume: str | bool | None) -> str | None:
        """The checkpoint to go on from, after checking that it belongs to this cohort."""
        if not resume:
            return None
        found = last_checkpoint(self.folder) if resume is True else Path(resume)
        if found is None:
            raise ResumeError(
                f"there is no checkpoint in {self.folder}; leave resume_from_checkpoint out to start anew"
            )
        made = self._made_with()
        self.changes = check_checkpoint(found, self._identity(), made["options"], self.args)
        check_parts(found, made)
        return str(found)

    def _restore_records(self, checkpoint: Path) -> None:
        """Bring back who taught whom, and each peer's best so far."""
        state = checkpoints.read_state(checkpoint)
        self._go_on_from(state)
        self.bests.load(vars(state.bests), state.broken)
        self.cohort.resting = set(self.bests.stopped)
        if self.is_world_process_zero():
            self.record.role_table = RoleTable.load(checkpoint / checkpoints.ROLES, self.peer_names)
            for name in self.bests.found:
                with staged(self.folder / name) as made:
                    link_tree(checkpoint / "best" / name, made)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        load_teachers(self.cohort, checkpoint)
        load_peers(self.cohort, checkpoint, self.bests.broken)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with checkpoints.reading(Path(checkpoint or "")):
            if self.mesh.is_split and checkpoint is not None:
                load_part(Path(checkpoint), self.optimizer, self.lr_scheduler)
            else:
                super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with checkpoints.reading(Path(checkpoint or "")):
            super()._load_rng_state(checkpoint)

    def _init_training_state(self, max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial):
        """As the Trainer's; of a stream it cannot know after how many steps an epoch ended, the checkpoint does."""
        place = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial
        )
        if checkpoint is None or has_length(self.train_dataset):
            return place
        epoch, part = divmod(self.state.epoch or 0.0, 1)
        return int(epoch), round(part * max_steps * self.args.gradient_accumulation_steps)

    def _note_broken(self) -> None:
        """Remember peers whose weights are not finite: they are not saved any more, neither as best nor as last."""
        held = self.cohort.peers
        flags = torch.tensor([name in held and not is_finite(held[name]) for name in self.peer_names])
        found = reduce(flags.double().to(self.args.device), reduction="sum").tolist()
        for name, count in zip(self.peer_names, found, strict=True):
            if count and name not in self.bests.broken:
                self.bests.broken[name] = self.state.global_step
                logger.warning("peer %r is broken: its weights are not finite", name)
        if len(self.bests.broken) == len(self.peer_names):
            self.control.should_training_stop = True

    def broken_peers(self) -> list[str]:
        """
        What to say, after training, of peers whose weights became infinite or NaN.

        Raises:
            [`PeerError`]: nothing of one is kept.
        """
        told = []
        for name, step in self.bests.broken.items():
            sentence = f"peer {name!r} is broken: its weights are not finite, as was found at step {step}"
            if name not in self.bests.found:
                raise PeerError(
                    f"{sentence}, and nothing of it is kept; what is in {self.folder} is whole. Lower its "
                    "learning_rate, or let it warm up"
                )
            told.append(f"{sentence}; what is kept are its best weights, of step {self.bests.steps[name]}")
        return told

    def _whole(self) -> list[str]:
        return [name for name in self.peer_names if name not in self.bests.broken]

    def _write_records(self) -> None:
        self.record.flush()
        if self.args.should_save:
            self.record.role_table.save(self.folder / checkpoints.ROLES)
            checkpoints.write_history(self.folder / "history.jsonl", self.state.log_history)


def load_peers(cohort: Cohort, checkpoint: Path, broken: Collection[str]) -> None:
    """
    Bring peers to where they were at a checkpoint; those that were broken stay so.

    Raises:
        [`ResumeError`], [`PeerError`]: weights are damaged or another peer's.
    """
    for name, peer in cohort.peers.items():
        if name in broken:
            fill_with_nan(peer)
        else:
            with checkpoints.reading(checkpoint / name):
                load_weights(name, peer, checkpoint / name)
