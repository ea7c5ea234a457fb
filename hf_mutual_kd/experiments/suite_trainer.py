"""What processors made of each image, kept over the epochs and arms of a suite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.collator import SAMPLE_ID, IdentifiedRows, RoleTaggingCollator
from ..data.inputs import IMAGES
from ..data.processors import PeerInputs, PeerProcessors, is_plain, settings_of
from ..training.start_cache import LARGEST
from ..training.trainer import MutualKDTrainer

Kept = dict[tuple[str, str, int], dict[str, Tensor]]
"""By data set, processor and sample id."""

_kept: Kept = {}


class KeepingProcessors(PeerProcessors):
    """Every peer's processor, run once on each row; takes rows in place of images.

    Args:
        processors (`dict[str, Any]`): each peer's image processor.
        rows_id (`str`): which data set the rows are from.
        kept (`dict`): what is there already, and where the rest goes, up to `most` bytes.
        most (`int`, *optional*): beyond, rows are processed each time.
        read (`Callable`, *optional*): decodes a row's input; its image when unset.
    """

    def __init__(
        self,
        processors: Mapping[str, Any],
        rows_id: str,
        kept: Kept,
        most: int = LARGEST,
        read: Callable[[Mapping[str, Any]], Any] = IMAGES.read,
    ):
        super().__init__(processors)
        self.read = read
        self.rows_id, self.kept, self.most = rows_id, kept, most

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> PeerInputs:
        inputs: dict[str, Mapping[str, Tensor]] = {}
        for processor, names in self.groups:
            parts = self._parts(processor, rows)
            joined = {key: torch.stack([part[key] for part in parts]) for key in parts[0]}
            inputs.update(dict.fromkeys(names, joined))
        return PeerInputs({name: inputs[name] for name in self.names})

    def _parts(self, processor: Any, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
        """Each row's own tensors."""
        settings = settings_of(processor)
        keys = [(self.rows_id, settings, int(row[SAMPLE_ID])) for row in rows]
        new = [place for place, key in enumerate(keys) if key not in self.kept]
        fresh: Kept = {}
        if new:
            made = self.run(processor, [self.read(rows[place]) for place in new])
            for index, place in enumerate(new):
                fresh[keys[place]] = {key: values[index].clone() for key, values in made.items()}
            if self._fits(fresh):
                self.kept.update(fresh)
        return [self.kept.get(key) or fresh[key] for key in keys]

    def _fits(self, fresh: Kept) -> bool:
        size = sum(tensor.nbytes for tensor in next(iter(fresh.values())).values())
        return size * (len(self.kept) + len(fresh)) <= self.most


class KeepingCollator(RoleTaggingCollator):
    """Another collator's batches, without decoding or processing an image twice; images were checked before.

    Args:
        collator ([`RoleTaggingCollator`]): without a random view.
        rows_id (`str`): which data set the rows are from.
        processors (`dict[str, Any]`): each peer's image processor.
    """

    def __init__(self, collator: RoleTaggingCollator, rows_id: str, processors: Mapping[str, Any]):
        super().__init__(
            processors,
            role_table=collator.role_table,
            on_bad_row=collator.on_bad_row,
            keep_places=collator.keep_places,
        )
        self.label_names = collator.label_names
        self.processors = KeepingProcessors(processors, rows_id, _kept, read=collator.inputs.read)

    def _read(self, row: Mapping[str, Any]) -> tuple[Any, Any]:
        return self.sample(row, row)


class SuiteTrainer(MutualKDTrainer):
    """A trainer whose images are decoded and processed once for all epochs and arms, where no view changes them."""

    def _collator(self, dataset: Any, is_training: bool) -> Any:
        collator = super()._collator(dataset, is_training)
        processors = self.cohort.processors
        usable = type(collator) is RoleTaggingCollator and collator.view is None
        rows_id = getattr(dataset.rows, "_fingerprint", None) if isinstance(dataset, IdentifiedRows) else None
        workers, plain_ones = self.args.dataloader_num_workers, any(map(is_plain, processors.values()))
        if not usable or rows_id is None or workers or plain_ones:
            return collator
        return KeepingCollator(collator, rows_id, processors)
