"""The model card of every peer of a run, built from the run's records alone.

Longer than other files: what a run must record for the card stands beside the card that reads it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import shlex
import statistics
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from jinja2 import Environment, Undefined

from .card_figures import read_curves, teacher_figure, training_figure
from .errors import OutputFolderError, PeerError
from .results import Arm, collect, verdict
from .written import is_secret

TEMPLATE = Path(__file__).with_name("model_card_template.md")
BEGIN, END = "<!-- hf_mutual_kd:begin -->", "<!-- hf_mutual_kd:end -->"
FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
OWN_TEXT = re.compile(rf"^{BEGIN}[ \t]*\r?$.*?^{END}[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)
MARKER = re.compile(rf"^(?:{BEGIN}|{END})[ \t]*\r?$\n?", re.MULTILINE)

HUB = "https://huggingface.co"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
PEER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
TAGS = ("mutual-knowledge-transfer", "knowledge-distillation", "hf_mutual_kd")
LEFT_TAGS = ("generated_from_trainer", "autotrain_compatible", "endpoints_compatible", "safetensors", "model-index")

# https://huggingface.co/docs/hub/repositories-licenses
_LICENCES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0
openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown other
"""
LICENCES = frozenset(_LICENCES.split())
NON_COMMERCIAL = re.compile(
    r"(?:^|[-_ ])nc(?:[-_ ]|$)|non-?commercial|research-only"
    r"|^(?:h-research|intel-research|apple-amlr|deepfloyd-if-license)$",
    re.IGNORECASE,
)
"""Licences, by their Hub id or name, under which commercial use is not allowed."""

METHOD = """@article{jain2025simplifying,
  title   = {Simplifying Knowledge Transfer in Pretrained Models},
  author  = {Jain, Siddharth and Karthik, Shyamgopal and Gandhi, Vineet},
  journal = {Transactions on Machine Learning Research},
  year    = {2025},
  note    = {arXiv:2510.22208}
}"""

PIPELINE_SNIPPET = """from transformers import pipeline

classifier = pipeline("image-classification", model={model})
for guess in classifier({image}, top_k=3):
    print(f"{{guess['label']}}: {{guess['score']:.3f}}")"""

TIMM_SNIPPET = """import timm

model = timm.create_model({model}, pretrained=True)"""


@dataclass(frozen=True)
class TaskWords:
    """What a card says of a task.

    Args:
        title (`str`): in a sentence, `"for …"`.
        metric (`str`): the metric that decides, a share between 0 and 1.
        shown (`dict[str, str]`): metrics of the table and their names; a name that ends in `%` is a share.
        snippet (`str`): code with `{model}` and `{image}`.
    """

    title: str
    metric: str
    shown: Mapping[str, str]
    snippet: str


TASKS = {
    "image-classification": TaskWords(
        "image classification",
        "accuracy",
        {"accuracy": "accuracy, %", "top5_accuracy": "top-5 accuracy, %", "loss": "cross-entropy, nats"},
        PIPELINE_SNIPPET,
    )
}


# Text from outside


class Markdown(str):
    """Text that is Markdown already; all other text is escaped where the template shows it."""


def visible(text: Any) -> str:
    """Text without characters that control, reorder or hide; each line break and tab is a blank."""
    kept = []
    for character in str(text):
        kind = unicodedata.category(character)
        if kind == "Cs":
            kept.append("\ufffd")
        elif character == "\u200d" or kind not in ("Cc", "Cf", "Zl", "Zp"):  # U+200D joins emoji
            kept.append(character)
        elif character.isspace():
            kept.append(" ")
    return "".join(kept)


