"""The cohort: named peers with their processors, trained inside one forward so that every wrapper sees one module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config.options import LabelAlignment
from ..distillation.cohort_batch import CohortBatch, PeerMasks
from ..distillation.label_alignment import LACKING, ClassColumns, align_labels, known_classes, label_list
from ..distillation.objective import LABELS_ALONE, Objective, Starts
from ..distillation.shared_classes import check_shared
from ..distillation.teacher_rules import TeacherRule
from ..errors import ConfigError, LabelError, PeerError
from ..tasks.registry import Task, make_task
from .adapters import is_adapter
from .batch_norms import batch_norms, rest_on_single_values, resting_batch_norms
from .cohort_output import CohortOutput
from .cohort_record import peers_of_folder, with_names, write_record
from .describing import describe_peer, load_held
from .head_labels import HeadLabels
from .held_peers import HeldPeers
from .loading import Base, LoadedPeer, load_peer, save_peer
from .prediction import predict
from .sharding import without_zero3_init
from .spec import PeerSpec, check_peer_names
from .starts import follow, is_fast_in_bf16, start_of


class Cohort(HeldPeers):
    """N ≥ 1 pretrained models that are improved together.

    Args:
        peers (`dict[str, LoadedPeer]`): models with their specs and processors, by name.
        task ([`Task`] or `str`): what they do.
        label_names (`list[str]`, *optional*): the data set's labels, in its order; the first peer's when unset.
        label_alignment (`str`, *optional*, defaults to `"exact"`): see [`align_labels`].

    Raises:
        [`PeerError`], [`LabelError`]: a peer cannot take part.

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
        *,
        label_names: Sequence[str] | None = None,
        label_alignment: LabelAlignment = "exact",
    ):
        check_peer_names(peers)
        super().__init__({name: peer.model for name, peer in peers.items()})
        self.task = make_task(task)
        self.specs = {name: peer.spec for name, peer in peers.items()}
        self.processors = {name: peer.processor for name, peer in peers.items()}
        self.new_heads = frozenset(name for name, peer in peers.items() if peer.new_head)
        """Peers whose head was drawn when they were loaded."""
        self.names_given = bool(label_names)
        """Whether the user said what the labels are; else they are the first peer's until a data set names them."""
        self.label_alignment: LabelAlignment = label_alignment
        self.name_labels(label_names or [])
        self.objective: Objective | None = None
        self.rule: TeacherRule | None = None
        """The objective's, where there is transfer: what it fits or learns moves and is saved with the cohort."""
        self.starts: nn.ModuleDict | None = None
        """Copies of the peers that teachers may speak with: as they started, or moving averages."""
        self.known_fingerprint: str | None = None
        """Of all weights as they are, where somebody hashed them already; whoever changes them forgets it."""
        self.peer_checkpointing = False
        self.is_split = False
        """Whether every process holds a part of the weights, which a forward gathers from all of them."""
        self.resting: set[str] = set()
        """Peers that early stopping keeps as they are."""
        for name, spec in self.specs.items():
            if spec.frozen or not is_adapter(self.peers[name]):
                self.peers[name].requires_grad_(not spec.frozen)
            if spec.gradient_checkpointing:
                self.model_of(name).gradient_checkpointing_enable()
            rest_on_single_values(self.peers[name])

    @classmethod
    def from_pretrained(
        cls,
        peers: Mapping[str, str | Path | PeerSpec | nn.Module] | Sequence[str | Path | PeerSpec] | str | Path,
        task: Task | str | None = None,
        *,
        label_names: Sequence[str] | None = None,
        label_alignment: LabelAlignment | None = None,
        trust_remote_code: bool = False,
        peer_parallel: bool | Mapping[str, float] = False,
    ) -> Cohort:
        """Load every peer from the Hub or a folder, or take a module as it is; or load a finished run.

        Args:
            peers (`dict`, `list`, `str` or `Path`): name to Hub id (`ID` or `ID@REVISION`), folder, [`PeerSpec`] or
                `nn.Module`; a list of such without names, which are then their last parts; or the folder of a run,
                which says also what is left unset below.
            task (`str`, *optional*): `"image-classification"` when nothing says another.
            label_names (`list[str]`, *optional*): the data set's labels in its order.
            label_alignment (`str`, *optional*, defaults to `"exact"`): `"exact"`, `"subset"`, `"overlap"` or
                `"new_head"`.
            trust_remote_code (`bool`, *optional*, defaults to `False`): run code that a repository brings.
            peer_parallel (`bool` or `dict[str, float]`, *optional*, defaults to `False`): of several processes let
                each keep in memory only the peers that it holds in a training with `peer_parallel`; they are shared
                out by the numbers of their weights, or by the seconds that [`time_peers`] has found. All processes
                call it together.
        """
        if isinstance(peers, str | Path):
            peers, facts = peers_of_folder(peers)
            task, label_names = task or facts.task, label_names or facts.labels
            label_alignment = label_alignment or facts.label_alignment
        asked, label_alignment = with_names(peers), label_alignment or "exact"
        if not isinstance(asked, Mapping):
            raise PeerError(
                f"peers must be a mapping of names to models, a list of them or the folder of a run, got {peers!r:.80}"
            )
        check_peer_names(asked)
        task = make_task(task or "image-classification")
        new_labels = list(label_names) if label_alignment == "new_head" and label_names else None
        if label_alignment == "new_head" and new_labels is None:
            raise LabelError("label_alignment='new_head' needs the data set's label names; give `label_names`")
        labels = HeadLabels(new_labels, label_names)
        bases: dict[Any, Base] = {}
        seconds = None if isinstance(peer_parallel, bool) else peer_parallel or None
        load = partial(load_peer, task=task, labels=labels, trust_remote_code=trust_remote_code, bases=bases)
        describe = partial(describe_peer, task=task, labels=labels, trust_remote_code=trust_remote_code)
        with without_zero3_init():
            loaded, mesh = load_held(asked, load, None if peer_parallel is False else describe, seconds)
        aligned = "exact" if new_labels else label_alignment
        cohort = cls(loaded, task, label_names=label_names, label_alignment=aligned)
        if mesh.is_split:
            cohort.hold(mesh.places, mesh.place)
            cohort.peer_seconds = seconds
        return cohort

    def name_labels(self, label_names: Sequence[str]) -> None:
        """Take these as the labels of the data set, in its order, and align every peer's to them by name.

        Without any, those of the first peer that names its own.

        Raises:
            [`LabelError`]: a peer's labels are others.
        """
        own_labels = {name: self._labels_of(name) for name in self.names}
        self.label_names = list(label_names or next((names for names in own_labels.values() if names), []))
        self.label_columns: dict[str, list[int] | None] = {
            name: align_labels(name, labels, dataset_labels=self.label_names, mode=self.label_alignment)
            if labels
            else None
            for name, labels in own_labels.items()
        }
        for name, columns in self.label_columns.items():
            if columns is not None:
                self.task.check_columns(name, columns)
            index = None if columns is None else torch.tensor(columns)
            self.register_buffer(f"columns_{name}", index, persistent=False)
        known = known_classes(self.label_columns, self.label_names)
        self.known: Tensor | None
        self.register_buffer("known", known, persistent=False)

    def _labels_of(self, name: str) -> list[str]:
        try:
            return label_list(getattr(self.model_of(name), "config", None)) if self.task.has_classes else []
        except LabelError as error:
            raise LabelError(f"peer {name!r}: {error}") from None

    def set_objective(self, objective: Objective | None) -> None:
        """Say what the peers are trained for; copies the present weights as frozen starts if it needs them.

        Raises:
            [`ConfigError`]: the rule does not fit the peers.
        """
        self.objective, self.rule = objective, None
        if objective is not None and objective.weight > 0:
            if self.known is not None:
                check_shared(objective, self.known)
            objective.rule.bind(self.names, len(self.label_names))
            self.rule = objective.rule.to(next(self.peers.parameters(), torch.empty(0)).device)
        if objective is not None and objective.needs_starts and self.starts is None:
            self.starts = nn.ModuleDict(
                {name: peer if self.specs[name].frozen else start_of(peer) for name, peer in self.peers.items()}
            )

    def freeze(self, names: Iterable[str]) -> None:
        """Let these peers teach without learning."""
        for name in names:
            self.specs[name] = replace(self.specs[name], frozen=True)
            self.model_of(name).requires_grad_(False)

    def rest_batch_norms(self, policy: str) -> None:
        """`"freeze"`: keep the batch-norm statistics of all peers as they were pretrained."""
        if policy == "freeze":
            self.specs = {name: replace(spec, batch_norm="freeze") for name, spec in self.specs.items()}

    def drop_starts(self) -> None:
        """Free the frozen starts; their outputs then come with every batch as `start_logits`."""
        self.starts = None

    def follow_peers(self) -> None:
        """Move copies that follow their peers one step towards them; batch-norm statistics are taken over."""
        decay = None if self.objective is None else self.objective.source.decay
        if decay is not None and self.starts is not None:
            moving = {name: peer for name, peer in self.peers.items() if not self.specs[name].frozen}
            follow(dict(self.starts.items()), moving, decay)

    def forward(
        self, peer_inputs: Mapping[str, Mapping[str, Tensor]], labels: Tensor | None = None, **batch: Any
    ) -> CohortOutput:
        """Run all peers on one batch.

        Args:
            peer_inputs (`dict[str, dict[str, torch.Tensor]]`): each peer's own inputs.
            labels (`torch.LongTensor` of shape `[B, ...]`, *optional*): truth; negative where there is none.
            batch: everything else of a [`CohortBatch`], by its name.

        Returns:
            [`CohortOutput`]
        """
        missing = [name for name in self.peers if name not in peer_inputs]
        if missing:
            raise ConfigError(f"peer_inputs lacks {', '.join(missing)}; it has {', '.join(peer_inputs)}")
        return self._respond(CohortBatch(labels, peer_inputs, **batch), self.objective or LABELS_ALONE)

    def _respond(self, batch: CohortBatch, objective: Objective) -> CohortOutput:
        mine = {name: self._run(name, batch.peer_inputs[name], batch.labels) for name in self.peers}
        ran = self.joined(mine, "peers")
        outputs = {name: output for name, (output, _) in ran.items()}
        if batch.labels is None and batch.roles is None and (objective.labels or not self.training):
            return CohortOutput(outputs=outputs)
        # Without transfer nobody looks at logits, which heads with queries only make when asked.
        wanted = outputs.values() if objective.weight > 0 or batch.labels is None else ()
        live = [self.task.logits(output) for output in wanted]
        labels = self.task.no_labels(live[0]) if batch.labels is None else batch.labels
        nothing = torch.zeros(len(labels), device=labels.device)
        students = [
            place for place, name in enumerate(self.names) if name in self.peers and not self.specs[name].frozen
        ]
        found = objective.loss(
            live,
            replace(batch, labels=labels),
            losses=torch.stack([nothing if loss is None else loss for _, loss in ran.values()]),
            starts=self._starts_of(batch, live),
            peers=PeerMasks(students, self.known, None if self.exchange is None else self.exchange.summed),
            units=self.task,
        )
        return CohortOutput(outputs=outputs, **vars(found))

    def _starts_of(self, batch: CohortBatch, live: Sequence[Tensor]) -> Starts:
        """The starts' logits: those that came with the batch, or what runs the starts."""
        if batch.start_logits is not None:
            return list(batch.start_logits)

        def run(wanted: Tensor | None) -> list[Tensor]:
            if wanted is None:
                return self.start_logits(batch.peer_inputs)
            mine = {
                name: self._start_where(name, batch.peer_inputs[name], logits, samples)
                for name, logits, samples in zip(self.names, live, wanted, strict=True)
                if name in self.peers
            }
            return list(self.joined(mine, "starts").values())

        return run

    def _run(self, name: str, inputs: Mapping[str, Tensor], labels: Tensor | None = None) -> tuple[Any, Tensor | None]:
        """A peer's outputs, and its loss by `labels` `[B]`."""
        if self.specs[name].frozen:
            with torch.no_grad():
                return self._outputs(name, self.peers[name], inputs, labels)
        if self.peer_checkpointing and self.training:
            model = self.peers[name]
            return checkpoint(
                self._outputs,
                name,
                model,
                inputs,
                labels,
                use_reentrant=False,
                context_fn=lambda: (contextlib.nullcontext(), resting_batch_norms(model)),
            )
        return self._outputs(name, self.peers[name], inputs, labels)

    def outputs_of(
        self, name: str, inputs: Mapping[str, Tensor], *, labels: Tensor | None = None
    ) -> tuple[Any, Tensor | None]:
        """What one peer says of its inputs, and its loss `[B]` where there are labels; not for training."""
        return self._outputs(name, self.peers[name], inputs, labels)

    def _outputs(
        self, name: str, model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> tuple[Any, Tensor | None]:
        lacks = LACKING in (self.label_columns[name] or ())
        columns = ClassColumns(name, len(self.label_names), getattr(self, f"columns_{name}"), lacks)
        if labels is None:
            return self.task.outputs(model, inputs, columns), None
        smoothing = self.objective.label_smoothing if self.objective is not None else 0.0
        return self.task.supervised(model, inputs, columns, labels, smoothing)

    def start_logits(self, peer_inputs: Mapping[str, Mapping[str, Tensor]]) -> list[Tensor]:
        """Outputs of the frozen starts, N tensors of shape `[B, C, ...]`, without gradient."""
        mine = {name: self._start_logits(name, peer_inputs[name]) for name in self.peers}
        return list(self.joined(mine, "starts").values())

    @torch.no_grad()
    def _start_logits(self, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
        if self.starts is None:
            raise ConfigError("there are no frozen starts; call `set_objective` with an objective that needs them")
        device = next(iter(inputs.values())).device
        # What learns nothing needs no more precision than its answers, unless the training has asked for another.
        quick = is_fast_in_bf16(device) and not torch.is_autocast_enabled(device.type)
        with torch.autocast(device.type, torch.bfloat16) if quick else contextlib.nullcontext():
            output, _ = self._outputs(name, self.starts[name], inputs)
            logits = self.task.logits(output)
        return logits.float() if quick else logits

    def _start_where(self, name: str, inputs: Mapping[str, Tensor], live: Tensor, samples: Tensor) -> Tensor:
        """A start's logits like the peer's own `live`, run only on the `samples` `[B]` (bool) that are looked at."""
        rows = samples.nonzero().squeeze(1)
        if self.is_split and not len(rows):
            rows = torch.zeros_like(samples[:1], dtype=torch.long)
        start = torch.zeros_like(live, requires_grad=False)
        if len(rows):
            own = self._start_logits(name, {key: value[rows] for key, value in inputs.items()})
            start[rows] = own.to(start.dtype)
        return start

    def predict(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        """What the peers say of images or texts, and what they say together.

        Args:
            samples (`list`): PIL images, paths, texts, or what a data set has in their place (`{"bytes", "path"}`);
                also whole rows, as of pairs of texts (`{"text", "text_pair"}`).

        Returns:
            `dict[str, torch.Tensor]`: of every peer its probabilities `[B, C, ...]`, classes as in `label_names`, and
            under `"cohort"` their mean.

        Raises:
            [`ConfigError`]: the task has no classes.

        Example:

        ```python
        >>> found = Cohort.from_pretrained("runs/vit_classify").predict(["coat.png"])
        >>> found["cohort"].argmax(1)
        ```
        """
        return predict(self, samples)

    def train(self, mode: bool = True) -> Cohort:
        """As `nn.Module.train`; frozen peers, starts, adapters' bases and batch norms stay in evaluation mode."""
        super().train(mode)
        for name in self.peers:
            spec = self.specs[name]
            if spec.frozen:
                self.peers[name].eval()
                continue
            rests = spec.batch_norm == "freeze" or name in self.resting
            for module in batch_norms(self.peers[name]):
                if rests or (is_adapter(self.peers[name]) and not any(p.requires_grad for p in module.parameters())):
                    module.eval()
        if self.starts is not None:
            self.starts.eval()
        return self

    def save_pretrained(self, folder: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write every peer with its processor to `folder/NAME`, each an ordinary model folder, and `cohort.json`."""
        if self.elsewhere:
            raise PeerError("other processes hold some peers (peer_parallel): MutualKDTrainer.save_model writes all")
        for name in self.names:
            self.save_peer(name, Path(folder) / name, state_dict=state_dict)
        write_record(self, Path(folder))

    def save_peer(self, name: str, folder: Path, *, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write one peer to `folder`; `state_dict` is the whole cohort's, where its weights are sharded."""
        prefix = f"peers.{name}."
        weights = {k.removeprefix(prefix): v for k, v in (state_dict or {}).items() if k.startswith(prefix)}
        save_peer(self.peers[name], self.processors[name], folder, weights or None)
