"""The optimizer and schedule of peers that live on several processes, in the files that one process would write."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import recursively_apply
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from ..errors import ResumeError
from ..peers.sharding import split_like, whole

State = dict[str, Any]


def joined(parts: Sequence[State], schedules: Sequence[State], names: Sequence[str]) -> tuple[State, State]:
    """
    One state of all peers, in the cohort's order, from those of the processes.

    Args:
        parts (`list[dict]`): what each optimizer's `state_dict` gave, every group with its `peer`; groups without one,
            which all processes have, are taken from the first.
        schedules (`list[dict]`): what each schedule's gave.
        names (`list[str]`): of the peers.

    Returns:
        `tuple` of the optimizer's state and the schedule's, as of one process that holds all peers.

    Example:

    ```python
    >>> a = {"state": {0: "A"}, "param_groups": [{"peer": "a", "params": [0]}]}
    >>> b = {"state": {0: "B"}, "param_groups": [{"peer": "b", "params": [0]}]}
    >>> joined([a, b], [{"base_lrs": [0.1]}, {"base_lrs": [0.2]}], ["a", "b"])
    ({'state': {0: 'A', 1: 'B'}, 'param_groups': [{'peer': 'a', 'params': [0]}, {'peer': 'b', 'params': [1]}]},
     {'base_lrs': [0.1, 0.2]})
    ```
    """
    found = [
        (part, place, group.get("peer"))
        for part, state in enumerate(parts)
        for place, group in enumerate(state["param_groups"])
        if part == 0 or group.get("peer") is not None
    ]
    order = {name: place for place, name in enumerate(names)}
    found.sort(key=lambda one: order.get(one[2], len(order)))
    state: State = {"state": {}, "param_groups": []}
    for part, place, _ in found:
        _append(state, parts[part], place)
    schedule = dict(schedules[0])
    for key in schedule:
        if _is_of_groups(schedule[key], parts[0]):
            schedule[key] = [schedules[part][key][place] for part, place, _ in found]
    return state, schedule


def part_of(state: State, schedule: State, names: Collection[str]) -> tuple[State, State]:
    """What concerns these peers, and groups that are nobody's, of what [`joined`] made or one process wrote."""
    places = [place for place, group in enumerate(state["param_groups"]) if group.get("peer") in (None, *names)]
    part: State = {"state": {}, "param_groups": []}
    for place in places:
        _append(part, state, place)
    lists = {key: value for key, value in schedule.items() if _is_of_groups(value, state)}
    return part, schedule | {key: [value[place] for place in places] for key, value in lists.items()}


def _append(state: State, part: State, place: int) -> None:
    """Add a group and the state of its weights, whose numbers go on from those that are there."""
    group = part["param_groups"][place]
    first = sum(len(one["params"]) for one in state["param_groups"])
    numbers = dict(zip(group["params"], range(first, first + len(group["params"])), strict=True))
    state["param_groups"].append(group | {"params": list(numbers.values())})
    state["state"] |= {numbers[old]: part["state"][old] for old in numbers if old in part["state"]}


def _is_of_groups(value: Any, state: State) -> bool:
    """Whether a schedule keeps one thing for each group of the optimizer."""
    return isinstance(value, list) and len(value) == len(state["param_groups"])


def write_part(folder: Path, place: int, optimizer: Any, schedule: Any, *, writes: bool = True) -> None:
    """
    Write the states of one place of peers beside those of others, for [`join_parts`].

    All processes call it together that hold parts of a weight; of them one `writes`.
    """
    state = recursively_apply(whole, optimizer.state_dict(), kept=writes)
    if writes:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save([state, schedule.state_dict()], folder / f"{PART}{place}.pt")


def join_parts(folder: Path, names: Sequence[str]) -> None:
    """Make the optimizer's and the schedule's file of the parts in a folder, where there are any; one process does."""
    paths = sorted(folder.glob(f"{PART}*.pt"), key=lambda path: int(path.stem.removeprefix(PART)))
    if not paths:
        return
    # Mapped, not read: all peers' states together may be larger than what one process has room for.
    parts, schedules = zip(*(torch.load(path, mmap=True, weights_only=True) for path in paths), strict=True)
    state, schedule = joined(parts, schedules, names)
    torch.save(state, folder / OPTIMIZER_NAME)
    torch.save(schedule, folder / SCHEDULER_NAME)
    for path in paths:
        path.unlink()


def load_part(folder: Path, optimizer: Any, schedule: Any) -> None:
    """
    Bring the states of an optimizer's peers back from a checkpoint, whichever processes wrote it; nothing where it
    has none.

    Raises:
        [`ResumeError`]: it does not say whose they are.
    """
    if not all((folder / name).is_file() for name in (OPTIMIZER_NAME, SCHEDULER_NAME)):
        return
    state, plan = (
        torch.load(folder / name, map_location="cpu", mmap=True, weights_only=True)
        for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
    )
    names, known = (
        {group.get("peer") for group in groups} - {None} for groups in (optimizer.param_groups, state["param_groups"])
    )
    if not names <= known:
        raise ResumeError(
            f"{folder / OPTIMIZER_NAME} does not say which weights are whose, as an earlier version or an optimizer "
            "of your own wrote it; resume without peer_parallel"
        )
    part, plan = part_of(state, plan, names)
    optimizer.load_state_dict(_split(part, optimizer.param_groups))
    schedule.load_state_dict(plan)


def _split(state: State, groups: Sequence[Mapping[str, Any]]) -> State:
    """The state with what it keeps of each weight split as the weight is."""
    weights = [weight for group in groups for weight in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    split = {
        number: {key: split_like(weight, value) for key, value in state["state"][number].items()}
        for number, weight in zip(numbers, weights, strict=True)
        if number in state["state"]
    }
    return state | {"state": split}


PART = "optimizer-part-"
