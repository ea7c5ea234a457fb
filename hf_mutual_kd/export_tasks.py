"""What an export asks of a task: samples as a peer takes them, answers from its tensors, and how good answers are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from .alignment import align_labels
from .dense_batches import SIZE_KEYS, pixels_of
from .dense_heads import head_of
from .errors import ExportError, LabelError
from .masks import IGNORE, image_sizes, own_parts
from .metrics.saliency import cc
from .onnx_files import PIXELS, Traceable
from .peers import LoadedPeer, label_list
from .saliency.losses import resample_log_density
from .saliency.modeling_video_saliency import VideoSaliencyOutput
from .saliency.truth_batches import DENSITY, has_density, is_readable, split_truths
from .tasks import ImageClassification, SemanticSegmentation, Task, VideoSaliency
from .tasks.segmentation_heads import QUERY_OUTPUTS, as_answer
from .tasks.video_saliency import log_maps

Batch = Mapping[str, Any]
"""As a task's collator makes it."""
Counted = tuple[float, int]
"""A sum, and over how many it goes."""


class TaskExport(ABC):
    """One peer of one task.

    Args:
        name (`str`): the peer's.
        loaded ([`~hf_mutual_kd.peers.LoadedPeer`]): the peer, with its processor.
        labels (`list[str]`): the data set's classes; empty where they are not known or there are none.
        on_bad_image (`str`, *optional*, defaults to `"raise"`): as of the run.
    """

    task: ClassVar[type[Task]]
    batch_size: ClassVar[int]
    """Samples that are run at once."""
    extras: ClassVar[frozenset[str]] = frozenset()
    """What a processor makes beside pixels that the file does without."""

    def __init__(self, name: str, loaded: LoadedPeer, labels: Sequence[str], on_bad_image: str = "raise"):
        self.name, self.model = name, loaded.model
        self.collator = self.task.collator_class({name: loaded.processor}, on_bad_image=on_bad_image)
        self.own_ids = _own_ids(name, loaded.model, labels)
        self._size: tuple[int, ...] | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The file's outputs, called as transformers calls them."""
        return ("logits",)

    def batches(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Batch]:
        """Samples as the collator makes them, checked to fit one file.

        Raises:
            [`~hf_mutual_kd.errors.ExportError`]: the peer takes more than pixels, or samples come in several sizes.
        """
        rest = iter(rows)
        while part := list(islice(rest, self.batch_size)):
            batch = self.collator(part)
            self._check(batch["peer_inputs"][self.name])
            yield batch

    def pixels(self, batch: Batch) -> Tensor:
        """What goes into the file, fp32 `[B, ...]`."""
        return batch["peer_inputs"][self.name][PIXELS].float().contiguous()

    def traceable(self, batch: Batch) -> Traceable:
        """The peer with what one batch shows of its further inputs."""
        return Traceable(self.model, self.outputs).eval()

    @abstractmethod
    def answers(self, outputs: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
        """What a user makes of the outputs, one for each sample."""

    @abstractmethod
    def alike(self, answers: Sequence[Tensor], others: Sequence[Tensor]) -> Counted:
        """How near two files' answers are: 1 for each sample, or pixel, where they are the same."""

    @abstractmethod
    def right(self, answers: Sequence[Tensor], batch: Batch) -> Counted:
        """How good answers are where there is a truth that the peer knows."""

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


class ImageExport(TaskExport):
    """A classifier: an answer is a class."""

    task = ImageClassification
    batch_size = 32

    def answers(self, outputs: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
        return list(outputs["logits"].argmax(1))

    def alike(self, answers: Sequence[Tensor], others: Sequence[Tensor]) -> Counted:
        return _equal(answers, others)

    def right(self, answers: Sequence[Tensor], batch: Batch) -> Counted:
        if self.own_ids is None:
            return 0.0, 0
        labels = batch["labels"]
        known = labels >= 0
        return _equal(torch.stack(list(answers))[known], self.own_ids[labels[known]])


class SegmentationExport(TaskExport):
    """A segmenter: an answer is the map of classes at the image's own size, of queries as of logits per pixel."""

    task = SemanticSegmentation
    batch_size = 8
    # No head of transformers looks at the mask (see `dense_batches`), and the task's sentence is part of the file.
    extras = frozenset({*SIZE_KEYS, "pixel_mask", "task_inputs"})

    @property
    def outputs(self) -> tuple[str, ...]:
        return QUERY_OUTPUTS if head_of(self.model) == "query" else super().outputs

    def traceable(self, batch: Batch) -> Traceable:
        given = batch["peer_inputs"][self.name]
        constants = {key: given[key][:1] for key in ("task_inputs",) if key in given}
        return Traceable(self.model, self.outputs, constants).eval()

    def answers(self, outputs: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
        given = batch["peer_inputs"][self.name]
        answer = as_answer(self.model, dict(outputs), pixels_of(given), given["valid_sizes"])
        return answer.semantic_maps(image_sizes(batch["labels"]))

    def alike(self, answers: Sequence[Tensor], others: Sequence[Tensor]) -> Counted:
        return _equal(answers, others)

    def right(self, answers: Sequence[Tensor], batch: Batch) -> Counted:
        """Over the labelled pixels of all images, as `pACC` is counted."""
        if self.own_ids is None:
            return 0.0, 0
        found, truths = [], []
        for answer, (truth,) in zip(answers, own_parts(batch["labels"]), strict=True):
            known = (truth >= 0) & (truth != IGNORE)
            found.append(answer[known])
            truths.append(self.own_ids[truth[known]])
        return _equal(found, truths)


class SaliencyExport(TaskExport):
    """A model of where people look: an answer is the log-density of the target frame."""

    task = VideoSaliency
    batch_size = 2

    def answers(self, outputs: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
        return list(log_maps(self.name, self.model, VideoSaliencyOutput(logits=outputs["logits"])))

    def alike(self, answers: Sequence[Tensor], others: Sequence[Tensor]) -> Counted:
        pairs = zip(answers, others, strict=True)
        found = [_cc(answer, resample_log_density(other, other.shape).exp()) for answer, other in pairs]
        known = [value for value in found if not math.isnan(value)]
        return sum(known), len(known)

    def right(self, answers: Sequence[Tensor], batch: Batch) -> Counted:
        """CC with the truth, over clips at whose target somebody looked."""
        labels = batch["labels"]
        looked_at = (is_readable(labels) & has_density(labels)).tolist()
        clips = zip(answers, split_truths(labels), looked_at, strict=True)
        found = [_cc(answer, truth[DENSITY]) for answer, truth, counts in clips if counts]
        return sum(found), len(found)


EXPORTS: dict[str, type[TaskExport]] = {
    one.task.name: one for one in (ImageExport, SegmentationExport, SaliencyExport)
}
"""By the task's name."""


def _own_ids(name: str, model: Any, labels: Sequence[str]) -> Tensor | None:
    """The peer's number of each of the data set's classes; `None` where names do not tell."""
    own = label_list(model)
    try:
        columns = align_labels(name, own, labels, "subset")
    except LabelError:
        return None
    return torch.arange(len(labels)) if columns is None else torch.tensor(columns)


def _equal(answers: Iterable[Tensor], others: Iterable[Tensor]) -> Counted:
    pairs = list(zip(answers, others, strict=True))
    return float(sum(int((one == other).sum()) for one, other in pairs)), sum(one.numel() for one, _ in pairs)


def _cc(answer: Tensor, density: Tensor) -> float:
    """CC of a log-density with a density, at the latter's size: 0 where it is not finite, NaN for a flat density."""
    found = resample_log_density(answer, density.shape).exp()
    return cc(found.numpy(), density.numpy()) if bool(found.isfinite().all()) else 0.0
