"""Scores of saliency maps in folders, from any model, against the maps and fixations of a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.markup import escape
from tqdm.auto import tqdm

from ...errors import ConfigError, DataError
from ...reports.terminal import render
from .data.fixation_files import read_fixations
from .data.map_files import IMAGES, frame_files, read_map, relative, subfolders
from .metrics.maps import Size, rescale_counts
from .metrics.scores import METRICS, SaliencyScores

LAYOUTS = ("dhf1k", "hollywood2", "ucf", "frames")
LABELS = {
    "auc_judd": "AUC-J",
    "auc_uniform": "AUC",
    "auc_shuffled": "sAUC",
    "nss": "NSS",
    "cc": "CC",
    "sim": "SIM",
    "kld": "KLD",
    "ig": "IG",
}
SHOWN_PROBLEMS = 5

OnBadFrame = Literal["raise", "skip"]
Files = dict[int, Path]
Read = Callable[[Path], np.ndarray]


@dataclass(frozen=True)
class TruthVideo:
    """The files of one video's truth by frame number; fixations are looked for where a metric needs them."""

    name: str
    maps: Files
    fixations: Files


@dataclass
class Problems:
    """Frames that cannot be scored: an error at once, or a list of what was left out.

    Args:
        on_bad_frame (`"raise"` or `"skip"`): what [`Problems.add`] does.
    """

    on_bad_frame: OnBadFrame
    found: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, reason: str) -> None:
        """Note a file or folder by its name; one that is noted already keeps its first reason.

        Raises:
            [`DataError`]: with `on_bad_frame="raise"`.
        """
        if self.on_bad_frame == "raise":
            raise DataError(f"{name}: {reason}. --on_bad_frame skip leaves such frames out and counts them.")
        self.found.setdefault(name, reason)


@dataclass(frozen=True)
class Job:
    """What is scored: predictions and truth matched by video and frame, and the pool for the shuffled AUC."""

    predictions: Path
    truth: Path
    videos: list[TruthVideo]
    predicted: dict[str, Files]
    needs_fixations: bool
    pool: dict[Size, np.ndarray] | None
    pool_is_own: bool
    read_fixations: Read


@dataclass(frozen=True)
class GroundTruth:
    """
    Maps and fixations of videos on disk.

    Args:
        folder (`str` or `Path`): `VIDEO/maps/FRAME.png` and `VIDEO/fixation/FRAME.png` or
            `VIDEO/fixation/maps/FRAME.mat` (each as image or Matlab file with variable `I`).
        layout (`str`, *optional*, defaults to `"dhf1k"`): `"hollywood2"` and `"ucf"` have the same folders, in
            `testing` where the folder has that; `"frames"` is one video: `maps` and `fixation` themselves.
        videos (`Sequence[str]`, *optional*): names or patterns such as `06*`; all when empty.
        fixation_maxima (`bool`, *optional*, defaults to `False`): see [`read_fixations`].

    Raises:
        [`ConfigError`]: an unknown layout.
    """

    folder: str | Path
    layout: str = "dhf1k"
    videos: Sequence[str] = ()
    fixation_maxima: bool = False

    def __post_init__(self):
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout must be one of {', '.join(LAYOUTS)}, got {self.layout!r}")

    def root(self, folder: str | Path | None = None) -> Path:
        """Where the videos are, of this folder or of another one of this layout."""
        place = Path(self.folder if folder is None else folder)
        testing = place / "testing"
        return testing if self.layout in ("hollywood2", "ucf") and testing.is_dir() else place


