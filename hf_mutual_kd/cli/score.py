"""The command `hf-mutual-kd score`: its options, which need no torch, and what runs it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from ..config.command_line import split_words
from ..config.data_options import DataOptions
from ..config.fields import option
from ..config.options import MOST_KEPT, OnBadRow
from ..config.peers import PeerSpec
from ..config.rules import COUNT, NOT_NEGATIVE, SEED
from ..config.task_options import own_fields
from ..errors import ConfigError, PeerError
from ..experiments.launch import way_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.splits import Splits
    from ..scoring.score_table import ScoreTable
    from ..tasks.registry import Task


@dataclass
class ScoringOptions(DataOptions):
    """What `score` and `scout` share: task, rows, and how scoring runs."""

    task: str = option("peers", "image-classification", "What the models do.", metavar="TASK")
    seed: int = option("data", 42, "Draws halves and samples as a run's does.", rule=SEED)
    on_bad_row: OnBadRow = option(
        "data", "raise", "What an unreadable image, text, mask or video does: stop, or be left out."
    )
    label_alignment: Literal["exact", "subset"] = option("peers", "exact", "'subset': peers may know more classes.")
    trust_remote_code: bool = option("peers", False, "Run code that a repository brings.")
    batch_size: int = option("machine", 64, "Rows at a time and process.", rule=COUNT)
    workers: int = option("machine", 0, "Processes that decode images.", rule=NOT_NEGATIVE)
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(
        "machine", None, "Unset: what accelerate is set to."
    )
    use_cpu: bool = option("machine", False, "Leave an accelerator alone.")

    def check(self) -> None:
        """Refuse what scoring cannot do.

        Raises:
            [`ConfigError`]: no data set, or a stream of one.
        """
        if self.dataset is None:
            raise ConfigError("--dataset is missing: give a Hub id, a folder or Parquet files")
        if self.streaming:
            raise ConfigError("streaming is for training: scores are kept by a row's place, which a stream has not")

    def task_of_rows(self) -> Task:
        """The task, with the rows that it is to read."""
        from ..tasks.registry import task_class

        kind = task_class(self.task)
        names = [item.name for item in fields(kind.options_class) if hasattr(self, item.name)]
        return kind(kind.options_class(**{name: getattr(self, name) for name in names}))


def of_task(cls: type[ScoringOptions], words: Sequence[str]) -> type[ScoringOptions]:
    """The options of a command, and those of the task that the words name which change what is scored."""
    given = split_words(words, {}, []).get("task") or [ScoringOptions.task]
    kind = way_of(given[0]).options
    own = [item for item in own_fields(kind) if item.metadata.get("group") == "data" or item.metadata.get("scored")]
    hints = get_type_hints(kind)
    added = [(item.name, hints[item.name], copy.copy(item)) for item in own]
    return make_dataclass(cls.__name__, added, bases=(cls,))


@dataclass
class ScoreOptions(ScoringOptions):
    """Options of `score`."""

    peers: dict[str, PeerSpec] = option(
        "peers", {}, "NAME=ID_OR_FOLDER[@REVISION] …", required=True, metavar="NAME=ID …"
    )
    split: Literal["train", "validation", "test"] = option("data", "train", "Rows to score.")
    no_labels: bool = option("data", False, "The data set may lack labels.")
    epochs: int | None = option(
        "data", None, "Of training videos: only the frames that so many epochs draw; unset: every frame.", rule=COUNT
    )
    out: str = option("output", "", "Folder of the table; what is done stays.", required=True, metavar="TABLE")
    keep: str = option(
        "output", "none", "Of each distribution: none, topk:K, 8bit or full.", metavar="none|topk:K|8bit|full"
    )
    peer_parallel: bool = option(
        "machine", False, "Of several processes, let each hold and score only some of the peers."
    )
    shard_rows: int = option("output", 2048, "Rows of a file of the table.", rule=COUNT)
    max_bytes: int = option("output", MOST_KEPT, "Most that --keep may take.", rule=COUNT)


def run_score(options: ScoreOptions) -> None:
    """Score the peers and say what was found."""
    options.check()
    from accelerate import Accelerator

    from ..peers.launched import check_launch, leave_together, on_main_process
    from ..run_lock import claimed

    task = options.task_of_rows()
    task.check_scored()
    accelerator = Accelerator(cpu=options.use_cpu, mixed_precision=options.mixed_precision)
    check_launch(accelerator.state)
    with on_main_process(accelerator.state, claimed(options.out, "--out")):
        table = _score(options, task, accelerator)
    if accelerator.is_main_process:
        print(score_table_text(table))
    leave_together()


def _score(options: ScoreOptions, task: Task, accelerator: Any) -> ScoreTable:
    from ..peers.cohort import Cohort
    from ..peers.first_look import look_at_rows
    from ..scoring.score_peers import score_peers
    from ..scoring.score_shards import Scoring
    from ..scoring.score_table import counted

    with accelerator.main_process_first():
        splits = load_checked(task, options, options.split, labels=not options.no_labels)
    # Processes that load their own peers do it together.
    with contextlib.nullcontext() if options.peer_parallel else accelerator.main_process_first():
        cohort = Cohort.from_pretrained(
            options.peers,
            task=task,
            label_names=splits.label_names,
            label_alignment=options.label_alignment,
            trust_remote_code=options.trust_remote_code,
            peer_parallel=options.peer_parallel,
        )
    if cohort.new_heads:
        named = ", ".join(sorted(cohort.new_heads))
        raise PeerError(f"score: {named} has no head, and what a new one answers is chance; train it first")
    look_at_rows(cohort, {options.split: getattr(splits, options.split)})
    scoring = Scoring(
        name=f"{splits.facts['name']}, {splits.facts['splits'][options.split]}",
        keep=options.keep,
        batch_size=options.batch_size,
        workers=options.workers,
        shard_rows=options.shard_rows,
        max_bytes=options.max_bytes,
        accelerator=accelerator,
        peer_parallel=options.peer_parallel,
    )
    rows = counted(getattr(splits, options.split)).fixed_rows(options.epochs)
    return score_peers(cohort, rows, options.out, scoring, announce=print)


def load_checked(task: Task, options: ScoringOptions, split: str, labels: bool = True) -> Splits:
    """The splits as a recipe would load them, those of `split` looked at."""
    splits = task.load_splits(options.seed, labels, options.on_bad_row)
    task.check_splits(splits, options.on_bad_row, (split,))
    return splits


def score_table_text(table: ScoreTable) -> str:
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
