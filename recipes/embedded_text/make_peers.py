"""Train the embedded peers, small specialists with a tokenizer each: `python recipes/embedded_text/make_peers.py`.

They learn from the rows that `make_data.py --pretrain FILE` writes alone, which no split of the embedded data holds.
With the same libraries, machine and number of threads, retraining gives the same weights up to float noise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    logging,
)

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from small_peers import Training, fit, write_peers  # noqa: E402 - beside this folder, which is no package

SEED = 20251022
EPOCHS, BATCH_SIZE, WEIGHT_DECAY = 12, 32, 0.05
WINDOW = 8
"""Tokens to each side that count as occurring together."""


@dataclass(frozen=True)
class PeerRecipe:
    """How one peer is made.

    Args:
        knows (`tuple[str, ...]`): classes whose rows it sees all of.
        one_in (`int`): of the other classes it sees one row in so many.
        tokenizer (`Callable`): texts to the tokenizer that it learns of them.
        build (`Callable`): the tokenizer and the label names, by id and by name, to a model with random weights.
        learning_rate (`float`): peak of its one-cycle schedule.
    """

    knows: tuple[str, ...]
    one_in: int
    tokenizer: Callable[[list[str]], PreTrainedTokenizerFast]
    build: Callable[[PreTrainedTokenizerFast, dict], PreTrainedModel]
    learning_rate: float


def word_pieces(texts: list[str]) -> PreTrainedTokenizerFast:
    """BERT's: lower case, 2,200 pieces of words, at most 64 tokens of a text."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=2200, special_tokens=special))
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=64,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def byte_pairs(texts: list[str]) -> PreTrainedTokenizerFast:
    """RoBERTa's: case is kept, 2,500 pairs of bytes, at most 96 tokens of a text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=2500, special_tokens=special, initial_alphabet=sorted(alphabet))
    )
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=96,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
        bos_token="<s>",
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )


def unigrams(texts: list[str]) -> PreTrainedTokenizerFast:
    """ALBERT's: 4,000 likely pieces, spaces belong to words, at most 80 tokens of a text."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=4000, special_tokens=special, unk_token="<unk>", max_piece_length=12)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $0 [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", made.token_to_id("[CLS]")), ("[SEP]", made.token_to_id("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=80,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def build_bert(tokenizer: PreTrainedTokenizerFast, labels: dict) -> PreTrainedModel:
    """A BERT of two layers."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        **labels,
    )
    return BertForSequenceClassification(config)


def build_roberta(tokenizer: PreTrainedTokenizerFast, labels: dict) -> PreTrainedModel:
    """A RoBERTa of two layers; its positions begin behind that of the padding."""
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=tokenizer.model_max_length + tokenizer.pad_token_id + 1,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **labels,
    )
    return RobertaForSequenceClassification(config)


def build_albert(tokenizer: PreTrainedTokenizerFast, labels: dict) -> PreTrainedModel:
    """An ALBERT, whose three layers are one."""
    config = AlbertConfig(
        vocab_size=len(tokenizer),
        embedding_size=48,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=tokenizer.model_max_length,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        classifier_dropout_prob=0.1,
        **labels,
    )
    return AlbertForSequenceClassification(config)


PEERS = {
    "bert": PeerRecipe(("net", "games", "science"), 4, word_pieces, build_bert, 2e-3),
    "roberta": PeerRecipe(("devel", "sound", "x11"), 4, byte_pairs, build_roberta, 2e-3),
    "albert": PeerRecipe(("admin", "graphics", "math", "text"), 4, unigrams, build_albert, 2e-3),
}


def choose_rows(labels: np.ndarray, known: list[int], one_in: int, generator: np.random.Generator) -> np.ndarray:
    """All labelled rows of the known classes and one in so many of the others, in random order."""
    order = generator.permutation(np.flatnonzero(labels >= 0))
    known_here = np.isin(labels[order], known)
    return order[known_here | (np.cumsum(~known_here) % one_in == 0)]


def word_vectors(tokens: list[list[int]], vocabulary: int, size: int) -> torch.Tensor:
    """
    Vectors `[vocabulary, size]` of which neighbours are alike: the largest directions of the positive pointwise
    mutual information of tokens that occur within [`WINDOW`] of each other, scaled to the spread of fresh embeddings.
    """
    gap = [-1] * WINDOW
    row = np.concatenate([np.asarray(text + gap) for text in tokens])
    together = np.zeros(vocabulary * vocabulary, np.float32)
    for step in range(1, WINDOW + 1):
        left, right = row[:-step], row[step:]
        both = (left >= 0) & (right >= 0)
        together += np.bincount(left[both] * vocabulary + right[both], minlength=len(together)) / np.float32(step)
    together = together.reshape(vocabulary, vocabulary)
    together = together + together.T
    share = together.sum(1) + 1.0
    information = np.log(np.maximum(together, 1e-12) * share.sum() / np.outer(share, share))
    matrix = torch.from_numpy(np.where(together > 0, np.maximum(information, 0), 0).astype(np.float32))
    torch.manual_seed(SEED)
    directions, strength, _ = torch.svd_lowrank(matrix, q=size + 16, niter=4)
    vectors = directions[:, :size] * strength[:size].sqrt()
    return vectors / vectors.std() * 0.05


def train(model: PreTrainedModel, tokenizer: Any, texts: list[str], labels: torch.Tensor, peak: float) -> None:
    """Train with AdamW on a one-cycle schedule, in place."""

    def loss(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        batch = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
        return functional.cross_entropy(model(**batch).logits, labels[rows])

    training = Training(EPOCHS, BATCH_SIZE, WEIGHT_DECAY, peak, SEED)
    fit(model, loss, len(labels), training, name=model.config.model_type)


@torch.no_grad()
def predict(folder: Path, texts: list[str]) -> torch.Tensor:
    """Class probabilities `[rows, classes]` of a saved peer, loaded as a user would load it."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = [texts[start : start + 250] for start in range(0, len(texts), 250)]
    batches = (tokenizer(part, padding=True, truncation=True, return_tensors="pt") for part in parts)
    return torch.cat([model(**batch).logits.softmax(-1) for batch in batches])


