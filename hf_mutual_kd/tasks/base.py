"""What the trainer asks of a task, so that it never has to know which task it trains."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor, nn
from transformers import AutoImageProcessor

from ..config.options import OnBadRow, RecipeOptions, TransferOptions
from ..config.recipe import unknown
from ..config.rules import check_choices, check_rules
from ..config.task_options import completed, own_fields
from ..data.collator import RoleTaggingCollator
from ..data.columns import Target
from ..data.inputs import Inputs, check_inputs
from ..data.splits import ROLES, Splits, load_splits
from ..distillation.label_alignment import ClassColumns
from ..distillation.units import Units
from ..errors import ConfigError, PeerError
from ..reports.intervals import STATISTICS, pseudo_values
from ..reports.pictures import SampleImages
from ..reports.report_sections import COMMON_SECTIONS, SectionMaker
from ..reports.samples import UNIT
from ..reports.task_words import TaskWords
from .new_heads import drawn_weights, label_maps

if TYPE_CHECKING:
    from .exporting import TaskExport
    from .space import SpaceTask


class Evaluator(ABC):
    """Streams over an evaluation: `add` what [`Task.evaluation_facts`] made of each batch, then `compute`."""

    statistic: ClassVar[str] = "means"
    """Which of [`STATISTICS`] makes the metrics of `unit/sums`."""
    metrics: ClassVar[tuple[str, ...]] = ()
    """Names of what it makes."""
    peer_names: list[str]

    @abstractmethod
    def add(self, facts: dict[str, Tensor]) -> None:
        """Take in one batch of gathered facts; memory stays constant."""

    @abstractmethod
    def compute(self) -> dict[str, dict[str, float]]:
        """`{peer: {metric: value}}`, the cohort's own numbers under `"cohort"`; without labels what needs none."""

    @abstractmethod
    def by_class(self) -> dict[str, list[float | None]]:
        """The task's metric of each peer per class, `None` for classes that did not occur."""

    def metric_scores(self, metric: str, greater_is_better: bool = True) -> np.ndarray:
        """What each labelled sample says of every peer's metric, `[samples, N]`, higher is better, in an order that
        stays: [`pseudo_values`] where samples add up to this metric, else [`Evaluator.sample_scores`]."""
        sums = self.records().get(f"{UNIT}sums")
        if sums is None or metric not in self.metrics:
            return self.sample_scores()
        found = pseudo_values(sums[:, : len(self.peer_names)], STATISTICS[self.statistic])
        return found[..., self.metrics.index(metric)] * (1 if greater_is_better else -1)

    def sample_scores(self) -> np.ndarray:
        """How good each peer is on each labelled sample, `[samples, N]`, higher is better, in an order that stays.

        A sample is what was drawn: where several units are of one, such as the frames of a video, their mean.
        """
        return self.records()["sample/score"]

    def records(self) -> dict[str, np.ndarray]:
        """What the report shows beside the metrics, and what intervals need, see [`Samples`]; none by default."""
        return {}

    def outcome_facts(self) -> dict[str, Any]:
        """How the metrics are made of `unit/sums`."""
        return {"statistic": self.statistic, "metrics": list(self.metrics)}


