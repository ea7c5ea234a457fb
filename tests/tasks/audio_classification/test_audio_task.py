"""Sounds from a crop to an answer: one stretch for all peers, each peer's rate and length, what is refused."""

import numpy as np
import pytest
import torch
from audio_peers import SOUNDS, audio_cohort, audio_rows, save_audio_peers, tiny_audio_peer
from conftest import tiny_processor
from transformers import AutoModelForAudioClassification, Wav2Vec2Model, pipeline

from hf_mutual_kd import AudioClassification, Cohort, ConfigError, PeerError
from hf_mutual_kd.data.audio import Sound, read_sound, resampled
from hf_mutual_kd.data.collator import undecoded
from hf_mutual_kd.tasks.audio_classification.collator import LENGTHS, AudioCollator, SharedCrop

KINDS = ("wav2vec2", "hubert", "ast", "whisper")
RAMP = Sound(np.linspace(0, 1, 32_000, dtype=np.float32), 16_000)


def rows_of(count, seed=0):
    return [{**row, "sample_id": place} for place, row in enumerate(undecoded(audio_rows(count, seed)))]


def test_a_crop_depends_on_seed_epoch_and_sample_alone():
    """Peers, workers or resumed runs that hear different stretches of one sound."""
    crop = SharedCrop(0.5, seed=3)
    first = crop(RAMP, sample_id=7, epoch=1).wave
    torch.rand(5)
    assert np.array_equal(crop(RAMP, sample_id=7, epoch=1).wave, first)
    begins = {float(crop(RAMP, sample, epoch).wave[0]) for sample in range(4) for epoch in range(4)}
    assert len(begins) == 16
    assert len(first) == 8000
    assert crop(RAMP.part(0, 0.4), 0, 0).seconds == pytest.approx(0.4)
    with pytest.raises(ConfigError, match="seconds"):
        SharedCrop(0)


def test_all_peers_hear_the_same_stretch_each_in_its_rate():
    """A teacher that heard another part of the sound than its student."""
    said = {}

    def listener(rate):
        def listen(waves):
            said[rate] = waves
            return {"input_values": torch.zeros(len(waves), 4)}

        listen.sampling_rate = rate
        return listen

    AudioCollator({"a": listener(8000), "b": listener(16_000)}, view=SharedCrop(0.5))(
        [{"audio": {"array": RAMP.wave, "sampling_rate": 16_000}, "label": 0, "sample_id": 5}]
    )
    (low,), (high,) = said[8000], said[16_000]
    assert (len(low), len(high)) == (4000, 8000)
    np.testing.assert_allclose(low[100:-100], high[::2][100:-100], atol=1e-3)


def test_answers_do_not_depend_on_what_else_is_in_the_batch():
    """Silence behind a short sound that a model without a mask takes for part of it."""
    cohort, rows = audio_cohort(KINDS).eval(), rows_of(6)
    collate = AudioCollator(cohort.processors)
    batch = collate(rows)["peer_inputs"]
    assert LENGTHS in batch["wav2vec2"]
    assert set(batch["hubert"]) == {"input_values", "attention_mask"}
    assert [set(batch[name]) for name in ("ast", "whisper")] == [{"input_values"}, {"input_features"}]
    together = cohort(batch).outputs
    for place, row in enumerate(rows):
        alone = cohort(collate([row])["peer_inputs"]).outputs
        for name in cohort.names:
            torch.testing.assert_close(together[name][place], alone[name][0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_peers_answer_as_the_stock_pipeline(kind, tmp_path):
    """A trained peer that says something else on the Hub than it was measured with."""
    (folder,) = save_audio_peers(tmp_path, (kind,)).values()
    cohort = Cohort.from_pretrained({kind: folder}, "audio-classification", label_names=SOUNDS)
    row = rows_of(1)[0]
    stock = pipeline("audio-classification", folder)
    wave = resampled(read_sound(row["audio"]), stock.feature_extractor.sampling_rate)
    by_name = {one["label"]: one["score"] for one in stock(wave, top_k=None)}
    np.testing.assert_allclose([by_name[name] for name in SOUNDS], cohort.predict([row])[kind][0].numpy(), atol=1e-5)


def test_an_encoder_gets_a_new_head(tmp_path):
    """A pretrained encoder without a classifier, which most audio checkpoints are."""
    model, extractor = tiny_audio_peer("wav2vec2")
    Wav2Vec2Model(model.config).save_pretrained(tmp_path / "a")
    extractor.save_pretrained(tmp_path / "a")
    given = {"label_names": ["x", "y"], "label_alignment": "new_head"}
    cohort = Cohort.from_pretrained({"a": str(tmp_path / "a")}, "audio-classification", **given)
    assert cohort.predict([rows_of(1)[0]])["a"].shape == (1, 2)
    cohort.save_pretrained(tmp_path / "out")
    assert AutoModelForAudioClassification.from_pretrained(tmp_path / "out" / "a").config.id2label[1] == "y"


def test_what_cannot_take_part_is_named(tmp_path):
    """A peer that is given pixels of a sound, or an option that changes nothing."""
    model, _ = tiny_audio_peer("ast")
    with pytest.raises(PeerError, match="no feature extractor of sounds.*--peers.a.processor"):
        AudioClassification().check_peer("a", model, tiny_processor())
    with pytest.raises(PeerError, match="no feature extractor.*callable sounds"):
        AudioCollator({"a": None})
    model.save_pretrained(tmp_path / "bare")
    with pytest.raises(PeerError, match="no feature extractor in"):
        Cohort.from_pretrained({"a": str(tmp_path / "bare")}, "audio-classification", label_names=SOUNDS)
    with pytest.raises(ConfigError, match="unknown option color_jitter: an option of image-classification"):
        AudioClassification(color_jitter=0.3)


def test_what_a_peer_does_not_hear_is_told():
    """A peer that hears the first second of every sound, found out by nobody."""

    class Splits:
        train, test = undecoded(audio_rows(9)), undecoded(audio_rows(5, 1))

    long = sum(read_sound(row["audio"]).seconds > 1.01 for row in Splits.train)
    assert 0 < long < 9
    _, extractor = tiny_audio_peer("whisper")
    assert (
        AudioClassification()
        .limits(extractor, Splits)
        .startswith(f"hears at most 1 seconds; the rest is cut from {long} of 9 train sounds")
    )
    assert AudioClassification().limits(tiny_audio_peer("wav2vec2")[1], Splits) == ""
