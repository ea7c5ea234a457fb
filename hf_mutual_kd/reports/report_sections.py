"""The sections that a report of any task has, and what a report asks of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from .blocks import Section
from .making_section import making_section
from .report_data import ReportData
from .results_section import results_section, training_section
from .teaching_section import teaching_section

SectionMaker = Callable[[ReportData], Section | None]
"""From a run's records to what the page shows; one that has nothing to show returns `None`."""

COMMON_SECTIONS: tuple[SectionMaker, ...] = (results_section, training_section, teaching_section, making_section)


class ReportTask(Protocol):
    """What a [`Task`] says of its page."""

    @property
    def report_sections(self) -> Sequence[SectionMaker]:
        """In their order."""

    def preview(self, row: Mapping[str, Any]) -> bytes | str | None:
        """A row of the test split as a small JPEG, a short FLAC, or a text."""
