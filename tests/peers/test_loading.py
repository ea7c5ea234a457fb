"""Peers: names, what is refused and in which words, and weights that come back as they were saved."""

import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import LABELS, SIZE, make_rows, tiny_processor, tiny_resnet, tiny_vit
from huggingface_hub import constants
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTModel,
)

from hf_mutual_kd import ImageClassification, PeerError, PeerSpec, RoleTaggingCollator, identified
from hf_mutual_kd.distillation.label_alignment import label_list
from hf_mutual_kd.peers.adapters import adapter_facts
from hf_mutual_kd.peers.describing import describe_peer
from hf_mutual_kd.peers.head_labels import HeadLabels
from hf_mutual_kd.peers.loading import load_peer, load_weights, save_peer
from hf_mutual_kd.peers.quantization import count_parameters
from hf_mutual_kd.peers.spec import check_peer_names, parse_peers
from hf_mutual_kd.peers.weights_hash import all_finite
from hf_mutual_kd.training.fingerprints import _configuration, _hash

TASK = ImageClassification()


@pytest.fixture
def folder(tmp_path):
    """A whole peer on disk."""
    torch.manual_seed(0)
    save_peer(tiny_vit(), tiny_processor(), tmp_path / "peer", None)
    return tmp_path / "peer"


def refused(source, words, **kwargs):
    with pytest.raises(PeerError) as error:
        load_peer("mine", source, TASK, **kwargs)
    text = str(error.value)
    assert "peer 'mine'" in text
    assert all(word in text for word in words), text


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Names


@pytest.mark.parametrize(
    "name",
    [
        "a.b",
        "../x",
        "a/b",
        "keys",
        "training",
        "con trol",
        "checkpoint-3",
        "Checkpoint-3",
        "seed-1",
        "control",
        "Control",
        "report",
        "runs",
        "best",
        "mean",
        "nobody",
        "cohort",
        "",
        "-x",
        "_x",
        "x" * 65,
        "vit\n",
        "größe",
        ".",
    ],
)
def test_unsafe_names_are_refused(name):
    """A peer's name is a folder: it must stay inside the run and not be one that the run uses."""
    with pytest.raises(PeerError, match="no safe folder name"):
        check_peer_names([name])


def test_names_that_pass():
    """Names that pass the check but not `nn.ModuleDict` fail later, without saying why."""
    names = ["vit-b", "vit_t", "2nd", "x" * 64, "V", "teacher", "student", "peers"]
    check_peer_names(names)
    nn.ModuleDict({name: nn.Identity() for name in names})


@pytest.mark.parametrize("names", [["vit", "vit"], ["ViT", "cnn", "vit"]])
def test_doubles_are_refused(names):
    """Two folders that differ in case alone are one folder on many disks."""
    with pytest.raises(PeerError, match=f"two peers are called {names[0]!r}"):
        check_peer_names(names)
    with pytest.raises(PeerError, match="two peers are called"):
        parse_peers([f"{name}=x" for name in names])


def test_no_peers():
    """An empty cohort is a mistyped option."""
    with pytest.raises(PeerError, match="at least one peer"):
        parse_peers([])


# What the user says of a peer


def test_revisions_are_parsed(tmp_path, monkeypatch):
    """A revision that stays in the id loads nothing; one cut from a folder's name loads another folder."""
    assert PeerSpec.parse("timm/x@main") == PeerSpec(source="timm/x", revision="main")
    assert PeerSpec.parse("timm/x") == PeerSpec(source="timm/x")
    assert PeerSpec.parse("a/b@refs/pr/1") == PeerSpec(source="a/b", revision="refs/pr/1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run@home").mkdir()
    assert PeerSpec.parse("run@home") == PeerSpec(source="run@home")
    assert PeerSpec.parse("run@home@v1") == PeerSpec(source="run@home", revision="v1")
    for text in ("@main", "timm/x@"):
        with pytest.raises(PeerError, match="ID_OR_FOLDER"):
            PeerSpec.parse(text)


