"""The command `hf-mutual-kd score`: its options, which need no torch, and what runs it."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..config.options import MOST_KEPT, OnBadImage, RecipeOptions, TransferGrid, TransferOptions
from ..errors import ConfigError, PeerError

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.splits import Splits
    from ..peers.spec import PeerSpec
    from ..scoring.score_table import ScoreTable
    from ..tasks.registry import Task

DATA = (
    "dataset",
    "dataset_config",
    "dataset_revision",
    "train_split",
    "validation_split",
    "test_split",
    "input_column",
    "label_column",
    "max_train_samples",
    "max_eval_samples",
)
"""Options of a recipe that say which rows there are."""

MAPS = ("label_names", "reduce_labels", "eval_frame_step", "on_bad_video")
"""Further ones, of which most are for masks and videos."""


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Options of the data, as recipes have them."""
    for item in dataclasses.fields(RecipeOptions):
        if item.name in DATA:
            kind = int if item.name.startswith("max_") else str
            text = item.metadata["help"]
            parser.add_argument(
                f"--{item.name}", default=item.default, type=kind, required=item.name == "dataset", help=text
            )
    parser.add_argument("--seed", type=int, default=42, help="draws halves and samples as a run's does (default: 42)")
    parser.add_argument("--on_bad_image", choices=("raise", "skip"), default="raise", help="stop, or leave rows out")


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """How scoring runs."""
    parser.add_argument("--batch_size", type=int, default=64, help="rows at a time and process (default: 64)")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images (default: 0)")
    parser.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"), help="unset: what accelerate is set to")
    parser.add_argument("--use_cpu", action="store_true", help="leave an accelerator alone")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that a repository brings")


def add_score_options(parser: argparse.ArgumentParser) -> None:
    """Options of `score`."""
    parser.add_argument("--peers", nargs="+", required=True, metavar="NAME=ID_OR_FOLDER[@REVISION]")
    parser.add_argument("--peer_processors", nargs="+", default=[], metavar="NAME=ID_OR_FOLDER")
    parser.add_argument("--out", required=True, metavar="TABLE", help="folder of the table; what is done stays")
    parser.add_argument("--keep", default="none", help="of each distribution: none, topk:K or full (default: none)")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="train", help="rows to score")
    parser.add_argument("--no_labels", action="store_true", help="the data set may lack labels")
    parser.add_argument(
        "--label_alignment", choices=("exact", "subset"), default="exact", help="'subset': peers may know more classes"
    )
    parser.add_argument("--shard_rows", type=int, default=2048, help="rows of a file of the table (default: 2048)")
    parser.add_argument(
        "--max_bytes", type=int, default=MOST_KEPT, help=f"most that --keep may take (default: {MOST_KEPT})"
    )
    parser.add_argument(
        "--task", default="image-classification", help="what the peers do (default: image-classification)"
    )
    parser.add_argument(
        "--epochs", type=int, help="of training videos: only the frames that so many epochs draw; unset: every frame"
    )
    parser.add_argument("--transfer_grid", choices=get_args(TransferGrid), default="coarsest", help="as the run's")
    add_data_options(parser)
    add_map_options(parser)
    add_machine_options(parser)


def add_map_options(parser: argparse.ArgumentParser) -> None:
    """Options of masks and videos, as recipes have them."""
    settings: dict[str, dict[str, Any]] = {
        "label_names": {"nargs": "+"},
        "reduce_labels": {"nargs": "?", "const": "true", "choices": ("true", "false")},
        "eval_frame_step": {"type": int},
        "on_bad_video": {"choices": get_args(OnBadImage)},
    }
    for item in dataclasses.fields(RecipeOptions):
        if item.name in MAPS:
            parser.add_argument(f"--{item.name}", help=item.metadata["help"], **settings[item.name])


def run_score(options: argparse.Namespace) -> None:
    """Score the peers and say what was found."""
    from accelerate import Accelerator

    from ..run_lock import claimed
    from ..tasks.registry import make_task
    from ..training.processes import check_launch, leave_together, on_main_process

    specs = peer_specs(options.peers, options.peer_processors)
    task = make_task(options.task).configured(TransferOptions(transfer_grid=options.transfer_grid))
    accelerator = Accelerator(cpu=options.use_cpu, mixed_precision=options.mixed_precision)
    check_launch(accelerator.state)
    with on_main_process(accelerator.state, claimed(options.out, "--out")):
        table = _score(options, specs, task, accelerator)
    if accelerator.is_main_process:
        print(describe_table(table))
    leave_together()


