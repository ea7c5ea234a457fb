"""A recipe's whole run: the control and the mutual arm for every seed, the results file and the closing table."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import IterableDataset

from ..config.options import LabelAlignment, RecipeOptions
from ..config.recipe import to_command
from ..config.training_config import MutualKDConfig
from ..data.splits import ROLES, Splits, found_in_words
from ..distillation.objective import Objective
from ..errors import ConfigError, ResumeError
from ..files import read_json, write_bytes, write_json
from ..hub.calls import HubCalls
from ..hub.checkpoints import pull_checkpoint
from ..hub.push import check_rights, push_run
from ..peers.cohort import Cohort
from ..peers.cohort_record import COHORT, cohort_facts, versions
from ..peers.first_look import look_at_rows
from ..peers.launched import check_launch, on_main_process
from ..peers.spec import PeerSpec
from ..peers.step_times import time_peers
from ..reports.closing_table import results_table
from ..reports.figures import results_figure
from ..reports.html_report import write_report
from ..reports.model_card import write_cards
from ..reports.results import START, Arm, Results, collect
from ..reports.run_facts import (
    base_facts,
    emissions_tracker,
    hardware_facts,
    hyperparameter_facts,
    objective_facts,
)
from ..reports.samples import SAMPLES_FILE, Samples, read_samples
from ..reports.text import portable, portable_command
from ..run_lock import claimed
from ..tasks.base import Task
from ..tasks.registry import make_task
from ..training.fingerprints import Change, record_changes
from ..training.named_metrics import NamedMetrics, named_metrics
from ..training.objective_options import objective_for
from ..training.pushing import push_target
from ..training.run_state import SUMMARY, full_disk_told, how_to_go_on
from ..training.shared_starts import shared_among
from ..training.trainer import MutualKDTrainer
from ..training.ways import check_staged, first_way
from .arms import UNIFIED, Arms
from .checks import check_options, check_training
from .drawing import add_usage, draw_samples
from .estimate import estimated
from .peer_specs import specs_of
from .plan import plan_text, seconds_of_run, staged_plan_text
from .resuming import check_checkpoints, check_resumed
from .run_folder import RunFolder
from .staged import folder_of, measure_stages, stage_facts, write_measured


class Experiment:
    """Runs every arm of a recipe and writes what they found.

    Args:
        task ([`Task`] or `str`): e.g. `"image-classification"`; its class or name where `options` are its own.
        options ([`RecipeOptions`]): peers and data, and what the task lets a user set.
        config ([`MutualKDConfig`]): of the mutual arm.
        program (`str`): what the command that repeats the run begins with.
        given (`dict`): the resolved recipe, for the record; no secrets.
    """

    trainer_class = MutualKDTrainer
    shared_starts: Path | None = None

    def __init__(
        self,
        task: Task | type[Task] | str,
        options: RecipeOptions,
        *,
        config: MutualKDConfig,
        program: str = "",
        given: Mapping | None = None,
    ):
        self.task, self.config = make_task(task, options), config
        self.options = self.task.options
        self.given = {name: value for name, value in (given or {}).items() if name not in ONE_TIME}
        self.command = to_command(program, self.given) if program else ""
        self.folder, self.seeds = Path(config.output_dir), options.seeds or [config.seed]
        self.state = PartialState()
        self.place = RunFolder(self.folder, config.resume_from_checkpoint or False, options.overwrite_output_dir)
        self.metrics: NamedMetrics | None = None
        self.changes: list[Change] = []
        self.broken: list[str] = []
        self.peer_seconds: dict[str, float] | None = None
        self._checked: tuple[Cohort, torch.Tensor] | None = None

    def run(self) -> Results:
        """Check everything, then train and measure all arms; returns what `results.json` holds."""
        self._check()
        with on_main_process(self.state, claimed(self.folder)), on_main_process(self.state, self._kept()):
            return self._run()

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        """The run's folder, checked, within the block; a run that is stopped says how it goes on."""
        place = self.place
        place.restore()
        place.check()
        if place.replaces_a_run:
            place.check_sources(self._sources())
        try:
            with full_disk_told(self.folder), place.kept():
                yield
        except KeyboardInterrupt as stop:
            raise type(stop)(how_to_go_on(self.folder)) from None

    def estimate(self) -> None:
        """Say how long this would take and how much room it needs, from a few timed steps; nothing is written."""
        self._check()
        specs, splits, *_ = self._ready()
        print(estimated(lambda config: self._trainer(config, specs, splits), self.config, splits, self.arms), end="")

    def _ready(self) -> tuple[dict[str, PeerSpec], Splits, Cohort, Objective]:
        """Everything that is read and made before anything is written, checked."""
        specs = specs_of(self.options)
        self.changes = check_checkpoints(self.arms.resumed(), self.task, specs, self.folder)
        splits = self._load_data()
        cohort = self._load_cohort(specs, splits)
        self._checked = cohort, torch.get_rng_state()
        if splits.label_names is None and cohort.label_names:
            for role in ROLES:
                cohort.task.check_labels(getattr(splits, role), role, len(cohort.label_names))
        self.config.check_peers(cohort.specs)
        described = first_way(self.config, cohort.task)
        objective = objective_for(described, splits.train, len(cohort.names), cohort.task)
        check_staged(self.config, splits.validation, None, ())
        if self.config.teaching and not self.options.control:
            raise ConfigError("teaching 'auto' chooses between the control and others; leave out control false")
        self._check_training(cohort, splits, objective)
        look_at_rows(cohort, {role: getattr(splits, role) for role in ROLES})
        return specs, splits, cohort, objective

    def _run(self) -> Results:
        specs, splits, cohort, objective = self._ready()
        if self._pull_checkpoint():
            self.changes = check_checkpoints(self.arms.resumed(), self.task, specs, self.folder)
        if self.config.resume_from_checkpoint:
            check_resumed(self.arms.resumed(), self.folder, cohort, splits.facts.get("fingerprint"))
            self._checked = None  # whose peers now hold weights of a checkpoint
        if self.state.is_main_process:
            self.place.prepare()
        self.state.wait_for_everyone()
        self._write_cohort_record(cohort, splits, objective)
        del cohort
        self._say_plan(specs, splits, objective)
        with emissions_tracker() as tracker, shared_among(len(self.seeds)) as folder:
            self.shared_starts = self.shared_starts or folder
            arms = [arm for seed in self.seeds for arm in self._arms(seed, specs, splits, objective)]
        facts = self._facts(splits) | {"metrics": self.metrics.keys if self.metrics else []}
        if self.config.teaching:
            facts |= stage_facts([self.arms.folder_of("mutual", seed) for seed in self.seeds])
        results = collect(arms, facts, self.task.words, self._samples(arms))
        if tracker is not None:
            results.co2_kg = tracker.final_emissions
        if self.state.is_main_process:
            self._finish(results, splits, specs)
        self.state.wait_for_everyone()
        return results

    def _samples(self, arms: Sequence[Arm]) -> dict[str, list[Samples | None]]:
        """What the arms kept of the test split."""
        found: dict[str, list[Samples | None]] = {}
        for arm in arms if self.state.is_main_process else ():
            peers = [name for name in arm.start if name != "cohort"]
            run, folder = self.arms.folder_of("mutual", arm.seed), self.arms.folder_of(arm.name, arm.seed)
            folder = folder_of(run, arm.name) if self.config.teaching else folder
            found.setdefault(arm.name, []).append(read_samples(folder / SAMPLES_FILE, peers))
        return found

    def _finish(self, results: Results, splits: Splits, specs: dict[str, PeerSpec]) -> None:
        """Write what was found, show it, build the cards and push where that was asked for."""
        words = self.task.words
        # The numbers are on disk before anything that only shows what the peers do.
        results.write(self.folder)
        self.place.finish()
        if all(peer.value(START, words.metric) is not None for peer in results.peers.values()):
            write_bytes(self.folder / "report" / "results.png", results_figure(results.peers, words))
        add_usage(results, self.task, splits, self.folder)
        if words.examples:
            results.examples = self._examples(splits, specs)
        results.write(self.folder)
        write_cards(self.folder)
        print(results_table(results, self.folder, words))
        print("\n".join(self.broken), end="\n" if self.broken else "")
        print(f"Report: {write_report(self.folder, splits.test, task=self.task)}")
        if self.config.push_to_hub:
            self._push()

    def _examples(self, splits: Splits, specs: dict[str, PeerSpec]) -> dict[str, Any]:
        """Draw test samples as the first seed's peers see them, before and after."""
        before = self._cohort(specs, splits, self.options.label_alignment)
        trained = {
            name: dataclasses.replace(spec, source=str(self.folder / name), revision=None, peft=None)
            for name, spec in specs.items()
        }
        aligned = "exact" if self.options.label_alignment == "new_head" else self.options.label_alignment
        after = self._cohort(trained, splits, aligned)
        return draw_samples(before, after, splits.test, self.folder)

    def _push(self) -> None:
        for pushed in push_run(self.folder, push_target(self.config)).peers:
            print(f"{pushed.peer}: {pushed.url}")

    def _check(self) -> None:
        check_launch(self.state)
        if len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds must differ, got {self.seeds}")
        check_options(self.task, self.config)
        if self.config.push_to_hub and self.state.is_main_process:
            check_rights(push_target(self.config))

    def _sources(self) -> dict[str, str]:
        """What the run reads."""
        sources = {name: spec.source for name, spec in specs_of(self.options).items()}
        sources |= {f"{name}'s processor": str(spec.processor) for name, spec in self.options.peers.items()}
        sources |= {"the data set": str(self.options.dataset), "role_table": str(self.config.role_table)}
        return sources | {"score_table": str(self.config.score_table)}

    def _check_training(self, cohort: Cohort, splits: Splits, objective: Objective) -> None:
        """Refuse what the trainer of the mutual arm would, before the control has been trained."""
        if self.options.metrics:
            self.metrics = named_metrics(cohort, self.options.metrics, self.options.trust_remote_code)
            self.task = cohort.task
        check_training(self.config, cohort, splits, objective)

    def _load_data(self) -> Splits:
        task = self.task
        with self.state.main_process_first():
            splits = task.load_splits(data_seed(self.config), self.config.labels, self.config.on_bad_row)
        task.check_splits(splits, self.config.on_bad_row)
        if self.options.dataset_note:
            splits.facts["note"] = self.options.dataset_note
        if self.state.is_main_process:
            print(found_in_words(splits))
        return splits

    def _load_cohort(self, specs: dict[str, PeerSpec], splits: Splits) -> Cohort:
        aligned = self.options.label_alignment
        if not self.config.peer_parallel:
            with self.state.main_process_first():
                return self._cohort(specs, splits, aligned)
        if self.peer_seconds is None:
            load = self._loading(splits, aligned)
            self.peer_seconds = time_peers(specs, splits.train, args=self.config.resolved(), **load)
        return self._cohort(specs, splits, aligned, peer_parallel=self.peer_seconds)

    def _cohort(self, specs: dict[str, PeerSpec], splits: Splits, aligned: LabelAlignment, **more: Any) -> Cohort:
        torch.manual_seed(self.config.seed)
        return Cohort.from_pretrained(specs, **self._loading(splits, aligned), **more)

    def _loading(self, splits: Splits, aligned: LabelAlignment) -> dict[str, Any]:
        load = {"task": self.task, "label_names": splits.label_names, "label_alignment": aligned}
        return load | {"trust_remote_code": self.options.trust_remote_code}

    def _write_cohort_record(self, cohort: Cohort, splits: Splits, objective: Objective) -> None:
        if not self.state.is_main_process:
            return
        record = cohort_facts(cohort) | self._facts(splits) | {"recipe": portable(self.given)}
        for name, spec in cohort.specs.items():
            record["peers"][name]["base"] = base_facts(spec.source, spec.revision)
            if limits := self.task.limits(cohort.processors[name], splits):
                record["peers"][name]["limits"] = limits
                print(f"{name} {limits}")
        record["objective"] = objective_facts(objective)
        record["hyperparameters"] = portable(hyperparameter_facts(self.given, self.config.resolved(), self.options))
        record_changes(record, self.changes)
        record["hardware"] = hardware_facts(self.state.num_processes)
        write_json(self.folder / COHORT, record)

    def _facts(self, splits: Splits) -> dict[str, Any]:
        return {
            "task": self.task.name,
            "seeds": self.seeds,
            "dataset": splits.facts | {"name": portable(splits.facts.get("name"))},
            "versions": versions(),
            "command": portable_command(self.command),
        }

    def _pull_checkpoint(self) -> bool:
        """Where `resume_from_checkpoint` is no folder it is the Hub id of the first peer, pushed while it trained."""
        resume = self.config.resume_from_checkpoint
        if not isinstance(resume, str) or Path(resume).is_dir():
            return False
        if self.state.is_main_process:
            pull_checkpoint(resume, self.folder, calls=HubCalls(self.config.hub_token))
        self.state.wait_for_everyone()
        found: dict[str, Any] = {"resume_from_checkpoint": True}
        self.config = dataclasses.replace(self.config, **found)
        return True

    def _say_plan(self, specs: dict[str, PeerSpec], splits: Splits, objective: Objective) -> None:
        """What is to come; of several runs also the pre-flight report, which is then not repeated by each."""
        seconds = None
        if self._reports_start:
            changes: dict[str, Any] = {"push_to_hub": False} | UNIFIED
            config = dataclasses.replace(self.config, **changes)
            seconds = seconds_of_run(self._trainer(config, specs, splits, objective.fresh()), objective, splits)
        if self.state.is_main_process and self.arms.count > 1:
            seeds, arms = len(self.seeds), len(self.arms.names)
            print(staged_plan_text(seeds) if self.config.teaching else plan_text(arms, seeds, seconds), flush=True)

    @property
    def arms(self) -> Arms:
        """Which trainings there are."""
        return Arms(self.config, self.seeds, self.options.control)

    @property
    def _reports_start(self) -> bool:
        """Whether the pre-flight report comes before all runs, not within each."""
        several = self.arms.count > 1
        return several and self.config.pre_flight and not (self.config.teaching or self.config.resume_from_checkpoint)

    def _arms(self, seed: int, specs: dict[str, PeerSpec], splits: Splits, objective: Objective) -> list[Arm]:
        """All trainings of one seed."""
        if not self.config.teaching:
            return [self._arm(name, seed, specs, splits, objective) for name in self.arms.names]
        folder = self.arms.folder_of("mutual", seed)
        changes: dict[str, Any] = {"output_dir": str(folder), "seed": seed, "push_to_hub": False} | UNIFIED
        if self.state.is_main_process:
            print(f"\nstages, seed {seed}", flush=True)
        trainer = self._trainer(dataclasses.replace(self.config, **changes), specs, splits)
        return measure_stages(trainer, splits.test, resume=bool(self.config.resume_from_checkpoint))

    def _trainer(
        self, config: MutualKDConfig, specs: dict[str, PeerSpec], splits: Splits, objective: Objective | None = None
    ) -> MutualKDTrainer:
        if self._checked is None:
            cohort = self._load_cohort(specs, splits)
        else:  # The first training takes what was loaded to be checked, and draws what it would after loading.
            (cohort, drawn), self._checked = self._checked, None
            torch.set_rng_state(drawn)
        train = splits.train
        if isinstance(train, IterableDataset):
            train = train.shuffle(seed=data_seed(config), buffer_size=SHUFFLE_BUFFER)
        trainer = self.trainer_class(
            cohort,
            config,
            train_dataset=train,
            eval_dataset=splits.validation,
            objective=objective,
            compute_metrics=self.metrics,
        )
        trainer.looks_at_rows = False
        trainer.recipe_data, trainer.shared_starts = splits.facts.get("fingerprint"), self.shared_starts
        return trainer

    def _arm(self, name: str, seed: int, specs: dict[str, PeerSpec], splits: Splits, objective: Objective) -> Arm:
        folder = self.arms.folder_of(name, seed)
        if self.config.resume_from_checkpoint and (folder / SUMMARY).is_file():
            return read_json(folder / SUMMARY, Arm, ResumeError)
        config, checkpoint = self.arms.config_of(name, seed), self.arms.checkpoint_of(name, seed)
        if self.state.is_main_process:
            place = self.arms.place_of(name, seed)
            print(f"\nrun {place} of {self.arms.count}: {name}, seed {seed}", flush=True)
        weight = objective.weight if config.transfer_weight is None else config.transfer_weight
        trainer = self._trainer(config, specs, splits, objective.fresh(weight=weight))
        trainer.says_start = not self._reports_start
        trainer.settle()
        trainer.measure_start(splits.test, "test")
        began = time.perf_counter()
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        seconds = time.perf_counter() - began
        self.broken += [f"{name} run, seed {seed}: {text}" for text in trainer.broken_peers()]
        trainer.settle(folder)
        trainer.evaluate(splits.test, metric_key_prefix="test")
        arm = trainer.arm(name, "test", seconds)
        if self.state.is_main_process:
            write_measured(trainer, splits.test, folder)
            write_json(folder / SUMMARY, dataclasses.asdict(arm))
        self.state.wait_for_everyone()
        return arm


def data_seed(config: MutualKDConfig) -> int:
    """The seed that draws and orders rows."""
    return config.seed if config.data_seed is None else config.data_seed


ONE_TIME = ("config", "processes", "resume_from_checkpoint", "overwrite_output_dir")
"""Options that say how a run was started, not what it is."""

SHUFFLE_BUFFER = 1000
"""Encoded images of a stream that are held to draw from: streams often come sorted by class."""