def test_entries_are_parsed():
    """`=` may occur in a folder's name."""
    assert parse_peers(["a=x/y@v1", "b=dir/k=v"]) == {"a": PeerSpec("x/y", "v1"), "b": PeerSpec("dir/k=v")}
    assert parse_peers(["x/y@v1", "z"]) == {"y": PeerSpec("x/y", "v1"), "z": PeerSpec("z")}
    for entry in ("=x", "vit="):
        with pytest.raises(PeerError, match="expected NAME=ID_OR_FOLDER"):
            parse_peers([entry])


@pytest.mark.parametrize("changes", [{"dtype": "float33"}, {"dtype": "nn"}, {"batch_norm": "off"}])
def test_unknown_values_are_refused(changes):
    """`getattr(torch, "nn")` is no dtype, and an unknown policy would be none."""
    with pytest.raises(PeerError, match=f"{next(iter(changes))} of a peer must be one of"):
        PeerSpec("x", **changes)


# Loading


def test_peer_is_loaded_as_it_was_saved(folder):
    """Weights in another type, or dropped labels, show only in the figures."""
    saved = AutoModelForImageClassification.from_pretrained(folder).state_dict()
    for dtype in ("float32", "bfloat16"):
        peer = load_peer("mine", PeerSpec(str(folder), dtype=dtype), TASK)
        for key, value in peer.model.state_dict().items():
            assert value.dtype == getattr(torch, dtype)
            torch.testing.assert_close(value, saved[key].to(value.dtype))
        assert label_list(peer.model.config) == LABELS
        assert peer.processor.size["height"] == SIZE


def test_module_is_taken_as_it_is():
    """A copy would train apart from what the user holds."""
    module = nn.Linear(2, 3)
    module.processor = len
    peer = load_peer("mine", module, TASK)
    assert (peer.model, peer.processor, peer.spec.source) == (module, len, "Linear")
    assert label_list(None) == []


def test_labels_are_in_the_order_of_logits():
    """Keys read from JSON are texts, and "10" comes before "2"."""
    module = nn.Linear(2, 12)
    module.config = type("Config", (), {"id2label": {str(i): f"l{i}" for i in reversed(range(12))}})()
    assert label_list(module.config) == [f"l{i}" for i in range(12)]


def test_folder_without_config(tmp_path):
    """A run's own folder, or one level too high, is a common slip."""
    refused(str(tmp_path), ["no config.json", str(tmp_path)])
    refused(str(tmp_path / "nowhere" / "at" / "all"), ["nowhere", "neither a folder nor a model on the Hub"])


def test_models_of_other_tasks(folder, tmp_path):
    """A fresh classifier on a foreign encoder would train, from a random start."""
    one = {name: [1] for name in ("depths", "sr_ratios", "num_attention_heads", "strides")}
    config = SegformerConfig(num_encoder_blocks=1, hidden_sizes=[4], patch_sizes=[3], decoder_hidden_size=4, **one)
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "seg")
    refused(str(tmp_path / "seg"), ["SegformerForSemanticSegmentation", "image-classification"])
    ViTModel(tiny_vit().config).save_pretrained(tmp_path / "headless")
    refused(str(tmp_path / "headless"), ["ViTModel", "no head", "label_names"])
    change_config(tmp_path / "headless", architectures=None)
    refused(str(tmp_path / "headless"), ["lacks weights", "classifier", "new_head"])


def test_missing_processor(folder):
    """Another model's preprocessing costs accuracy and says nothing."""
    for path in folder.glob("*processor*"):
        path.unlink()
    refused(str(folder), ["no image processor", "PeerSpec(processor=", "--peers.mine.processor "])
    other = folder.parent / "processor"
    tiny_processor(0.25).save_pretrained(other)
    assert load_peer("mine", PeerSpec(str(folder), processor=str(other)), TASK).processor.image_mean[0] == 0.25
    assert load_peer("mine", PeerSpec(str(folder), processor=len), TASK).processor is len


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights(folder, value):
    """A damaged file would break every step of the run."""
    model = tiny_vit()
    with torch.no_grad():
        model.classifier.weight[0, 0] = value
    model.save_pretrained(folder)
    refused(str(folder), ["NaN or infinity", "classifier.weight"])


