"""Semantic segmentation: a sample is an image, what peers say are log-probabilities of every class at every pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation
from transformers.utils import logging

from ...config.options import OnBadRow, TransferOptions
from ...data.collator import SAMPLE_ID
from ...data.images import image_file
from ...data.masks import IGNORE, UNLABELLED, UNREADABLE
from ...data.splits import ROLES, Splits, check_masks, settle_binary
from ...distillation.label_alignment import ClassColumns
from ...distillation.units import Pull
from ...errors import ConfigError, LabelError, PeerError
from ...files import write_bytes
from ...reports.making_section import examples_section, making_section
from ...reports.pictures import SampleImages, class_map, photograph
from ...reports.results_section import results_section, training_section
from ...reports.teaching_section import teaching_section
from ..base import Evaluator, Task
from ..maps import coarsest_grid
from .batches import is_padded, one_by_one, pixels_of, run_alone
from .collator import DenseCollator
from .encoders import is_backbone, segmenter_on, with_levels
from .evaluation_facts import image_facts
from .evaluator import SegmentationEvaluator
from .export import SegmentationExport
from .figures import examples_figure, read_examples
from .grids import Resampler, cell_classes, resampled_chunks
from .head_losses import (
    DenseOutput,
    aligned,
    count_own_masks,
    has_labels,
    loss_of_maps,
    own_labels,
    pixel_loss,
    placed_output,
    query_loss,
)
from .heads import head_of
from .labels import fill, image_sizes, labels_for_peer, own_parts
from .options import SegmentationOptions
from .processors import load_dense_processor
from .report import classes_section, pixel_calibration_section, pixel_confusion_section, pixel_flips_section
from .report_images import images_section
from .scores import SCORES, image_scores
from .space import SegmentationSpace
from .transfer import Grid, mean_over_pixels
from .view import DenseView
from .words import WORDS

logger = logging.get_logger(__name__)


class SemanticSegmentation(Task):
    """Peers of `AutoModelForSemanticSegmentation`, heads with queries, and modules that return `[B, C, h, w]`.

    Peers are ranked by minus their mean cross-entropy over an image's valid pixels, whatever their own loss is; each
    keeps its own training loss (Hungarian matching and all). Transfer is the mean over an image's valid pixels of the
    KL between all classes. What can be set is in [`SegmentationOptions`]: `SemanticSegmentation(granularity="class")`.
    """

    name = "semantic-segmentation"
    auto_models = (AutoModelForSemanticSegmentation, AutoModelForUniversalSegmentation)
    words = WORDS
    quality_name = "pACC"
    default_score = "loss"
    collator_class = DenseCollator
    target = "mask"
    has_classes = True
    map_dims = (1,)
    no_class = IGNORE
    report_sections = (
        results_section,
        training_section,
        teaching_section,
        classes_section,
        pixel_flips_section,
        images_section,
        examples_section,
        pixel_calibration_section,
        pixel_confusion_section,
        making_section,
    )
    options_class = SegmentationOptions
    options: SegmentationOptions
    exporter = SegmentationExport
    space = SegmentationSpace()

    @property
    def grid(self) -> str:
        return self.options.transfer_grid

    def check_transfer(self, options: TransferOptions) -> None:
        if options.role_score not in (None, self.default_score):
            raise ConfigError(
                f"role_score={options.role_score!r}: maps are ranked by 'loss', minus the mean cross-entropy of their "
                "pixels; leave it unset"
            )
        if getattr(options, "label_smoothing_factor", 0):
            raise ConfigError(
                "label_smoothing_factor: each segmentation head keeps its own loss, which knows none; leave it at 0"
            )
        for table in ("role_table", "score_table"):
            if getattr(options, table) is not None and self.options.granularity != "image":
                raise ConfigError(
                    f"a {table.replace('_', ' ')} names one teacher per image and does not fit "
                    f"granularity={self.options.granularity!r}; use granularity 'image', or leave {table} out"
                )

    def check_splits(self, splits: Splits, on_bad_row: OnBadRow, roles: Sequence[str] = ROLES) -> None:
        super().check_splits(splits, on_bad_row, roles)
        classes, checked = len(splits.label_names) if splits.label_names else None, {}
        found = {name: getattr(splits, name) for name in roles}
        settled = settle_binary(found, classes)
        if settled is not found and splits.label_names:
            decided = f"masks hold 0 and 255 alone: 255 is class 1, {splits.label_names[1]}"
            logger.warning("%s; where it is to be ignored, say so by --label_colors 0 1", decided)
            splits.facts["mask_values"] = decided
        for name in roles:
            setattr(splits, name, settled[name])
            rows, skipped, checked[name] = check_masks(getattr(splits, name), name, classes, on_bad_row)
            setattr(splits, name, rows)
            splits.facts["skipped_images"][name] += skipped
        splits.facts["checked_masks"] = checked

    def check_labels(self, rows: Any, name: str, classes: int) -> None:
        check_masks(rows, name, classes)

    def view(self, processors: Mapping[str, Any], seed: int) -> DenseView:
        return DenseView.from_options(self.options, processors, seed)

    def check_peer(self, name: str, model: nn.Module, processor: Any) -> None:
        head_of(model, name)
        config: Any = getattr(model, "config", None)
        if getattr(config, "model_type", "") == "oneformer" and config.is_training:
            raise PeerError(
                f"peer {name!r} is a OneFormer with is_training=true, whose forward asks for sentences that describe "
                "each image; give it with is_training=false in its config.json"
            )

    def part_from_others(self, model: nn.Module) -> None:
        count_own_masks(model)

    def check_columns(self, name: str, columns: Sequence[int]) -> None:
        if IGNORE in columns:
            raise LabelError(
                f"peer {name!r}: the data set's class {columns.index(IGNORE)} is its class {IGNORE}, the number of "
                "ignored pixels, so it would never learn it; use label_alignment='new_head'"
            )

    def load_processor(self, source: str, revision: str | None, code: dict[str, Any]) -> Any:
        return load_dense_processor(source, revision, code)

    def takes_encoder(self, config: Any) -> bool:
        return super().takes_encoder(config) or is_backbone(config)

    def new_head(
        self, source: str, config: Any, label_names: Sequence[str], **load: Any
    ) -> tuple[nn.Module, list[str]]:
        if super().takes_encoder(config):
            return super().new_head(source, with_levels(config), label_names, **load)
        return segmenter_on(source, config, label_names, **load)

    # One peer

    def outputs(self, model: nn.Module, inputs: Mapping[str, Tensor], columns: ClassColumns) -> DenseOutput:
        def call(part: dict[str, Tensor]) -> dict[str, Tensor]:
            return aligned(model, model(**part), columns)

        return placed_output(head_of(model), *run_alone(call, inputs))

    def supervised(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        columns: ClassColumns,
        labels: Tensor,
        label_smoothing: float = 0.0,
    ) -> tuple[DenseOutput, Tensor]:
        """The head's own loss, which is a mean over a batch: every sample with a label bears an equal part of it."""
        truth = own_labels(labels_for_peer(labels, inputs["valid_sizes"], pixels_of(inputs)), columns)
        kind = head_of(model)
        own_loss, weight = (query_loss, self.options.pixel_loss_weight) if kind == "query" else (pixel_loss, 0.0)

        def call(part: dict[str, Tensor]) -> dict[str, Tensor]:
            height, width = pixels_of(part)
            wanted = part.pop("truth")[:, :height, :width]
            outputs, loss = own_loss(model, part, wanted)
            if weight and bool(has_labels(wanted).any()):
                loss = loss + weight * loss_of_maps(outputs, wanted)
            return aligned(model, outputs, columns) | {"loss": loss * has_labels(wanted)}

        outputs, padded, valid, own = run_alone(call, {**inputs, "truth": truth})
        loss = outputs.pop("loss")
        return placed_output(kind, outputs, padded, valid, own), loss

    def logits(self, outputs: DenseOutput) -> Tensor:
        return outputs.log_probs

    # All peers

    def no_labels(self, logits: Tensor) -> Tensor:
        return torch.full((len(logits), *logits.shape[2:]), UNLABELLED, device=logits.device)

    def labelled(self, labels: Tensor) -> Tensor:
        return ((labels >= 0) & (labels != IGNORE)).flatten(1).any(1)

    def scores(self, kind: str, logits: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        if labels is None or kind != self.default_score:
            raise ConfigError(f"maps are ranked by role_score 'loss', which needs labels; got {kind!r}")
        truth = scored_labels(labels)
        return SCORES[self.options.granularity](list(logits), truth, IGNORE, size=self._grid(logits, truth)).float()

    def run_over(self, pull: Pull, logits: Sequence[Tensor], teacher: Tensor, labels: Tensor) -> Tensor:
        taught, source = regions(labels), pull.source
        size = self._grid(logits, taught)
        if pull.target is not None:
            size, source = (pull.target.shape[2], pull.target.shape[3]), [pull.target] * len(logits)
        classes = cell_classes(scored_labels(labels), size, IGNORE) if pull.knows_classes else None
        grid = Grid(size, classes, ignore_index=IGNORE)
        return mean_over_pixels(pull.per_unit, logits, teacher, taught, source=source, grid=grid)

    # What a score table keeps: of every image as if it were alone, as a batch's labels would be of the batch's size

    def split_batch(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        by_label = self.grid == "label" and len(image_sizes(batch["labels"]).unique(dim=0)) > 1
        return one_by_one(batch) if by_label or is_padded(batch["peer_inputs"]) else [batch]

    def table_scores(self, logits: Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
        scores = torch.cat(
            [
                image_scores(alone, scored_labels(own), IGNORE, size=self._grid(alone, own))
                for alone, own in each_alone(logits, labels)
            ],
            dim=1,
        )
        return {"score": scores.float().masked_fill(~self.labelled(labels), float("nan"))}

    def log_probs(self, logits: Sequence[Tensor], labels: Tensor) -> tuple[list[Tensor], tuple[int, ...]]:
        images = []
        for alone, own in each_alone(logits, labels):
            size, counted = self._grid(alone, own), regions(own)
            met = [Resampler((one.shape[2], one.shape[3]), size, counted, IGNORE)(one) for one in alone]
            images.append([one.log_softmax(1) for one in met])
        peers = [torch.cat(images_of_one) for images_of_one in zip(*images, strict=True)]
        return peers, tuple(peers[0].shape[1:])

    def start_maps(self, logits: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        # On the common grid, where they are ranked and teach; a peer of full resolution would take all memory.
        return self.log_probs(logits, labels)[0]

    def units(self, logits: Sequence[Tensor], labels: Tensor) -> Iterator[tuple[list[Tensor], Tensor]]:
        truth = scored_labels(labels)
        return resampled_chunks(list(logits), truth, IGNORE, self._grid(logits, truth))

    def _grid(self, logits: Sequence[Tensor], labels: Tensor) -> tuple[int, int]:
        return coarsest_grid(logits) if self.grid == "coarsest" else (labels.shape[1], labels.shape[2])

    def quality(self, outputs: Sequence[DenseOutput], labels: Tensor) -> Tensor:
        """Share of right pixels of every image, at each peer's own grid."""
        truth = scored_labels(labels)
        shares = []
        for output in outputs:
            guess = output.log_probs.argmax(1)
            wanted = cell_classes(truth, (guess.shape[1], guess.shape[2]), IGNORE)
            valid = wanted >= 0
            right = (guess == wanted).flatten(1).sum(1)
            shares.append((right / valid.flatten(1).sum(1).clamp(min=1)).sum())
        return torch.stack(shares)

    # Evaluation

    def evaluation_facts(
        self, outputs: Sequence[DenseOutput], labels: Tensor, sample_ids: Tensor
    ) -> dict[str, Tensor]:
        # One by one: a grid or labels at the batch's size would depend on the other images of it.
        images = [
            image_facts([output.alone(row) for output in outputs], own) for row, own in enumerate(own_parts(labels))
        ]
        return {key: torch.stack([one[key] for one in images]) for key in images[0]} | {
            "sample_ids": sample_ids,
            "readable": (labels != UNREADABLE).flatten(1).all(1),
            "labelled": self.labelled(labels),
        }

    def evaluator(
        self, peer_names: Sequence[str], num_classes: int, start: Evaluator | None = None
    ) -> SegmentationEvaluator:
        start = start if isinstance(start, SegmentationEvaluator) else None
        return SegmentationEvaluator(peer_names, num_classes, start)

    def snippet_example(self, row: Mapping[str, Any], folder: Path) -> str | None:
        return image_file(row, folder)

    def examples(self, before: Any, after: Any, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
        if found := read_examples(before, after, rows):
            write_bytes(path, examples_figure(found, before.names, before.label_names))

    def draw(self, before: Any, after: Any, row: Mapping[str, Any]) -> SampleImages | None:
        for example in read_examples(before, after, [row]):
            maps = {
                f"{phase}/{name}": class_map(one)
                for phase, found in (("before", example.before), ("after", example.after))
                for name, one in zip(before.names, found, strict=True)
            }
            image, truth, teacher = photograph(example.image), class_map(example.truth), class_map(example.teacher)
            return SampleImages(row[SAMPLE_ID], example.name, image, truth, maps, teacher)
        return None


def scored_labels(labels: Tensor) -> Tensor:
    """Labels in which every image fills the batch's size, `IGNORE` where there is no truth."""
    whole = fill(labels)
    return whole.masked_fill(whole < 0, IGNORE)


def regions(labels: Tensor) -> Tensor:
    """Labels in which every image fills the batch's size, `IGNORE` where nothing can be taught.

    A pixel that was never labelled can be taught; one that is labelled to be ignored cannot.
    """
    whole = fill(labels)
    return whole.masked_fill(whole == UNLABELLED, 0)


def each_alone(logits: Sequence[Tensor], labels: Tensor) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Image after image: the peers' maps, N of `[1, C, h, w]`, and its own part of the labels, `[1, H, W]`."""
    for row, own in enumerate(own_parts(labels)):
        yield [one[row, None] for one in logits], own
