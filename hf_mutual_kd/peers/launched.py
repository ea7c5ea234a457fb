"""Several processes that a launcher started: whether they see each other, and what one of them does for all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..errors import ConfigError, MutualKDError


def check_launch(state: PartialState) -> None:
    """
    Refuse to go on where a launcher started several processes of which each would train for itself, into one folder.

    Raises:
        [`ConfigError`]: it did: without a GPU processes see each other only where all are told to use the CPU.
    """
    started = max(int(os.environ.get(name) or 1) for name in LAUNCHED)
    if started > state.num_processes:
        raise ConfigError(
            f"the launcher started {started} processes, but each sees only {state.num_processes}; on CPUs give "
            "--use_cpu after the script or command (accelerate does not hand on `use_cpu` of its configuration), or "
            "start one process"
        )


LAUNCHED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""In which variables launchers say how many processes there are."""


@contextlib.contextmanager
def on_main_process(state: PartialState, block: AbstractContextManager[Any]) -> Iterator[None]:
    """Enter a block on the main process alone; where that is refused, every process raises the same."""
    refused: list[MutualKDError | None] = [None]
    with contextlib.ExitStack() as stack:
        if state.is_main_process:
            try:
                stack.enter_context(block)
            except MutualKDError as error:
                refused = [error]
        if state.num_processes > 1:
            broadcast_object_list(refused)
        if refused[0] is not None:
            raise refused[0]
        yield


@contextlib.contextmanager
def written_here(model: Any) -> Iterator[None]:
    """Within the block a model's `save_pretrained` writes on this process; else it does on the first one alone."""
    model.should_save_on_this_rank = bool
    try:
        yield
    finally:
        del model.should_save_on_this_rank


def leave_together() -> None:
    """Wait for all processes and close their connections: one that exits while others still talk aborts them."""
    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()
