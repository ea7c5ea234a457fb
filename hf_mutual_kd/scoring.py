"""Scoring: every peer looks at every row of a split once, process by process, shard by shard."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from . import checkpoints
from .cohort import Cohort
from .collator import UNREADABLE, identified
from .errors import ConfigError, DataError, OutputFolderError
from .fingerprint import labels_of
from .peers import LoadedPeer
from .score_table import (
    FORMAT,
    INDEX,
    KEEP,
    LOWEST,
    MANIFEST,
    SCORES,
    ScoreTable,
    check_fit,
    describe_rows,
    read_manifest,
    shard_path,
)
from .transforms import settings_of

SHARD_ROWS = 2048


def score_peers(
    cohort: Cohort,
    rows: Any,
    folder: str | os.PathLike[str],
    *,
    name: str = "rows",
    keep: str = "none",
    batch_size: int = 64,
    workers: int = 0,
    shard_rows: int = SHARD_ROWS,
    accelerator: Accelerator | None = None,
) -> ScoreTable:
    """
    Score every peer of a cohort on every row, without augmentation, and keep it as a table.

    Processes share the shards among themselves and need not talk to each other. What an earlier call finished stays:
    an interrupted call goes on, also with another number of processes, and a peer that the table lacks is added to it.

    Args:
        cohort ([`Cohort`]): the peers; all of them are in memory together.
        rows (`datasets.Dataset`): one split, as training will see it.
        folder (`str` or `os.PathLike`): of the table.
        name (`str`, *optional*): of the rows, for the record.
        keep (`str`, *optional*, defaults to `"none"`): of each distribution keep nothing, the K most probable classes
            and the mass of all others (`"topk:K"`), or everything (`"full"`), in fp16.
        batch_size (`int`, *optional*, defaults to 64): rows that a process looks at together.
        workers (`int`, *optional*, defaults to 0): processes that decode images.
        shard_rows (`int`, *optional*, defaults to 2048): rows of a file; what an interruption can cost.
        accelerator (`accelerate.Accelerator`, *optional*): device, processes and precision.

    Returns:
        [`~hf_mutual_kd.score_table.ScoreTable`]

    Raises:
        [`~hf_mutual_kd.errors.DataError`]: the folder holds a table of other data or of other peers of these names.
        [`~hf_mutual_kd.errors.OutputFolderError`]: it holds something else.
        [`~hf_mutual_kd.errors.ConfigError`]: a value breaks its rule.
    """
    if not KEEP.fullmatch(keep):
        raise ConfigError(f"keep must be none, full or topk:K with K of 1 or more, got {keep!r}")
    if not cohort.task.caches_starts:
        raise ConfigError(f"{cohort.task.name} makes maps, too large to keep; a score table is for one class per row")
    if shard_rows < 1 or batch_size < 1:
        raise ConfigError(f"shard_rows and batch_size must be 1 or more, got {shard_rows} and {batch_size}")
    accelerator = accelerator or Accelerator()
    place = Path(folder)
    facts = {peer: peer_facts(cohort, peer) for peer in cohort.names}
    data = {"name": name, **describe_rows(rows, cohort.label_names)}
    manifest = {"format": FORMAT, "task": cohort.task.name, "data": data, "view": "none"}
    manifest |= {"keep": _kept(keep, len(cohort.label_names)), "precision": accelerator.mixed_precision}
    manifest |= {"shard_rows": shard_rows, "peers": facts}
    if accelerator.is_main_process:
        _prepare(place, manifest)
    accelerator.wait_for_everyone()
    manifest = read_manifest(place)
    todo = _unfinished(place, manifest, cohort.names)
    accelerator.wait_for_everyone()  # Nobody adds a shard while others still look for missing ones.
    if todo:
        _score_shards(
            _only(cohort, list(todo)), identified(rows), place, manifest, todo, batch_size, workers, accelerator
        )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _write_index(place, manifest, rows)
    accelerator.wait_for_everyone()
    return ScoreTable.load(place)


def peer_facts(cohort: Cohort, name: str) -> dict[str, Any]:
    """What tells a peer's outputs from another's: hashes of its weights and processor; where it came from."""
    spec, model, processor = cohort.specs[name], cohort.peers[name], cohort.processors[name]
    settings = settings_of(processor) if hasattr(processor, "to_dict") else type(processor).__qualname__
    source = Path(spec.source).name if Path(spec.source).is_absolute() else spec.source
    return {
        "source": source,
        "revision": spec.revision,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "weights": checkpoints.fingerprint(model),
        "processor": hashlib.sha256(settings.encode()).hexdigest()[:16],
    }


def _kept(keep: str, classes: int) -> str:
    """As asked, or `"full"` where K would be all classes."""
    return "full" if keep.startswith("topk:") and int(keep[5:]) >= classes else keep


def _prepare(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the table's manifest: a new one, or that of an earlier call with this call's peers added."""
    if (folder / MANIFEST).is_file():
        stored = read_manifest(folder)
        known = {name: facts for name, facts in manifest["peers"].items() if name in stored["peers"]}
        check_fit(folder, stored["data"], stored["peers"], manifest["data"], known)
        for key in ("keep", "task", "precision"):
            if stored[key] != manifest[key]:
                raise DataError(
                    f"the score table {folder} was begun with {key} {stored[key]}, got {manifest[key]}; give the "
                    "same, or another folder"
                )
        # The size of shards is no matter of content: that of the first call stays.
        manifest = stored | {"peers": {**stored["peers"], **manifest["peers"]}}
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputFolderError(f"{folder} is in use by something that is no score table; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.write_json(folder / MANIFEST, manifest)


def _shards(manifest: dict[str, Any]) -> int:
    return -(-manifest["data"]["rows"] // manifest["shard_rows"])


def _unfinished(folder: Path, manifest: dict[str, Any], names: Sequence[str]) -> dict[str, list[int]]:
    """The shards that each peer lacks; finished peers are left out."""
    lacking = {
        name: [shard for shard in range(_shards(manifest)) if not shard_path(folder / name, shard).is_file()]
        for name in names
    }
    return {name: shards for name, shards in lacking.items() if shards}


def _only(cohort: Cohort, names: list[str]) -> Cohort:
    """The cohort of the peers that have work left."""
    if names == cohort.names:
        return cohort
    peers = {name: LoadedPeer(cohort.peers[name], cohort.processors[name], cohort.specs[name]) for name in names}
    # Every peer has passed the stricter alignment already, where that was asked for.
    return Cohort(peers, cohort.task, cohort.label_names, "subset")


def _score_shards(
    cohort: Cohort,
    rows: Any,
    folder: Path,
    manifest: dict[str, Any],
    todo: dict[str, list[int]],
    batch_size: int,
    workers: int,
    accelerator: Accelerator,
) -> None:
    """This process' part of the missing shards, each written whole as soon as it is complete."""
    missing = sorted({shard for shards in todo.values() for shard in shards})
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    size, total = manifest["shard_rows"], manifest["data"]["rows"]
    spans = [range(shard * size, min((shard + 1) * size, total)) for shard in mine]
    batches = [list(span[at : at + batch_size]) for span in spans for at in range(0, len(span), batch_size)]
    collator = cohort.task.collator_class(cohort.processors, on_bad_image="skip", keep_places=True)
    counted: Any = identified(rows)
    loader = iter(DataLoader(counted, batch_sampler=batches, collate_fn=collator, num_workers=workers))
    was_training = cohort.training
    cohort.to(accelerator.device).eval()
    bar = tqdm(
        total=sum(map(len, spans)), desc="scoring", unit="row", disable=not accelerator.is_local_main_process,
        leave=False,
    )  # fmt: skip
    with bar:
        for shard, span in zip(mine, spans, strict=True):
            parts = []
            for _ in range(0, len(span), batch_size):
                batch = next(loader)
                parts.append(_score_batch(cohort, batch, manifest["keep"], accelerator))
                bar.update(len(batch["sample_ids"]))
            for name in cohort.names:
                joined = {key: torch.cat([part[name][key] for part in parts]) for key in parts[0][name]}
                _write_shard(shard_path(folder / name, shard), joined)
    cohort.train(was_training)


@torch.no_grad()
def _score_batch(
    cohort: Cohort, batch: dict[str, Any], keep: str, accelerator: Accelerator
) -> dict[str, dict[str, Tensor]]:
    """All that is kept of one batch, per peer, on the CPU."""
    labels = batch["labels"].to(accelerator.device)
    with accelerator.autocast():
        answers = cohort(peer_inputs=batch["peer_inputs"].to(accelerator.device)).answers or {}
    kept = {}
    for name, answer in answers.items():
        logits = cohort.task.belief(answer)
        # A blank stands where an image cannot be read: nobody knows anything of it.
        logits = logits.float().masked_fill((labels == UNREADABLE).unsqueeze(1), float("nan"))
        confidence = cohort.task.scores("confidence", [logits], None)[0]
        known = confidence.isfinite()
        facts = {
            "margin": cohort.task.scores("margin", [logits], labels)[0],
            "confidence": confidence,
            "prediction": logits.argmax(1).masked_fill(~known, -1).int(),
        }
        facts |= distribution(logits.log_softmax(1), keep)
        kept[name] = {key: value.cpu().contiguous() for key, value in facts.items()}
    return kept


def distribution(log_probs: Tensor, keep: str) -> dict[str, Tensor]:
    """
    What is kept of distributions, in fp16.

    Args:
        log_probs (`torch.Tensor` of shape `[B, C]`): normalised.
        keep (`str`): `"none"`, `"full"` or `"topk:K"` with K < C.

    Returns:
        `dict[str, torch.Tensor]`: nothing; `log_probs` `[B, C]`; or `log_probs` and `classes` `[B, K]` with `tail`
        `[B]`, the log of all other classes' mass.

    Example:

    ```python
    >>> distribution(torch.tensor([[0.7, 0.2, 0.1]]).log(), "topk:1")["tail"].exp()
    tensor([0.3000], dtype=torch.float16)
    ```
    """
    if keep == "none":
        return {}
    if keep == "full":
        return {"log_probs": log_probs.clamp_min(LOWEST).half()}
    top, classes = log_probs.topk(int(keep.removeprefix("topk:")))
    tail = log_probs.scatter(1, classes, float("-inf")).logsumexp(1)
    tail = tail.masked_fill(top.isnan().any(1), float("nan"))
    return {
        "log_probs": top.clamp_min(LOWEST).half(),
        "classes": classes.int(),
        "tail": tail.clamp_min(LOWEST).half(),
    }


def _write_shard(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write one file whole: beside its place, then renamed."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_name(f"{path.name}.unfinished")
    try:
        save_file(tensors, beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _write_index(folder: Path, manifest: dict[str, Any], rows: Any) -> None:
    """The scores of all finished peers as one Parquet file, a row per sample."""
    labels = labels_of(getattr(rows, "rows", rows))
    columns = {
        "sample_id": pa.array(range(len(labels)), pa.int64()),
        "label": pa.array(labels, pa.int32(), mask=labels < 0),
    }
    finished = [name for name in manifest["peers"] if not _unfinished(folder, manifest, [name])]
    for name in finished:
        parts = [_read_scores(shard_path(folder / name, shard)) for shard in range(_shards(manifest))]
        columns |= {f"{name}/{kind}": pa.array(torch.cat([part[kind] for part in parts]).numpy()) for kind in SCORES}
    beside = folder / f"{INDEX}.unfinished"
    try:
        pq.write_table(pa.table(columns), beside)
        os.replace(beside, folder / INDEX)
    finally:
        beside.unlink(missing_ok=True)


def _read_scores(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {kind: file.get_tensor(kind) for kind in SCORES}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is damaged ({error}); remove it and run the same command again") from error
