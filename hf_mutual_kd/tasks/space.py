"""What a Space needs of a run of each task: files of the app, packages, and test samples with their truth."""

from __future__ import annotations

import itertools
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from ..data.images import decode_image
from ..reports.predictions import predictions_of
from ..reports.report_data import choose_flips
from ..reports.run_record import RunRecord
from ..reports.samples import SAMPLES_FILE, read_samples
from ..reports.text import one_line

FILES = Path(__file__).parents[1] / "hub" / "space" / "app"
SHARED = ("app.py", "view.py", "peers.py", "answer.py", "uploads.py", "style.css")
WEIGHT_FILES = Path(__file__).parents[1] / "peers" / "weight_files.py"
DATA = "data"
"""Inside the Space: all that is made of the run, replaced as a whole by the next push."""
SAMPLES = f"{DATA}/samples"
MOST_SIDE = 768
"""Pixels of a sample's longer side, as of the app's uploads."""


class SpaceTask(ABC):
    """One task in a Space; the app's side of it is the view among `files`."""

    score: ClassVar[str]
    """What the app calls the numbers that say who teaches."""
    several = False
    """Whether a visitor may say several classes."""
    thing: ClassVar[str] = "an image"
    """What a visitor gives."""
    unit: ClassVar[str] = "images"
    """What the samples are."""
    files: ClassVar[tuple[str, ...]]
    """Of the app, besides the shared ones; the last one is the task's view."""
    processor_files: ClassVar[tuple[str, ...]] = ("*processor*",)
    """Patterns of the files that a peer's processor is loaded from."""

    def check(self, name: str, config: Any) -> None:  # noqa: B027
        """Raise [`PeerError`] for a model that the app cannot show."""

    def write_app(self, folder: Path) -> None:
        """Copy the app."""
        for name in (*SHARED, *self.files):
            shutil.copyfile(FILES / name, folder / name)
        shutil.copyfile(WEIGHT_FILES, folder / WEIGHT_FILES.name)

    def packages(self, configs: Sequence[Any]) -> list[str]:
        """What the app imports besides gradio."""
        types = {str(config.model_type) for config in configs}
        return ["torch", "torchvision", "transformers", *(["timm"] if "timm_wrapper" in types else [])]

    def peer_facts(self, folder: Path) -> dict[str, Any]:
        """What the app has to know of a trained peer in this folder besides what all tasks tell."""
        return {}

    @abstractmethod
    def write_samples(
        self, run: RunRecord, rows: Any, peers: Sequence[Mapping[str, Any]], folder: Path, most: int
    ) -> list[dict[str, Any]]:
        """Write test samples; the `name`, the files relative to the Space, and the `truth` of each.

        Args:
            run ([`RunRecord`]): of which the Space is made.
            rows: its test split.
            peers (`list[dict]`): what `facts.json` says of each.
            folder (`Path`): the Space, in which [`SAMPLES`] exists.
            most (`int`): samples.
        """


class RowSpace(SpaceTask):
    """
    A sample is a row.

    Args:
        several (`bool`, *optional*, defaults to `False`): whether a row has several classes.
    """

    score = "margin of the truth: how far it is ahead of everything else, in nats"

    def __init__(self, several: bool = False):
        self.several = several
        if several:
            self.score = "mean log-likelihood of its labels, in nats"  # type: ignore[misc]

    def write_samples(
        self, run: RunRecord, rows: Any, peers: Sequence[Mapping[str, Any]], folder: Path, most: int
    ) -> list[dict[str, Any]]:
        if hasattr(rows, "__len__"):
            chosen = [(index, rows[index]) for index in choose_rows(run, len(rows), most)]
        else:
            chosen = list(enumerate(itertools.islice(rows, most)))
        return [
            self.write_sample(row, f"sample {index}", folder, f"{SAMPLES}/{number:02d}", run.labels)
            for number, (index, row) in enumerate(chosen)
        ]

    @abstractmethod
    def write_sample(
        self, row: Mapping[str, Any], name: str, folder: Path, stem: str, labels: Sequence[str]
    ) -> dict[str, Any]:
        """Write one row into files whose names begin with `stem`."""


def truth_of(row: Mapping[str, Any], labels: Sequence[str]) -> str | list[str] | None:
    """The name of a row's class, or those of several; `None` where it has no label."""
    label = row.get("label")
    if isinstance(label, list | tuple):
        return [one_line(labels[one]) for one in label]
    return one_line(labels[label]) if isinstance(label, int) and 0 <= label < len(labels) else None


def choose_rows(run: RunRecord, count: int, most: int) -> list[int]:
    """Flipped samples first, where the run has kept them, then evenly spaced ones."""
    samples = read_samples(run.folder / SAMPLES_FILE, list(run.peers))
    found = predictions_of(samples) if samples is not None else None
    flipped = [int(found.ids[row]) for row in choose_flips(found, most)] if found is not None else []
    spaced = [count * place // min(most, count) for place in range(min(most, count))]
    return [row for row in dict.fromkeys([*flipped, *spaced]) if row < count][:most]


def write_image(row: Mapping[str, Any], path: Path) -> Image.Image:
    """The image of a row as PNG of a bounded size."""
    image = decode_image(row["image"])
    image.thumbnail((MOST_SIDE, MOST_SIDE))
    image.save(path)
    return image
