"""Who is pushed where: the names of peers, repositories and branches, all checked before anything is sent."""

from __future__ import annotations

import difflib
import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from huggingface_hub import constants, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import HubError
from ..reports.run_record import RunRecord

NAME_TEMPLATE = "{peer}-{dataset}-mutual"
TEMPLATE_FIELDS = frozenset({"peer", "dataset", "task"})
NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
BRANCH = re.compile(r"(?!.*(?:\.\.|//|@\{|\.lock$|/$|\.$))[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}")


@dataclass(frozen=True)
class PushTarget:
    """Where and how a run is pushed.

    Args:
        namespace (`str`, *optional*): user or organisation; the user of the token when unset.
        name_template (`str`, *optional*, defaults to `"{peer}-{dataset}-mutual"`): repository names, from `{peer}`,
            `{dataset}` and `{task}`.
        private (`bool`, *optional*): of repositories and collections that are created; the Hub's default when unset.
        token (`str`, *optional*): the one the user is logged in with when unset.
        endpoint (`str`, *optional*): `HF_ENDPOINT`, or the public Hub, when unset.
        revision (`str`, *optional*): branch, created where it is missing; `main` when unset.
        collection (`bool`, *optional*, defaults to `True`): list a run's repositories in a collection.

    Raises:
        [`HubError`]: a name that no Hub would take.

    Example:

    ```python
    >>> PushTarget("ada", private=True).url
    'https://huggingface.co'
    ```
    """

    namespace: str | None = None
    name_template: str = NAME_TEMPLATE
    private: bool | None = None
    token: str | None = field(default=None, repr=False)
    endpoint: str | None = None
    revision: str | None = None
    collection: bool = True

    def __post_init__(self):
        if self.namespace is not None and not NAMESPACE.fullmatch(self.namespace):
            raise HubError(
                f"namespace {self.namespace!r} is no user or organisation; expected letters, digits, '-', '_'"
            )
        if self.revision is not None and not BRANCH.fullmatch(self.revision):
            raise HubError(
                f"revision {self.revision!r} is no branch name; expected letters, digits, '-', '_', '.', '/'"
            )
        try:
            fields = {name for _, name, _, _ in string.Formatter().parse(self.name_template) if name is not None}
        except ValueError as error:
            raise HubError(f"name_template {self.name_template!r} cannot be read: {error}") from error
        if not fields <= TEMPLATE_FIELDS:
            wrong = sorted(fields - TEMPLATE_FIELDS)[0]
            raise HubError(f"name_template has {{{wrong}}}; it can hold {{peer}}, {{dataset}} and {{task}}")

    @property
    def url(self) -> str:
        """Address of the Hub, without a closing slash."""
        return (self.endpoint or constants.ENDPOINT).rstrip("/")

    @property
    def token_in_use(self) -> str | None:
        """The token that requests will carry."""
        return self.token or get_token()


def repo_name(run: RunRecord, peer: str, to: PushTarget) -> str:
    """`vit-t-beans-mutual`, or with its namespace where one is known."""
    parts = {
        "peer": slug(peer, lower=False),
        "dataset": slug(dataset_name(run).split("/")[-1]),
        "task": slug(run.task),
    }
    name = to.name_template.format(**parts)
    repo_id = f"{to.namespace}/{name}" if to.namespace else name
    try:
        if "/" in name:
            raise HFValidationError("the name itself has no '/'; the namespace is an option of its own.")
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"peer {peer!r} cannot be pushed as {repo_id!r}: {error} Change name_template") from error
    return repo_id


def dataset_name(run: RunRecord) -> str:
    """What a run was trained on, as it goes into names and messages."""
    return str(run.dataset.get("name") or "data")


def brings_code(run: RunRecord) -> bool:
    """Whether `trust_remote_code` was given."""
    return run.recipe.get("trust_remote_code") is True


def choose_peers(run: RunRecord, peers: Sequence[str] | None) -> list[str]:
    """The peers to push, in the cohort's order, each with a folder of its own inside the run."""
    for name in peers or []:
        if name not in run.peers:
            near = difflib.get_close_matches(name, list(run.peers), 1)
            advice = f" (nearest: {near[0]})" if near else ""
            raise HubError(f"peers: the run has no peer {name!r}{advice}; it has {', '.join(run.peers)}")
    chosen = [name for name in run.peers if peers is None or name in peers]
    if not chosen:
        raise HubError(f"peers: none chosen; the run has {', '.join(run.peers)}")
    for name in chosen:
        folder = run.folder / name
        if not folder.is_dir():
            raise HubError(f"peer {name!r} has no folder in {run.folder}; the run has not come to its end")
        if not folder.resolve().is_relative_to(run.folder.resolve()):
            raise HubError(f"peer {name!r}: its folder is a link that leads out of {run.folder}; put the files there")
    return chosen


def slug(text: str, lower: bool = True) -> str:
    """Text from outside as part of a name, cut to 40 characters: `"Fashion MNIST"` is `fashion-mnist`."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", plain.lower() if lower else plain)
    plain = re.sub(r"([-.])[-.]+", r"\1", plain)
    return plain[: 40 if lower else 64].strip("-.") or "data"


def names_of(run: RunRecord, peers: Sequence[str], to: PushTarget) -> dict[str, str]:
    """Repository of each peer; refused where two would share one."""
    names = {peer: repo_name(run, peer, to) for peer in peers}
    folded = [name.casefold() for name in names.values()]
    twice = next((name for name in names.values() if folded.count(name.casefold()) > 1), None)
    if twice is not None:
        raise HubError(
            f"name_template {to.name_template!r} gives two peers the repository {twice}; put {{peer}} into it"
        )
    return names
