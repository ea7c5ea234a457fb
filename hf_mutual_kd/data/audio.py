"""Sounds of a data set: decoding to one channel, other sampling rates, small files; by PyAV, without a network."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import av
import datasets
import fsspec
import numpy as np
from datasets import Value
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder

from ..errors import DataError
from .file_columns import FILE, as_file, may_be_files
from .inputs import Inputs
from .places import local_path, refuse_offline, refuse_special

FORMATS = (
    "wav,w64,aiff,au,caf,flac,ogg,mp3,aac,ac3,amr,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,asf,wv"
)
"""Formats that hold their own sound. Play lists (HLS, DASH, concat) are not read: they name other files."""
MOST_SECONDS = 3600
"""Of one sound: a small file can hold silence that fills the memory."""
SHORTEST_SECONDS = 0.3
"""Shorter sounds go on with silence: encoders of waveforms need more than one step, and mask 0.2 s of them at once."""
SMALL_RATE, SMALL_SECONDS = 8000, 5.0
"""Of a sound that is shown beside others."""
BROKEN = (av.FFmpegError, OSError, ValueError, RuntimeError, LookupError, EOFError)


class Sound(NamedTuple):
    """A waveform `[T]`, float32 between -1 and 1, and its samples in a second."""

    wave: np.ndarray
    rate: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.wave) / self.rate

    def part(self, begin: float, seconds: float) -> Sound:
        """What is heard from a time on, in seconds.

        Example:

        ```python
        >>> Sound(np.arange(8, dtype=np.float32), 4).part(0.5, 1.0).wave
        array([2., 3., 4., 5.], dtype=float32)
        ```
        """
        first = round(begin * self.rate)
        return Sound(self.wave[first : first + max(1, round(seconds * self.rate))], self.rate)


def read_sound(value: Any) -> Sound:
    """
    One cell of the audio column, its channels averaged.

    Args:
        value: `{"bytes": …, "path": …}` as `datasets.Audio(decode=False)` gives it; the bytes of a file or its path;
            `{"array": [T] or [channels, T], "sampling_rate": …}`; a decoder of torchcodec. Of a video its sound.

    Raises:
        [`DataError`]: no sound, unreadable, empty, not finite, or longer than an hour.

    Example:
        >>> read_sound({"array": np.zeros((2, 16_000), np.float32), "sampling_rate": 16_000}).seconds
        1.0
    """
    if hasattr(value, "get_all_samples"):
        found = value.get_all_samples()
        value = {"array": found.data.numpy(), "sampling_rate": found.sample_rate}
    if isinstance(value, Mapping) and "array" in value:
        sound = Sound(_mono(np.asarray(value["array"])), int(value["sampling_rate"]))
    elif isinstance(value, Mapping | bytes | bytearray | memoryview | str | os.PathLike):
        sound = _decoded(value)
    else:
        kind = "nothing (null)" if value is None else type(value).__name__
        raise DataError(f"expected a sound file's bytes or path, a dict of both, or one of array and rate, got {kind}")
    if not len(sound.wave):
        raise DataError("it holds no sound (0 samples)")
    if not np.isfinite(sound.wave).all():
        raise DataError("its samples are not finite (NaN or inf)")
    missing = round(SHORTEST_SECONDS * sound.rate) - len(sound.wave)
    return Sound(np.pad(sound.wave, (0, missing)), sound.rate) if missing > 0 else sound


def _mono(samples: np.ndarray) -> np.ndarray:
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    if samples.ndim not in (1, 2):
        raise DataError(f"an array of a sound is [T] or [channels, T], got shape {list(samples.shape)}")
    return np.ascontiguousarray(samples if samples.ndim == 1 else samples.mean(0), dtype=np.float32)


def _decoded(value: Any) -> Sound:
    name, content = _content(value)
    parts: list[np.ndarray] = []
    rate, length = 0, 0
    try:
        # A file object, not a name: FFmpeg would take a name for a URL of any of its protocols.
        options = {"format_whitelist": FORMATS, "protocol_whitelist": ""}
        with av.open(io.BytesIO(content), options=options) as container:
            if not container.streams.audio:
                raise DataError(f"{name}holds no sound")
            stream = container.streams.audio[0]
            rate = int(stream.rate)
            for frame in _frames(container, stream):
                parts.append(frame.to_ndarray().mean(0))
                length += len(parts[-1])
                if length > MOST_SECONDS * rate:
                    raise DataError(f"{name}is longer than {MOST_SECONDS} seconds; cut it")
    except DataError:
        raise
    except BROKEN as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise DataError(f"{name}cannot be decoded as sound: {reason}") from None
    return Sound(np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32), rate)


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Frames of floats, channels apart, in the stream's own rate."""
    as_floats = av.AudioResampler(format="fltp", rate=stream.rate)
    for frame in container.decode(stream):
        yield from as_floats.resample(frame)
    yield from as_floats.resample(None)


