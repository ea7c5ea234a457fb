"""Tiny text classifiers, each with a tokenizer of its own kind, and texts that a single word gives away."""

from functools import partial

import numpy as np
import torch
from data_sets import save_drawn
from datasets import ClassLabel, Dataset, Features, List, Value
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from hf_mutual_kd import Cohort, LoadedPeer, PeerSpec

TOPICS = ["games", "mail", "sound"]
WORDS = {
    "games": ["chess", "puzzle", "arcade"],
    "mail": ["inbox", "letter", "spam"],
    "sound": ["music", "synth", "mixer"],
}
COMMON = ["a", "program", "for", "and", "with", "library", "of", "the", "<b>fast</b>", "simple"]
LETTERS = list("abcdefghijklmnopqrstuvwxyz<>/ .&'\"")
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def word_tokenizer(longest: int = 16) -> PreTrainedTokenizerFast:
    """Whole words, as BERT's special tokens stand around them."""
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *COMMON, *(word for words in WORDS.values() for word in words)]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(known)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=longest,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def letter_tokenizer(end: str | None = "<end>") -> PreTrainedTokenizerFast:
    """Letters; it says neither what pads nor how long a text may be, as those of many decoders."""
    known = ["<end>", "<unk>", *LETTERS]
    made = Tokenizer(models.WordLevel({letter: place for place, letter in enumerate(known)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token=end)


def labels_of(names) -> dict:
    return {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}


def tiny_text_peer(kind: str, names=TOPICS):
    """A model with its tokenizer: `bert` reads 16 words, `roberta` 12, `gpt2` 64 letters."""
    torch.manual_seed(len(kind))
    if kind == "bert":
        tokenizer = word_tokenizer()
        config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=16, **SMALL, **labels_of(names))
        return BertForSequenceClassification(config), tokenizer
    if kind == "roberta":
        tokenizer = word_tokenizer(longest=12)
        config = RobertaConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=14,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
            **SMALL,
            **labels_of(names),
        )
        return RobertaForSequenceClassification(config), tokenizer
    tokenizer = letter_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        **labels_of(names),
    )
    return GPT2ForSequenceClassification(config), tokenizer


def save_text_peers(folder, kinds=("bert", "roberta"), names=TOPICS) -> dict[str, str]:
    """Folders of them, by their kinds."""
    for kind in kinds:
        for part in tiny_text_peer(kind, names):
            part.save_pretrained(folder / kind)
    return {kind: str(folder / kind) for kind in kinds}


def text_rows(count: int, seed: int = 0, pairs: bool = False, one_in: int = 1, several: bool = False) -> Dataset:
    """Texts of 4 to 20 words, one of them of the topic; one in so many rows has its label, `several` in a list."""
    draw = np.random.default_rng(seed)
    rows = []
    for place in range(count):
        label = place % len(TOPICS)
        words = [str(word) for word in draw.choice(COMMON, int(draw.integers(3, 20)))]
        words.insert(int(draw.integers(0, min(4, len(words)))), str(draw.choice(WORDS[TOPICS[label]])))
        row = {"text": " ".join(words), "label": label if place % one_in == 0 else -1}
        row |= {"label": [label] if place % one_in == 0 else None} if several else {}
        rows.append(row | ({"text_pair": "the " + str(draw.choice(WORDS[TOPICS[label]]))} if pairs else {}))
    kind = ClassLabel(names=TOPICS)
    features = {"text": Value("string"), "label": List(kind) if several else kind}
    return Dataset.from_list(rows, Features(features | ({"text_pair": Value("string")} if pairs else {})))


save_text_rows = partial(save_drawn, text_rows)


def text_cohort(kinds=("bert", "roberta"), still: bool = False, task: str = "text-classification") -> Cohort:
    """A cohort of modules; `still` without dropout."""
    peers = {}
    for kind in kinds:
        model, tokenizer = tiny_text_peer(kind)
        if still:
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        peers[kind] = LoadedPeer(model, tokenizer, PeerSpec(kind))
    return Cohort(peers, task, label_names=TOPICS)
