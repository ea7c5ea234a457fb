"""The text of `--help`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

from .command_line import spell
from .fields import GROUPS
from .values import hint_text

WIDTH = 110


def render_help(option_classes: Sequence[type], description: str, *, usage: str = "", whole: bool = True) -> str:
    """The text of `--help`: a part for each group of options, an entry for each field.

    Args:
        option_classes (`list[type]`): dataclasses whose fields are the options.
        description (`str`): what is said first.
        usage (`str`, *optional*): the command.
        whole (`bool`, *optional*, defaults to `True`): also the options that are seldom needed; otherwise those of
            `option(…, often=True)` alone, with a word on `--help-all`.
    """
    lines = [f"usage: {usage}", ""] if usage else []
    lines += [description]
    hints = {cls: get_type_hints(cls) for cls in option_classes}
    items = [(item, hints[cls][item.name]) for cls in option_classes for item in fields(cls) if item.init]
    shown = {item.name: (item, hint) for item, hint in items if "group" in item.metadata}
    has_often = any(item.metadata.get("often") for item, _ in shown.values())
    for group, title in GROUPS.items():
        entries = [
            _entry(item, hint)
            for item, hint in shown.values()
            if item.metadata["group"] == group and (whole or not has_often or item.metadata.get("often"))
        ]
        if entries:
            lines += ["", f"{title}:", *(line for entry in entries for line in entry)]
    if has_often and not whole:
        lines += ["", "--help-all shows all options."]
    return "\n".join(lines)


def _entry(item: Field[Any], hint: Any) -> list[str]:
    default = item.default_factory() if item.default_factory is not MISSING else item.default
    shown = "" if default is MISSING or default is None or default in ([], {}, "") else f" Default: {spell(default)}."
    help_text = item.metadata.get("help", "") + shown
    indent = " " * 6
    entry = textwrap.wrap(help_text, WIDTH, initial_indent=indent, subsequent_indent=indent)
    metavar = item.metadata.get("metavar") or _spell_type(hint)
    flag = metavar if item.metadata.get("positional") else f"--{item.name} {metavar}"
    return [f"  {flag}{' (needed)' if item.metadata.get('required') else ''}", *entry]


def _spell_type(hint: Any) -> str:
    text = hint_text(hint).replace(" or null", "").replace("null or ", "")
    if text.startswith("one of "):
        return text.removeprefix("one of ").replace(", ", "|")
    words = {"true or false": "true|false", "a whole number": "N", "a number": "X", "text": "TEXT"}
    if text.startswith("a list ("):
        return f"{words.get(text[8:-3], 'VALUE')} …"
    return words.get(text, text.split(" (")[0])
