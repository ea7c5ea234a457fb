"""A training in stages: peers adapt to the labels, ways of teaching are tried, and of each peer the best is kept."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, Subset
from transformers import TrainerCallback
from transformers.trainer_utils import TrainOutput

from ..config.training_config import MutualKDConfig
from ..data.collator import IdentifiedRows
from ..data.labelled_rows import default_share, which_labelled
from ..data.role_table import RoleTable
from ..errors import ConfigError, DataError
from ..peers.loading import load_weights
from .checkpoint_state import ROLES
from .choice import ALPHAS, PLAIN, Candidate, Choice, best_way, choose, compare
from .evaluation import Measurement
from .objective_options import objective_for
from .pre_flight import start_table
from .run_state import last_checkpoint
from .stage_state import STAGES, StageState, is_over, read_history
from .stage_weights import ArmWeights, blend, snapshot
from .ways import StopAt, changed, one_training, way_options, ways_of

if TYPE_CHECKING:
    from .trainer import MutualKDTrainer

FIT_SHARE, FEWEST_TO_FIT = 3, 60
"""One in so many validation rows fits temperatures and trust, and selects nothing; fewer rows fit nothing."""

Scores = dict[str, tuple[float, np.ndarray]]
"""The metric of each peer, and how good it is on each row."""


class Stages:
    """
    The stages of one [`MutualKDTrainer`] with `teaching="auto"`.

    Every stage is a training of its own below `output_dir/stages`, with its own checkpoints; a small file says which
    are done. *adapt* learns from the labels alone, where a head is new. Ways of teaching by frozen copies of the
    adapted peers then run a quarter of the steps each, and the best goes on; beside it the control goes on from the
    same weights with the same labelled rows, and so does self-training, in which no peer hears another. [`choose`]
    then says what is kept of each peer.

    Args:
        trainer ([`MutualKDTrainer`]): whose peers these are.
        callbacks (`list`): of the user, for every stage.

    Raises:
        [`ConfigError`]: what stages cannot do.
    """

    def __init__(self, trainer: MutualKDTrainer, callbacks: Sequence[TrainerCallback] = ()):
        self.trainer, self.args, self.task = trainer, trainer.args, trainer.task
        self.cohort, self.callbacks = trainer.cohort, list(callbacks)
        self.folder = trainer.folder / STAGES
        self.names = trainer.peer_names
        self.state = StageState(self.folder, trainer._identity(), trainer._made_with, trainer.args)
        self.weights = ArmWeights(self.cohort, self.state, self.adapts, next(iter(self.controls)))
        self.choices: dict[str, Choice] = {}
        self._cache: Any = None
        self._together: float | None = None
        self._measured: Measurement | None = None
        self._adapted: Measurement | None = None
        self.fit_rows, self.rows = self._split_evaluation()

    # What is there to do

    @property
    def adapts(self) -> bool:
        """Whether peers learn from the labels before anybody teaches."""
        new = bool(self.cohort.new_heads)
        return new if self.args.adapt is None else self.args.adapt

    @property
    def ways(self) -> list[str]:
        """The ways of teaching to try; none for a peer without others, also in a score table."""
        if len(self.names) == 1 and self.args.score_table is None:
            return []
        return [way for way in ways_of(self.task, self.args) if self.fit_rows is not None or way != "class"]

    @property
    def controls(self) -> dict[str, float | None]:
        """Learning rate of every control, by its stage; `None`: the run's."""
        rates = self.args.control_learning_rates
        return {f"control-{rate:g}": rate for rate in rates} if rates else {"control": None}

    def check(self) -> None:
        """
        Refuse before training what cannot be done.

        Raises:
            [`ConfigError`], [`DataError`]: named by the option or the rows.
        """
        new = sorted(self.cohort.new_heads)
        if new and self.args.adapt is False:
            raise ConfigError(f"adapt is false, but {', '.join(new)} has a new head, which knows nothing to teach")
        still = [name for name in new if self.cohort.specs[name].frozen]
        if still:
            raise ConfigError(f"{still[0]} has a new head and is frozen: it could neither learn nor teach")
        if self.trainer.is_sharded:
            raise ConfigError("teaching 'auto' keeps whole weights of each stage, which FSDP and DeepSpeed split")

    def _split_evaluation(self) -> tuple[Any, Any]:
        """Rows that fit temperatures and trust, and rows that select: what was fitted is never judged on its rows."""
        rows = self.trainer._main_eval_dataset()
        countable = isinstance(rows, IdentifiedRows) and len(rows) >= FEWEST_TO_FIT
        fits = self.args.score_table is None and self.cohort.known is None and self.task.has_classes
        if not countable or not fits or len(self.names) == 1:
            return None, rows
        order = np.random.default_rng(0).permutation(len(rows))
        fitted = np.sort(order[: len(rows) // FIT_SHARE])
        selects = np.sort(order[len(rows) // FIT_SHARE :])
        return _part(rows, fitted), _part(rows, selects)

    # The run

    def run(self, resume: bool) -> TrainOutput:
        """Do what is left to do, and end with the kept weights in the cohort and in the run's folder."""
        self.check()
        if resume:
            self.state.load()
            self.trainer.changes = self.state.changes
            self.trainer._write_cohort_record()
        elif self.args.should_save:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.trainer.accelerator.wait_for_everyone()
        self.state.save()
        if not self._measure():
            raise DataError("no validation row has a label, so nothing can be chosen by them; give others")
        if self.adapts:
            self._train("adapt", self._labels_alone(), only_labels=True)
        self._pre_flight()
        way = self._teach()
        specs = self.cohort.specs
        if self.args.control_learning_rates:
            self.cohort.specs = {name: replace(spec, learning_rate=None) for name, spec in specs.items()}
        for stage, rate in self.controls.items():
            self._train(stage, self._labels_alone(rate), only_labels=True)
        self.cohort.specs = specs
        if self.trains_itself:
            self._train("self", self._options(teacher_rule="self", teacher_source="frozen"))
        self._choose(way)
        return self._finish(way)

    def _options(self, **changes: Any) -> MutualKDConfig:
        return one_training(self.args, self.task, **changes)

    def _way_options(self, way: str) -> MutualKDConfig:
        return way_options(self.args, self.task, way, fits=self.fit_rows is not None)

    def _labels_alone(self, rate: float | None = None) -> MutualKDConfig:
        changes = {} if rate is None else {"learning_rate": rate}
        return self._options(transfer_weight=0.0, **changes)

    def _teach(self) -> str | None:
        """Try every way for a quarter of the steps, and let the best go on to the end."""
        ways = self.ways
        if not ways:
            return None
        tried: dict[str, dict[str, float]] = dict(self.state.facts.get("ways", {}))
        for way in ways if len(ways) > 1 else ():
            if way not in tried:
                self._train(f"way-{way}", self._way_options(way), tries=True)
                tried[way] = {name: value for name, (value, _) in self._measure().items()}
                self.state.finish(f"way-{way} tried", ways=tried)
        way = best_way(tried, self.trainer.bests.greater_is_better) if tried else ways[0]
        self._train(f"way-{way}", self._way_options(way))
        return way

    def _train(self, stage: str, options: MutualKDConfig, *, only_labels: bool = False, tries: bool = False) -> None:
        """One stage from the adapted weights to its end, or from its last checkpoint."""
        if stage in self.state.done:
            return
        began = time.perf_counter()
        self.weights.load("start" if stage == "adapt" else "adapted")
        folder = self.folder / stage
        trainer = self._stage_trainer(folder, options, only_labels, tries)
        last = last_checkpoint(folder)
        if last is not None and is_over(last, tries):
            trainer.end_from(last)
        else:
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
        self._cache = trainer.start_cache or self._cache
        if not tries:
            facts = dict(self.state.facts.get("stages", {}))
            seconds = round(time.perf_counter() - began, 1)
            facts[stage] = {
                "steps": trainer.state.global_step,
                "best_steps": trainer.bests.steps,
                "seconds": seconds,
                "rule": {} if self.cohort.rule is None else self.cohort.rule.facts(),
            }
            self.state.finish(stage, stages=facts)
        self.cohort.set_objective(None)
        self.cohort.drop_starts()
        self.cohort.resting = set()
        del trainer
        # Hooks of what wrapped the cohort go with it.
        gc.collect()

    def _stage_trainer(self, folder: Path, options: MutualKDConfig, only_labels: bool, tries: bool) -> MutualKDTrainer:
        outer, share = self.trainer, self.labelled_share
        options = changed(
            options, output_dir=str(folder), labelled_share=share, input_column=None, label_column=None, control=False
        )
        self.cohort.drop_starts()
        # A stage that begins where the run did hashes nothing anew.
        self.cohort.known_fingerprint = None if self.adapts else outer.start_fingerprint
        trainer = type(outer)(
            self.cohort,
            options,
            train_dataset=outer.train_dataset,
            eval_dataset=self.rows,
            view=outer.view,
            callbacks=[*self.callbacks, *([StopAt()] if tries else [])],
            compute_metrics=outer.compute_metrics,
            optimizer_cls_and_kwargs=outer.optimizer_cls_and_kwargs,
        )
        self.cohort.known_fingerprint = None
        trainer.fit_rows, trainer.is_part = self.fit_rows, True
        trainer.evaluations[trainer._eval_prefix].start = self._adapted
        # All stages have the same rows and peers.
        trainer.looks_at_rows, outer.looks_at_rows = outer.looks_at_rows, False
        # Adapted weights are this run's own.
        trainer.shared_starts = None if self.adapts else outer.shared_starts
        trainer.data_collator.labelled_only = (
            only_labels and share is not None and not isinstance(outer.train_dataset, IterableDataset)
        )
        if self._cache is not None and trainer.objective.needs_starts:
            trainer.start_cache = self._cache
            self.cohort.drop_starts()
        return trainer

    @property
    def trains_itself(self) -> bool:
        """Whether there is a control in which each peer teaches itself: there are rows without a label."""
        return self.args.self_training and self.labelled_share is not None

    @property
    def labelled_share(self) -> float | None:
        """Of labelled rows in the steps; `None` where all rows have a label, or one cannot know."""
        labelled = which_labelled(self.trainer.train_dataset)
        if labelled is None:
            return self.args.labelled_share
        natural = default_share(labelled)
        return natural if natural is None or self.args.labelled_share is None else self.args.labelled_share

    def _pre_flight(self) -> None:
        if not self.args.pre_flight:
            return
        if self.adapts or self._measured is None:
            self.weights.load("adapted")
            self._measured = self._evaluate()
        # With these weights every later stage begins.
        self._adapted, results = self._measured, self._measured.metrics
        if self.trainer.is_world_process_zero():
            keeps_best = self.args.keep == "best"
            print(start_table(results, self.trainer.objective, self.task.words, keeps_best=keeps_best))

    def load(self, what: str) -> None:
        """
        Put an arm's weights into the cohort: `"start"`, `"adapted"`, `"control"`, `"self"`, `"mutual"` or `"kept"`.

        Only for a training that is over.
        """
        with torch.random.fork_rng():
            self.weights.load(what)

    @property
    def arms(self) -> list[str]:
        """What was trained, in the order of the closing table, with the start and what is kept."""
        adapted, alone = ["adapted"] if self.adapts else [], ["self"] if self.trains_itself else []
        return ["start", *adapted, "control", *alone, *(["mutual"] if self.ways else []), "kept"]

    def record_of(self, what: str) -> dict[str, Any]:
        """Steps, seconds, best steps and fitted rule of a trained arm; what is kept has no seconds of its own."""
        way = self.state.facts.get("way")
        taught = f"way-{way}" if way else next(iter(self.controls))
        stage = {"adapted": "adapt", "control": next(iter(self.controls)), "self": "self"}.get(what, taught)
        found = dict(self.state.facts["stages"][stage])
        if what == "kept":
            del found["seconds"]
        return found

    # The choice

    def _evaluate(self) -> Measurement:
        with torch.random.fork_rng():
            return self.trainer._measure(self.trainer.get_eval_dataloader(self.rows), None)[0]

    def _measure(self) -> Scores:
        """The peers as they are, on the rows that select; empty where no row has a label."""
        self._measured = measured = self._evaluate()
        results, metric = measured.metrics, self.trainer.selects_by
        if any(metric not in results[name] for name in self.names):
            return {}
        self._together = results["cohort"].get(f"ensemble_{metric}")
        scores = measured.evaluator.metric_scores(metric, self.trainer.bests.greater_is_better)
        return {name: (results[name][metric], scores[:, index]) for index, name in enumerate(self.names)}

    def _choose(self, way: str | None) -> None:
        """Measure everything that a peer could be kept with, and say what is."""
        if "kept" in self.state.done:
            self.choices = {name: Choice(**one) for name, one in self.state.facts["kept"].items()}
            return
        self.state.facts["way"] = way
        candidates: dict[str, list[Candidate]] = {name: [] for name in self.names}
        values: dict[str, dict[str, float]] = {}
        for what in self.arms[:-1]:
            if what == "control":
                self._pick_controls()
            self.weights.load(what)
            values[what] = self._add(candidates, what, way)
            if what not in PLAIN or what == "control":
                self._between(candidates, what, way)
        for name in self.names:
            self.choices[name] = choose(candidates[name], self.trainer.bests.greater_is_better)
            if self.args.keep == "mutual" and way is not None:
                forced = [one for one in candidates[name] if one.what == "mutual" and one.alpha == 1.0]
                plain = [one for one in candidates[name] if one.is_plain]
                self.choices[name] = compare(forced[0], plain, self.trainer.bests.greater_is_better)
        kept = {name: choice.as_json() for name, choice in self.choices.items()}
        self.state.finish("kept", kept=kept, validation=values, labelled_share=self.labelled_share)

    def _add(
        self, candidates: dict[str, list[Candidate]], what: str, way: str | None, alpha: float = 1.0
    ) -> dict[str, float]:
        found = self._measure()
        for name, (value, scores) in found.items():
            taught_by = way if what == "mutual" else None
            candidates[name].append(Candidate(what, value, scores, alpha, taught_by))
        together = {} if self._together is None else {"ensemble": self._together}
        return {name: value for name, (value, _) in found.items()} | together

    def _between(self, candidates: dict[str, list[Candidate]], what: str, way: str | None) -> None:
        """Places between where the peers began and where an arm ended."""
        ends = {name: snapshot(peer) for name, peer in self.cohort.peers.items()}
        for name in self.cohort.peers:
            self.weights.load_peer(name, self.weights.origin(name))
        origins = {name: snapshot(peer) for name, peer in self.cohort.peers.items()}
        for alpha in ALPHAS:
            for name, peer in self.cohort.peers.items():
                blend(peer, origins[name], ends[name], alpha)
            self._add(candidates, what, way, alpha)

    def _pick_controls(self) -> None:
        """Of each peer the control whose learning rate validation favours; the first of equals."""
        stages = list(self.controls)
        found: dict[str, Scores] = {}
        for stage in stages if len(stages) > 1 else ():
            for name, peer in self.cohort.peers.items():
                load_weights(name, peer, self.folder / stage / name)
            found[stage] = self._measure()
        better = max if self.trainer.bests.greater_is_better else min
        self.state.facts["controls"] = {
            name: better({stage: scores[name][0] for stage, scores in found.items()}.items(), key=itemgetter(1))[0]
            if found
            else stages[0]
            for name in self.names
        }

    def _finish(self, way: str | None) -> TrainOutput:
        """Leave the kept peers, who taught whom and the history where a training leaves them."""
        trainer = self.trainer
        self.load("kept")
        trainer._save_peers(self.names)
        trainer._merge_adapters()
        stage = next(iter(self.controls)) if way is None else f"way-{way}"
        if way is not None:
            trainer.objective = objective_for(
                self._way_options(way), trainer.train_dataset, len(self.names), self.task
            )
            trainer.record.role_table = RoleTable.load(self.folder / stage / ROLES, self.names)
        facts = self.state.facts["stages"]
        trainer.state.log_history = read_history(self.folder / stage)
        trainer.state.global_step = facts[stage]["steps"]
        trainer.bests.steps = dict(facts[stage]["best_steps"])
        trainer._write_records()
        seconds = sum(one["seconds"] for one in facts.values())
        return TrainOutput(trainer.state.global_step, 0.0, {"train_runtime": seconds})


def _part(rows: IdentifiedRows, places: np.ndarray) -> IdentifiedRows:
    """Some rows, with the sample ids of their places."""
    inner = rows.rows
    return IdentifiedRows(inner.select(places) if hasattr(inner, "select") else Subset(inner, places.tolist()))
