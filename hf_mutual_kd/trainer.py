"""The trainer: joins cohort, collator and records to the `transformers` Trainer. Holds no science of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import EvalLoopOutput, get_last_checkpoint, rotate_checkpoints
from transformers.utils import logging

from . import checkpoints
from .clipping import clip_each_peer
from .cohort import Cohort
from .collator import RoleTaggingCollator, identified
from .config import MutualKDConfig
from .errors import ConfigError, DataError
from .peer_bests import PeerBests
from .peers import load_weights
from .pre_flight import describe_start
from .progress import CohortProgress
from .records import TrainingRecord
from .role_table import RoleTable
from .start_cache import StartCache
from .tasks.base import Evaluator
from .teachers import Objective
from .transforms import SharedView

logger = logging.get_logger(__name__)


class LogWithSaves(TrainerCallback):
    """Closes the log's window at every checkpoint, so that a resumed run writes the same log."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log = control.should_log or control.should_save

    on_epoch_end = on_step_end


class MutualKDTrainer(Trainer):
    """Trains a [`Cohort`] so that its peers teach each other.

    Args:
        model ([`Cohort`]): the peers.
        args ([`MutualKDConfig`]): who teaches, how strongly, and everything of `transformers.TrainingArguments`.
        train_dataset, eval_dataset: rows with `image` and `label`, map-style or streamed; `label` may be null or -1.
        view (callable, *optional*): shared random view `(image, sample_id, epoch) -> image`; a [`SharedView`] of
            `args` when unset and `args.augment`.
        objective ([`~hf_mutual_kd.teachers.Objective`], *optional*): the one that `args` describe when unset.
        callbacks, optimizers: as in `transformers.Trainer`.

    Raises:
        [`~hf_mutual_kd.errors.ConfigError`], [`~hf_mutual_kd.errors.DataError`]: before any training.

    Example:

    ```python
    >>> trainer = MutualKDTrainer(cohort, MutualKDConfig("runs/vit"), train_dataset=train, eval_dataset=validation)
    >>> trainer.train()
    >>> trainer.evaluate(test, metric_key_prefix="test")
    ```
    """

    collator_class = RoleTaggingCollator
    view_class = SharedView
    # The loss is a mean over all units of an optimizer step, whatever the accumulation.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Cohort,
        args: MutualKDConfig,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        view: Callable[[Any, int, int], Any] | None = None,
        objective: Objective | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ):
        if not isinstance(model, Cohort):
            raise ConfigError(f"model must be a Cohort, got {type(model).__name__}; see Cohort.from_pretrained")
        args = copy.copy(args)
        args.check_peers(model.names)
        self.task = model.task
        self.peer_names = model.names
        model.freeze(args.frozen_peers)
        model.rest_batch_norms(args.batch_norm)
        model.peer_checkpointing = args.peer_checkpointing
        model.set_objective(objective or objective_for(args, train_dataset))
        self.start_fingerprint = checkpoints.fingerprint(model.peers)
        if view is None and args.augment:
            view = self.view_class(min_area=args.crop_min_area, color_jitter=args.color_jitter, seed=args.seed)
        table = RoleTable.load(args.role_table, model.names) if args.role_table else None
        self.eval_collator = self.collator_class(model.processors, on_bad_image=args.on_bad_image)
        self.record = TrainingRecord(model.names, model.task)
        self.bests = PeerBests(model.names, model.task.greater_is_better, args.early_stopping_patience)
        self.start_cache: StartCache | None = None
        self.start_evaluators: dict[str, Evaluator] = {}
        self.start_metrics: dict[str, dict[str, dict[str, float]]] = {}
        self.evaluators: dict[str, Evaluator] = {}
        self.results: dict[str, dict[str, dict[str, float]]] = {}
        self._saving_into: str | None = None
        super().__init__(
            model=model,
            args=args,
            data_collator=self.collator_class(model.processors, view, table, args.on_bad_image),
            train_dataset=identified(train_dataset),
            eval_dataset=identify_each(eval_dataset),
            callbacks=[*(callbacks or []), LogWithSaves()],
            optimizers=optimizers,
        )
        if self.args.n_gpu > 1:
            logger.warning("only one of %d GPUs is used; start with `accelerate launch` to use all", self.args.n_gpu)
            self.args._n_gpu = 1
        self.view = view
        if not self.args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(CohortProgress(self.peer_names, self.task.metric))

    @property
    def cohort(self) -> Cohort:
        """The peers, without the wrappers of a distributed run."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    # Data

    def _get_dataloader(self, dataset, description, batch_size, sampler_fn=None, is_training=False, **kwargs):
        training_collator = self.data_collator
        self.data_collator = training_collator if is_training else self.eval_collator
        try:
            return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, **kwargs)
        finally:
            self.data_collator = training_collator

    def _run_epoch(self, model, epoch, train_dataloader, **kwargs):
        self.data_collator.set_epoch(epoch)
        super()._run_epoch(model=model, epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    # Loss and update

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """Units, and labelled units, of one optimizer step over all its batches and processes: `[2]`."""
        labels = [batch["labels"] for batch in batch_samples]
        counts = torch.tensor(
            [sum(part.numel() for part in labels), sum(int(self.task.labelled(part).sum()) for part in labels)],
            device=device,
        )
        return self.accelerator.reduce(counts, reduction="sum") if self.args.world_size > 1 else counts

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The cohort's loss; gradients of the processes are averaged later, so each counts `world_size` times."""
        if self.start_cache is not None:
            inputs["start_logits"] = self.start_cache.lookup(inputs["sample_ids"])
        outputs = model(**inputs, row_counts=num_items_in_batch, transfer_weight=self._transfer_weight())
        if model.training:
            self.record.add(outputs, inputs["labels"], inputs["sample_ids"])
        loss = outputs.loss
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _transfer_weight(self) -> Tensor:
        objective, warmup = self.cohort.objective, self.args.transfer_warmup_steps
        risen = min(1.0, (self.state.global_step + 1) / warmup) if warmup else 1.0
        return torch.tensor(objective.weight * risen, device=self.args.device)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One optimizer with two parameter groups per peer: with and without weight decay."""
        if self.optimizer is not None:
            return self.optimizer
        cohort = self.accelerator.unwrap_model(model) if model is not None else self.cohort
        cls, kwargs = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, cohort)
        if not isinstance(cls, type) or {"params", "model", "optimizer_dict"} & set(kwargs):
            raise ConfigError(f"optim={self.args.optim!r} builds its own parameter groups, which peers need themselves")
        self.optimizer = cls([group for name in self.peer_names for group in self._groups(cohort, name)], **kwargs)
        return self.optimizer

    def _groups(self, cohort: Cohort, name: str) -> list[dict[str, Any]]:
        spec, peer = cohort.specs[name], cohort.peers[name]
        rate = self.args.peer_learning_rates.get(name, spec.learning_rate)
        decay = self.args.peer_weight_decays.get(name, spec.weight_decay)
        decayed = set(self.get_decay_parameter_names(peer))
        trainable = [(key, parameter) for key, parameter in peer.named_parameters() if parameter.requires_grad]
        groups = [
            {
                "params": [parameter for key, parameter in trainable if (key in decayed) is decays],
                "weight_decay": (self.args.weight_decay if decay is None else decay) if decays else 0.0,
                "lr": self.args.learning_rate if rate is None else rate,
            }
            for decays in (True, False)
        ]
        return [group for group in groups if group["params"]]

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        norm, broken = clip_each_peer(
            self.accelerator, self.cohort.peer_parameters(), self.args.max_grad_norm, resting=self.bests.stopped
        )
        for name in broken:
            logger.warning_once(f"peer {name!r} has gradients that are not finite; its updates are left out")
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | None = None) -> Tensor:
        return self._clip_grad_norm(model) if grad_norm is None else grad_norm

    # Training

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """As `transformers.Trainer.train`; first measures the peers as they start, or checks what it resumes from."""
        if self.train_dataset is None:
            raise DataError("there is nothing to train on; give train_dataset")
        if resume_from_checkpoint:
            self._check_resume(resume_from_checkpoint)
        if self.args.should_save:
            checkpoints.clear_staging(Path(self.args.output_dir))
        with torch.random.fork_rng():
            if self.args.pre_flight and self.eval_dataset is not None:
                self.measure_start()
                if self.is_world_process_zero():
                    print(describe_start(self.start_metrics["eval"], self.cohort.objective))
            self._fill_start_cache()
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def measure_start(self, dataset: Any = None, metric_key_prefix: str = "eval") -> dict[str, dict[str, float]]:
        """Measure the peers as they are now, as the start against which later evaluations count flips."""
        dataset = identified(dataset if dataset is not None else self._main_eval_dataset())
        evaluator = self._evaluator()
        self._stream(self.get_eval_dataloader(dataset), evaluator)
        self.start_evaluators[metric_key_prefix] = evaluator
        self.start_metrics[metric_key_prefix] = evaluator.compute()
        return self.start_metrics[metric_key_prefix]

    def _main_eval_dataset(self) -> Any:
        return next(iter(self.eval_dataset.values())) if isinstance(self.eval_dataset, dict) else self.eval_dataset

    def _fill_start_cache(self) -> None:
        objective, wanted = self.cohort.objective, self.args.cache_frozen
        if wanted is False or not objective.needs_starts or self.start_cache is not None:
            return
        reason = StartCache.obstacle(self.train_dataset, self.view, self.cohort, asked=bool(wanted))
        if reason and wanted:
            raise ConfigError(f"cache_frozen: {reason}")
        if reason:
            return
        loader = self.get_eval_dataloader(self.train_dataset)
        self.start_cache = StartCache.fill(self.cohort, loader, len(self.train_dataset), self.accelerator)
        self.cohort.drop_starts()

    def _finalize_training(self, trial, num_train_samples, start_time):
        folder = Path(self.args.output_dir)
        if not self.bests.found:
            self._save_peers(folder, self.peer_names)
        elif self.args.load_best_model_at_end:
            self.accelerator.wait_for_everyone()
            for name in self.bests.found:
                load_weights(name, self.cohort.peers[name], folder / name)
        output = super()._finalize_training(trial, num_train_samples, start_time)
        self._write_records(folder)
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each peer's averages since the last log to the Trainer's own."""
        if "loss" in logs and "learning_rate" in logs:
            before = next((past["step"] for past in reversed(self.state.log_history) if "learning_rate" in past), 0)
            steps = self.state.global_step - before
            logs |= self.record.drain(lambda sums: self.accelerator.reduce(sums, reduction="sum"), max(steps, 1))
        super().log(logs, start_time)

    # Evaluation

    def evaluate(self, eval_dataset: Any = None, ignore_keys=None, metric_key_prefix: str = "eval"):
        """Metrics `{prefix}_{peer}/{metric}` of every peer and of the cohort (`ensemble_accuracy`, …)."""
        with torch.random.fork_rng():
            return super().evaluate(identify_each(eval_dataset), ignore_keys, metric_key_prefix)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Stream over a data set; nothing but small facts is gathered and nothing of it is kept."""
        evaluator = self.evaluators[metric_key_prefix] = self._evaluator(self.start_evaluators.get(metric_key_prefix))
        self._stream(dataloader, evaluator)
        results = self.results[metric_key_prefix] = evaluator.compute()
        metrics = {
            f"{metric_key_prefix}_{name}/{key}": value for name, values in results.items() for key, value in values.items()
        }
        losses = [results[name]["loss"] for name in self.peer_names]
        metrics[f"{metric_key_prefix}_loss"] = sum(losses) / len(losses)
        samples = int(results["cohort"]["samples"])
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=samples)

    def _evaluator(self, start: Evaluator | None = None) -> Evaluator:
        return self.task.evaluator(self.peer_names, len(self.cohort.label_names), start)

    def _stream(self, dataloader: DataLoader, evaluator: Evaluator) -> None:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        model = self.model_wrapped if sharded else self.model
        was_training = model.training
        model.eval()
        for batch in dataloader:
            batch = self._prepare_inputs(batch)
            with torch.no_grad(), self.accelerator.autocast():
                logits = list(model(peer_inputs=batch["peer_inputs"]).logits.values())
                facts = self.task.evaluation_facts(logits, batch["labels"], batch["sample_ids"])
            evaluator.add(self.accelerator.gather_for_metrics(facts))
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        model.train(was_training)

    def _determine_best_metric(self, metrics, trial) -> bool:
        """Per peer: keep the best weights in `output_dir/NAME`, and rest peers that gain no more."""
        values = {name: metrics[f"{self._eval_prefix(metrics)}_{name}/{self.task.metric}"] for name in self.peer_names}
        improved = self.bests.update(values, self.state.global_step)
        self._save_peers(Path(self.args.output_dir), improved)
        self.cohort.resting = set(self.bests.stopped)
        if len(self.bests.stopped) == len(self.peer_names):
            self.control.should_training_stop = True
        return bool(improved)

    def _eval_prefix(self, metrics: dict[str, float]) -> str:
        return "eval" if not isinstance(self.eval_dataset, dict) else f"eval_{next(iter(self.eval_dataset))}"

    # Saving and resuming

    def _get_output_dir(self, trial) -> str:
        return self._saving_into or super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial) -> None:
        """As the Trainer does, but beside the checkpoint's place; it is renamed when it is whole."""
        folder = Path(super()._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        staging = folder / checkpoints.STAGING
        self.record.flush()
        self._saving_into = str(staging)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving_into = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            made = staging / name
            self._save_cohort_state(made, folder)
            checkpoints.sync(made)
            checkpoints.replace_folder(made, folder / name)
            checkpoints.remove_if_empty(staging)
            rotate_checkpoints(output_dir=str(folder), save_total_limit=self.args.save_total_limit, use_mtime=True)
        self.accelerator.wait_for_everyone()

    def _save_cohort_state(self, made: Path, folder: Path) -> None:
        self.record.role_table.save(made / "roles.parquet")
        for peer in self.bests.found:
            checkpoints.link_tree(folder / peer, made / "best" / peer)
        checkpoints.write_json(made / checkpoints.COHORT_STATE, self._identity() | {"bests": self.bests.state()})

    def _identity(self) -> dict[str, Any]:
        return {
            "task": self.task.name,
            "peers": self.peer_names,
            "labels": self.cohort.label_names,
            "starting_weights": self.start_fingerprint,
        }

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Every peer an ordinary model folder; no pickled arguments."""
        if self.args.should_save:
            self.cohort.save_pretrained(output_dir or self.args.output_dir, state_dict)

    def _save_peers(self, folder: Path, names: list[str]) -> None:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        weights = self.accelerator.get_state_dict(self.model_wrapped) if sharded and names else None
        if self.args.should_save:
            for name in names:
                with checkpoints.staged(folder / name) as made:
                    self.cohort.save_peer(name, made, weights)
        self.accelerator.wait_for_everyone()

    def _check_resume(self, resume: str | bool) -> None:
        found = get_last_checkpoint(self.args.output_dir) if resume is True else resume
        if found is not None:
            checkpoints.check_state(Path(found), checkpoints.read_state(Path(found)), self._identity())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        checkpoint, folder = Path(resume_from_checkpoint), Path(self.args.output_dir)
        for name, peer in self.cohort.peers.items():
            load_weights(name, peer, checkpoint / name)
        self.bests.load(checkpoints.read_state(checkpoint)["bests"])
        self.cohort.resting = set(self.bests.stopped)
        if self.is_world_process_zero():
            self.record.role_table = RoleTable.load(checkpoint / "roles.parquet", self.peer_names)
            for name in self.bests.found:
                with checkpoints.staged(folder / name) as made:
                    checkpoints.link_tree(checkpoint / "best" / name, made)
        self.accelerator.wait_for_everyone()

    def _write_records(self, folder: Path) -> None:
        self.record.flush()
        if self.args.should_save:
            self.record.role_table.save(folder / "roles.parquet")
            checkpoints.write_history(folder / "history.jsonl", self.state.log_history)


def objective_for(args: MutualKDConfig, train_dataset: Any) -> Objective:
    """The objective of a configuration on a data set, which may hold rows without a label."""
    changes: dict[str, Any] = {"label_smoothing": args.label_smoothing_factor}
    objective = Objective.from_options(args, **changes)
    unlabelled = has_unlabelled_rows(train_dataset)
    if unlabelled is None:
        unlabelled = objective.needs_starts
    return replace(objective, unlabelled_rows=objective.unlabelled_rows or unlabelled)


def has_unlabelled_rows(dataset: Any) -> bool | None:
    """Whether a data set holds rows without a label; `None` where one cannot know without reading it all."""
    if not isinstance(dataset, datasets.Dataset):
        return None
    if "label" not in dataset.column_names:
        return True
    return any(label is None or label < 0 for label in dataset["label"])


def identify_each(dataset: Any) -> Any:
    """[`identified`] for one data set or a dict of them; names of data sets pass through."""
    if isinstance(dataset, dict):
        return {name: identified(part) for name, part in dataset.items()}
    return dataset if isinstance(dataset, str) else identified(dataset)
