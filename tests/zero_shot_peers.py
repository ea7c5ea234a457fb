"""Tiny image-text models with their tokenizer, as folders; weights are random but far from flat."""

import string
import tempfile
from pathlib import Path

import torch
import transformers as hf
from conftest import LABELS, SIZE, tiny_processor

LETTERS = string.ascii_lowercase + string.digits + ".,'-/"
VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": SIZE,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 100,
    "max_position_embeddings": 77,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def letter_tokenizer() -> hf.CLIPTokenizer:
    """A token for each letter, within a word and at its end."""
    tokens = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    return hf.CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[])


def _clip():
    return hf.CLIPModel(hf.CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=8))


def _siglip():
    return hf.SiglipModel(hf.SiglipConfig(vision_config=VISION, text_config=TEXT))


def _altclip():
    text = {**TEXT, "max_position_embeddings": 80, "project_dim": 8, "type_vocab_size": 1}
    return hf.AltCLIPModel(hf.AltCLIPConfig(vision_config=VISION, text_config=text, projection_dim=8))


def _chinese_clip():
    text = {**TEXT, "type_vocab_size": 2}
    return hf.ChineseCLIPModel(hf.ChineseCLIPConfig(vision_config=VISION, text_config=text, projection_dim=8))


def _metaclip():
    return hf.MetaClip2Model(hf.MetaClip2Config(vision_config=VISION, text_config=TEXT, projection_dim=8))


def _siglip2():
    vision = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 4}
    return hf.Siglip2Model(hf.Siglip2Config(vision_config=vision, text_config=TEXT))


KINDS = {
    "clip": _clip,
    "siglip": _siglip,
    "siglip2": _siglip2,
    "altclip": _altclip,
    "chinese_clip": _chinese_clip,
    "metaclip": _metaclip,
}


def write_reader(folder: Path, kind: str = "clip", tokenizer: bool = True) -> str:
    """A checkpoint of this kind."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = KINDS[kind]()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    processor = tiny_processor()
    if kind == "siglip2":
        processor = hf.Siglip2ImageProcessor(patch_size=8, max_num_patches=4)
    processor.save_pretrained(folder)
    if tokenizer:
        letter_tokenizer().save_pretrained(folder)
    return str(folder)


def reader_cohort(kinds=("clip", "siglip")):
    """A cohort of them that reads the classes of `conftest.py`."""
    from hf_mutual_kd import Cohort

    with tempfile.TemporaryDirectory() as folder:
        peers = {kind: write_reader(Path(folder, kind), kind) for kind in kinds}
        return Cohort.from_pretrained(peers, label_names=LABELS)
