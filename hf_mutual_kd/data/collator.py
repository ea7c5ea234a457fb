"""The data collator: decodes and augments each input once, runs the peers' processors and tags samples with roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import datasets
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ..distillation.roles import UNDECIDED
from ..errors import ConfigError, DataError
from .class_labels import class_number
from .file_columns import DECODING, without_decoding
from .images import UNREADABLE, decode_reduced, row_id
from .inputs import IMAGES, Inputs
from .processors import PeerInputs, PeerProcessors
from .role_table import RoleTable
from .share_stream import has_label
from .views import SharedView

SAMPLE_ID = "sample_id"
BLANK = (32, 32)
"""Height and width of what stands in the place of an unreadable sample."""


class RoleTaggingCollator:
    """Turns rows into one batch for all peers, every sample tagged with its teacher.

    Args:
        processors (`dict[str, Any]`): each peer's image processor.
        view (callable, *optional*): the shared random view `(image, sample_id, epoch) -> image`; none for evaluation.
        role_table ([`RoleTable`], *optional*): who teaches; other samples stay `UNDECIDED`.
        on_bad_row (`str`, *optional*, defaults to `"raise"`): `"skip"` leaves unreadable inputs out and counts them.
        keep_places (`bool`, *optional*, defaults to `False`): a skipped sample stays where it is, with a blank input
            and the label `UNREADABLE`: evaluations over several processes gather batches by place.

    Returns:
        `dict`: `peer_inputs` `{peer: {"pixel_values": [B, 3, H, W]}}`, `labels` `[B]` (-1: none), `sample_ids` `[B]`
        and `roles` `[B]`, all `torch.LongTensor` but the pixels.

    Raises:
        [`DataError`]: an unreadable image, named by its sample id.

    Example:

    ```python
    >>> collator = RoleTaggingCollator(cohort.processors)
    >>> batch = collator([{"image": image, "label": 3, "sample_id": 0}])
    >>> batch["roles"]
    tensor([-2])
    ```
    """

    processors_class = PeerProcessors
    inputs: ClassVar[Inputs] = IMAGES
    """What the rows hold."""
    labelled_only = False
    """Whether rows without a label are left out before they are decoded, as a control learns nothing from them."""
    label_names: Sequence[str] = ()
    """The classes, by which labels are checked batch by batch; the trainer says it."""

    def __init__(
        self,
        processors: Mapping[str, Any],
        view: Callable[..., Any] | None = None,
        *,
        role_table: RoleTable | None = None,
        on_bad_row: str = "raise",
        keep_places: bool = False,
    ):
        self.processors = self.processors_class(processors)
        self.view = view
        self.role_table = role_table
        self.on_bad_row = on_bad_row
        self.keep_places = keep_places
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self._skipped = torch.zeros((), dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Tell the view, also in worker processes, which epoch it draws for."""
        self._epoch.fill_(epoch)

    @property
    def skipped(self) -> int:
        """Unreadable images left out so far, over all worker processes."""
        return int(self._skipped)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, PeerInputs | Tensor]:
        if self.labelled_only:
            # One row stays in a batch that has no label: other processes wait for the step.
            rows = [row for row in rows if has_label(row)] or rows[:1]
        samples, ids = [], []
        for row in rows:
            sample = self._read(row)
            if sample is None and self.keep_places:
                sample = self.blank()
            if sample is not None:
                samples.append(sample)
                ids.append(row[SAMPLE_ID])
        if not samples:
            raise DataError(
                f"none of the {len(rows)} {self.inputs.noun}s of a batch can be read; first {rows[0][SAMPLE_ID]}"
            )
        images, labels = zip(*samples, strict=True)
        sample_ids = torch.tensor(ids)
        undecided = torch.full_like(sample_ids, UNDECIDED)
        return {
            "peer_inputs": self.processors(images),
            "labels": self.join(labels),
            "sample_ids": sample_ids,
            "roles": self.role_table.lookup(sample_ids) if self.role_table is not None else undecided,
        }

    def _read(self, row: Mapping[str, Any]) -> tuple[Any, Any] | None:
        try:
            return self.sample(row, self.read_input(row))
        except DataError as error:
            if self.on_bad_row == "skip":
                self._skipped += 1
                return None
            raise DataError(
                f"the {self.inputs.noun} of sample {row[SAMPLE_ID]} cannot be read ({error}); mend it, or leave such "
                "rows out with --on_bad_row skip"
            ) from error

    # What differs between tasks

    def read_input(self, row: Mapping[str, Any]) -> Any:
        """The input of a row, decoded; an image file as large as its random crop needs it.

        Raises:
            [`DataError`]: it cannot be read.
        """
        side, value = self.processors.longest_side, row.get(self.inputs.column)
        if self.inputs is IMAGES and isinstance(self.view, SharedView) and side and isinstance(value, dict):
            return decode_reduced(value, self.view.least_side(side))
        return self.inputs.read(row)

    def sample(self, row: Mapping[str, Any], image: Any) -> tuple[Any, Any]:
        """The image of a row as its view shows it, and its label.

        Raises:
            [`DataError`], [`LabelError`]: the label cannot be read, or is no class.
        """
        if self.view is not None:
            image = self.view(image, row[SAMPLE_ID], int(self._epoch))
        return image, self.label(row)

    def label(self, row: Mapping[str, Any]) -> Any:
        """The label of a row."""
        return class_number(row.get("label"), self.label_names or None, row=f"sample {row[SAMPLE_ID]}")

    def blank(self) -> tuple[Any, Any]:
        """What stands in the place of an unreadable sample."""
        return self.inputs.blank(), UNREADABLE

    def join(self, labels: Sequence[Any]) -> Tensor:
        """The labels of a batch."""
        return torch.tensor(labels)


