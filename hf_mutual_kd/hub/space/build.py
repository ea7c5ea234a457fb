"""Makes a Space of a run: a folder with a Gradio app in which visitors ask the peers, before and after."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from ...config.rules import NOT_NEGATIVE, check_number
from ...distillation.label_alignment import align_labels, label_list
from ...errors import OutputFolderError, PeerError
from ...files import staged, write_json
from ...reports.adapter_folder import ADAPTER_CONFIG
from ...reports.run_record import HUB, RunRecord, hub_id, read_run
from ...reports.samples import SAMPLES_FILE
from ...reports.text import last_part, one_line
from ...tasks.base import Task
from ...tasks.registry import make_task
from ...tasks.run_splits import load_run_splits
from ...tasks.space import DATA, SAMPLES, SpaceTask
from ..files import select
from ..names import choose_peers
from .readme import GRADIO, readme

FOLDER = "space"
MOST_SAMPLES = 12


@dataclass
class MadeSpace:
    """What [`write_space`] made.

    Args:
        folder (`Path`): of the Space.
        models (`list[str]`): Hub ids of the models that it fetches when it runs.
        notes (`list[str]`): what is not in it, and why.
    """

    folder: Path
    models: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


def write_space(
    run_dir: str | Path,
    out: str | Path | None = None,
    *,
    peers: Sequence[str] | Mapping[str, tuple[str, str]] | None = None,
    dataset: str | None = None,
    samples: int = MOST_SAMPLES,
    task: Task | None = None,
) -> MadeSpace:
    """
    Write a folder that is a whole Space: the app, its requirements, `README.md`, `data/`.

    A peer's start comes from the Hub at the commit that the run used; a start that was a folder, and a peer of which
    no repository is said, is copied into `data/peers/`, weights and configuration only.

    Args:
        run_dir (`str` or `Path`): a run that has ended.
        out (`str` or `Path`, *optional*): the folder, replaced where it is an earlier Space; `space/` in the run when
            unset.
        peers (`list[str]` or `dict[str, tuple[str, str]]`, *optional*): only these; by name with the Hub id and commit
            that each is fetched from, see [`find_pushed`].
        dataset (`str`, *optional*): where the data set is now, for the samples; as the run had it when unset.
        samples (`int`, *optional*, defaults to 12): test samples that visitors can pick, flipped ones first; 0 for
            none, which needs no data.
        task ([`Task`], *optional*): the run's, where it is none of [`TASKS`].

    Returns:
        [`MadeSpace`]

    Raises:
        [`OutputFolderError`]: no run, or a folder in use.
        [`PeerError`]: a peer that transformers cannot load without its own code.
        [`DataError`]: the data set cannot be found.

    Example:

    ```python
    >>> write_space("runs/vit_classify").folder
    PosixPath('runs/vit_classify/space')
    ```
    """
    check_number("samples", samples, NOT_NEGATIVE)
    run = read_run(run_dir)
    task = task or make_task(run.task)
    part = task.space
    if part is None:
        raise OutputFolderError(f"{run_dir}: there is no Space for {task.name} yet")
    names = choose_peers(run, None if peers is None else list(peers))
    pushed = peers if isinstance(peers, Mapping) else {}
    place = Path(out) if out else run.folder / FOLDER
    if place.exists() and not (place / DATA / "facts.json").is_file():
        raise OutputFolderError(f"{place} is in use and no earlier Space; choose another folder with --out")
    made = MadeSpace(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    with staged(place) as folder:
        (folder / DATA).mkdir()
        part.write_app(folder)
        configs = {name: _config(run, name, part) for name in names}
        ends = {name: _end(run, name, folder, pushed.get(name), part) for name in names}
        described = [
            _describe(run, name, folder, config=config, end=ends[name], made=made) | part.peer_facts(run.folder / name)
            for name, config in configs.items()
        ]
        shown = []
        if samples:
            (folder / SAMPLES).mkdir()
            shown = part.write_samples(
                run, load_run_splits(run.record, dataset, task).test, described, folder, samples
            )
        write_json(folder / DATA / "facts.json", _facts(run, part, described, shown))
        packages = requirements(run, part.packages(list(configs.values())))
        (folder / "requirements.txt").write_text(packages, encoding="utf-8")
        (folder / "README.md").write_text(readme(run, names, made.models, described, part), encoding="utf-8")
    return made


def _facts(
    run: RunRecord, task: SpaceTask, peers: list[dict[str, Any]], samples: list[dict[str, Any]]
) -> dict[str, Any]:
    """All that the app shows and is no file."""
    objective = run.record.get("objective") or {}
    descriptions = [(objective.get(part) or {}).get("description", "") for part in ("rule", "source")]
    dataset = run.dataset
    data = last_part(str(dataset.get("name") or "the data set"))
    names = ", ".join(peer["name"] for peer in peers)
    intro = f"Pretrained models for {run.words.title} that taught each other on {one_line(data)}."
    return {
        "task": run.record["task"],
        "view": task.files[-1].removesuffix(".py"),
        "title": f"{names}: before and after",
        "intro": [
            " ".join([intro, one_line(str(dataset.get("note") or ""), 300)]).strip(),
            f"Give {task.thing}: on each, the peer that knows the truth best would teach the others.",
        ],
        "thing": task.thing,
        "rule": " ".join(filter(None, descriptions)),
        "score": task.score,
        "several": task.several,
        "labels": [one_line(label) for label in run.labels],
        "peers": peers,
        "samples": samples,
        "samples_label": "Test samples" + ("; flipped ones first" if (run.folder / SAMPLES_FILE).is_file() else ""),
    }


def _describe(
    run: RunRecord, name: str, folder: Path, *, config: Any, end: dict[str, Any], made: MadeSpace
) -> dict[str, Any]:
    """One peer: where its weights are before and after, which of its outputs are the labels, what is said of it."""
    peer = run.peers[name]
    parameters = int(peer.get("parameters") or 0)
    made.models += [end["repo"]] if "repo" in end else []
    start, why = _start(run, name, folder, config, made)
    base = hub_id(peer.get("source"), peer.get("revision"))
    return {
        "name": name,
        "said": _said(run, name, parameters),
        "columns": align_labels(name, label_list(config), dataset_labels=run.labels, mode="subset")
        if run.labels
        else None,
        "start": start and start | {"parameters": parameters},
        "no_start": why,
        "end": end | {"parameters": parameters},
        "card": f"{HUB}/{end['repo']}" if "repo" in end else None,
        "base_card": f"{HUB}/{base}/tree/{peer['revision']}" if base else None,
    }


def _end(run: RunRecord, name: str, folder: Path, pushed: tuple[str, str] | None, task: SpaceTask) -> dict[str, Any]:
    """Where a trained peer is: on the Hub, or copied into the Space."""
    if pushed:
        return {"repo": pushed[0], "revision": pushed[1]}
    return {"folder": _copy(run.folder / name, folder, name, "end", task.processor_files)}


def _config(run: RunRecord, name: str, task: SpaceTask) -> Any:
    """The configuration of a trained peer, or why the app could not show it."""
    folder = run.folder / name
    if (folder / ADAPTER_CONFIG).is_file():
        raise PeerError(
            f"peer {name!r} is an adapter, and a Space shows whole models; train with --merge_adapters true"
        )
    if not (folder / "config.json").is_file():
        raise PeerError(f"peer {name!r} is a module of your own: a Space shows models that transformers can load")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise PeerError(f"peer {name!r} cannot be shown in a Space, which runs no foreign code: {error}") from None
    task.check(name, config)
    return config


def _start(run: RunRecord, name: str, folder: Path, config: Any, made: MadeSpace) -> tuple[dict[str, Any] | None, str]:
    """Where a peer's start is, or in words for the visitor why there is none to show."""
    peer = run.peers[name]
    source, revision = str(peer.get("source") or ""), peer.get("revision")
    no_head = "It started without a classifier for these labels."
    if peer.get("new_head") or run.recipe.get("label_alignment") == "new_head":
        return None, no_head
    if found := hub_id(source, revision):
        made.models.append(found)
        return {"repo": found, "revision": revision}, ""
    local = Path(source).expanduser()
    if not (local / "config.json").is_file():
        made.notes.append(f"{name}: its start, {source or 'unknown'}, is not here; the Space shows it only after")
        return None, "Its start is not at hand."
    if label_list(AutoConfig.from_pretrained(local, trust_remote_code=False)) != label_list(config):
        return None, no_head
    return {"folder": _copy(local, folder, name, "start")}, ""


