"""Makes a Space of a run: a folder with a Gradio app in which visitors ask the peers, before and after."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoConfig

from .alignment import align_labels
from .card_run import HUB, RunRecords, hub_id, read_records
from .card_text import last_part, one_line
from .checkpoints import staged, write_json
from .errors import OutputFolderError, PeerError
from .hub_files import select
from .hub_names import choose_peers, read_run
from .images import decode_image
from .masks import read_mask
from .predictions import PREDICTIONS, read_predictions
from .report_data import choose_flips
from .run_splits import load_run_splits
from .space_readme import GRADIO, readme

FILES = Path(__file__).with_name("space_files")
APP = ("app.py", "peers.py", "answer.py", "uploads.py", "style.css")
FOLDER = "space"
DATA = "data"
"""Inside the Space: all that is made of the run, replaced as a whole by the next push."""

TASKS = {
    "image-classification": "margin of the truth: how far it is ahead of everything else, in nats",
    "semantic-segmentation": "mean log-probability of the truth over the pixels, in nats",
}
"""Tasks that the app can show, and what its scores are called."""
NOT_SHOWN = ("eomt", "eomt_dinov3", "oneformer")
"""Model types whose inputs the app does not make."""
MOST_SIDE = 768
"""Pixels of a sample's longer side, as of the app's uploads."""
SAMPLES = 12
NEEDS_SCIPY = ("maskformer", "mask2former")


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
    peers: Sequence[str] | None = None,
    pushed: dict[str, tuple[str, str]] | None = None,
    dataset: str | None = None,
    samples: int = SAMPLES,
) -> MadeSpace:
    """
    Write a folder that is a whole Space: the app, its requirements, `README.md`, `data/`.

    A peer's start comes from the Hub at the commit that the run used; a start that was a folder, and a peer that is
    not said to be `pushed`, is copied into `data/peers/`, weights and configuration only.

    Args:
        run_dir (`str` or `Path`): a run that has ended.
        out (`str` or `Path`, *optional*): the folder, replaced where it is an earlier Space; `space/` in the run when
            unset.
        peers (`list[str]`, *optional*): only these.
        pushed (`dict[str, tuple[str, str]]`, *optional*): Hub id and commit of peers that are fetched from there.
        dataset (`str`, *optional*): where the data set is now, for the samples; as the run had it when unset.
        samples (`int`, *optional*, defaults to 12): test samples that visitors can pick, flipped ones first; 0 for
            none, which needs no data.

    Returns:
        [`MadeSpace`]

    Raises:
        [`~hf_mutual_kd.errors.OutputFolderError`]: no run, a task that is not shown yet, or a folder in use.
        [`~hf_mutual_kd.errors.PeerError`]: a peer that transformers cannot load without its own code.
        [`~hf_mutual_kd.errors.DataError`]: the data set cannot be found.

    Example:

    ```python
    >>> write_space("runs/vit_classify").folder
    PosixPath('runs/vit_classify/space')
    ```
    """
    run = read_records(Path(run_dir))
    task = str(run.record["task"])
    if task not in TASKS:
        raise OutputFolderError(f"{run_dir}: a Space shows {' and '.join(TASKS)} so far, and this run is {task}")
    names = choose_peers(read_run(run_dir), peers)
    place = Path(out) if out else run.folder / FOLDER
    if place.exists() and not (place / DATA / "facts.json").is_file():
        raise OutputFolderError(f"{place} is in use and no earlier Space; choose another folder with --out")
    made = MadeSpace(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    with staged(place) as folder:
        (folder / DATA).mkdir()
        for name in APP:
            shutil.copyfile(FILES / name, folder / name)
        described = [_describe(run, name, folder, (pushed or {}).get(name), made) for name in names]
        shown = _write_samples(run, folder, dataset, samples) if samples else []
        write_json(folder / DATA / "facts.json", _facts(run, described, shown))
        (folder / "requirements.txt").write_text(requirements(run, names), encoding="utf-8")
        (folder / "README.md").write_text(readme(run, names, made.models, described), encoding="utf-8")
    return made


def _facts(run: RunRecords, peers: list[dict[str, Any]], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """All that the app shows and is no file."""
    objective = run.record.get("objective") or {}
    said = [(objective.get(part) or {}).get("description", "") for part in ("rule", "source")]
    data = last_part(str((run.fact("dataset") or {}).get("name") or "the data set"))
    names = ", ".join(peer["name"] for peer in peers)
    intro = f"Pretrained models for {run.words.title} that taught each other on {one_line(data)}."
    return {
        "task": run.record["task"],
        "title": f"{names}: before and after",
        "intro": [intro, "Give an image: on each, the peer that knows the truth best would teach the others."],
        "rule": " ".join(filter(None, said)),
        "score": TASKS[str(run.record["task"])],
        "labels": [one_line(label) for label in run.labels],
        "peers": peers,
        "samples": samples,
        "samples_label": "Test samples" + ("; flipped ones first" if (run.folder / PREDICTIONS).is_file() else ""),
    }


def _describe(
    run: RunRecords, name: str, folder: Path, pushed: tuple[str, str] | None, made: MadeSpace
) -> dict[str, Any]:
    """One peer: where its weights are before and after, which of its outputs are the labels, what is said of it."""
    config = _config(run, name)
    peer = run.peers[name]
    parameters = int(peer.get("parameters") or 0)
    if pushed:
        end: dict[str, Any] = {"repo": pushed[0], "revision": pushed[1]}
        made.models.append(pushed[0])
    else:
        end = {"folder": _copy(run.folder / name, folder, name, "end", keep_processor=True)}
    start, why = _start(run, name, folder, config, made)
    base = hub_id(peer.get("source"), peer.get("revision"))
    return {
        "name": name,
        "said": _said(run, name, parameters),
        "columns": align_labels(name, _labels(config), run.labels, mode="subset") if run.labels else None,
        "start": start and start | {"parameters": parameters},
        "no_start": why,
        "end": end | {"parameters": parameters},
        "card": f"{HUB}/{pushed[0]}" if pushed else None,
        "base_card": f"{HUB}/{base}/tree/{peer['revision']}" if base else None,
    }


def _config(run: RunRecords, name: str) -> Any:
    """The configuration of a trained peer, or why the app could not show it."""
    folder = run.folder / name
    if not (folder / "config.json").is_file():
        raise PeerError(f"peer {name!r} is a module of your own: a Space shows models that transformers can load")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise PeerError(f"peer {name!r} cannot be shown in a Space, which runs no foreign code: {error}") from None
    if config.model_type in NOT_SHOWN:
        raise PeerError(f"peer {name!r}: a Space does not show models of type {config.model_type} yet")
    return config


def _labels(config: Any) -> list[str]:
    return [str(config.id2label[index]) for index in sorted(config.id2label)]


def _start(
    run: RunRecords, name: str, folder: Path, config: Any, made: MadeSpace
) -> tuple[dict[str, Any] | None, str]:
    """Where a peer's start is, or in words for the visitor why there is none to show."""
    peer = run.peers[name]
    source, revision = str(peer.get("source") or ""), peer.get("revision")
    no_head = "It started without a classifier for these labels."
    if run.recipe.get("label_alignment") == "new_head":
        return None, no_head
    if found := hub_id(source, revision):
        made.models.append(found)
        return {"repo": found, "revision": revision}, ""
    local = Path(source).expanduser()
    if not (local / "config.json").is_file():
        made.notes.append(f"{name}: its start, {source or 'unknown'}, is not here; the Space shows it only after")
        return None, "Its start is not at hand."
    if _labels(AutoConfig.from_pretrained(local, trust_remote_code=False)) != _labels(config):
        return None, no_head
    return {"folder": _copy(local, folder, name, "start", keep_processor=False)}, ""


