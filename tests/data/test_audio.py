"""Sounds from whatever a cell holds: what is heard of them, in which rate, and what is refused."""

import io

import av
import numpy as np
import pytest
import torch
from audio_peers import audio_rows, wav_of
from datasets import Audio, Dataset

from hf_mutual_kd.config.options import RecipeOptions
from hf_mutual_kd.data.audio import SOUNDS, Sound, as_flac, read_sound, resampled, small_flac
from hf_mutual_kd.data.collator import undecoded
from hf_mutual_kd.data.given_rows import GivenRows
from hf_mutual_kd.data.inputs import check_inputs
from hf_mutual_kd.data.splits import load_splits
from hf_mutual_kd.errors import DataError

RATE = 8000
TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)


def encoded(kind: str, samples=TONE) -> bytes:
    """The tone as a file of another format."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream({"matroska": "aac", "mp3": "libmp3lame"}[kind], rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return buffer.getvalue()


def test_every_form_of_a_sound_is_the_same_sound(tmp_path):
    """Channels that follow each other, integers that are loud by 32,768, or a file that needs another decoder."""
    wav = wav_of(TONE, RATE)
    (tmp_path / "a.wav").write_bytes(wav)
    stereo = wav_of(np.stack([TONE, 0 * TONE], axis=1), RATE)
    forms = {
        "bytes": wav,
        "path": str(tmp_path / "a.wav"),
        "dict": {"bytes": wav, "path": None},
        "path in dict": {"bytes": None, "path": str(tmp_path / "a.wav")},
        "array": {"array": TONE, "sampling_rate": RATE},
        "integers": {"array": np.rint(TONE * 32_767).astype(np.int16), "sampling_rate": RATE},
        "channels": {"array": np.stack([TONE, TONE]), "sampling_rate": RATE},
        "flac": as_flac(Sound(TONE.astype(np.float32), RATE)),
    }
    for name, form in forms.items():
        sound = read_sound(form)
        assert sound.rate == RATE, name
        np.testing.assert_allclose(sound.wave, TONE, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(read_sound(stereo).wave, TONE / 2, atol=1e-4)
    for kind in ("matroska", "mp3"):
        found = read_sound(encoded(kind))
        assert abs(found.seconds - 1) < 0.2
        assert 0.3 < np.abs(found.wave).max() < 0.7


BAD = {
    "nothing": (None, "nothing"),
    "empty": (b"", "empty"),
    "no sound": (b"no sound at all" * 9, "cannot be decoded"),
    "neither": ({"bytes": None, "path": None}, "neither bytes nor a path"),
    "no file": ("/nowhere/a.wav", "/nowhere/a.wav: no such file"),
    "shape": ({"array": np.zeros((1, 2, 3)), "sampling_rate": 1}, r"got shape \[1, 2, 3\]"),
    "no samples": ({"array": np.zeros(0), "sampling_rate": 1}, "0 samples"),
    "not finite": ({"array": np.full(9, np.nan), "sampling_rate": 1}, "not finite"),
    "play list": (b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\n/etc/passwd\n", "cannot be decoded"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_sound_is_named(name):
    """A row of silence or of noise that teaches its label."""
    value, said = BAD[name]
    with pytest.raises(DataError, match=said):
        read_sound(value)


def test_a_damaged_row_is_named_or_left_out():
    """Training that ends after hours at a file that was cut off."""
    rows = undecoded(audio_rows(3))
    cells = [{**row, "audio": {"bytes": b"RIFFxxxx", "path": None}} if at == 1 else row for at, row in enumerate(rows)]
    made = Dataset.from_list(cells, rows.features)
    with pytest.raises(DataError, match=r"train row 1: .*--on_bad_row skip"):
        check_inputs(made, "train", inputs=SOUNDS)
    kept, skipped = check_inputs(made, "train", "skip", inputs=SOUNDS)
    assert (len(kept), skipped) == (2, 1)


def test_other_rates_keep_pitch_and_length():
    """A tone that is an octave higher for one peer, or shorter with every change of its rate."""
    sound = Sound(TONE.astype(np.float32), RATE)
    for rate in (16_000, 44_100, 4000):
        found = resampled(sound, rate)
        assert len(found) == rate
        peak = np.abs(np.fft.rfft(found)).argmax()
        assert peak == 440
    assert resampled(sound, RATE) is sound.wave
    assert len(small_flac(Sound(np.zeros(44_100 * 60, np.float32), 44_100))) < 90_000


def test_short_sounds_go_on_with_silence():
    """A click that ends a run in the middle of an encoder's first step."""
    found = read_sound({"array": TONE[:10], "sampling_rate": RATE})
    assert found.seconds == pytest.approx(0.3)
    assert not found.wave[10:].any()


@pytest.mark.parametrize("kind", ["saved", "parquet", "stream", "paths", "given", "given stream"])
def test_rows_are_read_without_torchcodec(kind, tmp_path):
    """`datasets` asks for torchcodec as soon as it decodes or writes a sound, and a run ends before it begins."""
    rows = audio_rows(9)
    if kind.startswith("given"):
        given = rows.to_iterable_dataset() if "stream" in kind else rows
        read = undecoded(GivenRows(RecipeOptions(), "class", True, inputs=SOUNDS).read(given, "rows", trains=True))
    else:
        if kind == "paths":
            (tmp_path / "data").mkdir()
            for place, row in enumerate(undecoded(rows)):
                (tmp_path / "data" / f"{place}.wav").write_bytes(row["audio"]["bytes"])
            named = [str(tmp_path / "data" / f"{place}.wav") for place in range(9)]
            rows = Dataset.from_dict({"audio": named, "label": rows["label"]})
        if kind == "saved":
            rows.save_to_disk(tmp_path / "data")
        else:
            (tmp_path / "data").mkdir(exist_ok=True)
            for split in ("train", "validation"):
                rows.to_parquet(tmp_path / "data" / f"{split}.parquet")
        options = {"dataset": str(tmp_path / "data"), "streaming": kind == "stream"}
        read = load_splits(RecipeOptions(**options, label_names=["a", "b", "c"] if kind == "paths" else []), seed=0,
                           inputs=SOUNDS).train  # fmt: skip
    first = next(iter(read))
    assert read_sound(first["audio"]).rate in (8000, 16_000)
    assert isinstance(first["label"], int)


def test_files_outside_of_the_data_set_are_not_opened(tmp_path):
    """A data set that makes its reader open any file of the machine."""
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.wav").write_bytes(wav_of(TONE, RATE))
    for cast in (False, True):
        rows = Dataset.from_dict({"audio": [str(tmp_path / "secret.wav")] * 9, "label": [0, 1, 2] * 3})
        rows = rows.cast_column("audio", Audio(decode=False)) if cast else rows
        rows.to_parquet(tmp_path / "data" / "train.parquet")
        with pytest.raises(DataError, match="outside of the data set"):
            load_splits(RecipeOptions(dataset=str(tmp_path / "data"), label_names=["a", "b", "c"]), seed=0,
                        inputs=SOUNDS)  # fmt: skip


def test_a_row_may_be_what_torchcodec_made():
    """Rows with a transform of the user's own, which hold decoders."""

    class Decoder:
        def get_all_samples(self):
            return type("Samples", (), {"data": torch.from_numpy(TONE[None]), "sample_rate": RATE})()

    assert read_sound(Decoder()).seconds == 1.0
