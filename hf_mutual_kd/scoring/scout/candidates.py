"""Candidates of the scout: found on the Hub or given, looked at before their weights are pulled, removed again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

from ...config.options import LabelAlignment
from ...distillation.label_alignment import align_labels, label_list
from ...errors import HubError, LabelError, PeerError
from ...hub.calls import HubCalls, bounded
from ...peers.config_files import read_config
from ...peers.loading import check_task, peer_errors, pinned
from ...peers.spec import RESERVED_NAMES, RESERVED_PREFIXES, PeerSpec
from ...peers.weight_files import check_weight_files
from ...tasks.registry import Task

PER_LIMIT = 5
"""Models of a search that are looked at for each one that is wanted: most have other labels."""

SMALL_FILES = re.compile(r"(config|preprocessor_config|processor_config)\.json|model\.safetensors\.index\.json")
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")


class Unusable(Exception):
    """Why a candidate cannot take part, in words for the report."""


@dataclass(frozen=True)
class Limits:
    """
    What a candidate may be.

    Args:
        max_params (`int`, *optional*): parameters.
        max_disk (`int`, *optional*): bytes that pulled weights may take together.
        license (`str`, *optional*): as on the Hub, e.g. `"apache-2.0"`; of folders nothing is known and nothing asked.
        trust_remote_code (`bool`, *optional*, defaults to `False`): run code that a repository brings.
    """

    max_params: int | None = None
    max_disk: int | None = None
    license: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Wanted:
    """
    What is looked for.

    Args:
        model (`str`): mine, `ID_OR_FOLDER[@REVISION]`.
        candidates (`list[str]`): Hub ids or folders.
        search (`str`, *optional*): words in the names of models on the Hub, or the task's name for all of its models.
        limit (`int`): candidates that a search should bring.
        limits ([`Limits`]): what a candidate may be.
        deadline_s (`float`, *optional*): seconds after which no further candidate is begun.
        budget (`int`, *optional*): parameters of all partners together.
        label_alignment (`str`): as in recipes.
    """

    model: str
    candidates: list[str] = field(default_factory=list)
    search: str | None = None
    limit: int = 20
    limits: Limits = Limits()
    deadline_s: float | None = None
    budget: int | None = None
    label_alignment: LabelAlignment = "exact"


@dataclass(frozen=True)
class Candidate:
    """
    A model that can take part as far as one can know without its weights.

    Args:
        name (`str`): in tables and as a peer.
        source (`str`): as given or found.
        spec ([`PeerSpec`]): pinned to a commit.
        files (`dict[str, int]`): bytes of each file to pull; empty for a folder.
        downloads (`int`, *optional*): on the Hub, of the last 30 days.
        license (`str`, *optional*): as on the Hub.
    """

    name: str
    source: str
    spec: PeerSpec
    files: dict[str, int] = field(default_factory=dict)
    downloads: int | None = None
    license: str | None = None

    @property
    def size(self) -> int:
        """Bytes that are not in the cache yet."""
        return sum(size for name, size in self.files.items() if self._cached(name) is None)

    def paths(self) -> dict[str, Path | None]:
        """Where each file lies in the cache."""
        return {name: self._cached(name) for name in self.files}

    def pull(self, calls: HubCalls) -> dict[str, int]:
        """Bring all files into the cache; returns those that were not there before, with their bytes.

        Raises:
            [`HubError`]: the Hub failed, or the time is over.
        """
        pulled = {}
        for name, size in self.files.items():
            if self._cached(name) is None:
                calls.call(f"pulling {name} of {self.source}", partial(self._download, name), size)
                pulled[name] = size
        return pulled

    def _download(self, name: str) -> str:
        return hf_hub_download(self.spec.source, name, revision=self.spec.revision)

    def _cached(self, name: str) -> Path | None:
        found = try_to_load_from_cache(self.spec.source, name, revision=self.spec.revision)
        return Path(found) if isinstance(found, str) else None


def find(calls: HubCalls, task: Task, words: str, limits: Limits, limit: int) -> Iterator[str]:
    """
    Hub ids of models for a task, most downloaded first.

    Args:
        calls ([`HubCalls`]): the Hub.
        task ([`Task`]): whose models.
        words (`str`): in their names; the task's own name stands for all of them.
        limits ([`Limits`]): licence and parameters, as far as the Hub can choose by them.
        limit (`int`): candidates that are wanted; a multiple is listed, as most have other labels.
    """
    asked: dict[str, Any] = {"pipeline_tag": task.name, "sort": "downloads", "limit": PER_LIMIT * limit}
    if words and words != task.name:
        asked["search"] = words
    if limits.license:
        asked["filter"] = f"license:{limits.license}"
    if limits.max_params:
        asked["num_parameters"] = f"max:{limits.max_params}"
    found = calls.call("searching the Hub", lambda: list(calls.api.list_models(**asked)))
    yield from (model.id for model in found)


def examine(
    source: str,
    name: str,
    task: Task,
    *,
    label_names: Sequence[str],
    wanted: Wanted,
    calls: HubCalls,
) -> Candidate:
    """
    Look at a candidate without its weights.

    Raises:
        [`Unusable`]: it cannot take part; says why.
    """
    limits = wanted.limits
    try:
        candidate = Candidate(name, source, PeerSpec.parse(source))
        if not Path(candidate.spec.source).is_dir():
            candidate = _on_the_hub(candidate, limits, calls)
        elif not (Path(source) / "config.json").is_file():
            raise Unusable("the folder has no config.json; it is no model folder")
        with peer_errors(name, candidate.spec):
            spec = bounded(lambda: pinned(candidate.spec), min(calls.patience.call_s, calls.left))
            config = read_config(name, spec, limits.trust_remote_code)
            check_weight_files(spec.source, spec.revision, config)
            check_task(name, config, task)
        align_labels(name, label_list(config), dataset_labels=label_names, mode=wanted.label_alignment)
    except (PeerError, LabelError, HubError) as error:
        raise Unusable(plain_reason(name, error)) from error
    if limits.max_disk is not None and candidate.size > limits.max_disk:
        raise Unusable(f"too large: {candidate.size:,} bytes to pull are more than --max_disk {limits.max_disk:,}")
    return replace(candidate, spec=spec)


def _on_the_hub(candidate: Candidate, limits: Limits, calls: HubCalls) -> Candidate:
    """What the Hub says of a repository: files with sizes, parameters, licence."""
    if constants.HF_HUB_OFFLINE:
        return candidate
    spec = candidate.spec
    info = calls.call(
        f"asking the Hub for {spec.source}",
        lambda: calls.api.model_info(spec.source, revision=spec.revision, files_metadata=True),
    )
    files = {file.rfilename: file.size or 0 for file in info.siblings or []}
    if not any(WEIGHTS.fullmatch(name) for name in files):
        raise Unusable("brings no weights as safetensors; pickled ones (.bin) are never read")
    parameters = info.safetensors.total if info.safetensors else None
    if limits.max_params is not None and parameters is not None and parameters > limits.max_params:
        raise Unusable(f"too large: {parameters:,} parameters are more than --max_params {limits.max_params:,}")
    license = next((tag[8:] for tag in info.tags or [] if tag.startswith("license:")), None)
    if limits.license and license != limits.license:
        raise Unusable(f"its licence is {license or 'not stated'}, asked for was {limits.license}")
    wanted = {name: size for name, size in files.items() if SMALL_FILES.fullmatch(name) or WEIGHTS.fullmatch(name)}
    pinned_spec = replace(spec, revision=info.sha or spec.revision)
    return replace(candidate, spec=pinned_spec, files=wanted, downloads=info.downloads, license=license)


def plain_reason(name: str, error: Exception) -> str:
    """An error's words without the peer's name, which the report says already."""
    return str(error).removeprefix(f"peer {name!r}: ").replace(f"peer {name!r}", "it")


def name_for(source: str, taken: Mapping[str, Any] | Sequence[str]) -> str:
    """
    A peer's name from a Hub id or folder.

    Example:

    ```python
    >>> name_for("google/vit-base-patch16-224", [])
    'google-vit-base-patch16-224'
    ```
    """
    path = Path(source)
    text = path.resolve().name if path.is_dir() else source.partition("@")[0]
    plain = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:56].strip("-") or "model"
    if plain.casefold() in RESERVED_NAMES or plain.casefold().startswith(RESERVED_PREFIXES):
        plain = f"model-{plain}"
    folded = {name.casefold() for name in taken}
    numbered = (f"{plain}-{number}" for number in range(2, len(folded) + 3))
    return plain if plain.casefold() not in folded else next(one for one in numbered if one.casefold() not in folded)


class Pulled:
    """
    Weights that the scout brought into the cache; the oldest go again where all would take more than the cap.

    What was in the cache before is never touched.

    Args:
        max_disk (`int`, *optional*): bytes.
        kept (`dict`): by source: `repository`, `revision` and `files` (bytes by name), of an earlier call.
    """

    def __init__(self, max_disk: int | None, kept: Mapping[str, Mapping[str, Any]]):
        self.max_disk = max_disk
        self.kept = {source: dict(entry) for source, entry in kept.items()}

    def make_room(self, size: int) -> None:
        """Remove the oldest until `size` more bytes fit."""
        while self.max_disk is not None and self.kept and size + self.total > self.max_disk:
            self.remove(next(iter(self.kept)))

    @property
    def total(self) -> int:
        """Bytes of all that is kept."""
        return sum(sum(entry["files"].values()) for entry in self.kept.values())

    def add(self, candidate: Candidate, files: Mapping[str, int]) -> None:
        """Remember what was pulled for a candidate."""
        if files:
            spec = candidate.spec
            entry = {"repository": spec.source, "revision": spec.revision, "files": dict(files)}
            self.kept[candidate.source] = entry

    def remove(self, source: str) -> None:
        """Delete the files of one candidate that were pulled for it, and no others."""
        entry = self.kept.pop(source)
        for name in entry["files"]:
            found = try_to_load_from_cache(entry["repository"], name, revision=entry["revision"])
            if not isinstance(found, str):
                continue
            link = Path(found)
            blob = link.resolve()
            link.unlink(missing_ok=True)
            snapshots = link.parents[len(Path(name).parts)]
            linked = any(other.resolve() == blob for other in snapshots.rglob(link.name) if other.is_symlink())
            if blob != link and not linked and blob.parent == snapshots.parent / "blobs":
                blob.unlink(missing_ok=True)
            with suppress(OSError):
                link.parent.rmdir()
