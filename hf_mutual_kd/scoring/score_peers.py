"""Scoring: every peer looks at every row of a split once, process by process, shard by shard."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from datasets import Dataset

from ..data.collator import identified
from ..data.columns import check_classes
from ..data.fingerprint import labels_of
from ..data.mask_columns import has_mask_column
from ..data.processors import settings, settings_of
from ..errors import ConfigError, DataError, OutputFolderError
from ..files import whole, write_json
from ..peers.cohort import Cohort
from ..peers.launched import check_launch, on_main_process
from ..peers.loading import LoadedPeer
from ..peers.peer_mesh import PeerMesh
from ..peers.weights_hash import fingerprints
from ..run_lock import LOCK, claimed
from .score_shards import RANKED, Scoring, listen, read_scores, score_shards, scoring_collator
from .score_table import (
    FORMAT,
    INDEX,
    MANIFEST,
    ScoreTable,
    check_fit,
    counted,
    plain_rows,
    read_manifest,
    row_facts_of,
    shard_path,
)


def score_peers(
    cohort: Cohort,
    rows: Any,
    folder: str | os.PathLike[str],
    scoring: Scoring | None = None,
    *,
    announce: Callable[[str], None] | None = None,
) -> ScoreTable:
    """
    Score every peer of a cohort on every row, without augmentation, and keep it as a table.

    Processes share the shards, or the peers and the shards, among themselves and need not talk to each other. What an
    earlier call finished stays: an interrupted call goes on, also with another number of processes, and a peer that
    the table lacks is added to it. Where peers are compared or keep maps on a grid that is common to them, they are
    scored together and none is added.

    Args:
        cohort ([`Cohort`]): the peers; all of them are in memory together.
        rows (`datasets.Dataset` or [`ClipRows`]): one split, as training will see it;
            of videos every frame that it may draw, see [`fixed_rows`].
        folder (`str` or `os.PathLike`): of the table.
        scoring ([`Scoring`], *optional*): how, and what is kept.
        announce (`Callable`, *optional*): is told, in words, how much that will be, before the work begins.

    Returns:
        [`ScoreTable`]

    Raises:
        [`DataError`]: the folder holds a table of other data or of other peers of these names, or
            every epoch would draw other rows.
        [`OutputFolderError`]: it holds something else, or another process writes into it.
        [`LabelError`]: a label is none of the peers' classes.
        [`ConfigError`]: rows of this task cannot be kept, or what is to be kept would be too large.
    """
    scoring = scoring or Scoring()
    _check_rows(cohort, plain_rows(rows), scoring.name)
    accelerator, keep = scoring.accelerator, scoring.keep
    check_launch(accelerator.state)
    place = Path(folder)
    facts = peer_facts(cohort)
    data = {"name": scoring.name, **row_facts_of(rows, cohort.label_names)}
    if "rows" not in data:
        raise DataError("every epoch draws other target frames: score rows.fixed_rows(), or rows.fixed_rows(epochs=E)")
    together = cohort.task.grid is not None or (keep != "none" and bool(cohort.task.map_dims))
    mesh = _mesh(cohort, accelerator, scoring.peer_parallel, together)
    manifest = {"format": FORMAT, "task": cohort.task.name, "data": data, "view": "none"}
    manifest |= {"keep": keep, "precision": accelerator.mixed_precision}
    manifest |= {"shard_rows": scoring.shard_rows, "peers": facts}
    manifest |= {"together": together} | ({} if cohort.task.grid is None else {"grid": cohort.task.grid})
    if keep != "none":
        manifest |= _kept(_only(cohort, mesh.held), rows, keep, accelerator)
        size = _checked_size(manifest, scoring.max_bytes)
        if announce is not None and accelerator.is_main_process:
            announce(size)
    with on_main_process(accelerator.state, claimed(place, "folder")):
        if accelerator.is_main_process:
            _prepare(place, manifest)
        accelerator.wait_for_everyone()
        manifest = {"together": False} | read_manifest(place)
        todo = _unfinished(place, manifest, mesh.held)
        accelerator.wait_for_everyone()  # Nobody adds a shard while others still look for missing ones.
        if todo:
            cohort = _only(cohort, list(todo))
            mine = _shards_of(todo, mesh)
            score_shards(cohort, identified(rows), place, manifest=manifest, mine=mine, scoring=scoring)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _write_index(place, manifest, rows)
        accelerator.wait_for_everyone()
        return ScoreTable.load(place)


def _mesh(cohort: Cohort, accelerator: Accelerator, peer_parallel: bool, together: bool) -> PeerMesh:
    """Which peers and shards each process scores."""
    processes, process = accelerator.num_processes, accelerator.process_index
    if not peer_parallel:
        return PeerMesh([cohort.names], processes, process)
    if together:
        raise ConfigError(
            "peer_parallel: these peers are scored on a grid that is common to them, by each process all; leave it out"
        )
    return PeerMesh.of_cohort(cohort, processes, process)


def _shards_of(todo: dict[str, list[int]], mesh: PeerMesh) -> list[int]:
    """This process' part of the missing shards."""
    missing = sorted({shard for shards in todo.values() for shard in shards})
    return missing[mesh.data_rank :: mesh.data_ranks]


def _check_rows(cohort: Cohort, rows: Any, name: str) -> None:
    cohort.task.check_scored()
    if isinstance(rows, Dataset) and not has_mask_column(rows) and cohort.label_names:
        check_classes(rows, name, len(cohort.label_names))


def peer_facts(cohort: Cohort) -> dict[str, dict[str, Any]]:
    """What tells each peer's outputs from another's: hashes of its weights and processor; where it came from."""
    return {name: _facts_of(cohort, name, weights) for name, weights in fingerprints(cohort).items()}


