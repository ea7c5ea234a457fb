"""The peers that a recipe's options ask for."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..config.options import RecipeOptions
from ..peers.adapter_settings import with_adapters
from ..peers.spec import PeerSpec, check_peer_names


def specs_of(options: RecipeOptions) -> dict[str, PeerSpec]:
    """What is loaded, by name, with the options that all peers share.

    Raises:
        [`PeerError`]: a name or the setting of adapters is wrong.
    """
    check_peer_names(options.peers)
    specs = with_adapters(options.peers, options.peft)
    for bits in ("load_in_4bit", "load_in_8bit"):
        if getattr(options, bits):
            # Without peft the peers are saved adapters, or refused when they are loaded.
            for name in [name for name, spec in specs.items() if spec.peft is not None] or list(specs):
                changes: dict[str, Any] = {bits: True}
                specs[name] = dataclasses.replace(specs[name], **changes)
    return specs
