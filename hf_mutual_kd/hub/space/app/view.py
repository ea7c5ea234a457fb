"""What the page needs of a task: what a visitor gives, how a peer is loaded and asked, and what is shown of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uploads import admitted

PHASES = ("start", "end")


@dataclass
class Given:
    """What the peers are asked about.

    Args:
        subject: an image, a film, or a text.
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
    sample_component = "image"
    """The gradio component that shows a sample in the list of them."""

    def __init__(self, folder: Path, facts: dict[str, Any]):
        self.folder, self.facts = folder, facts

    @abstractmethod
    def subject_input(self) -> Any:
        """A gradio component with the id `upload`; one for a file hands on its path, unopened."""

    @abstractmethod
    def truth_input(self) -> Any:
        """A gradio component for the truth; what a sample calls its `truth` is a value of it."""

    @abstractmethod
    def sample_value(self, sample: dict[str, Any]) -> str:
        """What of a sample is put into [`subject_input`]'s component."""

    def sample_shown(self, sample: dict[str, Any]) -> str:
        """What of a sample the list shows."""
        return str(self.folder / sample["image"])

    def admit(self, given: str | None, folders: Iterable[Path]) -> str | None:
        """What a visitor gave, where it is no path out of these folders."""
        return admitted(given, folders)

    def replaced(self, subject: Any) -> Any:
        """The event of [`subject_input`]'s component in which a visitor gives something new."""
        return subject.upload

    @abstractmethod
    def read(self, given: str | None, truth: Any) -> Given:
        """What a visitor gave: the path of a file, or a text.

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
