"""Trains tiny peers of a task, alone or as one of several processes: `kind_run.py OUT BATCH KIND [streams]`."""

import sys

import torch
from task_kinds import TRAINED
from task_run import SETTINGS, run_still

from hf_mutual_kd import MutualKDConfig, MutualKDTrainer


def main(out: str, batch: str, name: str, *streams: str) -> None:
    torch.set_num_threads(1)
    kind = TRAINED[name]
    settings = SETTINGS | {"per_device_train_batch_size": int(batch), "optim": "sgd", "learning_rate": 0.1}
    rows = kind.rows(33, 0, one_in=2)
    cohort = kind.cohort()
    for peer in cohort.peers.values():
        # Each process would draw for itself which layers rest and what is masked.
        peer.config.layerdrop = peer.config.mask_time_prob = 0.0
    trainer = MutualKDTrainer(
        cohort, MutualKDConfig(out, **settings), eval_dataset=kind.rows(9, 1),
        train_dataset=rows.to_iterable_dataset() if streams else rows,
    )  # fmt: skip
    run_still(trainer, out, kind.rows(11, 2))


if __name__ == "__main__":
    main(*sys.argv[1:])
