"""One repository, one commit: creates what is missing, replaces what is outdated, keeps what is the user's."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError

from ..errors import HubError, PeerError
from ..reports.readme_merge import merge_readme
from .calls import HubCalls
from .files import PushFile
from .names import PushTarget

README = "README.md"
BINARY = (".safetensors", ".png")
ROOT_WEIGHTS = re.compile(r"model(?:-\d{5}-of-\d{5})?\.safetensors(?:\.index\.json)?")


@dataclass(frozen=True)
class RepoCommit:
    """What goes into one repository with one commit.

    Args:
        repo_id (`str`): where to.
        files (`list[PushFile]`): what.
        message (`str`): of the commit.
        folder (`str`, *optional*): a folder of the repository that is replaced as a whole.
        kind (`str`, *optional*, defaults to `"model"`): or `"space"`.
    """

    repo_id: str
    files: Sequence[PushFile]
    message: str
    folder: str | None = None
    kind: str = "model"

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)

    def outdated(self, present: Sequence[str]) -> list[str]:
        """Files of the repository that this push replaces by none of the same name: weights that were saved in other
        parts, which loaders would take for the model, and what is left of an earlier checkpoint."""
        names = {file.name for file in self.files}
        weights = any(ROOT_WEIGHTS.fullmatch(name) for name in names)
        return [
            name
            for name in present
            if name not in names
            and (weights and ROOT_WEIGHTS.fullmatch(name) or self.folder and name.startswith(f"{self.folder}/"))
        ]


def ensure_repo(calls: HubCalls, repo_id: str, to: PushTarget, kind: str = "model") -> str | None:
    """Create a repository, and its branch, where they are missing; what the user should know of one that exists."""
    api = calls.api

    def visibility() -> bool | None:
        try:
            return bool(api.repo_info(repo_id, repo_type=kind).private)
        except RepositoryNotFoundError:
            return None

    present = calls.call(f"looking for {repo_id}", visibility)
    if present is None:
        # Without write permission the client reports success where the repository can be seen; the commit tells then.
        sdk = "gradio" if kind == "space" else None
        create = partial(api.create_repo, repo_id, repo_type=kind, space_sdk=sdk, private=to.private, exist_ok=True)
        calls.call(f"creating {repo_id}", create)
    if to.revision not in (None, "main"):
        branch = str(to.revision)
        calls.call(
            f"creating branch {branch} of {repo_id}",
            lambda: api.create_branch(repo_id, branch=branch, repo_type=kind, exist_ok=True),
        )
    if present is None or to.private is None or present == to.private:
        return None
    return f"{repo_id} existed and stays {'private' if present else 'public'}"


def send(calls: HubCalls, parcel: RepoCommit, to: PushTarget) -> tuple[str, bool]:
    """Make one commit of a parcel: the head's sha afterwards, and whether it is new.

    Every attempt looks at the repository afresh, so that a commit whose reply was lost is found and not made again.
    """
    api, repo_id = calls.api, parcel.repo_id
    where: dict[str, Any] = {"repo_type": parcel.kind}
    heads: list[str] = []

    def attempt() -> str:
        head = str(api.repo_info(repo_id, revision=to.revision, **where).sha)
        heads.append(head)
        present = api.list_repo_files(repo_id, revision=head, **where)
        operations: list[Any] = [CommitOperationDelete(name) for name in parcel.outdated(present)]
        operations += list(_additions(parcel, calls, head if README in present else None))
        for operation in operations:
            # One by one they go up in this thread, a daemon. Several at once would go up in threads that a process
            # waits for at its end, even where the server has gone silent.
            if isinstance(operation, CommitOperationAdd) and operation.path_in_repo.endswith(BINARY):
                api.preupload_lfs_files(repo_id, [operation], revision=to.revision, free_memory=False, **where)
        return api.create_commit(
            repo_id, operations, commit_message=parcel.message, revision=to.revision, parent_commit=head, **where
        ).oid

    sha = calls.call(f"pushing to {repo_id}", attempt, parcel.size)
    return sha, sha != heads[0]


def _additions(parcel: RepoCommit, calls: HubCalls, readme_at: str | None) -> Iterator[CommitOperationAdd]:
    for file in parcel.files:
        content: bytes | str = file.content if isinstance(file.content, bytes) else str(file.content)
        if file.name == README and readme_at:
            present = _fetch_readme(calls, parcel, readme_at)
            try:
                content = merge_readme(file.read().decode("utf-8"), present, f"README.md of {parcel.repo_id}").encode()
            except PeerError as error:
                raise HubError(f"pushing to {parcel.repo_id} is refused: {error}") from error
        yield CommitOperationAdd(file.name, content)


def _fetch_readme(calls: HubCalls, parcel: RepoCommit, head: str) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = calls.api.hf_hub_download(
                parcel.repo_id, README, revision=head, repo_type=parcel.kind, cache_dir=folder
            )
        except RemoteEntryNotFoundError:
            return None
        return Path(path).read_text(encoding="utf-8", errors="replace")
