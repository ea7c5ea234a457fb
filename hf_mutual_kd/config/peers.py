"""What a user says of a peer: where it comes from, and what differs from the other peers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import ConfigError, PeerError
from .places import place
from .prompts import templates_of
from .values import Mismatch, RawValue, convert, nearest

BatchNorm = Literal["train", "freeze"]
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
        zero_shot (`bool`, *optional*): whether an image-text model (CLIP, SigLIP) classifies by its text tower;
            `False` gives it a new head, unset it does so where its tokenizer lies beside it.
        prompt_templates (`list[str]`, *optional*): of a peer that reads the names of the classes, texts with one `{}`;
            `["clip"]` are the seven of CLIP's authors; unset those that it was saved with, else "This is a photo of
            {}.".

    Raises:
        [`PeerError`]: a value breaks its rule.
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
    peft: str | dict[str, Any] | None = None
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    zero_shot: bool | None = None
    prompt_templates: list[str] | None = None

    def __post_init__(self):
        if self.load_in_4bit and self.load_in_8bit:
            raise PeerError("load_in_4bit and load_in_8bit exclude each other; choose one")
        if self.prompt_templates is not None:
            if self.zero_shot is False:
                raise PeerError("prompt_templates are for text towers, and zero_shot false leaves that out")
            try:
                templates_of(self.prompt_templates)
            except ConfigError as error:
                raise PeerError(str(error)) from None
        for option, allowed in (("dtype", DTYPES), ("batch_norm", get_args(BatchNorm))):
            if getattr(self, option) not in allowed:
                raise PeerError(
                    f"{option} of a peer must be one of {', '.join(allowed)}, got {getattr(self, option)!r}"
                )
        for option in ("learning_rate", "weight_decay"):
            value = getattr(self, option)
            if value is not None and not 0 <= value < float("inf"):
                raise PeerError(f"{option} of a peer must be 0 or more, got {value}")

    @classmethod
    def parse(cls, text: str) -> PeerSpec:
        """`ID_OR_FOLDER[@REVISION]`; an existing folder may have `@` in its name."""
        if "@" not in text or Path(text).exists():
            return cls(source=text)
        source, _, revision = text.rpartition("@")
        if not source or not revision:
            raise PeerError(f"expected ID_OR_FOLDER[@REVISION], got {text!r}")
        return cls(source=source, revision=revision)

    def settings(self) -> dict[str, Any]:
        """What differs from the defaults, beside source and revision."""
        given = {item.name: getattr(self, item.name) for item in fields(self)[2:]}
        defaults = {item.name: item.default for item in fields(self)}
        return {name: value for name, value in given.items() if value != defaults[name]}

    def __str__(self) -> str:
        return self.source if self.revision is None else f"{self.source}@{self.revision}"


def named(source: str) -> tuple[str, str]:
    """The name and the source of `NAME=SOURCE`, or of a source alone, which is called by its last part.

    Example:
        >>> named("google/vit-base-patch16-224@main")
        ('vit-base-patch16-224', 'google/vit-base-patch16-224@main')
    """
    name, equals, rest = source.partition("=")
    if equals and ("/" not in name or not Path(source).exists()):
        if not name or not rest:
            raise PeerError(f"peers: expected NAME=ID_OR_FOLDER[@REVISION] or ID_OR_FOLDER[@REVISION], got {source!r}")
        return name, rest
    bare = PeerSpec.parse(source).source
    last = bare.rpartition(":")[2] if bare.startswith("python:") else Path(bare).name
    return "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in last
    ), source


def parse_entries(entries: Iterable[str]) -> dict[str, PeerSpec]:
    """`["NAME=ID_OR_FOLDER[@REVISION]", "ID_OR_FOLDER", …]` to specs by name.

    Raises:
        [`PeerError`]: an entry is neither, or two have one name.
    """
    peers: dict[str, PeerSpec] = {}
    for entry in entries:
        name, source = named(entry)
        if name in peers:
            raise PeerError(
                f"peers: two peers are called {name!r} ({peers[name]} and {source}); give each its own name: "
                f"{name}-1={peers[name]} {name}-2={source}"
            )
        peers[name] = PeerSpec.parse(source)
    return peers


def read_peers(written: RawValue) -> dict[str, PeerSpec]:
    """The option `peers`: `NAME=ID …` or `ID …`, or a mapping of names to an ID or to the fields of a [`PeerSpec`].

    Raises:
        [`Mismatch`]: with place, rule and what was given.
    """
    try:
        if isinstance(written.value, dict):
            return {name: _read_peer(item, f"peers.{name}") for name, item in written.value.items()}
        items = written.value if isinstance(written.value, list) else [written]
        return parse_entries(_placed_entry(item) for item in items)
    except PeerError as error:
        raise Mismatch(f"{written.where}: {error}") from None


def _placed_entry(written: RawValue) -> str:
    name, source = named(convert(written, str, "peers"))
    return f"{name}={place(RawValue(source, source, written.where, written.typed)).text}"


def _read_peer(written: RawValue, name: str) -> PeerSpec:
    if not isinstance(written.value, dict):
        return PeerSpec.parse(place(RawValue(source := convert(written, str, name), source, written.where, True)).text)
    given = {key: place(item) if key in ("source", "processor") else item for key, item in written.value.items()}
    spec: PeerSpec = convert(RawValue(given, written.text, written.where, written.typed), PeerSpec, name)
    if not spec.source:
        raise Mismatch(f"{written.where}: {name} has no source; write source: ID_OR_FOLDER[@REVISION]")
    parsed = PeerSpec.parse(spec.source)
    if parsed.revision is not None and spec.revision is not None:
        raise Mismatch(f"{written.where}: {name} has two revisions, {parsed.revision} and {spec.revision}")
    return replace(spec, source=parsed.source, revision=spec.revision or parsed.revision)


def change_peer(peers: Mapping[str, PeerSpec], path: str, written: RawValue) -> dict[str, PeerSpec]:
    """The peers with one setting of one of them changed; `path` is `"peers.NAME.FIELD"`.

    Raises:
        [`Mismatch`]: there is no such peer or field, or the value does not fit.
    """
    _, name, *rest = path.split(".")
    if name not in peers or len(rest) != 1:
        among = f"the peers are {', '.join(peers) or 'not given'}; write peers.NAME.SETTING"
        raise Mismatch(f"{written.where}: {path} names no setting of a peer{nearest(name, peers)}; {among}")
    changed = convert(RawValue({rest[0]: written}, "", written.where, True), PeerSpec, f"peers.{name}")
    try:
        return {**peers, name: replace(peers[name], **{rest[0]: getattr(changed, rest[0])})}
    except PeerError as error:
        raise Mismatch(f"{written.where}: {path}: {error}") from None


def plain_peers(peers: Mapping[str, PeerSpec]) -> list[str] | dict[str, Any]:
    """Peers ready for YAML or JSON: a list of `NAME=ID` where nothing else is said of them, else a mapping."""
    if not any(spec.settings() for spec in peers.values()):
        return [f"{name}={spec}" for name, spec in peers.items()]
    return {
        name: {"source": str(spec), **spec.settings()} if spec.settings() else str(spec)
        for name, spec in peers.items()
    }


def peer_words(peers: list[str] | Mapping[str, Any]) -> list[str]:
    """What [`plain_peers`] gave as words of the command line, `--peers` first.

    Example:
        >>> peer_words({"a": {"source": "x", "frozen": True}})
        ['--peers', 'a=x', '--peers.a.frozen', 'true']
    """
    if not isinstance(peers, Mapping):
        return ["--peers", *peers]
    words = [
        "--peers",
        *(f"{name}={given['source'] if isinstance(given, Mapping) else given}" for name, given in peers.items()),
    ]
    for name, given in peers.items():
        for field, value in given.items() if isinstance(given, Mapping) else ():
            if field != "source":
                parts = value if isinstance(value, list) else [value]
                words += [f"--peers.{name}.{field}"]
                words += [part if isinstance(part, str) else json.dumps(part) for part in parts]
    return words
