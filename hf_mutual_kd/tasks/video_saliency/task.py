"""Video saliency: a sample is the clip around one frame, what peers say is where people look in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_BACKBONE_MAPPING, AutoImageProcessor, AutoModel, AutoProcessor

from ...config.options import OnBadRow, TransferOptions
from ...data.splits import ROLES, Splits
from ...distillation.label_alignment import ClassColumns
from ...distillation.losses import mean_log_probs
from ...distillation.roles import assign_roles
from ...distillation.units import Pull
from ...errors import ConfigError, DataError, PeerError
from ...files import write_bytes
from ...reports.making_section import examples_section, making_section
from ...reports.pictures import SampleImages, density_map, photograph
from ...reports.results_section import results_section, training_section
from ...reports.teaching_section import teaching_section
from ..base import Evaluator, Task
from ..maps import coarsest_grid
from .collator import FOLLOWS, ClipCollator
from .data.clip_rows import ClipRows, ClipView
from .data.gaze_reference import GazeReference
from .data.layouts import load_videos
from .data.truth_batches import DENSITY, FIXATIONS, has_density, has_gaze, is_readable, split_truths
from .evaluator import CONSISTENCY_GRID, MEASURED, SaliencyEvaluator
from .export import SaliencyExport
from .figures import examples_figure, read_examples
from .metrics.scores import SaliencyScores
from .model import auto  # noqa: F401  (the Auto classes learn our models)
from .model.losses import FLOOR, resample_log_density, saliency_loss, score, temporal_change
from .model.modeling_video_saliency import VideoSaliencyModel
from .model.processing_video_saliency import VideoSaliencyProcessor
from .model.token_encoders_video_saliency import TOKEN_ENCODERS
from .options import SaliencyOptions
from .outputs import log_maps
from .report import frames_section, metrics_section, videos_section
from .space import SaliencySpace
from .words import WORDS

CHECKED_ROWS = 200
"""Units of a split whose truth is read before training."""


class VideoSaliency(Task):
    """Peers that say for every pixel of a frame how likely people look at it: [`VideoSaliencyModel`]s and own modules.

    Every peer sees its own clip of the same moment and answers on its own grid. Peers are ranked by minus their own
    loss, KLD - CC, at the size of the truth, and meet on the coarsest of their grids, where transfer is the KL between
    the densities. A clip at whose target nobody looked adds nothing and teaches nobody; on one of which no gaze was
    recorded the peers teach each other as on any sample without a label.

    An `nn.Module` of the user's own takes the keys that its `processor` makes as keyword arguments and returns maps
    `[B, h, w]` or `[B, 1, h, w]`, or an output with such `logits`. Bare maps need the attribute `saliency_output`:
    `"log_density"` (any real numbers; their softmax is the density) or `"density"` (not negative, of any sum, such as
    sigmoids). `logits` are log-densities unless the attribute says otherwise.
    """

    name = "video-saliency"
    auto_models = (AutoModel,)
    words = WORDS
    quality_name = "CC"
    default_score = "loss"
    collator_class = ClipCollator
    map_dims = (1, 2)
    report_sections = (
        results_section,
        training_section,
        teaching_section,
        metrics_section,
        videos_section,
        frames_section,
        examples_section,
        making_section,
    )
    options_class = SaliencyOptions
    options: SaliencyOptions
    exporter = SaliencyExport
    space = SaliencySpace()

    reference: GazeReference | None = None

    def check_transfer(self, options: TransferOptions) -> None:
        if options.role_score not in (None, self.default_score):
            raise ConfigError(
                f"role_score={options.role_score!r}: densities are ranked by 'loss', minus KLD - CC; leave it unset"
            )
        if getattr(options, "label_smoothing_factor", 0):
            raise ConfigError("label_smoothing_factor: KLD - CC knows none; leave it at 0")
        if self.options.temporal_weight and not options.augment:
            raise ConfigError("temporal_weight needs the view that shows neighbouring frames; leave out augment false")
        if self.options.temporal_weight and options.score_table is not None:
            raise ConfigError("temporal_weight shows frames that a score table does not have; leave out one of them")

    def load_splits(self, seed: int, labels: bool, on_bad_row: OnBadRow = "raise") -> Splits:
        options = self.options
        found = load_videos(options, seed=seed, on_bad_row=on_bad_row)
        train = ClipRows(found.train, seed=seed)
        validation, test = (ClipRows(part, every=options.eval_frame_step) for part in (found.validation, found.test))
        seen = int(train.which_labelled().sum())
        if labels and not seen:
            raise DataError(
                f"--dataset {options.dataset}: no training video has gaze; give some that have, or --labels false"
            )
        videos, frames = found.facts["videos"], found.facts["frames"]
        splits = {
            role: f"{origin}: {videos[role]:,} videos, {frames[role]:,} frames"
            for role, origin in found.facts["splits"].items()
        }
        if seen < len(train):
            splits["train"] += f", gaze on {seen:,} of the videos"
        facts = found.facts | {"splits": splits, "eval_frame_step": options.eval_frame_step}
        return Splits(train, validation, test, None, facts)

    def check_splits(self, splits: Splits, on_bad_row: OnBadRow, roles: Sequence[str] = ROLES) -> None:
        for role in roles:
            rows = getattr(splits, role)
            known = np.flatnonzero(rows.which_labelled())
            places = known[:: -(-len(known) // CHECKED_ROWS) or 1].tolist()
            looked_at = sum(self._is_looked_at(rows[place], on_bad_row) for place in places)
            if places and not looked_at:
                raise DataError(f"{role}: nobody looked at any of the {len(places)} frames that were checked")

    @staticmethod
    def _is_looked_at(row: Mapping[str, Any], on_bad_row: OnBadRow) -> bool:
        try:
            truth = row["source"].truth
            truth.points(row["frame"])
            return bool(truth.density(row["frame"]).any())
        except DataError:
            if on_bad_row == "raise":
                raise
            return False

    def set_reference(self, train_rows: Any) -> None:
        self.reference = getattr(train_rows, "reference", None)

    def view(self, processors: Mapping[str, Any], seed: int) -> ClipView:
        own = self.options
        neighbours = own.temporal_weight > 0
        return ClipView(own.crop_min_area, color_jitter=own.color_jitter, seed=seed, neighbours=neighbours)

    def architectures(self) -> set[str]:
        return {VideoSaliencyModel.__name__}

    def check_peer(self, name: str, model: nn.Module, processor: Any) -> None:
        if type(model).__module__.startswith("transformers.models."):
            raise PeerError(
                f"peer {name!r} is a {type(model).__name__}, which predicts no saliency; expected a "
                "VideoSaliencyModel (VideoSaliencyModel.from_encoder makes one of an encoder), or "
                "python:package.module:function"
            )
        if getattr(getattr(model, "config", None), "loss_weights", {}).get("temporal"):
            raise PeerError(
                f"peer {name!r}: loss_weights.temporal needs the truth of every frame of a clip, which has one target "
                "here; set it to 0, and give --temporal_weight, which is of all peers"
            )

    def load_processor(self, source: str, revision: str | None, code: dict[str, Any]) -> Any:
        try:
            processor = AutoProcessor.from_pretrained(source, revision=revision, **code)
        except (OSError, ValueError):
            processor = AutoImageProcessor.from_pretrained(source, revision=revision, **code)
        if isinstance(processor, VideoSaliencyProcessor):
            return processor
        # An encoder's own: what counts of it is how values are scaled; all sizes fit.
        known = {key: getattr(processor, key, None) for key in ("image_mean", "image_std")}
        return VideoSaliencyProcessor(**{key: value for key, value in known.items() if value is not None})

    def takes_encoder(self, config: Any) -> bool:
        return config.model_type in TOKEN_ENCODERS or type(config) in MODEL_FOR_BACKBONE_MAPPING

    def new_head(
        self, source: str, config: Any, label_names: Sequence[str], **load: Any
    ) -> tuple[nn.Module, list[str]]:
        if not self.takes_encoder(config):
            raise ConfigError("label_alignment 'new_head': saliency has no classes; leave it out")
        model = VideoSaliencyModel.from_encoder(source, revision=load.get("revision"))
        drawn = [key for key, _ in model.named_parameters() if not key.startswith("encoder.")]
        return model.to(load.get("dtype")), drawn

    # One peer

    def outputs(self, model: nn.Module, inputs: Mapping[str, Tensor], columns: ClassColumns) -> Tensor:
        return log_maps(columns.peer, model, model(**{key: value for key, value in inputs.items() if key != FOLLOWS}))

    def supervised(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        columns: ClassColumns,
        labels: Tensor,
        label_smoothing: float,
    ) -> tuple[Tensor, Tensor]:
        logits = self.outputs(model, inputs, columns)
        losses = clip_losses(logits, labels, getattr(getattr(model, "config", None), "loss_weights", None))
        weight = self.options.temporal_weight
        if weight and FOLLOWS in inputs:
            losses = losses + weight * changes(logits, labels, inputs[FOLLOWS])
        elif weight and model.training:
            raise ConfigError("temporal_weight needs batches with neighbouring frames: ClipView(neighbours=True)")
        return logits, losses

    # All peers

    def no_labels(self, logits: Tensor) -> Tensor:
        return torch.zeros(len(logits), 2, *logits.shape[1:], device=logits.device)

    def labelled(self, labels: Tensor) -> Tensor:
        return has_density(labels)

    def ranked(self, labels: Tensor) -> Tensor:
        # A blank truth is one: it ranks nobody, so nobody teaches, neither the mean.
        return has_gaze(labels)

    def scores(self, kind: str, logits: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        if labels is None or kind != self.default_score:
            raise ConfigError(f"densities are ranked by role_score 'loss', which needs labels; got {kind!r}")
        truths = [truth[DENSITY] for truth in split_truths(labels)]
        return torch.stack([score(one, truths) for one in logits]).float()

    def run_over(self, pull: Pull, logits: Sequence[Tensor], teacher: Tensor, labels: Tensor) -> Tensor:
        size, source = coarsest_grid(logits), None
        if pull.target is not None:
            size, source = (pull.target.shape[1], pull.target.shape[2]), [pull.target.flatten(1)]
        elif pull.source is not None:
            source = [on_grid(one, size) for one in pull.source]
        return pull.per_unit([on_grid(one, size) for one in logits], source, teacher, None)

    def log_probs(self, logits: Sequence[Tensor], labels: Tensor) -> tuple[list[Tensor], tuple[int, ...]]:
        size = coarsest_grid(logits)
        return [on_grid(one, size) for one in logits], size

    def quality(self, outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        """CC of every clip, at each peer's own grid."""
        return torch.stack([-clip_losses(output, labels, {"kld": 0.0}).sum() for output in outputs])

    # Evaluation

    def evaluation_facts(self, outputs: Sequence[Tensor], labels: Tensor, sample_ids: Tensor) -> dict[str, Tensor]:
        readable = is_readable(labels)
        truths, looked_at = split_truths(labels), has_density(labels)
        scores = self.scores(self.default_score, outputs, labels)
        size = coarsest_grid(outputs)
        ensemble = mean_log_probs([on_grid(output, size) for output in outputs]).unflatten(1, size)
        logits = [*outputs, ensemble]
        measured = [self._measure([one[place] for one in logits], truth) for place, truth in enumerate(truths)]
        coarse = [on_grid(one, CONSISTENCY_GRID).exp().float() for one in outputs]
        known = [truth[DENSITY].clamp_min(FLOOR).log()[None] for truth in truths]
        coarse.append(torch.cat([on_grid(truth, CONSISTENCY_GRID).exp() for truth in known]))
        return {
            "sample_ids": sample_ids,
            "readable": readable,
            "labelled": looked_at,
            "fixated": torch.stack([(truth[FIXATIONS] > 0).any() for truth in truths]),
            "measured": torch.tensor(np.array(measured), dtype=torch.float32, device=labels.device),
            "coarse": torch.stack(coarse, dim=1),
            "loss": -scores.masked_fill(~looked_at, 0.0).T.contiguous(),
            "teacher": assign_roles(scores),
        }

    def _measure(self, logits: Sequence[Tensor], truth: Tensor) -> list[list[float]]:
        """`MEASURED` of every map `[h, w]`, and last of the centre prior, against one truth `[2, H, W]`."""
        density, fixations = truth[DENSITY].cpu().numpy(), truth[FIXATIONS].cpu().numpy()
        size = (density.shape[0], density.shape[1])
        maps = [resample_log_density(one, size).exp().cpu().numpy() for one in logits]
        pool = None
        if self.reference is not None:
            maps.append(self.reference.prior_at(size))
            pool = self.reference.pool_at(size)
        scorer = SaliencyScores(metrics=list(MEASURED))
        found = [scorer.measure(one, density, fixations, pool) for one in maps]
        rows = [[values[name] for name in MEASURED] for values in found]
        return rows if self.reference is not None else [*rows, [float("nan")] * len(MEASURED)]

    def evaluator(
        self, peer_names: Sequence[str], num_classes: int, start: Evaluator | None = None
    ) -> SaliencyEvaluator:
        return SaliencyEvaluator(peer_names)

    def examples(self, before: Any, after: Any, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
        if found := read_examples(before, after, rows):
            write_bytes(path, examples_figure(found, before.names))

    def row_facts(self, rows: Any) -> dict[str, Any]:
        return {"videos": [video.name for video in rows.videos], "metrics": list(MEASURED.values())}

    def draw(self, before: Any, after: Any, row: Mapping[str, Any]) -> SampleImages | None:
        for example in read_examples(before, after, [row]):
            maps = {
                f"{phase}/{name}": density_map(one)
                for phase, found in (("before", example.before), ("after", example.after))
                for name, one in zip(before.names, found, strict=True)
            }
            return SampleImages(
                row["sample_id"], row["name"], photograph(example.frame), density_map(example.truth), maps
            )
        return None


def on_grid(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The log-density on another grid, `[B, h, w]` to `[B, H * W]`: like the log-probabilities of so many classes."""
    return resample_log_density(logits, size).flatten(1)


def changes(logits: Tensor, labels: Tensor, follows: Tensor) -> Tensor:
    """How far the change to or from a neighbour differs from the truth's, of every unit `[B]`; 0 without one.

    Both units of a pair bear it, so that the mean over units is that over pairs.
    """
    truths = split_truths(labels)
    found = logits.new_zeros(len(logits))
    for later in follows.nonzero().flatten().tolist():
        pair = torch.tensor([later - 1, later], device=logits.device)
        truth = torch.stack([truths[later - 1][DENSITY], truths[later][DENSITY]])
        found = found.index_add(0, pair, temporal_change(logits[None, pair], truth[None]).expand(2))
    return found


def clip_losses(logits: Tensor, labels: Tensor, weights: Mapping[str, float] | None) -> Tensor:
    """KLD - CC, or what `weights` say, of every clip `[B]`; exactly 0 where nobody looked."""
    truths = split_truths(labels)
    if len({truth.shape for truth in truths}) == 1:
        whole = torch.stack(truths)
        return saliency_loss(logits, whole[:, DENSITY], weights, whole[:, FIXATIONS])
    parts = [
        saliency_loss(one[None], truth[None, DENSITY], weights, truth[None, FIXATIONS])
        for one, truth in zip(logits, truths, strict=True)
    ]
    return torch.cat(parts)
