"""Reads what a visitor uploads as a video, in a process of its own, and refuses it in words before it can do harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from uploads import Refused, check_file

MOST_FILE = 25_000_000
"""Bytes of an upload."""
PATIENCE_S = 60
"""Until decoding is given up; it may use fewer seconds of the processor, see `decode_video.py`."""
NEEDED = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONUSERBASE", "SYSTEMROOT", "VIRTUAL_ENV")
"""Of the environment; what else is there, such as a token, is not for a process that opens strangers' files."""
TOO_MUCH = "The video takes too much time or memory to decode; send a shorter or smaller one, as MP4 with H.264."


@dataclass
class Film:
    """What the peers need of a video.

    Args:
        path (`str`): of its file.
        frames (`dict[int, np.ndarray]`): by their number from 0, uint8 `[H, W, 3]`.
        count (`int`): frames of the video, as far as it was looked at.
        targets (`list[int]`): frames whose saliency is asked for.
        cuts (`list[int]`): frames that begin a new shot.
        fps (`float`): 0 where the file does not say.
        goes_on (`bool`): whether it has more frames than were looked at.
    """

    path: str
    frames: dict[int, np.ndarray]
    count: int
    targets: list[int]
    cuts: Sequence[int]
    fps: float
    goes_on: bool

    def clip(self, target: int, offsets: Sequence[int]) -> list[np.ndarray]:
        """The frames that a peer sees for a target."""
        return [self.frames[number] for number in clip_frames(target, offsets, self.count, self.cuts)]


def clip_frames(target: int, offsets: Sequence[int], count: int, cuts: Sequence[int]) -> list[int]:
    """Numbers of the frames at these distances from a target; those outside its shot become the first or last.

    Example:

    ```python
    >>> clip_frames(5, [-4, -2, 0, 2], 7, cuts=[4])
    [4, 4, 5, 6]
    ```
    """
    first = max((cut for cut in cuts if cut <= target), default=0)
    last = min((cut for cut in cuts if cut > target), default=count) - 1
    return [min(max(target + offset, first), last) for offset in offsets]


def decoded(script: str, request: dict[str, Any], too_much: str) -> tuple[dict[str, Any], bytes]:
    """What a script beside this one says of a request, in a process of its own: JSON, and the bytes after it.

    Raises:
        [`~uploads.Refused`]: the script's own words, or `too_much` where it ended otherwise or not in time.
    """
    environment = {name: os.environ[name] for name in NEEDED if name in os.environ}
    command = [sys.executable, str(Path(__file__).with_name(f"{script}.py")), json.dumps(request)]
    try:
        ended = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise Refused(too_much) from None
    if ended.returncode:
        print(f"{script}: {ended.returncode} {ended.stderr.decode(errors='replace')[-500:]}", flush=True)
        raise Refused(too_much)
    head, _, content = ended.stdout.partition(b"\n")
    reply: dict[str, Any] = json.loads(head)
    if reply.get("refused"):
        raise Refused(reply["refused"])
    return reply, content


def read_film(
    path: str | None, offsets: Sequence[int], targets: Sequence[int] | None = None, cuts: Sequence[int] = ()
) -> Film:
    """The frames of a video at some distances from a few target frames.

    Args:
        path (`str`, *optional*): a file that anybody may have made.
        offsets (`list[int]`): distances, of all peers.
        targets (`list[int]`, *optional*): numbers of frames; a few evenly spaced ones when unset.
        cuts (`list[int]`, *optional*): see [`clip_frames`].

    Raises:
        [`~uploads.Refused`]: no file, too large, no video, no pictures in it, damaged, or it needs too much.
    """
    checked = check_file(path, "video", MOST_FILE)
    request = {"path": checked, "offsets": list(offsets), "targets": targets, "cuts": list(cuts)}
    reply, pixels = decoded("decode_video", request, TOO_MUCH)
    frames = np.frombuffer(pixels, np.uint8).reshape(len(reply["numbers"]), *reply["size"], 3)
    numbered = dict(zip(reply["numbers"], frames, strict=True))
    return Film(checked, numbered, reply["count"], reply["targets"], cuts, reply["fps"], reply["goes_on"])
