"""Adapters on bases in 4 and 8 bits: what trains, what stays, and what stock peft makes of the folders."""

import sys
from dataclasses import replace

import pytest
import torch
from conftest import LABELS, make_rows, tiny_processor
from peft import PeftModel
from transformers import AutoModelForImageClassification, BitsAndBytesConfig, ViTConfig, ViTForImageClassification

from hf_mutual_kd import Cohort, ConfigError, ImageClassification, MutualKDConfig, MutualKDTrainer, PeerError, PeerSpec
from hf_mutual_kd.peers.adapters import adapter_weights
from hf_mutual_kd.peers.loading import load_peer, save_peer
from hf_mutual_kd.peers.quantization import count_parameters, is_quantized

KINDS = {"4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "8bit": {"load_in_8bit": True}}
PIXELS = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TASK = ImageClassification()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A saved ViT as `whole`, and the same stored quantized as `4bit` and `8bit`."""
    pytest.importorskip("bitsandbytes")
    folder = tmp_path_factory.mktemp("quantized")
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
    )
    save_peer(ViTForImageClassification(config), tiny_processor(), folder / "whole", None)
    for name, settings in KINDS.items():
        quantized = BitsAndBytesConfig(llm_int8_skip_modules=["classifier"], **settings)
        model = AutoModelForImageClassification.from_pretrained(folder / "whole", quantization_config=quantized)
        save_peer(model, tiny_processor(), folder / name, None)
    return folder


def stored(place, kind) -> PeerSpec:
    return PeerSpec(str(place / kind), peft="lora")


def asked(place, kind) -> PeerSpec:
    return PeerSpec(str(place / "whole"), peft="lora", **{f"load_in_{kind}": True})


def cohort_of(spec) -> Cohort:
    torch.manual_seed(1)
    return Cohort.from_pretrained({"a": spec, "b": spec}, label_names=LABELS)


def trainer_of(cohort, folder, rows=32, **changes) -> MutualKDTrainer:
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "pre_flight": False,
        "logging_steps": 1,
        "retain": True,
    }
    args = MutualKDConfig(str(folder), **settings | changes)
    return MutualKDTrainer(cohort, args, train_dataset=make_rows(rows), eval_dataset=make_rows(9, 1))


def logits(model):
    with torch.no_grad():
        return model.eval()(pixel_values=PIXELS).logits


def own(model):
    return {key: value.detach().clone() for key, value in adapter_weights(model).items()}


@pytest.mark.parametrize("spec_of", [stored, asked])
@pytest.mark.parametrize("kind", KINDS)
def test_two_peers_train_over_one_quantized_base(place, tmp_path, kind, spec_of):
    """A base that evaluation repacks, or training rounds anew, is not the one that the adapters are loaded on."""
    cohort = cohort_of(spec_of(place, kind))
    a, b = cohort.peers["a"], cohort.peers["b"]
    frozen = [weight for weight in a.parameters() if not weight.requires_grad]
    assert {id(weight) for weight in frozen} == {id(weight) for weight in b.parameters() if not weight.requires_grad}
    assert any(not weight.is_floating_point() for weight in frozen)
    before, adapters = [weight.detach().clone() for weight in frozen], own(a)
    trainer = trainer_of(cohort, tmp_path, rows=8, max_steps=12, eval_strategy="steps", eval_steps=4)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(torch.equal(old, weight) for old, weight in zip(before, frozen, strict=True))
    assert all(not torch.equal(adapters[key], value) for key, value in own(a).items())
    assert all(torch.isfinite(logits(start)).all() for start in cohort.starts.values())
    for name in cohort.names:
        ours = load_peer(name, replace(spec_of(place, kind), source=str(tmp_path / name), peft=None), TASK).model
        settings = BitsAndBytesConfig(llm_int8_skip_modules=["classifier"], **KINDS[kind])
        load = {} if spec_of is stored else {"quantization_config": settings}
        base = AutoModelForImageClassification.from_pretrained(spec_of(place, kind).source, **load)
        stock = PeftModel.from_pretrained(base, str(tmp_path / name))
        # On CPUs with bf16 stock 4-bit layers compute in it.
        torch.testing.assert_close(logits(stock), logits(ours), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_resume_is_exact(place, tmp_path, kind):
    """A base that is quantized again on resuming, and differs in a bit, moves every later step."""
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = cohort_of(asked(place, kind))
    trainer_of(whole, tmp_path / "a", **settings).train()
    trainer_of(cohort_of(asked(place, kind)), tmp_path / "b", **settings | {"max_steps": 2}).train()
    resumed = cohort_of(asked(place, kind))
    trainer_of(resumed, tmp_path / "b", **settings).train(resume_from_checkpoint=True)
    for name in ("a", "b"):
        for key, value in own(whole.peers[name]).items():
            assert torch.equal(value, own(resumed.peers[name])[key]), key


def test_a_saved_adapter_goes_on_over_its_quantized_base(place, tmp_path):
    """Loaded on the base in fp32, a saved adapter would start at other answers than it ended with."""
    peer = load_peer("a", asked(place, "4bit"), TASK)
    save_peer(peer.model, peer.processor, tmp_path / "a", None)
    again = load_peer("a", PeerSpec(str(tmp_path / "a"), load_in_4bit=True), TASK)
    assert is_quantized(again.model.get_base_model())
    assert torch.equal(logits(again.model), logits(peer.model))
    whole = load_peer("a", PeerSpec(str(place / "whole"), peft="lora"), TASK)
    assert count_parameters(again.model) == count_parameters(whole.model)


def test_what_a_quantized_base_cannot_do_is_refused(place, tmp_path):
    """Trained in full, only biases and norms of a quantized model would move; merged, an adapter would be rounded."""
    with pytest.raises(ConfigError, match="on a quantized ViTForImageClassification cannot be merged"):
        trainer_of(cohort_of(asked(place, "4bit")), tmp_path, merge_adapters=True)
    with pytest.raises(PeerError, match="8bit is quantized and takes no training of its own"):
        load_peer("a", PeerSpec(str(place / "8bit")), TASK)
    assert is_quantized(load_peer("a", PeerSpec(str(place / "8bit"), frozen=True), TASK).model)
    with pytest.raises(PeerError, match="stored quantized; leave load_in_4bit"):
        load_peer("a", PeerSpec(str(place / "8bit"), peft="lora", load_in_4bit=True), TASK)
    with pytest.raises(PeerError, match="for bases of adapters; give --peft lora"):
        load_peer("a", PeerSpec(str(place / "whole"), load_in_8bit=True), TASK)
    quantized = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["nothing"])
    model = AutoModelForImageClassification.from_pretrained(place / "whole", quantization_config=quantized)
    save_peer(model, tiny_processor(), tmp_path / "all", None)
    with pytest.raises(PeerError, match=r"its classifier is quantized.*llm_int8_skip_modules=\['classifier'\]"):
        load_peer("a", PeerSpec(str(tmp_path / "all"), peft="lora"), TASK)


def test_both_and_no_bitsandbytes_are_refused(tmp_path, monkeypatch):
    """transformers' own message names an upgrade, not the option that asked for it."""
    with pytest.raises(PeerError, match="exclude each other"):
        PeerSpec("x", peft="lora", load_in_4bit=True, load_in_8bit=True)
    save_peer(
        ViTForImageClassification(
            ViTConfig(image_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
        ),
        tiny_processor(),
        tmp_path / "vit",
        None,
    )
    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda: False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(PeerError, match="needs bitsandbytes; `pip install bitsandbytes`"):
        load_peer("a", PeerSpec(str(tmp_path / "vit"), peft="lora", load_in_4bit=True), TASK)
