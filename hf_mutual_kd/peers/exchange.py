"""What peers that live on several processes tell each other: all that each says of the same rows, without gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed


@dataclasses.dataclass(frozen=True)
class Blank:
    """The place of a tensor in a form."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def replaced(said: Any, change: Callable[[Any], Any]) -> Any:
    """
    What a peer says with another thing in the place of each tensor, or of each [`Blank`].

    Args:
        said: a tensor, a blank, a dataclass, a mapping, a tuple or a list of such; everything else stays as it is.
        change (`Callable`): gives what takes the place.

    Example:

    ```python
    >>> replaced({"logits": torch.zeros(2, 3), "kind": "pixel"}, lambda one: Blank(tuple(one.shape), one.dtype))
    {'logits': Blank(shape=(2, 3), dtype=torch.float32), 'kind': 'pixel'}
    ```
    """
    if isinstance(said, Tensor | Blank):
        return change(said)
    if isinstance(said, Mapping):
        return {key: replaced(value, change) for key, value in said.items()}
    if isinstance(said, tuple | list):
        return type(said)(replaced(value, change) for value in said)
    if dataclasses.is_dataclass(said) and not isinstance(said, type):
        names = [item.name for item in dataclasses.fields(said)]
        return dataclasses.replace(said, **{name: replaced(getattr(said, name), change) for name in names})
    return said


class Exchange:
    """
    Joins what the peers say, each on its own process, of rows that all these processes see.

    Every tensor travels once, as it is: in bf16 under bf16, in fp16 under fp16, else in fp32, and without gradient.

    Args:
        owners (`dict[str, int]`): of all peers, in the cohort's order, the rank within `group` that holds them.
        group (`torch.distributed.ProcessGroup`): the processes, which all call [`Exchange.joined`] together.
        same_forms (`bool`): whether what a peer says of so many rows always has the same form, as logits `[B, C]` do;
            else the processes tell each other the form each time.
    """

    def __init__(self, owners: Mapping[str, int], group: Any, same_forms: bool):
        self.owners, self.group, self.same_forms = dict(owners), group, same_forms
        self._known: dict[Hashable, dict[str, Any]] = {}

    def __deepcopy__(self, memo: Any) -> Exchange:
        """The same: there is one group of processes, whichever copy of a cohort speaks."""
        return self

    def joined(self, mine: Mapping[str, Any], kind: Hashable) -> dict[str, Any]:
        """
        What all peers say.

        Args:
            mine (`dict[str, Any]`): what this process' own peers say; it comes back as it is, with its gradient.
            kind (hashable): on what the forms of others may depend beside the number of rows.

        Returns:
            `dict[str, Any]`: by name, in the cohort's order.
        """
        said: dict[str, list[Tensor]] = {name: [] for name in self.owners}
        forms = self._forms({name: replaced(one, _takes_out(said[name])) for name, one in mine.items()}, kind)
        device = next(tensor.device for tensors in said.values() for tensor in tensors)
        heard, under_way = dict(mine), []
        for name, owner in self.owners.items():
            if name not in mine:
                heard[name] = replaced(forms[name], _makes_room(said[name], device))
            under_way += [
                distributed.broadcast(one, group=self.group, group_src=owner, async_op=True) for one in said[name]
            ]
        for one in filter(None, under_way):
            one.wait()
        return {name: heard[name] for name in self.owners}

    def summed(self, mine: Tensor) -> Tensor:
        """The sum of a tensor over all these processes, without gradient."""
        total = mine.detach().clone()
        distributed.all_reduce(total, group=self.group)
        return total

    def _forms(self, mine: dict[str, Any], kind: Hashable) -> dict[str, Any]:
        """The forms of all peers; where own ones were seen before, of the same rows, so were those of the others."""
        key = (kind, torch.is_autocast_enabled(), torch.is_autocast_enabled("cpu"), repr(mine))
        if key in self._known:
            return self._known[key]
        told: list[Any] = [None] * distributed.get_world_size(self.group)
        distributed.all_gather_object(told, mine, group=self.group)
        forms = {name: form for part in told for name, form in part.items()}
        if self.same_forms:
            self._known[key] = forms
        return forms


def _takes_out(tensors: list[Tensor]) -> Callable[[Tensor], Blank]:
    """What puts each tensor, ready to be sent, into a list, and leaves a blank."""

    def change(one: Tensor) -> Blank:
        tensors.append(one.detach().contiguous())
        return Blank(tuple(one.shape), one.dtype)

    return change


def _makes_room(tensors: list[Tensor], device: torch.device) -> Callable[[Blank], Tensor]:
    """What puts a tensor to be received into a list, and into the place of each blank."""

    def change(blank: Blank) -> Tensor:
        tensors.append(torch.empty(blank.shape, dtype=blank.dtype, device=device))
        return tensors[-1]

    return change
