"""Trains a tiny cohort, alone or as one of several processes: `distributed_run.py OUT BATCH [option=value …] [-- …]`.

What follows a `--` is another training, by the same processes.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch
import yaml
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from conftest import LABELS, MAKERS, make_rows, tiny_processor
from torch import nn
from transformers import TrainerCallback

from hf_mutual_kd import Cohort, LoadedPeer, MutualKDConfig, MutualKDTrainer, PeerSpec
from hf_mutual_kd.peers.launched import leave_together
from hf_mutual_kd.peers.sharding import is_split

ROWS = 41
"""One more than fills the steps of 8: of two processes one gets a single row in the last, the other none."""


SETTINGS = {
    "max_steps": 6,
    "per_device_eval_batch_size": 4,
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "logging_steps": 3,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_strategy": "steps",
    "save_steps": 3,
}


class Pooled(nn.Module):
    """A convolution, pooling, a batch norm and a classifier."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, len(LABELS)))

    def forward(self, pixel_values):
        return self.head(self.body(pixel_values))


class Dies(TrainerCallback):
    """Kills the second process as it begins a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step and args.process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)


class SplitTrainer(MutualKDTrainer):
    """As `recipes/accelerate/fsdp2.yaml` has it; Accelerate leaves FSDP out on CPUs, torch does not."""

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            reshard_after_forward=True,
            auto_wrap_policy="transformer_based_wrap",
            cpu_ram_efficient_loading=False,
            state_dict_type="SHARDED_STATE_DICT",
        )
        for state in (AcceleratorState, PartialState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
        self.is_fsdp_enabled = True


def train(out: str, batch: str, *options: str) -> None:
    torch.set_num_threads(1)
    changes = dict(option.split("=") for option in options)
    source, streams, splits = changes.pop("goes_on_from", ""), changes.pop("streams", ""), changes.pop("splits", "")
    makers = MAKERS | ({"cnx": Pooled} if changes.pop("pools", "") else {})
    dies = [Dies(int(changes.pop("dies_at")))] if "dies_at" in changes else []
    frozen = changes.pop("frozen", "")
    names = changes.pop("peers", "vit,cnx").split(",")
    settings = {key: yaml.safe_load(value) for key, value in changes.items()}
    peers = {}
    for index, name in enumerate(names):
        torch.manual_seed(index)
        peers[name] = LoadedPeer(makers[name.split("_")[0]](), tiny_processor(), PeerSpec(name, frozen=name == frozen))
    rows = make_rows(ROWS).map(lambda row, i: {"label": -1 if i % 5 == 0 else row["label"]}, with_indices=True)
    args = MutualKDConfig(
        out,
        **SETTINGS | {"per_device_train_batch_size": int(batch)} | settings,
    )
    if source and PartialState().is_main_process:
        shutil.copytree(Path(source, "checkpoint-3"), Path(out, "checkpoint-3"))
    PartialState().wait_for_everyone()
    trainer = (SplitTrainer if splits else MutualKDTrainer)(
        Cohort(peers, label_names=LABELS),
        args,
        train_dataset=rows.to_iterable_dataset() if streams else rows,
        eval_dataset=make_rows(21, 1),
        callbacks=dies,
    )
    trainer.measure_start(make_rows(21, 2), "test")
    trainer.train(resume_from_checkpoint=bool(source))
    assert is_split(trainer.cohort) is bool(splits)
    metrics = trainer.evaluate(make_rows(21, 2), metric_key_prefix="test")
    if trainer.is_world_process_zero():
        Path(out, "outcome.json").write_text(json.dumps({"metrics": metrics, "history": trainer.state.log_history}))


if __name__ == "__main__":
    for training in " ".join(sys.argv[1:]).split(" -- "):
        train(*training.split())
    leave_together()
