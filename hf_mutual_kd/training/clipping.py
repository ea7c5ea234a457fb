"""Clips each peer by its own norm, so that one peer's large or broken gradient never shrinks the others'."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def clip_each_peer(
    accelerator: Accelerator,
    parameters: Mapping[str, Sequence[nn.Parameter]],
    max_norm: float,
    resting: Collection[str] = (),
) -> tuple[Tensor, list[str]]:
    """Clip in place, and drop the gradients of peers that rest or are broken: optimizers pass over `None`.

    Args:
        accelerator (`Accelerator`): unscales fp16 gradients first.
        parameters (`dict[str, list[nn.Parameter]]`): of each peer.
        max_norm (`float`): largest L2 norm of one peer's gradient; 0 clips nothing.
        resting (collection of `str`): peers that are not to be updated.

    Returns:
        The L2 norm over all peers before clipping, a scalar, and the names of peers whose gradients are not finite.
        Under fp16 scaling those are left alone: the scaler skips the step and lowers its scale.

    Example:

    ```python
    >>> norm, broken = clip_each_peer(accelerator, cohort.peer_parameters(), max_norm=1.0)
    ```
    """
    for name in resting:
        drop_gradients(parameters[name])
    accelerator.unscale_gradients()
    with_gradient = {name: [p for p in peer if p.grad is not None] for name, peer in parameters.items()}
    gradients = {name: [p.grad for p in peer if p.grad is not None] for name, peer in with_gradient.items()}
    norms = {name: get_total_norm(peer) for name, peer in gradients.items() if peer}
    if not norms:
        return torch.zeros(()), []
    stacked = torch.stack([norm.full_tensor() if hasattr(norm, "full_tensor") else norm for norm in norms.values()])
    broken = [name for name, finite in zip(norms, stacked.isfinite().tolist(), strict=True) if not finite]
    if accelerator.scaler is None:
        for name in broken:
            drop_gradients(parameters[name])
    for name in set(norms) - set(broken) if max_norm > 0 else ():
        clip_grads_with_norm_(with_gradient[name], max_norm, norms[name])
    return stacked[stacked.isfinite()].norm(), broken


def drop_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Leave the parameters out of the next update."""
    for parameter in parameters:
        parameter.grad = None
