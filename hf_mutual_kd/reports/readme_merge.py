"""Joins a card that was built here with the README that was there; what the user wrote stays."""

from __future__ import annotations

import re
from typing import Any

from .text import dump_front_matter, split_readme

BEGIN, END = "<!-- hf_mutual_kd:begin -->", "<!-- hf_mutual_kd:end -->"
BLOCK = re.compile(rf"^{BEGIN}[ \t]*\r?$.*?^{END}[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)
MARKER = re.compile(rf"^(?:{BEGIN}|{END})[ \t]*\r?$\n?", re.MULTILINE)


def merge_readme(built: str, present: str | None, name: str = "README.md") -> str:
    """A new card in the place of the old one, with the text and the metadata that the user has around it.

    Args:
        built (`str`): the card of the run. Our text stands between the markers, each on a line of its own; a card
            without them is ours as a whole.
        present (`str`, *optional*): the README that is there.
        name (`str`, *optional*, defaults to `"README.md"`): what messages call `present`.

    Returns:
        `str`: our block where the old one stood, or first where there was none. The user's metadata stays for keys
        that `built` does not set, and so do tags beside ours. Text around the block in `built` counts only where
        `present` has none there. Merging the result again changes nothing.

    Raises:
        [`PeerError`]: metadata cannot be read, so it could not be kept.

    Example:

    ```python
    >>> merge_readme(f"{BEGIN}\\nnew\\n{END}\\n", f"# Mine\\n\\n{BEGIN}\\nold\\n{END}\\n\\nMore of mine\\n")
    '# Mine\\n\\n<!-- hf_mutual_kd:begin -->\\nnew\\n<!-- hf_mutual_kd:end -->\\n\\nMore of mine\\n'
    ```
    """
    if not present or present == built:
        return built
    their_metadata, their_body = split_readme(present, name)
    metadata, body = split_readme(built)
    merged = merge_metadata(metadata, their_metadata)
    # Written anew only where something was added: a repeated push must not differ.
    head = built[: len(built) - len(body)] if merged == metadata else dump_front_matter(merged)
    return head + _merge_body(body, their_body)


def merge_metadata(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Our keys, then theirs that we do not set; the tags of both."""
    merged = ours | {key: value for key, value in theirs.items() if key not in ours}
    if ours.get("tags") and theirs.get("tags"):
        tags = _as_list(ours["tags"])
        merged["tags"] = tags + [tag for tag in _as_list(theirs["tags"]) if tag not in tags]
    return merged


def _as_list(tags: Any) -> list[Any]:
    return tags if isinstance(tags, list) else [tags]


def _merge_body(built: str, present: str) -> str:
    before, block, after = split_block(built)
    their_before, their_block, their_after = split_block(present)
    if block is None:
        if their_block is None:
            return built
        before, block, after = "", f"{BEGIN}\n{after}\n{END}", ""
    parts = (their_before or before, block, their_after or after)
    return "\n\n".join(filter(None, parts)) + "\n"


def split_block(body: str) -> tuple[str, str | None, str]:
    """The text before our block, the block, and the text below; without a block all text is below.

    Markers inside a line are text; those that have lost their other half are dropped.
    """
    found = BLOCK.search(body)
    before, *below = BLOCK.split(body) if found else ("", body)
    outside = (before, "\n\n".join(part for part in below if part.strip()))
    first, last = (MARKER.sub("", part).strip("\r\n") if part.strip() else "" for part in outside)
    return first, found[0].rstrip("\r\n") if found else None, last
