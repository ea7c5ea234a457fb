"""Folders that appear whole or not at all, and what a checkpoint says of the cohort it belongs to."""

from __future__ import annotations

import contextlib
import json
import math
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import safe_globals

from ..data.role_table import RoleTable
from ..errors import DataError, MutualKDError, ResumeError
from ..files import read_json, write_text

COHORT_STATE = "cohort_state.json"
ROLES = "roles.parquet"


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """Everything that was logged, a JSON object a line; `null` for what is not finite."""
    lines = [{key: value if is_number(value) else None for key, value in entry.items()} for entry in history]
    write_text(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def is_number(value: Any) -> bool:
    """Whether JSON can hold a logged value; it has no NaN and no infinity."""
    return not isinstance(value, float) or math.isfinite(value)


@dataclass(frozen=True)
class Bests:
    """Of every peer: its best value, the step of that, and how many evaluations have passed since."""

    values: dict[str, float]
    steps: dict[str, int]
    waited: dict[str, int]


@dataclass(frozen=True)
class CohortState:
    """What a checkpoint says of its cohort.

    Args:
        task (`str`), peers (`list[str]`), labels (`list[str]`): of the cohort.
        starting_weights (`str`): a hash of the peers as they were before training.
        made_with (`dict`): data, configurations, processors and options, as `made_with` of `fingerprints` has them.
        bests ([`Bests`]): as [`PeerBests`] keeps them.
        processes (`int`), rows_per_step (`int`): of the training.
        data_ranks (`int`, *optional*): how many processes shared the rows of a step; all of them when unset.
        places (`list[list[str]]`, *optional*): which peers were together on one process, where each held some.
        changes (`list[dict]`): options that other values held for from some step on.
        broken (`dict[str, int]`): peers whose weights are not finite, and the step at which that was found.
    """

    task: str
    peers: list[str]
    labels: list[str]
    starting_weights: str
    made_with: dict[str, dict[str, Any]]
    bests: Bests
    processes: int
    rows_per_step: int
    data_ranks: int | None = None
    places: list[list[str]] | None = None
    changes: list[dict[str, Any]] = field(default_factory=list)
    broken: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """What of `trainer_state.json` is read here."""

    global_step: int
    epoch: float | None = None
    max_steps: int = 0
    num_train_epochs: int = 0

    def __post_init__(self):
        if self.global_step < 0:
            raise ValueError("global_step is below 0")


def progress_of(checkpoint: Path) -> Progress:
    """How far a checkpoint's training was."""
    return read_json(checkpoint / TRAINER_STATE_NAME, Progress, ResumeError, ANOTHER)


def epoch_of(checkpoint: Path) -> float:
    """How many epochs of training lie behind a checkpoint."""
    return progress_of(checkpoint).epoch or 0.0


def read_state(checkpoint: Path) -> CohortState:
    """What a checkpoint says of its cohort.

    Raises:
        [`ResumeError`]: it is no checkpoint of a cohort, or damaged.
    """
    if not (checkpoint / COHORT_STATE).is_file():
        raise ResumeError(
            f"{checkpoint} is no checkpoint of a cohort ({COHORT_STATE} is missing); "
            "give the checkpoint-… folder of an earlier run, or leave resume_from_checkpoint out"
        )
    return read_json(checkpoint / COHORT_STATE, CohortState, ResumeError, ANOTHER)


@contextlib.contextmanager
def reading(what: Path) -> Iterator[None]:
    """
    Within the block a part of a checkpoint is read.

    Raises:
        [`ResumeError`]: in place of anything that damaged files make torch, safetensors and others raise.
    """
    try:
        yield
    except MutualKDError as error:
        if not isinstance(error, DataError):
            raise
        raise ResumeError(f"{error}; {ANOTHER}") from error
    except DAMAGED as error:
        first = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise ResumeError(f"{what} is damaged: {first[:200]}; {ANOTHER}") from error


def check_whole(checkpoint: Path, state: CohortState, processes: int, may_lack: bool) -> list[str]:
    """
    Refuse a checkpoint of which something is missing or cannot be read, before anything is loaded from it.

    Args:
        checkpoint (`Path`): a `checkpoint-N`.
        state ([`CohortState`]): its own.
        processes (`int`): that go on with it.
        may_lack (`bool`): go on without the optimizer, the schedule or random states.

    Returns:
        `list[str]`: what is missing of those.

    Raises:
        [`ResumeError`]: something is missing or damaged.
    """
    with reading(checkpoint / TRAINER_STATE_NAME):
        TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    random = [f"rng_state_{rank}.pth" for rank in range(processes)] if processes > 1 else ["rng_state.pth"]
    wanted = {"optimizer": ["optimizer.pt"], "schedule": ["scheduler.pt"]}
    wanted |= {"random states": random} if state.processes == processes else {}
    is_sharded = any(path.is_dir() for kind in SHARDED for path in checkpoint.glob(kind))
    missing = [
        what
        for what, names in wanted.items()
        if not all((checkpoint / name).is_file() for name in names) and not (is_sharded and what != "random states")
    ]
    if missing and not may_lack:
        raise ResumeError(
            f"{checkpoint} has no {', '.join(missing)} (was it saved with save_only_model?), without which training "
            f"does not go on as it would have; {ANOTHER}, or make them anew by --resume_changes allow"
        )
    for name in (name for names in wanted.values() for name in names if (checkpoint / name).is_file()):
        with reading(checkpoint / name), safe_globals():
            stored = torch.load(checkpoint / name, map_location="cpu", weights_only=True)
            if not isinstance(stored, dict) or not HELD[name.split(".")[0].rstrip("_0123456789")] <= set(stored):
                raise ValueError("it holds something else")
    with reading(checkpoint / ROLES):
        RoleTable.load(checkpoint / ROLES, state.peers)
    for peer in state.peers:
        for folder in (checkpoint / peer, checkpoint / "best" / peer):
            if folder.is_dir():
                _check_weights(folder)
            elif peer not in state.broken and (folder.parent.name != "best" or peer in state.bests.values):
                raise ResumeError(f"{folder} is missing; {ANOTHER}")
    return missing


def _check_weights(folder: Path) -> None:
    weights = list(folder.glob("*.safetensors"))
    if not weights:
        raise ResumeError(f"{folder} holds no weights; {ANOTHER}")
    for path in weights:
        with reading(path), safe_open(path, "pt"):
            pass


HELD = {
    "optimizer": {"state", "param_groups"},
    "scheduler": {"last_epoch"},
    "rng_state": {"python", "numpy", "cpu"},
}
"""What is in the files that are pickled, at least."""

SHARDED = ("optimizer*", "global_step*")
"""Folders in which FSDP and DeepSpeed keep the state of the optimizer."""

ANOTHER = "resume from another checkpoint, or start anew in another output_dir"

DAMAGED = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    ArithmeticError,
    pickle.UnpicklingError,
    SafetensorError,
)


def check_state(checkpoint: Path, state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of other peers, task, labels or starting weights, naming the first that differs."""
    for key, value in expected.items():
        if state.get(key) != value:
            raise ResumeError(
                f"{checkpoint} was made with other {key.replace('_', ' ')}: {_brief(state.get(key))}, "
                f"now {_brief(value)}; resume with the same, or start anew in another output_dir"
            )


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}…"
