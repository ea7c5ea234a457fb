"""Joins a card that was built here with the README that a repository already has."""

from __future__ import annotations

import re
from typing import Any

import yaml

BEGIN = "<!-- hf_mutual_kd:begin -->"
END = "<!-- hf_mutual_kd:end -->"
FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def split_front_matter(text: str) -> tuple[str, dict[str, Any], str]:
    """The YAML text of a README, what it says, and the rest; unreadable YAML says nothing."""
    match = FRONT_MATTER.match(text)
    if match is None:
        return "", {}, text
    try:
        metadata = yaml.safe_load(match[1])
    except yaml.YAMLError:
        metadata = None
    return match[1], metadata if isinstance(metadata, dict) else {}, text[match.end() :]


def _around(body: str) -> tuple[str, str, str] | None:
    """What stands before, between and after the markers; `None` where they are missing."""
    start, stop = body.find(BEGIN), body.rfind(END)
    if start < 0 or stop < start:
        return None
    return body[:start], body[start : stop + len(END)], body[stop + len(END) :]


def merge_readme(built: str, present: str | None) -> str:
    """The README to push: our text from `built`, the user's own text and metadata from `present`.

    Args:
        built (`str`): the card of the run; its own text stands between the markers.
        present (`str`, *optional*): the README that the repository has.

    Returns:
        `str`: what is outside the markers in `present` stays; a `present` without markers stays whole, above our text.
        Metadata keys that `built` does not set stay, and so do tags that it does not have. Merging the result again
        changes nothing.

    Example:

    ```python
    >>> merge_readme(f"{BEGIN}\\nnew\\n{END}\\n", f"# Mine\\n{BEGIN}\\nold\\n{END}\\nMore of mine")
    '# Mine\\n<!-- hf_mutual_kd:begin -->\\nnew\\n<!-- hf_mutual_kd:end -->\\nMore of mine'
    ```
    """
    if present is None or present == built:
        return built
    yaml_text, metadata, body = split_front_matter(built)
    _, their_metadata, their_body = split_front_matter(present)
    return _front_matter(yaml_text, metadata, their_metadata) + _body(body, their_body)


def _body(built: str, present: str) -> str:
    ours, theirs = _around(built), _around(present)
    if ours is None:
        return built if theirs is None else f"{theirs[0]}{BEGIN}\n{built.strip()}\n{END}{theirs[2]}"
    if theirs is None:
        return f"{present.rstrip()}\n\n{ours[1]}{ours[2]}" if present.strip() else built
    before = theirs[0] if theirs[0].strip() else ours[0]
    after = theirs[2] if theirs[2].strip() else ours[2]
    return before + ours[1] + after


def _front_matter(text: str, ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    merged = {**theirs, **ours}
    if isinstance(ours.get("tags"), list) and isinstance(theirs.get("tags"), list):
        merged["tags"] = ours["tags"] + [tag for tag in theirs["tags"] if tag not in ours["tags"]]
    if merged == ours:
        return f"---\n{text}\n---\n" if text else ""
    ordered = {key: merged[key] for key in (*ours, *(key for key in theirs if key not in ours))}
    return f"---\n{yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True, width=119)}---\n"
