"""New heads on encoders: which checkpoints get one, that the encoder arrives whole, and that the result is a model."""

import json
import logging

import pytest
import torch
import transformers as hf
from conftest import LABELS, SIZE, tiny_processor, tiny_vit
from safetensors.torch import load_file, save_file
from saliency_peers import FRAME, VIDEO

from hf_mutual_kd import TASKS, Cohort, PeerError, PeerSpec
from hf_mutual_kd.distillation.label_alignment import label_list
from hf_mutual_kd.peers.head_labels import HeadLabels
from hf_mutual_kd.peers.loading import load_peer, save_peer

VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 2 * SIZE,
    "patch_size": 16,
}
DINO = {key: value for key, value in VIT.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
MAE = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}
STAGES = {"hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1]}

ENCODERS = {
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**DINO)),
    "mae": lambda: hf.ViTMAEForPreTraining(hf.ViTMAEConfig(**VIT, **MAE)),
    "beit": lambda: hf.BeitForMaskedImageModeling(hf.BeitConfig(**VIT)),
    "clip": lambda: hf.CLIPModel(hf.CLIPConfig(vision_config=VIT, text_config=TEXT)),
    "clip tower": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**VIT)),
    "clip projection": lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**VIT)),
    "siglip": lambda: hf.SiglipModel(hf.SiglipConfig(vision_config=VIT, text_config=TEXT)),
    "siglip tower": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**VIT)),
    "ijepa": lambda: hf.IJepaModel(hf.IJepaConfig(**VIT)),
    "dinov3": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VIT)),
    "dinov3 convnext": lambda: hf.DINOv3ConvNextModel(hf.DINOv3ConvNextConfig(**STAGES)),
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**VIT)),
    "resnet": lambda: hf.ResNetBackbone(hf.ResNetConfig(embedding_size=4, **STAGES, layer_type="basic")),
}
PIXELS = torch.randn(3, 3, 2 * SIZE, 2 * SIZE, generator=torch.Generator().manual_seed(0))


def checkpoint(make, folder):
    """An encoder on disk, with weights that no initialisation draws."""
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3)
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


def load(folder, task, new=None):
    return load_peer("mine", folder, TASKS[task](), labels=HeadLabels(new, LABELS))


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_become_classifiers(kind, tmp_path):
    """A key that is renamed on the way leaves the encoder random: the head learns, the pretraining is lost."""
    source = checkpoint(ENCODERS[kind], tmp_path / "source")
    peer = load(source, "image-classification")
    assert peer.new_head
    assert label_list(peer.model.config) == LABELS
    assert peer.model.eval()(pixel_values=PIXELS).logits.shape == (3, len(LABELS))
    # All weights were shifted by 0.3, which no drawn weight is.
    means = {key: weight.mean() for key, weight in peer.model.named_parameters() if weight.numel() > 1}
    drawn = [key for key, mean in means.items() if abs(mean - 0.3) > 0.25 and abs(mean - 1.3) > 0.25]
    assert {key.split(".")[0] for key in drawn if "pool" not in key} == {"classifier"}
    save_peer(peer.model, peer.processor, tmp_path / "trained", None)
    again = load_peer("mine", str(tmp_path / "trained"), TASKS["image-classification"]())
    assert not again.new_head
    torch.testing.assert_close(again.model.state_dict(), peer.model.state_dict(), rtol=0, atol=0)
    assert hf.AutoModelForImageClassification.from_pretrained(tmp_path / "trained").config.num_labels == len(LABELS)


@pytest.mark.parametrize("kind", ["dinov2", "beit", "dinov3 convnext"])
def test_encoders_become_segmenters(kind, tmp_path):
    """A backbone that is refused, or loaded under a head of other levels, has to be joined by hand."""
    source = checkpoint(ENCODERS[kind], tmp_path / "source")
    peer = load(source, "semantic-segmentation")
    assert peer.new_head
    peer.model.eval()
    maps = peer.model(pixel_values=PIXELS).logits
    assert maps.shape[:2] == (3, len(LABELS))
    kept = load_file(tmp_path / "source" / "model.safetensors")
    ours = peer.model.state_dict()
    name = next(key for key in kept if "patch_embed" in key or "embedder" in key or "downsample_layers" in key)
    place = next(key for key in ours if key.endswith(name.split(".", 1)[1]) and ours[key].shape == kept[name].shape)
    torch.testing.assert_close(ours[place], kept[name])
    save_peer(peer.model, peer.processor, tmp_path / "trained", None)
    again = load_peer("mine", str(tmp_path / "trained"), TASKS["semantic-segmentation"]())
    torch.testing.assert_close(again.model.state_dict(), ours, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["videomae", "vjepa2", "convnext"])
