"""The shards of a score table: a process runs all peers on its rows, and writes each shard whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.collator import UNREADABLE, identified
from ..distillation.eight_bits import pack
from ..errors import DataError
from ..files import whole
from ..peers.cohort import Cohort
from .score_table import LOWEST, MAP_SCORES, SCORES, shard_path

RANKED = "ranked"
"""In the shards of maps: whether scores say who teaches a sample."""


def scoring_collator(cohort: Cohort) -> Any:
    """What joins rows for scoring: those that cannot be read keep their place, and nobody knows anything of them."""
    collator = cohort.task.collator_class(cohort.processors, on_bad_row="skip", keep_places=True)
    collator.label_names = cohort.label_names
    return collator


def score_shards(
    cohort: Cohort,
    rows: Any,
    folder: Path,
    *,
    manifest: dict[str, Any],
    mine: Sequence[int],
    batch_size: int,
    workers: int,
    accelerator: Accelerator,
) -> None:
    """The shards that are this process' own, each written whole as soon as it is complete."""
    size, total = manifest["shard_rows"], manifest["data"]["rows"]
    spans = [range(shard * size, min((shard + 1) * size, total)) for shard in mine]
    batches = [list(span[at : at + batch_size]) for span in spans for at in range(0, len(span), batch_size)]
    counted: Any = identified(rows)
    loader = iter(DataLoader(counted, batch_sampler=batches, collate_fn=scoring_collator(cohort), num_workers=workers))
    was_training = cohort.training
    cohort.to(accelerator.device).eval()
    bar = tqdm(
        total=sum(map(len, spans)),
        desc="scoring",
        unit="row",
        disable=not accelerator.is_local_main_process,
        leave=False,
    )
    with bar:
        for shard, span in zip(mine, spans, strict=True):
            parts = []
            for _ in range(0, len(span), batch_size):
                batch = next(loader)
                parts += [_score_batch(cohort, part, manifest, accelerator) for part in cohort.task.split_batch(batch)]
                bar.update(len(batch["sample_ids"]))
            for name in cohort.names:
                joined = {key: torch.cat([part[name][key] for part in parts]) for key in parts[0][name]}
                _write_shard(shard_path(folder / name, shard), joined)
    cohort.train(was_training)


def _score_batch(
    cohort: Cohort, batch: dict[str, Any], manifest: dict[str, Any], accelerator: Accelerator
) -> dict[str, dict[str, Tensor]]:
    """All that is kept of one batch, per peer, on the CPU."""
    task, keep = cohort.task, manifest["keep"]
    logits, labels = listen(cohort, batch, accelerator)
    scores = task.table_scores(logits, labels)
    log_probs = task.log_probs(logits, labels)[0] if keep != "none" else []
    kept = {}
    for place, name in enumerate(cohort.names):
        facts = {kind: values[place] for kind, values in scores.items()}
        if set(scores) == set(MAP_SCORES):
            facts[RANKED] = task.ranked(labels)
        if log_probs:
            _check_shape(log_probs[place], manifest["distribution"], batch["sample_ids"])
            facts |= distribution(log_probs[place], keep)
        kept[name] = {key: value.cpu().contiguous() for key, value in facts.items()}
    return kept


@torch.no_grad()
def listen(cohort: Cohort, batch: dict[str, Any], accelerator: Accelerator) -> tuple[list[Tensor], Tensor]:
    """The peers' logits, N of `[B, C, ...]`, and the labels."""
    labels = batch["labels"].to(accelerator.device)
    with accelerator.autocast():
        outputs = cohort(peer_inputs=batch["peer_inputs"].to(accelerator.device)).outputs or {}
    # A blank stands where a sample cannot be read: nobody knows anything of it.
    blank = (labels == UNREADABLE).reshape(len(labels), -1).any(1)
    logits = [cohort.task.logits(output).float() for output in outputs.values()]
    return [one.masked_fill(blank.view(-1, *[1] * (one.ndim - 1)), float("nan")) for one in logits], labels


def _check_shape(log_probs: Tensor, expected: list[int], sample_ids: Tensor) -> None:
    if list(log_probs.shape[1:]) != expected:
        raise DataError(
            f"maps are {list(log_probs.shape[1:])} for sample {int(sample_ids[0])} and {expected} for the first one; "
            "to keep log-probabilities of maps, give every peer a processor that brings all images to one size, or "
            "keep none"
        )


def distribution(log_probs: Tensor, keep: str) -> dict[str, Tensor]:
    """
    What is kept of distributions, in fp16 or one byte for each class.

    Kept relative to the most probable class, so that fp16 is finest where the mass is: a map of nearly equal
    log-probabilities around -6 would else be rounded to steps of 0.004.

    Args:
        log_probs (`torch.Tensor` of shape `[B, C, ...]`): normalised.
        keep (`str`): `"none"`, `"full"`, `"8bit"` or `"topk:K"` with K < C.

    Returns:
        `dict[str, torch.Tensor]`: nothing; `log_probs` `[B, C, ...]`; `codes` `[B, C, ...]` of [`pack`]; or
        `log_probs` and `classes` `[B, K, ...]` with `tail` `[B, ...]`, the log of all other classes' mass. All less
        the log-probability of the top class.

    Example:

    ```python
    >>> distribution(torch.tensor([[0.5, 0.3, 0.2]]).log(), "topk:1")["tail"].exp()
    tensor([1.], dtype=torch.float16)
    ```
    """
    if keep == "none":
        return {}
    if keep == "8bit":
        return {"codes": pack(log_probs)}
    relative = log_probs - log_probs.amax(1, keepdim=True)
    if keep == "full":
        return {"log_probs": relative.clamp_min(LOWEST).half()}
    top, classes = relative.topk(int(keep.removeprefix("topk:")), dim=1)
    tail = relative.scatter(1, classes, float("-inf")).logsumexp(1)
    tail = tail.masked_fill(top.isnan().any(1), float("nan"))
    return {
        "log_probs": top.clamp_min(LOWEST).half(),
        "classes": classes.int(),
        "tail": tail.clamp_min(LOWEST).half(),
    }


def _write_shard(path: Path, tensors: dict[str, Tensor]) -> None:
    with whole(path) as beside:
        save_file(tensors, beside)


def read_scores(folder: Path, shards: int) -> dict[str, np.ndarray]:
    """A peer's scores of all samples, by kind."""
    parts: list[dict[str, Tensor]] = []
    for path in (shard_path(folder, shard) for shard in range(shards)):
        try:
            with safe_open(path, "pt") as file:
                there = set(file.keys())
                kinds = [kind for kind in (*SCORES, *MAP_SCORES, RANKED) if kind in there]
                parts.append({kind: file.get_tensor(kind) for kind in kinds})
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} is damaged ({error}); remove it and run the same command again") from error
    return {kind: torch.cat([part[kind] for part in parts]).numpy() for kind in parts[0]}
