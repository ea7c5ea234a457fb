"""The command `hf-mutual-kd scout`: its options, which need no torch, and what runs it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..config.fields import option
from ..config.rules import COUNT, POSITIVE
from ..errors import ConfigError, OutputFolderError
from ..files import write_bytes
from .score import ScoringOptions, load_checked

if TYPE_CHECKING:
    from ..scoring.scout.candidates import Wanted
    from ..tasks.registry import Task

UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}


@dataclass
class ScoutOptions(ScoringOptions):
    """Options of `scout`."""

    model: str = option("peers", "", "Mine.", required=True, metavar="ID_OR_FOLDER[@REVISION]")
    candidates: list[str] = option("peers", [], "To look at.", metavar="ID_OR_FOLDER[@REVISION] …")
    search: str | None = option("peers", None, "Words in the names of models on the Hub; the task's name for all.")
    limit: int = option("peers", 20, "Candidates that a search should bring.", rule=COUNT)
    max_params: str | None = option("peers", None, "Most parameters of a candidate.", metavar="100M")
    license: str | None = option("peers", None, "Of a candidate on the Hub, e.g. apache-2.0.")
    budget: str | None = option("peers", None, "Parameters of all proposed partners together.", metavar="300M")
    samples: int = option("data", 2000, "Labelled rows to compare on.", rule=COUNT)
    split: Literal["train", "validation"] = option("data", "validation", "To draw them from.")
    out: str = option("output", "", "Folder of the results; an earlier search goes on.", required=True)
    max_disk: str = option("machine", "5GB", "For all pulled weights; older ones are removed again.", metavar="5GB")
    deadline_s: float | None = option(
        "machine", None, "Seconds after which no further candidate is begun.", rule=POSITIVE
    )

    def to_train(self) -> dict[str, Any]:
        """What a training says that reads the same rows: options other than their defaults."""
        own, defaults = {"task", *ScoutOptions.__annotations__}, type(self)()
        shared = [item for item in fields(self) if item.metadata["group"] in ("data", "peers")]
        said = {item.name: getattr(self, item.name) for item in shared if item.name not in own}
        return {name: value for name, value in said.items() if value != getattr(defaults, name)}


def quantity(text: str, option: str) -> int:
    """`"100M"`, `"1.5G"` or `"5GB"` as a number."""
    plain = text.strip()
    if plain[-2:-1] in UNITS and plain[-1:] == "B":
        plain = plain[:-1]
    factor = UNITS.get(plain[-1:], 1.0)
    try:
        number = float(plain[:-1] if plain[-1:] in UNITS else plain) * factor
    except ValueError:
        raise ConfigError(f"{option}: expected a number such as 100M or 5GB, got {text!r}") from None
    if not 0 < number < 1e15:
        raise ConfigError(f"{option}: expected a number above 0, got {text!r}")
    return int(number)


def run_scout(options: ScoutOptions) -> None:
    """Search, score, rank; print the table, write JSON and figure."""
    options.check()
    from accelerate import Accelerator

    from ..peers.launched import check_launch, on_main_process
    from ..run_lock import claimed

    task = options.task_of_rows()
    if task.target != "class":
        raise ConfigError(
            f"task must be one in which every row has a class, got {task.name}; of others give the candidates as "
            "peers of a training, whose table before it compares them"
        )
    wanted = wanted_of(options)
    accelerator = Accelerator(cpu=options.use_cpu, mixed_precision=options.mixed_precision)
    check_launch(accelerator.state)
    with on_main_process(accelerator.state, claimed(options.out, "--out")):
        _scout(options, task, wanted, accelerator)


def _scout(options: ScoutOptions, task: Task, wanted: Wanted, accelerator: Any) -> None:
    from ..files import write_json
    from ..run_lock import LOCK
    from ..scoring.score_shards import Scoring
    from ..scoring.scout.figure import scout_figure
    from ..scoring.scout.report import recipe_command, scout_table
    from ..scoring.scout.scout import STATE, Scout, draw_sample

    folder = Path(options.out)
    if not (folder / "table").is_dir() and any(path.name != LOCK for path in folder.iterdir()):
        raise OutputFolderError(f"{folder} is in use by something that is no search ({STATE}); choose another --out")
    splits = load_checked(task, options, options.split)
    if not splits.label_names:
        raise ConfigError("the data set names no classes, by which models on the Hub could be recognised")
    rows = draw_sample(getattr(splits, options.split), options.samples, options.seed)
    name = f"{splits.facts['name']}, {splits.facts['splits'][options.split]}"
    scoring = Scoring(
        name, keep="full", batch_size=options.batch_size, workers=options.workers, accelerator=accelerator
    )
    scout = Scout(wanted, rows, splits.label_names, folder=folder, task=task, scoring=scoring)
    report = scout.run()
    command = recipe_command(report, task.name, options.to_train())
    write_json(folder / "scout.json", {**report, "command": command})
    if report["candidates"]:
        picture = scout_figure(report["candidates"], splits.label_names, report["cohort"]["partners"])
        write_bytes(folder / "scout.png", picture)
    print(scout_table(report, command, folder))


def wanted_of(options: ScoutOptions) -> Wanted:
    """What the command line looks for."""
    from ..scoring.scout.candidates import Limits, Wanted

    if not options.candidates and options.search is None:
        raise ConfigError(f"there is nobody to look at: give --candidates ID_OR_FOLDER …, or --search {options.task}")
    sizes = {name: getattr(options, name) for name in ("max_params", "max_disk", "budget")}
    most = {name: None if text is None else quantity(text, name) for name, text in sizes.items()}
    limits = Limits(most["max_params"], most["max_disk"], options.license, options.trust_remote_code)
    return Wanted(
        options.model,
        options.candidates,
        options.search,
        options.limit,
        limits,
        options.deadline_s,
        most["budget"],
        options.label_alignment,
    )
