"""What the page needs of a task: what a visitor gives, how a peer is loaded and asked, and what is shown of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PHASES = ("start", "end")


@dataclass
class Given:
    """What the peers are asked about.

    Args:
        subject: an image, or a film.
        truth (*optional*): in the task's own form, `None` where nobody knows it.
    """

    subject: Any
    truth: Any = None


Looks = dict[str, dict[str, Any]]
"""What every peer sees, by name and phase; a text where there is nothing to show."""


class View(ABC):
    """One task on the page.

    Args:
        folder (`Path`): of the app.
        facts (`dict`): `data/facts.json`.
    """

    no_truth: Any = None
    """Value of the truth's component where a visitor says none."""
    most_file: int
    """Bytes of an upload."""

    def __init__(self, folder: Path, facts: dict[str, Any]):
        self.folder, self.facts = folder, facts

    @abstractmethod
    def subject_input(self) -> Any:
        """A gradio component for a file, with the id `upload`; it hands on the file's path, unopened."""

    @abstractmethod
    def truth_input(self) -> Any:
        """A gradio component for the truth; what a sample calls its `truth` is a value of it."""

    @abstractmethod
    def sample_file(self, sample: dict[str, Any]) -> str:
        """Of a sample's files the one that is put into [`subject_input`]'s component, relative to the app."""

    @abstractmethod
    def read(self, path: str | None, truth: Any) -> Given:
        """What a visitor gave.

        Raises:
            [`~uploads.Refused`]: it cannot be used; the text is for the visitor.
        """

    @abstractmethod
    def load(self, source: str, revision: str | None) -> Any:
        """A model, without code from where it lies."""

    @abstractmethod
    def load_processor(self, source: str, revision: str | None) -> Any:
        """Its processor."""

    @abstractmethod
    def see(self, model: Any, processor: Any, peer: dict[str, Any], given: Given) -> Any:
        """What one peer makes of it; `peer` is its entry of `facts.json`."""

    @abstractmethod
    def answer(self, given: Given, seen: Looks) -> list[str]:
        """Parts of the page, HTML."""


def path_of(payload: Any) -> str | None:
    """The path of an upload: instead of a component's `preprocess`, which would open it before its size is known."""
    return None if payload is None else payload.path
