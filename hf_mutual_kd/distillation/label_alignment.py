"""Label spaces of peers and data sets, brought together by name."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ConfigError, LabelError

LACKING = -1
"""In place of the column of a label that a peer lacks."""
FEWEST = 2
"""Labels of the data set that a peer has to know."""
FLOOR = math.log(1e-6)
"""Log-probability of a class that a peer lacks, where its answers are looked at in the data set's classes."""


def align_labels(
    peer_name: str,
    peer_labels: Sequence[str],
    *,
    dataset_labels: Sequence[str],
    mode: Literal["exact", "subset", "overlap", "new_head"] = "exact",
    peer_aliases: Sequence[str] | None = None,
) -> list[int] | None:
    """
    Which column of a peer's logits belongs to each label of the data set.

    A data-set label is looked for among the peer's labels as it is written, then without regard to case, underscores,
    spaces and Unicode form, then in the same two ways among the aliases. Lists of placeholders (`LABEL_0`, `LABEL_1`,
    ...) carry no names: with equal length `LABEL_2` is the class called `"2"` where all are called by such numbers,
    else the class at that position.

    Args:
        peer_name (`str`): for messages.
        peer_labels (`list[str]`, C_peer): the peer's labels in the order of its logits.
        dataset_labels (`list[str]`, C): the data set's labels in the order of its label ids.
        mode (`"exact"`, `"subset"`, `"overlap"` or `"new_head"`, *optional*, defaults to `"exact"`):
            `"exact"`: both know the same labels, in any order; `"subset"`: the peer may know more; `"overlap"`: it may
            know more and lack some, but knows two or more; `"new_head"`: as `"exact"`, for a peer that has its new
            classifier already.
        peer_aliases (`list[str]`, C_peer, *optional*):
            A second name of every label of the peer, such as the description that belongs to a synset id.

    Returns:
        `list[int]` of length C, to select with `logits[:, columns]`, [`LACKING`] for a label that the peer lacks; or
        `None` where the orders agree as they are.

    Raises:
        [`LabelError`]: labels that are missing on one side, that occur twice in lists that differ, or that are
            empty; placeholders of which it can't be known what they stand for.
        [`ConfigError`]: another mode, or aliases of another length.

    Example:

    ```python
    >>> align_labels("vit", ["dog", "cat", "owl"], dataset_labels=["Cat", "dog", "owl"])
    [1, 0, 2]
    >>> align_labels("vit", ["dog", "cat", "owl"], dataset_labels=["owl", "cat"], mode="subset")
    [2, 1]
    ```
    """
    if mode not in ("exact", "subset", "overlap", "new_head"):
        raise ConfigError(f"mode must be one of exact, subset, overlap, new_head, got {mode!r}")
    if peer_aliases is not None and len(peer_aliases) != len(peer_labels):
        raise ConfigError(f"Peer {peer_name!r} has {len(peer_labels)} labels but {len(peer_aliases)} aliases.")
    peer, wanted = list(peer_labels), list(dataset_labels)
    if any(not _plain(label) for label in wanted):
        raise LabelError(f"Class {[_plain(label) for label in wanted].index('')} of the data set has an empty name.")
    names = [peer] if peer_aliases is None else [peer, list(peer_aliases)]
    if _same_order(names, wanted):
        return None
    if len(names[-1]) == len(wanted) and (_are_placeholders(names[-1]) or _are_placeholders(wanted)):
        return _columns_of_placeholders(peer_name, peer, wanted)
    columns, problem = _match(names, wanted)
    if mode == "overlap" and problem == "" and sum(column != LACKING for column in columns) >= FEWEST:
        return columns
    if problem is None and (mode in ("subset", "overlap") or len(peer) == len(wanted)):
        return None if columns == list(range(len(peer))) else columns
    works_as_subset = problem is None and mode not in ("subset", "overlap")
    raise LabelError(_message(peer_name, names, wanted, problem, works_as_subset))


def _same_order(names: list[list[str]], wanted: list[str]) -> bool:
    """Whether no column has to move: equal lists, also in their plain form."""
    return bool(wanted) and any(labels == wanted or _spelled_alike(labels, wanted) for labels in names)


def _spelled_alike(labels: list[str], wanted: list[str]) -> bool:
    """Equal in plain form at every place, and no label that is written just so at another place."""
    if [_plain(label) for label in labels] != [_plain(label) for label in wanted]:
        return False
    written = set(labels)
    return all(a == b or b not in written for a, b in zip(labels, wanted, strict=True))


def _are_placeholders(labels: list[str]) -> bool:
    """Whether labels are `LABEL_0` to `LABEL_{C-1}`, in any order."""
    return bool(labels) and set(labels) == {f"LABEL_{index}" for index in range(len(labels))}


