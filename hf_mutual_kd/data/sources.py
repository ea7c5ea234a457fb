"""Where a data set comes from: the Hub, a `save_to_disk` folder, class folders, or Parquet files."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset
from datasets.builder import DatasetBuilder
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..config.hub_ids import COMMIT, HUB_ID
from ..config.options import RecipeOptions
from ..config.places import near_path
from ..errors import DataError, chain_of
from ..files import read_json
from .class_folders import ClassFolders, role_of
from .inputs import IMAGES, Inputs
from .places import Places, cached

SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(-[0-9a-f]{16})?")
LOG_IN = "log in with `hf auth login` (or set HF_TOKEN)"
OFFLINE = "check the connection, or give a local folder; what was loaded before also works without the Hub"


@dataclass(frozen=True)
class Source:
    """The splits of a data set as they are found, before any of them is chosen or changed.

    Args:
        splits (`dict[str, Dataset | IterableDataset]`): by the names under which they were found.
        name (`str`): the Hub id, or of a local path only its last part (a path would tell the user's name).
        config (`str`, *optional*): configuration on the Hub.
        revision (`str`, *optional*): commit on the Hub.
        files (`dict[str, list[tuple[str, int]]]`): name and size in bytes of the local files of each split, where they
            are known without reading them.
    """

    splits: dict[str, Dataset | IterableDataset]
    name: str
    config: str | None = None
    revision: str | None = None
    files: dict[str, list[tuple[str, int]]] | None = None
    places: Places | None = None
    """Where its rows may name files; unset where it was made of files that were found."""


def open_source(options: RecipeOptions, inputs: Inputs = IMAGES) -> Source:
    """Find the data set of `--dataset` and open all its splits; class folders hold `inputs`.

    Raises:
        [`DataError`]: it does not exist, cannot be reached or may not be read (says which, and
            how to log in), needs code of its own, or is in a format that is not read.
    """
    source = _open(options, inputs)
    places = None if source.places is None else source.places.allowing(options.files_from)
    return replace(source, places=places)


def _open(options: RecipeOptions, inputs: Inputs) -> Source:
    given = options.dataset
    if not given:
        raise DataError("no data set: --dataset takes a Hub id, a folder, Parquet files or a glob")
    path = Path(given).expanduser()
    if path.is_file():
        return _parquet({"train": [path]}, path.name, options)
    if path.is_dir():
        return _folder(path, options, inputs)
    if re.search(r"[*?\[]", given):
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
        if not files:
            raise DataError(f"--dataset {given}: no file matches")
        return _parquet(_by_split(files), path.name, options)
    if not HUB_ID.fullmatch(given):
        raise DataError(
            f"--dataset {given}: no such folder or file{near_path(given)}, and no Hub id (user/name) either"
        )
    return _hub(given, options)


def _folder(path: Path, options: RecipeOptions, inputs: Inputs) -> Source:
    name = path.resolve().name
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _saved(path, options)
    parquet = sorted(path.glob("*.parquet"))
    if parquet:
        return _parquet(_by_split(parquet), name, options)
    if not any(path.glob("metadata.*")) and not any(path.glob("*/metadata.*")):
        asked = {"train": options.train_split, "validation": options.validation_split, "test": options.test_split}
        found = ClassFolders(inputs).read(path, asked)
        if found is not None:
            source = Source(found[0], name, files=found[1])  # type: ignore[arg-type]
            return source if not options.streaming else _as_streams(source)
    with as_data_error(str(path)):
        builder = datasets.load_dataset_builder(str(path.resolve()), options.dataset_config)
        files = {str(split): list(map(Path, part)) for split, part in (builder.config.data_files or {}).items()}
        places = Places((path, *cached(name).folders))
        return Source(_build(builder, options), name, options.dataset_config, files=_sizes(files), places=places)


def _saved(path: Path, options: RecipeOptions) -> Source:
    with as_data_error(str(path)):
        listing = path / "dataset_dict.json"
        folders = _saved_folders(path) if listing.is_file() else {"train": path}
        splits: dict[str, Dataset | IterableDataset] = {}
        for name, folder in folders.items():
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            # `datasets` cannot load what it saves of an empty split.
            splits[name] = Dataset.load_from_disk(str(folder)) if state["_data_files"] else Dataset.from_dict({})
    files = _sizes({name: sorted(folder.glob("*.arrow")) for name, folder in folders.items()})
    source = Source(splits, path.resolve().name, files=files, places=Places((path,)))
    return _as_streams(source) if options.streaming else source


def _saved_folders(path: Path) -> dict[str, Path]:
    """The folders of the splits that a `dataset_dict.json` lists, which lie beside it."""
    listing = path / "dataset_dict.json"
    found = read_json(
        listing, dict[str, list[str]], DataError, "save the data set again, or give the folder of a split"
    )
    for name in found.get("splits", []):
        if name in ("", ".", "..") or "/" in name or "\\" in name or not (path / name / "state.json").is_file():
            raise DataError(
                f"{listing} lists the split {name[:80]!r}, which has no folder with a state.json beside it"
            )
    if not found.get("splits"):
        raise DataError(f'{listing} lists no splits; expected {{"splits": ["train", …]}}')
    return {name: path / name for name in found["splits"]}


def _as_streams(source: Source) -> Source:
    splits = {
        name: split.to_iterable_dataset() if isinstance(split, Dataset) and len(split) else split
        for name, split in source.splits.items()
    }
    return replace(source, splits=splits)


def _by_split(files: list[Path]) -> dict[str, list[Path]]:
    """Parquet files by the split in their names: `train.parquet`, `validation-00000-of-00001.parquet`; where no name
    is that of a split, all are `train`."""
    found: dict[str, list[Path]] = {}
    for file in files:
        shard = SHARD.fullmatch(file.stem)
        found.setdefault(shard["split"] if shard else file.stem, []).append(file)
    return found if any(map(role_of, found)) else {"train": files}


def _parquet(files: dict[str, list[Path]], name: str, options: RecipeOptions) -> Source:
    wrong = [file for part in files.values() for file in part if file.suffix != ".parquet"]
    if wrong:
        raise DataError(f"--dataset {options.dataset}: files must be Parquet, got {wrong[0].name}")
    paths = {split: [str(file.resolve()) for file in part] for split, part in files.items()}
    # Apart, as splits of one data set must have equal columns and a test set may lack its labels.
    splits: dict[str, Dataset | IterableDataset] = {}
    for split, part in paths.items():
        with as_data_error(str(options.dataset)):
            if sum(pq.read_metadata(file).num_rows for file in part) == 0:
                splits[split] = Dataset.from_dict({})
                continue
            builder = datasets.load_dataset_builder("parquet", data_files={"train": part})
            splits[split] = _build(builder, options)["train"]
    folders = tuple({file.resolve().parent for part in files.values() for file in part})
    return Source(splits, name, files=_sizes(files), places=Places(folders))


def _sizes(files: dict[str, list[Path]]) -> dict[str, list[tuple[str, int]]]:
    return {split: [(file.name, file.stat().st_size) for file in part] for split, part in files.items()}


def _hub(name: str, options: RecipeOptions) -> Source:
    with as_data_error(name):
        builder = datasets.load_dataset_builder(name, options.dataset_config, revision=options.dataset_revision)
        asked, found = options.dataset_revision, builder.hash
        if asked and COMMIT.fullmatch(asked) and found != asked:
            # Without a connection `datasets` takes whatever revision is in its cache.
            raise DataError(f"--dataset {name}: revision {asked} is not in the cache and the Hub is not reachable")
        revision = found if found and COMMIT.fullmatch(found) else None
        return Source(_build(builder, options), name, options.dataset_config, revision, places=cached(name))


def _build(builder: DatasetBuilder, options: RecipeOptions) -> dict[str, Dataset | IterableDataset]:
    if options.streaming:
        return {str(name): split for name, split in builder.as_streaming_dataset().items()}
    builder.download_and_prepare()
    return {str(name): split for name, split in builder.as_dataset().items()}


@contextmanager
def as_data_error(name: str) -> Iterator[None]:
    """Turn what `datasets` and the Hub client raise into one message that says what to do."""
    try:
        yield
    except DataError:
        raise
    except (DatasetNotFoundError, HTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise DataError(f"--dataset {name}: {_hub_reason(error)}") from error
    except RuntimeError as error:
        advice = "; ask for it as Parquet" if "scripts are no longer supported" in str(error) else ""
        raise DataError(f"--dataset {name}: {_first_line(error)}{advice}") from error
    except (DatasetGenerationError, ValueError, KeyError, OSError, NotImplementedError) as error:
        raise DataError(f"--dataset {name}: cannot be loaded: {_config_reason(error)}") from error


def _hub_reason(error: BaseException) -> str:
    kinds = tuple(type(item) for item in chain_of(error))
    if any(issubclass(kind, GatedRepoError) for kind in kinds) or "gated" in str(error):
        return f"is gated on the Hub: accept its terms on its page, then {LOG_IN}"
    if any(issubclass(kind, RevisionNotFoundError) for kind in kinds) or str(error).startswith("Revision"):
        return "has no such revision on the Hub; check --dataset_revision"
    if any(issubclass(kind, RepositoryNotFoundError) for kind in kinds) or isinstance(error, DatasetNotFoundError):
        return (
            "is no local folder or file, and on the Hub it does not exist or is private; check the spelling, and "
            f"if it is private {LOG_IN}"
        )
    if datasets.config.HF_HUB_OFFLINE:
        return "is neither a local folder nor in the cache, and offline mode is on (HF_HUB_OFFLINE)"
    # HTTPError is the base of all errors of the client's transport; answers of the Hub have their own class.
    if not isinstance(error, HfHubHTTPError) or isinstance(error, LocalEntryNotFoundError):
        return f"the Hub cannot be reached; {OFFLINE}"
    return f"the Hub answered with an error: {_first_line(error)}"


def _config_reason(error: BaseException) -> str:
    text = str(error.__cause__ or error) if isinstance(error, DatasetGenerationError) else str(error)
    advice = "; choose with --dataset_config" if "config" in text.lower() else ""
    lines = [line for line in text.splitlines() if line.strip() and "load_dataset(" not in line]
    return " ".join(line.strip() for line in lines[:3])[:600] + advice


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
