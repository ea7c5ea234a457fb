"""The configuration of a run: everything of `transformers.TrainingArguments` and the options of knowledge transfer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import SchedulerType, TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from ..errors import ConfigError
from .options import TransferOptions
from .peers import PeerSpec
from .values import nearest


def check_loggers(names: Iterable[str]) -> None:
    """Raise [`ConfigError`] for a logger of `report_to` that transformers does not know, or that is not installed."""
    known = list(INTEGRATION_TO_CALLBACK)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"report_to names {name!r}{nearest(name, known)}; there are {', '.join(known)}, all, none"
            )
        if name not in get_available_reporting_integrations():
            raise ConfigError(f"report_to names {name!r}, which is not installed here: pip install {name}, or none")


def check_schedule(args: TrainingArguments) -> None:
    """Raise [`ConfigError`] where no schedule can be made from `lr_scheduler_type` and `lr_scheduler_kwargs`."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    given: Any = args.lr_scheduler_kwargs
    try:
        if given and args.lr_scheduler_type in (SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP):
            raise TypeError("it takes none")
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 10, scheduler_specific_kwargs=dict(given or {}))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"lr_scheduler_type {SchedulerType(args.lr_scheduler_type).value} does not go with lr_scheduler_kwargs "
            f"{given or 'unset'}: {error}"
        ) from None


@dataclass
class MutualKDConfig(TransferOptions, TrainingArguments):
    """Configuration of [`MutualKDTrainer`].

    See [`TransferOptions`] for who teaches and how, and `transformers.TrainingArguments` for all
    else. What differs from there: `remove_unused_columns` is `False` (the collator needs the image column), and
    `load_best_model_at_end` works per peer and asks nothing of `save_strategy`. What is left unset stays so; the
    trainer works with `config.resolved()`.

    Raises:
        [`ConfigError`]: a value breaks its rule.

    Example:

    ```python
    >>> MutualKDConfig("runs/vit", learning_rate=1e-6, temperature=0)
    ConfigError: temperature must be greater than 0, got 0
    ```
    """

    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Always false: the collator needs the image column."}
    )

    load_best_model_at_end: bool = field(default=False, metadata={"help": "End with each peer's best weights."})
    metric_for_best_model: str | None = field(
        default=None,
        metadata={"help": "What selects each peer's best weights, as accuracy or loss; unset: the task's metric."},
    )

    control: bool = field(
        default=False,
        metadata={"help": "In Python: first train the control, see `MutualKDTrainer.train_control`."},
    )

    _metric_is_given = True

    def __post_init__(self):
        self.resolved()
        if self.remove_unused_columns:
            raise ConfigError("remove_unused_columns must be false: the collator needs the image column")
        wants_best, self.load_best_model_at_end = self.load_best_model_at_end, False
        if self.fp16 and (self.use_cpu or not torch.accelerator.is_available()):
            raise ConfigError("fp16 needs a GPU, and training would run on the CPU here; use bf16, or leave fp16 out")
        super().__post_init__()
        check_loggers(self.report_to)
        check_schedule(self)
        self.load_best_model_at_end = wants_best
        if wants_best and self.eval_strategy == "no":
            raise ConfigError("load_best_model_at_end needs evaluations: set eval_strategy to 'steps' or 'epoch'")
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            raise ConfigError("early_stopping_patience needs evaluations: set eval_strategy to 'steps' or 'epoch'")

    def resolved(self) -> MutualKDConfig:
        """As [`TransferOptions.resolved`]; and what the Trainer insists on, or warns of, is set as it has to be."""
        made = super().resolved()
        if made.load_best_model_at_end and made.metric_for_best_model is None:
            # Peers are selected by their task's metric.
            made.metric_for_best_model, made.greater_is_better, made._metric_is_given = "loss", False, False
        if not torch.accelerator.is_available():
            # Pinning for a device that is not there only warns.
            made.dataloader_pin_memory = False
        return made

    def check_peers(self, specs: Mapping[str, PeerSpec]) -> None:
        """Refuse options for peers that do not take part, and peers of which none would learn."""
        kind, _, teacher = (self.teacher_rule or "").partition(":")
        if kind == "fixed" and self.teacher_source != "table" and teacher not in specs:
            raise ConfigError(f"teacher_rule names {teacher!r}, but the peers are {', '.join(specs)}")
        if specs and all(spec.frozen for spec in specs.values()):
            raise ConfigError("every peer is frozen: nothing would learn")
