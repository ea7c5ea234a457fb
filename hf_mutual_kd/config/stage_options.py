"""Options of a training in stages: adapt, teach, choose. Imports neither torch nor transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigError
from .fields import option
from .rules import BELOW_ONE, NOT_NEGATIVE

Teaching = Literal["auto"]
Keep = Literal["best", "mutual"]


@dataclass
class StageOptions:
    """How a training in stages goes about it.

    Args:
        teaching (`str`, *optional*):
            `"auto"`: peers with new heads first learn from the labels; then several ways of teaching run a quarter of
            the steps each, the best goes on, beside a control that learns from the labels alone and one in which each
            peer teaches itself; of each peer is kept what validation rows favour. With `score_table` its peers teach,
            which then need not be in memory. Unset: `teacher_rule` and its neighbours say who teaches, in one
            training.
        adapt (`bool`, *optional*):
            Whether peers learn from the labels before anybody teaches; unset: where a head is new.
    """

    teaching: Teaching | None = option(
        "teaching",
        None,
        "'auto': adapt, try ways of teaching, keep of each peer what validation favours. Unset: teacher_rule.",
        often=True,
    )
    adapt: bool | None = option(
        "teaching", None, "With teaching auto: learn from labels first. Unset: where a head is new."
    )
    self_training: bool = option(
        "teaching", True, "With teaching auto: also the control in which each peer teaches itself."
    )
    self_confidence: float = option(
        "teaching", 0.0, "A peer teaches itself where it is at least so sure; 0 to below 1.", rule=BELOW_ONE
    )
    control_learning_rates: list[float] = option(
        "teaching",
        [],
        "With teaching auto: learning rates of the control, of which validation picks one; unset: learning_rate.",
        rule=NOT_NEGATIVE,
    )
    keep: Keep = option(
        "teaching", "best", "With teaching auto: what validation favours, or always the taught weights (mutual)."
    )

    def check_stages(self) -> None:
        """
        Refuse what a training in stages decides itself.

        Raises:
            [`ConfigError`]: an option that has no effect, or would be overruled.
        """
        if len(set(self.control_learning_rates)) < len(self.control_learning_rates):
            raise ConfigError(f"control_learning_rates must differ, got {self.control_learning_rates}")
        if self.teaching is None:
            given = [name for name, unset in UNSET.items() if getattr(self, name) != unset]
            if given:
                raise ConfigError(
                    f"{given[0]} has an effect with teaching 'auto' alone; add it, or leave {given[0]} out"
                )
            return
        for name, unset in DECIDED.items():
            if getattr(self, name) != unset:
                raise ConfigError(
                    f"teaching 'auto' finds out by itself what {name} says; leave one of them out"
                    if name in OF_WAYS
                    else f"teaching 'auto' does not go with {name}={getattr(self, name)!r}; leave one of them out"
                )
        self._check_staged_table()

    def _check_staged_table(self) -> None:
        given: Any = self
        if given.score_table is None:
            return
        if given.adapt:
            raise ConfigError(
                "adapt changes peers that a score_table knows as they are; let them adapt before "
                "(--transfer_weight 0), score them, and train each from the table"
            )
        if given.augment:
            raise ConfigError("teaching 'auto' from a score_table needs augment false: it knows no random view")


UNSET: dict[str, Any] = {"adapt": None, "self_training": True, "control_learning_rates": [], "keep": "best"}
"""Options that only stages have, as they are left alone."""

OF_WAYS = ("preset", "teacher_rule", "teacher_source", "calibrate", "retain")

DECIDED: dict[str, Any] = {
    "preset": "default",
    "teacher_rule": None,
    "teacher_source": None,
    "calibrate": False,
    "retain": None,
    "detach": None,
    "role_score": None,
    "refresh_epochs": None,
    "role_table": None,
    "labels": True,
}
"""What a training in stages decides itself, or cannot do, as it is left alone."""
