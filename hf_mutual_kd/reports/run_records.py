"""The records of a run, as its cards read them: also of one that goes on, or was interrupted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.hub_ids import PEER_FOLDER
from ..errors import OutputFolderError
from .adapter_folder import model_type_of
from .results import Arm, collect
from .task_words import TaskWords

HUB = "https://huggingface.co"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass
class RunRecords:
    """The records of a run.

    Args:
        folder (`Path`): where they are.
        record (`dict`): `cohort.json`.
        results (`dict`): `results.json`, or what the finished arms say; empty while none has finished.
        words ([`TaskWords`]): of its task.
        repositories (`dict[str, str]`): the Hub id that each peer goes to, where that is known.
    """

    folder: Path
    record: dict[str, Any]
    results: dict[str, Any]
    words: TaskWords
    repositories: Mapping[str, str]

    @property
    def peers(self) -> dict[str, dict[str, Any]]:
        return self.record["peers"]

    @property
    def labels(self) -> list[str]:
        return self.record.get("labels") or []

    @property
    def recipe(self) -> dict[str, Any]:
        return self.record.get("recipe") or {}

    @property
    def is_control(self) -> bool:
        """Whether transfer was off, so that the run has nothing but plain fine-tuning."""
        return (self.record.get("objective") or {}).get("weight", self.recipe.get("transfer_weight", 1)) == 0

    def address(self, name: str) -> str | None:
        """The page of a peer of this run, where it is known."""
        repository = self.repositories.get(name)
        return f"{HUB}/{repository}" if repository else None

    def fact(self, key: str) -> Any:
        """A fact of either record."""
        return self.results.get(key) or self.record.get(key)

    def selected_step(self, name: str) -> int | None:
        """The step whose weights the validation split chose, in the first seed."""
        return (_read_json(self.folder / "summary.json").get("best_steps") or {}).get(name)

    def selected_metrics(self, name: str) -> dict[str, float]:
        """What the weights in the peer's folder, which are those of the first seed, reached on the test split."""
        measured = (_read_json(self.folder / "summary.json").get("end") or {}).get(name) or {}
        result = (self.results.get("peers") or {}).get(name) or {}
        decided = selected_value(self, result)
        return measured if decided is None else measured | {self.words.metric: decided}

    def arm_folders(self) -> dict[str, list[Path]]:
        """The folders of both arms, the first seed's first."""
        seeds = self.fact("seeds") or [None]
        roots = [self.folder, *(self.folder / f"seed-{seed}" for seed in seeds[1:])]
        return {"mutual": roots, "control": [root / "control" for root in roots]}


def read_records(folder: Path, repositories: Mapping[str, str] | None = None) -> RunRecords:
    """Read all records of a run.

    Raises:
        [`OutputFolderError`]: it is no run, or a record is damaged.
    """
    record = _read_json(folder / "cohort.json")
    if not (record and isinstance(record.get("peers"), dict) and all(map(PEER_FOLDER.fullmatch, record["peers"]))):
        raise OutputFolderError(f"{folder} is no run: it has no usable cohort.json; give the output_dir of a run")
    try:
        words = TaskWords.from_record(record)
    except OutputFolderError as error:
        raise OutputFolderError(f"{folder}: {error}") from None
    run = RunRecords(
        folder, record, _read_json(folder / "results.json"), words, repositories or record.get("repositories") or {}
    )
    run.results = run.results or _join_arms(run)
    return run


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputFolderError(f"{path} is damaged: {error}; run again, or restore it") from None
    if not isinstance(content, dict):
        raise OutputFolderError(f"{path} is damaged: expected an object; run again, or restore it")
    return content


def _join_arms(run: RunRecords) -> dict[str, Any]:
    """What `results.json` would hold if the run ended with the arms that have finished."""
    arms = {name: [_read_json(path / "summary.json") for path in paths] for name, paths in run.arm_folders().items()}
    done = [Arm(**summary) for summary in arms["mutual"] if summary]
    controls = [Arm(**summary) for summary in arms["control"] if summary]
    seeds = {arm.seed for arm in done} & {arm.seed for arm in controls} if controls else {arm.seed for arm in done}
    kept = [arm for arm in (*done, *controls) if arm.seed in seeds]
    facts = {"task": run.record["task"], "seeds": [arm.seed for arm in done if arm.seed in seeds]}
    return collect(kept, facts, run.words) if kept else {}


