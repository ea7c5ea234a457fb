"""Outputs of the frozen starts, computed once where epochs show the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm
from transformers.utils import logging

from ..config.training_config import MutualKDConfig
from ..distillation.eight_bits import pack, unpack
from ..distillation.objective import Objective
from ..errors import ConfigError, DataError
from ..peers.cohort import Cohort
from ..reports.terminal import size_of

logger = logging.get_logger(__name__)

LARGEST = 2 * 1024**3
"""Bytes of memory a cache may take without being asked for."""


class CachedView(NamedTuple):
    """One view of all rows: their sample ids `[S]`, ascending, where each stands, and N of `[S, ...]`, by place."""

    ids: Tensor
    places: Tensor
    peers: list[Tensor]


class StartCache:
    """What every peer's start says of every training sample, in each view that training shows it.

    Logits `[C]` are kept as they are, maps in 8 bits for each value where the task says that they are compared, see
    [`~tasks.base.Task.start_maps`].

    Args:
        views (`list[CachedView]`): by epoch, which begin again after the last.
        map_dims (`tuple[int, ...]`, *optional*): of maps the dimensions over which a distribution lies; empty where
            nothing was packed.
    """

    def __init__(self, views: Sequence[CachedView], map_dims: tuple[int, ...] = ()):
        self.views, self.map_dims = list(views), map_dims

    @staticmethod
    def too_large(example: Mapping[str, Any], rows: int, cohort: Cohort, accelerator: Accelerator) -> str | None:
        """How much more than [`LARGEST`] a cache would take, in words, by a batch of one row; `None` if no more."""
        kept = _kept(cohort, example, accelerator)
        size = rows * sum(one[0].numel() * one.element_size() for one in kept)
        if size <= LARGEST:
            return None
        shapes = ", ".join(" x ".join(map(str, one.shape[1:])) for one in kept)
        return (
            f"it would take {size_of(size)} of memory ({rows:,} views of rows, of peers {shapes} values), "
            f"more than {size_of(LARGEST)}; cache_frozen=true takes it, and a score table (`hf-mutual-kd score "
            "--keep 8bit`) keeps as much on disk"
        )

    @classmethod
    def fill(
        cls,
        cohort: Cohort,
        loader: DataLoader,
        samples: int,
        accelerator: Accelerator,
        *,
        views: int = 1,
        show: Callable[[int], None] = lambda view: None,
    ) -> StartCache:
        """
        Run the frozen starts once over all samples in each view, shared by the processes.

        Args:
            cohort ([`Cohort`]): with its starts.
            loader (`DataLoader`): of all samples, in any order.
            samples (`int`): how many there are.
            accelerator (`accelerate.Accelerator`): device, processes and precision.
            views (`int`, *optional*, defaults to 1): how often the loader is read.
            show (`Callable`, *optional*): is told which view comes next, from 0.

        Raises:
            [`DataError`]: maps differ in size from sample to sample.
        """
        quiet = not accelerator.is_local_main_process
        found = []
        for view in range(views):
            show(view)
            which = f", view {view + 1} of {views}" if views > 1 else ""
            batches = tqdm(loader, desc=f"frozen starts{which}", leave=False, disable=quiet)
            found.append(_one_view(cohort, batches, samples, accelerator))
        return cls(found, cohort.task.map_dims)

    @property
    def nbytes(self) -> int:
        """How much it takes."""
        return sum(one.nbytes for view in self.views for one in (view.ids, view.places, *view.peers))

    def save(self, path: Path) -> None:
        """Write it as safetensors."""
        tensors: dict[str, Tensor] = {}
        for number, (ids, places, peers) in enumerate(self.views):
            tensors |= {f"{number}.ids": ids, f"{number}.places": places}
            tensors |= {f"{number}.peers.{place}": one.contiguous() for place, one in enumerate(peers)}
        save_file(tensors, path)

    @classmethod
    def load(cls, path: Path, map_dims: tuple[int, ...] = ()) -> StartCache:
        """What [`StartCache.save`] wrote, of a task with these `map_dims`."""
        tensors = load_file(path)
        views = sorted({int(key.split(".")[0]) for key in tensors})
        peers = range(sum(key.startswith("0.peers.") for key in tensors))
        found = [
            CachedView(
                tensors[f"{view}.ids"], tensors[f"{view}.places"], [tensors[f"{view}.peers.{one}"] for one in peers]
            )
            for view in views
        ]
        return cls(found, map_dims)

    def lookup(self, sample_ids: Tensor, view: int = 0) -> list[Tensor]:
        """What the starts say of `[B]` sample ids, N of `[B, ...]` on their device."""
        ids, places, peers = self.views[view % len(self.views)]
        rows = places[torch.searchsorted(ids, sample_ids.cpu())]
        found = [one[rows].to(sample_ids.device) for one in peers]
        return [unpack(one, self.map_dims) for one in found] if self.map_dims else found


def obstacle(args: MutualKDConfig, rows: Any, view: Any, objective: Objective) -> str | None:
    """
    Why what the frozen starts say cannot be kept, in words; `None` where it can, if memory allows.

    Args:
        args ([`MutualKDConfig`]): whether it is asked for.
        rows: of the training, with their sample ids.
        view (callable, *optional*): the shared random view.
        objective ([`Objective`]): what asks for the starts.

    Raises:
        [`ConfigError`]: `cache_frozen` or `cached_views` asks for what cannot be.
    """
    views = args.cached_views
    reason = _reason(rows, view, objective, views)
    if objective.needs_starts and reason and (args.cache_frozen or views is not None):
        raise ConfigError(f"{'cache_frozen' if views is None else 'cached_views'}: {reason}")
    if views is not None and objective.weight > 0 and not objective.needs_starts:
        raise ConfigError("cached_views keeps what frozen starts say, which nobody asks for here; leave it out")
    return reason


def _reason(rows: Any, view: Any, objective: Objective, views: int | None) -> str | None:
    if objective.source.decay is not None:
        return "moving averages change with every step; set cache_frozen=false"
    if isinstance(rows, IterableDataset):
        return "the rows of a stream have no place in a cache; set cache_frozen=false"
    if getattr(view, "neighbours", False):
        return "temporal_weight shows neighbouring frames, which no cache has; leave out one of them"
    if view is not None and views is None:
        return (
            "outputs for one random view do not fit the next; set augment=false, cached_views=K, which shows each row "
            "in K views in turn, or cache_frozen=false"
        )
    drawn = getattr(rows, "is_drawn", False)
    if drawn and views is None:
        return "every epoch draws other frames; set cached_views=K, which draws K in turn, or cache_frozen=false"
    return "cached_views is for views that change: leave it out" if views and view is None and not drawn else None


def may_cache(trainer: Any) -> bool:
    """Whether what a trainer's starts say is kept, if memory allows; for errors see [`obstacle`]."""
    args, objective = trainer.args, trainer.objective
    if obstacle(args, trainer.train_dataset, trainer.view, objective) or not objective.needs_starts:
        return False
    return args.cache_frozen is not False


