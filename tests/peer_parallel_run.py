"""Trains tiny cohorts whose peers live on several processes: `peer_parallel_run.py OUT`; or alone, by [`train`]."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import distributed_run
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from conftest import LABELS, MAKERS, make_rows, tiny_processor
from saliency_run import saliency_trainer
from segmentation_run import segmentation_trainer

from hf_mutual_kd import Cohort, LoadedPeer, MutualKDConfig, MutualKDTrainer, PeerSpec, time_peers
from hf_mutual_kd.peers import loading
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


CUT = (
    "peers=vit,cnx,vit_2 frozen=cnx teacher_source=frozen load_best_model_at_end=1 gradient_accumulation_steps=2 "
    "optim=adamw_torch adam_epsilon=0.01 lr_scheduler_type=linear"
)


def train_cut(out: Path, *more: str, split: bool = False) -> None:
    """Three peers on two places, of whose weights each of a place's two processes has a part (FSDP 2)."""
    options = [*CUT.split(), *more, *["peer_parallel=1", "splits=1"] * split]
    distributed_run.train(str(out), "2" if split else "4", *options)


def train_loaded(out: Path, place: Path, split: bool = False) -> None:
    """Two adapters over one encoder with a drawn head, the encoder with another, and a whole peer, from folders."""
    torch.manual_seed(0)
    peers = {name: PeerSpec(str(place / "encoder"), peft="lora") for name in ("a", "b")}
    peers |= {"new": PeerSpec(str(place / "encoder")), "whole": PeerSpec(str(place / "base"))}
    settings = distributed_run.SETTINGS | {"max_steps": 3, "eval_strategy": "no", "save_steps": 3}
    args = MutualKDConfig(
        str(out), per_device_train_batch_size=8, peer_parallel=split, merge_adapters=True, **settings
    )
    in_memory, load = [], loading.load_checkpoint

    def watched(name: str, *others: Any) -> LoadedPeer:
        found = load(name, *others)
        in_memory.extend([name] * any(weight.device.type != "meta" for weight in found.model.parameters()))
        return found

    with patch.object(loading, "load_checkpoint", watched):
        cohort = Cohort.from_pretrained(peers, label_names=LABELS, peer_parallel=split)
    assert len(cohort.peers) == (1 if split else 4)
    # Without weights of another, not even for a while; of one process the second adapter shares the first one's base.
    assert in_memory == (list(cohort.peers) if split else ["a", "new", "whole"])
    drawn = torch.get_rng_state()
    assert all(one.equal(drawn) for one in gather_object([drawn]))
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


def train_cached(out: Path, split: bool = False) -> None:
    """What frozen starts say of maps is kept, in two views."""
    for name, make in {"masks": segmentation_trainer, "clips": saliency_trainer}.items():
        settings = STILL | {"teacher_source": "frozen", "cached_views": 2, "max_steps": 3}
        rows = 2 if split else 4
        trainer = make(str(out / name), peer_parallel=split, per_device_train_batch_size=rows, **settings)
        for module in trainer.cohort.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with torch.no_grad():
            for weight in trainer.cohort.starts.parameters():
                weight.mul_(1.5)
        trainer.train()
        assert trainer.start_cache is not None
        assert trainer.cohort.starts is None
        history = [{key: value for key, value in entry.items() if "/" in key} for entry in trainer.state.log_history]
        if trainer.is_world_process_zero():
            (out / name / "outcome.json").write_text(json.dumps(history))


class ScaledTrainer(MutualKDTrainer):
    """Scales its loss as under fp16, which Accelerate has on GPUs alone."""

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        accelerator = self.accelerator
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        self.mesh.join(accelerator)
        accelerator.unscale_gradients = lambda: [
            accelerator.scaler.unscale_(one.optimizer) for one in accelerator._optimizers
        ]


def train_scaled(out: Path, split: bool = False) -> None:
    """One peer's gradients are infinite in the second of four steps."""
    peers = {}
    for name in ("vit", "cnx"):
        torch.manual_seed(0)
        peers[name] = LoadedPeer(MAKERS[name](), tiny_processor(), PeerSpec(name))
    settings = distributed_run.SETTINGS | {"max_steps": 4, "eval_strategy": "no", "save_steps": 4}
    args = MutualKDConfig(str(out), per_device_train_batch_size=4 if split else 8, peer_parallel=split, **settings)
    trainer = ScaledTrainer(Cohort(peers, label_names=LABELS), args, make_rows(40))
    if "vit" in trainer.cohort.peers:
        factors = iter((1.0, math.inf, 1.0, 1.0))
        next(trainer.cohort.peers["vit"].parameters()).register_hook(lambda gradient: gradient * next(factors))
    trainer.train()


def train_compiled(out: Path, split: bool = False, backend: str = "eager") -> None:
    """On several processes each peer is compiled; what is asked for in the environment stays in this process."""
    peers = {}
    for name in ("vit", "cnx"):
        torch.manual_seed(0)
        peers[name] = LoadedPeer(MAKERS[name](), tiny_processor(), PeerSpec(name))
    settings = distributed_run.SETTINGS | {"max_steps": 3, "eval_strategy": "no", "save_steps": 3}
    settings |= {"torch_compile_backend": backend} if split else {}
    rows = 4 if split else 8
    args = MutualKDConfig(str(out), per_device_train_batch_size=rows, peer_parallel=split, **settings)
    trainer = MutualKDTrainer(Cohort(peers, label_names=LABELS), args, make_rows(40))
    trainer.train()
    assert len(trainer.cohort.peers) == (1 if split else 2)
    assert all((one._compiled_call_impl is not None) is split for one in trainer.cohort.peers.values())


class Slow(torch.nn.Module):
    """Few weights, and much to do."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, len(LABELS))

    def forward(self, pixel_values):
        time.sleep(0.3)
        return self.head(pixel_values.mean((2, 3)))


def share_out(out: Path) -> None:
    """Three peers on two places, by what their steps take."""
    peers = {name: LoadedPeer(make(), tiny_processor(), PeerSpec(name)) for name, make in MAKERS.items()}
    peers["cnn"] = LoadedPeer(Slow(), tiny_processor(), PeerSpec("slow"))
    args = MutualKDConfig(str(out), per_device_train_batch_size=8, **distributed_run.SETTINGS)
    state = torch.get_rng_state()
    seconds = time_peers(peers, make_rows(4), args=args, label_names=LABELS)
    assert state.equal(torch.get_rng_state())
    places = Cohort.from_pretrained(peers, label_names=LABELS, peer_parallel=seconds).places
    found = gather_object([{"seconds": seconds, "places": places}])
    if PartialState().is_main_process:
        out.with_suffix(".json").write_text(json.dumps(found))


def main(out: Path, alone: Path) -> None:
    torch.set_num_threads(1)
    for run in RUNS:
        train(out / run, run, split=True)
    train(out / "resumed", "four", f"goes_on_from={out}/four", split=True)
    train_loaded(out / "loaded", alone, split=True)
    train_staged(out / "staged", split=True)
    measure_maps(out / "maps", split=True)
    train_cached(out / "cached", split=True)
    train_scaled(out / "scaled", split=True)
    share_out(out / "shared")
    train_compiled(out / "compiled", split=True)
    # Last: it tells all that follow of FSDP.
    train_cut(out / "cut", split=True)
    train_cut(out / "cut_again", f"goes_on_from={out}/cut", split=True)
    leave_together()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