def plain(text: Any, limit: int = 80) -> str:
    """One line of visible text, cut at `limit` characters."""
    line = " ".join(visible(text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def escape(value: Any, limit: int = 80) -> Markdown:
    """Text or a number as Markdown that shows it as it is, also inside tables and HTML.

    Example:

    ```python
    >>> escape("a|b </details>")
    'a&#124;b &#60;&#47;details&#62;'
    ```
    """
    if isinstance(value, Markdown):
        return value
    if value is None or isinstance(value, Undefined):
        raise TypeError("the template shows a fact that is not known; it must leave its place out")
    text = re.sub(r"[!\"#$&*<>?@\[\\\]^`{|}~]", _entity, plain(value, limit))
    # Only where Markdown would see emphasis, a link or an end of a tag; names stay readable in the source.
    return Markdown(re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.|(?<=&#60;)/", _entity, text))


def sentence(value: Any) -> Markdown:
    """[`escape`] for text that may be long."""
    return escape(value, 500)


def _entity(match: re.Match[str]) -> str:
    return f"&#{ord(match[0])};"


def code(value: Any) -> Markdown:
    """Text as inline code; as HTML, since entities protect it better than backticks would."""
    return Markdown(f"<code>{escape(value, 200)}</code>")


def fence(text: str, language: str) -> Markdown:
    """Text as a code block that nothing in it can close, and in which our markers are none."""
    lines = [visible(line)[:4000].rstrip() for line in str(text).splitlines()]
    shown = "\n".join(lines).replace("<!-- hf_mutual_kd", "<! -- hf_mutual_kd")
    ticks = "`" * max([2, *map(len, re.findall("`+", shown))]) + "`"
    return Markdown(f"{ticks}{language}\n{shown}\n{ticks}")


def link(text: Any, url: str | None) -> Markdown:
    """A link where there is an address, else the text."""
    return Markdown(f"[{escape(text)}]({url})") if url else escape(text)


TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}\b")
ABSOLUTE = re.compile(
    r"""(?<![\w./\\])(?!(?<=:)//)(?:file://)?(?:~[\w.-]*|[A-Za-z]:|(?:\.\./)*\.\.)?[/\\][^\s'"`,;:|<>()\[\]{}]*"""
)
HOME = re.compile(r"(?:.*[/\\])?(?:home|Users)[/\\][^/\\]+|/root|~[^/\\]*")


def scrub(text: str) -> str:
    """The text without tokens, and of every absolute path only its last part, as a path tells a user's name.

    Example:

    ```python
    >>> scrub("vit=/home/ann/peers/vit@main")
    'vit=vit@main'
    ```
    """
    return ABSOLUTE.sub(lambda match: last_part(match[0]), TOKEN.sub("(hidden)", text))


def last_part(path: str) -> str:
    """The last part of a path; a home folder itself, which is named as its user, is `HOME`."""
    path = path.rstrip("/\\")
    return "HOME" if HOME.fullmatch(path) else re.split(r"[/\\]", path)[-1] or "."


def scrub_word(word: str) -> str:
    """[`scrub`] of one word or value, in which a path may have blanks: `NAME=/home/ann b/c` to `NAME=c`."""
    names = re.match(r"(?:[^=/\\~]*=)*", word)
    rest = word[names.end() :] if names else word
    return scrub(word[: len(word) - len(rest)] + last_part(rest) if ABSOLUTE.match(rest) else word)


def scrub_value(value: Any) -> Any:
    """[`scrub_word`] of every text in a value of JSON."""
    if isinstance(value, dict):
        return {key: scrub_value(item) for key, item in value.items() if not is_secret(str(key))}
    if isinstance(value, list):
        return [scrub_value(item) for item in value]
    return scrub_word(value) if isinstance(value, str) else value


def scrub_command(command: str) -> str:
    """[`scrub_word`] of every word of a command line; values of secret options are hidden."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    shown: list[str] = []
    hide = False
    for word in words:
        name, equals, _ = word.partition("=")
        secret = is_secret(name.lstrip("-").replace("-", "_").lower())
        shown.append("(hidden)" if hide else f"{name}=(hidden)" if secret and equals else scrub_word(word))
        hide = secret and not equals
    return shlex.join(shown)


# What a run records for its cards


def base_facts(source: str, revision: str | None = None) -> dict[str, Any]:
    """What the card of a peer's source says of itself; recorded under `peers[NAME]["base"]` of `cohort.json`.

    Args:
        source (`str`): a folder, or a Hub id; of the Hub's the `README.md` is fetched, or read from the cache.
        revision (`str`, *optional*): commit on the Hub; without one only folders are read.

    Returns:
        `dict`: those of `license`, `license_name`, `license_link`, `language`, `tags` and `citation` (BibTeX) that the
        card has; empty where there is no card, or none can be reached.
    """
    readme = Path(source) / "README.md"
    if not Path(source).is_dir():
        if not (REPOSITORY.fullmatch(source) and COMMIT.fullmatch(revision or "")):
            return {}
        try:
            readme = Path(hf_hub_download(source, "README.md", revision=revision))
        except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled):
            return {}
    if not readme.is_file():
        return {}
    text = readme.read_text(encoding="utf-8", errors="replace")
    try:
        metadata, body = split_readme(text)
    except PeerError:
        metadata, body = {}, text
    facts: dict[str, Any] = {}
    for key in ("license", "license_name", "license_link", "language", "tags"):
        value = metadata.get(key)
        items = [plain(item, 200) for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
        if items := [item for item in items if item]:
            facts[key] = items if isinstance(value, list) else items[0]
    if citation := find_bibtex(body):
        facts["citation"] = citation
    return facts


def find_bibtex(text: str) -> str | None:
    """The first BibTeX entry of a README, up to its closing brace."""
    for start in re.finditer(r"^[ \t]*@[A-Za-z]+\{", text, re.MULTILINE):
        depth = 0
        for end, character in enumerate(text[start.start() : start.start() + 4000], start.start()):
            depth += {"{": 1, "}": -1}.get(character, 0)
            if character == "}" and depth == 0:
                return text[start.start() : end + 1].strip()
    return None


def objective_facts(objective: Any) -> dict[str, Any]:
    """How an [`~hf_mutual_kd.teachers.Objective`] describes itself; recorded as `objective` of `cohort.json`."""
    return {
        "rule": {key: getattr(objective.rule, key) for key in ("name", "description", "citation")},
        "source": {key: getattr(objective.source, key) for key in ("name", "description")},
        "score": objective.score if objective.rule.needs_scores else None,
        **{key: getattr(objective, key) for key in ("retain", "detach", "temperature", "weight", "labels")},
    }


MACHINE_OPTIONS = re.compile(
    r"output_dir|overwrite_output_dir|logging_dir|run_name|resume_from_checkpoint|local_rank|ddp_.*|push_to_hub|hub_.*"
    r"|project|trackio_.*|report_to|disable_tqdm"
)
"""Options that say where a run was or to whom it belongs, not how the model was trained."""


def hyperparameter_facts(given: Mapping[str, Any], *options: Any) -> dict[str, dict[str, Any]]:
    """All options of a run; recorded as `hyperparameters` of `cohort.json`.

    Args:
        given (`dict`): what recipe, file and command line set ([`~hf_mutual_kd.recipe.Recipe`]`.given`).
        *options: the configuration and the recipe's options, dataclass instances.

    Returns:
        `dict`: `changed`, the given ones that differ from their class's default, and `defaults`, all others that are
        set; without secrets and without what belongs to the machine.
    """
    facts: dict[str, dict[str, Any]] = {"changed": {}, "defaults": {}}
    for instance in options:
        for item in fields(instance):
            value = getattr(instance, item.name, None)
            value = value.value if isinstance(value, Enum) else value
            left_out = is_secret(item.name) or MACHINE_OPTIONS.fullmatch(item.name) or item.name.startswith("_")
            if left_out or value in (None, [], {}) or not isinstance(value, bool | int | float | str | list | dict):
                continue
            default = item.default if item.default_factory is MISSING else item.default_factory()
            default = default.value if isinstance(default, Enum) else default
            facts["changed" if item.name in given and value != default else "defaults"][item.name] = value
    return facts


def hardware_facts(processes: int = 1) -> dict[str, Any]:
    """The device that trains; recorded as `hardware` of `cohort.json`."""
    import torch

    if torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name(), "processes": processes}
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        name = found[1] if found else name
    return {"device": name, "processes": processes, "cores": os.cpu_count()}


@contextlib.contextmanager
def emissions_tracker() -> Iterator[Any]:
    """Measure emissions where codecarbon is installed; record `tracker.final_emissions` (kg CO₂) as `co2_kg`.

    Yields:
        `codecarbon.EmissionsTracker`, or `None` without codecarbon.
    """
    try:
        from codecarbon import EmissionsTracker
    except ImportError:
        yield None
        return
    with EmissionsTracker(save_to_file=False, log_level="error") as tracker:
        yield tracker


def run_snippet(peer_dir: str | Path, example_image: Any) -> str | None:
    """Run the card's snippet on a saved peer; recorded as `usage[NAME]` of `results.json`.

    Args:
        peer_dir (`str` or `Path`): the peer's folder.
        example_image (`PIL.Image.Image`): best one of the test split.

    Returns:
        `str`: what the snippet printed; `None` where the folder is no model that `pipeline` loads. Random states of
        Python, numpy and torch stay as they were.
    """
    import random
    import tempfile
    from io import StringIO

    import numpy as np
    import torch

    if not (Path(peer_dir) / "config.json").is_file():
        return None
    states = random.getstate(), np.random.get_state()
    printed = StringIO()
    try:
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(), contextlib.redirect_stdout(printed):
            image = Path(folder) / "example.png"
            example_image.save(image)
            program = PIPELINE_SNIPPET.format(model=repr(str(peer_dir)), image=repr(str(image)))
            exec(compile(program, "the card's snippet", "exec"), {})  # our own text; only the two paths vary
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    return printed.getvalue().rstrip()


# Reading a run


@dataclass
class Run:
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

    def get(self, key: str) -> Any:
        """A fact of either record."""
        return self.results.get(key) or self.record.get(key)

    def kept_step(self, name: str) -> int | None:
        """The step whose weights the validation split chose, in the first seed."""
        return (_read_json(self.folder / "summary.json").get("best_steps") or {}).get(name)

    def arm_folders(self) -> dict[str, list[Path]]:
        """The folders of both arms, the first seed's first."""
        seeds = self.get("seeds") or [None]
        roots = [self.folder, *(self.folder / f"seed-{seed}" for seed in seeds[1:])]
        return {"mutual": roots, "control": [root / "control" for root in roots]}


def read_run(folder: Path, repositories: Mapping[str, str] | None = None) -> Run:
    """Read all records of a run.

    Raises:
        [`~hf_mutual_kd.errors.OutputFolderError`]: it is no run, or a record is damaged.
    """
    record = _read_json(folder / "cohort.json")
    if not (record and isinstance(record.get("peers"), dict) and all(map(PEER_NAME.fullmatch, record["peers"]))):
        raise OutputFolderError(f"{folder} is no run: it has no usable cohort.json; give the output_dir of a run")
    words = TASKS.get(str(record.get("task")))
    if words is None:
        raise OutputFolderError(f"{folder}: no card is known for task {record.get('task')!r}, only {', '.join(TASKS)}")
    run = Run(
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


def _join_arms(run: Run) -> dict[str, Any]:
    """What `results.json` would hold if the run ended with the arms that have finished."""
    arms = {name: [_read_json(path / "summary.json") for path in paths] for name, paths in run.arm_folders().items()}
    done = [Arm(**summary) for summary in arms["mutual"] if summary]
    controls = [Arm(**summary) for summary in arms["control"] if summary]
    seeds = {arm.seed for arm in done} & {arm.seed for arm in controls} if controls else {arm.seed for arm in done}
    kept = [arm for arm in (*done, *controls) if arm.seed in seeds]
    return collect(kept, {"seeds": [arm.seed for arm in done if arm.seed in seeds]}) if kept else {}


def count_teachers(run: Run) -> dict[str, int]:
    """Decisions over all seeds that went to each peer, to `"<mean>"` and to `"nobody"`; empty without role tables."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts = dict.fromkeys([*run.peers, "<mean>", "nobody"], 0)
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


# The card


@dataclass
class CardData:
    """The facts of one card; the template has the words. What is empty leaves its sentence or section out, and text
    that is not [`Markdown`] is from outside and escaped where it is shown."""

    # Who it is: links to what it started from, to the other peers and to the data set.
    name: str
    task: str
    architecture: str
    parameters: int | None
    base: Markdown | None
    others: list[Markdown]
    dataset: Markdown | None
    control_only: bool
    frozen: bool

    # How good it is, on the test split.
    rows: list[dict[str, str]]
    measured: dict[str, Any]
    verdict: str | None
    delta: dict[str, float | None] | None
    fell_below_start: bool
    flips: dict[str, Mapping[str, float]]
    classes: dict[str, list[dict[str, Any]]]

    # Who taught it: shares of decisions over all seeds.
    teachers: list[dict[str, Any]]

    # How to use it, and what the snippet printed.
    usage: dict[str, Any]

    # How it was made.
    data: Mapping[str, Any]
    objective: Mapping[str, Any]
    hyperparameters: dict[str, dict[str, str]]
    hardware: Mapping[str, Any]
    seconds: Mapping[str, list[float]]
    kept_step: int | None
    co2_kg: float | None
    command: str
    command_is_cut: bool
    versions: Mapping[str, str]

    # Whose it is.
    licence: str | None
    non_commercial: list[tuple[str, str]]
    base_citation: str | None

    figures: Mapping[str, str]
    """Paths inside the peer's folder, by `"teachers"` and `"training"`."""


def build_card(run: Run, name: str, counts: Mapping[str, int], figures: Mapping[str, str]) -> CardData:
    """The facts of one peer's card; `counts` are those of [`count_teachers`]."""
    peer = run.peers[name]
    result = (run.results.get("peers") or {}).get(name) or {}
    delta = result.get("delta")
    seeds = run.get("seeds") or []
    start, after = (result.get(key, {}).get(run.words.metric) for key in ("start", "mutual"))
    return CardData(
        name=name,
        task=run.words.title,
        architecture=peer.get("architecture") or "",
        parameters=peer.get("parameters"),
        base=source_link(peer),
        others=[link(other, run.address(other)) for other in run.peers if other != name],
        dataset=dataset_link(run.get("dataset") or {}),
        control_only=run.is_control,
        frozen=name in (run.recipe.get("frozen_peers") or []),
        rows=result_rows(run, result),
        measured={
            "seeds": seeds,
            "steps": run.results.get("steps"),
            "samples": test_rows(run),
            "kept": kept_value(run, result),
        },
        verdict=verdict(delta, len(seeds)) if delta else None,
        delta=delta,
        fell_below_start=start is not None and after is not None and after < start,
        flips=flip_rows(result),
        classes=class_rows(run, result),
        teachers=teacher_rows(run, name, counts),
        usage=usage(run, name),
        data=data_facts(run.get("dataset") or {}),
        objective=run.record.get("objective") or {},
        hyperparameters=hyperparameters(run),
        hardware=run.get("hardware") or {},
        seconds={arm: values for arm, values in (run.results.get("seconds") or {}).items() if values},
        kept_step=run.kept_step(name),
        co2_kg=run.get("co2_kg"),
        command=scrub_command(str(run.get("command") or "")),
        command_is_cut=bool(ABSOLUTE.search(str(run.get("command") or ""))),
        versions=run.get("versions") or {},
        licence=licence_of(peer),
        non_commercial=non_commercial(run, name, counts),
        base_citation=(peer.get("base") or {}).get("citation"),
        figures=figures,
    )


def hub_id(source: Any, revision: Any) -> str | None:
    """The Hub id of a source that came from the Hub, which only then has a commit as its revision."""
    from_hub = REPOSITORY.fullmatch(str(source)) and COMMIT.fullmatch(str(revision))
    return str(source) if from_hub else None


def source_link(peer: Mapping[str, Any]) -> Markdown | None:
    """A peer's starting point at its revision; of a folder only the name."""
    source, revision = peer.get("source"), peer.get("revision")
    if not source:
        return None
    if found := hub_id(source, revision):
        return link(found, f"{HUB}/{found}/tree/{revision}")
    return Markdown(f"a local model ({code(last_part(str(source)))})")


def dataset_link(facts: Mapping[str, Any]) -> Markdown | None:
    """The data set at its revision."""
    if not facts.get("name"):
        return None
    found = hub_id(facts["name"], facts.get("revision"))
    url = f"{HUB}/datasets/{found}/tree/{facts['revision']}" if found else None
    return link(found or last_part(str(facts["name"])), url)


def test_rows(run: Run) -> int | None:
    """Number of samples that were measured."""
    counted = (run.get("dataset") or {}).get("rows") or {}
    return counted.get("test") or (run.results.get("cohort") or {}).get("start", {}).get("samples")


def result_rows(run: Run, result: Mapping[str, Any]) -> list[dict[str, str]]:
    """The table of before, control and after, in the units that the task shows."""
    rows = []
    for key, title in run.words.shown.items():
        values = {arm: result[arm].get(key) for arm in ("start", "control", "mutual") if arm in result}
        known = values and all(isinstance(value, int | float) and math.isfinite(value) for value in values.values())
        if not known or (key.startswith("top5") and len(run.labels) <= 5):
            continue
        share, decides = title.endswith("%"), key == run.words.metric
        row = {"metric": title}
        for arm, value in values.items():
            seeds = (result.get("per_seed") or {}).get(arm, []) if decides else []
            row[arm] = number(value, share) + spread(seeds, share)
        if "control" in values:
            gains = result.get("delta") if decides else None
            sd = gains["sd"] if gains else None
            row["difference"] = number(values["mutual"] - values["control"], share, sign=True) + (
                f" ± {number(sd, share)}" if sd is not None else ""
            )
        rows.append(row)
    return rows


def kept_value(run: Run, result: Mapping[str, Any]) -> float | None:
    """The deciding metric of the weights in the peer's folder, which are those of the first seed."""
    seeds = (result.get("per_seed") or {}).get("mutual")
    return seeds[0] if seeds else result.get("mutual", {}).get(run.words.metric)


def number(value: float, share: bool, sign: bool = False) -> str:
    """A share in percent with two digits, anything else with three."""
    return f"{100 * value if share else value:{'+' if sign else ''}.{2 if share else 3}f}".replace("-", "−")


def spread(values: Sequence[float], share: bool) -> str:
    """` ± sd` over seeds, nothing for one."""
    return f" ± {number(statistics.stdev(values), share)}" if len(values) > 1 else ""


def flip_rows(result: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Positive and negative flips of each arm that has them."""
    arms = {"this model": result, "control": result.get("control_flips") or {}}
    keys = ("positive_flips", "negative_flips")
    return {arm: values for arm, values in arms.items() if all(values.get(key) is not None for key in keys)}


def class_rows(run: Run, result: Mapping[str, Any], most: int = 5) -> dict[str, list[dict[str, Any]]]:
    """The classes with the largest gains and losses against the control, or the start where there is no control."""
    by_class = result.get("by_class") or {}
    after, base = by_class.get("mutual"), by_class.get("control") or by_class.get("start")
    if not (after and base):
        return {}
    changes = []
    for index, label in enumerate(run.labels[: len(after)]):
        values = {arm: column[index] for arm, column in by_class.items()}
        if None not in values.values() and abs(after[index] - base[index]) >= 0.00005:
            changes.append({"label": label, "change": after[index] - base[index], **values})
    better = sorted((row for row in changes if row["change"] > 0), key=lambda row: -row["change"])
    worse = sorted((row for row in changes if row["change"] < 0), key=lambda row: row["change"])
    return {title: rows[:most] for title, rows in (("better", better), ("worse", worse)) if rows}


def teacher_rows(run: Run, name: str, counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Who taught, on which share of the decisions, from which start and under which licence."""
    total = sum(counts.values())
    rows: list[dict[str, Any]] = [
        {
            "who": other,
            "own": other == name,
            "link": link(other, run.address(other)),
            "share": counts[other] / total,
            "source": source_link(peer),
            "licence": licence_of(peer),
        }
        for other, peer in run.peers.items()
        if total
    ]
    others = {"<mean>": "mean of all peers", "nobody": "nobody"}
    return rows + [{"who": who, "share": counts[key] / total} for key, who in others.items() if counts.get(key)]


def licence_of(peer: Mapping[str, Any]) -> str | None:
    """What the card of a peer's start says: the licence, or the name of one that is not on the Hub's list."""
    base = peer.get("base") or {}
    licence = base.get("license")
    licence = ", ".join(licence) if isinstance(licence, list) else licence
    return base.get("license_name") or licence if licence == "other" else licence


def non_commercial(run: Run, name: str, counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Of this peer's start and of all that taught it: those whose licence forbids commercial use."""
    taught = {} if run.is_control else {other for other in run.peers if counts.get(other) or counts.get("<mean>")}
    licences = {other: licence_of(run.peers[other]) for other in run.peers if other == name or other in taught}
    return [(other, licence) for other, licence in licences.items() if licence and NON_COMMERCIAL.search(licence)]


def usage(run: Run, name: str) -> dict[str, Any]:
    """The snippet, for timm peers also theirs, and what it printed when it was run."""
    if not (run.folder / name / "config.json").is_file():
        return {}
    model = json.dumps(run.repositories.get(name, name))
    found = {"snippet": run.words.snippet.format(model=model, image='"image.png"')}
    if is_timm(run, name) and name in run.repositories:
        found["timm"] = TIMM_SNIPPET.format(model=json.dumps(f"hf-hub:{run.repositories[name]}"))
    output = (run.get("usage") or {}).get(name)
    return found | ({"output": output, "example": run.get("example") or {}} if output else {})


def is_timm(run: Run, name: str) -> bool:
    """Whether a saved peer is a timm model in transformers' wrapper."""
    return _read_json(run.folder / name / "config.json").get("model_type") == "timm_wrapper"


def data_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the data set: its revision, and a row for each split."""
    rows, labelled, skipped = (facts.get(key) or {} for key in ("rows", "labelled", "skipped_images"))
    splits = [
        {"role": role, "origin": origin, "rows": rows.get(role), "labelled": labelled.get(role)}
        for role, origin in (facts.get("splits") or {}).items()
    ]
    unreadable = sum(count if isinstance(count, int) else len(count or ()) for count in skipped.values())
    kept = {key: facts[key] for key in ("config", "revision", "fingerprint") if facts.get(key)}
    return kept | {"splits": splits, "unreadable": unreadable} if splits or kept else {}


def hyperparameters(run: Run) -> dict[str, dict[str, str]]:
    """Options and their values as text: those that this run changed, and the others."""
    recorded = run.record.get("hyperparameters") or {"changed": run.recipe}
    return {
        part: {
            option: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for option, value in scrub_value(values).items()
            if value is not None and not MACHINE_OPTIONS.fullmatch(option)
        }
        for part, values in recorded.items()
        if values
    }


# Metadata


def metadata(run: Run, name: str) -> dict[str, Any]:
    """The card's YAML, by the Hub's rules; what is not known is absent."""
    peer, facts = run.peers[name], run.get("dataset") or {}
    base_facts = peer.get("base") or {}
    base = hub_id(peer.get("source"), peer.get("revision"))
    dataset = hub_id(facts.get("name"), facts.get("revision"))
    task = str(run.record["task"])
    carried = [tag for tag in base_facts.get("tags", []) if ":" not in tag and tag not in LEFT_TAGS]
    is_transformers = (run.folder / name / "config.json").is_file()
    card = ModelCardData(
        language=base_facts.get("language"),
        library_name=("timm" if is_timm(run, name) else "transformers") if is_transformers else None,
        pipeline_tag=task,
        base_model=base,
        base_model_relation="finetune" if base else None,
        datasets=[dataset] if dataset else None,
        tags=[*TAGS, *carried] if not run.is_control else [TAGS[-1], *carried],
        metrics=[run.words.metric],
        model_name=name,
        eval_results=eval_results(run, name, dataset),
        **licence_metadata(base_facts, base, peer.get("revision")),
    )
    if co2 := run.get("co2_kg"):
        card["co2_eq_emissions"] = {
            "emissions": round(1000 * co2, 3),
            "source": "codecarbon",
            "training_type": "fine-tuning",
        }
    return _one_line({key: value for key, value in card.to_dict().items() if key != "model_name"})


def _one_line(value: Any) -> Any:
    """Metadata whose texts are visible and on one line each."""
    if isinstance(value, dict):
        return {key: _one_line(item) for key, item in value.items()}
    if isinstance(value, list):
        return [item for item in map(_one_line, value) if item != ""]
    return plain(value, 200) if isinstance(value, str) else value


def licence_metadata(base_facts: Mapping[str, Any], base: str | None, revision: str | None) -> dict[str, Any]:
    """The licence of the start as the Hub takes it: one of its ids, or `other` with a name and a link."""
    licence = base_facts.get("license")
    listed = licence if isinstance(licence, list) else [licence] if licence else []
    if not listed:
        return {}
    if all(item in LICENCES - {"other"} for item in listed):
        return {"license": licence}
    found = {"license": "other", "license_name": base_facts.get("license_name") or ", ".join(listed)}
    address = str(base_facts.get("license_link") or "")
    if address.startswith("https://"):
        found["license_link"] = address
    elif base and re.fullmatch(r"[\w.-]+", address):
        found["license_link"] = f"{HUB}/{base}/blob/{revision}/{address}"
    return found


def eval_results(run: Run, name: str, dataset: str | None) -> list[EvalResult] | None:
    """What these weights reached on the test split, as a share of 1, for `model-index`."""
    facts = run.get("dataset") or {}
    after = kept_value(run, (run.results.get("peers") or {}).get(name) or {})
    if after is None or not math.isfinite(after) or not facts.get("name"):
        return None
    shown = dataset or plain(last_part(str(facts["name"])), 120)
    result = EvalResult(
        task_type=str(run.record["task"]),
        task_name=run.words.title.capitalize(),
        dataset_type=shown,
        dataset_name=shown,
        dataset_config=plain(facts["config"]) if facts.get("config") else None,
        dataset_split=plain((facts.get("splits") or {}).get("test", "test")),
        dataset_revision=facts["revision"] if dataset else None,
        metric_type=run.words.metric,
        metric_name=run.words.metric.capitalize(),
        metric_value=round(after, 4),
    )
    return [result]


class _Dumper(yaml.SafeDumper):
    """Quotes text that any YAML version could take for a number, such as a commit `123…e10`."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if re.match(r"[-+.]?\d", text) else None)


_Dumper.add_representer(str, _represent_text)


def dump_front_matter(data: Mapping[str, Any]) -> str:
    """`---`, YAML, `---`."""
    text = yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{text}---\n"


def split_readme(text: str) -> tuple[dict[str, Any], str]:
    """The metadata of a README and the text below.

    Raises:
        [`~hf_mutual_kd.errors.PeerError`]: the metadata is no YAML mapping.
    """
    match = FRONT_MATTER.match(text.removeprefix("\ufeff"))
    if match is None:
        return {}, text
    try:
        data = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError) as error:
        raise PeerError(f"README.md: its metadata is not readable as YAML: {' '.join(str(error).split())}") from None
    if data is not None and not isinstance(data, dict):
        raise PeerError(f"README.md: its metadata must be a mapping, got {plain(data)!r}")
    return data or {}, text.removeprefix("\ufeff")[match.end() :]


def merge_readme(existing: str, new: str) -> str:
    """A new card in the place of the old one; what the user wrote stays.

    Args:
        existing (`str`): a README with text of the user outside our markers, or without any card of ours.
        new (`str`): a card of [`write_cards`].

    Returns:
        `str`: our block where the old one stood, or first; the user's metadata for keys that the new card does not
        set, and their tags beside ours.

    Raises:
        [`~hf_mutual_kd.errors.PeerError`]: the existing metadata cannot be read, so it could not be kept.
    """
    old_data, old_body = split_readme(existing)
    data, body = split_readme(new)
    tags = old_data.get("tags")
    if isinstance(tags, list):
        data["tags"] = list(dict.fromkeys([*data.get("tags", []), *tags]))
    data |= {key: value for key, value in old_data.items() if key not in data}
    before, *after = OWN_TEXT.split(old_body)
    if not after:
        before, after = "", [before]
    theirs = [MARKER.sub("", part).strip("\r\n") for part in (before, "\n\n".join(filter(str.strip, after)))]
    parts = [part for part in (theirs[0], body.strip("\n"), theirs[1]) if part]
    return dump_front_matter(data) + "\n\n".join(parts) + "\n"


# Writing


def render(card: CardData, data: Mapping[str, Any]) -> str:
    """The whole README."""
    environment = Environment(finalize=escape, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"code": code, "fence": fence, "sentence": sentence, "duration": duration}
    environment.globals = {"number": number, "METHOD": METHOD, "BEGIN": Markdown(BEGIN), "END": Markdown(END)}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return TOKEN.sub("(hidden)", dump_front_matter(data) + template.render(card=card))


def duration(seconds: float) -> str:
    """`"2 h 5 min"`, `"3 min 20 s"`, `"12 s"`."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def draw_figures(run: Run, name: str, counts: Mapping[str, int]) -> dict[str, bytes]:
    """The figures for which there are numbers."""
    drawn = {}
    if shares := [(row["who"], row["share"]) for row in teacher_rows(run, name, counts)]:
        drawn["teachers"] = teacher_figure(shares, name)
    if curves := read_curves(run.arm_folders(), name, run.words.metric):
        drawn["training"] = training_figure(curves, run.words.shown[run.words.metric], run.kept_step(name))
    return drawn


def write_cards(
    run_dir: str | Path, peers: Sequence[str] | None = None, repositories: Mapping[str, str] | None = None
) -> dict[str, Path]:
    """Build the card of each peer inside its folder: `README.md` and `figures/*.png`. Needs no network.

    Args:
        run_dir (`str` or `Path`): a run, also one that has not ended: what is not known yet is left out.
        peers (`list[str]`, *optional*): whose cards; all that have a folder when unset.
        repositories (`dict[str, str]`, *optional*): the Hub id each peer goes to, for links and the snippet; those in
            `cohort.json` when unset.

    Returns:
        `dict[str, Path]`: the cards, by peer. A card that was there keeps what its user wrote ([`merge_readme`]).

    Raises:
        [`~hf_mutual_kd.errors.OutputFolderError`]: no run, or a damaged record.
        [`~hf_mutual_kd.errors.PeerError`]: a peer that the run does not have, or that has no folder yet.
    """
    run = read_run(Path(run_dir), repositories)
    for name in peers or ():
        if name not in run.peers or not (run.folder / name).is_dir():
            raise PeerError(f"{run.folder} has no peer {name!r}; its peers are {', '.join(run.peers)}")
    counts = {} if run.is_control or len(run.peers) == 1 else count_teachers(run)
    written = {}
    for name in peers or [name for name in run.peers if (run.folder / name).is_dir()]:
        folder = run.folder / name
        figures = draw_figures(run, name, counts)
        for figure in ("teachers", "training"):
            _write(folder / "figures" / f"{figure}.png", figures.get(figure))
        card = build_card(run, name, counts, {figure: f"figures/{figure}.png" for figure in figures})
        text, path = render(card, metadata(run, name)), folder / "README.md"
        text = merge_readme(path.read_text(encoding="utf-8"), text) if path.is_file() else text
        _write(path, text.encode())
        written[name] = path
    return written


def _write(path: Path, content: bytes | None) -> None:
    """Write a file whole, beside its place and then renamed; without content remove an old one."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(f"{path.name}.unfinished")
    beside.write_bytes(content)
    os.replace(beside, path)
