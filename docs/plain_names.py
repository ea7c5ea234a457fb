"""Lets the API pages show docstrings in TRL's grammar: references as names in code, types without their marks."""

from __future__ import annotations

import re
from typing import Any

import griffe

REFERENCE = re.compile(r"\[`~?(?:[\w.]+\.)?(\w+)`\](?!\(|\[)")

ARGUMENT = re.compile(r"^(\s+[\w, ]+ )\((`.*?)\):", re.MULTILINE)
RAISED = re.compile(r"^(\s+)(`\w+`(?:(?:, | or )`\w+`)*)(?=:)", re.MULTILINE)
MARKS = re.compile(r"[`*]")


class PlainNames(griffe.Extension):
    """Changes docstrings while the package is read; nothing is imported."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = REFERENCE.sub(r"`\1`", obj.docstring.value)
            text = ARGUMENT.sub(lambda found: f"{found[1]}({MARKS.sub('', found[2])}):", text)
            obj.docstring.value = RAISED.sub(lambda found: found[1] + MARKS.sub("", found[2]), text)
