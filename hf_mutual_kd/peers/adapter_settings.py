"""Adapter settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from ..config.values import Mismatch, Written, convert, nearest
from ..errors import ConfigError, PeerError

OURS = frozenset(
    {"base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "task_type", "peft_version"}
)
"""Fields of a peft configuration that follow from the peer."""

NOT_HERE = ("ADALORA", "OSF", "POLY", "SHADOW", "TRAINABLE_TOKENS", "XLORA")
"""Methods that need calls or arguments of their own in training, a rewritten base, trained adapters, or tokens."""

PEFT_ERRORS = (ValueError, TypeError, KeyError, RuntimeError, NotImplementedError, AttributeError, IndexError)


def settings_of(given: str | Mapping[str, Any] | None, peers: Sequence[str]) -> dict[str, Any]:
    """The setting of each peer from the option `peft`: one for all, or one by name.

    Args:
        given (`str` or `dict`, *optional*): `"lora"`, a configuration with its `peft_type`, or such by peer.
        peers (`list[str]`): the cohort's names.

    Raises:
        [`ConfigError`], [`PeerError`]: a peer that does not take part, or
            a setting that [`read_setting`] refuses.

    Example:

    ```python
    >>> settings_of({"vit": "lora"}, ["vit", "cnx"])
    {'vit': 'lora'}
    ```
    """
    if given is None:
        return {}
    for_all = not isinstance(given, Mapping) or "peft_type" in given
    by_peer = dict.fromkeys(peers, given) if for_all else dict(given)  # type: ignore[arg-type]
    for name, setting in by_peer.items():
        if name not in peers:
            raise ConfigError(
                f"peft names {name!r}{nearest(name, peers)}, but the peers are {', '.join(peers)}; a configuration "
                "for all peers needs its peft_type"
            )
        read_setting(setting, "peft" if for_all else f"peft.{name}")
    return by_peer


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
    if kind not in classes:
        raise PeerError(
            f"{where}: peft_type {values.get('peft_type')!r} is no method of peft that can be trained here"
            f"{nearest(kind, classes)}; e.g. LORA, LOHA, LOKR, IA3, OFT"
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


def as_written(value: Any) -> Written:
    """A plain value as [`convert`] takes it."""
    if isinstance(value, Mapping):
        parts = {str(key): as_written(item) for key, item in value.items()}
        return Written(parts, str(value), "peft", typed=True)
    if isinstance(value, list | tuple):
        return Written([as_written(item) for item in value], str(list(value)), "peft", typed=True)
    return Written(value, str(value), "peft", typed=True)
