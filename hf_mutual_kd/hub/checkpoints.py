"""Pushes checkpoints while training goes on, and brings back one from which training resumes exactly."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from transformers.utils import logging

from ..config.hub_ids import PEER_FOLDER
from ..errors import HubError
from ..files import staged
from ..reports.adapter_folder import ADAPTER_CONFIG
from ..reports.run_record import RunRecord, read_run
from .calls import FAILURES, HubCalls, Patience, as_hub_error
from .commit import RepoCommit, ensure_repo, send
from .files import PushFile, refuse_secrets, select, to_json
from .names import PushTarget, brings_code, names_of
from .plain_state import is_convertible, read_plain, write_plain

logger = logging.get_logger(__name__)

STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints")
LAST = "last-checkpoint"
MANIFEST = "pushed_checkpoint.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
RESUMABLE = ("checkpoint", "all_checkpoints")
LEFT_BEHIND = frozenset({"training_args.bin"})
KEPT = ".pushing-"
FETCHED = (".json", ".safetensors", ".txt", ".jinja")


@dataclass(frozen=True)
class PushedCheckpoint:
    """Result of [`push_checkpoint`].

    Args:
        step (`int`): of training.
        commits (`dict[str, str]`): sha of each peer's repository.
        repositories (`dict[str, str]`): repository of each peer; the first holds the state to resume from.
    """

    step: int
    commits: dict[str, str]
    repositories: dict[str, str]


def push_checkpoint(
    run_dir: str | Path,
    checkpoint: str | Path,
    strategy: str = "every_save",
    to: PushTarget | None = None,
    patience: Patience | None = None,
) -> PushedCheckpoint:
    """Push a checkpoint: every peer's weights to its own repository, one commit each.

    At the top of a repository lie the best weights so far, or those of the checkpoint where nothing was evaluated.
    `"checkpoint"` and `"all_checkpoints"` also push what training resumes from, below `last-checkpoint/` or
    `checkpoint-N/`: each peer's part in its own repository, all else in that of the first peer, together with a list
    of the commits that belong together. Pickles never leave: they are converted to JSON and safetensors.

    Args:
        run_dir (`str` or `Path`): folder of the run, with `cohort.json`.
        checkpoint (`str` or `Path`): its `checkpoint-N`.
        strategy (`str`, *optional*, defaults to `"every_save"`): as `hub_strategy`; `"end"` pushes nothing here.
        to ([`PushTarget`], *optional*): where to.
        patience ([`Patience`], *optional*): bounds of time.

    Returns:
        [`PushedCheckpoint`]

    Raises:
        [`HubError`]: the checkpoint cannot be pushed as asked, or the Hub failed.
    """
    if strategy not in STRATEGIES[1:]:
        raise HubError(f"strategy must be one of {', '.join(STRATEGIES[1:])}, got {strategy!r}")
    run, checkpoint = read_run(run_dir), Path(checkpoint)
    step = _step_of(checkpoint)
    to = to or PushTarget()
    folder = LAST if strategy == "checkpoint" else f"checkpoint-{step}"
    with tempfile.TemporaryDirectory() as scratch:
        parts = {peer: _peer_files(run, checkpoint, peer, strategy, folder) for peer in run.peers}
        first = next(iter(run.peers))
        if strategy in RESUMABLE:
            parts[first] += [_below(folder, file) for file in _state_files(checkpoint, list(run.peers), Path(scratch))]
        for files in parts.values():
            refuse_secrets(files, run.folder, to.token_in_use)
        return _send_all(
            run, parts, to, patience=patience, step=step, folder=folder if strategy in RESUMABLE else None
        )


def _send_all(
    run: RunRecord,
    parts: dict[str, list[PushFile]],
    to: PushTarget,
    *,
    patience: Patience | None,
    step: int,
    folder: str | None,
) -> PushedCheckpoint:
    size = sum(file.size for files in parts.values() for file in files)
    calls = HubCalls(to.token, to.endpoint, patience, size)
    if to.namespace is None:
        to = replace(to, namespace=calls.call("asking the Hub who you are", lambda: calls.api.whoami()["name"]))
    first, *rest = run.peers
    names = names_of(run, list(run.peers), to)
    commits: dict[str, str] = {}
    # The first peer last: its list of commits must name those of the others.
    for peer in [*rest, first]:
        files = parts[peer]
        if folder and peer == first:
            others = {name: {"repo_id": names[name], "revision": commits.get(name)} for name in run.peers}
            files = [*files, PushFile(f"{folder}/{MANIFEST}", to_json({"step": step, "peers": others}))]
        ensure_repo(calls, names[peer], to)
        parcel = RepoCommit(names[peer], files, f"Training in progress, step {step}", folder)
        commits[peer], _ = send(calls, parcel, to)
    return PushedCheckpoint(step, {peer: commits[peer] for peer in run.peers}, names)


def _step_of(checkpoint: Path) -> int:
    match = CHECKPOINT.fullmatch(checkpoint.name)
    if match is None or not checkpoint.is_dir():
        raise HubError(f"{checkpoint} is no checkpoint; expected a folder called checkpoint-N")
    return int(match[1])


def _peer_files(run: RunRecord, checkpoint: Path, peer: str, strategy: str, folder: str) -> list[PushFile]:
    """The peer's model for the top of its repository, and its part of what training resumes from."""
    now, best = checkpoint / peer, checkpoint / "best" / peer
    files = list(select(best if best.is_dir() else now, brings_code(run)).files)
    if strategy in RESUMABLE:
        for name, place in ((peer, now), (f"best/{peer}", best)):
            if place.is_dir():
                files += [_below(f"{folder}/{name}", file) for file in select(place, brings_code(run)).files]
    return files


