"""Trains tiny text peers, alone or as one of several processes: `text_run.py OUT BATCH [streams]`."""

import sys

import torch
from task_run import SETTINGS, run_still
from text_peers import text_cohort, text_rows

from hf_mutual_kd import MutualKDConfig, MutualKDTrainer


def main(out: str, batch: str, *streams: str) -> None:
    torch.set_num_threads(1)
    settings = SETTINGS | {"per_device_train_batch_size": int(batch), "optim": "sgd", "learning_rate": 0.1}
    # Batches differ in length.
    rows = text_rows(33, one_in=2).map(lambda row, place: {"text": row["text"][: 12 + 2 * place]}, with_indices=True)
    trainer = MutualKDTrainer(
        text_cohort(), MutualKDConfig(out, **settings), eval_dataset=text_rows(9, 1),
        train_dataset=rows.to_iterable_dataset() if streams else rows,
    )  # fmt: skip
    run_still(trainer, out, text_rows(11, 2))


if __name__ == "__main__":
    main(*sys.argv[1:])