def evaluate_folders(
    predictions: str | Path,
    truth: str | Path | GroundTruth,
    scores: SaliencyScores,
    *,
    shuffled_pool: str = "others",
    on_bad_frame: OnBadFrame = "raise",
) -> dict[str, Any]:
    """
    Score `PREDICTIONS/VIDEO/FRAME.png` (8 or 16 bits) or `.npy` against a ground truth; memory holds one frame.

    Frames are matched by the last number in the files' names. Nothing is read before all files were matched.

    Args:
        predictions (`str` or `Path`): one folder per video, named as in the ground truth; with `layout="frames"` the
            frames themselves.
        truth (`str`, `Path` or [`GroundTruth`]): a folder in the layout of DHF1K, or all that can be said of one.
        scores ([`SaliencyScores`]): which metrics, and how; it is used up.
        shuffled_pool (`str`, *optional*, defaults to `"others"`): negatives of the shuffled AUC: the fixations of all
            other videos, `"none"` (leaves the metric without value), or those of another folder of this layout.
        on_bad_frame (`"raise"` or `"skip"`, *optional*, defaults to `"raise"`): about missing, surplus, unreadable and
            wrongly sized files.

    Returns:
        `dict`: [`SaliencyScores.compute`]'s, and `settings` and `skipped` (name to reason; names begin with the name
        of the folder that was given).

    Raises:
        [`DataError`]: a bad frame that is named, no such folder, or nothing to score.
        [`ConfigError`]: an unknown layout.
    """
    truth = truth if isinstance(truth, GroundTruth) else GroundTruth(truth)
    if on_bad_frame not in ("raise", "skip"):
        raise ConfigError(f"on_bad_frame must be one of raise, skip, got {on_bad_frame!r}")
    problems = Problems(on_bad_frame)
    settings = {**scores.settings(), "layout": truth.layout, "shuffled_pool": _pool_name(shuffled_pool)}
    job = _plan(Path(predictions), truth, scores, shuffled_pool, problems)
    for video in tqdm(job.videos, desc="videos", disable=None, leave=False):
        _score_video(job, video, scores, problems)
    if not len(scores):
        raise DataError(f"{predictions}: no frame could be scored{_listed(problems.found)}")
    return {"settings": settings, **scores.compute(), "skipped": dict(problems.found)}


def scores_table(result: dict[str, Any]) -> str:
    """The table of an evaluation: a line per video, both means, and how many frames each metric left out."""
    names = result["settings"]["metrics"]

    def row(name: str, frames: int, values: dict[str, float]) -> list[str]:
        return [escape(name), str(frames), *("–" if math.isnan(values[m]) else f"{values[m]:.4f}" for m in names)]

    rows = [row(name, video["frames"], video["mean"]) for name, video in result["per_video"].items()]
    rows.append(row("mean over frames", result["frames"], result["frame_mean"]))
    rows.append(row("mean over videos", result["videos"], result["video_mean"]))
    rows.append(["frames left out", "", *(str(result["left_out"][name]) for name in names)])
    settings = result["settings"]
    lines = [
        render(("video", "frames", *(LABELS[name] for name in names)), rows),
        f"protocol {settings['protocol']}, SIM as {settings['sim']}, standard deviation of NSS with ddof "
        f"{settings['nss_ddof']}, pool of sAUC: {settings['shuffled_pool']}",
    ]
    if result["skipped"]:
        lines.append(f"skipped{_listed(result['skipped'])}")
    return "\n".join(lines)


