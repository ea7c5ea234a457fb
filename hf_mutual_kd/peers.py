"""One peer: what the user says of it, how it is loaded and checked, and how it is saved as an ordinary Hub model."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, PreTrainedModel
from transformers.utils import logging

from .errors import PeerError
from .options import BatchNorm
from .sources import COMMIT
from .tasks.base import Task
from .timm_peers import is_timm_wrapper, save_timm_wrapper

PEER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
RESERVED_NAMES = {"control", "report", "runs", "best", "cohort", "mean", "nobody"} | set(dir(nn.ModuleDict({})))
"""What a run's folder or its tables, `--logging_dir`'s default or `nn.ModuleDict` call their own."""
RESERVED_PREFIXES = ("checkpoint-", "seed-")
MODULE_WEIGHTS = "model.safetensors"
LOADING_ERRORS = (OSError, ValueError, ImportError, RuntimeError, SafetensorError)
DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True)
class PeerSpec:
    """What the user says of one peer.

    Args:
        source (`str`): Hub id or folder.
        revision (`str`, *optional*): branch, tag or commit on the Hub.
        learning_rate (`float`, *optional*): the run's when unset.
        weight_decay (`float`, *optional*): the run's when unset.
        frozen (`bool`, *optional*, defaults to `False`): teaches, but does not learn.
        batch_norm (`str`, *optional*, defaults to `"train"`): `"freeze"` keeps the pretrained statistics.
        dtype (`str`, *optional*, defaults to `"float32"`): of the weights.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`): the model's own, layer by layer.
        processor (`str` or callable, *optional*): id or folder of an image processor, or a callable
            `images -> {"pixel_values": [B, 3, H, W]}`; the source's own when unset.
    """

    source: str = ""
    revision: str | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    frozen: bool = False
    batch_norm: BatchNorm = "train"
    dtype: str = "float32"
    gradient_checkpointing: bool = False
    processor: str | Callable[..., Mapping[str, Any]] | None = None

    def __post_init__(self):
        for option, allowed in (("dtype", DTYPES), ("batch_norm", get_args(BatchNorm))):
            if getattr(self, option) not in allowed:
                raise PeerError(
                    f"{option} of a peer must be one of {', '.join(allowed)}, got {getattr(self, option)!r}"
                )

    @classmethod
    def parse(cls, text: str) -> PeerSpec:
        """`ID_OR_FOLDER[@REVISION]`; an existing folder may have `@` in its name."""
        if Path(text).exists() or "@" not in text:
            return cls(source=text)
        source, _, revision = text.rpartition("@")
        if not source or not revision:
            raise PeerError(f"expected ID_OR_FOLDER[@REVISION], got {text!r}")
        return cls(source=source, revision=revision)


@dataclass(frozen=True)
class LoadedPeer:
    """A model, its processor and what was said of it; `spec.revision` is a commit when it came from the Hub."""

    model: nn.Module
    processor: Any
    spec: PeerSpec


def parse_peers(entries: Sequence[str]) -> dict[str, PeerSpec]:
    """`["NAME=ID_OR_FOLDER[@REVISION]", …]` to specs by name."""
    peers: dict[str, PeerSpec] = {}
    for entry in entries:
        name, separator, source = entry.partition("=")
        if not separator or not name or not source:
            raise PeerError(f"peers: expected NAME=ID_OR_FOLDER[@REVISION], got {entry!r}")
        if name in peers:
            raise PeerError(f"peers: two peers are called {name!r}; give each its own name")
        peers[name] = PeerSpec.parse(source)
    check_peer_names(peers)
    return peers


def check_peer_names(names: Iterable[str]) -> None:
    """Refuse names that cannot be folders of a run, and an empty cohort."""
    names = list(names)
    if not names:
        raise PeerError("a cohort needs at least one peer; give --peers NAME=ID_OR_FOLDER …")
    for name in names:
        folded = name.casefold()
        if not PEER_NAME.fullmatch(name) or folded in RESERVED_NAMES or folded.startswith(RESERVED_PREFIXES):
            raise PeerError(
                f"peer name {name!r} is no safe folder name: use letters, digits, '-' and '_', "
                "starting with a letter or digit, and none of the names a run uses itself (control, report, …)"
            )
    all_folded = [name.casefold() for name in names]
    twice = next((name for name in names if all_folded.count(name.casefold()) > 1), None)
    if twice is not None:
        raise PeerError(
            f"two peers are called {twice!r} (upper and lower case count as equal); give each its own name"
        )


def load_peer(
    name: str,
    peer: str | Path | PeerSpec | nn.Module | LoadedPeer,
    task: Task,
    new_labels: Sequence[str] | None = None,
    trust_remote_code: bool = False,
) -> LoadedPeer:
    """Load one peer and check that it can take part.

    Raises:
        [`~hf_mutual_kd.errors.PeerError`]: it does not exist, is gated, is of another task, has no processor, needs
            remote code, brings only pickled weights, or has weights that are not finite.
    """
    if isinstance(peer, LoadedPeer):
        return peer
    if isinstance(peer, nn.Module):
        return LoadedPeer(peer, getattr(peer, "processor", None), PeerSpec(source=type(peer).__name__))
    spec = peer if isinstance(peer, PeerSpec) else PeerSpec.parse(str(peer))
    # False, not unset: unset makes transformers ask on the terminal.
    code = {"trust_remote_code": trust_remote_code}
    if Path(spec.source).is_dir() and not (Path(spec.source) / "config.json").is_file():
        raise PeerError(f"peer {name!r}: the folder {spec.source} has no config.json; it is no model folder")
    bars = without_bars() if Path(spec.source).is_dir() else contextlib.nullcontext()
    with peer_errors(name, spec), bars:
        spec = pinned(spec)
        config = AutoConfig.from_pretrained(spec.source, revision=spec.revision, **code)
        check_task(name, config, task)
        load = {"revision": spec.revision, "dtype": getattr(torch, spec.dtype), "use_safetensors": True, **code}
        model = load_model_of(name, spec, task, load, new_labels)
        if new_labels is not None and config.num_labels == len(new_labels):
            renew_head(model, task, config, code)
        processor = load_processor(name, spec, code)
    check_finite(name, model)
    return LoadedPeer(model, processor, spec)


def pinned(spec: PeerSpec) -> PeerSpec:
    """The same with the commit that a branch or tag of the Hub stands for now, or stood for when it was cached."""
    if Path(spec.source).exists():
        return spec
    config = hf_hub_download(spec.source, "config.json", revision=spec.revision)
    commit = Path(config).parent.name
    return replace(spec, revision=commit) if COMMIT.fullmatch(commit) else spec


def check_task(name: str, config: Any, task: Task) -> None:
    """Refuse a checkpoint whose architecture was made for another task."""
    known = {model.__name__ for model in task.auto_model._model_mapping.values() if not isinstance(model, tuple)}
    known |= {
        m.__name__ for group in task.auto_model._model_mapping.values() if isinstance(group, tuple) for m in group
    }
    architectures = getattr(config, "architectures", None) or []
    own_code = bool(getattr(config, "auto_map", None)) or config.model_type == "timm_wrapper"
    if architectures and not own_code and not known.intersection(architectures):
        raise PeerError(
            f"peer {name!r} is a {architectures[0]}, not a model for {task.name}; "
            f"expected a checkpoint of {task.auto_model.__name__}"
        )


def load_model_of(name: str, spec: PeerSpec, task: Task, load: dict, new_labels: Sequence[str] | None) -> nn.Module:
    """The model itself, with every weight found."""
    if new_labels is not None:
        return task.new_head(spec.source, new_labels, **load)
    model, report = task.auto_model.from_pretrained(spec.source, output_loading_info=True, **load)
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report.get("mismatched_keys", ()))
    if missing:
        raise PeerError(
            f"peer {name!r}: {spec.source} lacks weights for {len(missing)} parameters ({missing[0]}, …); it is no "
            f"finished {task.name} model. Use label_alignment='new_head' to give it a new classifier"
        )
    return model


def renew_head(model: nn.Module, task: Task, config: Any, code: dict) -> None:
    """Draw the classifier anew where it has the right size already, which loading leaves as it was."""
    shapes = []
    for classes in (config.num_labels, config.num_labels + 1):
        sized = copy.deepcopy(config)
        sized.num_labels = classes
        with torch.device("meta"):
            probe = task.auto_model.from_config(sized, **code)
        shapes.append({key: parameter.shape for key, parameter in probe.named_parameters()})
    for key in shapes[0]:
        if shapes[0][key] != shapes[1][key] and key.endswith(".weight"):
            head: Any = model.get_submodule(key.removesuffix(".weight"))
            head.reset_parameters()


def load_processor(name: str, spec: PeerSpec, code: dict) -> Any:
    """The image processor that a peer was pretrained with."""
    if callable(spec.processor):
        return spec.processor
    source = spec.processor or spec.source
    try:
        return AutoImageProcessor.from_pretrained(source, revision=None if spec.processor else spec.revision, **code)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise
        raise PeerError(
            f"peer {name!r}: no image processor in {source}; say which one it was trained with, "
            f"e.g. PeerSpec(processor=ID_OR_FOLDER) or --peer_processors {name}=ID_OR_FOLDER"
        ) from error


def check_finite(name: str, model: nn.Module) -> None:
    """Refuse weights that hold NaN or infinity."""
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise PeerError(f"peer {name!r}: the weights hold NaN or infinity (first in {key}); the file is damaged")


class peer_errors:
    """Turns what transformers and the Hub raise while a peer is loaded into a [`PeerError`] with the way out."""

    def __init__(self, name: str, spec: PeerSpec):
        self.name, self.spec = name, spec

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if error is None or isinstance(error, PeerError) or not isinstance(error, LOADING_ERRORS):
            return
        causes = list(chain_of(error))
        at = f" at revision {self.spec.revision}" if self.spec.revision else ""
        raise PeerError(f"peer {self.name!r}: {self._explain(causes, at)}") from error

    def _explain(self, causes: list[BaseException], at: str) -> str:
        source, text = self.spec.source, " ".join(map(str, causes))
        if any(isinstance(cause, GatedRepoError) for cause in causes):
            return f"{source} is gated; ask for access on its page, then `hf auth login`"
        if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
            return f"{source} has no revision {self.spec.revision}"
        if any(isinstance(cause, RepositoryNotFoundError | HFValidationError) for cause in causes):
            return f"{source} is neither a folder nor a model on the Hub{at}; if it is private, `hf auth login` first"
        if "trust_remote_code" in text:
            return f"{source} brings its own code; read it, then allow it with --trust_remote_code true"
        if "timm" in text and any(isinstance(cause, ImportError) for cause in causes):
            return f"{source} is a timm model; `pip install timm`"
        if "file named model.safetensors" in text or ("safetensors" in text and ".bin" in text):
            return f"{source}{at} brings no weights as safetensors; pickled ones (.bin) are never read, convert them"
        return f"cannot load {source}{at}: {causes[0]}"


def chain_of(error: BaseException | None) -> Iterable[BaseException]:
    """An exception and all that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def label_list(model: nn.Module) -> list[str]:
    """The labels of a model in the order of its logits; empty where it does not say."""
    id2label = getattr(getattr(model, "config", None), "id2label", None) or {}
    return [str(id2label[index]) for index in sorted(id2label, key=int)]


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """No bars of transformers for local files: they would tear the bar of the training."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def save_peer(model: nn.Module, processor: Any, folder: Path, state_dict: dict[str, torch.Tensor] | None) -> None:
    """Write a peer so that the stock Auto classes load it; a plain module leaves its weights as safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PreTrainedModel):
        save = save_timm_wrapper if is_timm_wrapper(model) else type(model).save_pretrained
        with without_bars():
            save(model, folder, state_dict=state_dict)
    else:
        save_model(model, str(folder / MODULE_WEIGHTS))
    if hasattr(processor, "save_pretrained"):
        processor.save_pretrained(folder)


def load_weights(name: str, model: nn.Module, folder: Path) -> None:
    """Put the weights that [`save_peer`] wrote back into `model`, through `from_pretrained`'s own key conversion.

    Raises:
        [`~hf_mutual_kd.errors.PeerError`]: the folder lacks a weight; nothing is loaded non-strictly.
    """
    if not isinstance(model, PreTrainedModel):
        try:
            load_model(model, str(folder / MODULE_WEIGHTS))
        except (OSError, RuntimeError) as error:
            raise PeerError(f"peer {name!r}: {folder} does not hold its weights: {error}") from error
        return
    with without_bars():
        saved, report = type(model).from_pretrained(
            folder, dtype=model.dtype, output_loading_info=True, use_safetensors=True, local_files_only=True
        )
    if report["missing_keys"] or report.get("mismatched_keys"):
        raise PeerError(
            f"peer {name!r}: {folder} lacks {sorted(report['missing_keys'])[:3]}; the checkpoint is damaged"
        )
    model.load_state_dict(saved.state_dict())
