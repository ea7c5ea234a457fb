"""A run on disk: `cohort.json`, what its arms found, and what belongs to its peers; also of a run that goes on."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Required

from pydantic import ConfigDict
from typing_extensions import TypedDict

from ..config.hub_ids import PEER_FOLDER
from ..errors import OutputFolderError
from ..files import read_json
from .adapter_folder import model_type_of
from .results import CONTROL, MUTUAL, Arm, PeerResult, Results, collect
from .samples import SAMPLES_FILE, read_samples
from .task_words import TaskWords

COHORT, SUMMARY = "cohort.json", "summary.json"
HUB = "https://huggingface.co"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")

Text = str | list[str]


class _Facts(TypedDict, total=False):
    """Facts of which any may be unknown; a newer version's are kept."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]


class BaseFacts(_Facts, total=False):
    """See [`base_facts`]."""

    license: Text | None
    license_name: str | None
    license_link: str | None
    language: Text | None
    tags: list[str]
    citation: str | None


class PeerFacts(_Facts, total=False):
    """See [`describe_cohort`]."""

    source: str
    revision: str | None
    architecture: str | None
    parameters: int | None
    base: BaseFacts
    adapter: dict[str, Any]


class DatasetFacts(_Facts, total=False):
    """What [`load_splits`] says of a data set, by role where there are several splits."""

    name: str | None
    config: str | None
    revision: str | None
    note: str | None
    fingerprint: str | None
    splits: dict[str, str]
    rows: dict[str, int | None] | None
    labelled: dict[str, int | None] | None
    skipped_images: dict[str, int | list[Any] | None]


class RuleFacts(_Facts, total=False):
    name: Required[str]
    description: Required[str]
    citation: str


class ObjectiveFacts(_Facts, total=False):
    """See [`objective_facts`]."""

    rule: Required[RuleFacts]
    source: Required[RuleFacts]
    retain: bool
    weight: int | float
    temperature: int | float
    labels: bool
    unlabelled_rows: bool


class HardwareFacts(_Facts, total=False):
    """See [`hardware_facts`]."""

    device: Required[str]
    processes: Required[int]
    cores: int | None


class CohortRecord(_Facts, total=False):
    """`cohort.json`."""

    task: Required[str]
    peers: Required[dict[str, PeerFacts]]
    words: dict[str, Any]
    labels: list[str] | None
    seeds: list[int]
    dataset: DatasetFacts
    versions: dict[str, str]
    command: str
    recipe: dict[str, Any]
    objective: ObjectiveFacts
    hyperparameters: dict[str, dict[str, Any]]
    hardware: HardwareFacts
    repositories: dict[str, str]


