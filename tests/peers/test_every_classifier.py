"""Every class of `AutoModelForImageClassification`, tiny: it trains, comes back, gets a new head and an adapter."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from conftest import LABELS, tiny_processor
from safetensors.torch import save_file
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as MAPPING

from hf_mutual_kd import Cohort, ImageClassification, LoadedPeer, PeerError, PeerSpec, RoleTaggingCollator, identified
from hf_mutual_kd.distillation.label_alignment import ClassColumns
from hf_mutual_kd.peers.head_labels import HeadLabels
from hf_mutual_kd.peers.loading import load_peer, load_weights

TASK = ImageClassification()
SIZE = 32
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": SIZE,
    "patch_size": 16,
}
DINO = {key: value for key, value in VIT.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
FOUR = {"hidden_sizes": [4, 8, 8, 8], "depths": [1, 1, 1, 1]}
SWIN = {"image_size": SIZE, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
PVT = {
    "image_size": SIZE,
    "hidden_sizes": [8] * 4,
    "depths": [1] * 4,
    "num_attention_heads": [1] * 4,
    "mlp_ratios": [1] * 4,
}
NAFLEX = {key: value for key, value in VIT.items() if key != "image_size"} | {"num_patches": 4}


@dataclass(frozen=True)
class Case:
    """A model type: its tiny configuration, its processor where it is no common one, and what it is refused for."""

    config: dict[str, Any]
    size: int = SIZE
    processor: Any = None
    refused: str = ""
    no_adapter: str = ""


def clusters():
    return hf.ImageGPTImageProcessor(clusters=np.random.rand(16, 3) * 2 - 1, size={"height": 8, "width": 8})


CASES = {
    "beit": Case(VIT),
    "bit": Case({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_groups": 2}),
    "clip": Case({"vision_config": VIT, "text_config": TEXT}),
    "convnext": Case(FOUR),
    "convnextv2": Case(FOUR),
    "cvt": Case(
        {
            "embed_dim": [8, 8, 8],
            "num_heads": [1, 1, 1],
            "depth": [1, 2, 3],
            "mlp_ratio": [1.0, 1.0, 1.0],
            "drop_path_rate": [0.0, 0.0, 0.0],
        }
    ),
    "data2vec-vision": Case(VIT),
    "deit": Case(VIT),
    "dinat": Case({}, refused="natten"),
    "dinov2": Case(DINO),
    "dinov2_with_registers": Case(DINO),
    "donut-swin": Case(SWIN),
    "efficientnet": Case(
        {
            "image_size": SIZE,
            "width_coefficient": 0.1,
            "depth_coefficient": 0.1,
            "hidden_dim": 128,
            "strides": [1, 2],
            "kernel_sizes": [3, 3],
            "in_channels": [8, 8],
            "out_channels": [8, 8],
            "num_block_repeats": [1, 1],
            "expand_ratios": [1, 2],
        }
    ),
    "focalnet": Case(
        {
            "image_size": SIZE,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [1, 1],
            "focal_levels": [1, 1],
            "focal_windows": [3, 3],
        }
    ),
    "hgnet_v2": Case(
        {
            "embedding_size": 8,
            "depths": [1] * 4,
            "hidden_sizes": [8, 8, 8, 16],
            "stem_channels": [3, 4, 8],
            "stage_in_channels": [8] * 4,
            "stage_mid_channels": [4] * 4,
            "stage_out_channels": [8, 8, 8, 16],
            "stage_num_blocks": [1] * 4,
            "stage_downsample": [False, True, True, True],
            "stage_kernel_size": [3] * 4,
            "stage_light_block": [False] * 4,
            "stage_numb_of_layers": [1] * 4,
        }
    ),
    "hiera": Case(
        {
            "image_size": [SIZE, SIZE],
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "mlp_ratio": 2.0,
            "num_query_pool": 1,
            "masked_unit_size": [4, 4],
            "masked_unit_attention": [True, False],
        }
    ),
    "ijepa": Case(VIT),
    "imagegpt": Case({"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 17}, 8, clusters),
    "levit": Case(
        {
            "image_size": 64,
            "hidden_sizes": [16] * 3,
            "num_attention_heads": [1] * 3,
            "depths": [1] * 3,
            "key_dim": [8] * 3,
            "attention_ratio": [1] * 3,
            "mlp_ratio": [1] * 3,
        },
        size=64,
    ),
    "metaclip_2": Case({"vision_config": VIT, "text_config": TEXT | {"eos_token_id": 2}}),
    "mobilenet_v1": Case({"image_size": SIZE, "depth_multiplier": 0.125}, no_adapter="tf_padding"),
    "mobilenet_v2": Case({"image_size": SIZE, "depth_multiplier": 0.1}, no_adapter="tf_padding"),
    "mobilevit": Case(
        {
            "image_size": SIZE,
            "hidden_sizes": [8] * 3,
            "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 16],
            "mlp_ratio": 1.0,
            "num_attention_heads": 2,
        }
    ),
    "mobilevitv2": Case(
        {"image_size": 64, "width_multiplier": 0.1, "n_attn_blocks": [1] * 3, "base_attn_unit_dims": [16] * 3}, size=64
    ),
    "perceiver": Case(
        {
            "num_latents": 4,
            "d_latents": 8,
            "d_model": 8,
            "num_blocks": 1,
            "num_self_attends_per_block": 1,
            "num_self_attention_heads": 1,
            "num_cross_attention_heads": 1,
            "image_size": SIZE,
        }
    ),
    "poolformer": Case(FOUR | {"patch_sizes": [7, 3, 3, 3]}),
    "pp_lcnet": Case({"scale": 0.25, "class_expand": 16}),
    "pvt": Case(PVT | {"sequence_reduction_ratios": [2, 2, 1, 1]}),
    "pvt_v2": Case(PVT),
    "regnet": Case({"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "groups_width": 4}),
    "resnet": Case({"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}),
    "segformer": Case(
        {
            "hidden_sizes": [4, 8, 8, 16],
            "depths": [1] * 4,
            "num_attention_heads": [1, 1, 2, 2],
            "decoder_hidden_size": 8,
        }
    ),
    "shieldgemma2": Case({}, refused="asks a language model"),
    "siglip": Case({"vision_config": VIT, "text_config": TEXT}),
    "siglip2": Case(
        {"vision_config": NAFLEX, "text_config": TEXT},
        processor=lambda: hf.Siglip2ImageProcessor(patch_size=16, max_num_patches=4),
    ),
    "swiftformer": Case({"image_size": SIZE, "depths": [1] * 4, "embed_dims": [8] * 4, "mlp_ratio": 1}),
    "swin": Case(SWIN),
    "swinv2": Case(SWIN),
    "textnet": Case(
        {
            "stem_num_channels": 3,
            "stem_out_channels": 4,
            "hidden_sizes": [4, 4, 4, 8, 8],
            "conv_layer_kernel_sizes": [[[3, 3]]] * 4,
            "conv_layer_strides": [[2]] * 4,
        }
    ),
    "timm_wrapper": Case(
        {
            "architecture": "test_vit",
            "pretrained_cfg": {"num_classes": 3, "input_size": [3, SIZE, SIZE], "mean": [0.5] * 3, "std": [0.5] * 3},
            "model_args": {"img_size": SIZE},
        }
    ),
    "vit": Case(VIT),
    "vit_msn": Case(VIT),
}
QUICK = [
    "imagegpt",
    "levit",
    "mobilenet_v2",
    "pp_lcnet",
    "perceiver",
    "shieldgemma2",
    "siglip2",
    "timm_wrapper",
    "vit",
]
"""The odd ones, and the commonest."""


def names_of(kind):
    return MAPPING[kind] if isinstance(MAPPING[kind], tuple) else (MAPPING[kind],)


ALL = [(kind, name) for kind in CASES for name in names_of(kind)]
MARKS = [() if kind in QUICK and name == names_of(kind)[0] else pytest.mark.slow for kind, name in ALL]


def test_every_type_has_a_case():
    """A class that a new version of transformers brings is one that nobody has tried."""
    assert set(CASES) == set(MAPPING)


def configuration(kind):
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    config = hf.CONFIG_MAPPING[kind](**copy.deepcopy(CASES[kind].config), **labels)
    # Pvt's own default of 1,000 classes wins over names that it is given when it is made.
    config.num_labels = len(LABELS)
    config.id2label, config.label2id = labels["id2label"], labels["label2id"]
    return config


def save(kind, name, folder):
    torch.manual_seed(0)
    case = CASES[kind]
    model = getattr(hf, name)(configuration(kind))
    model.save_pretrained(folder)
    square = {"height": case.size, "width": case.size}
    make = case.processor or (lambda: hf.ViTImageProcessor(size=square))
    make().save_pretrained(folder)
    return model


def batch_of(peer, rows):
    return RoleTaggingCollator({"a": peer.processor})([identified(rows)[place] for place in range(2)])


def one_step(peer, rows):
    """A step of training, after which the peer says something else."""
    cohort = Cohort({"a": peer}, TASK, label_names=LABELS).train()
    batch = batch_of(peer, rows)
    loss = cohort(peer_inputs=batch["peer_inputs"], labels=batch["labels"]).loss
    loss.backward()
    trained = [weight for weight in cohort.parameters() if weight.grad is not None and weight.grad.any()]
    assert torch.isfinite(loss)
    assert trained
    with torch.no_grad():
        for weight in trained:
            weight.sub_(0.1 * weight.grad)
    return cohort, batch["peer_inputs"]


@torch.no_grad()
def said(peer, inputs):
    return TASK.outputs(peer.model.eval(), inputs["a"], ClassColumns("a"))


@pytest.mark.parametrize(
    ("kind", "name"), [pytest.param(*one, marks=mark) for one, mark in zip(ALL, MARKS, strict=True)]
)
def test_every_class(kind, name, tmp_path, train_rows):
    """A class that says its classes elsewhere, or comes back with a random head, shows only in the figures."""
    case = CASES[kind]
    if case.refused:
        configuration(kind).save_pretrained(tmp_path / "base")
        save_file({"weight": torch.zeros(1)}, tmp_path / "base" / "model.safetensors", {"format": "pt"})
        with pytest.raises(PeerError, match=f"peer 'a': .*{case.refused}"):
            load_peer("a", str(tmp_path / "base"), TASK)
        return
    save(kind, name, tmp_path / "base")
    peer = load_peer("a", str(tmp_path / "base"), TASK)
    assert type(peer.model).__name__ == name
    cohort, inputs = one_step(peer, train_rows)
    cohort.save_pretrained(tmp_path / "run")
    again = load_peer("a", str(tmp_path / "run" / "a"), TASK)
    torch.testing.assert_close(said(again, inputs), said(peer, inputs))
    other = load_peer("a", str(tmp_path / "base"), TASK)
    load_weights("a", other.model, tmp_path / "run" / "a")
    torch.testing.assert_close(said(other, inputs), said(peer, inputs))
    renewed = load_peer("a", str(tmp_path / "base"), TASK, labels=HeadLabels(["p", "q", "r", "s"]))
    assert said(renewed, inputs).shape == (2, 4)
    adapted = PeerSpec(str(tmp_path / "base"), peft="lora")
    if case.no_adapter:
        with pytest.raises(PeerError, match=f"peer 'a'.*{case.no_adapter}"):
            load_peer("a", adapted, TASK)
    else:
        one_step(load_peer("a", adapted, TASK), train_rows)


# What modules return


class Says(nn.Module):
    """A linear peer that returns its logits in some wrapping."""

    def __init__(self, wrap):
        super().__init__()
        self.layer, self.wrap = nn.Linear(3, len(LABELS)), wrap

    def forward(self, pixel_values):
        return self.wrap(self.layer(pixel_values.mean((2, 3))))


@pytest.mark.parametrize(
    "wrap",
    [lambda x: x, lambda x: (x, x.detach()), lambda x: [x], lambda x: {"logits": x}, lambda x: {"out": x, "aux": x}],
)
def test_logits_are_found_in_what_a_module_returns(wrap, train_rows):
    """A tuple has no `logits`; taken whole it fails far from the peer that returned it."""
    one_step(LoadedPeer(Says(wrap), tiny_processor(), PeerSpec("own")), train_rows)


@pytest.mark.parametrize("wrap", [lambda x: {"scores": x}, lambda x: (x[0],), lambda x: None, lambda x: x[..., None]])
def test_what_holds_no_logits_is_named(wrap, train_rows):
    """A traceback out of a loss says nothing of the peer."""
    with pytest.raises(PeerError, match=r"peer 'a': Says must return logits \[B, C\].*it returned"):
        one_step(LoadedPeer(Says(wrap), tiny_processor(), PeerSpec("own")), train_rows)


def test_return_dict_false(tmp_path, train_rows):
    """A configuration that asks for tuples hides the names of the outputs."""
    model = save("vit", "ViTForImageClassification", tmp_path)
    model.config.return_dict = False
    model.config.save_pretrained(tmp_path)
    one_step(load_peer("a", str(tmp_path), TASK), train_rows)


@pytest.mark.parametrize("kind", ["vit", "timm_wrapper"])
def test_models_of_one_channel_see_grey(kind, tmp_path, train_rows):
    """Three channels into one: an error in the middle of the first batch."""
    change = {"num_channels": 1} if kind == "vit" else {"model_args": {"img_size": SIZE, "in_chans": 1}}
    config = copy.deepcopy(CASES[kind].config) | change
    torch.manual_seed(0)
    model = getattr(hf, MAPPING[kind])(hf.CONFIG_MAPPING[kind](**config, id2label=dict(enumerate(LABELS))))
    model.save_pretrained(tmp_path / "base")
    hf.ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(tmp_path / "base")
    peer = load_peer("a", str(tmp_path / "base"), TASK)
    cohort, inputs = one_step(peer, train_rows)
    assert inputs["a"]["pixel_values"].shape == (2, 1, SIZE, SIZE)
    cohort.save_pretrained(tmp_path / "run")
    again = load_peer("a", str(tmp_path / "run" / "a"), TASK)
    seen = batch_of(again, train_rows)["peer_inputs"]
    torch.testing.assert_close(seen["a"]["pixel_values"], inputs["a"]["pixel_values"])
    config = copy.deepcopy(CASES["vit"].config) | {"num_channels": 5}
    hf.ViTForImageClassification(hf.ViTConfig(**config)).save_pretrained(tmp_path / "five")
    tiny_processor().save_pretrained(tmp_path / "five")
    with pytest.raises(PeerError, match="peer 'a' takes images of 5 channels"):
        load_peer("a", str(tmp_path / "five"), TASK)
