"""What a recipe checks before it goes on from checkpoints: first what needs no loading, then data and peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.peers import PeerSpec
from ..config.training_config import MutualKDConfig
from ..errors import ResumeError
from ..files import read_json
from ..peers.cohort import Cohort
from ..peers.cohort_record import COHORT
from ..peers.weights_hash import fingerprints, joint
from ..tasks.base import Task
from ..training.checkpoint_state import check_state, read_state
from ..training.fingerprints import Change, check_checkpoint, check_parts, made_with, options_of
from ..training.saving import load_peers
from ..training.stage_state import check_stages, read_stages

Resumed = Sequence[tuple[Path, MutualKDConfig]]
"""The checkpoints that arms go on from, with the arms' configurations, resolved."""


def check_checkpoints(resumed: Resumed, task: Task, specs: Mapping[str, PeerSpec], folder: Path) -> list[Change]:
    """Refuse other options and damaged files, before anything is loaded; returns what changes in the run's own arm."""
    own: list[Change] = []
    for checkpoint, config in resumed:
        identity = {"task": task.name, "peers": list(specs)}
        check = check_stages if config.teaching else check_checkpoint
        changes = check(checkpoint, identity, options_of(config, specs, task), config)
        own = changes if Path(str(config.output_dir)) == folder else own
    return own


def check_resumed(resumed: Resumed, folder: Path, cohort: Cohort, data: str | None) -> None:
    """Refuse another cohort, other data, unreadable weights; the cohort then holds those of a checkpoint."""
    identity: dict[str, Any] = {"task": cohort.task.name, "peers": cohort.names, "labels": cohort.label_names}
    if (folder / COHORT).is_file():
        record = read_json(folder / COHORT, error=ResumeError)
        check_state(folder, record | {"peers": list(record.get("peers") or ())}, identity)
    identity["starting_weights"] = joint(fingerprints(cohort)) if resumed else ""
    for checkpoint, config in resumed:
        then = read_stages(checkpoint) if config.teaching else vars(read_state(checkpoint))
        check_state(checkpoint, then, identity)
        check_parts(checkpoint, made_with(cohort, config, {}, data), then["made_with"])
    # Stages load what they need themselves, one after the other.
    for checkpoint in (place for place, config in resumed if not config.teaching):
        load_peers(cohort, checkpoint, read_state(checkpoint).broken)