def count_teachers(run: RunRecords) -> dict[str, int]:
    """Decisions over all seeds of each peer, `"<mean>"`, `"<all>"` and `"nobody"`; empty without role tables."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts = dict.fromkeys([*run.peers, "<mean>", "<all>", "nobody"], 0)
    for folder in run.arm_folders()["mutual"]:
        if not (folder / "roles.parquet").is_file():
            continue
        try:
            table = pq.read_table(folder / "roles.parquet", partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise OutputFolderError(
                f"{folder / 'roles.parquet'} is damaged: {error}; run again, or restore it"
            ) from None
        taught = {
            who: sum(table[f"taught/{who}"].to_pylist()) for who in counts if f"taught/{who}" in table.column_names
        }
        for who, number in taught.items():
            counts[who] += number
        counts["nobody"] += sum(table["decisions"].to_pylist()) - sum(taught.values())
    return counts if any(counts.values()) else {}


def measured_samples(run: RunRecords) -> int | None:
    """Number of samples that were measured."""
    counted = (run.fact("dataset") or {}).get("rows") or {}
    samples = counted.get("test") or cohort_start(run).get("samples")
    return None if samples is None else int(samples)


def cohort_start(run: RunRecords) -> dict[str, float]:
    """What the cohort as a whole, and what it is compared with, reached on the test split before training."""
    return (run.results.get("cohort") or {}).get("start") or {}


def selected_value(run: RunRecords, result: Mapping[str, Any]) -> float | None:
    """The deciding metric of the weights in the peer's folder, which are those of the first seed."""
    seeds = (result.get("per_seed") or {}).get("mutual")
    return seeds[0] if seeds else result.get("mutual", {}).get(run.words.metric)


def model_type(run: RunRecords, name: str) -> str | None:
    """The `model_type` of a saved peer's `config.json`, `None` where it is no model of transformers."""
    return model_type_of(run.folder / name)


def is_timm(run: RunRecords, name: str) -> bool:
    """Whether a saved peer is a timm model in transformers' wrapper."""
    return model_type(run, name) == "timm_wrapper"


def onnx_facts(run: RunRecords, name: str) -> dict[str, Any]:
    """What an export left beside the model, without the files that it refused; empty where there was none."""
    facts = _read_json(run.folder / name / "onnx" / "export.json")
    kept = {file: one for file, one in (facts.get("measured") or {}).items() if not one.get("refused")}
    return facts | {"measured": kept, "has_accuracy": any("accuracy" in one for one in kept.values())} if kept else {}


def hub_id(source: Any, revision: Any) -> str | None:
    """The Hub id of a source that came from the Hub, which only then has a commit as its revision."""
    from_hub = REPOSITORY.fullmatch(str(source)) and COMMIT.fullmatch(str(revision))
    return str(source) if from_hub else None


RULE_FACTS = {
    "temperatures": "Temperatures of the teachers, fitted on validation rows before training",
    "log_likelihood_by_class": "Mean log-likelihood of the truth on validation rows, by which peers are trusted, over "
    "the classes",
    "gate_bias": "Bias of the gate after training",
    "gate_slope": "Slope of the gate after training, by the log-probability of a peer's first class",
}
"""What is said of [`facts`]."""


def rule_facts(run: RunRecords) -> list[str]:
    """What the rule was fitted to or learned in the first seed, a sentence each."""
    sentences = []
    for fact, peers in (run.fact("rule") or {}).items():
        values = {
            name: sum(value) / max(len(value), 1) if isinstance(value, list) else value
            for name, value in peers.items()
        }
        shown = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        sentences.append(f"{RULE_FACTS.get(fact, fact)}: {shown}.")
    return sentences
