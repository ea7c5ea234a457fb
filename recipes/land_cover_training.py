"""One training of `recipes/land_cover_benchmark.py`: what it is, how it is set up, what is measured."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import torch
from transformers import PrinterCallback, logging

from hf_mutual_kd import (
    BestRule,
    Cohort,
    FixedRule,
    LiveSource,
    MutualKDConfig,
    MutualKDTrainer,
    Objective,
    PeerSpec,
    RecipeOptions,
    SemanticSegmentation,
    Splits,
    __version__,
    identified,
    write_json,
)

STARTS = Path(__file__).resolve().parent / "embedded_segmentation" / "peers"
SPECIALISTS = "segformer", "mask2former"
"""Pretrained west and east of `land_cover.SIDE_BORDER`."""

EPOCHS, BATCH_SIZE = 7, 8


@dataclass(frozen=True)
class Job:
    """One training, or for `"start"` none.

    Args:
        arm (`str`): `"start"`, `"control"`, `"pixel"`, `"self"`, `"fixed"`, `"mutual"` or `"bare"`; see
            `land_cover_report.ARMS`.
        seed (`int`): of order, augmentation and the points at which a query head's loss is sampled.
        peers (`tuple[str, ...]`): who takes part.
        rates (`tuple[float, ...]`): each one's learning rate.
        weight (`float`, *optional*, defaults to 0.0): of what is added to the own loss.
        teacher (`str`, *optional*): of `"fixed"`.
    """

    arm: str
    seed: int
    peers: tuple[str, ...]
    rates: tuple[float, ...]
    weight: float = 0.0
    teacher: str = ""

    @property
    def title(self) -> str:
        """One line for the progress."""
        rates = ", ".join(f"{peer} {rate:g}" for peer, rate in zip(self.peers, self.rates, strict=True))
        extra = f", weight {self.weight:g}" if self.weight else ""
        return f"{self.arm} seed {self.seed} ({rates}{extra})"

    @property
    def key(self) -> str:
        """Name of the file that keeps its result."""
        return f"{self.arm}-{hashlib.sha256(repr(dataclasses.astuple(self)).encode()).hexdigest()[:16]}"


def objective_of(job: Job) -> Objective:
    """What the peers of a job are trained for; `"self"` has one peer, its own only teacher, held to its start."""
    if job.arm in ("self", "mutual"):
        return Objective(BestRule(), LiveSource(), score="loss", weight=job.weight)
    rule = FixedRule(job.teacher) if job.arm == "fixed" else BestRule()
    weight = job.weight if job.arm in ("fixed", "bare") else 0.0
    return Objective(rule, LiveSource(), retain=False, score="loss", weight=weight)


def fingerprint(tiles: Path) -> str:
    """What all jobs have in common: their results hold only for these tiles, starts and settings."""
    found = hashlib.sha256(repr((EPOCHS, BATCH_SIZE, __version__)).encode())
    for path in (*sorted(tiles.glob("*.parquet")), *sorted(STARTS.glob("*/*.safetensors"))):
        found.update(path.read_bytes())
    return found.hexdigest()[:8]


def run(job: Job, tiles: Path, folder: Path) -> dict[str, Any]:
    """Train and measure, or read what an earlier run found.

    Args:
        job ([`Job`]): what is asked for.
        tiles (`Path`): folder that land_cover.py wrote.
        folder (`Path`): of the results.

    Returns:
        `dict`: `scores` of every peer on `validation` and `test`, `taught`: each peer's share of the training tiles,
        `teachers`: per tile how often each peer taught (`train`), or which peer has the lower loss (`test`, only of
        starts); `seconds`.
    """
    kept = folder / f"{job.key}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    # The peers are too small for a second thread.
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    began = time.monotonic()
    task = SemanticSegmentation(
        RecipeOptions(dataset=str(tiles)),
        scale_range=[0.8, 1.6],
        pixel_loss_weight=job.weight if job.arm == "pixel" else 0.0,
    )
    splits = task.load_splits(seed=0, labels=True)
    trainer = trainer_of(job, task, splits, folder / job.key)
    found: dict[str, Any] = {"job": dataclasses.asdict(job), "teachers": {}, "taught": {}}
    if job.arm == "start":
        scores = {name: trainer.measure_start(getattr(splits, name), name) for name in ("validation", "test")}
        found["teachers"]["test"] = better_peers(trainer, splits.test)
    else:
        trainer.train()
        for name in ("validation", "test"):
            trainer.evaluate(getattr(splits, name), metric_key_prefix=name)
        scores = {name: one.end.metrics for name, one in trainer.evaluations.items() if one.end is not None}
        table = trainer.record.role_table
        counts = table.counts()
        found["taught"] = {name: counts[name] / max(1, sum(counts.values())) for name in job.peers if len(table)}
        if job.peers == SPECIALISTS:
            found["teachers"]["train"] = times_taught(folder / job.key / "roles.parquet", job.peers)
    found["scores"] = {
        peer: {name: only_shares(scores[name][peer]) for name in ("validation", "test")} for peer in job.peers
    }
    found["seconds"] = round(time.monotonic() - began, 1)
    write_json(kept, found)
    shutil.rmtree(folder / job.key, ignore_errors=True)
    return found


def trainer_of(job: Job, task: SemanticSegmentation, splits: Splits, folder: Path) -> MutualKDTrainer:
    """The product's trainer, set up for a job."""
    config = MutualKDConfig(
        str(folder),
        lr_scheduler_type="cosine",
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=2 * BATCH_SIZE,
        seed=job.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        pre_flight=False,
        use_cpu=True,
    )
    torch.manual_seed(job.seed)
    cohort = Cohort.from_pretrained(
        {
            peer: PeerSpec(str(STARTS / peer), learning_rate=rate)
            for peer, rate in zip(job.peers, job.rates, strict=True)
        },
        task=task,
        label_names=splits.label_names,
    )
    trainer = MutualKDTrainer(cohort, config, splits.train, splits.validation, objective=objective_of(job))
    trainer.remove_callback(PrinterCallback)
    return trainer


def only_shares(metrics: Mapping[str, float]) -> dict[str, float]:
    """The four scores of segmentation."""
    return {name: metrics[name] for name in ("mIoU", "fwIoU", "mACC", "pACC")}


@torch.no_grad()
def better_peers(trainer: MutualKDTrainer, rows: Any) -> dict[str, dict[str, int]]:
    """For every row's number the peer with the lower loss, `{name: 1}`; nothing at a tie."""
    cohort = trainer.cohort.eval()
    found = {}
    for batch in trainer.get_eval_dataloader(identified(rows)):
        outputs = list(cohort(peer_inputs=batch["peer_inputs"]).outputs.values())
        facts = trainer.task.evaluation_facts(outputs, batch["labels"], batch["sample_ids"])
        for row, teacher in zip(facts["sample_ids"].tolist(), facts["teacher"].tolist(), strict=True):
            found[str(row)] = {cohort.names[teacher]: 1} if teacher >= 0 else {}
    return found


def times_taught(path: Path, peers: Sequence[str]) -> dict[str, dict[str, int]]:
    """For every row's number how often each peer taught it, of a role table."""
    return {
        str(row["sample_id"]): {peer: row[f"taught/{peer}"] for peer in peers}
        for row in pq.read_table(path).to_pylist()
    }