@pytest.mark.parametrize(
    ("values", "are"),
    [([1.0, -2.0], True), ([3e38, 3e38], True), ([1.0, math.nan], False), ([math.inf, -math.inf], False), ([], True)],
)
def test_numbers_are_finite_though_their_sum_is_not(values, are):
    """Large weights would be refused as damaged, or infinities that cancel out be trained."""
    assert all_finite(torch.tensor(values)) is are


def test_pickled_weights_are_not_read(folder):
    """A pickle runs code when it is loaded."""
    (folder / "model.safetensors").unlink()
    torch.save(tiny_vit().state_dict(), folder / "pytorch_model.bin")
    refused(str(folder), ["no weights as safetensors", "pickled ones (.bin) are never read"])


def test_damaged_file(folder):
    """A download that was cut off."""
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    refused(str(folder), ["cannot load", str(folder)])


def test_weights_of_another_size(folder):
    """A config that was edited by hand."""
    change_config(folder, hidden_size=32)
    refused(str(folder), [str(folder)])


def test_code_of_a_repository_is_not_run(folder, monkeypatch):
    """Unset, transformers asks on the terminal and waits; a `y` typed for something else runs the code."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForImageClassification": "own.OwnModel"}
    change_config(folder, auto_map=auto_map, model_type="own_kind", architectures=["OwnModel"])
    (folder / "own.py").write_text("raise SystemExit('ran')")
    refused(str(folder), ["brings its own code", "--trust_remote_code true"])


def test_hub_id_that_cannot_be_reached(monkeypatch):
    """A traceback of five chained errors hides which peer it was."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("nobody/there-is-no-such-model", ["nobody/there-is-no-such-model"])
    refused("nobody/there-is-no-such-model@v9", ["nobody/there-is-no-such-model", "v9"])


def test_ids_that_are_none():
    """Mistyped folders look like ids to the Hub's client."""
    for source in ("a/b/c/d", "no such folder", "x" * 200):
        refused(source, [source, "neither a folder nor a model on the Hub"])


def test_new_head(folder):
    """`new_head` on a peer with other labels."""
    peer = load_peer("mine", str(folder), TASK, labels=HeadLabels(["a", "b", "c", "d"]))
    assert label_list(peer.model.config) == ["a", "b", "c", "d"]
    assert peer.model.classifier.out_features == 4


# Saving and loading again


def perturb(model):
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) / 10)
    return model


