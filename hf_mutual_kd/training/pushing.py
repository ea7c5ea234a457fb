"""Pushing while training: a callback that sends every checkpoint as soon as it is whole."""

from __future__ import annotations

from pathlib import Path

from transformers import TrainerCallback

from ..config.training_config import MutualKDConfig
from ..hub.checkpoints import PushInBackground
from ..hub.names import PushTarget
from ..hub.push import check_rights


def push_target(args: MutualKDConfig) -> PushTarget:
    """Where and how a configuration pushes.

    Raises:
        [`HubError`]: a name that no Hub would take.
    """
    return PushTarget(
        args.hub_namespace, args.hub_name_template, args.hub_private_repo, args.hub_token, revision=args.hub_revision
    )


class PushCheckpoints(TrainerCallback):
    """
    Pushes checkpoints in the background, each peer to a repository of its own; [`MutualKDTrainer`] adds it where
    `push_to_hub` is set, and `remove_callback` leaves the push to the end.

    Args:
        args ([`MutualKDConfig`]): which checkpoints go (`hub_strategy`), and where to.

    Raises:
        [`HubError`]: a name that no Hub would take.
    """

    def __init__(self, args: MutualKDConfig):
        self.target = push_target(args)
        self._pushes: PushInBackground | None = None

    def check(self) -> None:
        """
        Ask the Hub before training whether it would take the peers.

        Raises:
            [`HubError`]: it would not.
        """
        check_rights(self.target)

    def on_save(self, args, state, control, **kwargs):
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        # There is none where no peer is whole.
        if not (state.is_world_process_zero and checkpoint.is_dir()):
            return
        if self._pushes is None:
            strategy = str(getattr(args.hub_strategy, "value", args.hub_strategy))
            self._pushes = PushInBackground(args.output_dir, strategy, self.target)
        self._pushes.push_checkpoint(checkpoint)

    def on_train_end(self, args, state, control, **kwargs):
        self.finish()

    def finish(self) -> None:
        """Wait until nothing is under way; every push ends by its own deadline."""
        if self._pushes is not None:
            self._pushes.finish()
