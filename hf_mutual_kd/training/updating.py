"""How the trainer updates peers: one loss, an optimizer that knows them apart, gradients clipped peer by peer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from ..distillation.objective import Objective
from ..errors import ConfigError
from ..peers.cohort import Cohort
from .clipping import clip_each_peer
from .peer_bests import PeerBests
from .processes import CohortProcesses
from .repeated_rows import REPEATED
from .start_cache import StartCache
from .training_record import TrainingRecord

logger = logging.get_logger(__name__)


class CohortUpdates(CohortProcesses):
    """The part of [`MutualKDTrainer`] that moves weights."""

    objective: Objective
    optimizer: Any
    peer_names: list[str]
    bests: PeerBests
    record: TrainingRecord
    start_cache: StartCache | None
    shown_view: int
    # The loss is a mean over all units of an optimizer step, whatever the accumulation.
    loss_is_scaled_for_ga = True

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The cohort's loss; gradients of the data ranks are averaged later, so each counts as often as there are."""
        if self.start_cache is not None:
            inputs["start_logits"] = self.start_cache.lookup(inputs["sample_ids"], self.shown_view)
        counts = not inputs.pop(REPEATED, False)
        outputs = model(**inputs, row_counts=num_items_in_batch, transfer_weight=self._transfer_weight())
        if model.training:
            self.record.add(outputs, inputs["labels"], inputs["sample_ids"], counts)
        loss = outputs.loss
        if num_items_in_batch is not None:
            loss = loss * (self.mesh.data_ranks if counts else 0)
        loss = self._with_all_peers(loss, outputs.outputs)
        return (loss, outputs) if return_outputs else loss

    def _transfer_weight(self) -> Tensor:
        warmup = self.args.transfer_warmup_steps
        risen = min(1.0, (self.state.global_step + 1) / warmup) if warmup else 1.0
        return torch.tensor(self.objective.weight * risen, device=self.args.device)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One optimizer with two parameter groups per peer, with and without weight decay, and one for the rule."""
        if self.optimizer is not None:
            return self.optimizer
        cohort = self.accelerator.unwrap_model(model) if model is not None else self.cohort
        cls, kwargs = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, cohort)
        if not isinstance(cls, type) or {"params", "model", "optimizer_dict"} & set(kwargs):
            raise ConfigError(
                f"optim={self.args.optim!r} builds its own parameter groups, which peers need themselves"
            )
        groups = [group for name in cohort.peers for group in self._groups(cohort, name)]
        if cohort.rule is not None and (learned := list(cohort.rule.parameters())):
            groups.append({"params": learned, "weight_decay": 0.0, "lr": self.args.gate_learning_rate})
        self.optimizer = cls(groups, **kwargs)
        return self.optimizer

    def _groups(self, cohort: Cohort, name: str) -> list[dict[str, Any]]:
        spec, peer = cohort.specs[name], cohort.peers[name]
        rate, decay = spec.learning_rate, spec.weight_decay
        decayed = set(self.get_decay_parameter_names(peer))
        trainable = [(key, parameter) for key, parameter in peer.named_parameters() if parameter.requires_grad]
        groups = [
            {
                "peer": name,
                "params": [parameter for key, parameter in trainable if (key in decayed) is decays],
                "weight_decay": (self.args.weight_decay if decay is None else decay) if decays else 0.0,
                "lr": self.args.learning_rate if rate is None else rate,
            }
            for decays in (True, False)
        ]
        return [group for group in groups if group["params"]]

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        if self.is_deepspeed_enabled:
            return super()._clip_grad_norm(model)
        peers = self.cohort.peer_parameters()
        resting = {*self.bests.stopped, *self._peers_broken_under_scaling()} & set(peers)
        norm, broken = clip_each_peer(self.accelerator, peers, self.args.max_grad_norm, resting)
        for name in broken:
            logger.warning_once(f"peer {name!r} has gradients that are not finite; its updates are left out")
        return self.mesh.joint_norm(norm.to(self.args.device))

    def _peers_broken_under_scaling(self) -> list[str]:
        """With fp16, peers with logits that are not finite: they would make the scaler skip everybody's step."""
        broken = self.record.take_broken()
        if self.accelerator.scaler is None or broken is None:
            return []
        anywhere = self.accelerator.reduce(broken.double(), reduction="sum").tolist()
        return [name for name, count in zip(self.peer_names, anywhere, strict=True) if count]

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | None = None) -> Tensor:
        return self._clip_grad_norm(model) if grad_norm is None else grad_norm
