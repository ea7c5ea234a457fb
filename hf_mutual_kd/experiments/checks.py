"""What a recipe refuses before anything is trained: of its options, then of its peers and rows together."""

from __future__ import annotations

from pathlib import Path

from datasets import IterableDataset
from transformers import Trainer

from ..config.hub_ids import HUB_ID
from ..config.training_config import MutualKDConfig
from ..data.collator import identified
from ..data.role_table import RoleTable
from ..data.splits import Splits
from ..distillation.objective import Objective
from ..errors import ConfigError, ResumeError
from ..peers.cohort import Cohort
from ..peers.peer_mesh import PeerMesh
from ..scoring.table_teacher import open_table
from ..tasks.base import Task
from ..training.start_cache import obstacle


def check_options(task: Task, config: MutualKDConfig) -> None:
    """
    Refuse what needs no peer and no row to be seen.

    Raises:
        [`ConfigError`], [`ResumeError`]: named by the option.
    """
    task.check_transfer(config)
    if task.options.dataset is None:
        raise ConfigError("dataset is missing: give a Hub id, a folder or Parquet files with --dataset")
    resume = config.resume_from_checkpoint
    if isinstance(resume, str) and not Path(resume).is_dir() and not HUB_ID.fullmatch(resume):
        raise ResumeError(f"resume_from_checkpoint: {resume} is neither a folder nor a repository on the Hub")


def check_training(config: MutualKDConfig, cohort: Cohort, splits: Splits, objective: Objective) -> None:
    """
    Refuse what the trainer of the mutual arm would.

    Raises:
        [`ConfigError`], [`DataError`]: named by the option, or by the table that does not fit.
    """
    if isinstance(splits.train, IterableDataset) and config.max_steps <= 0:
        raise ConfigError("a stream has no known end: say how long to train with --max_steps")
    mesh = PeerMesh.of(config.resolved(), cohort)
    for role in ("train", "validation", "test"):
        mesh.check_rows(getattr(splits, role), f"the {role} split")
    if config.role_table is not None:
        RoleTable.load(config.role_table, cohort.names)
    open_table(config, cohort, splits.train, objective, mesh=mesh)
    view = cohort.task.view(cohort.processors, config.seed) if config.augment else None
    obstacle(config, identified(splits.train), view, objective)
    try:
        Trainer.get_optimizer_cls_and_kwargs(config, cohort)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"optim does not work here: {error}") from error
