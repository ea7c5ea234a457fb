"""The trainer: joins cohort, collator and records to the `transformers` Trainer. Holds no science of its own."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import EvalPrediction, TrainOutput
from transformers.utils import logging

from ..config.training_config import MutualKDConfig
from ..data.collator import IdentifiedRows, IdentifiedStream, RoleTaggingCollator, identified
from ..data.given_rows import GivenRows
from ..data.role_table import RoleTable
from ..distillation.objective import Objective
from ..errors import ConfigError, DataError, ResumeError
from ..files import clear_staging
from ..peers.cohort import Cohort
from ..peers.first_look import look_at_rows
from ..peers.launched import on_main_process
from ..peers.peer_mesh import PeerMesh
from ..peers.step_times import balanced
from ..peers.weights_hash import fingerprints, joint
from ..run_lock import claimed
from ..scoring.score_table import plain_rows
from ..scoring.table_teacher import TableCollator, TableTeacher, open_table
from . import checkpoint_state as checkpoints
from .control import CohortControl
from .evaluation import Evaluation
from .host_features import check_arguments, check_callback, selection_of
from .labelled_batches import check_share, share_stream
from .objective_options import objective_for
from .peer_bests import PeerBests
from .pre_flight import start_table
from .processes import check_processes
from .progress import CohortProgress
from .pushing import PushCheckpoints
from .run_state import refuse_links
from .saving import CohortSaving
from .shared_starts import shared_or_new
from .stages import Stages
from .start_cache import StartCache
from .table_refresh import TableRefresh
from .teacher_state import FollowPeers, fit_rule
from .training_record import LogWithSaves, TrainingRecord
from .updating import CohortUpdates
from .ways import check_staged, first_way

logger = logging.get_logger(__name__)


class MutualKDTrainer(CohortUpdates, CohortControl, CohortSaving):
    """Trains a [`Cohort`] so that its peers teach each other.

    Args:
        model ([`Cohort`]): the peers.
        args ([`MutualKDConfig`]): who teaches, how strongly, and everything of `transformers.TrainingArguments`.
        train_dataset, eval_dataset: rows with `image` and `label`, map-style or streamed; `label` may be null or -1.
        view (callable, *optional*): shared random view `(image, sample_id, epoch) -> image`; a [`SharedView`] of
            `args` when unset and `args.augment`.
        objective ([`Objective`], *optional*): the one that `args` describe when unset.
        callbacks, optimizers, optimizer_cls_and_kwargs: as in `transformers.Trainer`.
        compute_metrics (callable, *optional*): called with the logits and labels of each peer, and of the ensemble.

    Raises:
        [`ConfigError`], [`DataError`]: before any training.

    Example:

    ```python
    >>> trainer = MutualKDTrainer(cohort, MutualKDConfig("runs/vit"), train_dataset=train, eval_dataset=validation)
    >>> trainer.train()
    >>> trainer.evaluate(test, metric_key_prefix="test")
    ```
    """

    says_start = True
    """Whether the pre-flight report is printed, which an experiment of several runs does once itself."""
    looks_at_rows = True
    """Whether a row of each data set first runs through every peer, which a recipe lets them do itself."""
    collator_class: type[RoleTaggingCollator] | None = None
    """In place of the task's own."""
    start_cache: StartCache | None = None
    shared_starts: Path | None = None
    """A folder in which trainings find what the same starts have said of the same rows."""
    shown_view = 0
    """The epoch whose random view is shown, which `cached_views` begins anew."""
    fit_rows: Any = None
    """Rows that the rule is fitted to, in place of those that select."""
    stages: Stages | None = None
    """What a training with teaching "auto" did, and the weights of each of its arms."""
    _resumed_at: float | None = None

    def __init__(  # noqa: PLR0913, as transformers'
        self,
        model: Cohort,
        args: MutualKDConfig,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        view: Callable[[Any, int, int], Any] | None = None,
        objective: Objective | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        compute_metrics: Callable[[EvalPrediction], Mapping[str, float]] | None = None,
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        **others: Any,
    ):
        check_arguments(model, args, others)
        for callback in callbacks or []:
            check_callback(callback)
        self.selects_by, greater_is_better = selection_of(args, model.task, model.names)
        self.given_args, args = args, args.resolved()
        args.check_peers(model.specs)
        self.mesh = PeerMesh.of(args, model, optimizers)
        train_dataset, eval_dataset = self._take_rows(model, args, train_dataset, eval_dataset)
        self.task = model.task = copy.copy(model.task)
        self.task.set_reference(train_dataset)
        self.peer_names = model.names
        model.rest_batch_norms(args.batch_norm)
        model.peer_checkpointing = args.peer_checkpointing
        check_staged(args, eval_dataset, objective, optimizers)
        self._given_objective = objective
        self.view = self.task.view(model.processors, args.seed) if view is None and args.augment else view
        self.objective = self._objective_of(args, train_dataset)
        self.score_table = open_table(args, model, train_dataset, self.objective, mesh=self.mesh, view=self.view)
        self.start_fingerprint = model.known_fingerprint or joint(fingerprints(model))
        self.mesh.take(model, args.device, objective)
        self._tell_cohort(args)
        self.record = TrainingRecord(model.names, model.task, self.mesh.gathered_objects)
        self.pushes = PushCheckpoints(args) if args.push_to_hub else None
        self.bests = PeerBests(model.names, greater_is_better, args.early_stopping_patience)
        self._own_callbacks = list(callbacks or [])
        self.changes = []
        self.evaluations: defaultdict[str, Evaluation] = defaultdict(Evaluation)
        super().__init__(
            model=model,
            args=args,
            data_collator=self._make_collators(model, args),
            train_dataset=identified(train_dataset),
            eval_dataset=eval_dataset,
            callbacks=[*self._own_callbacks, LogWithSaves(), FollowPeers(model), *filter(None, [self.pushes])],
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
        )
        self.compute_metrics = self._checked_metrics(compute_metrics)
        self._prepare_devices(model, self.objective)
        if self.args.merge_adapters:
            self._check_merging()
        if not self.args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            teaches = self.objective.weight > 0
            self.add_callback(CohortProgress(self.peer_names, self.task.words, self.task.quality_name, teaches))
        self._is_made = True

    def _take_rows(self, model: Cohort, args: MutualKDConfig, train_dataset: Any, eval_dataset: Any) -> Any:
        """Both data sets as they are read from now on, once it is clear that they can be."""
        names = model.label_names if model.names_given else None
        self.given = GivenRows(args, model.task.target, args.labels, names, model.task.inputs)
        self.given_cohort = model
        train_dataset = plain_rows(self._read(train_dataset, "train_dataset", trains=True))
        eval_dataset = self._read_each(eval_dataset, "eval_dataset")
        check_processes(args, train_dataset)
        check_share(args, train_dataset, self.mesh.data_ranks)
        self.mesh = balanced(self.mesh, model, train_dataset, args)
        return train_dataset, eval_dataset

    def _make_collators(self, model: Cohort, args: MutualKDConfig) -> Any:
        """The collator of training, which knows of tables; and `eval_collator`."""
        table = RoleTable.load(args.role_table, model.names) if args.role_table else None
        if self.score_table is not None and self.objective.source.in_memory:
            table = self.score_table.only(model.names).roles(self.objective.rule.name, self.objective.score)
        made, several = self.collator_class or self.task.collator_class, args.world_size > 1
        collator = made(model.processors, self.view, role_table=table, on_bad_row=args.on_bad_row, keep_places=several)
        self.eval_collator = made(model.processors, on_bad_row=args.on_bad_row, keep_places=True)
        for one in (collator, self.eval_collator):
            one.label_names = model.label_names
            one.processors.keep(list(model.peers))
        if self.score_table is None or self.objective.source.in_memory:
            return collator
        return TableCollator(collator, TableTeacher(self.score_table, model.names, self.objective))

    def add_callback(self, callback: Any) -> None:
        """As `transformers.Trainer.add_callback`."""
        check_callback(callback)
        super().add_callback(callback)

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: settings of a whole cohort are compared by `hf-mutual-kd compare`.

        Raises:
            [`ConfigError`]: always.
        """
        raise ConfigError(
            "hyperparameter_search makes its model anew for every trial, and a cohort is loaded before: "
            "`hf-mutual-kd compare --config SUITE.yaml` trains settings side by side, each against its control"
        )

    # Data

    def _train_on_others(self) -> None:
        """Fit the objective to rows that are set later.

        Raises:
            [`ConfigError`]: what was computed or read before belongs to other rows.
        """
        bound = [name for name in ("score_table", "role_table") if getattr(self.args, name) is not None]
        if bound or self.start_cache is not None:
            what = bound[0] if bound else "cache_frozen"
            raise ConfigError(
                f"{what} belongs to the rows that the trainer was made with; make a new trainer for others"
            )
        rows = plain_rows(self.train_dataset)
        check_processes(self.args, rows)
        check_share(self.args, rows, self.mesh.data_ranks)
        self.task.set_reference(rows)
        self.objective = self._objective_of(self.args, rows)
        self._tell_cohort(self.args)

    def _objective_of(self, args: MutualKDConfig, rows: Any) -> Objective:
        given = self._given_objective
        return given or objective_for(first_way(args, self.task), rows, len(self.peer_names), self.task)

    def _tell_cohort(self, args: MutualKDConfig) -> None:
        # Of stages each sets its own.
        self.given_cohort.set_objective(None if args.teaching else self.objective)

    def _get_dataloader(self, dataset, description, batch_size, sampler_fn=None, is_training=False, **kwargs):
        if is_training and isinstance(dataset, IdentifiedStream):
            dataset = share_stream(self.args, dataset, self.get_total_train_batch_size(self.args))
        training_collator = self.data_collator
        self.data_collator = self._collator(dataset, is_training)
        if self.args.world_size > 1 and isinstance(dataset, IdentifiedStream):
            # Accelerate joins the batches of all processes.
            self.data_collator.processors.fixed_size = True
        try:
            return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, **kwargs)
        finally:
            self.data_collator = training_collator
            # With persistent workers the Trainer would give the loader of the first rows for all that come after.
            self.__dict__.pop("_eval_dataloaders", None)

    def _collator(self, dataset: Any, is_training: bool) -> Any:
        return self.data_collator if is_training else self.eval_collator

    def _run_epoch(self, model, epoch, train_dataloader, **kwargs):
        self.shown_view = epoch % self.args.cached_views if self.args.cached_views else epoch
        self.data_collator.set_epoch(self.shown_view)
        if isinstance(self.train_dataset, IdentifiedRows):
            # Of several processes, accelerate tells the sampler alone.
            self.train_dataset.cycle = self.args.cached_views
            self.train_dataset.set_epoch(epoch)
        self._refresh_table(epoch)
        super()._run_epoch(model=model, epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def _refresh_table(self, epoch: int) -> None:
        resumed_at, self._resumed_at = self._resumed_at, None
        every = self.args.refresh_epochs
        if every is None or self.score_table is None:
            return
        refresh = TableRefresh(self.folder, every, self.accelerator)
        self.score_table = refresh.table_of(
            epoch, self.score_table, self.cohort, self.train_dataset, resumed_at=resumed_at
        )
        self.data_collator.teacher = TableTeacher(self.score_table, self.peer_names, self.objective)

    # Training

    def _look_at_rows(self) -> None:
        """A row of each data set through every peer; streams, which would be read twice, are left out."""
        if not self.looks_at_rows:
            return
        sets = {"train_dataset": self.train_dataset, "eval_dataset": self.eval_dataset}
        look_at_rows(self.cohort, {name: rows for name, rows in sets.items() if isinstance(rows, IdentifiedRows)})

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None) -> TrainOutput:
        """As `transformers.Trainer.train`; first measures the peers as they start, or checks what it resumes from."""
        if self.train_dataset is None:
            raise DataError("there is nothing to train on; give train_dataset")
        state = PartialState()
        with on_main_process(state, claimed(self.folder)):
            refuse_links(self.folder, self.peer_names)
            return self._train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _train(self, resume_from_checkpoint: Any, trial: Any, ignore_keys_for_eval: Any) -> TrainOutput:
        if self.pushes is not None and self.is_world_process_zero():
            self.pushes.check()
        if self.args.control:
            resume_from_checkpoint = self._control_first(resume_from_checkpoint)
        if self.args.teaching:
            return self._train_in_stages(resume_from_checkpoint)
        checkpoint = self._find_checkpoint(resume_from_checkpoint)
        self._look_at_rows()
        if self.args.should_save:
            clear_staging(self.folder)
        self._write_cohort_record()
        with torch.random.fork_rng():
            if (
                self.args.pre_flight
                and self.eval_dataset is not None
                and not self.evaluations[self._eval_prefix].start
            ):
                start = self.measure_start(metric_key_prefix=self._eval_prefix)
                if self.says_start and self.is_world_process_zero():
                    print(start_table(start, self.objective, self.task.words))
            if checkpoint is None:
                self._fit_rule()
            self._begin_with_start(checkpoint is not None)
            self.start_cache = self.start_cache or shared_or_new(self)
        if checkpoint is not None and self._was_over(Path(checkpoint)):
            self.end_from(Path(checkpoint))
            return TrainOutput(self.state.global_step, 0.0, {})
        if checkpoint is not None:
            self._restore_records(Path(checkpoint))
            self._resumed_at = checkpoints.epoch_of(Path(checkpoint))
        return super().train(checkpoint, trial, ignore_keys_for_eval)

    def _train_in_stages(self, resume: str | bool | None) -> TrainOutput:
        if isinstance(resume, str) and Path(resume).resolve() != self.folder.resolve():
            raise ResumeError(f"stages go on in their own output_dir: give resume_from_checkpoint true, got {resume}")
        self._write_cohort_record()
        self.stages = Stages(self, self._own_callbacks)
        output = self.stages.run(bool(resume))
        self._report_skipped()
        return output

    def _was_over(self, checkpoint: Path) -> bool:
        """Whether it is this training's last checkpoint; in an epoch's midst the Trainer would do one step more."""
        then = checkpoints.progress_of(checkpoint)
        same = self.args.max_steps <= 0 and math.ceil(self.args.num_train_epochs) == then.num_train_epochs
        steps = then.max_steps if same else self.args.max_steps
        return 0 < steps <= then.global_step and not self.is_sharded

    def end_from(self, checkpoint: Path) -> None:
        """End a training whose last checkpoint was written, but not what comes after it."""
        self._restore_records(checkpoint)
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        self._end_peers()
        self._write_records()

    def _fit_rule(self) -> None:
        """Fit the rule to validation rows; a checkpoint brings what was fitted when its run began."""
        if self.cohort.rule is None or not self.cohort.rule.fits():
            return
        if self.eval_dataset is None:
            raise ConfigError("teacher_rule 'class' and calibrate are fitted on validation rows; give eval_dataset")
        rows = self._main_eval_dataset() if self.fit_rows is None else self._read(self.fit_rows, "fit_rows")
        loader = self.get_eval_dataloader(rows)
        fit_rule(self.cohort, self.model, loader, self._prepare_inputs, self.accelerator)

    def _finalize_training(self, trial, num_train_samples, start_time) -> TrainOutput:
        self._end_peers()
        # Each peer has its own best; the Trainer's would be looked for where a checkpoint is not finished yet.
        self.state.best_model_checkpoint = None
        output = super()._finalize_training(trial, num_train_samples, start_time)
        self._write_records()
        self._report_skipped()
        return output

    def _report_skipped(self) -> None:
        skipped = torch.tensor(self.data_collator.skipped + self.eval_collator.skipped, device=self.args.device)
        count = int(self.accelerator.reduce(skipped, reduction="sum"))
        if count and self.is_world_process_zero():
            logger.warning(
                "unreadable %ss were left out of batches, %d in all, repeats counted", self.task.inputs.noun, count
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each peer's averages since the last log to the Trainer's own."""
        if "loss" in logs and "learning_rate" in logs:
            before = next((past["step"] for past in reversed(self.state.log_history) if "learning_rate" in past), 0)
            steps = self.state.global_step - int(before)
            logs |= self.record.drain(lambda sums: self.accelerator.reduce(sums, reduction="sum"), max(steps, 1))
        super().log(logs, start_time)
