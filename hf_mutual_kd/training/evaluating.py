"""How the trainer measures: streams over a data set, and what every peer says of it where that is wanted."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from ..errors import ConfigError, DataError
from ..peers.adapters import is_adapter, keep_fitted
from ..tasks.base import Evaluator
from .evaluation import Evaluation, Measurement
from .host_features import metrics_of
from .predictions import GatheredLogits
from .processes import CohortProcesses


class CohortEvaluation(CohortProcesses):
    """The part of [`MutualKDTrainer`] that measures peers."""

    control: Any
    peer_names: list[str]
    evaluations: defaultdict[str, Evaluation]
    """By the prefix of the metrics: `eval`, `test`, …"""
    _predicts: bool = False

    def evaluate(self, eval_dataset: Any = None, ignore_keys=None, metric_key_prefix: str = "eval"):
        """Metrics `{prefix}_{peer}/{metric}` of every peer and of the cohort (`ensemble_accuracy`, …)."""
        with torch.random.fork_rng():
            return super().evaluate(self._read_each(eval_dataset, "eval_dataset"), ignore_keys, metric_key_prefix)

    def predict(self, test_dataset: Any, ignore_keys=None, metric_key_prefix: str = "test") -> PredictionOutput:
        """
        What every peer says of rows that may lack labels.

        Returns:
            `PredictionOutput`: `predictions` are the logits `[rows, C]` of each peer by name, classes in the order of
            `cohort.label_names`, and of the `"ensemble"` the logarithm of the peers' mean probability; `label_ids`
            `[rows]`, negative for none, `None` where no row has a label; `metrics` as of `evaluate`.

        Raises:
            [`ConfigError`]: the task has maps, of which those of all rows do not fit in memory.
            [`DataError`]: there are no rows.
        """
        if kind := self.task.not_gathered:
            raise ConfigError(
                f"predict keeps the answers to all rows, which are {kind} in {self.task.name}: evaluate measures "
                "them, and a peer's folder gives them by transformers.pipeline"
            )
        if test_dataset is None:
            raise DataError("there is nothing to predict; give test_dataset")
        self._predicts = True
        try:
            with torch.random.fork_rng():
                return super().predict(self._read(test_dataset, "test_dataset"), ignore_keys, metric_key_prefix)
        finally:
            self._predicts = False

    def measure_start(self, dataset: Any = None, metric_key_prefix: str = "eval") -> dict[str, dict[str, float]]:
        """Measure the peers as they are now, as the start against which later evaluations count flips."""
        dataset = self._read(dataset, "dataset") if dataset is not None else self._main_eval_dataset()
        start = self._measure(self.get_eval_dataloader(dataset), None)[0]
        self.evaluations[metric_key_prefix].start = start
        return start.metrics

    def settle(self, folder: Path | None = None) -> None:
        """
        Fit to the evaluation rows what the task fits of trained peers, for `evaluate` and their `config.json`.

        Call it before each evaluation of test rows, that of the start too; recipes do.

        Args:
            folder (`Path`, *optional*): with the peers' folders, whose `config.json` is to say what was found; of
                adapters, which have none, `fitted.json`.
        """
        rows = self._main_eval_dataset()
        if not self.task.settles or rows is None:
            return
        with torch.random.fork_rng():
            measured = self._measure(self.get_eval_dataloader(rows), None)[0]
        for name, facts in self.task.settle(measured.evaluator, self.cohort.label_names).items():
            peer: Any = self.cohort.model_of(name)
            if folder is None or getattr(peer, "config", None) is None:
                continue
            if is_adapter(peer):
                keep_fitted(peer, facts, folder / name if self.is_world_process_zero() else None)
                continue
            peer.config.update(facts)
            if self.is_world_process_zero() and (folder / name / "config.json").is_file():
                peer.config.save_pretrained(folder / name)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Stream over a data set; nothing but small facts is gathered, and the logits where somebody asks for them."""
        evaluation = self.evaluations[metric_key_prefix]
        end, gathered = self._measure(dataloader, evaluation.start.evaluator if evaluation.start else None)
        if not self._predicts:
            evaluation.end = end
        results = end.metrics
        metrics = {
            f"{metric_key_prefix}_{name}/{key}": value
            for name, values in results.items()
            for key, value in values.items()
        }
        # What schedulers that wait for a plateau look for: the mean of the peers.
        for key in dict.fromkeys(["loss", (self.args.metric_for_best_model or "loss").removeprefix("eval_")]):
            values = [results[name][key] for name in self.peer_names if key in results[name]]
            if values:
                metrics[f"{metric_key_prefix}_{key}"] = sum(values) / len(values)
        samples = int(results["cohort"]["samples"])
        predictions: Any = gathered.logits() if self._predicts and gathered else None
        labels = gathered.labels() if predictions is not None and gathered else None
        labels = None if labels is None or (labels < 0).all() else labels
        return EvalLoopOutput(predictions=predictions, label_ids=labels, metrics=metrics, num_samples=samples)

    def _measure(self, dataloader: DataLoader, start: Evaluator | None) -> tuple[Measurement, GatheredLogits | None]:
        """One pass; with the figures of the user's own, and the logits where these or `predict` need them."""
        evaluator = self.task.evaluator(self.peer_names, len(self.cohort.label_names), start)
        wanted = self._predicts or self.compute_metrics is not None
        gathered = GatheredLogits(self.peer_names) if wanted else None
        self._stream(dataloader, evaluator, gathered)
        measured = Measurement.of(evaluator)
        if gathered is not None and self.compute_metrics is not None:
            for name, values in metrics_of(self.compute_metrics, gathered.logits(), gathered.labels()).items():
                measured.metrics[name] |= values
        return measured, gathered

    def _checked_metrics(self, compute_metrics: Any) -> Any:
        if compute_metrics is not None and (kind := self.task.not_gathered):
            raise ConfigError(
                f"compute_metrics gets the answers to all rows, which are {kind} in {self.task.name}: its own "
                f"metrics are {', '.join(self.task.words.shown)}"
            )
        return compute_metrics

    def _stream(self, dataloader: DataLoader, evaluator: Evaluator, gathered: GatheredLogits | None = None) -> None:
        self._share_buffers()
        model: Any = self.model_wrapped if self.is_sharded else self.model
        was_training = model.training
        model.eval()
        for batch in dataloader:
            batch = self._prepare_inputs(batch)
            with torch.no_grad(), self.accelerator.autocast():
                outputs = list(model(peer_inputs=batch["peer_inputs"]).outputs.values())
                facts = self.task.evaluation_facts(outputs, batch["labels"], batch["sample_ids"])
            if gathered is not None:
                logits = torch.stack([self.task.logits(output).float() for output in outputs], 1)
                logits, labels = self.accelerator.gather_for_metrics((logits.contiguous(), batch["labels"]))
                gathered.add(logits, labels)
            evaluator.add(self.accelerator.gather_for_metrics(facts))
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        model.train(was_training)

    def _main_eval_dataset(self) -> Any:
        return next(iter(self.eval_dataset.values())) if isinstance(self.eval_dataset, dict) else self.eval_dataset

    @property
    def _eval_prefix(self) -> str:
        """Of the evaluation that selects: the first where there are several."""
        return "eval" if not isinstance(self.eval_dataset, dict) else f"eval_{next(iter(self.eval_dataset))}"
