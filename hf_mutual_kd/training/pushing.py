"""How the trainer pushes: every peer to a repository of its own, during training and at its end."""

from __future__ import annotations

import copy
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..config.training_config import MutualKDConfig
from ..distillation.objective import Objective
from ..errors import ConfigError, HubError
from ..files import write_json
from ..hub.checkpoints import PushInBackground
from ..hub.names import PushTarget
from ..hub.push import PushReport, check_rights, push_run
from ..peers.cohort_record import COHORT
from ..reports.html_report import write_report
from ..reports.model_card import write_cards
from ..reports.results import CONTROL, MUTUAL, RESULTS, Arm, collect
from ..reports.samples import SAMPLES_FILE, write_samples
from ..scoring.score_table import plain_rows
from .evaluation import Evaluation
from .run_record import run_record
from .saving import CohortSaving
from .ways import changed


def push_settings(args: MutualKDConfig) -> dict[str, Any]:
    """Where and how a configuration pushes, as [`push_run`] and `PushTarget` name it."""
    return {
        "namespace": args.hub_namespace,
        "name_template": args.hub_name_template,
        "private": args.hub_private_repo,
        "token": args.hub_token,
        "revision": args.hub_revision,
    }


class CohortPushing(CohortSaving):
    """The part of [`MutualKDTrainer`] that speaks to the Hub."""

    objective: Objective
    evaluations: defaultdict[str, Evaluation]
    """By the prefix of the metrics: `eval`, `test`, …"""
    given_view: Any
    _pushes: PushInBackground | None = None
    given_args: MutualKDConfig
    _control_arms: dict[str, Arm] | None = None

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        *,
        namespace: str | None = None,
        collection: bool = True,
        peers: list[str] | None = None,
        dry_run: bool = False,
    ) -> PushReport | None:
        """Push the peers as they lie in the run's folder, with their cards; see [`push_run`].

        Arguments are in the order of `transformers.Trainer.push_to_hub`; what is unset comes from `args`
        (`hub_namespace`, `hub_private_repo`, `hub_token`, `hub_revision`). With `dry_run` nothing is sent.

        Returns:
            [`PushReport`] on the main process, `None` on the others.

        Raises:
            [`ConfigError`]: `blocking=False`.
            [`HubError`]: nothing is there to push yet, or the Hub refuses.
        """
        if not blocking:
            raise ConfigError("blocking=False: a push is answered when it is done; hub_strategy pushes while training")
        self._finish_current_push()
        if not self.is_world_process_zero():
            return None
        self.create_model_card()
        given = {"namespace": namespace, "private": private, "token": token, "revision": revision}
        settings = push_settings(self.args) | {name: value for name, value in given.items() if value not in (None, "")}
        return push_run(
            self.folder, collection=collection, peers=peers, commit_message=commit_message, dry_run=dry_run, **settings
        )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write each peer's card into its folder, from what the run has recorded."""
        if not self.is_world_process_zero():
            return
        if not all((self.folder / name).is_dir() for name in self.peer_names):
            raise HubError(f"{self.folder} holds no trained peers yet; call `train` first")
        self._write_cohort_record()
        self._write_results()
        write_cards(self.folder)
        write_report(self.folder, task=self.task)

    def _check_rights(self) -> None:
        if self.args.push_to_hub and self.is_world_process_zero():
            check_rights(PushTarget(**push_settings(self.args)))

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Nothing: the push makes one repository per peer."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: a checkpoint is pushed once it is whole, by [`_push_checkpoint`]."""

    def _push_checkpoint(self, checkpoint: Path) -> None:
        if not (self.args.push_to_hub and self.is_world_process_zero()):
            return
        if self._pushes is None:
            self._write_cohort_record()
            strategy = str(getattr(self.args.hub_strategy, "value", self.args.hub_strategy))
            self._pushes = PushInBackground(self.folder, strategy, PushTarget(**push_settings(self.args)))
        self._pushes.push_checkpoint(checkpoint)

    def _finish_current_push(self) -> None:
        if self._pushes is not None:
            self._pushes.finish()

    def _write_cohort_record(self) -> None:
        if self.args.should_save and not self._is_recipes(COHORT):
            validation = self._main_eval_dataset() if self.eval_dataset is not None else None
            rows = {"train": plain_rows(self.train_dataset), "validation": plain_rows(validation)}
            record = run_record(self.cohort, self.given_args, self.objective, rows)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / COHORT, record)

    def _is_recipes(self, record: str) -> bool:
        """Whether a recipe has written a fuller record; one of an earlier training in this folder is replaced."""
        path = self.folder / record
        return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")).get("command"))

    def _write_results(self) -> None:
        """What the last evaluation found, on the test split where it was measured, against the start."""
        split = next((name for name in ("test", "eval") if self.evaluations[name].is_whole), None)
        if split is None or self._is_recipes(RESULTS):
            return
        arm = self.arm(MUTUAL, split, seconds=0.0)
        measured_on = "validation" if split == "eval" else split
        facts = {"task": self.task.name, "seeds": [self.args.seed], "measured_on": measured_on}
        control = [self._control_arms[split]] if self._control_arms and split in self._control_arms else []
        collect([*control, arm], facts, self.task.words).write(self.folder)
        before, after = (one.evaluator for one in self.evaluations[split].both(split))
        outcomes = {"outcomes": after.outcome_facts()}
        write_samples(self.folder / SAMPLES_FILE, self.peer_names, before.records(), after.records(), outcomes)

    def train_control(self, test_dataset: Any = None) -> None:
        """
        Train the same without transfer into `output_dir/control`, for the results and the cards of this run.

        Call it before `train`: it begins with the same weights.

        Args:
            test_dataset (*optional*): rows that are reported; this run is measured on them by
                `measure_start(rows, "test")` before it trains and by `evaluate` with the prefix `"test"` after.

        Raises:
            [`ConfigError`]: the peers have been trained, or this is a control itself.
        """
        if self.state.global_step or self.objective.weight == 0:
            raise ConfigError(
                "train_control begins with the weights that train begins with: call it before"
                if self.objective.weight
                else "transfer_weight is 0: this is a control itself"
            )
        cohort = copy.deepcopy(self.cohort)
        cohort.set_objective(None)
        cohort.drop_starts()
        folder = str(self.folder / "control")
        args = changed(self.args, output_dir=folder, transfer_weight=0.0, role_table=None, pre_flight=False,
                       push_to_hub=False, score_table=None)  # fmt: skip
        made: Any = type(self)
        control = made(cohort, args, self.train_dataset, self.eval_dataset, view=self.given_view)
        splits: dict[str, Any] = {"eval": None} if self.eval_dataset is not None else {}
        splits |= {"test": test_dataset} if test_dataset is not None else {}
        for split, rows in splits.items():
            control.measure_start(rows, split)
        began = time.perf_counter()
        control.train()
        seconds = time.perf_counter() - began
        for split, rows in splits.items():
            control.evaluate(rows, metric_key_prefix=split)
        self._control_arms = {split: control.arm(CONTROL, split, seconds) for split in splits}

    def arm(self, name: str, split: str, seconds: float) -> Arm:
        """This training as one arm of a comparison, measured on `split` before and after.

        Raises:
            [`ConfigError`]: the split was not measured.
        """
        start, end = self.evaluations[split].both(split)
        validation = self.evaluations["eval"].start if split != "eval" else None
        return Arm(
            name=name,
            seed=self.args.seed,
            steps=self.state.global_step,
            seconds=round(seconds, 1),
            start=start.metrics,
            end=end.metrics,
            start_by_class=start.evaluator.by_class(),
            end_by_class=end.evaluator.by_class(),
            teachers=self.record.role_table.counts_by_label() if self.objective.weight > 0 else {},
            best_steps=self.bests.steps,
            validation={} if validation is None else validation.metrics,
            rule={} if self.cohort.rule is None else self.cohort.rule.facts(),
        )