def _copy(source: Path, folder: Path, name: str, phase: str, processor_files: Sequence[str] = ()) -> str:
    """Copy what a model needs to be loaded, and these patterns of files; its path in the Space."""
    place = folder / DATA / "peers" / name / phase
    place.mkdir(parents=True)
    for file in select(source).files:
        is_weights = file.name.endswith((".safetensors", ".safetensors.index.json")) or file.name == "config.json"
        is_wanted = is_weights or any(fnmatch(file.name, pattern) for pattern in processor_files)
        if "/" in file.name or not is_wanted:
            continue
        if isinstance(file.content, bytes):
            (place / file.name).write_bytes(file.content)
        else:
            shutil.copyfile(file.content, place / file.name)
    return place.relative_to(folder).as_posix()


def _said(run: RunRecord, name: str, parameters: int) -> str:
    """A line on one peer: its size, and what was measured on the test split."""
    result = run.peer_results.get(name)
    arms = (("start", "before"), ("mutual", "after"), ("control", "in the control without transfer"))
    values = [(words, result.value(arm, run.words.metric)) for arm, words in arms] if result else []
    shown = [f"{run.words.unit(value)} {words}" for words, value in values if value is not None]
    size = f"{parameters / 1e6:.3g} M parameters" if parameters else ""
    on = f"{run.words.metric} on the test split: {', '.join(shown)}" if shown else ""
    return "; ".join(filter(None, (size, on)))


def requirements(run: RunRecord, packages: Sequence[str]) -> str:
    """The lines of `requirements.txt`: what the app imports, pinned to what the run used."""
    pins = {name: (run.fact("versions") or {}).get(name) or _installed(name) for name in packages}
    lines = [f"{name}=={pin.split('+')[0]}" if pin else name for name, pin in pins.items()]
    # Without it pip takes a build for GPUs, which is several gigabytes larger.
    return "\n".join(["--extra-index-url https://download.pytorch.org/whl/cpu", f"gradio=={GRADIO}", *lines, ""])


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
