"""Trains a tiny cohort, alone or as one of several processes: `distributed_run.py OUT BATCH [option=value …]`."""

import json
import sys
from pathlib import Path

import torch
from conftest import LABELS, MAKERS, make_rows, tiny_processor

from hf_mutual_kd import Cohort, MutualKDConfig, MutualKDTrainer
from hf_mutual_kd.experiment import leave_together
from hf_mutual_kd.peers import LoadedPeer, PeerSpec


def main(out: str, batch: str, *options: str) -> None:
    torch.set_num_threads(1)
    peers = {}
    for index, name in enumerate(("vit", "cnx")):
        torch.manual_seed(index)
        peers[name] = LoadedPeer(MAKERS[name](), tiny_processor(), PeerSpec(name))
    rows = make_rows(48).map(lambda row, i: {"label": -1 if i % 5 == 0 else row["label"]}, with_indices=True)
    changes = dict(option.split("=") for option in options)
    streaming = changes.pop("streaming", "") == "true"
    resume = changes.pop("resume", "") == "true"
    settings = {key: int(value) for key, value in changes.items()}
    args = MutualKDConfig(
        out, max_steps=settings.pop("max_steps", 6),
        per_device_train_batch_size=int(batch), per_device_eval_batch_size=4,
        learning_rate=0.1, lr_scheduler_type="constant", optim="sgd",
        use_cpu=True, report_to="none", disable_tqdm=True, logging_steps=3,
        eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3, **settings,
    )  # fmt: skip
    cohort = Cohort(peers, label_names=LABELS)
    train = rows.to_iterable_dataset() if streaming else rows
    trainer = MutualKDTrainer(cohort, args, train_dataset=train, eval_dataset=make_rows(21, 1))
    trainer.measure_start(make_rows(21, 2), "test")
    trainer.train(resume_from_checkpoint=resume)
    metrics = trainer.evaluate(make_rows(21, 2), metric_key_prefix="test")
    if trainer.is_world_process_zero():
        Path(out, "outcome.json").write_text(json.dumps({"metrics": metrics, "history": trainer.state.log_history}))
    leave_together()


if __name__ == "__main__":
    main(*sys.argv[1:])
