"""What a user wrote, on the command line or in YAML, and its strict conversion to the type of a dataclass field."""

from __future__ import annotations

import difflib
import itertools
import json
import os
import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ..errors import TOKEN, without_tokens

INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
NUMBER = re.compile(r"[-+]?((([0-9][0-9_]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|\.?inf)", re.IGNORECASE)
TAG = "tag:yaml.org,2002:"
MAX_DEPTH = 20
"""Levels of nesting in a value; a deeper one is an anchor that holds itself."""
OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
MAX_VALUES = 10_000
MAX_DIGITS = 20
"""Of a whole number; a longer one stays text, which no option takes for a number."""
MAX_SHOWN = 200
"""Characters of a wrong value in a message."""

_resolver = yaml.SafeLoader("")


class Mismatch(Exception):
    """One value that does not fit its option; [`parse_recipe`] collects them into a ConfigError."""


@dataclass(frozen=True)
class RawValue:
    """A value as it was written, before it has the type of its option.

    Args:
        value: a scalar (`None`, `bool`, `int`, `float`, `str`), a `list[RawValue]` or a `dict[str, RawValue]`.
        text (`str`): the scalar as written; of a list or mapping, a short form for messages.
        where (`str`): `"file.yaml:12"` or `"command line"`.
        typed (`bool`): YAML tells `3` from `"3"`; words on the command line have no types (`False`).
    """

    value: Any
    text: str
    where: str
    typed: bool

    @property
    def folder(self) -> str:
        """That of the file, empty for the command line and a file in the working folder."""
        return os.path.dirname(self.where.rpartition(":")[0])


def from_word(text: str, where: str = "command line") -> RawValue:
    """One word of the command line: `"3"`, `"true"`, `"1e-6"`, `"vit-b=google/vit-base-patch16-224"`."""
    tag = _resolver.resolve(yaml.ScalarNode, text, (True, False))
    return RawValue(_scalar_value(tag, text), text, where, typed=False)


def from_node(
    node: yaml.Node, where: str, problems: list[str], depth: int = 0, counted: Iterator[int] | None = None
) -> RawValue:
    """A composed YAML node with its line; duplicate and non-text keys are added to `problems`."""
    here = f"{where}:{node.start_mark.line + 1}"
    counted = itertools.count(1) if counted is None else counted
    if depth > MAX_DEPTH:
        raise Mismatch(f"{here}: nested deeper than {MAX_DEPTH} levels")
    if next(counted) > MAX_VALUES:
        raise Mismatch(f"{here}: more than {MAX_VALUES} values, counting each use of an alias; no options are so many")
    if isinstance(node, yaml.ScalarNode):
        return RawValue(_scalar_value(node.tag, node.value), node.value, here, typed=True)
    if isinstance(node, yaml.SequenceNode):
        items = [from_node(item, where, problems, depth + 1, counted) for item in node.value]
        return RawValue(items, f"[{', '.join(item.text for item in items)}]", here, typed=True)
    entries: dict[str, RawValue] = {}
    for key_node, value_node in node.value:
        line = f"{where}:{key_node.start_mark.line + 1}"
        key = key_node.value
        if key_node.tag != f"{TAG}str":
            shown = key if isinstance(key, str) else "a list or mapping"
            problems.append(f"{line}: a key must be text, got {shown}; put it in quotes if it is a name")
        elif key in entries:
            problems.append(f"{line}: {key} is given twice, first at {entries[key].where}")
        else:
            entries[key] = from_node(value_node, where, problems, depth + 1, counted)
    shown = ", ".join(f"{key}: {item.text}" for key, item in entries.items())
    return RawValue(entries, f"{{{shown}}}", here, typed=True)


