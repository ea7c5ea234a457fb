"""Names of peers: each is a folder of a run and an attribute of the cohort."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import nn

from ..config.peers import PeerSpec, parse_entries
from ..errors import PeerError

__all__ = ["PeerSpec", "check_peer_names", "parse_peers"]

PEER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

RESERVED_NAMES = {"control", "report", "runs", "stages", "best", "cohort", "mean", "all", "nobody"} | set(
    dir(nn.ModuleDict({}))
)
"""What a run's folder or its tables, `--logging_dir`'s default or `nn.ModuleDict` call their own."""

RESERVED_PREFIXES = ("checkpoint-", "seed-")


def parse_peers(entries: Sequence[str]) -> dict[str, PeerSpec]:
    """`["NAME=ID_OR_FOLDER[@REVISION]", …]` to specs by name; a source alone is called by its last part."""
    peers = parse_entries(entries)
    check_peer_names(peers)
    return peers


def check_peer_names(names: Iterable[str]) -> None:
    """Refuse names that cannot be folders of a run, and an empty cohort."""
    names = list(names)
    if not names:
        raise PeerError("a cohort needs at least one peer; give --peers NAME=ID_OR_FOLDER …")
    for name in names:
        folded = name.casefold()
        if not PEER_NAME.fullmatch(name) or folded in RESERVED_NAMES or folded.startswith(RESERVED_PREFIXES):
            raise PeerError(
                f"peer name {name!r} is no safe folder name: use letters, digits, '-' and '_', "
                "starting with a letter or digit, and none of the names a run uses itself (control, report, …)"
            )
    all_folded = [name.casefold() for name in names]
    twice = next((name for name in names if all_folded.count(name.casefold()) > 1), None)
    if twice is not None:
        raise PeerError(
            f"two peers are called {twice!r} (upper and lower case count as equal); give each its own name"
        )