def _columns_of_placeholders(peer_name: str, peer: list[str], wanted: list[str]) -> list[int] | None:
    """The column of every label where one side numbers its classes instead of naming them."""
    numbered, named = (peer, wanted) if _are_placeholders(peer) else (wanted, peer)
    if not _are_placeholders(named) and numbered == sorted(numbered, key=by_number):
        if sorted(named, key=by_number) == [str(index) for index in range(len(named))]:
            places = [int(name) for name in named]
            columns = places if named is wanted else [named.index(str(index)) for index in range(len(named))]
            return None if columns == sorted(columns) else columns
        if not _sorted_as_text_alone(named):
            return None
    place = next((i for i, (a, b) in enumerate(zip(peer, wanted, strict=True)) if a != b), 0)
    raise LabelError(
        f"The labels of peer {peer_name!r} and of the data set can't be brought together: {numbered[0]!r}, "
        f"{numbered[1]!r}, … are no names, and the order of the others doesn't say which is which (at position "
        f"{place} the peer has {peer[place]!r}, the data set {wanted[place]!r}). Write the names into `id2label` of "
        "the peer's config.json, in the order of its logits; or --label_alignment new_head gives every peer a new "
        "classifier."
    )


def _sorted_as_text_alone(names: list[str]) -> bool:
    """Whether names with numbers stand as text sorts them (`"c1", "c10", "c2"`), which their numbers don't."""
    return names == sorted(names) and names != sorted(names, key=by_number)


def by_number(name: str) -> tuple[Any, ...]:
    """A key that sorts names by their text, and numbers within them as numbers.

    Example:

    ```python
    >>> sorted(["c10", "c2", "b"], key=by_number)
    ['b', 'c2', 'c10']
    ```
    """
    parts = re.split(r"([0-9]+)", name)
    return (*(int(part) if place % 2 else part for place, part in enumerate(parts)), name)


def _plain(label: str) -> str:
    """The label without what spellings differ in: case, underscores, runs of white space, composed characters."""
    return re.sub(r"[\s_]+", " ", unicodedata.normalize("NFC", label)).strip().casefold()


def _match(names: list[list[str]], wanted: list[str]) -> tuple[list[int], str | None]:
    """The column of every wanted label, or what stands in the way."""
    if not wanted:
        return [], "The data set's list of labels is empty."
    tables = []
    for labels in names:
        tables += [(_columns(labels), False), (_columns([_plain(label) for label in labels]), True)]
    owner: dict[int, str] = {}
    columns: list[int] = []
    for label in wanted:
        found = next((hit for table, plain in tables if (hit := table.get(_plain(label) if plain else label))), [])
        if len(found) > 1:
            return [], f"{label!r} is ambiguous: the peer knows it {len(found)} times."
        if found and found[0] in owner:
            return [], f"{label!r} is ambiguous: {owner[found[0]]!r} in the data set names the same label of the peer."
        if found:
            owner[found[0]] = label
        columns.append(found[0] if found else LACKING)
    return columns, "" if LACKING in columns else None


