"""What a checkpoint names as its weights and says of itself, before any of it is opened."""

import json
import shutil

import pytest
import torch
from conftest import tiny_processor, tiny_vit
from saliency_peers import tiny_saliency

from hf_mutual_kd import ImageClassification, PeerError, PeerSpec
from hf_mutual_kd.cli.saliency import load_for_prediction
from hf_mutual_kd.peers.loading import load_peer, load_weights, save_peer

TASK = ImageClassification()
ODD = [
    "weights.bin",
    "../outside.safetensors",
    "/etc/passwd",
    "..\\outside.safetensors",
    "a/b.safetensors",
    ".safetensors",
    "x.safetensors\n",
    5,
    None,
]


class Ran:
    """Unpickling it would be seen."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


@pytest.fixture
def sharded(tmp_path):
    """A peer in two files."""
    torch.manual_seed(0)
    model = tiny_vit()
    model.save_pretrained(tmp_path / "peer", max_shard_size="4KB")
    tiny_processor().save_pretrained(tmp_path / "peer")
    torch.save(Ran(), tmp_path / "peer" / "weights.bin")
    assert not (tmp_path / "peer" / "model.safetensors").exists()
    return tmp_path / "peer"


def rename_shard(folder, name):
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][next(iter(content["weight_map"]))] = name
    index.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ODD)
def test_shards_are_plain_names(sharded, name):
    """A shard of another ending is unpickled, one with a path is read from anywhere on the machine."""
    load_peer("mine", str(sharded), TASK)
    rename_shard(sharded, name)
    with pytest.raises(PeerError, match="peer 'mine'.*plain names"):
        load_peer("mine", str(sharded), TASK)
    with pytest.raises(PeerError, match="peer 'mine'.*plain names"):
        load_weights("mine", tiny_vit(), sharded)
    with pytest.raises(PeerError, match="peer 'mine'.*plain names"):
        load_peer("mine", PeerSpec(str(sharded), peft="lora"), TASK)


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "[]", "{}", '{"weight_map": []}'])
def test_damaged_index(sharded, content):
    """A traceback does not say which file of which peer."""
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(PeerError, match="peer 'mine'.*index.json is damaged"):
        load_peer("mine", str(sharded), TASK)


@pytest.mark.parametrize("name", ["weights.bin", "adapter_model.bin", "../peer/model.safetensors"])
def test_weights_that_the_configuration_names(sharded, name):
    """transformers also reads whatever file `transformers_weights` names."""
    config = json.loads((sharded / "config.json").read_text())
    (sharded / "config.json").write_text(json.dumps(config | {"transformers_weights": name}))
    with pytest.raises(PeerError, match="peer 'mine'.*expected a plain name"):
        load_peer("mine", str(sharded), TASK)


def test_models_for_predict(tmp_path):
    """`saliency predict` loads models without a cohort."""
    tiny_saliency("convnext").save_pretrained(tmp_path, max_shard_size="20KB")
    rename_shard(tmp_path, "weights.bin")
    with pytest.raises(PeerError, match="plain names"):
        load_for_prediction(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_labels": 2**40}, "num_labels 1099511627776"),
        ({"num_labels": "7"}, "num_labels 7"),
        ({"architectures": 5}, "architectures 5"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": 0}, "cannot load"),
        ({"num_attention_heads": 3}, "cannot load"),
    ],
)
def test_configurations_that_no_model_is_made_of(tmp_path, changes, words):
    """A traceback out of transformers, or a memory that fills with names of classes."""
    save_peer(tiny_vit(), tiny_processor(), tmp_path, None)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(PeerError, match=f"peer 'mine': .*{words}"):
        load_peer("mine", str(tmp_path), TASK)
    shutil.copy(tmp_path / "config.json", tmp_path / "kept.json")
    (tmp_path / "config.json").write_text('{"a": ' * 100_000)
    with pytest.raises(PeerError, match=r"config.json is damaged.*peer 'mine'"):
        load_peer("mine", str(tmp_path), TASK)
