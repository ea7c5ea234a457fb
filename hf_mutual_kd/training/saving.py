"""How the trainer saves and resumes: every peer an ordinary model folder, every checkpoint whole or not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from ..config.training_config import MutualKDConfig
from ..data.role_table import RoleTable
from ..errors import ConfigError, ResumeError
from ..files import STAGING, cleared_on_failure, link_tree, remove_if_empty, replace_folder, staged, sync, write_json
from ..peers.adapters import is_adapter, merged
from ..peers.loading import load_weights, save_peer
from ..tasks.registry import Task
from . import checkpoint_state as checkpoints
from .evaluating import CohortEvaluation
from .peer_bests import PeerBests
from .teacher_state import load_teachers, save_teachers
from .training_record import TrainingRecord

ROLES = "roles.parquet"


class CohortSaving(CohortEvaluation):
    """The half of [`MutualKDTrainer`] that writes and reads folders."""

    args: MutualKDConfig
    control: Any
    data_collator: Any
    optimizer: Any
    task: Task
    peer_names: list[str]
    bests: PeerBests
    record: TrainingRecord
    start_fingerprint: str
    _saving_into: str | None = None

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return Path(str(self.args.output_dir))

    def _get_output_dir(self, trial) -> str:
        return self._saving_into or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the Trainer does, but beside the checkpoint's place; it is renamed when it is whole."""
        name = f"checkpoint-{self.state.global_step}"
        staging = self.folder / STAGING
        self.record.flush()
        self._share_buffers()
        self._saving_into = str(staging)
        with cleared_on_failure(self.folder):
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._saving_into = None
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                made = staging / name
                self._save_cohort_state(made)
                sync(made)
                replace_folder(made, self.folder / name)
                remove_if_empty(staging)
        if self.args.should_save:
            rotate_checkpoints(output_dir=str(self.folder), save_total_limit=self.args.save_total_limit)
            self._push_checkpoint(self.folder / name)
        self.accelerator.wait_for_everyone()

    def _push_checkpoint(self, checkpoint: Path) -> None:
        """Called with every finished checkpoint, on the main process of each node."""

    def _save_cohort_state(self, made: Path) -> None:
        self.record.role_table.save(made / ROLES)
        save_teachers(self.cohort, made)
        for peer in self.bests.found:
            link_tree(self.folder / peer, made / "best" / peer)
        rows = self.get_total_train_batch_size(self.args)
        state = {"bests": self.bests.state(), "processes": self.args.world_size, "rows_per_step": rows}
        write_json(made / checkpoints.COHORT_STATE, self._identity() | state)

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
            self._save(output_dir, self.accelerator.get_state_dict(self.model_wrapped))
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Every peer an ordinary model folder; no pickled arguments."""
        if self.args.should_save:
            self.cohort.save_pretrained(output_dir or self.folder, state_dict)

    def _save_peers(self, names: Sequence[str]) -> None:
        """Write these peers, as they are now, to the run's own folder."""
        weights = self.accelerator.get_state_dict(self.model_wrapped) if self.is_sharded and names else None
        if self.args.should_save:
            for name in names:
                with staged(self.folder / name) as made:
                    self.cohort.save_peer(name, made, weights)
        self.accelerator.wait_for_everyone()

    def _check_merging(self) -> None:
        """Merge once before training, so that a method that cannot be merged is not found out after it."""
        if self.is_sharded:
            raise ConfigError("merge_adapters needs whole peers on every process, which FSDP and ZeRO 3 split")
        for peer in self.cohort.peers.values():
            merged(peer)

    def _merge_adapters(self) -> None:
        """Put whole models in the place of the adapters in the run's own folder, where that was asked for."""
        if self.args.merge_adapters and self.args.should_save:
            for name in self.peer_names:
                if is_adapter(self.cohort.peers[name]):
                    with staged(self.folder / name) as made:
                        save_peer(merged(self.cohort.peers[name]), self.cohort.processors[name], made, None)
        self.accelerator.wait_for_everyone()

    def _load_best_peers(self) -> None:
        self.accelerator.wait_for_everyone()
        for name in self.bests.found:
            load_weights(name, self.cohort.peers[name], self.folder / name)

    def _find_checkpoint(self, resume: str | bool | None) -> str | None:
        """The checkpoint to go on from, after checking that it belongs to this cohort."""
        if not resume:
            return None
        found = get_last_checkpoint(str(self.folder)) if resume is True else resume
        if found is None:
            raise ResumeError(
                f"there is no checkpoint in {self.folder}; leave resume_from_checkpoint out to start anew"
            )
        checkpoints.check_state(Path(found), checkpoints.read_state(Path(found)), self._identity())
        return found

    def _restore_records(self, checkpoint: Path) -> None:
        """Bring back who taught whom, and each peer's best so far."""
        state = checkpoints.read_state(checkpoint)
        self._go_on_from(state)
        self.bests.load(state["bests"])
        self.cohort.resting = set(self.bests.stopped)
        if self.is_world_process_zero():
            self.record.role_table = RoleTable.load(checkpoint / ROLES, self.peer_names)
            for name in self.bests.found:
                with staged(self.folder / name) as made:
                    link_tree(checkpoint / "best" / name, made)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_teachers(self.cohort, Path(resume_from_checkpoint))
        for name, peer in self.cohort.peers.items():
            load_weights(name, peer, Path(resume_from_checkpoint) / name)

    def _write_records(self) -> None:
        self.record.flush()
        if self.args.should_save:
            self.record.role_table.save(self.folder / ROLES)
            checkpoints.write_history(self.folder / "history.jsonl", self.state.log_history)
