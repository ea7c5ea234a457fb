"""Train the embedded readers, a small CLIP and a small SigLIP: `python recipes/embedded/make_readers.py`.

They learn from images of the `pretrain` split and captions with the names of their classes. With the same libraries,
machine and number of threads, retraining gives the same weights up to float noise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from make_peers import (
    BATCH_SIZE,
    EPOCHS,
    HERE,
    SEED,
    WEIGHT_DECAY,
    choose_rows,
    preprocess,
    shift_and_flip,
)
from small_peers import Training, fit, write_peers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional
from transformers import (
    BaseImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    logging,
    pipeline,
)

SIZE = {"height": 28, "width": 28}
LONGEST = 32
"""Tokens of a text."""

NAMES = {
    "T-shirt/top": ("T-shirt/top", "T-shirt", "top"),
    "Trouser": ("Trouser", "trousers", "pants"),
    "Pullover": ("Pullover", "sweater", "jumper"),
    "Dress": ("Dress", "gown"),
    "Coat": ("Coat", "jacket"),
    "Sandal": ("Sandal", "open shoe"),
    "Shirt": ("Shirt", "blouse"),
    "Sneaker": ("Sneaker", "trainer", "running shoe"),
    "Bag": ("Bag", "handbag", "purse"),
    "Ankle boot": ("Ankle boot", "boot"),
}
"""What captions call the classes."""
TEMPLATES = (
    "This is a photo of {}.",
    "a photo of a {}.",
    "a picture of the {}.",
    "a small grey {}.",
    "{}",
    "one {} from a catalogue.",
)


def make_tokenizer() -> CLIPTokenizer:
    """CLIP's kind of byte pairs, learned from all captions, with every letter for words that are in none."""
    inner = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 200, special_tokens=special, end_of_word_suffix="</w>", show_progress=False
    )
    captions = [template.format(name) for template in TEMPLATES for names in NAMES.values() for name in names]
    inner.train_from_iterator(captions, trainer)
    learned = json.loads(inner.to_str())["model"]
    return CLIPTokenizer(vocab=learned["vocab"], merges=[tuple(pair) for pair in learned["merges"]])