def _columns(labels: list[str]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for column, label in enumerate(labels):
        table.setdefault(label, []).append(column)
    return table


def _message(
    peer_name: str, names: list[list[str]], wanted: list[str], problem: str | None, works_as_subset: bool
) -> str:
    """Both lists' lengths, the first label that only one side has, what is ambiguous, and the way out."""
    peer = names[0]
    known = {_plain(label) for labels in names for label in labels}
    needed = {_plain(label) for label in wanted}
    only_peer = next((a for a, *b in zip(*names, strict=True) if not needed & {_plain(x) for x in (a, *b)}), None)
    only_data = next((label for label in wanted if _plain(label) not in known), None)
    parts = [f"The labels of peer {peer_name!r} ({len(peer)}) and of the data set ({len(wanted)}) differ."]
    if only_peer is not None:
        parts.append(f"The first that only the peer knows is {only_peer!r}.")
    if only_data is not None:
        parts.append(f"The first that only the data set knows is {only_data!r}.")
    if only_peer is None and only_data is None:
        place = next((i for i, (a, b) in enumerate(zip(peer, wanted, strict=False)) if a != b), None)
        if place is not None:
            parts.append(f"At position {place} the peer has {peer[place]!r}, the data set {wanted[place]!r}.")
    if problem:
        parts.append(problem)
    if works_as_subset:
        parts.append("--label_alignment subset uses the peer's matching classes and ignores its others.")
    else:
        if len(known & needed) >= FEWEST:
            parts.append("--label_alignment overlap teaches the classes that peers share and leaves the others alone.")
        parts.append("--label_alignment new_head gives every peer a new classifier for the data set's labels.")
    return " ".join(parts)


@dataclass(frozen=True)
class ClassColumns:
    """
    Which columns of a peer's outputs hold the data set's classes, in the data set's order.

    Args:
        peer (`str`): its name, for messages.
        classes (`int`): C, how many classes the data set names; 0 where it names none.
        index (`torch.LongTensor` of shape `[C]`, *optional*): unset where the peer does not say its labels.
        lacks (`bool`): whether some classes are [`LACKING`] in `index`.

    Example:

    ```python
    >>> ClassColumns("a", 2, torch.tensor([1, 0])).select(torch.tensor([[0.1, 0.9]]))
    tensor([[0.9000, 0.1000]])
    ```
    """

    peer: str
    classes: int = 0
    index: Tensor | None = None
    lacks: bool = False

    def select(self, logits: Tensor, dim: int = 1) -> Tensor:
        """The data set's classes of `logits`; those that the peer lacks have a probability of 1e-6 and no gradient.

        Raises:
            [`LabelError`]: a peer without labels has another number of classes.
        """
        if self.index is not None and self.lacks:
            chosen = logits.index_select(dim, self.index.clamp_min(0))
            known = (self.index != LACKING).view(-1, *[1] * (logits.ndim - 1 - dim % logits.ndim))
            level = chosen.detach().masked_fill(~known, float("-inf")).logsumexp(dim, keepdim=True) + FLOOR
            return torch.where(known, chosen, level)
        if self.index is not None:
            return logits.index_select(dim, self.index)
        if self.classes and logits.shape[dim] != self.classes:
            raise LabelError(
                f"peer {self.peer!r} gives {logits.shape[dim]} classes for {self.classes} labels; "
                "give it a `config.id2label` with the data set's names, or use label_alignment='new_head'"
            )
        return logits

    def known_labels(self, labels: Tensor, nothing: int) -> Tensor:
        """Labels `[B, ...]` of the data set; `nothing` in place of classes that the peer lacks."""
        if self.index is None or not self.lacks:
            return labels
        is_class = (labels >= 0) & (labels < len(self.index))
        lacking = self.index[labels.masked_fill(~is_class, 0)] == LACKING
        return labels.masked_fill(is_class & lacking, nothing)


def known_classes(columns: Mapping[str, Sequence[int] | None], labels: Sequence[str]) -> Tensor | None:
    """
    Which of C labels each of N peers knows, bool `[N, C]`, by their [`align_labels`]; `None` where all know all.

    Raises:
        [`LabelError`]: a peer of several shares fewer than two with each of the others.

    Example:

    ```python
    >>> known_classes({"a": [0, 1, 2, -1], "b": [-1, 0, 1, 2]}, ["sky", "road", "car", "sea"])
    tensor([[ True,  True,  True, False],
            [False,  True,  True,  True]])
    ```
    """
    if all(LACKING not in (one or ()) for one in columns.values()):
        return None
    rows = [[True] * len(labels) if one is None else [place != LACKING for place in one] for one in columns.values()]
    known = torch.tensor(rows)
    shared = (known.long() @ known.long().T).fill_diagonal_(0)
    for name, most in zip(columns, shared.amax(1).tolist(), strict=True):
        if most < FEWEST <= len(columns):
            raise LabelError(
                f"peer {name!r} shares {most} of the {len(labels)} labels with any other peer, and two are the fewest "
                "of which one could teach something: leave it out, or use label_alignment='new_head'"
            )
    return known


def label_list(config: Any) -> list[str]:
    """
    The labels of a model's configuration in the order of its logits; empty where it does not say.

    Args:
        config: what counts is its `id2label`, keyed by integers or their digits.

    Raises:
        [`LabelError`]: ids that are not 0..C-1. Such a list would be shifted against the logits, as is one that counts
            the background as 0 where the model does not.

    Example:

    ```python
    >>> label_list(SegformerConfig(id2label={0: "wall", 1: "sky"}))
    ['wall', 'sky']
    ```
    """
    given = getattr(config, "id2label", None) or {}
    by_id = {int(index) if str(index).isdecimal() else index: str(label) for index, label in given.items()}
    wrong = sorted(set(by_id) ^ set(range(len(by_id))), key=str)
    if wrong:
        raise LabelError(
            f"the {len(by_id)} labels of a {type(config).__name__} must have the ids 0 to {len(by_id) - 1}, in the "
            f"order of its logits; its id2label differs at id {wrong[0]!r}"
        )
    return [by_id[index] for index in range(len(by_id))]
