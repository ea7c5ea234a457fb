"""Teachers that speak from a score table: their targets come with every batch, no teacher is in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..config.training_config import MutualKDConfig
from ..data.collator import IdentifiedRows, RoleTaggingCollator
from ..data.labelled_rows import rows_of_epoch
from ..distillation.losses import mean_log_probs, softened_log_probs
from ..distillation.objective import Objective
from ..distillation.roles import MEAN, UNDECIDED
from ..distillation.shared_classes import check_shared
from ..errors import ConfigError, DataError
from ..peers.cohort import Cohort
from ..peers.peer_mesh import PeerMesh
from .score_peers import peer_facts
from .score_table import ScoreTable, counted, row_facts_of


class TableTeacher:
    """
    What a score table teaches on each sample, or of maps at each cell.

    All peers of the table can teach, also those that are not trained. Where a trained peer is itself the teacher, its
    target is what it believed when it was scored: that is retention, at no cost.

    Args:
        table ([`ScoreTable`]): scores and log-probabilities of all teachers.
        peer_names (`list[str]`): the P peers that are trained, a part of the table's.
        objective ([`Objective`]): its rule, score, temperature and retention.

    Raises:
        [`ConfigError`]: a rule that cannot speak from a table.

    Example:

    ```python
    >>> TableTeacher(table, ["vit"], objective)(torch.tensor([4, 0]))
    {'roles': tensor([-2,  0]), 'table': {'targets': tensor([[…]]), 'taught': tensor([[True], [False]])}}
    ```
    """

    def __init__(self, table: ScoreTable, peer_names: Sequence[str], objective: Objective):
        self.table, self.temperature, self.retain = table, objective.temperature, objective.retain
        self.teachers = table.teachers(objective.rule.name, objective.score).to(torch.int32)
        self.places = torch.tensor([table.names.index(name) for name in peer_names])
        """Place in the table of each trained peer, `[P]`."""
        self._roles = torch.full((len(table.names),), UNDECIDED)
        self._roles[self.places] = torch.arange(len(peer_names))

    def __call__(self, sample_ids: Tensor) -> dict[str, Any]:
        """
        One batch's targets.

        Args:
            sample_ids (`torch.LongTensor` of shape `[B]`): of the table's.

        Returns:
            `dict`: `roles` `[B]`, the teacher among the trained peers, [`~roles.NOBODY`], [`~roles.MEAN`], or
            [`~roles.UNDECIDED`] where it is a peer that is not trained; `table`, with `targets` `[B, C]`, of maps
            `[B, C, h, w]` or `[B, h, w]` (softened log-probabilities) and `taught` `[B, P]` (whom they are for).
        """
        teacher = self.teachers[self.table.places(sample_ids)].long()
        targets = self._targets(sample_ids, teacher)
        known = targets.isfinite().flatten(1).any(1, keepdim=True)
        taught = known.expand(-1, len(self.places)).clone()
        if not self.retain:
            taught &= teacher.unsqueeze(1) != self.places
        roles = torch.where(teacher >= 0, self._roles[teacher.clamp_min(0)], teacher)
        return {"roles": roles, "table": {"targets": targets, "taught": taught}}

    def _targets(self, ids: Tensor, teacher: Tensor) -> Tensor:
        """Softened log-probabilities `[B, ...]`, nothing finite where nobody teaches."""
        shape = self.table.shape
        targets = torch.full((len(ids), *shape), float("nan"))
        for place in teacher[teacher >= 0].unique().tolist():
            here = teacher == place
            targets[here] = self._log_probs(self.table.names[place], ids[here]).view(-1, *shape)
        here = teacher == MEAN
        if here.any():
            log_probs = torch.stack([self._log_probs(name, ids[here]) for name in self.table.names])
            targets[here] = mean_log_probs(log_probs, ~log_probs.isnan().any(2)).view(-1, *shape)
        return targets

    def _log_probs(self, name: str, ids: Tensor) -> Tensor:
        return softened_log_probs(self.table.log_probs(name, ids), self.temperature)


class TableCollator:
    """A collator whose batches also hold what a [`TableTeacher`] says of their samples."""

    def __init__(self, collator: RoleTaggingCollator, teacher: TableTeacher):
        self.collator, self.teacher = collator, teacher

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = self.collator(rows)
        return {**batch, **self.teacher(batch["sample_ids"])}

    def set_epoch(self, epoch: int) -> None:
        """As the collator's."""
        self.collator.set_epoch(epoch)

    @property
    def skipped(self) -> int:
        """As the collator's."""
        return self.collator.skipped


