"""What `transformers.Trainer` takes and a cohort does otherwise: refused by name, with what to use instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import EarlyStoppingCallback, TrainingArguments
from transformers.trainer_utils import EvalPrediction

from ..config.training_config import MutualKDConfig
from ..config.values import nearest
from ..errors import ConfigError
from ..peers.cohort import Cohort
from ..tasks.base import Task

ARGUMENTS = {
    "data_collator": "images are decoded once for all peers: say what differs by `view`, or by the class attribute "
    "`collator_class` of a trainer of your own",
    "processing_class": "each peer has its own: PeerSpec(ID, processor=ID_OR_FOLDER)",
    "tokenizer": "each peer has its own processor: PeerSpec(ID, processor=ID_OR_FOLDER)",
    "model_init": "make a cohort and a trainer for every run; `hf-mutual-kd compare` runs settings side by side",
    "compute_loss_func": "the loss is an Objective: objective=Objective(…)",
    "preprocess_logits_for_metrics": "compute_metrics gets the logits of one peer at a time; change them there",
}
"""Arguments of the Trainer, and what takes their place."""

SETTINGS: dict[str, tuple[Any, str]] = {
    "neftune_noise_alpha": (None, "it is noise on token embeddings, which these peers have none of"),
    "include_num_input_tokens_seen": (("no", False), "there are no tokens to count"),
    "train_sampling_strategy": (("random", "sequential"), "rows are not sorted by length; use 'random'"),
    "use_liger_kernel": (False, "its kernels replace a loss that peers here do not use"),
    "batch_eval_metrics": (False, "compute_metrics is called once per peer, for all rows"),
    "eval_do_concat_batches": (True, "predict joins the batches of every peer"),
    "label_names": (None, "the names of the classes are the cohort's: Cohort.from_pretrained(…, label_names=[…])"),
}
"""Fields of `TrainingArguments`, the values that mean nothing is asked for, and why others are refused."""

EARLY_STOPPING = (
    "EarlyStoppingCallback waits for one model: MutualKDConfig(early_stopping_patience=N) rests each peer alone"
)


def check_arguments(model: Any, args: Any, others: Mapping[str, Any]) -> None:
    """
    Refuse what the trainer is made with and can't use.

    Raises:
        [`ConfigError`]: names it and says what to use.
    """
    if not isinstance(model, Cohort):
        raise ConfigError(f"model must be a Cohort, got {type(model).__name__}; see Cohort.from_pretrained")
    if not isinstance(args, MutualKDConfig):
        known = ", which has every field of TrainingArguments" if isinstance(args, TrainingArguments) else ""
        raise ConfigError(f"args must be a MutualKDConfig{known}, got {type(args).__name__}")
    for name, value in others.items():
        if name not in ARGUMENTS:
            raise TypeError(f"MutualKDTrainer has no argument {name!r}{nearest(name, ARGUMENTS)}")
        if value is not None:
            raise ConfigError(f"{name} is of no use to a cohort: {ARGUMENTS[name]}")
    for name, (unset, reason) in SETTINGS.items():
        value = getattr(args, name, None)
        value = getattr(value, "value", value)
        if value not in (unset if isinstance(unset, tuple) else (unset, None)):
            raise ConfigError(f"{name}={value!r}: {reason}")
    model.task.check_transfer(args)


def check_callback(callback: Any) -> None:
    """Raise [`ConfigError`] for a callback, or its class, that would never do what it is for."""
    if isinstance(callback, EarlyStoppingCallback) or (
        isinstance(callback, type) and issubclass(callback, EarlyStoppingCallback)
    ):
        raise ConfigError(EARLY_STOPPING)


def selection_of(args: MutualKDConfig, task: Task, names: Sequence[str]) -> tuple[str, bool]:
    """
    The metric of each peer that selects its best weights, and whether more of it is better.

    Raises:
        [`ConfigError`]: `metric_for_best_model` is no metric of a single peer.
    """
    given = args.metric_for_best_model
    if given is None or not args._metric_is_given:
        return task.metric, task.greater_is_better
    metric = given.removeprefix("eval_")
    known = list(dict.fromkeys([task.metric, *task.words.shown, "loss"]))
    peer, slash, rest = metric.partition("/")
    if slash and peer in names:
        raise ConfigError(f"metric_for_best_model={given!r}: each peer is selected by its own; give {rest!r}")
    if metric not in known:
        raise ConfigError(
            f"metric_for_best_model={given!r}{nearest(metric, known)}; a peer is selected by one of {', '.join(known)}"
        )
    by_task = task.greater_is_better if metric == task.metric else not metric.endswith("loss")
    return metric, by_task if args.greater_is_better is None else args.greater_is_better


def metrics_of(compute_metrics: Any, logits: Mapping[str, Any], labels: Any) -> dict[str, dict[str, float]]:
    """What a user's `compute_metrics` finds, once per peer and for the ensemble, over the rows that have a label."""
    known = labels >= 0
    if not known.any():
        return {}
    found = {name: compute_metrics(EvalPrediction(part[known], labels[known])) for name, part in logits.items()}
    for name, values in found.items():
        wrong = next((key for key, value in values.items() if not hasattr(value, "__float__")), None)
        if wrong is not None:
            raise ConfigError(f"compute_metrics must return numbers, got {wrong}={values[wrong]!r} of {name}")
    ensemble = found.pop("ensemble")
    return {
        **{name: {key: float(value) for key, value in values.items()} for name, values in found.items()},
        "cohort": {f"ensemble_{key}": float(value) for key, value in ensemble.items()},
    }