def _score(options: argparse.Namespace, specs: dict[str, PeerSpec], task: Task, accelerator: Any) -> ScoreTable:
    from ..peers.cohort import Cohort
    from ..scoring.score_peers import score_peers
    from ..scoring.score_table import counted

    with accelerator.main_process_first():
        splits = load_checked(options, options.split, labels=not options.no_labels, task=task)
        cohort = Cohort.from_pretrained(
            specs,
            task=task,
            label_names=splits.label_names,
            label_alignment=options.label_alignment,
            trust_remote_code=options.trust_remote_code,
        )
    if cohort.new_heads:
        named = ", ".join(sorted(cohort.new_heads))
        raise PeerError(f"score: {named} has no head, and what a new one answers is chance; train it first")
    return score_peers(
        cohort,
        counted(getattr(splits, options.split)).fixed_rows(options.epochs),
        options.out,
        name=f"{splits.facts['name']}, {splits.facts['splits'][options.split]}",
        keep=options.keep,
        batch_size=options.batch_size,
        workers=options.workers,
        shard_rows=options.shard_rows,
        accelerator=accelerator,
        max_bytes=options.max_bytes,
        announce=print,
    )


def peer_specs(peers: list[str], processors: list[str]) -> dict[str, PeerSpec]:
    """The peers of the command line with the processors that were given for them."""
    from ..peers.spec import parse_peers

    specs = parse_peers(peers)
    for entry in processors:
        name, separator, source = entry.partition("=")
        if not separator or not source or name not in specs:
            raise ConfigError(
                f"peer_processors: expected NAME=ID_OR_FOLDER of one of {', '.join(specs)}, got {entry!r}"
            )
        specs[name] = dataclasses.replace(specs[name], processor=source)
    return specs


def load_checked(options: argparse.Namespace, split: str, labels: bool = True, task: Task | None = None) -> Splits:
    """The splits as a recipe would load them, those of `split` looked at; of image classification when unset."""
    from ..tasks.registry import make_task

    given = {name: getattr(options, name, None) for name in (*DATA, *MAPS)}
    given["reduce_labels"] = given["reduce_labels"] == "true"
    recipe = RecipeOptions(**{name: value for name, value in given.items() if value is not None})
    task = task or make_task("image-classification")
    splits = task.load_splits(recipe, options.seed, labels)
    task.check_splits(splits, options.on_bad_image, (split,))
    return splits


def describe_table(table: ScoreTable) -> str:
    """Each peer's accuracy, of maps its mean score; on how many samples it is the best, and what lies where."""
    from ..reports.terminal import percent, render, size_of

    known = table.scores().isfinite().any(0) if table.is_of_maps else table.labels >= 0
    teacher, count = table.teachers()[known], max(int(known.sum()), 1)
    quality, column = (_mean_scores, "mean score") if table.is_of_maps else (_accuracies, "accuracy %")
    rows: list[Any] = []
    for index, (name, shown) in enumerate(zip(table.names, quality(table, known), strict=True)):
        best = percent(int((teacher == index).sum()) / count)
        rows.append((name, *((shown, best) if known.any() else ("", "")), table.facts[name]["source"]))
    size = sum(file.stat().st_size for file in Path(table.folder).rglob("*") if file.is_file())
    labelled = f"{int(known.sum()):,} {'with a truth' if table.is_of_maps else 'labelled'}"
    title = f"Scored {len(table):,} rows of {table.manifest['data']['name']}, {labelled}"
    shown = render(("peer", column, "best on %", "source"), rows)
    return f"{title}\n{shown}\n{table.folder}: {size_of(size)}, log-probabilities kept: {table.manifest['keep']}"


def _accuracies(table: ScoreTable, known: Tensor) -> list[str]:
    from ..reports.terminal import percent

    right = (table.predictions() == table.labels)[:, known].sum(1).tolist()
    return [percent(count / max(int(known.sum()), 1)) for count in right]


def _mean_scores(table: ScoreTable, known: Tensor) -> list[str]:
    return [f"{value:.3f}" for value in table.scores()[:, known].mean(1).tolist()]
