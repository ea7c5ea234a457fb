"""Adapter settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, get_type_hints

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from ..config.peers import PeerSpec
from ..config.values import Mismatch, RawValue, convert, nearest
from ..errors import ConfigError, PeerError

OURS = frozenset(
    {"base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "task_type", "peft_version"}
)
"""Fields of a peft configuration that follow from the peer."""

NOT_HERE = (
    *("ADALORA", "OSF", "POLY", "SHADOW", "TRAINABLE_TOKENS", "XLORA"),
    *("FROD", "PVERA", "TINYLORA", "UNILORA", "VERA"),
)
"""Methods that need calls or arguments of their own in training, a rewritten base, trained adapters, or tokens; and
those that keep state outside the layers, so that `pipeline` and the Auto classes do not load them."""

SHORT_NAMES: dict[str, dict[str, Any]] = {
    "DORA": {"peft_type": "LORA", "use_dora": True},
    "BITFIT": {"peft_type": "BEFT"},
}
"""Methods that peft knows by a setting or another name; BitFit is a bias of every linear layer."""

PEFT_ERRORS = (ValueError, TypeError, KeyError, RuntimeError, NotImplementedError, AttributeError, IndexError)


def with_adapters(
    specs: Mapping[str, PeerSpec], for_all: str | Mapping[str, Any] | Sequence[str] | None
) -> dict[str, PeerSpec]:
    """The peers with the option `peft` for those that have no setting of their own; all settings are checked.

    Args:
        specs (`dict[str, PeerSpec]`): the peers.
        for_all (`str`, `dict` or `list[str]`, *optional*): `"lora"`, or a configuration with its `peft_type`. Several
            methods make of each peer one for each, called `NAME-METHOD`, over one base.

    Raises:
        [`ConfigError`], [`PeerError`]: the option names peers or a method twice, or a setting is one that
            [`read_setting`] refuses.

    Example:

    ```python
    >>> with_adapters({"vit": PeerSpec("x"), "cnx": PeerSpec("y", peft="ia3")}, "lora")["vit"].peft
    'lora'
    >>> list(with_adapters({"vit": PeerSpec("x")}, ["lora", "dora", "bitfit"]))
    ['vit-lora', 'vit-dora', 'vit-bitfit']
    ```
    """
    if isinstance(for_all, Mapping) and "peft_type" not in for_all:
        near = next(iter(for_all), "NAME")
        raise ConfigError(
            f"peft is for all peers and needs its peft_type, got {', '.join(for_all)}; of one peer it is a setting: "
            f"--peers.{near}.peft lora, in YAML peers: {{{near}: {{source: ID, peft: lora}}}}"
        )
    methods: list[Any] = list(for_all) if isinstance(for_all, list | tuple) else [for_all]
    if len({str(method).lower() for method in methods}) < len(methods) or not methods:
        raise ConfigError(f"peft names a method twice, or none: {', '.join(methods)}; give each once")
    for method in methods:
        if method is not None:
            read_setting(method)
    peers: dict[str, PeerSpec] = {}
    for name, spec in specs.items():
        if spec.peft is not None:
            read_setting(spec.peft, f"peers.{name}.peft")
        made = {name: spec} if spec.peft is not None else _by_method(name, spec, methods)
        twice = next((one for one in made if one in peers or (one != name and one in specs)), None)
        if twice is not None:
            raise ConfigError(f"peft: two peers would be called {twice!r}; rename the peer of that name")
        peers |= made
    return peers


def _by_method(name: str, spec: PeerSpec, methods: Sequence[Any]) -> dict[str, PeerSpec]:
    plain = [dict(method) if isinstance(method, Mapping) else method for method in methods]
    if len(plain) == 1:
        return {name: replace(spec, peft=plain[0])}
    return {f"{name}-{str(method).lower()}": replace(spec, peft=method) for method in plain}


def read_setting(setting: str | Mapping[str, Any], where: str = "peft") -> PeftConfig:
    """A configuration of peft from what the user wrote, strictly.

    Args:
        setting (`str` or `dict`): a method's name, or `{"peft_type": METHOD, …}` with the fields of its configuration
            class, e.g. `peft.LoraConfig`.
        where (`str`, *optional*): the option, for messages.

    Raises:
        [`PeerError`]: unknown method or field, with the nearest, or a value of another type.

    Example:

    ```python
    >>> read_setting({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"]}).r
    4
    ```
    """
    values = {"peft_type": setting} if isinstance(setting, str) else setting
    if not isinstance(values, Mapping):
        raise PeerError(f"{where} must be a method such as lora, or a mapping with peft_type, got {setting!r}")
    classes = {kind.value: cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    classes = {kind: cls for kind, cls in classes.items() if kind not in NOT_HERE}
    kind = str(values.get("peft_type")).upper()
    if kind in SHORT_NAMES:
        values = {**values, **SHORT_NAMES[kind]}
        kind = str(values["peft_type"])
    if kind not in classes:
        raise PeerError(
            f"{where}: peft_type {values.get('peft_type')!r} is no method of peft that can be trained here"
            f"{nearest(kind, [*classes, *SHORT_NAMES])}; e.g. LORA, DORA, IA3, BITFIT, LOHA, OFT"
        )
    hints = get_type_hints(classes[kind])
    known = [item.name for item in fields(classes[kind]) if item.init and item.name not in OURS]
    typed = {}
    for key, value in values.items():
        if key in OURS:
            raise PeerError(f"{where}.{key} follows from the peer; leave it out")
        if key not in known:
            raise PeerError(f"{where}: {classes[kind].__name__} has no field {key}{nearest(key, known)}")
        try:
            typed[key] = kind if key == "peft_type" else convert(as_written(value), hints[key], f"{where}.{key}")
        except Mismatch as error:
            raise PeerError(str(error)) from None
    return made_config(typed, where)


def made_config(values: Mapping[str, Any], where: str) -> PeftConfig:
    """The configuration of peft with these values."""
    try:
        config = PeftConfig.from_peft_type(**values)
    except PEFT_ERRORS as error:
        raise PeerError(f"{where}: peft refuses this configuration: {error}") from error
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise PeerError(f"{where}: {method_of(config)} prompts language models; peers here look at images")
    return config


def method_of(config: PeftConfig) -> str:
    """What peft calls the method: `"LORA"`."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def as_written(value: Any) -> RawValue:
    """A plain value as [`convert`] takes it."""
    if isinstance(value, Mapping):
        parts = {str(key): as_written(item) for key, item in value.items()}
        return RawValue(parts, str(value), "peft", typed=True)
    if isinstance(value, list | tuple):
        return RawValue([as_written(item) for item in value], str(list(value)), "peft", typed=True)
    return RawValue(value, str(value), "peft", typed=True)
