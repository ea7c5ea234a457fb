"""Train the three embedded audio classifiers from scratch: `python recipes/embedded_audio/make_peers.py`.

Each learns from sounds of its own by the law of `make_data.py`, few of some classes, so that they are specialists.
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
from datasets import Audio, Dataset
from make_data import NAMES, RATE, SEED, rows
from torch.nn import functional
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    logging,
)

from hf_mutual_kd import Cohort, Sound, resampled

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from small_peers import Training, fit, write_peers  # noqa: E402 - beside this folder, which is no package

SOUNDS, ONE_IN = 1200, 12
"""Sounds that are made for each peer, and of the classes that it does not know it hears one in so many."""
EPOCHS, BATCH_SIZE, WEIGHT_DECAY = 30, 32, 0.05
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: place for place, name in enumerate(NAMES)}}
SPREAD = 0.15
"""Of weights as they are drawn: at transformers' 0.02 such small models learn nothing for a long time."""
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def build_wav2vec2() -> tuple[PreTrainedModel, Any]:
    """Reads waveforms of 4,000 samples a second, 100 steps of half a second."""
    config = Wav2Vec2Config(
        **SIZE,
        conv_dim=(32, 32),
        conv_kernel=(10, 4),
        conv_stride=(5, 4),
        feat_extract_norm="layer",
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=32,
        layerdrop=0.0,
        apply_spec_augment=False,
        initializer_range=SPREAD,
        **LABELS,
    )
    return Wav2Vec2ForSequenceClassification(config), Wav2Vec2FeatureExtractor(
        sampling_rate=RATE, return_attention_mask=True
    )


def build_ast() -> tuple[PreTrainedModel, Any]:
    """Reads spectrograms of half a second and 32 bands, in patches of 8 x 8."""
    kept = {"max_length": 48, "num_mel_bins": 32}
    config = ASTConfig(
        **SIZE, **kept, patch_size=8, frequency_stride=8, time_stride=8, initializer_range=SPREAD, **LABELS
    )
    return ASTForAudioClassification(config), ASTFeatureExtractor(**kept)


def build_whisper() -> tuple[PreTrainedModel, Any]:
    """Reads spectrograms of a second and 32 bands."""
    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_layers=0,
        num_mel_bins=32,
        max_source_positions=50,
        classifier_proj_size=32,
        init_std=SPREAD,
        **LABELS,
    )
    return WhisperForAudioClassification(config), WhisperFeatureExtractor(feature_size=32, chunk_length=1)


@dataclass(frozen=True)
class PeerRecipe:
    """How one peer is made: the classes that it hears all sounds of, its model, the peak of its learning rate."""

    knows: tuple[str, ...]
    build: Callable[[], tuple[PreTrainedModel, Any]]
    learning_rate: float


PEERS = {
    "wav2vec2": PeerRecipe(("noise", "trembling", "two"), build_wav2vec2, 1e-3),
    "ast": PeerRecipe(("falling", "rising", "steady"), build_ast, 1e-3),
    "whisper": PeerRecipe(("steady", "two", "falling"), build_whisper, 1e-3),
}


def inputs_of(extractor: Any, waves: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """What a peer is given of sounds of 4,000 samples a second."""
    rate = extractor.sampling_rate
    heard = [resampled(Sound(wave, RATE), rate) for wave in waves]
    return dict(extractor(heard, sampling_rate=rate, return_tensors="pt"))


def train(model: PreTrainedModel, inputs: dict[str, torch.Tensor], labels: torch.Tensor, peak: float) -> None:
    """Train with AdamW on a one-cycle schedule, in place."""

    def loss(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        said = model(**{key: value[rows] for key, value in inputs.items()}).logits
        return functional.cross_entropy(said, labels[rows])

    training = Training(EPOCHS, BATCH_SIZE, WEIGHT_DECAY, peak, SEED)
    fit(model, loss, len(labels), training, name=model.config.model_type)


def make_peer(name: str, recipe: PeerRecipe, folder: Path) -> dict[str, Any]:
    """Train one peer and save it as an ordinary `save_pretrained` folder, yet without its card; facts for that."""
    place = list(PEERS).index(name)
    waves, labels = rows(SOUNDS, [SEED, 100 + place])
    known = np.isin(labels, [NAMES.index(one) for one in recipe.knows])
    chosen = np.flatnonzero(known | (np.cumsum(~known) % ONE_IN == 0))
    torch.manual_seed(SEED + place)
    model, extractor = recipe.build()
    train(
        model,
        inputs_of(extractor, [waves[row] for row in chosen]),
        torch.tensor(labels[chosen]),
        recipe.learning_rate,
    )
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return {
        "name": name,
        "parameters": model.num_parameters(),
        "rate": extractor.sampling_rate,
        "knows": ", ".join(recipe.knows),
        "rows": len(chosen),
        "known_rows": int(known[chosen].sum()),
    }


def predict(folder: Path, rows: Dataset) -> torch.Tensor:
    """Class probabilities `[rows, classes]` of a saved peer, loaded as a user would load it."""
    cohort = Cohort.from_pretrained({"peer": str(folder)}, "audio-classification", label_names=NAMES)
    return cohort.predict(list(rows))["peer"]


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: audio-classification
metrics:
- accuracy
---

# {name}: a small specialist on synthetic sounds

{parameters:,} parameters, {rate:,} samples a second, trained from scratch by `recipes/embedded_audio/make_peers.py`
of hf-mutual-kd, on synthetic sounds alone. It is a starting point to show mutual knowledge transfer with, not a
classifier of anything that was recorded.

- **Trained on** {rows:,} sounds made by the law of `make_data.py`, none of which is in the embedded data:
  {known_rows:,} of the classes {knows}, and one in {one_in} of the others; {epochs} epochs.
- **Accuracy** on the {count} sounds of the `validation` split: {accuracy:.1f} % ({known_accuracy:.1f} % on the classes that it
  heard all of, {other_accuracy:.1f} % on the others).
"""  # noqa: E501 - lines are those of the card


def main(arguments: list[str] | None = None) -> int:
    """Train, save, measure and describe all peers; print their accuracies and that of their mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE / "synthetic_sounds", help="folder that make_data.py wrote")
    parser.add_argument("--output", type=Path, default=HERE / "peers", help="folder of the peers' folders")
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    validation = Dataset.from_parquet(str(options.data / "validation.parquet"))
    validation = validation.cast_column("audio", Audio(decode=False))
    known = {"one_in": ONE_IN, "epochs": EPOCHS, "count": len(validation)}
    write_peers(
        options.output,
        PEERS,
        CARD,
        make=lambda name, recipe, folder: make_peer(name, recipe, folder) | known,
        predict=lambda folder: predict(folder, validation),
        validation=validation,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