@pytest.mark.parametrize("make", [tiny_vit, tiny_resnet, lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))])
def test_weights_come_back_bit_by_bit(tmp_path, make):
    """Weights loaded by another key conversion stay random without a word."""
    model = perturb(make())
    save_peer(model, None, tmp_path / "a", None)
    other = perturb(make())
    load_weights("mine", other, tmp_path / "a")
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_missing_weight_is_refused(tmp_path):
    """Non-strict loading leaves a layer as it is."""
    model = tiny_vit()
    state = {key: value for key, value in model.state_dict().items() if "classifier" not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(PeerError, match="lacks .*classifier.*damaged"):
        load_weights("mine", model, tmp_path)


def tiny_timm():
    pytest.importorskip("timm")
    settings = {
        "input_size": [3, 32, 32],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "num_classes": 3,
    }
    config = TimmWrapperConfig(
        architecture="resnet10t",
        num_labels=3,
        do_pooling=True,
        pretrained_cfg=settings,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
    )
    torch.manual_seed(0)
    return TimmWrapperForImageClassification(config).eval()


def seen_by(processor):
    rows = identified(make_rows(2))
    return RoleTaggingCollator({"mine": processor})([rows[0], rows[1]])["peer_inputs"]["mine"]["pixel_values"]


def test_timm_peer_end_to_end(tmp_path):
    """A wrapped model has its own keys, labels and processor: lost ones show only when somebody loads the result."""
    model = tiny_timm()
    model.save_pretrained(tmp_path / "base")
    peer = load_peer("mine", str(tmp_path / "base"), TASK)
    pixels = seen_by(peer.processor)
    assert pixels.shape == (2, 3, 32, 32)
    torch.testing.assert_close(peer.model.eval()(pixel_values=pixels).logits, model(pixel_values=pixels).logits)
    save_peer(perturb(peer.model), peer.processor, tmp_path / "trained", None)
    said = peer.model(pixel_values=pixels).logits
    again = load_peer("mine", str(tmp_path / "trained"), TASK)
    assert label_list(peer.model.config) == label_list(again.model.config) == LABELS
    assert torch.equal(seen_by(again.processor), pixels)
    torch.testing.assert_close(again.model.eval()(pixel_values=pixels).logits, said)
    load_weights("mine", perturb(again.model), tmp_path / "trained")
    torch.testing.assert_close(again.model.eval()(pixel_values=pixels).logits, said)


@pytest.mark.parametrize("labels", [["a", "b", "c"], ["a", "b", "c", "d"]])
def test_new_labels_of_a_timm_peer_are_saved(tmp_path, labels):
    """The wrapper saves the names that it was loaded with: new classes under the old names."""
    tiny_timm().save_pretrained(tmp_path / "base")
    peer = load_peer("mine", str(tmp_path / "base"), TASK, labels=HeadLabels(labels))
    save_peer(peer.model, peer.processor, tmp_path / "trained", None)
    assert label_list(load_peer("mine", str(tmp_path / "trained"), TASK).model.config) == labels


@pytest.mark.parametrize(
    ("source", "labels"), [("peer", None), ("peer", HeadLabels(["a", "b"])), ("lora", None), ("saved", None)]
)
def test_a_described_peer_is_one_without_weights(folder, source, labels, tmp_path):
    """Peers of other processes fill the memory of this one, or move what its own peers draw."""
    asked = PeerSpec(str(folder), peft="lora" if source == "lora" else None)
    if source == "saved":
        adapted = load_peer("mine", replace(asked, peft="lora"), TASK)
        save_peer(adapted.model, adapted.processor, tmp_path / "adapter", None)
        asked = PeerSpec(str(tmp_path / "adapter"))
    loaded = load_peer("mine", asked, TASK, labels=labels)
    drawn = torch.get_rng_state()
    found, draws, _ = describe_peer("mine", asked, TASK, labels=labels)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert draws is (labels is not None or source == "saved")
    assert_alike(found, loaded)


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_a_quantized_base_is_described_as_it_will_be(folder, bits):
    """A record that the process of another peer writes says that nothing is quantized, and no run resumes from it."""
    pytest.importorskip("bitsandbytes")
    asked = replace(PeerSpec(str(folder), peft="lora"), **{bits: True})
    loaded, (found, draws, _) = (one("mine", asked, TASK) for one in (load_peer, describe_peer))
    assert not draws
    assert count_parameters(found.model) == count_parameters(loaded.model)
    assert adapter_facts(found.model) == adapter_facts(loaded.model)
    assert _hash(_configuration(found.model)) == _hash(_configuration(loaded.model))
    assert {weight.device.type for weight in found.model.parameters()} == {"meta"}


def assert_alike(found, loaded):
    one, other = (
        {key: (value.shape, value.dtype) for key, value in peer.model.state_dict().items()} for peer in (loaded, found)
    )
    assert one == other
    assert {weight.device.type for weight in found.model.state_dict().values()} == {"meta"}
    assert (found.spec, found.new_head, found.drawn) == (loaded.spec, loaded.new_head, loaded.drawn)


def test_a_module_that_is_described_keeps_its_weights():
    """The process that holds it would find it empty."""
    module = tiny_vit()
    assert describe_peer("mine", module, TASK).peer.model is module
    assert {weight.device.type for weight in module.parameters()} == {"cpu"}
