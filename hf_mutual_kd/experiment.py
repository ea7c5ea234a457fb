"""A recipe's whole run: the control and the mutual arm for every seed, the results file and the closing table."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from . import checkpoints
from .cohort import Cohort
from .config import MutualKDConfig
from .data import Splits, check_images, load_splits
from .errors import ConfigError, OutputFolderError
from .options import RecipeOptions
from .peers import PeerSpec, parse_peers
from .recipe import to_command
from .records import share_taught
from .results import Arm, collect, describe
from .run_record import COHORT, describe_cohort, versions
from .trainer import MutualKDTrainer

SUMMARY = "summary.json"


class Experiment:
    """Runs every arm of a recipe and writes what they found.

    Args:
        task (`str`): e.g. `"image-classification"`.
        options ([`~hf_mutual_kd.options.RecipeOptions`]): peers and data.
        config ([`MutualKDConfig`]): of the mutual arm.
        script (`str`): the recipe's path, for the command that repeats the run.
        given (`dict`): the resolved recipe, for the record; no secrets.
    """

    trainer_class = MutualKDTrainer

    def __init__(
        self, task: str, options: RecipeOptions, config: MutualKDConfig, script: str = "", given: Mapping | None = None
    ):
        self.task, self.options, self.config = task, options, config
        self.given = {name: value for name, value in (given or {}).items() if name not in ONE_TIME}
        self.command = to_command(script, self.given) if script else ""
        self.folder = Path(config.output_dir)
        self.seeds = options.seeds or [config.seed]
        self.state = PartialState()

    def run(self) -> dict[str, Any]:
        """Check everything, then train and measure all arms; returns what `results.json` holds."""
        self._check()
        specs = self._specs()
        splits = self._load_data()
        cohort = self._load_cohort(specs, splits)
        self.config.check_peers(cohort.names)
        self._prepare_folder()
        self._write_cohort_record(cohort, splits)
        del cohort
        arms = []
        for seed in self.seeds:
            for name in ("control", "mutual") if self._with_control else ("mutual",):
                arms.append(self._arm(name, seed, specs, splits))
        results = collect(arms, self._facts(splits))
        if self.state.is_main_process:
            checkpoints.write_json(self.folder / "results.json", results)
            print(describe(results, self.folder))
        return results

    @property
    def _with_control(self) -> bool:
        return self.options.control and self.config.labels and self.config.transfer_weight > 0

    def _check(self) -> None:
        if len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds must differ, got {self.seeds}")
        if self.options.dataset is None:
            raise ConfigError("dataset is missing: give a Hub id, a folder or Parquet files with --dataset")
        resumes = bool(self.config.resume_from_checkpoint)
        used = self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir()))
        if used and not resumes and not self.options.overwrite_output_dir:
            raise OutputFolderError(
                f"output_dir {self.folder} is in use; go on with it by --resume_from_checkpoint true, "
                "replace it by --overwrite_output_dir true, or choose another"
            )
        self.state.wait_for_everyone()

    def _specs(self) -> dict[str, PeerSpec]:
        specs = parse_peers(self.options.peers)
        for name, processor in self.options.peer_processors.items():
            if name not in specs:
                raise ConfigError(f"peer_processors names {name!r}, but the peers are {', '.join(specs)}")
            specs[name] = dataclasses.replace(specs[name], processor=processor)
        return specs

    def _load_data(self) -> Splits:
        seed = self.config.seed if self.config.data_seed is None else self.config.data_seed
        with self.state.main_process_first():
            splits = load_splits(self.options, seed=seed, labels=self.config.labels)
        skipped = {}
        for name in ("train", "validation", "test"):
            rows, skipped[name] = check_images(getattr(splits, name), name, self.config.on_bad_image)
            setattr(splits, name, rows)
        splits.facts["skipped_images"] = skipped
        return splits

    def _load_cohort(self, specs: dict[str, PeerSpec], splits: Splits) -> Cohort:
        torch.manual_seed(self.config.seed)
        with self.state.main_process_first():
            return Cohort.from_pretrained(
                specs,
                task=self.task,
                label_names=splits.label_names,
                label_alignment=self.options.label_alignment,
                trust_remote_code=self.options.trust_remote_code,
            )

    def _prepare_folder(self) -> None:
        if self.state.is_main_process:
            if self.options.overwrite_output_dir and self.folder.is_dir() and not self.config.resume_from_checkpoint:
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
        self.state.wait_for_everyone()

    def _write_cohort_record(self, cohort: Cohort, splits: Splits) -> None:
        if not self.state.is_main_process:
            return
        record = describe_cohort(cohort) | self._facts(splits) | {"recipe": self.given}
        checkpoints.write_json(self.folder / COHORT, record)

    def _facts(self, splits: Splits) -> dict[str, Any]:
        return {
            "seeds": self.seeds,
            "dataset": splits.facts,
            "versions": versions(),
            "command": self.command,
        }

    def _arm_folder(self, name: str, seed: int) -> Path:
        folder = self.folder if seed == self.seeds[0] else self.folder / f"seed-{seed}"
        return folder if name == "mutual" else folder / name

    def _arm(self, name: str, seed: int, specs: dict[str, PeerSpec], splits: Splits) -> Arm:
        folder = self._arm_folder(name, seed)
        resume: str | bool | None = self.config.resume_from_checkpoint or None
        if resume and (folder / SUMMARY).is_file():
            return Arm(**json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
        changes: dict[str, Any] = {"output_dir": str(folder), "seed": seed} | (CONTROL if name == "control" else {})
        config = dataclasses.replace(self.config, **changes)
        if self.state.is_main_process:
            print(f"\n{name} run, seed {seed}", flush=True)
        cohort = self._load_cohort(specs, splits)
        trainer = self.trainer_class(cohort, config, train_dataset=splits.train, eval_dataset=splits.validation)
        start = trainer.measure_start(splits.test, "test")
        began = time.perf_counter()
        if isinstance(resume, str) and not Path(resume).is_relative_to(folder):
            resume = True
        has_checkpoint = any(folder.glob("checkpoint-*"))
        trainer.train(resume_from_checkpoint=resume if resume and has_checkpoint else None)
        seconds = time.perf_counter() - began
        trainer.evaluate(splits.test, metric_key_prefix="test")
        arm = Arm(
            name=name,
            seed=seed,
            steps=trainer.state.global_step,
            seconds=round(seconds, 1),
            start=start,
            end=trainer.results["test"],
            start_by_class=trainer.start_evaluators["test"].by_class(),
            end_by_class=trainer.evaluators["test"].by_class(),
            share_taught=share_taught(trainer.record.role_table) if name == "mutual" else {},
            best_steps=trainer.bests.steps,
        )
        if self.state.is_main_process:
            checkpoints.write_json(folder / SUMMARY, dataclasses.asdict(arm))
        self.state.wait_for_everyone()
        return arm


ONE_TIME = ("config", "resume_from_checkpoint", "overwrite_output_dir")
"""Options that say how a run was started, not what it is."""

CONTROL: dict[str, Any] = {"transfer_weight": 0.0, "role_table": None, "pre_flight": False}
"""What differs in the control: nothing but the transfer."""
