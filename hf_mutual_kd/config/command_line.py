"""Words of a command line: read into options, and written from them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from .peers import peer_words
from .values import RawValue, accepts, from_word, is_secret

BOOLEANS = ("true", "false", "yes", "no", "on", "off")


class Option(NamedTuple):
    """One option: its name, its type, and what its field says of it."""

    name: str
    hint: Any
    metadata: Mapping[str, Any]

    @property
    def is_positional(self) -> bool:
        """Whether its words stand alone, without `--name`."""
        return bool(self.metadata.get("positional"))

    def takes(self, count: int, word: str) -> bool:
        """Whether a further word can be a value, after `count` of them."""
        if accepts(self.hint, list) or accepts(self.hint, dict):
            return True
        return count == 0 and (not accepts(self.hint, bool) or accepts(self.hint, str) or word.lower() in BOOLEANS)


def split_words(argv: Sequence[str], options: Mapping[str, Option], problems: list[str]) -> dict[str, list[str]]:
    """The words of each option, by its name with underscores; a word that belongs to none is a problem.

    `--name value …`, `--name=value` and `--na-me value` are the same. Where options have positions, a word that
    the option before it cannot take is theirs.
    """
    positional = [option.name for option in options.values() if option.is_positional]
    words: dict[str, list[str]] = {}
    loose: list[str] = []
    name = ""
    for word in argv:
        if re.match(r"--[A-Za-z]", word):
            flag, equals, value = word[2:].partition("=")
            name = flag.replace("-", "_") if "." not in flag else flag
            if name in words:
                problems.append(f"command line: --{name} is given twice")
            words[name] = [value] if equals else []
            name = "" if equals else name
        elif name and (not positional or name not in options or options[name].takes(len(words[name]), word)):
            words[name].append(word)
        else:
            loose.append(word)
    return words | _in_positions(loose, positional, options, problems)


def _in_positions(
    loose: list[str], names: list[str], options: Mapping[str, Option], problems: list[str]
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        many = accepts(options[name].hint, list)
        taken, loose = (loose, []) if many else (loose[:1], loose[1:])
        if taken:
            found[name] = taken
    for word in loose:
        after = f" after {' '.join(name.upper() for name in names)}" if names else ""
        problems.append(f"command line: {word!r} belongs to no option{after}; options are written --name value")
    return found


def from_words(option: Option | None, words: list[str]) -> RawValue | None:
    """What the words of one option say; `None` where a value is missing."""
    if words:
        items = [from_word(word, "command line") for word in words]
        return items[0] if len(items) == 1 else RawValue(items, " ".join(words), "command line", typed=False)
    if option is None or accepts(option.hint, bool):
        return from_word("true", "command line")
    return None


def to_command(program: str, given: Mapping[str, Any]) -> str:
    """The command that gives the same options, ready for a shell; secrets are left out.

    Example:

    ```python
    >>> to_command("hf-mutual-kd train image-classification", {"peers": ["a=x"], "bf16": True})
    'hf-mutual-kd train image-classification --peers a=x --bf16 true'
    ```
    """
    words = [program]
    for name, value in given.items():
        if is_secret(name):
            continue
        if name == "peers":
            words += map(shlex.quote, peer_words(value))
            continue
        parts = _dict_words(value) if isinstance(value, dict) else value
        shown = [spell(part) for part in (parts if isinstance(parts, list) else [parts])]
        words += [f"--{name}", *map(shlex.quote, shown)]
    return " ".join(words)


def spell(value: Any) -> str:
    """A value as a word: `true` for `True`."""
    return str(value).lower() if isinstance(value, bool) else str(value.value if isinstance(value, Enum) else value)


def _dict_words(entries: dict[str, Any]) -> list[str]:
    """`NAME=VALUE` for each entry; one word of JSON, which is YAML too, where a value has parts of its own."""
    if any(isinstance(item, dict | list) or item is None for item in entries.values()):
        return [json.dumps(entries, ensure_ascii=False)]
    return [f"{key}={item}" for key, item in entries.items()]
