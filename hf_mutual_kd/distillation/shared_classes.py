"""Peers of which each lacks classes that others know: they teach each other what both know. Tensors only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from .label_alignment import FEWEST
from .losses import has_distribution, kl_to_target, softened_log_probs
from .roles import ALL, MEAN


def shared_transfer(
    live: Sequence[Tensor],
    speakers: Sequence[Tensor],
    *,
    weights: Tensor,
    known: Tensor,
    classes: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """
    What peers pay that have other classes: towards each teacher t the student s pays, on the classes S that both know,

    `T^2 * p_t(S) * sum_{c in S} q_t[c] * (log q_t[c] - log q_s[c])`, with q the softmax over S alone and `p_t(S)` the
    mass that the teacher gives to S among its own classes.

    By the chain rule that is the part of `KL(p_t || p_s)` that tells the classes of S apart; what is left out compares
    the mass beside S, which means other classes to each of them. So a teacher that thinks of a class which the student
    lacks teaches little, and no class that one of the two lacks gets a gradient. Where there is a label, nothing is
    taught on units whose class is not in S: a teacher that lacks it is wrong there whatever it says.

    Students are pulled by the weighted mean of these, whose gradient is that of the KL to the teachers' weighted mean
    where all know the same classes.

    Args:
        live (N tensors of shape `[B, C, ...]`): the students' logits; those of classes that a peer lacks are not
            looked at.
        speakers (N tensors of shape `[B, C, ...]`): what teachers say; no gradient reaches it.
        weights (`torch.Tensor` of shape `[N, N, B, ...]`): how much each student (first) hears each teacher (second).
        known (`torch.BoolTensor` of shape `[N, C]`): the classes that each peer has.
        classes (`torch.LongTensor` of shape `[B, ...]`, *optional*): the truth, < 0 where there is none.
        temperature (`float`, *optional*, defaults to 1.0): > 0.

    Returns:
        `torch.Tensor` of shape `[N, B, ...]` in nats.

    Example:

    ```python
    >>> said = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log()  # of classes 0, 1, 2
    >>> own = torch.zeros(1, 4)  # of classes 1, 2, 3
    >>> known = torch.tensor([[True, True, True, False], [False, True, True, True]])
    >>> hears = torch.tensor([[[0.0], [0.0]], [[1.0], [0.0]]])  # the second the first
    >>> shared_transfer([said, own], [said, own], weights=hears, known=known)  # 0.5 (0.6 log 1.2 + 0.4 log 0.8)
    tensor([[0.0000],
            [0.0101]])
    ```
    """
    pulls, said = [], [one.detach() for one in speakers]
    for student, logits in enumerate(live):
        total = torch.zeros_like(logits[:, 0], dtype=torch.promote_types(logits.dtype, torch.float32))
        for teacher, says in enumerate(said):
            both = known[student] & known[teacher]
            heard = weights[student, teacher]
            if classes is not None:
                heard = heard * (both[classes.clamp_min(0)] | (classes < 0))
            columns = both.nonzero().squeeze(1)
            if len(columns) < FEWEST or not bool(heard.any()):
                continue
            own = softened_log_probs(says[:, known[teacher].nonzero().squeeze(1)], temperature)
            # Softened over its own classes, of which those that both know are a part.
            place = known[teacher].cumsum(0)[columns] - 1
            shared = own[:, place]
            mass = shared.exp().sum(1)
            target = shared.log_softmax(1)
            pull = kl_to_target(logits[:, columns], target, temperature=temperature, where=heard > 0)
            total = total + pull * (heard * mass).masked_fill(heard == 0, 0.0).nan_to_num(0.0)
        pulls.append(total)
    return torch.stack(pulls)


def who_hears_whom(teacher: Tensor, speakers: Sequence[Tensor], shares: Tensor | None = None) -> Tensor:
    """
    Roles as weights of [`shared_transfer`]: a peer that teaches is heard by all others, a mean by everybody.

    Args:
        teacher (`torch.LongTensor` of shape `[B, ...]`): a peer's index, [`~roles.MEAN`], [`~roles.ALL`] or nobody.
        speakers (N tensors of shape `[B, C, ...]`): of which only those with a distribution are heard.
        shares (`torch.Tensor` of shape `[N, B, ...]`, *optional*): how much each counts in the mean.

    Returns:
        `torch.Tensor` of shape `[N, N, B, ...]`, fp32.

    Example:

    ```python
    >>> who_hears_whom(torch.tensor([0, MEAN]), torch.zeros(2, 2, 3))[:, :, 0]
    tensor([[0., 0.],
            [1., 0.]])
    ```
    """
    count = len(speakers)
    usable = torch.stack([has_distribution(one) for one in speakers])
    by_mean = usable.float() if shares is None else usable * shares
    by_mean = by_mean / by_mean.sum(0).clamp_min(torch.finfo(torch.float32).tiny)
    rows = []
    for student in range(count):
        others = torch.stack([usable[peer] & (peer != student) for peer in range(count)]).float()
        one = others * torch.stack([teacher == peer for peer in range(count)])
        every = others / others.sum(0).clamp_min(1)
        rows.append(one + by_mean * (teacher == MEAN) + every * (teacher == ALL))
    return torch.stack(rows)


def among_shared(
    speakers: Sequence[Tensor], labels: Tensor, known: Tensor | None, nothing: int
) -> tuple[Sequence[Tensor], Tensor]:
    """
    What peers are ranked by: what they say of the classes that all of them have, and the truth as a place among these.

    Args:
        speakers (N tensors of shape `[B, C, ...]`): what peers say.
        labels (`torch.LongTensor` of shape `[B, ...]`): the truth; what is below 0, or no class, stays.
        known (`torch.BoolTensor` of shape `[N, C]`, *optional*): the classes that each has; unset: all have all.
        nothing (`int`): stands for classes that some peer lacks.

    Example:

    ```python
    >>> known = torch.tensor([[True, True, True, True], [False, True, False, True]])
    >>> said, truth = among_shared([torch.rand(4, 4)] * 2, torch.tensor([3, 0, 1, -1]), known, nothing=255)
    >>> said[0].shape, truth
    (torch.Size([4, 2]), tensor([  1, 255,   0,  -1]))
    ```
    """
    if known is None:
        return speakers, labels
    columns = known.all(0).nonzero().squeeze(1)
    places = torch.full((known.shape[1],), nothing, dtype=labels.dtype, device=labels.device)
    places[columns] = torch.arange(len(columns), dtype=labels.dtype, device=labels.device)
    is_class = (labels >= 0) & (labels < known.shape[1])
    truth = torch.where(is_class, places[labels.masked_fill(~is_class, 0)], labels)
    return [one.index_select(1, columns) for one in speakers], truth


def held_to(starts: Sequence[Tensor], live: Sequence[Tensor], teacher: Tensor, temperature: float) -> Tensor:
    """Retention where each peer has classes of its own: `[N, B, ...]`, towards its start where it is the teacher.

    Args:
        starts (N tensors of shape `[B, C, ...]`): logits of the frozen starts.
        live (as `starts`): those of this step.
        teacher (`torch.LongTensor` of shape `[B, ...]`): who teaches each unit.
        temperature (`float`): > 0.
    """
    held = [softened_log_probs(one, temperature) for one in starts]
    pairs = enumerate(zip(live, held, strict=True))
    return torch.stack([kl_to_target(*two, temperature=temperature, where=teacher == peer) for peer, two in pairs])


def check_shared(objective: Any, known: Tensor) -> None:
    """
    Refuse what cannot be where peers lack classes.

    Args:
        objective ([`Objective`]): what the peers are trained for.
        known (`torch.BoolTensor` of shape `[N, C]`): the classes that each has.

    Raises:
        [`ConfigError`]: named by the option.
    """
    rule, shared = objective.rule, int(known.all(0).sum())
    problems = {
        "detach 'none'": objective.detach == "none",
        f"teacher_rule {rule.name!r}": rule.knows_classes,
        "calibrate": rule.calibrate,
        "teacher_source 'table'": not objective.source.in_memory,
    }
    for what, applies in problems.items():
        if applies:
            raise ConfigError(f"{what} does not go with peers that lack classes (label_alignment 'overlap')")
    if (rule.needs_scores or rule.learns) and shared < FEWEST:
        raise ConfigError(
            f"teacher_rule {rule.name!r} compares peers by the classes that all of them know, and these are {shared}; "
            "use teacher_rule 'mean' or 'all'"
        )
