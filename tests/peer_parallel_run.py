"""Trains tiny cohorts whose peers live on several processes: `peer_parallel_run.py OUT`; or alone, by [`train`]."""

import json
import sys
from pathlib import Path

import distributed_run
import torch
from conftest import LABELS, MAKERS, make_rows, tiny_processor
from saliency_run import saliency_trainer
from segmentation_run import segmentation_trainer

from hf_mutual_kd import Cohort, LoadedPeer, MutualKDConfig, MutualKDTrainer, PeerSpec
from hf_mutual_kd.peers.launched import leave_together

RUNS = {
    # Two peers on two data ranks, a short last batch, rows without labels, each peer's best.
    "plain": "load_best_model_at_end=1",
    # Three peers on two places, of which one has two, and one only teaches; a gate and temperatures that are fitted.
    "share": "peers=vit,cnx,vit_2 frozen=cnx teacher_source=frozen teacher_rule=gated calibrate=1 control=1 "
    "gradient_accumulation_steps=2",
    # Four peers that share no rows with anybody, from a stream; averages, moments and a schedule for each of them.
    "four": "peers=vit,cnx,vit_2,cnx_2 teacher_source=ema streams=1 optim=adamw_torch lr_scheduler_type=linear",
}
"""Options of [`distributed_run.train`]."""
ROWS_OF_ONE = {"plain": 8, "share": 4, "four": 8}
DATA_RANKS = {"plain": 2, "share": 2, "four": 1}
STILL = {"max_steps": 2, "learning_rate": 0.0, "batch_norm": "freeze", "eval_strategy": "no", "save_strategy": "no"}
"""Heads whose loss depends on their batch are measured, not moved."""


def train(out: Path, run: str, *more: str, split: bool = False) -> None:
    """One of [`RUNS`], on one process or, where `split`, with its peers on several."""
    rows = ROWS_OF_ONE[run] // (DATA_RANKS[run] if split else 1)
    distributed_run.train(str(out), str(rows), *RUNS[run].split(), *more, *["peer_parallel=1"] * split)


def train_loaded(out: Path, place: Path, split: bool = False) -> None:
    """Two adapters over one base, an encoder that gets a head, and that base itself, from folders."""
    torch.manual_seed(0)
    peers = {name: PeerSpec(str(place / "base"), peft="lora") for name in ("a", "b")}
    peers |= {"new": PeerSpec(str(place / "encoder")), "whole": PeerSpec(str(place / "base"))}
    settings = distributed_run.SETTINGS | {"max_steps": 3, "eval_strategy": "no", "save_steps": 3}
    args = MutualKDConfig(
        str(out), per_device_train_batch_size=8, peer_parallel=split, merge_adapters=True, **settings
    )
    cohort = Cohort.from_pretrained(peers, label_names=LABELS, peer_parallel=split)
    assert len(cohort.peers) == (1 if split else 4)
    MutualKDTrainer(cohort, args, train_dataset=make_rows(24)).train()


def train_staged(out: Path, split: bool = False) -> None:
    """Two peers with new heads, rows of which few have a label: adapt, teach, choose."""
    torch.manual_seed(0)
    peers = {name: LoadedPeer(MAKERS[name](), tiny_processor(), PeerSpec(name), True) for name in ("vit", "cnx")}
    rows = make_rows(48).map(lambda row, i: {"label": row["label"] if i % 3 == 0 else -1}, with_indices=True)
    settings = distributed_run.SETTINGS | {"max_steps": 4, "eval_steps": 4, "save_steps": 4, "keep": "mutual"}
    settings |= {"teaching": "auto", "pre_flight": False, "augment": False}
    args = MutualKDConfig(str(out), per_device_train_batch_size=4 if split else 8, peer_parallel=split, **settings)
    MutualKDTrainer(Cohort(peers, label_names=LABELS), args, rows, make_rows(30, 1)).train()


def measure_maps(out: Path, split: bool = False) -> None:
    """Heads with and without queries, and clips of two encoders."""
    for name, make in {"masks": segmentation_trainer, "clips": saliency_trainer}.items():
        rows = 2 if split else 4
        trainer = make(str(out / name), per_device_train_batch_size=rows, peer_parallel=split, **STILL)
        for module in trainer.cohort.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer.train()
        trainer.evaluate()
        history = [{key: value for key, value in entry.items() if "/" in key} for entry in trainer.state.log_history]
        if trainer.is_world_process_zero():
            (out / name / "outcome.json").write_text(json.dumps(history))


def main(out: Path, alone: Path) -> None:
    torch.set_num_threads(1)
    for run in RUNS:
        train(out / run, run, split=True)
    train(out / "resumed", "four", f"goes_on_from={out}/four", split=True)
    train_loaded(out / "loaded", alone, split=True)
    train_staged(out / "staged", split=True)
    measure_maps(out / "maps", split=True)
    leave_together()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