@dataclasses.dataclass
class RunRecord:
    """A run on disk.

    Args:
        folder (`Path`): as the user gave it.
        record (`dict`): `cohort.json`, a [`CohortRecord`].
        repositories (`dict[str, str]`): the Hub id that each peer goes to, where that is known.
    """

    folder: Path
    record: Mapping[str, Any]
    repositories: Mapping[str, str]

    @property
    def peers(self) -> dict[str, dict[str, Any]]:
        return self.record["peers"]

    @property
    def task(self) -> str:
        return self.record["task"]

    @property
    def labels(self) -> list[str]:
        return self.record.get("labels") or []

    @property
    def recipe(self) -> dict[str, Any]:
        return self.record.get("recipe") or {}

    @property
    def dataset(self) -> dict[str, Any]:
        return self.record.get("dataset") or {}

    @property
    def is_control(self) -> bool:
        """Whether transfer was off, so that the run has nothing but plain fine-tuning."""
        return (self.record.get("objective") or {}).get("weight", self.recipe.get("transfer_weight", 1)) == 0

    @functools.cached_property
    def words(self) -> TaskWords:
        """Of its task."""
        try:
            return TaskWords.from_record(self.record)
        except OutputFolderError as error:
            raise OutputFolderError(f"{self.folder}: {error}") from None

    @functools.cached_property
    def results(self) -> Results | None:
        """`results.json`, or what the finished arms say; `None` while none has finished."""
        found = Results.read(self.folder) or self._join_arms()
        if found is not None and set(found.peers) != set(self.peers):
            raise OutputFolderError(
                f"{self.folder}: what was found is of the peers {', '.join(found.peers)}, the record of "
                f"{', '.join(self.peers)}; run again, or restore both"
            )
        return found

    @property
    def seeds(self) -> list[int]:
        return (self.results.seeds if self.results else None) or self.record.get("seeds") or []

    @property
    def peer_results(self) -> dict[str, PeerResult]:
        """What is known of each peer."""
        return self.results.peers if self.results else {}

    @property
    def teachers(self) -> dict[str, int]:
        """Decisions over all seeds and rows of each peer, `"<mean>"`, `"<all>"` and `"nobody"`; may be empty."""
        found: dict[str, int] = {}
        for counts in self.results.teachers.values() if self.results and not self.is_control else ():
            for who, count in counts.items():
                found[who] = found.get(who, 0) + count
        return found if any(found.values()) else {}

    @property
    def cohort_start(self) -> Mapping[str, int | float]:
        """What the peers together, and what they are compared with, reached on the test split before training."""
        return self.results.cohort if self.results else {}

    @property
    def measured_samples(self) -> int | None:
        """Number of test samples that were measured."""
        samples = (self.dataset.get("rows") or {}).get("test") or self.cohort_start.get("samples")
        return None if samples is None else int(samples)

    @property
    def rule_facts(self) -> list[str]:
        """What the rule was fitted to or learned in the first seed, a sentence each."""
        return rule_sentences(self.results.rule if self.results else {})

    def fact(self, key: str) -> Any:
        """A fact of either record."""
        return (getattr(self.results, key, None) if self.results else None) or self.record.get(key)

    def address(self, name: str) -> str | None:
        """The page of a peer of this run, where it is known."""
        repository = self.repositories.get(name)
        return f"{HUB}/{repository}" if repository else None

    @functools.cached_property
    def first_arm(self) -> Arm | None:
        """The mutual arm of the first seed, whose weights lie in the peers' folders."""
        return self._arm(self.folder)

    def selected_step(self, name: str) -> int | None:
        """The step whose weights the validation split chose, in the first seed."""
        return self.first_arm.best_steps.get(name) if self.first_arm else None

    def selected_metrics(self, name: str) -> dict[str, int | float]:
        """What the weights in the peer's folder, which are those of the first seed, reached on the test split."""
        measured = self.first_arm.end.get(name, {}) if self.first_arm else {}
        decided = self.selected_value(name)
        return dict(measured) if decided is None else measured | {self.words.metric: decided}

    def selected_value(self, name: str) -> int | float | None:
        """The deciding metric of the weights in the peer's folder."""
        arm = self.peer_results[name].arms.get(MUTUAL) if name in self.peer_results else None
        if arm is None:
            return None
        return arm.per_seed[0] if arm.per_seed else arm.metrics.get(self.words.metric)

    def model_type(self, name: str) -> str | None:
        """The `model_type` of a saved peer's `config.json`, `None` where it is no model of transformers."""
        return model_type_of(self.folder / name)

    def is_timm(self, name: str) -> bool:
        """Whether a saved peer is a timm model in transformers' wrapper."""
        return self.model_type(name) == "timm_wrapper"

    def onnx_facts(self, name: str) -> dict[str, Any]:
        """What an export left beside the model, without the files that it refused; empty where there was none."""
        path = self.folder / name / "onnx" / "export.json"
        if not path.is_file():
            return {}
        facts = read_json(path)
        kept = read_json(path, OnnxFacts)["measured"]
        kept = {file: one for file, one in kept.items() if not one.get("refused")}
        has_accuracy = any("accuracy" in one for one in kept.values())
        return facts | {"measured": kept, "has_accuracy": has_accuracy} if kept else {}

    @property
    def eval_sets(self) -> dict[str, str]:
        """The evaluation sets by name, each with the prefix of its metrics; the first selects. Most have no name."""
        names = self.record.get("eval_sets") or []
        return {str(name): f"eval_{name}" for name in names} if isinstance(names, list) and names else {"": "eval"}

    def arm_folders(self) -> dict[str, list[Path]]:
        """The folders of all arms, the first seed's first: the mutual one is the run's own, others lie in it."""
        seeds = self.record.get("seeds") or [None]
        roots = [self.folder, *(self.folder / f"seed-{seed}" for seed in seeds[1:])]
        return {MUTUAL: roots, CONTROL: [root / CONTROL for root in roots]}

    def _arm(self, folder: Path) -> Arm | None:
        return read_json(folder / SUMMARY, Arm) if (folder / SUMMARY).exists() else None

    def _join_arms(self) -> Results | None:
        """What `results.json` would hold if the run ended with the arms that have finished."""
        places = {name: [(self._arm(path), path) for path in paths] for name, paths in self.arm_folders().items()}
        done = {name: {arm.seed: (arm, path) for arm, path in found if arm} for name, found in places.items()}
        finished = [found for found in done.values() if found]
        if not done[MUTUAL]:
            return None
        seeds = [seed for seed in done[MUTUAL] if all(seed in found for found in finished)]
        kept = {name: [found[seed] for seed in seeds] for name, found in done.items() if found}
        arms = [arm for found in kept.values() for arm, _ in found]
        if not arms:
            return None
        peers = list(self.peers)
        samples = {
            name: [read_samples(path / SAMPLES_FILE, peers) for _, path in found] for name, found in kept.items()
        }
        return collect(arms, {"task": self.task, "seeds": seeds}, self.words, samples)


class OnnxFacts(_Facts, total=False):
    """See [`export_run`]."""

    measured: Required[dict[str, dict[str, Any]]]


def read_run(
    run_dir: str | Path,
    repositories: Mapping[str, str] | None = None,
) -> RunRecord:
    """Read what a folder says of its run; results are read when they are asked for.

    Raises:
        [`OutputFolderError`]: it is no run, or its record is damaged.
    """
    folder = Path(run_dir)
    if not (folder / COHORT).exists():
        raise OutputFolderError(f"{folder} is no run: it has no {COHORT}; give the output_dir of a run")
    record = read_json(folder / COHORT, CohortRecord)
    wrong = next((name for name in record["peers"] if not PEER_FOLDER.fullmatch(name)), None)
    if wrong is not None or not record["peers"]:
        raise OutputFolderError(
            f"{folder / COHORT} is damaged: it names {wrong!r} as a peer; expected letters, digits, '-' and '_'"
        )
    return RunRecord(folder, record, repositories or record.get("repositories") or {})


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


def rule_sentences(rule: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a rule was fitted to or learned, a sentence each."""
    sentences = []
    for fact, peers in rule.items():
        values = {
            name: sum(value) / max(len(value), 1) if isinstance(value, list) else value
            for name, value in peers.items()
        }
        shown = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        sentences.append(f"{RULE_FACTS.get(fact, fact)}: {shown}.")
    return sentences
