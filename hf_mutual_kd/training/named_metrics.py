"""Metrics by the names that `evaluate` knows them by, computed for every peer and for the ensemble."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.special import softmax
from transformers.trainer_utils import EvalPrediction

from ..errors import ConfigError
from ..peers.cohort import Cohort

SEVERAL = {"roc_auc": "multiclass"}
"""Metrics that have a configuration of their own for more than two classes."""


class NamedMetrics:
    """
    A `compute_metrics` for [`MutualKDTrainer`] of metrics by name.

    Of more than two classes `f1`, `precision` and `recall` are the mean over the classes (`average="macro"`), and
    `roc_auc` is the mean of one class against the rest. Metrics that take scores get probabilities.

    Args:
        names (`list[str]`): folders with a metric's script, or names on the Hub, whose code is downloaded once;
            after a colon a metric's own configuration.
        classes (`int`): how many there are.
        trust_remote_code (`bool`, *optional*, defaults to `False`): run code of the Hub.

    Raises:
        [`ConfigError`]: a metric is not there, needs trust or a package, or cannot be computed for these classes.

    Example:

    ```python
    >>> NamedMetrics([], 3).keys
    []
    ```
    """

    def __init__(self, names: Sequence[str], classes: int, trust_remote_code: bool = False):
        self.classes = classes
        self._metrics = {name: _load(name, classes, trust_remote_code) for name in names}
        # Every class twice, all of them told rightly.
        labels = np.tile(np.arange(classes), 2)
        found = [list(self._compute(name, 5.0 * np.eye(classes)[labels], labels)) for name in names]
        self.keys = [key for keys in found for key in keys]
        """What the metrics are called in results."""
        twice = next((key for key in self.keys if self.keys.count(key) > 1), None)
        if twice is not None:
            raise ConfigError(f"metrics: two of {', '.join(names)} are called {twice}; leave one out")

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        return {key: value for name in self._metrics for key, value in self._compute(name, logits, labels).items()}

    def _compute(self, name: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        metric = self._metrics[name]
        # A peer that says NaN knows nothing of the row.
        scores = np.nan_to_num(softmax(logits.astype(np.float64), axis=1), nan=1 / self.classes)
        features = metric.features[0] if isinstance(metric.features, list) else metric.features
        given = {key: _input(key, features[key], scores, labels) for key in features}
        try:
            found = metric.compute(**given, **self._settings(metric))
        except Exception as error:  # whatever a metric's own code raises
            raise ConfigError(f"metrics: {name} cannot be computed for {self.classes} classes: {error}") from error
        numbers = {key: float(value) for key, value in found.items() if np.ndim(value) == 0}
        if not numbers:
            raise ConfigError(f"metrics: {name} is no number, but {', '.join(found)}; it cannot be in a table")
        return {key: value for key, value in numbers.items() if math.isfinite(value)}

    def _settings(self, metric: Any) -> dict[str, Any]:
        if self.classes <= 2:
            return {}
        known = inspect.signature(metric._compute).parameters
        if "multi_class" in known:
            return {"multi_class": "ovr", "labels": list(range(self.classes))}
        return {"average": "macro"} if "average" in known else {}


def _load(name: str, classes: int, trust_remote_code: bool) -> Any:
    source, _, configuration = name.partition(":")
    path = Path(source).expanduser()
    is_here = path.suffix == ".py" and path.is_file() or (path / f"{path.name}.py").is_file()
    if not is_here and not trust_remote_code:
        raise ConfigError(
            f"metrics: {source} is code that would be downloaded from the Hub and run; read it, then allow it with "
            "--trust_remote_code true, or give the folder of its script"
        )
    chosen = configuration or (SEVERAL.get(path.name) if classes > 2 else None)
    try:
        return evaluate.load(str(path) if is_here else source, chosen, keep_in_memory=True)
    except (ImportError, OSError, ValueError, TypeError, AttributeError) as error:
        offline = "; without a network give the folder of its script" if not is_here else ""
        raise ConfigError(f"metrics: {name} cannot be loaded: {error}{offline}") from error


def _input(key: str, feature: Any, scores: np.ndarray, labels: np.ndarray) -> Any:
    """What a metric gets under a name: the truth, the class that is most probable, or probabilities."""
    if key == "references":
        return labels
    if isinstance(feature, datasets.Value):
        return scores[:, -1] if "score" in key or "prob" in key else scores.argmax(1)
    return scores


def named_metrics(cohort: Cohort, names: Sequence[str], trust_remote_code: bool = False) -> NamedMetrics:
    """
    Metrics for a cohort's classes; its task then also shows them in tables, cards and pages.

    Raises:
        [`ConfigError`]: see [`NamedMetrics`]; the task has maps, or has one of them itself.
    """
    words = cohort.task.words
    if kind := cohort.task.not_gathered:
        raise ConfigError(
            f"metrics get the answers to all rows, which are {kind} in {cohort.task.name}: its own are "
            f"{', '.join(words.shown)}"
        )
    found = NamedMetrics(names, len(cohort.label_names), trust_remote_code)
    own = next((key for key in found.keys if key in words.shown), None)
    if own is not None:
        raise ConfigError(f"metrics: {own} is measured for {cohort.task.name} as it is; leave it out")
    cohort.task = copy.copy(cohort.task)
    shown = {**words.shown, **{key: key for key in found.keys}}
    on_the_hub = {**words.hub_metrics, **{key: (key, key) for key in found.keys}}
    cohort.task.words = replace(words, shown=shown, hub_metrics=on_the_hub)
    return found
