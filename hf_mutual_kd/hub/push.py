"""Pushes a run to the Hub: one repository and one commit per peer, and a collection for the cohort."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import HubError, PeerError
from ..reports.model_card import write_cards
from ..reports.run_record import RunRecord, read_run
from ..reports.text import split_readme
from .calls import HubCalls, Patience, status_of
from .commit import README, RepoCommit, ensure_repo, send
from .files import PushFile, Selection, refuse_secrets, select
from .names import NAME_TEMPLATE, PushTarget, brings_code, choose_peers, dataset_name, names_of, slug

LONGEST_TITLE = 60


@dataclass
class PushedPeer:
    """What became of one peer.

    Args:
        peer, repo_id, url (`str`): who, and where to.
        files (`dict[str, int]`): bytes of each file.
        left_out (`dict[str, str]`): files that stay here, and why.
        metadata (`dict`): the card's, as built here.
        commit (`str`, *optional*): sha of the repository's head; `None` in a dry run.
        changed (`bool`): whether the push made that commit; nothing is committed where nothing changed.
        note (`str`, *optional*): what the user should know.
    """

    peer: str
    repo_id: str
    url: str
    files: dict[str, int]
    left_out: dict[str, str]
    metadata: dict[str, Any]
    commit: str | None = None
    changed: bool = False
    note: str | None = None

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


@dataclass
class PushReport:
    """Result of [`push_run`].

    Args:
        peers (`list[PushedPeer]`): in the order in which they were pushed.
        collection (`str`, *optional*): its address.
        collection_note (`str`, *optional*): in one line, why there is none.
        dry_run (`bool`): nothing was sent.
    """

    peers: list[PushedPeer]
    collection: str | None = None
    collection_note: str | None = None
    dry_run: bool = False


def push_run(
    run_dir: str | Path,
    to: str | PushTarget | None = None,
    *,
    peers: Sequence[str] | None = None,
    commit_message: str | None = None,
    dry_run: bool = False,
    patience: Patience | None = None,
) -> PushReport:
    """Push the peers of a run, one after the other, each with one commit; nothing changed makes no commit.

    Only known kinds of files inside a peer's own folder go, after a search for tokens and local paths. An existing
    repository keeps its visibility, its other files and what its README says outside our part of it.

    Args:
        run_dir (`str` or `Path`): folder of a run.
        to (`str` or [`PushTarget`], *optional*): user or organisation, or all that can be said of where to; the user
            of the token when unset.
        peers (`list[str]`, *optional*): only these.
        commit_message (`str`, *optional*): names the peer when unset.
        dry_run (`bool`, *optional*, defaults to `False`): look at everything, send nothing.
        patience ([`Patience`], *optional*): bounds of time.

    Returns:
        [`PushReport`]

    Raises:
        [`HubError`]: nothing is pushed where the run, a name or a file is refused. Where the Hub
            fails on the way, the message names what is pushed, what is not, and the command that continues.

    Example:

    ```python
    >>> push_run("runs/vit", "ada").peers[0].url
    'https://huggingface.co/ada/vit-t-beans-mutual'
    ```
    """
    to = to if isinstance(to, PushTarget) else PushTarget(to)
    run = read_run(run_dir)
    chosen = choose_peers(run, peers)
    names = names_of(run, chosen, to)
    packed = {peer: select(run.folder / peer, brings_code(run)) for peer in chosen}
    calls = HubCalls(to.token, to.endpoint, patience, sum(f.size for one in packed.values() for f in one.files))
    if to.namespace is None and not dry_run:
        to = replace(to, namespace=calls.call("asking the Hub who you are", lambda: calls.api.whoami()["name"]))
        names = names_of(run, chosen, to)
    try:
        packed = with_fresh_cards(run, packed, names_of(run, list(run.peers), to) if to.namespace else None)
        planned = [_planned(peer, packed[peer], names[peer], to) for peer in chosen]
    except PeerError as error:
        raise HubError(f"{error} (nothing was sent)") from error
    for peer in chosen:
        files = [replace(file, name=f"{peer}/{file.name}") for file in packed[peer].files]
        refuse_secrets(files, run.folder, to.token_in_use)
    report = PushReport(planned, dry_run=dry_run)
    if dry_run:
        return report
    for index, pushed in enumerate(report.peers):
        message = commit_message or f"Push {pushed.peer}, trained on {dataset_name(run)}"
        parcel = RepoCommit(pushed.repo_id, packed[pushed.peer].files, message)
        try:
            pushed.note = ensure_repo(calls, pushed.repo_id, to)
            pushed.commit, pushed.changed = send(calls, parcel, to)
        except HubError as error:
            raise HubError(_continuation(str(error), run, report.peers, failed=index, to=to)) from error
    if to.collection:
        report.collection, report.collection_note = collect_repositories(calls, run, to, chosen)
    return report


def check_rights(to: PushTarget) -> None:
    """Ask the Hub whether pushing there will be allowed, before the training that leads to it.

    Raises:
        [`HubError`]: the token is missing, unknown, may only read, or the namespace is another's.
    """
    calls = HubCalls(to.token, to.endpoint, Patience(attempts=2))
    asked = "asking the Hub, before training, whether you may push"
    me = calls.call(asked, calls.api.whoami)
    role = ((me.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise HubError(f"{asked}: your token of {me['name']} may only read; create one that may write")
    mine = [me["name"], *(one["name"] for one in me.get("orgs") or [])]
    if to.namespace is not None and to.namespace not in mine:
        raise HubError(f"{asked}: hub_namespace {to.namespace!r} is not yours; you may push to {', '.join(mine)}")
    observers = [one["name"] for one in me.get("orgs") or [] if one.get("roleInOrg") == "read"]
    if to.namespace in observers:
        raise HubError(f"{asked}: your role in {to.namespace!r} is to read; ask its owners for the right to write")


def with_fresh_cards(
    run: RunRecord, packed: Mapping[str, Selection], names: Mapping[str, str] | None
) -> dict[str, Selection]:
    """The selections with cards that link to the repositories; they are built beside the run, which stays as it is.

    Args:
        run ([`RunRecord`]): without `results.json`, its cards go as they are.
        packed (`dict[str, Selection]`): what goes, by peer.
        names (`dict[str, str]`, *optional*): repositories of the whole cohort, where the namespace is known.
    """
    if not (run.folder / "results.json").is_file():
        return dict(packed)
    with tempfile.TemporaryDirectory() as scratch:
        beside = Path(scratch) / run.folder.resolve().name
        beside.mkdir()
        for entry in run.folder.resolve().iterdir():
            if entry.name not in packed:
                (beside / entry.name).symlink_to(entry)
                continue
            (beside / entry.name).mkdir()
            for part in entry.iterdir():
                if part.name == README:
                    shutil.copyfile(part, beside / entry.name / README)
                elif part.name != "figures":
                    (beside / entry.name / part.name).symlink_to(part)
        write_cards(beside, list(packed), repositories=names)
        fresh = {}
        for peer, selection in packed.items():
            folder = beside / peer
            built = [folder / README, *sorted(folder.glob("figures/*.png"))]
            files = {file.name: file for file in selection.files}
            files |= {
                name: PushFile(name, path.read_bytes())
                for path in built
                for name in [path.relative_to(folder).as_posix()]
            }
            fresh[peer] = Selection(list(files.values()), selection.left_out)
    return fresh


def _planned(peer: str, selection: Selection, repo_id: str, to: PushTarget) -> PushedPeer:
    card = next((file.read().decode("utf-8", "replace") for file in selection.files if file.name == README), "")
    sizes = {file.name: file.size for file in selection.files}
    metadata, _ = split_readme(card, f"{peer}/{README}")
    return PushedPeer(peer, repo_id, f"{to.url}/{repo_id}", sizes, selection.left_out, metadata)


def collect_repositories(
    calls: HubCalls, run: RunRecord, to: PushTarget, pushed: Sequence[str]
) -> tuple[str | None, str | None]:
    """List the cohort's repositories in a collection: its address, or in one line why there is none."""
    api = calls.api
    title = f"{slug(dataset_name(run).split('/')[-1])}: models that taught each other"[:LONGEST_TITLE]
    description = f"A cohort of {len(run.peers)}, trained by mutual knowledge transfer."

    try:
        made = calls.call(
            f"creating the collection {title!r}",
            lambda: api.create_collection(
                title, namespace=to.namespace, description=description, private=bool(to.private), exists_ok=True
            ),
        )
        inside = {item.item_id for item in made.items}
        for peer, repo_id in names_of(run, list(run.peers), to).items():
            if repo_id in inside:
                continue
            # Peers of an earlier push belong to it, too.
            if peer in pushed or calls.call(f"looking for {repo_id}", partial(api.repo_exists, repo_id)):
                add = partial(api.add_collection_item, made.slug, repo_id, "model", exists_ok=True)
                calls.call(f"adding {repo_id} to the collection", add)
    except HubError as error:
        cause = error.__cause__
        if cause is not None and status_of(cause) in (404, 405, 501):
            return None, "no collection: this Hub has none"
        return None, f"no collection: {error}"
    return f"{to.url}/collections/{made.slug}", None


def _continuation(cause: str, run: RunRecord, peers: Sequence[PushedPeer], *, failed: int, to: PushTarget) -> str:
    done, rest = peers[:failed], peers[failed:]
    command = ["hf-mutual-kd", "push", str(run.folder), "--namespace", str(to.namespace)]
    command += ["--private"] if to.private else []
    command += [] if to.collection else ["--no_collection"]
    command += ["--name_template", to.name_template] if to.name_template != NAME_TEMPLATE else []
    command += ["--revision", to.revision] if to.revision else []
    command += ["--peers", *(pushed.peer for pushed in rest)]
    pushed = ", ".join(f"{one.peer} ({one.repo_id})" for one in done) or "nothing"
    left = ", ".join(one.peer for one in rest)
    return f"{cause}\npushed: {pushed}; not pushed: {left}. Continue with\n  {shlex.join(command)}"
