"""What a section of a report is made of; the template shows each kind of block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .figures import Figure

JPEG, FLAC = b"\xff\xd8", b"fLaC"
"""The first bytes of such files."""

MOST_CLASSES = 30
"""Rows of a table by class; of more classes those with the largest numbers are shown."""


@dataclass(frozen=True)
class Cell:
    """A cell whose ground is shaded by `heat`: 0 not at all, 1 strongly, below 0 in the colour of losses."""

    text: str
    heat: float = 0.0


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Table:
    """A table whose first column heads its rows; the first `words` columns are text, `folded` hides it at first."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    folded: bool = False
    words: int = 1


@dataclass(frozen=True)
class Figures:
    """Figures side by side where there is room."""

    kind: ClassVar[str] = "figures"
    items: Sequence[Figure]


@dataclass(frozen=True)
class Code:
    """A command to copy."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Links:
    """Files that lie beside the page: `(text, address)`."""

    kind: ClassVar[str] = "links"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Samples:
    """Single test samples with every peer's outputs before and after, and what they can be filtered by."""

    kind: ClassVar[str] = "samples"
    items: Sequence[Mapping[str, Any]]
    peers: Sequence[str]
    classes: Mapping[int, str]


@dataclass(frozen=True)
class Picture:
    """An image of a scene: JPEG, or PNG for a map, what it shows in words, and what stands under it."""

    content: bytes
    alt: str
    caption: str

    @property
    def is_photo(self) -> bool:
        """Whether it is shown smoothly, not as a map of pixels."""
        return self.content.startswith(JPEG)


@dataclass(frozen=True)
class Scene:
    """
    A test sample with a map of every peer before and after.

    Args:
        title (`str`): heading.
        note (`str`): beside it.
        values (`dict[str, str]`):
            What it can be found by: under the name of each filter its values, separated by blanks; `flips` holds
            `PEER:KIND` for the filters `peer` and `kind`.
        pictures (`list[Picture]`): in rows of `columns`.
        columns (`int`): pictures beside each other.
        numbers ([`Table`]): under the pictures.
    """

    title: str
    note: str
    values: Mapping[str, str]
    pictures: Sequence[Picture]
    columns: int
    numbers: Table


@dataclass(frozen=True)
class Filter:
    """A choice of what is shown: `(value, text)` pairs under a name."""

    name: str
    label: str
    choices: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Scenes:
    """Scenes, what they can be filtered by, and what their colours stand for: `(text, "#rrggbb")` under headings."""

    kind: ClassVar[str] = "scenes"
    items: Sequence[Scene]
    filters: Sequence[Filter]
    legend: Mapping[str, Sequence[tuple[str, str]]]


def shaded(text: str, change: float, full: float) -> Cell:
    """A cell that is shaded by a change, fully where it is `full` or more; below 0 in the colour of losses."""
    return Cell(text, max(-1.0, min(1.0, change / full)))


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading and an anchor."""

    id: str
    title: str
    blocks: Sequence[Any] = field(default_factory=list)
