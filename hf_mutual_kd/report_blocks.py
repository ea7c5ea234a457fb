"""What a section of a report is made of; the template shows each kind of block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .report_figures import Figure


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
class Samples:
    """Single test samples with every peer's belief before and after, and what they can be filtered by."""

    kind: ClassVar[str] = "samples"
    items: Sequence[Mapping[str, Any]]
    peers: Sequence[str]
    classes: Mapping[int, str]


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading and an anchor."""

    id: str
    title: str
    blocks: Sequence[Any] = field(default_factory=list)