def _content(value: Any) -> tuple[str, bytes]:
    """What to call a file in messages, and all of it."""
    if isinstance(value, Mapping):
        path, content = value.get("path"), value.get("bytes")
    else:
        path, content = (os.fspath(value), None) if isinstance(value, str | os.PathLike) else (None, bytes(value))
    name = f"{path}: " if path else "it "
    if content is None and not path:
        raise DataError("the row has no sound (neither bytes nor a path)")
    if content is None:
        try:
            local = local_path(str(path))
            refuse_offline() if local is None else refuse_special(local)
            with fsspec.open(str(path), "rb") as file:
                content = file.read()
        except DataError as error:
            raise DataError(f"{name}{error}") from None
        except FileNotFoundError:
            raise DataError(f"{name}no such file") from None
        except OSError as error:
            raise DataError(f"{name}cannot be read: {error.strerror or error}") from None
    if not content:
        raise DataError(f"{name}is empty (0 bytes)")
    return name, bytes(content)


def resampled(sound: Sound, rate: int) -> np.ndarray:
    """
    The waveform in another number of samples a second, by FFmpeg's resampler, as pipelines of transformers read files.

    Example:
        >>> len(resampled(Sound(np.zeros(8_000, np.float32), 8_000), 16_000))
        16000
    """
    if rate == sound.rate:
        return sound.wave
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.wave[None]), format="flt", layout="mono")
    frame.sample_rate = sound.rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
    parts = [part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))]
    return np.concatenate(parts)


def as_flac(sound: Sound) -> bytes:
    """A sound as a FLAC file of 16 bits; what is beyond -1 and 1 is cut off."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=sound.rate, layout="mono", format="s16")
        samples = np.rint(sound.wave * 32_768.0).clip(-32_768, 32_767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = sound.rate
        for packet in (*stream.encode(frame), *stream.encode(None)):  # type: ignore[attr-defined]
            container.mux(packet)
    return buffer.getvalue()


def small_flac(sound: Sound) -> bytes:
    """The first 5 seconds of a sound as a FLAC file of at most 8,000 samples a second: 80 kB or less."""
    short = sound.part(0, SMALL_SECONDS)
    rate = min(SMALL_RATE, sound.rate)
    return as_flac(Sound(resampled(short, rate), rate))


def may_be_sound(feature: Any) -> bool:
    """Whether a column may hold sounds: files, their paths, or arrays with their rate."""
    return may_be_files(feature, datasets.Audio) or _is_array(feature)


def _is_array(feature: Any) -> bool:
    return feature is dict or (isinstance(feature, Mapping) and {"array", "sampling_rate"} <= set(feature))


def _is_audio(feature: Any) -> bool:
    return isinstance(feature, datasets.Audio)


def _stored(feature: Any) -> Any:
    if _is_array(feature):
        return feature
    # Not Audio: `datasets` asks for torchcodec whenever it writes such a column, even undecoded.
    return datasets.Audio(decode=False) if isinstance(feature, Value) else FILE


def _blank() -> Sound:
    return Sound(np.zeros(16_000, np.float32), 16_000)


def _endings() -> frozenset[str]:
    return frozenset(AudioFolder.EXTENSIONS) | {".m4a", ".aac"}


SOUNDS = Inputs(
    "audio",
    "sound",
    read_sound,
    _blank,
    may_be_sound,
    typical=_is_audio,
    feature=_stored,
    cell=as_file,
    endings=_endings,
)
"""Sound files, their paths, or arrays with their rate."""
