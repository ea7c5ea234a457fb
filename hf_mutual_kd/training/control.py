"""The control of a run made in Python: the same training without transfer, in a folder beside the run's peers."""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError, ResumeError
from ..files import read_json, write_json
from ..reports.results import CONTROL, Arm
from .run_records import CohortRecords
from .run_state import last_checkpoint
from .ways import changed

ARMS = "arms.json"
"""In the control's folder, written last: what was measured of it, by split."""


class CohortControl(CohortRecords):
    """The part of [`MutualKDTrainer`] that trains a control."""

    def train_control(self, test_dataset: Any = None, resume: bool = False) -> None:
        """
        Train the same without transfer into `output_dir/control`, for the results, cards and page of this run.

        Call it before `train`, which it leaves as it would be without: the control begins with the same weights and
        the same random numbers. `MutualKDConfig(control=True)` calls it.

        Args:
            test_dataset (*optional*): rows that are reported; this run is measured on them by
                `measure_start(rows, "test")` before it trains and by `evaluate` with the prefix `"test"` after.
            resume (`bool`, *optional*, defaults to `False`): go on with a control that was stopped, or keep one that
                has ended.

        Raises:
            [`ConfigError`]: the peers have been trained, or nothing could be compared.
        """
        problems = {
            "train_control begins with the weights that train begins with: call it before": self.state.global_step > 0,
            "teaching 'auto' trains its own control; leave control out": bool(self.args.teaching),
            "transfer_weight is 0: this is a control itself": self.objective.weight == 0,
            "a control is measured on eval_dataset or test rows; give one of them": (
                self.eval_dataset is None and test_dataset is None
            ),
        }
        for message, applies in problems.items():
            if applies:
                raise ConfigError(message)
        folder = self.folder / CONTROL
        if resume and (folder / ARMS).is_file():
            self.control_arms = read_json(folder / ARMS, dict[str, Arm], ResumeError)
            return
        if self.is_world_process_zero():
            (folder / ARMS).unlink(missing_ok=True)
        with torch.random.fork_rng():
            self.control_arms = self._train_beside(str(folder), test_dataset, resume)
        if self.is_world_process_zero():
            write_json(folder / ARMS, {split: dataclasses.asdict(arm) for split, arm in self.control_arms.items()})

    def _train_beside(self, folder: str, test_dataset: Any, resume: bool) -> dict[str, Arm]:
        cohort = copy.deepcopy(self.cohort)
        cohort.set_objective(None)
        cohort.drop_starts()
        args = changed(
            self.args,
            output_dir=folder,
            transfer_weight=0.0,
            role_table=None,
            score_table=None,
            pre_flight=False,
            push_to_hub=False,
            control=False,
            input_column=None,
            label_column=None,
        )
        made: Any = type(self)
        trainer = made(
            cohort,
            args,
            self.train_dataset,
            self.eval_dataset,
            view=self.view,
            callbacks=self._own_callbacks,
            compute_metrics=self.compute_metrics,
            optimizer_cls_and_kwargs=self.optimizer_cls_and_kwargs,
        )
        trainer.is_part = True
        trainer.start_fingerprint = self.start_fingerprint
        splits = {self._eval_prefix: None} if self.eval_dataset is not None else {}
        splits |= {"test": test_dataset} if test_dataset is not None else {}
        for split, rows in splits.items():
            trainer.measure_start(rows, split)
        began = time.perf_counter()
        last = last_checkpoint(Path(folder)) if resume else None
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        seconds = time.perf_counter() - began
        for split, rows in splits.items():
            trainer.evaluate(trainer._main_eval_dataset() if rows is None else rows, metric_key_prefix=split)
        return {split: trainer.arm(CONTROL, split, seconds) for split in splits}

    def _control_first(self, resume: str | bool | None) -> str | bool | None:
        """Train the control that `control=True` asks for; returns what the run itself goes on from."""
        began = last_checkpoint(self.folder) is not None
        control = self.folder / CONTROL
        control_began = (control / ARMS).is_file() or last_checkpoint(control) is not None
        if resume is True and not began and not control_began:
            # The run says that there is nothing to go on with.
            return resume
        if self.control_arms is None:
            self.train_control(resume=bool(resume))
        return None if resume is True and not began else resume