def open_table(
    args: MutualKDConfig, cohort: Cohort, rows: Any, objective: Objective, *, mesh: PeerMesh, view: Any = None
) -> ScoreTable | None:
    """
    The score table of a configuration, checked against the rows and the peers; `None` where none is used.

    `mesh` says how many processes share the rows of a step among them: with `peer_parallel` they are not all.

    Raises:
        [`DataError`]: it does not fit, naming what differs, lacks frames that the run will draw,
            or keeps no log-probabilities that `teacher_source="table"` could speak with.
        [`ConfigError`]: what it teaches would be wrong of what the peers see.
    """
    if args.score_table is None or objective.weight == 0 or rows is None:
        return None
    if cohort.known is not None:
        check_shared(objective, cohort.known)
        raise ConfigError("score_table compares peers by all classes, and some lack some (label_alignment 'overlap')")
    table = ScoreTable.load(args.score_table)
    table.check(row_facts_of(rows, cohort.label_names), peer_facts(cohort))
    grid = cohort.task.grid
    if table.manifest.get("grid") != grid:
        raise ConfigError(
            f"the score table {table.folder} compares peers on the grid {table.manifest.get('grid')!r}, this run on "
            f"{grid!r}; give the same --transfer_grid to both"
        )
    _check_drawn(table, counted(rows), args, mesh.data_ranks)
    table.teachers(objective.rule.name, objective.score)
    if objective.source.in_memory:
        return table
    if args.refresh_epochs is not None and table.is_of_maps:
        raise ConfigError(
            "refresh_epochs scores the trained peers alone, where maps are kept on a grid of all peers; leave it out"
        )
    if view is not None:
        raise ConfigError("teacher_source 'table' was computed on images without a random view; leave out `view`")
    if args.refresh_epochs is not None and args.dataloader_persistent_workers:
        raise ConfigError("refresh_epochs needs dataloader_persistent_workers false: they would keep the old table")
    table.log_probs(table.names[0], table.sample_ids[:1])
    return table


def _check_drawn(table: ScoreTable, rows: IdentifiedRows, args: MutualKDConfig, data_ranks: int) -> None:
    """Refuse a table that lacks target frames which the run will draw: nothing would be known of them."""
    if not rows.is_drawn:
        return
    epochs = epochs_of(args, rows, data_ranks)
    drawn = rows.fixed_rows(epochs)
    known = set(table.sample_ids.tolist())
    missing = [place for place, number in enumerate(drawn.sample_ids()) if number not in known]
    if missing:
        raise DataError(
            f"the score table {table.folder} lacks {len(missing)} of the {len(drawn)} target frames that {epochs} "
            f"epochs draw with seed {drawn.seed}, the first is {drawn[missing[0]]['name']}; score with the run's "
            f"--seed and --epochs {epochs}, or without --epochs, which scores every frame"
        )


def epochs_of(args: MutualKDConfig, rows: Any, data_ranks: int) -> int:
    """How many epochs of these rows a training begins, whose steps so many processes share."""
    if args.max_steps <= 0:
        return math.ceil(args.num_train_epochs)
    at_once = args.train_batch_size * data_ranks
    shown = rows_of_epoch(rows, args.labelled_share, at_once * args.gradient_accumulation_steps)
    batches = shown // at_once if args.dataloader_drop_last else math.ceil(shown / at_once)
    return math.ceil(args.max_steps / max(math.ceil(batches / args.gradient_accumulation_steps), 1))
