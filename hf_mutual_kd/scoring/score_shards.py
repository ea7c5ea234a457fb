"""The shards of a score table: a process runs all peers on its rows, and writes each shard whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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

from ..config.options import MOST_KEPT
from ..config.rules import check_numbers
from ..data.collator import UNREADABLE, identified
from ..distillation.eight_bits import pack
from ..errors import ConfigError, DataError
from ..files import whole
from ..peers.cohort import Cohort
from .score_table import KEEP, LOWEST, MAP_SCORES, SCORES, shard_path

RANKED = "ranked"
"""In the shards of maps: whether scores say who teaches a sample."""


@dataclass(frozen=True)
class Scoring:
    """How rows are scored, and what is kept.

    Args:
        name (`str`, *optional*, defaults to `"rows"`): of the rows, for the record.
        keep (`str`, *optional*, defaults to `"none"`): of each distribution keep nothing, the K most probable classes
            and the mass of all others (`"topk:K"`), or everything (`"full"`), in fp16, or everything in one byte for
            each class (`"8bit"`, see [`~eight_bits.pack`]); of maps at every cell of the grid on which the peers meet.
        batch_size (`int`, *optional*, defaults to 64): rows that a process looks at together.
        workers (`int`, *optional*, defaults to 0): processes that decode images.
        shard_rows (`int`, *optional*, defaults to 2048): rows of a file; what an interruption can cost.
        max_bytes (`int`, *optional*, defaults to 20,000,000,000): most that log-probabilities may take on disk.
        accelerator (`accelerate.Accelerator`, *optional*): device, processes and precision.
        peer_parallel (`bool`, *optional*, defaults to `False`): of several processes, let each hold and score only
            some of the peers, on all shards or on its part of them.

    Raises:
        [`ConfigError`]: a value breaks its rule.
    """

    name: str = "rows"
    keep: str = "none"
    batch_size: int = 64
    workers: int = 0
    shard_rows: int = 2048
    max_bytes: int = MOST_KEPT
    accelerator: Accelerator = field(default_factory=Accelerator)
    peer_parallel: bool = False

    def __post_init__(self):
        if not KEEP.fullmatch(self.keep):
            raise ConfigError(f"keep must be none, 8bit, full or topk:K with K of 1 or more, got {self.keep!r}")
        numbers = ("batch_size", "workers", "shard_rows", "max_bytes")
        check_numbers(**{number: getattr(self, number) for number in numbers})


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
    scoring: Scoring,
) -> None:
    """The shards that are this process' own, each written whole as soon as it is complete."""
    accelerator, batch_size = scoring.accelerator, scoring.batch_size
    size, total = manifest["shard_rows"], manifest["data"]["rows"]
    spans = [range(shard * size, min((shard + 1) * size, total)) for shard in mine]
    batches = [list(span[at : at + batch_size]) for span in spans for at in range(0, len(span), batch_size)]
    counted: Any = identified(rows)
    collator = scoring_collator(cohort)
    loader = iter(DataLoader(counted, batch_sampler=batches, collate_fn=collator, num_workers=scoring.workers))
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
