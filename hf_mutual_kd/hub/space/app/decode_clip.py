"""Decodes evenly spaced frames for `video_view.py`: `python decode_clip.py REQUEST` writes JSON, then pixels.

A process of its own with bounded memory and time, as of `decode_video.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import av
import numpy as np
from decode_video import DAMAGED, MOST_FRAMES, NO_PICTURES, Unfit, bound, keep, look


def decode(path: str, counts: Sequence[int]) -> tuple[dict[int, np.ndarray], int]:
    """The frames that are needed to show these numbers of them, and how many frames they are spread over.

    Raises:
        [`~decode_video.Unfit`]: the file cannot be used.
    """
    with open(path, "rb") as file:
        count = min(look(file)[0], MOST_FRAMES)
        # Again where the file's index counts more frames than there are.
        for _ in range(2):
            wanted = {place * count // number for number in counts for place in range(number)}
            found, there = keep(file, wanted)
            if not there:
                raise Unfit(NO_PICTURES)
            if wanted <= set(found):
                return found, count
            count = there
    raise Unfit(DAMAGED)


def main() -> None:
    bound()
    frames: dict[int, np.ndarray] = {}
    reply: dict[str, Any]
    try:
        frames, count = decode(**json.loads(sys.argv[1]))
        reply = {"numbers": sorted(frames), "size": frames[min(frames)].shape[:2], "count": count}
    except Unfit as unfit:
        reply = {"refused": str(unfit)}
    except av.FFmpegError as error:
        print(error, file=sys.stderr)
        reply = {"refused": DAMAGED}
    sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
    for number in sorted(frames):
        sys.stdout.buffer.write(frames[number].tobytes())


if __name__ == "__main__":
    main()
