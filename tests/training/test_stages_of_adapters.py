"""Stages of adapters over one base: what is kept is the adapter, and the base stays as it is."""

import torch
from conftest import LABELS, make_rows, tiny_processor, tiny_vit
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from hf_mutual_kd import Cohort, MutualKDConfig, MutualKDTrainer, PeerSpec
from hf_mutual_kd.peers.adapters import base_of
from hf_mutual_kd.peers.loading import save_peer
from hf_mutual_kd.training import ways


def test_adapters_are_kept_and_their_base_is_untouched(tmp_path, monkeypatch):
    """A start that is put back into a shared base would change all peers on it."""
    monkeypatch.setattr(ways, "WAYS", {"mean": ways.WAYS["mean"]})
    torch.manual_seed(0)
    save_peer(tiny_vit(), tiny_processor(), tmp_path / "base", None)
    cohort = Cohort.from_pretrained(
        {name: PeerSpec(str(tmp_path / "base"), peft="lora") for name in ("a", "b")}, label_names=LABELS
    )
    args = MutualKDConfig(
        str(tmp_path / "run"),
        teaching="auto",
        max_steps=2,
        per_device_train_batch_size=8,
        learning_rate=0.1,
        eval_strategy="no",
        save_strategy="no",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        pre_flight=False,
        augment=False,
    )
    trainer = MutualKDTrainer(cohort, args, make_rows(24), make_rows(9, 1))
    trainer.train()
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "base")
    for peer in cohort.peers.values():
        assert torch.equal(base_of(peer).vit.embeddings.cls_token, saved.vit.embeddings.cls_token)
    trainer.stages.load("start")
    first = {key: value.clone() for key, value in cohort.peers["a"].state_dict().items()}
    trainer.stages.load("mutual")
    moved = [key for key, value in cohort.peers["a"].state_dict().items() if not torch.equal(value, first[key])]
    assert moved
    assert all("lora" in key or "classifier" in key for key in moved)
    assert load_file(tmp_path / "run" / "a" / "adapter_model.safetensors")
    PeftModel.from_pretrained(saved, tmp_path / "run" / "a")
