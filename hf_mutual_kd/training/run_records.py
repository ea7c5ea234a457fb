"""What the trainer leaves for others: the records of a run, its peers' cards, and all of it on the Hub when asked."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

from ..config.training_config import MutualKDConfig
from ..distillation.objective import Objective
from ..errors import ConfigError, HubError
from ..files import write_json
from ..hub.push import PushReport, push_run
from ..peers.cohort_record import COHORT
from ..reports.html_report import write_report
from ..reports.model_card import write_cards
from ..reports.results import MUTUAL, Arm, collect
from ..reports.run_record import read_run
from ..reports.samples import SAMPLES_FILE, write_samples
from ..scoring.score_table import plain_rows
from .evaluation import Evaluation
from .fingerprints import Change, record_changes
from .peer_bests import PeerBests
from .processes import CohortProcesses
from .pushing import PushCheckpoints, push_target
from .python_run import run_record
from .training_record import TrainingRecord


class CohortRecords(CohortProcesses):
    """The part of [`MutualKDTrainer`] that writes down what came of a training."""

    objective: Objective
    peer_names: list[str]
    bests: PeerBests
    record: TrainingRecord
    evaluations: defaultdict[str, Evaluation]
    """By the prefix of the metrics: `eval`, `test`, …"""
    pushes: PushCheckpoints | None
    """Of checkpoints; `None` where none are pushed."""
    changes: list[Change]
    given_args: MutualKDConfig
    recipe_data: str | None = None
    """Fingerprint of all rows, where a recipe has made one; else the trainer makes one of what it is given."""
    is_part: bool = False
    """Whether this training lies in the folder of another one, which has the whole record."""
    control_arms: dict[str, Arm] | None = None
    """What was measured of the control by the prefix of the metrics, where one was trained."""

    def push_to_hub(  # noqa: PLR0913, as transformers' and push_run's
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
        if self.pushes is not None:
            self.pushes.finish()
        if not self.is_world_process_zero():
            return None
        self.create_model_card()
        asked = {"namespace": namespace, "private": private, "token": token, "revision": revision}
        given: dict[str, Any] = {name: value for name, value in asked.items() if value not in (None, "")}
        to = replace(push_target(self.args), collection=collection, **given)
        return push_run(self.folder, to, peers=peers, commit_message=commit_message, dry_run=dry_run)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write each peer's card into its folder, and the page of the run, from what it has recorded."""
        if not self.is_world_process_zero():
            return
        if not all((self.folder / name).is_dir() for name in self.peer_names):
            raise HubError(f"{self.folder} holds no trained peers yet; call `train` first")
        self._write_cohort_record()
        self._write_results()
        write_cards(self.folder)
        if not self._recipe_says()[1]:
            write_report(self.folder, task=self.task)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Nothing: the push makes one repository per peer."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: a checkpoint is pushed once it is whole, by [`PushCheckpoints`]."""

    def _write_cohort_record(self) -> None:
        if self.args.should_save and not self._recipe_says()[0]:
            validation = self._main_eval_dataset() if self.eval_dataset is not None else None
            rows = {"train": plain_rows(self.train_dataset), "validation": plain_rows(validation)}
            whole = not self.is_part and self.recipe_data is None
            record = run_record(self.cohort, self.given_args, self.objective, rows if whole else {})
            record_changes(record, self.changes)
            if isinstance(self.eval_dataset, dict):
                record["eval_sets"] = list(self.eval_dataset)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / COHORT, record)

    def _recipe_says(self) -> tuple[bool, bool]:
        """Whether a recipe has written a fuller record, and results; those of an earlier training are replaced."""
        if not (self.folder / COHORT).is_file():
            return False, False
        run = read_run(self.folder)
        # Only recipes' records of the cohort hold a command, results always do: an empty one where there is none.
        return run.record.get("command") is not None, bool(run.results and run.results.command)

    def _write_results(self) -> None:
        """What the last evaluation found, on the test split where it was measured, against the start."""
        split = next((name for name in ("test", self._eval_prefix) if self.evaluations[name].is_whole), None)
        if split is None or self._recipe_says()[1]:
            return
        arm = self.arm(MUTUAL, split, seconds=0.0)
        measured_on = split if split == "test" else "validation"
        facts = {"task": self.task.name, "seeds": [self.args.seed], "measured_on": measured_on}
        control = [self.control_arms[split]] if self.control_arms and split in self.control_arms else []
        collect([*control, arm], facts, self.task.words).write(self.folder)
        before, after = (one.evaluator for one in self.evaluations[split].both(split))
        outcomes = {"outcomes": after.outcome_facts()}
        write_samples(self.folder / SAMPLES_FILE, self.peer_names, before.records(), after.records(), outcomes)

    def arm(self, name: str, split: str, seconds: float) -> Arm:
        """This training as one arm of a comparison, measured on `split` before and after.

        Raises:
            [`ConfigError`]: the split was not measured.
        """
        start, end = self.evaluations[split].both(split)
        validation = self.evaluations[self._eval_prefix].start if split == "test" else None
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