def _facts_of(cohort: Cohort, name: str, weights: str) -> dict[str, Any]:
    spec, model, processor = cohort.specs[name], cohort.model_of(name), cohort.processors[name]
    found = type(processor).__qualname__ if settings(processor) is None else settings_of(processor)
    source = Path(spec.source).name if Path(spec.source).is_absolute() else spec.source
    return {
        "source": source,
        "revision": spec.revision,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights": weights,
        "processor": hashlib.sha256(found.encode()).hexdigest()[:16],
    }


def _kept(cohort: Cohort, rows: Any, keep: str, accelerator: Accelerator) -> dict[str, Any]:
    """What is kept of every sample, as the first row shows it; `"full"` where K would be all classes."""
    collator, counted = scoring_collator(cohort), cast(Any, identified(rows))
    was_training = cohort.training
    cohort.to(accelerator.device).eval()
    with torch.no_grad():
        log_probs, shape = cohort.task.log_probs(*listen(cohort, collator([counted[0]]), accelerator))
    cohort.train(was_training)
    classes, *cells = log_probs[0].shape[1:]
    if keep.startswith("topk:") and int(keep.removeprefix("topk:")) >= classes:
        keep = "full"
    return {"keep": keep, "distribution": [classes, *cells], "shape": list(shape)}


def _checked_size(manifest: dict[str, Any], most: int) -> str:
    """How much the log-probabilities of all rows and peers take, in words; refused above `most` bytes."""
    from ..reports.terminal import size_of

    classes, *cells = manifest["distribution"]
    keep, rows, peers = manifest["keep"], manifest["data"]["rows"], len(manifest["peers"])
    # A byte, fp16, or an int32 and fp16 of every class that is kept beside the tail.
    each = {"8bit": classes, "full": 2 * classes}.get(keep) or 6 * int(keep.removeprefix("topk:")) + 2
    size = each * math.prod(cells) * rows * peers
    shape = " x ".join(map(str, manifest["shape"]))
    words = f"log-probabilities of {rows:,} rows, {peers} peers and {shape} values take {size_of(size)}"
    if size > most:
        raise ConfigError(
            f"--keep {keep}: {words}, more than the {size_of(most)} of --max_bytes; raise it, keep fewer bits "
            "(8bit), fewer classes (topk:K) or scores only (none), or score fewer rows"
        )
    return f"{words} (keep {keep})"


def _prepare(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the table's manifest: a new one, or that of an earlier call with this call's peers added."""
    if (folder / MANIFEST).is_file():
        stored = read_manifest(folder)
        known = {name: facts for name, facts in manifest["peers"].items() if name in stored["peers"]}
        check_fit(folder, stored["data"], stored["peers"], manifest["data"], known)
        for key in ("keep", "task", "precision", "grid"):
            if stored.get(key) != manifest.get(key):
                raise DataError(
                    f"the score table {folder} was begun with {key} {stored.get(key)}, got {manifest.get(key)}; give "
                    "the same, or another folder"
                )
        if manifest["together"] and list(stored["peers"]) != list(manifest["peers"]):
            raise DataError(
                f"the score table {folder} is on the common grid of {', '.join(stored['peers'])}, got "
                f"{', '.join(manifest['peers'])}; score all peers together, into another folder"
            )
        # The size of shards is no matter of content: that of the first call stays.
        manifest = stored | {"peers": {**stored["peers"], **manifest["peers"]}}
    elif folder.exists() and (not folder.is_dir() or any(path.name != LOCK for path in folder.iterdir())):
        raise OutputFolderError(f"{folder} is in use by something that is no score table; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MANIFEST, manifest)


def _shards(manifest: dict[str, Any]) -> int:
    return -(-manifest["data"]["rows"] // manifest["shard_rows"])


def _unfinished(folder: Path, manifest: dict[str, Any], names: Sequence[str]) -> dict[str, list[int]]:
    """The shards that each peer lacks, of peers that need each other those that any lacks; without finished peers."""
    lacking = {
        name: [shard for shard in range(_shards(manifest)) if not shard_path(folder / name, shard).is_file()]
        for name in names
    }
    if manifest["together"]:
        lacking = dict.fromkeys(names, sorted({shard for shards in lacking.values() for shard in shards}))
    return {name: shards for name, shards in lacking.items() if shards}


def _only(cohort: Cohort, names: list[str]) -> Cohort:
    """The cohort of the peers that have work left."""
    if names == cohort.names:
        return cohort
    peers = {name: LoadedPeer(cohort.peers[name], cohort.processors[name], cohort.specs[name]) for name in names}
    # Every peer has passed the stricter alignment already, where that was asked for.
    return Cohort(peers, cohort.task, label_names=cohort.label_names, label_alignment="subset")


def _write_index(folder: Path, manifest: dict[str, Any], rows: Any) -> None:
    """The scores of all finished peers as one Parquet file, a row per sample."""
    finished = [name for name in manifest["peers"] if not _unfinished(folder, manifest, [name])]
    scores = {name: read_scores(folder / name, _shards(manifest)) for name in finished}
    ranked = next((kinds[RANKED] for kinds in scores.values() if RANKED in kinds), None)
    labels = labels_of(plain_rows(rows)) if ranked is None else np.where(ranked, 0, -1)
    columns = {
        "sample_id": pa.array(counted(rows).sample_ids(), pa.int64()),
        "label": pa.array(labels, pa.int32(), mask=labels < 0),
    }
    for name, kinds in scores.items():
        # NaN is no score: null.
        columns |= {f"{name}/{kind}": pa.array(kinds[kind], from_pandas=True) for kind in kinds if kind != RANKED}
    with whole(folder / INDEX) as beside:
        pq.write_table(pa.table(columns), beside)
