"""Decodes a sound for `sound_view.py`: `python decode_sound.py REQUEST` writes JSON, then float32.

A process of its own with bounded memory and time, as of `decode_video.py`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import av
import numpy as np
from decode_video import bound

FORMATS = "wav,flac,ogg,mp3,aac,aiff,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
"""Known by what is in the file. Play lists, which name other files, are not among them."""
CODECS = ("pcm_", "flac", "opus", "vorbis", "mp3", "aac", "alac")
"""How the names of those begin that are decoded."""
MOST_RATE = 192_000
NO_SOUND = "This file holds no sound, or is damaged, whatever its name says; send WAV, FLAC, OGG, MP3 or M4A."


def decode(path: str, seconds: float) -> tuple[int, np.ndarray]:
    """The rate and the first seconds of a sound, its channels averaged; no samples where there is no sound."""
    options = {"format_whitelist": FORMATS, "protocol_whitelist": ""}
    # A file object, not a name: FFmpeg would take a name for an address of any of its protocols.
    with open(path, "rb") as file, av.open(file, "r", options=options) as container:
        if not container.streams.audio:
            return 0, np.zeros(0, np.float32)
        stream = container.streams.audio[0]
        rate = int(stream.rate or 0)
        if not 0 < rate <= MOST_RATE or not stream.codec_context.name.startswith(CODECS):
            return 0, np.zeros(0, np.float32)
        as_floats = av.AudioResampler(format="fltp", rate=rate)
        parts, length = [], 0
        for frame in container.decode(stream):
            parts += [part.to_ndarray().mean(0) for part in as_floats.resample(frame)]
            length += frame.samples
            if length >= seconds * rate:
                break
    wave = np.concatenate(parts) if parts else np.zeros(0)
    return rate, np.nan_to_num(wave[: int(seconds * rate)]).astype(np.float32)


def main() -> None:
    bound()
    reply: dict[str, Any]
    try:
        rate, wave = decode(**json.loads(sys.argv[1]))
        reply = {"rate": rate} if len(wave) else {"refused": NO_SOUND}
    except (av.FFmpegError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        reply, wave = {"refused": NO_SOUND}, np.zeros(0, np.float32)
    sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n" + wave.tobytes())


if __name__ == "__main__":
    main()