class IdentifiedRows(Dataset):
    """A map-style data set whose rows carry their index as `sample_id`.

    Rows that are no plain table answer `is_drawn`, `sample_ids`, `fixed_rows` and `describe` themselves.
    """

    def __init__(self, rows: Any):
        self.rows = rows
        self.cycle: int | None = None
        """After so many epochs rows that are drawn come again."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {SAMPLE_ID: index, **self.rows[index]}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        fetch = getattr(self.rows, "__getitems__", None)
        rows = fetch(indices) if fetch is not None else [self.rows[index] for index in indices]
        return [{SAMPLE_ID: index, **row} for index, row in zip(indices, rows, strict=True)]

    def set_epoch(self, epoch: int) -> None:
        """Let rows that draw something for every epoch do so."""
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch if self.cycle is None else epoch % self.cycle)

    @property
    def is_drawn(self) -> bool:
        """Whether every epoch shows other rows."""
        return bool(getattr(self.rows, "is_drawn", False))

    def sample_ids(self) -> list[int]:
        """The ids of rows that no epoch changes, in order."""
        return self.rows.sample_ids() if hasattr(self.rows, "sample_ids") else list(range(len(self)))

    def fixed_rows(self, epochs: int | None = None) -> Any:
        """Rows that are the same in every epoch, for a score table.

        Args:
            epochs (`int`, *optional*): where every epoch draws others, those that so many draw; all when unset.

        Raises:
            [`ConfigError`]: `epochs` of rows that no epoch draws.
        """
        if hasattr(self.rows, "fixed_rows"):
            return self.rows.fixed_rows(epochs)
        if epochs is not None:
            raise ConfigError("epochs is for rows that every epoch draws anew, and these stay the same")
        return self.rows


class IdentifiedStream(IterableDataset):
    """A stream whose rows carry a hash of their input as `sample_id`: the same in every order, worker and epoch."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.rows:
            yield {SAMPLE_ID: row_id(row), **row}

    def set_epoch(self, epoch: int) -> None:
        """Reshuffle the stream where it can be."""
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)


def identified(rows: Any) -> IdentifiedRows | IdentifiedStream | None:
    """Rows that carry a `sample_id`: an index where rows can be counted, a content hash where they are streamed."""
    if rows is None or isinstance(rows, IdentifiedRows | IdentifiedStream):
        return rows
    rows = undecoded(rows)
    return IdentifiedStream(rows) if isinstance(rows, IterableDataset) else IdentifiedRows(rows)


def undecoded(rows: Any) -> Any:
    """A data set whose files are decoded by the collator, so that a damaged one can be named or left out.

    With a transform of the user's own nothing is changed: it is written for what is decoded.
    """
    known = isinstance(rows, datasets.Dataset | datasets.IterableDataset)
    if not known or getattr(rows, "format", {}).get("type") == "custom":
        return rows
    for column, feature in dict(rows.features or {}).items():
        if isinstance(feature, DECODING) and feature.decode:
            rows = rows.cast_column(column, without_decoding(feature))
    return rows


def rows_with(rows: Any, ids: Sequence[int]) -> Iterator[Mapping[str, Any]]:
    """The rows of a split that have these sample ids, in the order of the split."""
    wanted, known = set(ids), identified(rows)
    if known is None:
        return
    if isinstance(known, IdentifiedStream):
        source: Iterator[Any] = iter(known)
    elif hasattr(rows, "sample_ids"):
        numbers = rows.sample_ids()
        source = (known[place] for place, identity in enumerate(numbers) if identity in wanted)
    else:
        source = (known[place] for place in sorted(wanted) if place < len(known))
    for row in source:
        if row[SAMPLE_ID] in wanted:
            wanted.remove(row[SAMPLE_ID])
            yield row
        if not wanted:
            return
