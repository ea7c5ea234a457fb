"""`cohort.json`: the peers of a folder, where they come from, and the software they were made with."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config.options import LabelAlignment
from ..config.peers import PeerSpec, parse_entries
from ..config.places import near_path
from ..errors import PeerError
from ..files import read_json, write_json
from ..reports.text import portable
from .adapters import adapter_facts, base_of
from .quantization import count_parameters

if TYPE_CHECKING:
    from .cohort import Cohort

PACKAGES = (
    "hf-mutual-kd",
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "datasets",
    "evaluate",
    "huggingface-hub",
    "timm",
    "peft",
    "bitsandbytes",
)
COHORT = "cohort.json"


def versions() -> dict[str, str]:
    """Installed versions of the packages that shape a result."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def cohort_facts(cohort: Cohort) -> dict[str, Any]:
    """Task, labels and every peer with its source, commit, architecture and size; ready for JSON.

    With `peer_seconds`, where steps were timed so that places are found again.
    """
    return {
        "task": cohort.task.name,
        "words": cohort.task.words.to_record(),
        "labels": cohort.label_names,
        "peers": {
            name: {
                "source": portable(spec.source),
                "revision": spec.revision,
                "architecture": type(base_of(cohort.model_of(name))).__name__,
                "parameters": count_parameters(cohort.model_of(name)),
                **({"frozen": True} if spec.frozen else {}),
                **adapter_facts(cohort.model_of(name)),
                **({"new_head": True} if name in cohort.new_heads else {}),
            }
            for name, spec in cohort.specs.items()
        },
        "versions": versions(),
        **({} if cohort.peer_seconds is None else {"peer_seconds": dict(cohort.peer_seconds)}),
    }


def write_record(cohort: Cohort, folder: Path) -> None:
    """Say in `folder/cohort.json` which peers lie there; what a training has written says more, and stays."""
    path = folder / COHORT
    if not (path.is_file() and "objective" in read_json(path)):
        write_json(path, cohort_facts(cohort))


class CohortFacts(NamedTuple):
    """What a record says of its cohort."""

    task: str
    labels: list[str] | None
    label_alignment: LabelAlignment | None


def peers_of_folder(folder: str | Path) -> tuple[dict[str, PeerSpec], CohortFacts]:
    """The peers of a finished run, or of what `Cohort.save_pretrained` wrote, and what its record says of them.

    Raises:
        [`PeerError`]: it is no such folder, or lacks a peer.
    """
    place = Path(folder).expanduser()
    if not (place / COHORT).is_file():
        raise PeerError(
            f"{folder} is no folder of a cohort: it has no {COHORT}{near_path(str(folder))}; of single peers give a "
            f"list or mapping, such as [{str(folder)!r}]"
        )
    record = read_json(place / COHORT, error=PeerError)
    if not isinstance(record.get("peers"), dict) or not isinstance(record.get("task"), str):
        raise PeerError(f"{place / COHORT} is damaged: expected a task and its peers by name")
    for name in record["peers"]:
        if not (place / name).is_dir():
            raise PeerError(f"{folder} lacks its peer {name!r}: the run has not ended, or the folder is not whole")
    # What had a new head has the data set's labels now.
    aligned = (record.get("recipe") or {}).get("label_alignment")
    facts = CohortFacts(record["task"], record.get("labels"), aligned if aligned in ("subset", "overlap") else None)
    return {name: PeerSpec(str(place / name)) for name in record["peers"]}, facts


def with_names(peers: Any) -> Any:
    """Peers by name: a list of sources is called by their last parts.

    Raises:
        [`PeerError`]: two have one name, or what has no source has no name.
    """
    if not isinstance(peers, list | tuple):
        return peers
    if not all(isinstance(peer, str | Path | PeerSpec) for peer in peers):
        raise PeerError("modules have no names of their own; give the peers as a mapping of names to them")
    named = parse_entries(str(peer) for peer in peers)
    facts = {name: peer for name, peer in zip(named, peers, strict=True) if isinstance(peer, PeerSpec)}
    return {**named, **facts}