def compose_mapping(text: str, where: str, problems: list[str]) -> dict[str, RawValue]:
    """The entries of a YAML document, each with its line; an empty document has none.

    Raises:
        [`Mismatch`]: no YAML, or no mapping; the message has file, line and the reason.
    """
    try:
        _check_tokens(text, where)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"{where}:{mark.line + 1}" if mark else where
        raise Mismatch(f"{line}: not readable as YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise Mismatch(f"{where}: not readable as YAML: {error}") from None
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise Mismatch(f"{where}:{node.start_mark.line + 1}: expected lines of `name: value`, got {node.value!r:.80}")
    return from_node(node, where, problems).value


def _check_tokens(text: str, where: str) -> None:
    """Refuse tags, and nesting that a parser follows by recursion."""
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        here = f"{where}:{token.start_mark.line + 1}"
        if isinstance(token, yaml.TagToken):
            raise Mismatch(f"{here}: tags are not read, got {''.join(part or '' for part in token.value)}")
        depth += isinstance(token, OPENING) - isinstance(token, CLOSING)
        if depth > MAX_DEPTH + 1:
            raise Mismatch(f"{here}: nested deeper than {MAX_DEPTH} levels")


def _scalar_value(tag: str, text: str) -> Any:
    kind = tag.removeprefix(TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in ("true", "yes", "on")
    # YAML 1.1 would read 012 as 10 and 1:30 as 90: such text stays text.
    if kind == "int" and INTEGER.fullmatch(text) and len(text) <= MAX_DIGITS:
        return int(text)
    if kind == "float" and NUMBER.fullmatch(text):
        return float(text.lower().replace(".inf", "inf"))
    return text


def nearest(name: str, names: Iterable[str]) -> str:
    """`" (nearest: learning_rate)"`, or nothing where no valid name is near."""
    found = difflib.get_close_matches(name, list(names), 1, 0.6)
    return f" (nearest: {found[0]})" if found else ""


def convert(written: RawValue, hint: Any, name: str) -> Any:
    """The value in the type that a dataclass field asks for.

    Strict: `3` is a number, `"3"`, `yes`, `3.0` and `[3]` are none; whole numbers pass for a float, and so does the
    text `1e-6`, which YAML 1.1 does not take for a number. Words of the command line have the type that is asked for.

    Args:
        written ([`RawValue`]): what the user wrote.
        hint: a type hint as `typing.get_type_hints` gives it: `bool`, `int`, `float`, `str`, `Any`, `Literal`, `Enum`,
            `list[T]`, `dict[str, T]`, a dataclass, and unions of them.
        name (`str`): the option, for messages.

    Returns:
        The value; of an `Enum` its member, of a dataclass its instance.

    Raises:
        [`Mismatch`]: with place, rule, what was given, and the nearest choice.

    Example:
        >>> convert(from_word("1e-6"), float | None, "learning_rate")
        1e-06
    """
    origin = get_origin(hint)
    if hint is Any:
        return plain(written)
    if origin is Union or isinstance(hint, types.UnionType):
        return _union(written, hint, name)
    if origin is Literal:
        return _choice(written, get_args(hint), name)
    if hint is list or origin is list:
        return _list(written, (get_args(hint) or (Any,))[0], name)
    if hint is dict or origin is dict:
        part = (get_args(hint) or (str, Any))[1]
        return {key: convert(item, part, f"{name}.{key}") for key, item in _entries(written, hint, name).items()}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(_choice(written, tuple(member.value for member in hint), name))
    if is_dataclass(hint):
        return _dataclass(written, hint, name)
    return _scalar(written, hint, name)


def plain(written: RawValue) -> Any:
    """The value without a type to aim at: scalars as YAML reads them (but `1e-6` is a number), lists, mappings."""
    if isinstance(written.value, list):
        return [plain(item) for item in written.value]
    if isinstance(written.value, dict):
        return {key: plain(item) for key, item in written.value.items()}
    if isinstance(written.value, str) and NUMBER.fullmatch(written.value) and "e" in written.value.lower():
        return float(written.value)
    return written.value


def hint_text(hint: Any) -> str:
    """A type in a user's words: `"true or false"`, `"one of best, mean"`, `"a list: number …"`."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    if hint in words:
        return words[hint]
    if get_origin(hint) is Union or isinstance(hint, types.UnionType):
        return " or ".join(hint_text(part) for part in _members(hint))
    choices = _choices(hint)
    if choices:
        return f"one of {', '.join(map(_shown, choices))}"
    if hint is list or get_origin(hint) is list:
        return f"a list ({hint_text((get_args(hint) or (Any,))[0])} …)"
    if hint is dict or get_origin(hint) is dict:
        return f"NAME=VALUE … ({hint_text((get_args(hint) or (str, Any))[1])})"
    return "any value" if hint is Any else "NAME=VALUE …" if is_dataclass(hint) else str(hint)


def accepts(hint: Any, kind: type) -> bool:
    """Whether a hint is, or has in its union, the given type (`list` and `dict` with any parts)."""
    return any(part is kind or get_origin(part) is kind for part in (*get_args(hint), hint))


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _choices(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    is_enum = isinstance(hint, type) and issubclass(hint, Enum)
    return tuple(member.value for member in hint) if is_enum else ()


def _refuse(written: RawValue, name: str, expected: str, advice: str = "") -> Mismatch:
    got = "a hidden value" if is_secret(name) else json.dumps(written.text, ensure_ascii=False)
    if written.typed and not isinstance(written.value, str) and not is_secret(name):
        got = written.text or "nothing"
    got = got if len(got) <= MAX_SHOWN else f"{got[:MAX_SHOWN]}…"
    return Mismatch(f"{written.where}: {name} must be {expected}, got {got}{advice}")


def check_text(name: str, written: RawValue) -> None:
    """Refuse an access token where it would be shown and recorded, and text that no file can hold.

    Raises:
        [`Mismatch`]: without the token.
    """
    if TOKEN.search(f"{name} {written.text}") and not is_secret(name):
        raise Mismatch(
            f"{written.where}: {without_tokens(name)} holds an access token, which is not shown here; give it by "
            "--hub_token or `hf auth login`"
        )
    try:
        f"{name}{written.text}".encode()
    except UnicodeEncodeError:
        raise Mismatch(f"{written.where}: {ascii(name)} holds half of a surrogate pair, which is no text") from None


def is_secret(name: str) -> bool:
    """Options whose value is shown and recorded nowhere: `hub_token` and the like."""
    return name == "token" or name.endswith("_token")


def _members(hint: Any) -> list[Any]:
    """The parts of a union in the order in which they are tried; `str` last of the scalars, as all text fits it."""
    parts = list(get_args(hint))
    choices = [choice for part in (*parts, *map(_item_type, parts)) for choice in _choices(part)]
    if any(isinstance(choice, str) for choice in choices):
        parts = [part for part in parts if part is not str]
    order = [bool, int, float, dict, str, list]

    def rank(part: Any) -> int:
        if _choices(part):
            return -2
        if part is type(None):
            return -1
        kind = get_origin(part) or part
        return order.index(kind) if kind in order else order.index(dict)

    return sorted(parts, key=rank)


def _item_type(hint: Any) -> Any:
    return (get_args(hint) or (None,))[0] if get_origin(hint) is list else None


def _union(written: RawValue, hint: Any, name: str) -> Any:
    parts = _members(hint)
    if str in get_args(hint) and str not in parts and isinstance(written.value, str):
        written = RawValue(written.value, written.text, written.where, typed=False)
    if not written.typed and written.text.startswith("{") and accepts(hint, dict):
        parts = [part for part in parts if accepts(part, dict)]
    failures = []
    for part in parts:
        try:
            return _none(written, name, str in parts) if part is type(None) else convert(written, part, name)
        except Mismatch as failure:
            failures.append((part, failure))
    own = [failure for part, failure in failures if part is not type(None)]
    if len(own) == 1:
        raise own[0]
    raise _refuse(written, name, hint_text(hint))


def _none(written: RawValue, name: str, text_is_allowed: bool) -> None:
    spellings = ("null",) if text_is_allowed else ("null", "none")
    if not (written.value is None if written.typed else written.text.lower() in spellings):
        raise _refuse(written, name, "null")


def _choice(written: RawValue, choices: tuple[Any, ...], name: str) -> Any:
    # By the text: `eval_strategy: no` is false for YAML 1.1.
    for choice in choices:
        same = written.text == choice if isinstance(choice, str) else written.value is choice
        if same and not isinstance(written.value, list | dict):
            return choice
    texts = [_shown(choice) for choice in choices]
    raise _refuse(written, name, f"one of {', '.join(texts)}", nearest(written.text, texts))


def _list(written: RawValue, part: Any, name: str) -> list[Any]:
    items = written.value
    if not isinstance(items, list):
        if written.typed or isinstance(items, dict):
            raise _refuse(written, name, hint_text(list[part]), "; write it as [a, b]")
        words = [] if written.text == "[]" else written.text.split() if _choices(part) else [written.text]
        items = [from_word(word, written.where) for word in words]
    return [convert(item, part, name) for item in items]


def _entries(written: RawValue, hint: Any, name: str) -> dict[str, RawValue]:
    if isinstance(written.value, dict):
        return written.value
    if written.typed:
        raise _refuse(written, name, hint_text(hint), "; write it as a mapping of names to values")
    if written.text.startswith("{"):
        problems: list[str] = []
        entries = compose_mapping(written.text, written.where, problems)
        if problems:
            raise Mismatch(problems[0])
        return entries
    entries = {}
    for word in written.value if isinstance(written.value, list) else [written]:
        key, equals, value = word.text.partition("=")
        if not (key and equals):
            raise _refuse(word, name, hint_text(hint))
        if key in entries:
            raise Mismatch(f"{written.where}: {name} has {key} twice")
        entries[key] = from_word(value, written.where)
    return entries


def _dataclass(written: RawValue, hint: Any, name: str) -> Any:
    hints = get_type_hints(hint)
    known = {item.name: hints[item.name] for item in fields(hint) if item.init}
    values = {}
    for key, item in _entries(written, hint, name).items():
        if key not in known:
            raise Mismatch(f"{item.where}: {name} has no field {key}{nearest(key, known)}")
        values[key] = convert(item, known[key], f"{name}.{key}")
    try:
        return hint(**values)
    except (TypeError, ValueError) as error:
        raise Mismatch(f"{written.where}: {name} is refused: {error}") from None


def _scalar(written: RawValue, hint: Any, name: str) -> Any:
    value = written.value
    if isinstance(value, list | dict):
        raise _refuse(written, name, hint_text(hint))
    if hint is str and (isinstance(value, str) or not written.typed):
        return written.text
    if hint in (bool, int) and type(value) is hint:
        return value
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint is float and isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value.lower().replace(".inf", "inf"))
    if hint not in (bool, int, float, str):
        raise Mismatch(f"{written.where}: {name} has no written form; set it from Python")
    advice = "; put it in quotes" if hint is str else ""
    raise _refuse(written, name, hint_text(hint), advice)
