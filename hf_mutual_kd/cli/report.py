"""`hf-mutual-kd report`: rebuild the report of a run, or compare several runs."""

from __future__ import annotations

from dataclasses import dataclass

from ..config.fields import option
from ..errors import OutputFolderError


@dataclass
class ReportOptions:
    """Options of `report`."""

    runs: list[str] = option(
        "run",
        [],
        "Folder of a run (a training's output_dir); several compare.",
        positional=True,
        required=True,
        metavar="RUN …",
    )
    out: str | None = option("output", None, "Where the page goes; the run's report/ when left out.", metavar="FOLDER")
    dataset: str | None = option(
        "data", None, "Where the run's data set is now: takes the images of flipped samples anew.", place=True
    )


def run_report(options: ReportOptions) -> None:
    """Write the page and say where it is."""
    from ..reports.html_report import compare_runs, write_report
    from ..reports.run_record import read_run
    from ..tasks.registry import TASKS
    from ..tasks.run_splits import load_run_splits

    if len(options.runs) == 1:
        record = read_run(options.runs[0]).record
        rows = load_run_splits(record, options.dataset).test if options.dataset else None
        # The page of a task that is not ours has the sections of every task.
        task = TASKS[record["task"]]() if record["task"] in TASKS else None
        print(write_report(options.runs[0], rows, out=options.out, task=task))
        return
    if not options.out:
        raise OutputFolderError("several runs are compared on a page of their own: say where with --out FOLDER")
    if options.dataset:
        raise OutputFolderError("--dataset is for the report of one run; a comparison shows no images")
    print(compare_runs(options.runs, options.out))
