"""Batches that hold a share of labelled rows, and those of a control, which sees nothing else."""

from __future__ import annotations

from typing import Any

from torch.utils.data import IterableDataset

from ..config.training_config import MutualKDConfig
from ..data.collator import IdentifiedStream
from ..data.labelled_rows import LabelledShareSampler, which_labelled
from ..data.share_stream import ShareStream
from ..errors import ConfigError


def check_share(args: MutualKDConfig, dataset: Any, data_ranks: int) -> None:
    """
    Refuse a share of labelled rows that the data set cannot give.

    Raises:
        [`ConfigError`], [`DataError`]: one cannot know which rows have a label, or all have one, or none.
    """
    if args.labelled_share is None or dataset is None or isinstance(dataset, IterableDataset):
        return
    share_sampler(args, dataset, rows_per_step=args.train_batch_size * data_ranks)


def share_sampler(args: MutualKDConfig, dataset: Any, rows_per_step: int) -> LabelledShareSampler | None:
    """What orders the training rows where `labelled_share` is set."""
    if args.labelled_share is None:
        return None
    labelled = which_labelled(dataset)
    if labelled is None:
        raise ConfigError(
            "labelled_share needs to know which rows have a label: give a `datasets.Dataset` with a column `label`, "
            "or rows with a method `which_labelled()`"
        )
    seed = args.seed if args.data_seed is None else args.data_seed
    return LabelledShareSampler(labelled, args.labelled_share, rows_per_step, seed)


def share_stream(args: MutualKDConfig, stream: IdentifiedStream, rows_per_step: int) -> IdentifiedStream:
    """The stream with its labelled rows spread evenly over the steps, where `labelled_share` is set."""
    if args.labelled_share is None:
        return stream
    in_step = min(max(round(args.labelled_share * rows_per_step), 1), rows_per_step - 1)
    return IdentifiedStream(ShareStream(stream.rows, in_step, rows_per_step))
