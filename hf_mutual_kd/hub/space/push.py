"""Pushes a made Space to the Hub, finds the peers that it may fetch from there, and starts it on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ...errors import ConfigError, HubError
from ...reports.run_record import read_run
from ..calls import HubCalls, Patience
from ..commit import RepoCommit, ensure_repo, send
from ..files import PushFile, refuse_secrets
from ..names import PushTarget, choose_peers, names_of

DATA = "data"


def check_space_name(name: str) -> None:
    """Refuse what is not `NAMESPACE/NAME`, before anything is made."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise HubError(f"--push {name!r} is no name of a Space: {error}") from error
    if name.count("/") != 1:
        raise HubError(f"--push {name!r} is no name of a Space; expected NAMESPACE/NAME")


def find_pushed(
    run_dir: str | Path,
    namespace: str,
    peers: Sequence[str] | None = None,
    *,
    token: str | None = None,
    endpoint: str | None = None,
    patience: Patience | None = None,
) -> dict[str, tuple[str, str]]:
    """
    The repository and the commit of every peer that `push` has put on the Hub.

    Raises:
        [`HubError`]: one is not there, or the Hub cannot be asked.
    """
    to = PushTarget(namespace, token=token, endpoint=endpoint)
    run = read_run(run_dir)
    calls = HubCalls(to.token, to.endpoint, patience)
    found = {}
    for peer, repo_id in names_of(run, choose_peers(run, peers), to).items():
        info = calls.call(
            f"looking for peer {peer!r} as {repo_id} (push it first with hf-mutual-kd push)",
            lambda repo_id=repo_id: calls.api.model_info(repo_id),  # type: ignore[misc]
        )
        found[peer] = (repo_id, str(info.sha))
    return found


def push_space(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    patience: Patience | None = None,
) -> str:
    """
    Push a folder that [`write_space`] made, as one commit; a README there keeps its user's words.

    Args:
        folder (`Path`): of the Space.
        repo_id (`str`): `NAMESPACE/NAME`, created where it is missing.
        private (`bool`, *optional*): of a Space that is created.
        token (`str`, *optional*): the one the user is logged in with when unset.
        endpoint (`str`, *optional*): `HF_ENDPOINT`, or the public Hub, when unset.
        patience ([`Patience`], *optional*): bounds of time.

    Returns:
        `str`: its address, and what the user should know.

    Raises:
        [`HubError`]: a name, a file or the Hub refuses.
    """
    check_space_name(repo_id)
    to = PushTarget(repo_id.split("/")[0], private=private, token=token, endpoint=endpoint)
    files = [
        PushFile(path.relative_to(folder).as_posix(), path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and not {"__pycache__", ".gradio"}.intersection(path.parts)
    ]
    refuse_secrets(files, folder, to.token_in_use)
    parcel = RepoCommit(repo_id, files, "Push the Space of a run", folder=DATA, kind="space")
    calls = HubCalls(to.token, to.endpoint, patience, parcel.size)
    note = ensure_repo(calls, repo_id, to, "space")
    _, changed = send(calls, parcel, to)
    address = f"{to.url}/spaces/{repo_id}" + ("" if changed else " (unchanged)")
    return f"{address}\nnote: {note}" if note else address


def serve(folder: Path) -> None:
    """Start the app on this machine, until it is interrupted.

    Raises:
        [`ConfigError`]: gradio is not installed, or the app ended with an error.
    """
    if find_spec("gradio") is None:
        raise ConfigError("--local needs gradio; pip install 'hf-mutual-kd[space]'")
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1"}
    ended = subprocess.run([sys.executable, "app.py"], cwd=folder, env=environment, check=False).returncode
    if ended:
        raise ConfigError(f"the app ended with an error ({ended}); its words are above")