CARD = """---
license: other
license_name: of-each-package
license_link: https://www.debian.org/social_contract#guidelines
library_name: transformers
pipeline_tag: text-classification
metrics:
- accuracy
---

# {name}: a small specialist on the sections of Debian's packages

A {family} with {parameters:,} parameters and a tokenizer of its own ({tokens:,} tokens, texts of at most {longest}),
trained from scratch by `recipes/embedded_text/make_peers.py` of hf-mutual-kd. It is a starting point to show mutual
knowledge transfer with, not a good classifier.

- **Trained on** {rows:,} descriptions of packages of Debian 12 that the embedded data does not hold: all
  {known_rows:,} of the sections {known}, and one in {one_in} of the others; {epochs} epochs. Its tokenizer
  and its first word vectors come from the descriptions of {all_rows:,} packages of all sections, without labels.
- **Accuracy** on the {validation_rows:,} rows of the `validation` split: {accuracy:.1f} % ({known_accuracy:.1f} %
  on the sections that it saw all of, {other_accuracy:.1f} % on the others).
- **Data**: descriptions of Debian packages, by their maintainers, free by the Debian Free Software Guidelines.
"""


def make_peer(name: str, recipe: PeerRecipe, data: Dataset, folder: Path) -> dict:
    """Train one peer and save it as an ordinary `save_pretrained` folder, yet without its card.

    Returns:
        `dict`: facts for its card.
    """
    names = data.features["label"].names
    texts, labels = data["text"][:], np.array(data["label"])
    known = [names.index(one) for one in recipe.knows]
    position = list(PEERS).index(name)
    rows = choose_rows(labels, known, recipe.one_in, np.random.Generator(np.random.PCG64([SEED, position])))
    tokenizer = recipe.tokenizer(texts)
    torch.manual_seed(SEED + position)
    labels_of = {"id2label": dict(enumerate(names)), "label2id": {one: place for place, one in enumerate(names)}}
    model = recipe.build(tokenizer, {"num_labels": len(names), **labels_of})
    words = model.get_input_embeddings().weight
    with torch.no_grad():
        words.copy_(
            word_vectors(tokenizer(texts, add_special_tokens=False, truncation=True)["input_ids"], *words.shape)
        )
    train(model, tokenizer, [texts[row] for row in rows], torch.tensor(labels[rows]), recipe.learning_rate)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "name": name,
        "family": type(model).__name__.removesuffix("ForSequenceClassification"),
        "parameters": model.num_parameters(),
        "tokens": len(tokenizer),
        "longest": tokenizer.model_max_length,
        "rows": len(rows),
        "all_rows": len(texts),
        "known": ", ".join(recipe.knows),
        "known_rows": int(np.isin(labels[rows], known).sum()),
        "one_in": recipe.one_in,
        "epochs": EPOCHS,
    }


def main(arguments: list[str] | None = None) -> int:
    """Train, save, measure and describe all peers; print their accuracies and that of their mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pretrain", type=Path, help="what make_data.py --pretrain wrote")
    parser.add_argument("--data", type=Path, default=HERE / "debian_sections", help="folder that make_data.py wrote")
    parser.add_argument("--output", type=Path, default=HERE / "peers", help="folder of the peers' folders")
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    pretrain = Dataset.from_parquet(str(options.pretrain))
    validation = Dataset.from_parquet(str(options.data / "validation.parquet"))
    texts = validation["text"][:]
    write_peers(
        options.output,
        PEERS,
        CARD,
        make=lambda name, recipe, folder: make_peer(name, recipe, pretrain, folder) | {"validation_rows": len(texts)},
        predict=lambda folder: predict(folder, texts),
        validation=validation,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
