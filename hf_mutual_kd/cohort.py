"""The cohort: named peers with their processors, trained inside one forward so that every wrapper sees one module."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from .alignment import align_labels
from .errors import ConfigError, LabelError, PeerError
from .options import LabelAlignment
from .peers import LoadedPeer, PeerSpec, check_peer_names, label_list, load_peer, save_peer
from .tasks import TASKS, Task
from .teachers import Objective

BATCH_NORMS = nn.modules.batchnorm._BatchNorm


@dataclass
class CohortOutput(ModelOutput):
    """What a cohort returns.

    Args:
        loss (`torch.FloatTensor`, *optional*): supervised loss plus weighted transfer; given with labels or roles.
        logits (`dict[str, torch.Tensor]`): per peer `[B, C, ...]`, classes in the data set's order.
        teacher (`torch.LongTensor` of shape `[B, ...]`, *optional*): a peer's index, `NOBODY` or `MEAN`.
        supervised (`torch.FloatTensor` of shape `[N]`, *optional*): each peer's share of the loss by labels.
        transfer (`torch.FloatTensor` of shape `[N]`, *optional*): each peer's transfer loss, not yet weighted.
    """

    loss: Tensor | None = None
    logits: dict[str, Tensor] | None = None
    teacher: Tensor | None = None
    supervised: Tensor | None = None
    transfer: Tensor | None = None


class Cohort(nn.Module):
    """N ≥ 1 pretrained models that are improved together.

    Args:
        peers (`dict[str, LoadedPeer]`): models with their specs and processors, by name.
        task ([`~hf_mutual_kd.tasks.Task`] or `str`): what they do.
        label_names (`list[str]`, *optional*): the data set's labels, in its order; the first peer's when unset.
        label_alignment (`str`, *optional*, defaults to `"exact"`): see [`~hf_mutual_kd.alignment.align_labels`].

    Raises:
        [`~hf_mutual_kd.errors.PeerError`], [`~hf_mutual_kd.errors.LabelError`]: a peer cannot take part.

    Example:

    ```python
    >>> cohort = Cohort.from_pretrained(
    ...     {"vit": "google/vit-base-patch16-224", "cnx": "facebook/convnext-tiny-224"}, task="image-classification"
    ... )
    >>> cohort.set_objective(Objective(rule=BestRule(), source=LiveSource()))
    >>> out = cohort(peer_inputs={"vit": {"pixel_values": x}, "cnx": {"pixel_values": x}}, labels=y)
    >>> out.loss.backward()
    ```
    """

    accepts_loss_kwargs = False

    def __init__(
        self,
        peers: Mapping[str, LoadedPeer],
        task: Task | str = "image-classification",
        label_names: Sequence[str] | None = None,
        label_alignment: LabelAlignment = "exact",
    ):
        super().__init__()
        check_peer_names(peers)
        self.task = make_task(task)
        self.peers = nn.ModuleDict({name: peer.model for name, peer in peers.items()})
        self.specs = {name: peer.spec for name, peer in peers.items()}
        self.processors = {name: peer.processor for name, peer in peers.items()}
        own_labels = {name: label_list(model) for name, model in self.peers.items()}
        self.label_names = list(label_names or next((names for names in own_labels.values() if names), []))
        self.label_columns: dict[str, list[int] | None] = {
            name: align_labels(name, labels, self.label_names, mode=label_alignment) if labels else None
            for name, labels in own_labels.items()
        }
        for name, columns in self.label_columns.items():
            if columns is not None:
                self.register_buffer(f"columns_{name}", torch.tensor(columns), persistent=False)
        self.objective: Objective | None = None
        self.starts: nn.ModuleDict | None = None
        self.peer_checkpointing = False
        self.resting: set[str] = set()
        """Peers that early stopping keeps as they are."""
        for name, spec in self.specs.items():
            self.peers[name].requires_grad_(not spec.frozen)
            if spec.gradient_checkpointing:
                self._model(name).gradient_checkpointing_enable()

    @classmethod
    def from_pretrained(
        cls,
        peers: Mapping[str, str | Path | PeerSpec | nn.Module],
        task: Task | str = "image-classification",
        label_names: Sequence[str] | None = None,
        label_alignment: LabelAlignment = "exact",
        trust_remote_code: bool = False,
    ) -> Cohort:
        """Load every peer from the Hub or a folder, or take a module as it is.

        Args:
            peers (`dict`): name to Hub id (`ID` or `ID@REVISION`), folder, [`PeerSpec`] or `nn.Module`.
            task (`str`): e.g. `"image-classification"`.
            label_names (`list[str]`, *optional*): the data set's labels in its order.
            label_alignment (`str`, *optional*, defaults to `"exact"`): `"exact"`, `"subset"` or `"new_head"`.
            trust_remote_code (`bool`, *optional*, defaults to `False`): run code that a repository brings.
        """
        check_peer_names(peers)
        task = make_task(task)
        new_labels = list(label_names) if label_alignment == "new_head" and label_names else None
        if label_alignment == "new_head" and new_labels is None:
            raise LabelError("label_alignment='new_head' needs the data set's label names; give `label_names`")
        loaded = {
            name: load_peer(name, peer, task, new_labels=new_labels, trust_remote_code=trust_remote_code)
            for name, peer in peers.items()
        }
        return cls(loaded, task, label_names, "exact" if new_labels else label_alignment)

    @property
    def names(self) -> list[str]:
        """Peer names; their order gives the indices in roles."""
        return list(self.specs)

    def _model(self, name: str) -> Any:
        return self.peers[name]

    def set_objective(self, objective: Objective | None) -> None:
        """Say what the peers are trained for; copies the present weights as frozen starts if it needs them."""
        self.objective = objective
        if objective is not None and objective.needs_starts and self.starts is None:
            self.starts = nn.ModuleDict(
                {name: peer if self.specs[name].frozen else frozen_copy(peer) for name, peer in self.peers.items()}
            )

    def freeze(self, names: Iterable[str]) -> None:
        """Let these peers teach without learning."""
        for name in names:
            self.specs[name] = replace(self.specs[name], frozen=True)
            self.peers[name].requires_grad_(False)

    def rest_batch_norms(self, policy: str) -> None:
        """`"freeze"`: keep the batch-norm statistics of all peers as they were pretrained."""
        if policy == "freeze":
            self.specs = {name: replace(spec, batch_norm="freeze") for name, spec in self.specs.items()}

    def drop_starts(self) -> None:
        """Free the frozen starts; their outputs then come with every batch as `start_logits`."""
        self.starts = None

    def forward(
        self,
        peer_inputs: Mapping[str, Mapping[str, Tensor]],
        labels: Tensor | None = None,
        roles: Tensor | None = None,
        sample_ids: Tensor | None = None,
        start_logits: Tensor | None = None,
        row_counts: Tensor | None = None,
        transfer_weight: Tensor | float | None = None,
    ) -> CohortOutput:
        """Run all peers on one batch.

        Args:
            peer_inputs (`dict[str, dict[str, torch.Tensor]]`): each peer's own inputs.
            labels (`torch.LongTensor` of shape `[B, ...]`, *optional*): truth; negative where there is none.
            roles (`torch.LongTensor` of shape `[B, ...]`, *optional*): decided teachers; `UNDECIDED` leaves it to us.
            sample_ids (`torch.LongTensor` of shape `[B]`, *optional*): passed through collators, not used here.
            start_logits (`torch.Tensor` of shape `[B, N, C, ...]`, *optional*): cached outputs of the frozen starts.
            row_counts (`torch.LongTensor` of shape `[2]`, *optional*): units, and units with a label, over which the
                loss is a mean, where that is more than this batch (accumulation, processes).
            transfer_weight (`float`, *optional*): λ, when it is not the objective's.

        Returns:
            [`CohortOutput`]
        """
        missing = [name for name in self.names if name not in peer_inputs]
        if missing:
            raise ConfigError(f"peer_inputs lacks {', '.join(missing)}; it has {', '.join(peer_inputs)}")
        logits = {name: self._run(name, peer_inputs[name]) for name in self.names}
        if labels is None and roles is None and (self.objective is None or self.objective.labels or not self.training):
            return CohortOutput(logits=logits)
        live = list(logits.values())
        if labels is None:
            labels = torch.full(live[0].shape[:1] + live[0].shape[2:], -1, device=live[0].device)
        return self._loss(logits, peer_inputs, labels, roles, start_logits, row_counts, transfer_weight)

    def _loss(self, logits, peer_inputs, labels, roles, start_logits, row_counts, transfer_weight) -> CohortOutput:
        objective, live = self.objective, list(logits.values())
        labelled = self.task.labelled(labels)
        units, labelled_units = row_counts if row_counts is not None else (labels.numel(), labelled.sum())
        smoothing = objective.label_smoothing if objective else 0.0
        per_unit = [self._supervised(name, peer, labels, smoothing) for name, peer in logits.items()]
        supervised = torch.stack([loss.sum() for loss in per_unit]) / torch.as_tensor(labelled_units).clamp_min(1)
        by_labels = supervised.sum() * (1 if objective is None or objective.labels else 0)
        if objective is None or objective.weight == 0:
            return CohortOutput(loss=by_labels, logits=logits, supervised=supervised)
        speak_as_started = objective.source.frozen or torch.compiler.is_compiling()
        starts = list(start_logits.unbind(1)) if start_logits is not None else None
        if starts is None and objective.needs_starts and speak_as_started:
            starts = self.start_logits(peer_inputs)
        speakers = starts if objective.source.frozen and starts is not None else live
        label_free = objective.score in self.task.label_free_scores
        scored = torch.ones_like(labelled) if label_free else labelled
        scores = self.task.scores(objective.score, speakers, labels) if objective.rule.needs_scores else labels[None]
        teacher = objective.teachers(scores, scored, roles)
        if starts is None and objective.needs_starts:
            starts = self._held_starts(peer_inputs, live, teacher, scored)
        learns = torch.tensor([not spec.frozen for spec in self.specs.values()], device=labels.device)
        pulls = objective.transfer(live, starts, teacher, scored)
        transfer = pulls.flatten(1).sum(1) * learns / units
        weight = objective.weight if transfer_weight is None else transfer_weight
        loss = by_labels + weight * transfer.sum()
        return CohortOutput(loss=loss, logits=logits, teacher=teacher, supervised=supervised, transfer=transfer)

    def _supervised(self, name: str, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        loss = self.task.supervised_loss(logits, labels, smoothing)
        return loss.detach() if self.specs[name].frozen else loss

    def _run(self, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
        model = self.peers[name]
        if self.specs[name].frozen:
            with torch.no_grad():
                return self._aligned(name, model, inputs)
        if self.peer_checkpointing and self.training:
            return checkpoint(
                self._aligned, name, model, inputs, use_reentrant=False,
                context_fn=lambda: (contextlib.nullcontext(), resting_batch_norms(model)),
            )  # fmt: skip
        return self._aligned(name, model, inputs)

    def _aligned(self, name: str, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        logits = self.task.logits(model(**inputs))
        if self.label_columns[name] is not None:
            return logits.index_select(1, getattr(self, f"columns_{name}"))
        if self.label_names and logits.shape[1] != len(self.label_names):
            raise LabelError(
                f"peer {name!r} gives {logits.shape[1]} classes for {len(self.label_names)} labels; "
                "give it a `config.id2label` with the data set's names, or use label_alignment='new_head'"
            )
        return logits

    def start_logits(self, peer_inputs: Mapping[str, Mapping[str, Tensor]]) -> list[Tensor]:
        """Outputs of the frozen starts, N tensors of shape `[B, C, ...]`, without gradient."""
        if self.starts is None:
            raise ConfigError("there are no frozen starts; call `set_objective` with an objective that needs them")
        with torch.no_grad():
            return [self._aligned(name, self.starts[name], peer_inputs[name]) for name in self.names]

    def _held_starts(self, peer_inputs, live: list[Tensor], teacher: Tensor, scored: Tensor) -> list[Tensor]:
        """As [`start_logits`], run only on the samples where a live objective looks at them; 0 elsewhere.

        A peer is held to its start where it teaches, on about 1/N of the samples, and where no label ranks the peers.
        """
        if self.starts is None or self.objective is None:
            raise ConfigError("there are no frozen starts; call `set_objective` with an objective that needs them")
        unranked = ~scored if self.objective.unlabelled_rows else torch.zeros_like(scored)
        starts = []
        for index, (name, logits) in enumerate(zip(self.names, live, strict=True)):
            wanted = (teacher == index) | unranked
            rows = wanted.reshape(len(wanted), -1).any(1).nonzero().squeeze(1)
            start = torch.zeros_like(logits, requires_grad=False)
            if len(rows):
                inputs = {key: value[rows] for key, value in peer_inputs[name].items()}
                with torch.no_grad():
                    start[rows] = self._aligned(name, self.starts[name], inputs).to(start.dtype)
            starts.append(start)
        return starts

    def train(self, mode: bool = True) -> Cohort:
        """As `nn.Module.train`; frozen peers, frozen starts and frozen batch norms stay in evaluation mode."""
        super().train(mode)
        for name, spec in self.specs.items():
            if spec.frozen:
                self.peers[name].eval()
            elif spec.batch_norm == "freeze" or name in self.resting:
                for module in batch_norms(self.peers[name]):
                    module.eval()
        if self.starts is not None:
            self.starts.eval()
        return self

    def peer_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters of each peer, the unit of learning rates and clipping."""
        return {name: [p for p in model.parameters() if p.requires_grad] for name, model in self.peers.items()}

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict | None = None, **kwargs) -> None:
        """Recompute activations inside every peer that supports it."""
        for name in self.names:
            if not getattr(self._model(name), "supports_gradient_checkpointing", False):
                raise PeerError(
                    f"peer {name!r} ({type(self._model(name)).__name__}) has no gradient checkpointing of its own; "
                    "use peer_checkpointing, which works for any model"
                )
            self._model(name).gradient_checkpointing_enable(gradient_checkpointing_kwargs)

    activation_checkpointing_enable = gradient_checkpointing_enable

    def save_pretrained(self, folder: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write every peer with its processor to `folder/NAME`, each an ordinary model folder."""
        for name in self.names:
            self.save_peer(name, Path(folder) / name, state_dict)

    def save_peer(self, name: str, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write one peer to `folder`; `state_dict` is the whole cohort's, where its weights are sharded."""
        prefix = f"peers.{name}."
        weights = {k.removeprefix(prefix): v for k, v in (state_dict or {}).items() if k.startswith(prefix)}
        save_peer(self.peers[name], self.processors[name], folder, weights or None)


def make_task(task: Task | str) -> Task:
    """A task object from its name."""
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise ConfigError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    return TASKS[task]()


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that takes no gradient."""
    return copy.deepcopy(model).requires_grad_(False).eval()


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """All batch-norm layers of a model."""
    return [module for module in model.modules() if isinstance(module, BATCH_NORMS)]


@contextlib.contextmanager
def resting_batch_norms(model: nn.Module) -> Iterator[None]:
    """Keep running statistics as they are while activations are recomputed: the first pass has updated them."""
    layers: list[Any] = [layer for layer in batch_norms(model) if layer.track_running_stats]
    kept = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, layer.num_batches_tracked.clone()
    try:
        yield
    finally:
        for layer, (momentum, tracked) in zip(layers, kept, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, tracked
