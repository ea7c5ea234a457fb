"""The tasks of one table of tests: for each its tiny peers and its rows, in memory and on disk."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from audio_peers import SOUNDS, audio_cohort, audio_rows, save_audio_peers, save_audio_rows
from conftest import LABELS
from image_peers import image_cohort, image_rows, save_image_peers, save_image_rows
from text_peers import TOPICS, save_text_peers, save_text_rows, text_cohort, text_rows
from video_peers import MOVES, save_video_peers, save_video_rows, video_cohort, video_rows
from zero_shot_peers import reader_cohort


@dataclass(frozen=True)
class Kind:
    """One task.

    Args:
        task (`str`): its name.
        peers (`tuple[str, ...]`): what the makers below call the peers of a run.
        labels (`list[str]`): the classes.
        cohort (callable): peer names to a cohort of modules.
        rows (callable): count and seed to rows.
        save_peers, save_rows (callable): write peers by their names, or a data set, into a folder.
        shows (`str`): what the report has of a flipped sample.
    """

    task: str
    peers: tuple[str, ...]
    labels: list[str]
    cohort: Callable[..., Any]
    rows: Callable[..., Any]
    save_peers: Callable[..., dict[str, str]]
    save_rows: Callable[..., str]
    shows: str


KINDS = {
    "text": Kind(
        "text-classification",
        ("bert", "gpt2"),
        TOPICS,
        text_cohort,
        partial(text_rows, pairs=True),
        save_text_peers,
        partial(save_text_rows, pairs=True),
        "<blockquote>",
    ),
    "audio": Kind(
        "audio-classification",
        ("wav2vec2", "ast"),
        SOUNDS,
        audio_cohort,
        audio_rows,
        save_audio_peers,
        save_audio_rows,
        "<audio controls",
    ),
    "video": Kind(
        "video-classification",
        ("videomae", "timesformer"),
        MOVES,
        video_cohort,
        video_rows,
        save_video_peers,
        save_video_rows,
        "data:image/jpeg",
    ),
}
IMAGE = Kind(
    "image-classification",
    ("vit", "cnx"),
    LABELS,
    image_cohort,
    image_rows,
    save_image_peers,
    save_image_rows,
    "data:image/jpeg",
)
SEVERAL = {
    f"several {name}": replace(
        kind,
        task=f"multi-label-{kind.task}",
        cohort=partial(kind.cohort, task=f"multi-label-{kind.task}"),
        rows=partial(kind.rows, several=True),
        save_rows=partial(kind.save_rows, several=True),
    )
    for name, kind in {"image": IMAGE, "text": KINDS["text"], "audio": KINDS["audio"]}.items()
}
"""The same with several labels of each row."""
ALL = KINDS | SEVERAL
READERS = {"zero-shot": replace(IMAGE, peers=("clip", "siglip"), cohort=reader_cohort)}
"""Peers that read the names of the classes: `test_zero_shot_recipe.py` has what else they do."""
TRAINED = {"image": IMAGE} | ALL | READERS
