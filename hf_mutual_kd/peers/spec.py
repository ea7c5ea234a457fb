"""Spec."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from torch import nn

from ..config.options import BatchNorm
from ..errors import PeerError
from .adapter_settings import read_setting

PEER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

RESERVED_NAMES = {"control", "report", "runs", "best", "cohort", "mean", "all", "nobody"} | set(dir(nn.ModuleDict({})))
"""What a run's folder or its tables, `--logging_dir`'s default or `nn.ModuleDict` call their own."""

RESERVED_PREFIXES = ("checkpoint-", "seed-")

DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True)
class PeerSpec:
    """What the user says of one peer.

    Args:
        source (`str`): Hub id, folder, or `python:package.module:function` (see [`~python_peers.make_module`]).
        revision (`str`, *optional*): branch, tag or commit on the Hub.
        learning_rate (`float`, *optional*): the run's when unset.
        weight_decay (`float`, *optional*): the run's when unset.
        frozen (`bool`, *optional*, defaults to `False`): teaches, but does not learn.
        batch_norm (`str`, *optional*, defaults to `"train"`): `"freeze"` keeps the pretrained statistics.
        dtype (`str`, *optional*, defaults to `"float32"`): of the weights.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`): the model's own, layer by layer.
        processor (`str` or callable, *optional*): id or folder of an image processor, or a callable
            `images -> {"pixel_values": [B, 3, H, W]}`; the source's own when unset.
        peft (`str` or `dict`, *optional*): train only an adapter: `"lora"`, or a configuration of `peft` as a mapping
            with its `peft_type` (see [`~adapters.read_setting`]). Peers over the same source share its weights. A
            source that is an adapter itself is trained on without it.
        load_in_4bit (`bool`, *optional*, defaults to `False`): hold an adapter's base in 4 bits (nf4), but for the
            classifier; needs bitsandbytes.
        load_in_8bit (`bool`, *optional*, defaults to `False`): the same in 8 bits.
    """

    source: str = ""
    revision: str | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    frozen: bool = False
    batch_norm: BatchNorm = "train"
    dtype: str = "float32"
    gradient_checkpointing: bool = False
    processor: str | Callable[..., Mapping[str, Any]] | None = None
    peft: str | Mapping[str, Any] | None = None
    load_in_4bit: bool = False
    load_in_8bit: bool = False

    def __post_init__(self):
        if self.load_in_4bit and self.load_in_8bit:
            raise PeerError("load_in_4bit and load_in_8bit exclude each other; choose one")
        if self.peft is not None:
            read_setting(self.peft)
        for option, allowed in (("dtype", DTYPES), ("batch_norm", get_args(BatchNorm))):
            if getattr(self, option) not in allowed:
                raise PeerError(
                    f"{option} of a peer must be one of {', '.join(allowed)}, got {getattr(self, option)!r}"
                )

    @classmethod
    def parse(cls, text: str) -> PeerSpec:
        """`ID_OR_FOLDER[@REVISION]`; an existing folder may have `@` in its name."""
        if Path(text).exists() or "@" not in text:
            return cls(source=text)
        source, _, revision = text.rpartition("@")
        if not source or not revision:
            raise PeerError(f"expected ID_OR_FOLDER[@REVISION], got {text!r}")
        return cls(source=source, revision=revision)


def parse_peers(entries: Sequence[str]) -> dict[str, PeerSpec]:
    """`["NAME=ID_OR_FOLDER[@REVISION]", …]` to specs by name."""
    peers: dict[str, PeerSpec] = {}
    for entry in entries:
        name, separator, source = entry.partition("=")
        if not separator or not name or not source:
            raise PeerError(f"peers: expected NAME=ID_OR_FOLDER[@REVISION], got {entry!r}")
        if name in peers:
            raise PeerError(f"peers: two peers are called {name!r}; give each its own name")
        peers[name] = PeerSpec.parse(source)
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