def _copy(source: Path, folder: Path, name: str, phase: str, keep_processor: bool) -> str:
    """Copy what a model needs to be loaded; its path in the Space."""
    place = folder / DATA / "peers" / name / phase
    place.mkdir(parents=True)
    for file in select(source).files:
        is_weights = file.name.endswith((".safetensors", ".safetensors.index.json")) or file.name == "config.json"
        if "/" in file.name or not (is_weights or keep_processor and "processor" in file.name):
            continue
        if isinstance(file.content, bytes):
            (place / file.name).write_bytes(file.content)
        else:
            shutil.copyfile(file.content, place / file.name)
    return place.relative_to(folder).as_posix()


def _said(run: RunRecords, name: str, parameters: int) -> str:
    """A line on one peer: its size, and what was measured on the test split."""
    result = (run.results.get("peers") or {}).get(name) or {}
    arms = (("start", "before"), ("mutual", "after"), ("control", "in the control without transfer"))
    values = [(words, (result.get(arm) or {}).get(run.words.metric)) for arm, words in arms]
    shown = [f"{run.words.unit(value)} {words}" for words, value in values if value is not None]
    size = f"{parameters / 1e6:.3g} M parameters" if parameters else ""
    on = f"{run.words.metric} on the test split: {', '.join(shown)}" if shown else ""
    return "; ".join(filter(None, (size, on)))


