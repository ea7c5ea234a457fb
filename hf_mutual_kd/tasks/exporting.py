"""What an export asks of a task: samples as a peer takes them, predictions from its tensors, how good they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..distillation.label_alignment import align_labels, label_list
from ..errors import ExportError, LabelError

if TYPE_CHECKING:
    from .base import Task

PIXELS = "pixel_values"
"""The one input of files of peers that look at images."""
Given = Mapping[str, Tensor]
"""A file's inputs by name, `[B, ...]` each."""
Batch = Mapping[str, Any]
"""As a task's collator makes it."""
Counted = tuple[float, int]
"""A sum, and over how many it goes."""


class TaskExport(ABC):
    """One peer of one task.

    Args:
        task ([`Task`]): whose it is.
        name (`str`): the peer's.
        model (`nn.Module`): the peer.
        processor (`Any`): the peer's.
        labels (`list[str]`): the data set's classes; empty where they are not known or there are none.
        on_bad_row (`str`, *optional*, defaults to `"raise"`): as of the run.
    """

    batch_size: ClassVar[int]
    """Samples that are run at once."""
    extras: ClassVar[frozenset[str]] = frozenset()
    """What a processor makes beside pixels that the file does without."""
    free: ClassVar[tuple[str, ...]] = ("batch",)
    """The first dimensions of every input, which have any size."""

    def __init__(
        self, task: Task, name: str, model: Any, *, processor: Any, labels: Sequence[str], on_bad_row: str = "raise"
    ):
        self.task, self.name, self.model = task, name, model
        self.collator = task.collator_class({name: processor}, on_bad_row=on_bad_row)
        self.collator.label_names = labels
        self.own_ids = _own_ids(name, model, labels)
        self._size: tuple[int, ...] | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The file's outputs, called as transformers calls them."""
        return ("logits",)

    def batches(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Batch]:
        """Samples as the collator makes them, checked to fit one file.

        Raises:
            [`ExportError`]: the peer takes more than pixels, or samples come in several sizes.
        """
        rest = iter(rows)
        while part := list(islice(rest, self.batch_size)):
            batch: Batch = self.collator(part)
            self._check(batch["peer_inputs"][self.name])
            yield batch

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What goes into the file, numbers in fp32."""
        return {PIXELS: batch["peer_inputs"][self.name][PIXELS].float().contiguous()}

    def traceable(self, batch: Batch) -> Traceable:
        """The peer with what one batch shows of its further inputs."""
        return Traceable(self.model, self.outputs, list(self.inputs(batch))).eval()

    @abstractmethod
    def predictions(self, outputs: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
        """What a user makes of the outputs, one for each sample."""

    @abstractmethod
    def alike(self, predictions: Sequence[Tensor], others: Sequence[Tensor]) -> Counted:
        """How near two files' predictions are: 1 for each sample, or pixel, where they are the same."""

    @abstractmethod
    def right(self, predictions: Sequence[Tensor], batch: Batch) -> Counted:
        """How good predictions are where there is a truth that the peer knows."""

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        # A mask over pixels that are all there says nothing.
        extra = [
            key
            for key, value in inputs.items()
            if key not in {PIXELS, *self.extras} and not (key == "pixel_mask" and bool(value.all()))
        ]
        if PIXELS not in inputs or extra:
            raise ExportError(
                f"peer {self.name!r} takes {', '.join(extra) or f'no {PIXELS}'}; a file has the one input {PIXELS}"
            )
        sizes: list[tuple[int, ...]] = [tuple(inputs[PIXELS].shape[1:])]
        if "own_sizes" in inputs:
            sizes = [(3, *size) for size in inputs["own_sizes"].unique(dim=0).tolist()]
        self._size = self._size or sizes[0]
        other = next((size for size in sizes if size != self._size), None)
        if other is not None:
            raise ExportError(
                f"the processor of peer {self.name!r} makes {list(self._size)} of one sample and {list(other)} of "
                "another, and a file has one size; give the processor one, as "
                '"size": {"height": H, "width": W} in its preprocessor_config.json'
            )


def _own_ids(name: str, model: Any, labels: Sequence[str]) -> Tensor | None:
    """The peer's number of each of the data set's classes; `None` where names do not tell."""
    own = label_list(getattr(model, "config", None))
    try:
        columns = align_labels(name, own, dataset_labels=labels, mode="subset")
    except LabelError:
        return None
    return torch.arange(len(labels)) if columns is None else torch.tensor(columns)


def _equal(predictions: Iterable[Tensor], others: Iterable[Tensor]) -> Counted:
    pairs = list(zip(predictions, others, strict=True))
    return float(sum(int((one == other).sum()) for one, other in pairs)), sum(one.numel() for one, _ in pairs)


class Traceable(nn.Module):
    """A peer as ONNX takes it: tensors in, a fixed tuple of tensors out.

    Args:
        model (`nn.Module`): the peer.
        outputs (`tuple[str, ...]`): the fields of its outputs, in this order; a model that returns a tensor has one.
        inputs (`list[str]`): what the model calls the tensors that it is given, in their order.
        constants (`dict[str, torch.Tensor]`, *optional*): further inputs `[1, ...]`, the same for every sample.
    """

    def __init__(
        self,
        model: nn.Module,
        outputs: Sequence[str],
        inputs: Sequence[str] = (PIXELS,),
        constants: Mapping[str, Tensor] | None = None,
    ):
        super().__init__()
        self.model = model
        self.outputs, self.inputs = tuple(outputs), tuple(inputs)
        self.constants = tuple(constants or ())
        for name, value in (constants or {}).items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        rows = tensors[0].shape[0]
        given = {name: getattr(self, name).expand(rows, -1) for name in self.constants}
        outputs = self.model(**dict(zip(self.inputs, tensors, strict=True)), **given)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(getattr(outputs, name) for name in self.outputs)
