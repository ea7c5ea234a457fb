"""The command `hf-mutual-kd scout`: its options, which need no torch, and what runs it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, OutputFolderError
from ..files import write_bytes
from .score import DATA, add_data_options, add_machine_options, load_checked

if TYPE_CHECKING:
    from ..scoring.scout.scout import Wanted

UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}


def add_scout_options(parser: argparse.ArgumentParser) -> None:
    """Options of `scout`."""
    parser.add_argument("--model", required=True, metavar="ID_OR_FOLDER[@REVISION]", help="mine")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="of the results; an earlier search goes on")
    parser.add_argument("--candidates", nargs="+", default=[], metavar="ID_OR_FOLDER[@REVISION]")
    parser.add_argument("--search", metavar="WORDS", help="in the names of models on the Hub; the task's name for all")
    parser.add_argument("--limit", type=int, default=20, help="candidates that a search should bring (default: 20)")
    parser.add_argument("--max_params", type=quantity, metavar="100M", help="parameters of a candidate")
    parser.add_argument("--license", help="of a candidate on the Hub, e.g. apache-2.0")
    parser.add_argument(
        "--max_disk",
        type=quantity,
        default=quantity("5GB"),
        metavar="5GB",
        help="for all pulled weights; older ones are removed again (default: 5GB)",
    )
    parser.add_argument("--deadline_s", type=float, help="seconds after which no further candidate is begun")
    parser.add_argument("--budget", type=quantity, metavar="300M", help="parameters of all proposed partners together")
    parser.add_argument("--samples", type=int, default=2000, help="labelled rows to compare on (default: 2000)")
    parser.add_argument("--split", choices=("train", "validation"), default="validation", help="to draw them from")
    parser.add_argument(
        "--label_alignment",
        choices=("exact", "subset"),
        default="exact",
        help="'subset': models may know more classes",
    )
    add_data_options(parser)
    add_machine_options(parser)


def quantity(text: str) -> int:
    """`"100M"`, `"1.5G"` or `"5GB"` as a number."""
    plain = text.strip()
    if plain[-2:-1] in UNITS and plain[-1:] == "B":
        plain = plain[:-1]
    factor = UNITS.get(plain[-1:], 1.0)
    try:
        number = float(plain[:-1] if plain[-1:] in UNITS else plain) * factor
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number such as 100M or 5GB, got {text!r}") from None
    if not 0 < number < 1e15:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return int(number)


def run_scout(options: argparse.Namespace) -> None:
    """Search, score, rank; print the table, write JSON and figure."""
    from accelerate import Accelerator

    from ..run_lock import claimed
    from ..training.processes import check_launch, on_main_process

    wanted = wanted_of(options)
    accelerator = Accelerator(cpu=options.use_cpu, mixed_precision=options.mixed_precision)
    check_launch(accelerator.state)
    with on_main_process(accelerator.state, claimed(options.out, "--out")):
        _scout(options, wanted, accelerator)


def _scout(options: argparse.Namespace, wanted: Wanted, accelerator: Any) -> None:
    from ..files import write_json
    from ..run_lock import LOCK
    from ..scoring.scout.figure import scout_figure
    from ..scoring.scout.report import describe_scout, recipe_command
    from ..scoring.scout.scout import STATE, Scout, draw_sample
    from ..tasks.registry import make_task

    folder = Path(options.out)
    if not (folder / "table").is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        raise OutputFolderError(f"{folder} is in use by something that is no search ({STATE}); choose another --out")
    splits = load_checked(options, options.split)
    if not splits.label_names:
        raise ConfigError("the data set names no classes, by which models on the Hub could be recognised")
    rows = draw_sample(getattr(splits, options.split), options.samples, options.seed)
    name = f"{splits.facts['name']}, {splits.facts['splits'][options.split]}"
    scout = Scout(
        wanted,
        rows,
        splits.label_names,
        folder,
        make_task("image-classification"),
        accelerator,
        name,
        options.batch_size,
        options.workers,
    )
    report = scout.run()
    data = {key: getattr(options, key) for key in DATA}
    data |= {"label_alignment": None if options.label_alignment == "exact" else options.label_alignment}
    data |= {"train_split": None if options.train_split == "train" else options.train_split}
    command = recipe_command(report, data)
    write_json(folder / "scout.json", {**report, "command": command})
    if report["candidates"]:
        picture = scout_figure(report["candidates"], splits.label_names, report["cohort"]["partners"])
        write_bytes(folder / "scout.png", picture)
    print(describe_scout(report, command, folder))


def wanted_of(options: argparse.Namespace) -> Wanted:
    """What the command line looks for."""
    from ..scoring.scout.candidates import Limits
    from ..scoring.scout.scout import Wanted

    if not options.candidates and options.search is None:
        raise ConfigError(
            "there is nobody to look at: give --candidates ID_OR_FOLDER …, or --search image-classification"
        )
    if options.limit < 1:
        raise ConfigError(f"limit must be 1 or more, got {options.limit}")
    limits = Limits(options.max_params, options.max_disk, options.license, options.trust_remote_code)
    return Wanted(
        options.model,
        options.candidates,
        options.search,
        options.limit,
        limits,
        options.deadline_s,
        options.budget,
        options.label_alignment,
    )