def without_nan(value: Any) -> Any:
    """The same with None in place of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _plan(
    predictions: Path, truth: GroundTruth, scores: SaliencyScores, shuffled_pool: str, problems: Problems
) -> Job:
    layout, chosen, fixations = truth.layout, truth.videos, partial(read_fixations, maxima=truth.fixation_maxima)
    needs_fixations = any(METRICS[name] == "fixations" for name in scores.metrics)
    root = truth.root()
    everything = {video.name: video for video in _truth_videos(root, layout, needs_fixations, problems)}
    given = {name for name in everything if not chosen or any(fnmatchcase(name, word) for word in chosen)}
    absent = [word for word in chosen if not any(fnmatchcase(name, word) for name in given)]
    if absent or not given:
        wanted = f" named {' '.join(absent)}" if absent else ""
        raise DataError(f"{truth.folder}: no video{wanted} with maps in it{_listed(problems.found)}")
    predicted = _predicted(predictions, layout, next(iter(everything)), problems)
    for name in sorted(predicted.keys() - everything.keys()):
        problems.add(relative(predictions / name, predictions), "a video that the ground truth does not have")
    videos = [video for name, video in everything.items() if name in given]
    for video in videos:
        _match(
            video,
            predicted.get(video.name),
            predictions,
            root=root,
            needs_fixations=needs_fixations,
            problems=problems,
        )
    pool, own = None, shuffled_pool == "others"
    if "auc_shuffled" in scores.metrics and shuffled_pool != "none":
        pool_root = root if own else truth.root(shuffled_pool)
        sources = everything.values() if own else _truth_videos(pool_root, layout, True, problems)
        files = (path for video in sources for path in video.fixations.values())
        pool = _counted(files, pool_root, problems, fixations)
    return Job(predictions, root, videos, predicted, needs_fixations, pool, own, fixations)


def _truth_videos(root: Path, layout: str, needs_fixations: bool, problems: Problems) -> list[TruthVideo]:
    folders = {root.absolute().name: root} if layout == "frames" else subfolders(root, root)
    found = []
    for name, folder in folders.items():
        maps, fixations = folder / "maps", folder / "fixation"
        if (fixations / "maps").is_dir():
            fixations = fixations / "maps"
        absent = [path for path in (maps, fixations) if not path.is_dir() and (path is maps or needs_fixations)]
        if absent:
            problems.add(relative(absent[0], root), "no such folder")
            continue
        try:
            files = frame_files(maps, root, IMAGES)
            points = frame_files(fixations, root, (*IMAGES, ".mat")) if needs_fixations else {}
        except DataError as error:
            problems.add(relative(folder, root), str(error))
            continue
        if not files:
            problems.add(relative(maps, root), "no maps in this folder")
            continue
        found.append(TruthVideo(name, files, points))
    return found


def _predicted(predictions: Path, layout: str, only: str, problems: Problems) -> dict[str, Files]:
    folders = {only: predictions} if layout == "frames" else subfolders(predictions, predictions)
    found = {}
    for name, folder in folders.items():
        try:
            found[name] = frame_files(folder, predictions, (*IMAGES, ".npy"))
        except DataError as error:
            problems.add(relative(folder, predictions), str(error))
    return found


def _match(
    video: TruthVideo,
    predicted: Files | None,
    predictions: Path,
    *,
    root: Path,
    needs_fixations: bool,
    problems: Problems,
) -> None:
    """Note what only one side has."""
    if predicted is None:
        problems.add(relative(predictions / video.name, predictions), "no predictions for this video")
        return
    for number, path in video.maps.items():
        if number not in predicted:
            problems.add(relative(path, root), "no prediction for this frame")
        elif needs_fixations and number not in video.fixations:
            problems.add(relative(path, root), "no fixations for this frame")
    for number in sorted(predicted.keys() - video.maps.keys()):
        problems.add(relative(predicted[number], predictions), "a frame that the ground truth does not have")


def _counted(files: Iterable[Path], root: Path, problems: Problems, read: Read) -> dict[Size, np.ndarray]:
    """How often each pixel was fixated, one map per size of frame."""
    pool: dict[Size, np.ndarray] = {}
    for path in files:
        fixated = _read(path, root, problems, read)
        if fixated is not None:
            size = (fixated.shape[0], fixated.shape[1])
            pool.setdefault(size, np.zeros(size, np.int64))
            pool[size] += fixated
    return pool


def _score_video(job: Job, video: TruthVideo, scores: SaliencyScores, problems: Problems) -> None:
    pool_at = _pool_without(job, video, problems)
    predicted = job.predicted.get(video.name, {})
    for number, map_file in video.maps.items():
        if number not in predicted or (job.needs_fixations and number not in video.fixations):
            continue
        prediction = _read(predicted[number], job.predictions, problems)
        density = _read(map_file, job.truth, problems)
        fixations = None
        if job.needs_fixations:
            fixations = _read(video.fixations[number], job.truth, problems, job.read_fixations)
        if prediction is None or density is None or (job.needs_fixations and fixations is None):
            continue
        truth = {"density": density} if fixations is None else {"density": density, "fixations": fixations}
        if pool_at is not None:
            truth["pool"] = pool_at((density.shape[0], density.shape[1]))
        try:
            scores.add(prediction=prediction, reference=truth, video=video.name)
        except DataError as error:
            problems.add(relative(predicted[number], job.predictions), str(error))


def _pool_without(job: Job, video: TruthVideo, problems: Problems) -> Callable[[Size], np.ndarray] | None:
    """The pool at a size, without the video's own fixations; each size is made once."""
    if job.pool is None:
        return None
    own = _counted(video.fixations.values(), job.truth, problems, job.read_fixations) if job.pool_is_own else {}
    rest = {size: counts - own[size] if size in own else counts for size, counts in job.pool.items()}
    made: dict[Size, np.ndarray] = {}

    def at(size: Size) -> np.ndarray:
        if size not in made:
            parts = [counts if old == size else rescale_counts(counts, size) for old, counts in rest.items()]
            made[size] = sum(parts, start=np.zeros(size, np.int64))
        return made[size]

    return at


def _read(path: Path, root: Path, problems: Problems, read: Read = read_map) -> np.ndarray | None:
    try:
        return read(path)
    except DataError as error:
        problems.add(relative(path, root), str(error))
        return None


def _pool_name(shuffled_pool: str) -> str:
    return {"others": "other videos", "none": "none"}.get(shuffled_pool, Path(shuffled_pool).absolute().name)


def _listed(found: dict[str, str]) -> str:
    """`": 7 in all; a/0001.png: no fixations …"`, the first few."""
    shown = [f"{name}: {reason}" for name, reason in list(found.items())[:SHOWN_PROBLEMS]]
    more = [f"and {len(found) - len(shown)} more"] if len(found) > len(shown) else []
    return "\n  ".join([f": {len(found)} in all", *shown, *more]) if found else ""
