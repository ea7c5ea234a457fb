"""How long a step of each peer takes, measured, by which peers are shared out between processes."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import IterableDataset

from ..config.training_config import MutualKDConfig
from ..data.collator import identified
from ..data.given_rows import GivenRows
from ..files import read_json
from .adapters import with_shared_weights
from .cohort import Cohort
from .cohort_record import COHORT, with_names
from .launched import check_launch
from .loading import LoadedPeer
from .peer_mesh import PeerMesh, count_places, place_peers, that_rest
from .spec import check_peer_names

WARM, TIMED = 1, 3
"""Steps that are not counted, and steps of which the fastest is: others are slowed by what else the machine does."""


def time_peers(peers: Mapping[str, Any], rows: Any, *, args: MutualKDConfig, **load: Any) -> dict[str, float]:
    """
    Seconds that a step of each peer takes, for [`Cohort.from_pretrained`], which then shares peers out by them.

    Every process loads some of the peers, one after the other, and runs a forward and a backward of one batch of real
    rows, without an update; all processes get the same answer. A training that is resumed keeps its places: where
    `args.output_dir` has a checkpoint, what its `cohort.json` says is not measured again.

    Args:
        peers (`dict`): as of [`Cohort.from_pretrained`].
        rows: training rows, of which `per_device_train_batch_size` are looked at.
        args ([`MutualKDConfig`]): of the training.
        load: the other arguments of [`Cohort.from_pretrained`].

    Returns:
        `dict[str, float]`: by name; empty where every process holds one peer, or all, so that nothing is shared out.

    Raises:
        [`ConfigError`]: the peers cannot be placed on so many processes.

    Example:

    ```python
    >>> seconds = time_peers({"vit": "…", "cnx": "…", "rn": "…"}, train, args=args)  # on two processes
    >>> cohort = Cohort.from_pretrained({"vit": "…", "cnx": "…", "rn": "…"}, peer_parallel=seconds)
    ```
    """
    asked = with_names(peers)
    check_peer_names(asked)
    state = PartialState()
    check_launch(state)
    processes = state.num_processes
    if processes == 1 or count_places(list(asked), that_rest(asked), processes) == len(asked):
        return {}
    return _recorded(args, asked) or _shared(asked, lambda name: _loaded_seconds(name, asked[name], rows, args, load))


def balanced(mesh: PeerMesh, cohort: Cohort, rows: Any, args: MutualKDConfig) -> PeerMesh:
    """
    A mesh of the same form, on which all places take about as long: the peers of each are found by timing them.

    Nothing is timed where nothing is shared out, and of a cohort that is spread already.

    Args:
        mesh ([`PeerMesh`]): by the numbers of weights.
        cohort ([`Cohort`]): whole, and afterwards as before; it learns what was measured.
        rows: of the training, with their sample ids; unset nothing is timed.
        args ([`MutualKDConfig`]): resolved.
    """
    if not mesh.is_split or len(mesh.places) == len(cohort.names) or cohort.places is not None or rows is None:
        return mesh
    seconds = _recorded(args, cohort.specs) or _shared(
        cohort.specs, lambda name: step_seconds(_copy_of(cohort, name), rows, args)
    )
    cohort.peer_seconds = seconds
    return replace(mesh, places=place_peers(seconds, that_rest(cohort.specs), len(mesh.places)))


def step_seconds(cohort: Cohort, rows: Any, args: MutualKDConfig) -> float:
    """
    Seconds of a forward and, where it learns, a backward of a cohort of one peer, which is not used any further.

    Args:
        cohort ([`Cohort`]): of one.
        rows: with the columns of its task, that can be counted or not.
        args ([`MutualKDConfig`]): rows per step, device and precision.
    """
    precision = torch.bfloat16 if args.bf16 else torch.float16
    cohort.rest_batch_norms(args.batch_norm)
    cohort.peer_checkpointing = args.peer_checkpointing
    if args.gradient_checkpointing:
        cohort.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
    cohort.to(args.device).train()
    seconds = []
    with torch.random.fork_rng():
        batch = _batch_of(cohort, rows, args)
        for _ in range(WARM + TIMED):
            cohort.zero_grad()
            wait()
            began = time.perf_counter()
            with torch.autocast(args.device.type, precision, enabled=args.bf16 or args.fp16):
                loss = cohort(**batch).loss
            if loss.requires_grad:
                loss.backward()
            wait()
            seconds.append(time.perf_counter() - began)
    return min(seconds[WARM:])


def wait() -> None:
    """Wait for a GPU: what was asked of it is only then done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _batch_of(cohort: Cohort, rows: Any, args: MutualKDConfig) -> dict[str, Any]:
    """The first rows, again and again where there are fewer."""
    collator = cohort.task.collator_class(cohort.processors, on_bad_row=args.on_bad_row, keep_places=True)
    known: Any = identified(rows)
    found = iter(known) if isinstance(known, IterableDataset) else (known[place] for place in range(len(known)))
    batch: dict[str, Any] = collator(list(itertools.islice(itertools.cycle(found), args.train_batch_size)))
    labels = batch["labels"].to(args.device)
    if not cohort.names_given and cohort.label_names:
        # Those of another peer, which is not here, are the data set's.
        labels = labels.clamp_max(len(cohort.label_names) - 1)
    return {"peer_inputs": batch["peer_inputs"].to(args.device), "labels": labels}


def _shared(names: Mapping[str, Any], seconds_of: Callable[[str], float]) -> dict[str, float]:
    """What all processes find, of which each looks at some of the peers; the same on all."""
    state = PartialState()
    mine = list(names)[state.process_index :: state.num_processes]
    parts = gather_object([{name: seconds_of(name) for name in mine}])
    found = {name: seconds for part in parts for name, seconds in part.items()}
    return {name: found[name] for name in names}


def _loaded_seconds(name: str, peer: Any, rows: Any, args: MutualKDConfig, load: Mapping[str, Any]) -> float:
    with torch.random.fork_rng():
        # A module that was given stays as it is.
        alone = Cohort.from_pretrained({name: copy.deepcopy(peer)}, **load)
    names = alone.label_names if alone.names_given else None
    given = GivenRows(args, alone.task.target, args.labels, names, alone.task.inputs)
    return step_seconds(alone, given.read(rows, "rows", trains=True), args)


def _copy_of(cohort: Cohort, name: str) -> Cohort:
    """A cohort of one, whose gradients and statistics are its own."""
    model = cohort.peers[name]
    resting = (weight for weight in model.parameters() if not weight.requires_grad)
    peer = LoadedPeer(with_shared_weights(model, resting), cohort.processors[name], cohort.specs[name])
    return Cohort({name: peer}, cohort.task, label_names=cohort.label_names, label_alignment=cohort.label_alignment)


def _recorded(args: MutualKDConfig, names: Mapping[str, Any]) -> dict[str, float] | None:
    """What an interrupted training has measured of these peers, as the first process reads it."""
    folder, found = Path(str(args.output_dir)), [None]
    if PartialState().is_main_process and (args.resume_from_checkpoint or any(folder.glob("checkpoint-*"))):
        record = read_json(folder / COHORT) if (folder / COHORT).is_file() else {}
        found = [record.get("peer_seconds")]
    seconds = gather_object(found)[0]
    return seconds if seconds is not None and list(seconds) == list(names) else None
