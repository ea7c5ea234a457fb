"""What options may be: one rule for each number, and the choices of its type; checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

from ..errors import ConfigError


class Rule(NamedTuple):
    """What a number must be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def at_least(least: float) -> Rule:
    """No less than a number."""
    return Rule(f"{least:g} or more", lambda value: value >= least)


def between(least: float, most: float) -> Rule:
    """From one number to another, both included."""
    return Rule(f"from {least:g} to {most:g}", lambda value: least <= value <= most)


NOT_NEGATIVE = at_least(0)
COUNT = at_least(1)
POSITIVE = Rule("greater than 0", lambda value: value > 0)
CLIP_SECONDS = between(0.3, 30)
SHARE = Rule("above 0 and at most 1", lambda value: 0 < value <= 1)
OPEN_SHARE = Rule("above 0 and below 1", lambda value: 0 < value < 1)
BELOW_ONE = Rule("0 or more and below 1", lambda value: 0 <= value < 1)
STEPS = Rule("a whole number of steps, or above 0 and below 1 as a share of all", lambda value: value > 0)
SEED = Rule("from 0 to 4294967295", lambda value: 0 <= value < 2**32)
ANY = Rule("a number", lambda value: True)

TRAINING_ARGUMENTS: dict[str, Rule] = {
    "per_device_train_batch_size": COUNT,
    "per_device_eval_batch_size": COUNT,
    "gradient_accumulation_steps": COUNT,
    "eval_accumulation_steps": COUNT,
    "num_train_epochs": POSITIVE,
    "max_steps": Rule("-1 (as many as num_train_epochs has), or 1 or more", lambda value: value == -1 or value >= 1),
    "learning_rate": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "max_grad_norm": NOT_NEGATIVE,
    "adam_beta1": BELOW_ONE,
    "adam_beta2": BELOW_ONE,
    "adam_epsilon": POSITIVE,
    "label_smoothing_factor": BELOW_ONE,
    "neftune_noise_alpha": NOT_NEGATIVE,
    "warmup_steps": NOT_NEGATIVE,
    "eval_delay": NOT_NEGATIVE,
    "logging_steps": STEPS,
    "eval_steps": STEPS,
    "save_steps": STEPS,
    "save_total_limit": COUNT,
    "seed": SEED,
    "data_seed": SEED,
    "dataloader_num_workers": NOT_NEGATIVE,
    "dataloader_prefetch_factor": COUNT,
    "torch_empty_cache_steps": COUNT,
    "ddp_timeout": COUNT,
    "ddp_bucket_cap_mb": COUNT,
}
"""Of the fields of `transformers.TrainingArguments`, most of which it does not check itself."""


FUNCTIONS: dict[str, Rule] = {
    "attempts": COUNT,
    "batch_size": COUNT,
    "call_s": POSITIVE,
    "color_jitter": NOT_NEGATIVE,
    "cut_threshold": NOT_NEGATIVE,
    "deadline_s": POSITIVE,
    "decay": BELOW_ONE,
    "every": COUNT,
    "first_wait_s": NOT_NEGATIVE,
    "label_smoothing": BELOW_ONE,
    "longest_wait_s": NOT_NEGATIVE,
    "max_bytes": COUNT,
    "max_drop": between(0, 1),
    "min_area": SHARE,
    "samples": COUNT,
    "seconds": CLIP_SECONDS,
    "shard_rows": COUNT,
    "slowest_upload": POSITIVE,
    "stride": COUNT,
    "temperature": POSITIVE,
    "weight": NOT_NEGATIVE,
    "workers": NOT_NEGATIVE,
}
"""Of the arguments of functions that are called from Python; one name means the same everywhere."""


def check_rules(options: Any) -> None:
    """Raise [`ConfigError`] where a number of a dataclass breaks its rule, or is not finite.

    Rules are an option's own (`option(…, rule=COUNT)`) and those of [`TRAINING_ARGUMENTS`].
    """
    for item in fields(options):
        rule, value = item.metadata.get("rule") or TRAINING_ARGUMENTS.get(item.name, ANY), getattr(options, item.name)
        for number in value if isinstance(value, list) else [value]:
            check_number(item.name, number, rule)


def check_numbers(**given: Any) -> None:
    """Raise [`ConfigError`] where an argument breaks its rule of [`FUNCTIONS`], or is not finite; `None` is unset.

    Example:
        >>> check_numbers(deadline_s=0.5, samples=None)
    """
    for name, value in given.items():
        check_number(name, value, FUNCTIONS[name])


def check_number(name: str, number: Any, rule: Rule) -> None:
    """Raise [`ConfigError`] where a number breaks its rule, or is not finite; what is no number passes."""
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if is_number and not (math.isfinite(number) and rule.holds(number)):
        raise ConfigError(f"{name} must be {rule.words}, got {number}")


def choices_of(hint: Any) -> tuple[Any, ...]:
    """The allowed values of a `Literal`, also of an optional one; empty for other types."""
    if getattr(hint, "__origin__", None) is Literal:
        return get_args(hint)
    parts = [part for part in get_args(hint) if part is not type(None)]
    return choices_of(parts[0]) if len(parts) == 1 else ()


def check_choices(options: Any) -> None:
    """Raise [`ConfigError`] where a field with a `Literal` type holds another value."""
    hints = get_type_hints(type(options))
    for item in fields(options):
        allowed = choices_of(hints[item.name])
        value = getattr(options, item.name)
        if allowed and value is not None and value not in allowed:
            raise ConfigError(f"{item.name} must be one of {', '.join(map(str, allowed))}, got {value!r}")
