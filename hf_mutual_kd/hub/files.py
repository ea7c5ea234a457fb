"""Which files of a peer may leave the machine, and the search for what never may."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.generic import is_timm_local_checkpoint

from ..errors import HubError
from ..files import read_json
from ..reports.adapter_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, without_local_base
from .secrets import as_written, found_in

SUFFIXES = frozenset({".json", ".safetensors", ".md", ".png", ".txt", ".jinja", ".onnx", ".model"})
""".model: the pieces of words of SentencePiece."""
CODE_SUFFIX = ".py"
MODEL_CODE = [
    Path(__file__).parents[1] / "tasks" / task / "model" for task in ("image_classification", "video_saliency")
]
"""The code that saved models of this package's own bring, so that transformers alone loads them."""

PROCESSORS = frozenset(
    {"preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "tokenizer_config.json"}
)
"""Of a model's folder, one is there: without it a pipeline does not load."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class PushFile:
    """One file that is to be pushed.

    Args:
        name (`str`): its path in the repository, with `/`.
        content (`Path` or `bytes`): where it lies, or its bytes where they differ from the file's.
    """

    name: str
    content: Path | bytes = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def read(self) -> bytes:
        """The whole content; of weights only the header, which holds all their text."""
        if isinstance(self.content, bytes):
            return self.content
        if self.name.endswith(".safetensors"):
            with open(self.content, "rb") as file:
                return file.read(min(int.from_bytes(file.read(8), "little"), 100_000_000))
        return self.content.read_bytes()


@dataclass
class Selection:
    """The files of a folder, sorted into those that go and those that stay, with the reason."""

    files: list[PushFile] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def select(folder: Path, custom_code: bool = False) -> Selection:
    """The files of a model folder that may be pushed.

    Only known kinds go (JSON, safetensors, ONNX, Markdown, PNG, text, chat templates, SentencePiece); never pickles,
    hidden files, or links that lead out of the folder. Without `custom_code` no Python goes either, and `auto_map`,
    which tells the next loader to run code, is taken out of the JSON files, unless all Python in the folder is this
    package's own.

    Raises:
        [`HubError`]: the folder holds no model.
    """
    chosen = Selection()
    root = folder.resolve()
    custom_code = custom_code or holds_our_code(folder)
    for at, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted([*names, *(f for f in folders if (Path(at) / f).is_symlink())]):
            path = Path(at) / name
            relative = path.relative_to(folder).as_posix()
            reason = _obstacle(path, PurePosixPath(relative), root, custom_code)
            if reason:
                chosen.left_out[relative] = reason
            else:
                keeps = custom_code and path.name != ADAPTER_CONFIG
                chosen.files.append(PushFile(relative, path if keeps else _without_auto_map(path)))
    missing = _missing({file.name for file in chosen.files}, folder)
    if missing:
        raise HubError(f"{folder} is no whole model: {missing}; nobody could load what would be pushed")
    return chosen


def _missing(present: set[str], folder: Path) -> str | None:
    """What a folder lacks of a model that the Auto classes load, in words."""
    adapter = ADAPTER_CONFIG in present
    config, weights = (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if adapter else ("config.json", SAFE_WEIGHTS_NAME)
    if config not in present:
        return f"it lacks {config}"
    shards = {weights}
    if not adapter and SAFE_WEIGHTS_INDEX_NAME in present:
        index = read_json(folder / SAFE_WEIGHTS_INDEX_NAME, dict[str, dict[str, Any] | Any], HubError)
        shards = {str(shard) for shard in index["weight_map"].values()} if index.get("weight_map") else shards
    if lost := sorted(shards - present):
        return f"it lacks {', '.join(lost[:3])}"
    if not present & PROCESSORS and not is_timm_local_checkpoint(str(folder)):  # timm's is in its config.json.
        return f"it lacks its processor, one of {', '.join(sorted(PROCESSORS))}"
    return None


def holds_our_code(folder: Path) -> bool:
    """Whether a folder holds Python, all of it byte for byte what this package saves beside its own models."""
    files = [file for file in folder.rglob(f"*{CODE_SUFFIX}") if file.is_file()]
    return bool(files) and all(file.parent == folder and _is_ours(file) for file in files)


def _is_ours(file: Path) -> bool:
    known = (code / file.name for code in MODEL_CODE)
    return any(one.is_file() and file.read_bytes() == one.read_bytes() for one in known)


def _obstacle(path: Path, relative: PurePosixPath, root: Path, custom_code: bool) -> str | None:
    if any(part.startswith(".") for part in relative.parts):
        return "hidden"
    if not all(NAME.fullmatch(part) for part in relative.parts):
        return "a name with odd characters"
    if not path.resolve().is_relative_to(root):
        return "a link that leads out of the folder"
    if not path.is_file():
        return "no plain file"
    suffix = path.suffix.lower()
    if suffix == CODE_SUFFIX:
        return None if custom_code else "code, and trust_remote_code was not given"
    return None if suffix in SUFFIXES else "not a kind of file that is pushed"


def _without_auto_map(path: Path) -> Path | bytes:
    if path.suffix.lower() != ".json":
        return path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return path
    if isinstance(content, dict) and path.name == ADAPTER_CONFIG:
        return to_json(without_local_base(content))
    if not isinstance(content, dict) or "auto_map" not in content:
        return path
    return to_json({key: value for key, value in content.items() if key != "auto_map"})


def to_json(content: Any) -> bytes:
    """JSON as it is written into files."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def refuse_secrets(files: Iterable[PushFile], run_dir: Path, token: str | None) -> None:
    """Look through all that is to be pushed for tokens, keys, passwords and paths of this machine.

    Args:
        files (`Iterable[PushFile]`): what would leave.
        run_dir (`Path`): the run, whose absolute path stays here.
        token (`str`, *optional*): the one in use.

    Raises:
        [`HubError`]: names the file and what was found in it, never the secret itself.
    """
    paths = {"the absolute path of the run": as_written(run_dir.resolve()) | as_written(run_dir.absolute())}
    home = Path.home()
    if len(home.parts) > 1:
        paths["the path of your home folder"] = as_written(home)
    for file in files:
        if what := found_in(file.name, file.read(), token, paths):
            raise HubError(f"{file.name} holds {what}; take it out and push again (nothing was sent)")
