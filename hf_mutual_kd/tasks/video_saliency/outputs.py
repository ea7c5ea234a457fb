"""What a saliency model returns, as the log-densities that peers compare."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...errors import PeerError
from ..logits import described, logits_of
from .model.losses import FLOOR

OUTPUT_KINDS = ("log_density", "density")


def log_maps(name: str, model: nn.Module, outputs: Any) -> Tensor:
    """
    Unnormalised log-densities `[B, h, w]` in fp32 of what any peer returned, see [`VideoSaliency`].

    Raises:
        [`PeerError`]: something else than maps, or bare maps of an unknown kind.
    """
    kind = getattr(model, "saliency_output", None)
    maps = logits_of(outputs, {3, 4})
    if kind is None and not isinstance(outputs, Tensor | tuple | list):
        kind = "log_density"
    if kind not in OUTPUT_KINDS:
        raise PeerError(
            f"peer {name!r}: {type(model).__name__} returns maps and must say what they are; set its attribute "
            f"saliency_output to one of {', '.join(OUTPUT_KINDS)} (it is {kind!r})"
        )
    if maps is None:
        raise PeerError(
            f"peer {name!r}: expected maps [B, h, w] or [B, 1, h, w], or `logits` of them, got {described(outputs)}"
        )
    # Of answers for all frames of a clip, the last is the target's.
    maps = (maps if maps.ndim == 3 else maps[:, -1]).float()
    if kind == "log_density":
        return maps
    relative = maps / maps.detach().amax((1, 2), keepdim=True).clamp_min(FLOOR)
    return relative.clamp_min(FLOOR).log()