VISION = {
    "image_size": 28,
    "patch_size": 7,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def text_settings(tokenizer: CLIPTokenizer, longest: int) -> dict:
    """Of a text tower of two layers."""
    return {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": longest,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def build_clip(tokenizer: CLIPTokenizer) -> PreTrainedModel:
    """A CLIP of a ViT of 16 patches of 7x7 pixels."""
    return CLIPModel(
        CLIPConfig(vision_config=VISION, text_config=text_settings(tokenizer, LONGEST), projection_dim=48)
    )


def build_siglip(tokenizer: CLIPTokenizer) -> PreTrainedModel:
    """A SigLIP of the same size, which begins with few matches; its pipeline fills texts up to 64 tokens."""
    model = SiglipModel(SiglipConfig(vision_config=VISION, text_config=text_settings(tokenizer, 64)))
    with torch.no_grad():
        model.logit_scale.fill_(np.log(10))
        model.logit_bias.fill_(-3)
    return model


def clip_loss(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Which text belongs to an image, and which images to a text, of `[B, 10]`; several images may share one."""
    matches = functional.one_hot(classes, logits.shape[1]).to(logits.dtype)
    present = matches.sum(0) > 0
    of_texts = -(matches * logits.log_softmax(0)).sum(0)[present] / matches.sum(0)[present]
    return (functional.cross_entropy(logits, classes) + of_texts.mean()) / 2


def siglip_loss(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Whether an image and a text belong together, for all of `[B, 10]`."""
    signs = 2.0 * functional.one_hot(classes, logits.shape[1]) - 1
    return -functional.logsigmoid(signs * logits).sum(1).mean()


@dataclass(frozen=True)
class ReaderRecipe:
    """How one reader is made.

    Args:
        knows (`tuple[str, ...]`): classes whose rows it sees all of.
        one_in (`int`): of the other classes it sees one row in so many.
        build (`Callable`): tokenizer to a model with random weights.
        loss (`Callable`): of logits `[B, 10]` and classes `[B]`.
        processor (`BaseImageProcessor`): what turns PIL images into its `pixel_values`.
        padding (`dict`): how texts are filled up, as the stock pipeline does it.
    """

    knows: tuple[str, ...]
    one_in: int
    build: Callable[[CLIPTokenizer], PreTrainedModel]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    processor: BaseImageProcessor
    padding: dict


PIXELS = {"size": SIZE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_convert_rgb": True}
READERS = {
    "clip": ReaderRecipe(
        knows=("Pullover", "Dress", "Sandal", "Ankle boot"),
        one_in=9,
        build=build_clip,
        loss=clip_loss,
        processor=CLIPImageProcessor(do_center_crop=False, **PIXELS),
        padding={"padding": True},
    ),
    "siglip": ReaderRecipe(
        knows=("T-shirt/top", "Coat", "Sneaker", "Bag"),
        one_in=6,
        build=build_siglip,
        loss=siglip_loss,
        processor=SiglipImageProcessor(**PIXELS),
        padding={"padding": "max_length", "max_length": 64},
    ),
}


def train(
    model: PreTrainedModel, tokenizer: CLIPTokenizer, pixels: torch.Tensor, labels: torch.Tensor, recipe: ReaderRecipe
) -> None:
    """Train both towers with AdamW on a one-cycle schedule, in place; every step asks for the classes in new words."""
    words = np.random.default_rng(SEED)
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]

    def loss(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        texts = [words.choice(TEMPLATES).format(words.choice(names)) for names in NAMES.values()]
        tokens = tokenizer(texts, return_tensors="pt", **recipe.padding)
        logits = model(pixel_values=shift_and_flip(pixels[rows], generator), **tokens).logits_per_image
        return recipe.loss(logits, labels[rows])

    training = Training(EPOCHS, BATCH_SIZE, WEIGHT_DECAY, 2e-3, SEED)
    fit(model, loss, len(labels), training, name=model.config.model_type, groups=groups)


def predict(folder: Path, images: list, names: list[str]) -> torch.Tensor:
    """Class probabilities `[rows, classes]` of a saved reader, by the stock pipeline."""
    classify = pipeline("zero-shot-image-classification", model=str(folder), device="cpu")
    found = classify(images, candidate_labels=names, batch_size=1)
    scores = [{guess["label"]: guess["score"] for guess in one} for one in found]
    likely = torch.tensor([[one[name] for name in names] for one in scores])
    return likely / likely.sum(1, keepdim=True)


CARD = """---
license: mit
library_name: transformers
pipeline_tag: zero-shot-image-classification
datasets:
- zalando-datasets/fashion_mnist
tags:
- fashion-mnist
---

# {name}: a small reader of names on Fashion-MNIST

A {family} with {parameters:,} parameters for 28x28 images, trained from scratch by `recipes/embedded/make_readers.py`
of hf-mutual-kd on images and captions such as "This is a photo of Ankle boot." It is a starting point to show mutual
knowledge transfer with, no general image-text model: it knows the ten classes, by a few names each.

- **Trained on** {rows:,} images of the `pretrain` split of hf-mutual-kd's Fashion-MNIST subset: all {known_rows:,}
  of the classes {known}, and one in {one_in} of the others. {epochs} epochs, one-cycle AdamW, shifts by
  one pixel and mirroring.
- **Zero-shot accuracy** on the 2,000 images of the `validation` split: {accuracy:.1f} % ({known_accuracy:.1f} % on the
  classes that it saw all of, {other_accuracy:.1f} % on the others).
- **Data**: Fashion-MNIST, Copyright 2017 Zalando SE, MIT licence.
"""


def make_reader(name: str, recipe: ReaderRecipe, data: Dataset, folder: Path) -> dict:
    """Train one reader and save it as an ordinary `save_pretrained` folder; facts for its card come back."""
    names = data.features["label"].names
    labels = np.array(data["label"])
    known = [names.index(one) for one in recipe.knows]
    position = list(READERS).index(name)
    rows = choose_rows(labels, known, recipe.one_in, np.random.Generator(np.random.PCG64([SEED, 10 + position])))
    torch.manual_seed(SEED + position)
    tokenizer = make_tokenizer()
    model = recipe.build(tokenizer)
    pixels = preprocess(recipe.processor, data.select(rows)["image"][:])
    train(model, tokenizer, pixels, torch.tensor(labels[rows]), recipe)
    for part in (model, tokenizer, recipe.processor):
        part.save_pretrained(folder)
    return {
        "name": name,
        "family": type(model).__name__.removesuffix("Model"),
        "parameters": model.num_parameters(),
        "rows": len(rows),
        "known": ", ".join(recipe.knows),
        "known_rows": int(np.isin(labels[rows], known).sum()),
        "one_in": recipe.one_in,
        "epochs": EPOCHS,
    }


def main(arguments: list[str] | None = None) -> int:
    """Train, save, measure and describe both readers; print their accuracies and that of their mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE / "fashion_mnist", help="folder that make_data.py wrote")
    parser.add_argument("--output", type=Path, default=HERE / "readers", help="folder of the readers' folders")
    options = parser.parse_args(arguments)
    for split in ("pretrain", "validation"):
        if not (options.data / f"{split}.parquet").is_file():
            parser.error(f"{options.data} holds no {split}.parquet; run make_data.py first")
    logging.disable_progress_bar()
    pretrain = Dataset.from_parquet(str(options.data / "pretrain.parquet"))
    validation = Dataset.from_parquet(str(options.data / "validation.parquet"))
    names, images = validation.features["label"].names, validation["image"][:]
    write_peers(
        options.output,
        READERS,
        CARD,
        make=lambda name, recipe, folder: make_reader(name, recipe, pretrain, folder),
        predict=lambda folder: predict(folder, images, names),
        validation=validation,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
