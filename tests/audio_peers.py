"""Tiny audio classifiers with feature extractors of two rates and three kinds, and sounds made by a law."""

import io
import wave
from functools import partial

import numpy as np
import torch
from data_sets import save_drawn
from datasets import Audio, ClassLabel, Dataset, Features, List, Value
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    HubertConfig,
    HubertForSequenceClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
)

from hf_mutual_kd import Cohort, LoadedPeer, PeerSpec

SOUNDS = ["hiss", "high", "low"]
FILE = {"bytes": Value("binary"), "path": Value("string")}
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 8),
    "conv_stride": (10, 8),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
}


def labels_of(names) -> dict:
    return {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}


def tiny_audio_peer(kind: str, names=SOUNDS):
    """`wav2vec2` takes no mask, `hubert` one and 8,000 samples a second, `ast` and `whisper` spectrograms of 1 s."""
    torch.manual_seed(len(kind))
    if kind == "wav2vec2":
        config = Wav2Vec2Config(feat_extract_norm="group", **SMALL, **labels_of(names))
        return Wav2Vec2ForSequenceClassification(config), Wav2Vec2FeatureExtractor(return_attention_mask=False)
    if kind == "hubert":
        config = HubertConfig(feat_extract_norm="layer", **SMALL, **labels_of(names))
        extractor = Wav2Vec2FeatureExtractor(sampling_rate=8000, return_attention_mask=True)
        return HubertForSequenceClassification(config), extractor
    if kind == "ast":
        size = {key: SMALL[key] for key in list(SMALL)[:4]}
        config = ASTConfig(max_length=100, num_mel_bins=16, **size, **labels_of(names))
        return ASTForAudioClassification(config), ASTFeatureExtractor(max_length=100, num_mel_bins=16)
    config = WhisperConfig(
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        num_mel_bins=16,
        max_source_positions=50,
        classifier_proj_size=8,
        **labels_of(names),
    )
    return WhisperForAudioClassification(config), WhisperFeatureExtractor(feature_size=16, chunk_length=1)


def save_audio_peers(folder, kinds=("wav2vec2", "ast"), names=SOUNDS) -> dict[str, str]:
    """Folders of them, by their kinds."""
    for kind in kinds:
        for part in tiny_audio_peer(kind, names):
            part.save_pretrained(folder / kind)
    return {kind: str(folder / kind) for kind in kinds}


def wav_of(samples: np.ndarray, rate: int) -> bytes:
    """A WAV file of 16 bits, `[T]` or `[T, channels]`."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(samples.clip(-1, 1) * 32_767).astype("<i2").tobytes())
    return buffer.getvalue()


def made_sound(label: int, draw: np.random.Generator, rate: int = 16_000, seconds: float = 1.0) -> np.ndarray:
    """The law: noise; a tone of 1,200 to 2,000 Hz; one of 150 to 300 Hz; all under a hiss of a tenth."""
    at = np.arange(int(rate * seconds)) / rate
    hiss = draw.standard_normal(len(at)) * 0.05
    if label == 0:
        return hiss * 8
    pitch = draw.uniform(1200, 2000) if label == 1 else draw.uniform(150, 300)
    return hiss + 0.5 * np.sin(2 * np.pi * pitch * at)


def audio_rows(count: int, seed: int = 0, one_in: int = 1, several: bool = False) -> Dataset:
    """Sounds of 0.4 to 1.4 seconds and two rates; one in so many rows has its label."""
    draw = np.random.default_rng(seed)
    rows = []
    for place in range(count):
        label, rate = place % len(SOUNDS), (8000, 16_000)[place % 2]
        made = made_sound(label, draw, rate, float(draw.uniform(0.4, 1.4)))
        said = label if place % one_in == 0 else -1
        said = ([label] if said >= 0 else None) if several else said
        rows.append({"audio": {"bytes": wav_of(made, rate), "path": None}, "label": said})
    kind = ClassLabel(names=SOUNDS)
    features = Features({"audio": FILE, "label": List(kind) if several else kind})
    return Dataset.from_list(rows, features).cast_column("audio", Audio())


save_audio_rows = partial(save_drawn, audio_rows)


def audio_cohort(kinds=("wav2vec2", "ast"), task="audio-classification") -> Cohort:
    """A cohort of modules."""
    peers = {}
    for kind in kinds:
        model, extractor = tiny_audio_peer(kind)
        peers[kind] = LoadedPeer(model, extractor, PeerSpec(kind))
    return Cohort(peers, task, label_names=SOUNDS)