def _write_samples(run: RunRecords, folder: Path, dataset: str | None, most: int) -> list[dict[str, Any]]:
    """Test samples as PNG, with the truth that the app is to know."""
    rows = load_run_splits(run.record, dataset).test
    if hasattr(rows, "__len__"):
        places = _choose_rows(run, len(rows), most)
        chosen = [(place, rows[place]) for place in places]
    else:
        chosen = list(enumerate(itertools.islice(rows, most)))
    place = folder / DATA / "samples"
    place.mkdir(parents=True)
    write: Callable[..., dict[str, Any]] = (
        _write_masked if run.record["task"] == "semantic-segmentation" else _write_labelled
    )
    return [write(row, f"sample {index}", place, f"{DATA}/samples/{number:02d}", run.labels)
            for number, (index, row) in enumerate(chosen)]  # fmt: skip


def _choose_rows(run: RunRecords, count: int, most: int) -> list[int]:
    """Flipped samples first, where the run has kept them, then evenly spaced ones."""
    found = read_predictions(run.folder / PREDICTIONS, list(run.peers))
    flipped = [int(found.ids[row]) for row in choose_flips(found, most)] if found is not None else []
    spaced = [count * place // most for place in range(min(most, count))]
    return [row for row in dict.fromkeys([*flipped, *spaced]) if row < count][:most]


def _write_labelled(row: dict[str, Any], name: str, place: Path, path: str, labels: list[str]) -> dict[str, Any]:
    label = row.get("label")
    _write_image(row, place / f"{path[-2:]}.png")
    truth = one_line(labels[label]) if isinstance(label, int) and 0 <= label < len(labels) else None
    return {"name": name, "image": f"{path}.png", "truth": truth}


def _write_masked(row: dict[str, Any], name: str, place: Path, path: str, labels: list[str]) -> dict[str, Any]:
    image = _write_image(row, place / f"{path[-2:]}.png")
    mask = read_mask(row)
    sample = {"name": name, "image": f"{path}.png", "truth": name}
    if mask is None:
        return sample
    known = mask.where((mask >= 0) & (mask < len(labels)), 255).numpy().astype("uint8")
    Image.fromarray(known).resize(image.size, Image.Resampling.NEAREST).save(place / f"{path[-2:]}_truth.png")
    return sample | {"mask": f"{path}_truth.png"}


def _write_image(row: dict[str, Any], path: Path) -> Image.Image:
    image = decode_image(row["image"])
    image.thumbnail((MOST_SIDE, MOST_SIDE))
    image.save(path)
    return image


def requirements(run: RunRecords, names: Sequence[str]) -> str:
    """The lines of `requirements.txt`: what the app imports, pinned to what the run used."""
    types = {str(_config(run, name).model_type) for name in names}
    wanted = ["torch", "torchvision", "transformers"]
    wanted += ["timm"] if "timm_wrapper" in types else []
    wanted += ["scipy"] if types.intersection(NEEDS_SCIPY) else []
    pins = {name: (run.fact("versions") or {}).get(name) or _installed(name) for name in wanted}
    lines = [f"{name}=={pin.split('+')[0]}" if pin else name for name, pin in pins.items()]
    # Without it pip takes a build for GPUs, which is several gigabytes larger.
    return "\n".join(["--extra-index-url https://download.pytorch.org/whl/cpu", f"gradio=={GRADIO}", *lines, ""])


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