def _below(folder: str, file: PushFile) -> PushFile:
    return replace(file, name=f"{folder}/{file.name}")


def _state_files(checkpoint: Path, peers: list[str], scratch: Path) -> list[PushFile]:
    """What a checkpoint holds besides peers, in forms that may be pushed."""
    files: list[PushFile] = []
    for path in sorted(checkpoint.iterdir()):
        if path.name in LEFT_BEHIND or path.is_dir() and path.name in (*peers, "best"):
            continue
        if is_convertible(path.name):
            files += [PushFile(made.name, made) for made in write_plain(path, scratch)]
        elif path.suffix == ".json" and path.is_file():
            files.append(PushFile(path.name, _without_paths(path)))
        else:
            raise HubError(
                f"{checkpoint.name}/{path.name} is state of a sharded run, which cannot be pushed without pickles; "
                "use hub_strategy 'every_save' to push the peers alone"
            )
    return files


def _without_paths(path: Path) -> bytes | Path:
    """The Trainer records where its best checkpoint lay; that is of no use elsewhere."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if path.name != "trainer_state.json" or content.get("best_model_checkpoint") is None:
        return path
    return to_json(content | {"best_model_checkpoint": None})


def pull_checkpoint(
    repo_id: str,
    into: str | Path,
    folder: str = LAST,
    *,
    revision: str | None = None,
    calls: HubCalls,
) -> Path:
    """Bring back a checkpoint that [`push_checkpoint`] pushed, with all peers as they were at that step.

    Args:
        repo_id (`str`): repository of the cohort's first peer.
        into (`str` or `Path`): output folder of the run that shall resume.
        folder (`str`, *optional*, defaults to `"last-checkpoint"`): or `"checkpoint-N"`.
        revision (`str`, *optional*): branch, tag or commit of that repository.
        calls ([`HubCalls`]): the Hub.

    Returns:
        `Path`: `into/checkpoint-N`, for `resume_from_checkpoint`; it appears whole or not at all.

    Raises:
        [`HubError`]: there is no such checkpoint, it is damaged, or it exists in `into` already.
    """
    if folder != LAST and not CHECKPOINT.fullmatch(folder):
        raise HubError(f"folder must be {LAST} or checkpoint-N, got {folder!r}")
    home = _fetch(calls, repo_id, revision, folder)
    step, others = _read_manifest(home / MANIFEST, repo_id, folder)
    place = Path(into) / f"checkpoint-{step}"
    if place.exists():
        raise HubError(f"{place} exists already; resume from it, or pull into another folder")
    with staged(place) as made:
        for name, (their_id, their_revision) in others.items():
            part = home if their_revision is None else _fetch(calls, their_id, their_revision, folder)
            for inner in (name, f"best/{name}"):
                if (part / inner).is_dir():
                    shutil.copytree(part / inner, made / inner)
        for path in sorted(home.glob("*.json")):
            if is_convertible(path.stem):
                read_plain(path, made)
            elif path.name != MANIFEST:
                shutil.copyfile(path, made / path.name)
        kinds = ("config.json", ADAPTER_CONFIG)
        missing = [name for name in others if not any((made / name / kind).is_file() for kind in kinds)]
        if missing:
            raise HubError(f"{folder} of {repo_id} is not whole: peer {missing[0]!r} is missing from its repository")
    return place


def _fetch(calls: HubCalls, repo_id: str, revision: str | None, folder: str) -> Path:
    """Download a folder of a repository at one commit; files that are in the cache are not fetched again."""
    api, what = calls.api, f"fetching {folder} of {repo_id}"
    sha = calls.call(what, lambda: api.model_info(repo_id, revision=revision).sha)
    entries = calls.call(what, lambda: list(api.list_repo_tree(repo_id, folder, recursive=True, revision=sha)))
    size = sum(getattr(entry, "size", 0) for entry in entries)
    calls.allow(size)
    patterns = [f"{folder}/*{suffix}" for suffix in FETCHED]
    fetch = partial(api.snapshot_download, repo_id, revision=sha, allow_patterns=patterns)
    return Path(calls.call(what, fetch, size)) / folder


def _read_manifest(path: Path, repo_id: str, folder: str) -> tuple[int, dict[str, tuple[str, str | None]]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        step = int(record["step"])
        peers = {name: (str(one["repo_id"]), one["revision"]) for name, one in record["peers"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HubError(
            f"{repo_id} holds no checkpoint in {folder}; give the repository of the cohort's first peer, pushed with "
            "hub_strategy 'checkpoint' or 'all_checkpoints'"
        ) from error
    if not peers or not all(PEER_FOLDER.fullmatch(name) for name in peers):
        raise HubError(f"{MANIFEST} of {repo_id} names peers that cannot be folders")
    return step, peers


class PushInBackground:
    """Pushes checkpoints in a thread of its own, one at a time; a failure is one warning and training goes on.

    A checkpoint is first linked to a place of its own, so that it may be rotated away meanwhile. Where saves come
    faster than pushes, the newest waits and older ones are dropped, except for `"all_checkpoints"`.

    Args:
        run_dir (`str` or `Path`): folder of the run.
        strategy (`str`): as `hub_strategy`.
        to ([`PushTarget`], *optional*): where to.
        patience ([`Patience`], *optional*): bounds of time of each push.

    Attributes:
        pushed (`list[PushedCheckpoint]`): what has arrived.

    Example:

    ```python
    >>> pushes = PushInBackground("runs/vit", "checkpoint", PushTarget("ada"))
    >>> pushes.push_checkpoint("runs/vit/checkpoint-500")  # comes back at once
    >>> pushes.finish()
    ```
    """

    def __init__(
        self, run_dir: str | Path, strategy: str, to: PushTarget | None = None, patience: Patience | None = None
    ):
        if strategy not in STRATEGIES:
            raise HubError(f"hub_strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
        self.run_dir, self.strategy, self.to, self.patience = Path(run_dir), strategy, to, patience
        self.pushed: list[PushedCheckpoint] = []
        self._waiting: deque[Path] = deque()
        for left in self.run_dir.glob(f"{KEPT}*"):
            shutil.rmtree(left, ignore_errors=True)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def push_checkpoint(self, checkpoint: str | Path) -> None:
        """Push this checkpoint as soon as the one before is done; returns at once."""
        if self.strategy == "end":
            return
        try:
            # Beside the run's checkpoints, as links do not reach into other file systems.
            kept = Path(tempfile.mkdtemp(prefix=KEPT, dir=self.run_dir)) / Path(checkpoint).name
            _keep(Path(checkpoint), kept)
        except OSError as error:
            logger.warning("%s is not pushed: %s", Path(checkpoint).name, error)
            return
        with self._lock:
            if self.strategy != "all_checkpoints":
                while self._waiting:
                    _remove(self._waiting.popleft())
            self._waiting.append(kept)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="hub-push")
                self._thread.start()

    def finish(self) -> list[PushedCheckpoint]:
        """Wait until nothing is under way; every push ends by its own deadline."""
        while True:
            with self._lock:
                thread = self._thread
            if thread is None:
                return self.pushed
            thread.join()

    def _work(self) -> None:
        try:
            while (kept := self._next()) is not None:
                try:
                    self._push(kept)
                finally:
                    _remove(kept)
        finally:
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _next(self) -> Path | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._thread = None
            return None

    def _push(self, kept: Path) -> None:
        try:
            self.pushed.append(push_checkpoint(self.run_dir, kept, self.strategy, self.to, self.patience))
        except (*FAILURES, SafetensorError) as error:
            failure = error if isinstance(error, HubError) else as_hub_error("the push", error)
            logger.warning("%s is not pushed, training goes on: %s", kept.name, failure)


def _keep(checkpoint: Path, kept: Path) -> None:
    """Copy by hard links, or really where there are none; links stay links, so that what they lead to stays here."""
    try:
        shutil.copytree(checkpoint, kept, symlinks=True, copy_function=os.link)
    except OSError:
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(checkpoint, kept, symlinks=True)


def _remove(kept: Path) -> None:
    shutil.rmtree(kept.parent, ignore_errors=True)
