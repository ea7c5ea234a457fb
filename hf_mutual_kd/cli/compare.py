"""`hf-mutual-kd compare`: train the settings of a suite and compare them with their controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..config.fields import option
from ..config.rules import COUNT
from ..experiments.executors import ExecutorName


@dataclass
class CompareOptions:
    """Options of `compare`."""

    config: str = option("run", "", "The suite, see recipes/suites.", required=True, metavar="SUITE.yaml")
    processes: int = option("machine", 1, "Arms to train at a time.", rule=COUNT)
    executor: ExecutorName = option(
        "machine",
        "local",
        "Where they run: this machine, Slurm by submitit, or Ray; machines share the suite's folder.",
    )
    executor_options: dict[str, Any] = option(
        "machine",
        {},
        "Of slurm what submitit takes (timeout_min=60 slurm_partition=gpu), of ray num_gpus, address.",
    )
    output_dir: str | None = option("output", None, "Where arms and tables go; the suite's when left out.")
    only: str | None = option("run", None, "Train this one arm and write no table.", metavar="ARM")


def run_compare(options: CompareOptions) -> None:
    """Train what has not finished and print the table."""
    from ..experiments.run_suite import run_one, run_suite

    if options.only:
        run_one(options.config, options.only, options.output_dir)
    else:
        print(
            run_suite(
                options.config,
                options.processes,
                output_dir=options.output_dir,
                executor=options.executor,
                executor_options=options.executor_options,
            )
        )
