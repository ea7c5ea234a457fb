"""Every peer learns from every other one by one, at the cost of a mean. Pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..config.rules import check_numbers
from .losses import has_distribution, softened_log_probs
from .roles import Peers


def kl_from_others(
    logits: Peers,
    *,
    temperature: float = 1.0,
    detach: Literal["teacher", "none"] = "teacher",
    source: Peers | None = None,
    where: Tensor | None = None,
    students: Sequence[int] | None = None,
) -> Tensor:
    """
    For every peer the mean over all other peers of `T^2 KL(p_k || p_m)`, `k != m`.

    In time and memory that grow with N, not its square, as the KL is linear in the teacher's probabilities but for
    its entropy: the mean over k is `mean_k sum_c p_k log p_k - sum_c (mean_k p_k) log p_m`, and the mean over all but
    one follows from the sum over all.

    Args:
        logits (`torch.Tensor` `[N, B, C, ...]`, or N of `[B, C, ...]`): as for [`transfer_loss`].
        temperature (`float`, *optional*, defaults to 1.0): softens both sides, > 0.
        detach (`"teacher"` or `"none"`, *optional*, defaults to `"teacher"`): `"none"` also moves the teachers.
        source (as `logits`, *optional*): what teachers say, where it is not `logits` themselves.
        where (`torch.Tensor` `[B, ...]`, *optional*, bool): 0, with gradient 0, on all other units.
        students (`list[int]`, *optional*): the S peers that are wanted; all N when unset.

    Returns:
        `torch.Tensor` `[S, B, ...]`, >= 0 up to rounding; 0 where there is no other peer whose logits give a
        distribution, and where the peer itself has none.

    Source: Deep Mutual Learning, arXiv 1706.00384, section 3.3.

    Example:

    ```python
    >>> peers = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]], [[0.5, 0.5]]]).log()
    >>> kl_from_others(peers)  # KL(.5 || .9); half of KL(.9 || .5); the same
    tensor([[0.5108],
            [0.1840],
            [0.1840]])
    ```
    """
    check_numbers(temperature=temperature)
    live = list(logits)
    teachers = live if source is None else list(source)
    with torch.set_grad_enabled(torch.is_grad_enabled() and detach == "none"):
        usable = [has_distribution(z) for z in teachers]
        theirs = [
            softened_log_probs(z.where(u.unsqueeze(1), 0.0), temperature)
            for z, u in zip(teachers, usable, strict=True)
        ]
        probs = [row.exp() * u.unsqueeze(1) for row, u in zip(theirs, usable, strict=True)]
        certain = [_expected(p, row) for p, row in zip(probs, theirs, strict=True)]
        mass, total, count = torch.stack(certain).sum(0), sum(probs[1:], probs[0]), torch.stack(usable).sum(0)
    pulls = []
    for peer in range(len(live)) if students is None else students:
        student, own, sure, counts = live[peer], probs[peer], certain[peer], usable[peer]
        others = count - counts.long()
        learns = (others > 0) & has_distribution(student) & (True if where is None else where)
        log_probs = softened_log_probs(student.where(learns.unsqueeze(1), 0.0), temperature)
        rest = (total - own).clamp(min=0.0)
        learns = learns & ~((rest > 0) & log_probs.isinf()).any(dim=1)
        gap = (mass - sure) - _expected(rest, log_probs)
        pulls.append((gap / others.clamp(min=1) * temperature**2).where(learns, 0.0))
    return torch.stack(pulls)


def _expected(probs: Tensor, values: Tensor) -> Tensor:
    """`sum_c p[c] * values[c]` over the classes that are possible."""
    return (probs * values.where((probs > 0) & values.isfinite(), 0.0)).sum(dim=1)