def test_encoders_become_saliency_models(kind, tmp_path):
    """The commonest video encoders of the Hub are no saliency models; their decoder has to come from somewhere."""
    config = (VIDEO | FRAME)[kind]()
    if kind == "videomae":
        config.num_hidden_layers, config.decoder_hidden_size, config.decoder_num_hidden_layers = 4, 12, 1
        config.decoder_num_attention_heads, config.decoder_intermediate_size = 2, 12
    make = {"videomae": hf.VideoMAEForPreTraining, "vjepa2": hf.VJEPA2Model, "convnext": hf.ConvNextBackbone}[kind]
    peer = load_peer("mine", checkpoint(lambda: make(config), tmp_path), TASKS["video-saliency"]())
    assert peer.new_head
    assert peer.processor.image_mean == [0.5, 0.5, 0.5]
    assert peer.model(peer.processor([torch.zeros(4, 20, 30, 3).byte().numpy()])["pixel_values"]).logits.ndim == 4


def test_what_is_refused(tmp_path):
    """A head on a random or foreign encoder trains from a random start and looks pretrained."""
    source = checkpoint(ENCODERS["dinov2"], tmp_path / "dino")
    with pytest.raises(PeerError, match="peer 'mine' is a Dinov2Model, which has no head.*label_names"):
        load_peer("mine", source, TASKS["image-classification"]())
    weights = load_file(tmp_path / "dino" / "model.safetensors")
    lost = next(key for key in weights if ".2." in key)
    save_file({key: value for key, value in weights.items() if key != lost}, tmp_path / "dino" / "model.safetensors")
    with pytest.raises(PeerError, match="peer 'mine'.*lacks weights of its encoder .*layer.2"):
        load(source, "image-classification")
    source = checkpoint(lambda: hf.VJEPA2Model(VIDEO["vjepa2"]()), tmp_path / "vjepa")
    with pytest.raises(PeerError, match="is a VJEPA2Model, not a model for image-classification"):
        load(source, "image-classification")
    source = checkpoint(tiny_vit, tmp_path / "vit")
    with pytest.raises(PeerError, match="is a ViTForImageClassification, not a model for semantic-segmentation"):
        load(source, "semantic-segmentation", new=LABELS)


def test_classes_of_other_sizes_are_the_heads_alone(tmp_path):
    """`ignore_mismatched_sizes` also leaves patch embeddings random where a configuration was edited."""
    source = checkpoint(tiny_vit, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"image_size": 3 * SIZE}))
    with pytest.raises(PeerError, match="lacks weights of its encoder .*position_embeddings"):
        load(source, "image-classification", new=["a", "b"])


def test_cohort_says_whose_head_is_new(tmp_path):
    """A random head that counts as a teacher teaches chance; adapters and their files must know of it, too."""
    encoder = checkpoint(ENCODERS["dinov2"], tmp_path / "dino")
    whole = checkpoint(tiny_vit, tmp_path / "vit")
    peers = {"dino": PeerSpec(encoder, peft="lora"), "vit": whole}
    cohort = Cohort.from_pretrained(peers, label_names=LABELS)
    assert cohort.new_heads == {"dino"}
    cohort.save_pretrained(tmp_path / "run")
    again = Cohort.from_pretrained({name: tmp_path / "run" / name for name in peers}, label_names=LABELS)
    assert again.new_heads == set()
    said = [one.peers["dino"].eval()(pixel_values=PIXELS).logits for one in (cohort, again)]
    torch.testing.assert_close(said[1], said[0])


def timm_folder(folder, model, **config):
    """A checkpoint as timm pushes it."""
    folder.mkdir()
    kept = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    settings = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    config |= {"architecture": "resnet10t", "pretrained_cfg": settings | {"crop_pct": 1.0}}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_timm_checkpoints(tmp_path):
    """`num_classes` in `model_args` is given twice to timm; a backbone without classes has no head at all."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=5)
    source = timm_folder(tmp_path / "args", model, num_classes=5, model_args={"num_classes": 5})
    whole = load_peer("mine", source, TASKS["image-classification"]())
    assert (whole.model.config.num_labels, whole.new_head) == (5, False)
    assert load(source, "image-classification", new=LABELS).model.config.num_labels == len(LABELS)
    save_peer(whole.model, whole.processor, tmp_path / "saved", None)
    again = load_peer("mine", str(tmp_path / "saved"), TASKS["image-classification"]())
    torch.testing.assert_close(again.model.timm_model.state_dict(), model.state_dict(), rtol=0, atol=0)
    backbone = timm.create_model("resnet10t", num_classes=0)
    peer = load(timm_folder(tmp_path / "backbone", backbone, num_classes=0), "image-classification")
    assert peer.new_head
    assert label_list(peer.model.config) == LABELS
    torch.testing.assert_close(peer.model.timm_model.conv1.state_dict(), backbone.conv1.state_dict())


def test_weights_that_do_not_fit_are_reported_once_for_each_peer(tmp_path):
    """The same table of keys above every arm of every seed, in which a new one would not be seen."""
    folder = checkpoint(tiny_vit, tmp_path)
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addHandler(handler)
    try:
        for _ in range(2):
            Cohort.from_pretrained({"one": folder, "two": folder}, label_names=["a", "b"], label_alignment="new_head")
    finally:
        logger.removeHandler(handler)
    assert [text.count("MISMATCH") > 0 for text in said] == [True, True]
    assert logger.filters == []
