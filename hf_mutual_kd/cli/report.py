"""`hf-mutual-kd report`: rebuild the report of a run, or compare several runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import OutputFolderError


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a run (a recipe's output_dir); several compare"
    )
    parser.add_argument("--out", metavar="FOLDER", help="where the page goes; the run's report/ when left out")
    parser.add_argument("--dataset", help="where the run's data set is now: takes the images of flipped samples anew")


def run_report(options: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    from ..reports.html_report import compare_runs, write_report
    from ..reports.run_records import read_records
    from ..tasks.registry import TASKS
    from ..tasks.run_splits import load_run_splits

    if len(options.runs) == 1:
        record = read_records(Path(options.runs[0])).record
        rows = load_run_splits(record, options.dataset).test if options.dataset else None
        # The page of a task that is not ours has the sections of every task.
        task = TASKS[record["task"]]() if record["task"] in TASKS else None
        print(write_report(options.runs[0], rows, options.out, task=task))
        return
    if not options.out:
        raise OutputFolderError("several runs are compared on a page of their own: say where with --out FOLDER")
    if options.dataset:
        raise OutputFolderError("--dataset is for the report of one run; a comparison shows no images")
    print(compare_runs(options.runs, options.out))