class Task(Units):
    """One task: how its peers are loaded, run, scored, trained and measured.

    What an [`Objective`] asks of it, `labelled`, `scores` and how a function of units runs over its maps, is in
    [`Units`].

    A peer's *outputs* are what the task makes of its model's, classes in the data set's order; its *logits* are the
    part of them that peers teach each other with, a tensor `[B, C, ...]` of logits or log-probabilities.
    """

    name: ClassVar[str]
    """As in `cohort.json`."""
    words: TaskWords
    """What is said of it; its `metric` selects each peer's best checkpoint."""
    auto_models: ClassVar[tuple[Any, ...]] = ()
    """The `AutoModelFor…` classes whose checkpoints can be peers, beside modules and `python:` sources."""
    greater_is_better: ClassVar[bool] = True
    processor_class: ClassVar[Any] = AutoImageProcessor
    """Loads what lies beside a checkpoint and prepares its inputs."""
    default_score: ClassVar[str]
    """The score that ranks the peers where the user names none."""
    collator_class: ClassVar[type[RoleTaggingCollator]]
    """Makes batches of rows; its `inputs` are the task's."""
    teaching_weight: ClassVar[float] = 10.0
    """Weight of transfer where the user names none and ways of teaching are tried."""
    target: ClassVar[Target | None] = None
    """What the label column of its rows holds; tasks whose rows are of their own kind have none."""
    has_classes: ClassVar[bool] = False
    """Whether a unit's truth is a class, which some rules are fitted or trained by, see [`Task.units`]."""
    map_dims: ClassVar[tuple[int, ...]] = ()
    """Of tasks whose logits are maps the dimensions over which a distribution lies; empty where they are `[B, C]`."""
    options_class: ClassVar[type[RecipeOptions]] = RecipeOptions
    """What a recipe of this task can set; one with options of its own derives from [`RecipeOptions`]."""
    report_sections: ClassVar[Sequence[SectionMaker]] = COMMON_SECTIONS
    """Of a run's page, in their order."""
    exporter: ClassVar[type[TaskExport] | None] = None
    """What writes peers as ONNX; tasks without one are not exported."""
    space: ClassVar[SpaceTask | None] = None
    """What makes the task's part of a Space; tasks without one have no Space."""
    options: RecipeOptions
    """What is set of it, an instance of its class of options."""

    def __init__(self, options: RecipeOptions | None = None, **own: Any):
        given, known = options or RecipeOptions(), [item.name for item in fields(self.options_class)]
        allowed = [item.name for item in own_fields(self.options_class)]
        wrong = [item.name for item in fields(given) if item.name not in known]
        wrong += [name for name in own if name not in allowed]
        if wrong:
            raise ConfigError(f"{self.name}: {unknown(wrong[0], allowed)}")
        self._set(completed(given, self.options_class), own)

    def _set(self, options: RecipeOptions, changes: Mapping[str, Any]) -> None:
        self.options = replace(options, **changes)
        check_choices(self.options)
        check_rules(self.options)

    @property
    def grid(self) -> str | None:
        """Where logits are compared, for tasks in which a peer's score depends on those that it is compared with."""
        return None

    @property
    def inputs(self) -> Inputs:
        """What rows hold, and how one is decoded."""
        return self.collator_class.inputs

    @property
    def processor_noun(self) -> str:
        """What messages call what prepares a peer's inputs."""
        return self.collator_class.processors_class.noun

    @property
    def not_gathered(self) -> str | None:
        """What its answers to rows are, in words, where those to all rows are not gathered for metrics."""
        if self.map_dims:
            return "maps"
        return None if self.keeps_scores else "several to each row"

    @property
    def metric(self) -> str:
        """The metric that selects each peer's best checkpoint."""
        return self.words.metric

    def with_options(self, **options: Any) -> Task:
        """This task with some of its options set otherwise."""
        made = copy.copy(self)
        made._set(self.options, options)
        return made

    def check_transfer(self, options: TransferOptions) -> None:
        """Raise [`ConfigError`] for what does not go with this task, or not with its own options."""

    def load_splits(self, seed: int, labels: bool, on_bad_row: OnBadRow = "raise") -> Splits:
        """The data of a run, see [`load_splits`]; `on_bad_row` is for rows that loading already opens, as videos."""
        kind = self.target or "class"
        return load_splits(self.options, seed=seed, labels=labels, target=kind, inputs=self.inputs)

    def check_splits(self, splits: Splits, on_bad_row: OnBadRow, roles: Sequence[str] = ROLES) -> None:
        """Read rows of these splits before they are used, so that a damaged one does not end a run after hours."""
        skipped = {}
        for name in roles:
            rows, skipped[name] = check_inputs(getattr(splits, name), name, on_bad_row, inputs=self.inputs)
            setattr(splits, name, rows)
        splits.facts["skipped_images"] = skipped

    def check_labels(self, rows: Any, name: str, classes: int) -> None:
        """Check the labels of the split `name` against the peers' number of classes, before anything is computed."""

    def view(self, processors: Mapping[str, Any], seed: int) -> Callable[..., Any] | None:
        """The random view that all peers share, for these peers' processors; `None` for tasks without one."""
        return None

    def set_reference(self, train_rows: Any) -> None:
        """Learn from the training rows what evaluations compare the peers with, for tasks that do."""

    def architectures(self) -> set[str]:
        """Names of the model classes that can be peers, besides those that bring their own code."""
        mappings = [cls._model_mapping for cls in self.auto_models]
        # Their names alone: the mapping's own `values` import every one of them, timm among it.
        named = [entry for mapping in mappings for entry in mapping._model_mapping.values()]
        registered = [entry for mapping in mappings for entry in mapping._extra_content.values()]
        models = [one for entry in (*named, *registered) for one in (entry if isinstance(entry, tuple) else (entry,))]
        return {one if isinstance(one, str) else one.__name__ for one in models}

    def auto_model(self, config: Any) -> Any:
        """The one of `auto_models` that loads a checkpoint with this configuration."""
        if not self.auto_models:
            raise PeerError(
                f"{self.name} has no model classes of transformers: give a module, or python:package.module:function"
            )
        return next((cls for cls in self.auto_models if type(config) in cls._model_mapping), self.auto_models[0])

    def check_config(self, name: str, config: Any) -> None:
        """Raise [`PeerError`] for a checkpoint of an Auto class of this task that cannot take part."""

    def check_peer(self, name: str, model: nn.Module, processor: Any) -> None:
        """Raise [`PeerError`] for a model that loads but cannot take part, or not with this processor."""

    def part_from_others(self, model: nn.Module) -> None:
        """Let a model's own loss ask no other process, where other processes hold other peers."""

    def check_columns(self, name: str, columns: Sequence[int]) -> None:
        """Raise [`LabelError`] for a peer's classes that the task cannot train, by their ids."""

    def load_processor(self, source: str, revision: str | None, code: dict[str, Any]) -> Any:
        """The processor that lies beside a checkpoint."""
        return self.processor_class.from_pretrained(source, revision=revision, **code)

    def reads_labels(self, config: Any) -> bool:
        """Whether a checkpoint with this configuration has a text tower that makes a classifier of label names."""
        return False

    def takes_encoder(self, config: Any) -> bool:
        """Whether a checkpoint with this configuration can get a new head."""
        return any(type(config) in cls._model_mapping for cls in self.auto_models)

    def new_head(
        self, source: str, config: Any, label_names: Sequence[str], **load: Any
    ) -> tuple[nn.Module, list[str]]:
        """Load the peer of this configuration with a fresh classifier for `label_names`.

        Returns:
            `tuple` of the model and the names of its weights that were drawn, the classifier's among them.
        """
        sized = copy.deepcopy(config)
        sized.num_labels = len(label_names)
        sized.id2label, sized.label2id = label_maps(label_names)
        model, report = self.auto_model(config).from_pretrained(
            source, config=sized, ignore_mismatched_sizes=True, output_loading_info=True, **load
        )
        return model, drawn_weights(report)

    @abstractmethod
    def outputs(self, model: nn.Module, inputs: Mapping[str, Tensor], columns: ClassColumns) -> Any:
        """Run a peer without the truth."""

    @abstractmethod
    def supervised(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        columns: ClassColumns,
        labels: Tensor,
        label_smoothing: float,
    ) -> tuple[Any, Tensor]:
        """Run a peer with the truth: its outputs, and its loss `[B]` in fp32, 0 where there is no label."""

    def logits(self, outputs: Any) -> Tensor:
        """What peers teach each other with: `[B, C, ...]`."""
        return outputs

    @abstractmethod
    def no_labels(self, logits: Tensor) -> Tensor:
        """Labels of a batch that has none."""

    # What is kept of teachers: by a score table, and of frozen starts

    keeps_scores: ClassVar[bool] = True
    """Whether a score table can hold what its peers say."""

    def check_scored(self) -> None:
        """Refuse to keep what peers say of rows in a table.

        Raises:
            [`ConfigError`]: a row has several classes.
        """
        if not self.keeps_scores:
            raise ConfigError(
                f"a score table holds one class or map of each row, and rows of {self.name} have several: train "
                "without one; teachers then speak in every step"
            )

    def split_batch(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """A batch in parts in which no sample changes what is kept of another."""
        return [batch]

    def table_scores(self, logits: Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """What a table's index holds of every peer, `[N, B]` each; NaN where there is no truth."""
        scores = self.scores(self.default_score, logits, labels)
        return {"score": scores.masked_fill(~self.labelled(labels), float("nan"))}

    def log_probs(self, logits: Sequence[Tensor], labels: Tensor) -> tuple[list[Tensor], tuple[int, ...]]:
        """What the peers say where they meet: N log-probabilities `[B, K, ...]`, which sum to 1 over K.

        Returns:
            `tuple` of them and of the shape in which [`Task.run_over`] wants those of one sample, said by a table.
        """
        return [one.log_softmax(1) for one in logits], tuple(logits[0].shape[1:])

    def start_maps(self, logits: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """What of the starts' logits a cache keeps: N of `[B, ...]`, with which an objective does as with them."""
        return list(logits)

    def probabilities(self, outputs: Sequence[Any]) -> list[Tensor]:
        """What the peers' outputs say, N of `[B, C, ...]` between 0 and 1."""
        logits = [self.logits(one) for one in outputs]
        return [one.exp() for one in self.log_probs(logits, self.no_labels(logits[0]))[0]]

    @abstractmethod
    def quality(self, outputs: Sequence[Any], labels: Tensor) -> Tensor:
        """`[N]`: each peer's summed quality, 0 to 1 per sample, over the labelled samples of a training batch."""

    quality_name: ClassVar[str]
    """What the training log calls it."""

    @abstractmethod
    def evaluation_facts(self, outputs: Sequence[Any], labels: Tensor, sample_ids: Tensor) -> dict[str, Tensor]:
        """Small tensors with the batch as first dimension: all that an [`Evaluator`] needs of a batch."""

    @abstractmethod
    def evaluator(self, peer_names: Sequence[str], num_classes: int, start: Evaluator | None = None) -> Evaluator:
        """A fresh evaluator; with the `start`'s it also counts flips."""

    settles: ClassVar[bool] = False
    """Whether something is fitted of trained peers, see [`Task.settle`]."""

    def settle(self, measured: Evaluator, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
        """
        What is fitted to validation rows once peers are trained, such as thresholds; later evaluations use it.

        Args:
            measured ([`Evaluator`]): which has seen the validation rows.
            labels (`list[str]`): the classes.

        Returns:
            `dict`: of each peer what its `config.json` says of it, ready for JSON.
        """
        return {}

    def examples(self, before: Any, after: Any, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
        """Draw a few test samples into the PNG `path`, for tasks whose words have a text on it.

        Args:
            before ([`Cohort`]): the peers as they started.
            after ([`Cohort`]): the peers with the weights that were kept.
            rows (`list[dict]`): of the test split, with their `sample_id`.
            path (`Path`): where the figure goes, in a folder that exists.
        """

    def limits(self, processor: Any, splits: Splits) -> str:
        """In a sentence what a peer with this processor does not see of the rows; empty where it sees all."""
        return ""

    def row_facts(self, rows: Any) -> dict[str, Any]:
        """What the report needs to know of the test split beside numbers, ready for JSON."""
        return {}

    def snippet_example(self, row: Mapping[str, Any], folder: Path) -> str | None:
        """What a card's snippet is run on, as a Python literal; `None` where it is not run.

        Args:
            row (`dict`): of the test split.
            folder (`Path`): for files that the literal names.
        """
        return None

    def preview(self, row: Mapping[str, Any]) -> bytes | str | None:
        """A row of the test split as the report shows it: a small JPEG, a short FLAC or a text; `None` for nothing."""
        return None

    def draw(self, before: Any, after: Any, row: Mapping[str, Any]) -> SampleImages | None:
        """
        What the peers make of one test sample, for the report; `None` for tasks without maps and unreadable samples.

        Args:
            before ([`Cohort`]): the peers as they started.
            after ([`Cohort`]): the peers with the weights that were kept.
            row (`dict`): of the test split, with its `sample_id`.
        """
        return None
