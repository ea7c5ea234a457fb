"""Trains two adapters over one base, alone or as one of several processes: `adapter_run.py OUT BATCH`."""

import json
import os
import sys
from pathlib import Path

import torch
from conftest import LABELS, make_rows, tiny_processor, tiny_vit
from transformers import AutoModelForImageClassification

from hf_mutual_kd import Cohort, MutualKDConfig, MutualKDTrainer, PeerSpec
from hf_mutual_kd.peers.adapters import base_of
from hf_mutual_kd.peers.launched import leave_together
from hf_mutual_kd.peers.loading import save_peer


def main(out: str, batch: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    base = Path(f"{out}-base-{os.environ.get('RANK', 0)}")
    save_peer(tiny_vit(), tiny_processor(), base, None)
    cohort = Cohort.from_pretrained(
        {name: PeerSpec(str(base), peft="lora") for name in ("a", "b")}, label_names=LABELS
    )
    args = MutualKDConfig(
        out,
        max_steps=3,
        per_device_train_batch_size=int(batch),
        learning_rate=0.1,
        optim="sgd",
        save_strategy="no",
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        logging_steps=3,
        peer_checkpointing=True,
        pre_flight=False,
    )
    trainer = MutualKDTrainer(cohort, args, train_dataset=make_rows(48))
    trainer.train()
    saved = AutoModelForImageClassification.from_pretrained(base)
    inside = [base_of(peer).vit.embeddings.cls_token for peer in cohort.peers.values()]
    is_untouched = inside[0] is inside[1] and torch.equal(inside[0], saved.vit.embeddings.cls_token)
    if trainer.is_world_process_zero():
        Path(out, "outcome.json").write_text(json.dumps({"base": "untouched" if is_untouched else "changed"}))
    leave_together()


if __name__ == "__main__":
    main(*sys.argv[1:])