def cached_starts(trainer: Any) -> StartCache | None:
    """
    The cache of a trainer that is about to begin, whose starts are then dropped; `None` where memory is too small.

    Args:
        trainer ([`MutualKDTrainer`]): with its objective and rows, one that [`may_cache`].

    Raises:
        [`ConfigError`]: `cache_frozen` or `cached_views` asks for one that cannot be.
    """
    args = trainer.args
    try:
        return _filled(trainer, args.cached_views or 1, asked=bool(args.cache_frozen))
    except DataError as error:
        if args.cache_frozen or args.cached_views is not None:
            raise ConfigError(f"{'cache_frozen' if args.cached_views is None else 'cached_views'}: {error}") from None
        logger.warning("what frozen peers say is not kept, they run in every step: %s", error)
    return None


def _filled(trainer: Any, views: int, asked: bool) -> StartCache:
    collator, rows, cohort = trainer.eval_collator, trainer.train_dataset, trainer.cohort

    def show(view: int) -> None:
        collator.set_epoch(view)
        rows.set_epoch(view)

    # What is kept is of the view that training shows, which an evaluation does not have.
    seen, collator.view = collator.view, trainer.view
    try:
        example = trainer._prepare_inputs(collator([rows[0]]))
        if not asked and (reason := StartCache.too_large(example, views * len(rows), cohort, trainer.accelerator)):
            raise DataError(reason)
        loader = trainer.get_eval_dataloader(rows)
        found = StartCache.fill(cohort, loader, len(rows), trainer.accelerator, views=views, show=show)
    finally:
        collator.view = seen
    cohort.drop_starts()
    return found


def _one_view(cohort: Cohort, batches: Any, samples: int, accelerator: Accelerator) -> CachedView:
    ids, filled = torch.zeros(samples, dtype=torch.long), 0
    peers: list[Tensor] = []
    for batch in batches:
        kept = _kept(cohort, batch, accelerator)
        _check_sizes(cohort, peers or kept, kept, batch["sample_ids"])
        numbers, *kept = accelerator.gather_for_metrics((batch["sample_ids"], *kept))
        peers = peers or [torch.empty((samples, *one.shape[1:]), dtype=one.dtype) for one in kept]
        here = slice(filled, filled := filled + len(numbers))
        ids[here] = numbers.cpu()
        for rows, one in zip(peers, kept, strict=True):
            rows[here] = one.cpu()
    order = ids.argsort()
    return CachedView(ids[order], order, peers)


def _kept(cohort: Cohort, batch: Mapping[str, Any], accelerator: Accelerator) -> list[Tensor]:
    """What is kept of a batch: N of `[B, ...]`."""
    if cohort.task.map_dims and any(gather_object([len(cohort.task.split_batch(dict(batch))) > 1])):
        raise DataError("images differ in size, so that their maps have none in common; set cache_frozen=false")
    with accelerator.autocast(), torch.no_grad():
        logits = [one.float() for one in cohort.start_logits(batch["peer_inputs"])]
        maps = cohort.task.start_maps(logits, batch["labels"])
    return [pack(one, cohort.task.map_dims) for one in maps] if cohort.task.map_dims else maps


def _check_sizes(cohort: Cohort, first: Sequence[Tensor], kept: Sequence[Tensor], numbers: Tensor) -> None:
    """Refuse maps of another size than those before, or of other processes, on all processes together."""
    if not cohort.task.map_dims:
        return
    before = [list(one.shape[1:]) for one in first]
    found = gather_object([(int(numbers[0]), before), (int(numbers[0]), [list(one.shape[1:]) for one in kept])])
    for sample, sizes in found:
        other = next(((size, one) for size, one in zip(found[0][1], sizes, strict=True) if size != one), None)
        if other is not None:
            raise DataError(
                f"maps are {other[1]} from sample {sample} on and {other[0]} before; set cache_frozen=false"
            )
