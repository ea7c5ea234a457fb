"""Data sets of video saliency as they lie on disk or on the Hub: finds videos, maps, fixations and shots."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from ....config.options import RecipeOptions
from ....data.frame_readers import FRAME_ENDINGS, natural_key
from ....data.labelled_rows import drawn_labels
from ....data.splits import ROLES
from ....data.video import open_frames
from ....errors import DataError
from ..options import SaliencyOptions
from .fixations import FixationList, check_points
from .hub_rows import Found, Maker, find_rows
from .map_files import by_number
from .truth import FolderTruth, MapVideoTruth, SaliencyVideo, check_aspect

BAR_FROM = 500
"""Videos from which looking at them shows a progress bar."""

VIDEO_ENDINGS = {".avi", ".mp4", ".mkv", ".webm", ".mov"}
DHF1K_TRAIN, DHF1K_VALIDATION = range(1, 601), range(601, 701)


@dataclass
class VideoSplits:
    """The videos of a run.

    Args:
        train, validation, test (`list[SaliencyVideo]`): validation selects, test is reported.
        skipped (`list[str]`): what was wrong with each video that was left out.
        facts (`dict`): for the record, ready for JSON.
    """

    train: list[SaliencyVideo]
    validation: list[SaliencyVideo]
    test: list[SaliencyVideo]
    skipped: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def load_videos(options: RecipeOptions, *, seed: int, on_bad_row: Literal["raise", "skip"] = "raise") -> VideoSplits:
    """Find the videos of `--dataset` and look at each: its frames, its maps and fixations, and that they agree.

    | `--dataset` | what lies there |
    |---|---|
    | `dhf1k:FOLDER` | `0001/{images,maps,fixation}` (also below `train/` and `val/`), or the official `video/001.AVI` with `annotation/0001/{maps,fixation}` |
    | `hollywood2:FOLDER` | `{training,testing}/CLIP/{images,maps,fixation}`; clips `FILM_1`, `FILM_2`, … are the shots of one video |
    | `ucf:FOLDER` | the same, every clip a video of its own |
    | `avimos:FOLDER` | `Videos/NAME.mp4`, `Saliency*/**/NAME.mp4`, `Fixations*/**/NAME/fixations.json`, `TrainTestSplit.json` |
    | Hub id, Parquet | rows with `video` (file in bytes, or a path below the data set's folder), `fixations` (for every frame a list of `[row, column]`; null where no gaze was recorded), and, if there, `name`, `size` (`[H, W]` of the fixations), `sigma` (pixels), `cuts` |

    Fixations of a folder are `fixation/*.png` or `fixation/maps/*.mat` (key `I`) or `*.png`. Without a validation
    split, a tenth of the training videos, drawn by `seed`, becomes it. DHF1K withholds the truth of its test videos:
    its official validation videos are reported, as local results on it are everywhere, and a tenth of train selects.

    Training videos may lack gaze: rows whose `fixations` are null, clips with neither maps nor fixations.

    Args:
        options ([`RecipeOptions`]): what `--dataset` and its neighbours say.
        seed (`int`): draws the validation videos.
        on_bad_row (`str`, *optional*, defaults to `"raise"`): `"skip"` leaves videos out that are broken, empty, or
            lack a map, and counts them.

    Raises:
        [`DataError`]: no such data set, a split is empty, or a video is bad (names the file).

    Example:

    ```python
    >>> splits = load_videos(RecipeOptions(dataset="dhf1k:/data/DHF1K"), seed=0)
    >>> splits.train[0].truth.density(17).shape
    (360, 640)
    ```
    """  # noqa: E501  (a table's rows are one line each)
    given = options.dataset or ""
    layout, _, place = given.partition(":")
    if layout in FOLDERS:
        root = Path(place).expanduser()
        if not root.is_dir():
            raise DataError(f"--dataset {given}: there is no folder {place!r}")
        found, name = FOLDERS[layout](root), root.resolve().name
    else:
        found, name = find_rows(options), Path(given).name
        layout = "rows"
    skipped: list[str] = []
    splits = {split: _made(makers, split, on_bad_row, skipped) for split, makers in found.items()}
    origin = {split: split for split in splits}
    _check_names([video.name for videos in splits.values() for video in videos])
    if splits.get("train") and not splits.get("validation"):
        _hold_out(splits, origin, seed)
    for role in ROLES:
        limit = options.max_train_samples if role == "train" else options.max_eval_samples
        if not splits.get(role):
            raise DataError(f"--dataset {given}: no videos for {role}" + _left_out(skipped))
        splits[role] = _drawn(splits[role], limit, seed)
        if isinstance(options, SaliencyOptions) and options.fixation_maxima:
            splits[role] = [_by_maxima(video) for video in splits[role]]
    splits["train"] = _gaze_hidden(splits["train"], options, seed)
    return VideoSplits(**splits, skipped=skipped, facts=_facts(name, layout, splits, origin, skipped))


def _made(makers: Sequence[Maker], role: str, on_bad_row: str, skipped: list[str]) -> list[SaliencyVideo]:
    videos = []
    for make in tqdm(makers, "Looking at videos", disable=len(makers) < BAR_FROM, file=sys.stderr, leave=False):
        try:
            video = make()
            if role != "train" and not video.has_gaze:
                raise DataError(f"{role} video {video.name}: there is no gaze, so that it measures nothing")
            videos.append(video)
        except DataError as error:
            if on_bad_row == "raise":
                raise DataError(f"{error}. Mend it, or leave such videos out with --on_bad_row skip") from None
            skipped.append(str(error))
    return videos


def _check_names(names: Sequence[str]) -> None:
    """A video in two splits would be learned from and reported."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"two videos are called {twice!r}; every video has its own name and is in one split")


def _left_out(skipped: list[str]) -> str:
    return f" ({len(skipped)} bad ones were left out, the first: {skipped[0]})" if skipped else ""


def _hold_out(splits: dict[str, list[SaliencyVideo]], origin: dict[str, str], seed: int) -> None:
    train = splits["train"]
    # Videos that measure need gaze, where any has it.
    usable = np.flatnonzero([video.has_gaze for video in train])
    usable = usable if len(usable) else np.arange(len(train))
    order = usable[np.random.default_rng(seed).permutation(len(usable))]
    held = set(order[: max(1, len(usable) // 10)].tolist())
    splits["validation"] = [video for place, video in enumerate(train) if place in held]
    splits["train"] = [video for place, video in enumerate(train) if place not in held]
    origin |= {"train": f"the rest of train (seed {seed})", "validation": f"a tenth of train (seed {seed})"}


def _drawn(videos: list[SaliencyVideo], limit: int | None, seed: int) -> list[SaliencyVideo]:
    if limit is None or limit >= len(videos):
        return videos
    return [videos[place] for place in np.sort(np.random.default_rng(seed).permutation(len(videos))[:limit])]


def _by_maxima(video: SaliencyVideo) -> SaliencyVideo:
    truth = video.truth
    return replace(video, truth=replace(truth, maxima=True)) if isinstance(truth, FolderTruth) else video


def _gaze_hidden(videos: list[SaliencyVideo], options: RecipeOptions, seed: int) -> list[SaliencyVideo]:
    """The same videos, of which only `max_labelled_samples` keep their gaze."""
    if options.max_labelled_samples is None:
        return videos
    seen = np.flatnonzero([video.has_gaze for video in videos])
    kept = set(drawn_labels(seen, options.max_labelled_samples, seed).tolist())
    return [video if place in kept else replace(video, truth=None) for place, video in enumerate(videos)]


def _facts(
    name: str,
    layout: str,
    splits: dict[str, list[SaliencyVideo]],
    origin: dict[str, str],
    skipped: list[str],
) -> dict[str, Any]:
    listing = [
        [role, video.name, video.length, video.cuts, *([] if video.has_gaze else ["no gaze"])]
        for role in ROLES
        for video in splits[role]
    ]
    return {
        "name": name,
        "layout": layout,
        "splits": {role: origin[role] for role in ROLES},
        "videos": {role: len(splits[role]) for role in ROLES},
        "frames": {role: sum(video.length for video in splits[role]) for role in ROLES},
        "skipped": len(skipped),
        "fingerprint": hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16],
        "fingerprint_of": "names, lengths and cuts of the videos",
    }


def dhf1k(root: Path) -> Found:
    """DHF1K: 600 training and 100 validation videos; the truth of the 300 test videos is withheld."""
    official = (root / "annotation").is_dir()
    found: Found = {"train": [], "test": []}
    for base in (root / "annotation",) if official else (root, *_folders(root)):
        for folder in _folders(base):
            if not re.fullmatch(r"[0-9]{1,4}", folder.name) or int(folder.name) >= DHF1K_VALIDATION.stop:
                continue
            role = "train" if int(folder.name) in DHF1K_TRAIN else "test"
            found[role].append(partial(_of_file, folder, root / "video") if official else _of_shots(folder))
    return found


def hollywood2(root: Path) -> Found:
    """Hollywood-2: the shots of a film are one video with cuts, so that no clip shows two of them."""
    return {
        role: [
            _of_shots(*shots)
            for _, shots in groupby(_folders(root / part), lambda clip: clip.name.rpartition("_")[0] or clip.name)
        ]
        for role, part in GAZE_PARTS.items()
    }


def ucf(root: Path) -> Found:
    """UCF-Sports: every clip is a video."""
    return {role: [_of_shots(clip) for clip in _folders(root / part)] for role, part in GAZE_PARTS.items()}


def avimos(root: Path) -> Found:
    """AViMoS as its archives unpack; the public and the private test videos together are the test split."""
    listing = root / "TrainTestSplit.json"
    videos = {file.stem: file for file in (root / "Videos").rglob("*") if file.suffix.lower() in VIDEO_ENDINGS}
    maps = {file.stem: file for folder in root.glob("Saliency*") for file in folder.rglob("*.mp4")}
    points = {file.parent.name: file for folder in root.glob("Fixations*") for file in folder.rglob("fixations.json")}
    try:
        parts = json.loads(listing.read_text(encoding="utf-8"))
        names = {part: sorted({Path(name).stem for name in listed}, key=natural_key) for part, listed in parts.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{listing}: cannot be read as lists of video names by split: {error}") from None
    found: Found = {"train": [], "test": []}
    for part, listed in names.items():
        files = [(name, videos.get(name), maps.get(name), points.get(name)) for name in listed]
        found["train" if "train" in part.lower() else "test"] += [partial(_of_avimos, *entry) for entry in files]
    return found


FOLDERS: dict[str, Callable[[Path], Found]] = {
    "dhf1k": dhf1k,
    "hollywood2": hollywood2,
    "ucf": ucf,
    "avimos": avimos,
}
GAZE_PARTS = {"train": "training", "test": "testing"}
"""Folders of Hollywood-2 and UCF-Sports as they are handed out for saliency."""


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        (item for item in folder.iterdir() if item.is_dir()), key=lambda item: (natural_key(item.name), item.name)
    )


def _of_shots(*folders: Path) -> Maker:
    return partial(_joined, folders)


def _joined(folders: Sequence[Path]) -> SaliencyVideo:
    """One video of folders `{images,maps,fixation}`, each a shot."""
    images = [_numbered(folder / "images", FRAME_ENDINGS) for folder in folders]
    frames = tuple(file for shot in images for file in shot.values())
    truths = [_truth(folder, list(shot)) for folder, shot in zip(folders, images, strict=True)]
    known = [truth for truth in truths if truth is not None]
    if 0 < len(known) < len(truths):
        raise DataError(f"{folders[truths.index(None)]}: a shot without gaze in a film whose other shots have it")
    maps, fixations = (tuple(file for truth in known for file in truth[kind]) for kind in (0, 1))
    _, size = _look_at(frames)
    truth = FolderTruth(maps, fixations) if known else None
    _check_first(truth, size, folders[0])
    cuts = tuple(accumulate(len(shot) for shot in images))[:-1]
    name = folders[0].name.rpartition("_")[0] if len(folders) > 1 else folders[0].name
    return SaliencyVideo(name, frames, len(frames), truth, cuts)


def _of_file(folder: Path, videos: Path) -> SaliencyVideo:
    """One video of DHF1K as it is handed out: `video/001.AVI` and `annotation/0001`."""
    stem = f"{int(folder.name):03d}"
    file = next(
        (videos / (stem + ending) for ending in (".AVI", ".avi") if (videos / (stem + ending)).is_file()), None
    )
    if file is None:
        raise DataError(f"{videos}: there is no {stem}.AVI for {folder}")
    length, size = _look_at(file)
    found = _truth(folder, list(range(1, length + 1)))
    truth = None if found is None else FolderTruth(*found)
    _check_first(truth, size, folder)
    return SaliencyVideo(folder.name, file, length, truth)


def _truth(folder: Path, numbers: Sequence[int]) -> tuple[tuple[Path, ...], tuple[Path, ...]] | None:
    """The map and the fixations of every frame; `None` where there are folders of neither."""
    if not (folder / "maps").exists() and not (folder / "fixation").exists():
        return None
    places = ((folder / "fixation", FRAME_ENDINGS), (folder / "fixation" / "maps", FRAME_ENDINGS | {".mat"}))
    for place, endings in places:
        if place.is_dir() and any(file.suffix.lower() in endings for file in place.iterdir()):
            maps = _matching(numbers, folder / "maps", FRAME_ENDINGS, "map")
            return maps, _matching(numbers, place, endings, "fixations")
    raise DataError(f"{folder}: there are neither images in fixation/ nor images or .mat files in fixation/maps/")


def _matching(numbers: Sequence[int], folder: Path, endings: set[str], what: str) -> tuple[Path, ...]:
    files = _numbered(folder, endings)
    counts = f"{len(numbers)} frames, {len(files)} files"
    missing = next((number for number in numbers if number not in files), None)
    if missing is not None:
        raise DataError(f"{folder}: no {what} of frame {missing} ({counts})")
    if len(files) > len(numbers):
        wanted = set(numbers)
        extra = next(file for number, file in files.items() if number not in wanted)
        raise DataError(f"{extra}: the video has no such frame ({counts})")
    return tuple(files[number] for number in numbers)


def _numbered(folder: Path, endings: set[str]) -> dict[int, Path]:
    """Files by the last number in their names, ascending."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = by_number(
        file for file in folder.iterdir() if file.suffix.lower() in endings and not file.name.startswith(".")
    )
    if not files:
        raise DataError(f"{folder}: holds no files {', '.join(sorted(endings))}")
    return files


def _of_avimos(name: str, video: Path | None, maps: Path | None, points: Path | None) -> SaliencyVideo:
    if video is not None and maps is None and points is None:
        return SaliencyVideo(name, video, _look_at(video)[0], None)
    if video is None or maps is None or points is None:
        what = "video" if video is None else "saliency map" if maps is None else "fixations.json"
        raise DataError(f"AViMoS video {name}: there is no {what} of it")
    try:
        fixations = FixationList(json.loads(points.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{points}: cannot be read as fixations: {error}") from None
    (length, size), (maps_length, maps_size) = _look_at(video), _look_at(maps)
    for file, count in ((maps, maps_length), (points, len(fixations))):
        if count != length:
            raise DataError(f"{file}: is of {count} frames, {video} has {length}")
    try:
        check_aspect(maps_size, size)
        check_points(fixations.points, maps_size)
    except ValueError as error:
        raise DataError(f"AViMoS video {name}: {error}") from None
    return SaliencyVideo(name, video, length, MapVideoTruth(maps, fixations))


def _check_first(truth: FolderTruth | None, frame: tuple[int, int], folder: Path) -> None:
    """Refuse maps of another aspect than the frames; the collator looks at all of them."""
    if truth is None:
        return
    height, width = truth.density(0).shape
    try:
        check_aspect((height, width), frame)
    except DataError as error:
        raise DataError(f"{folder / 'maps'}: {error}") from None


def _look_at(source: Any) -> tuple[int, tuple[int, int]]:
    """Number and size of frames, after a look at the first and the last: most broken files show there."""
    with open_frames(source) as video:
        _, height, width, _ = video.frames([0, len(video) - 1]).shape
        return len(video), (height, width)
