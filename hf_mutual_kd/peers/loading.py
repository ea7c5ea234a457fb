"""One peer: what the user says of it, how it is loaded and checked, and how it is saved as an ordinary Hub model."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from ..config.hub_ids import COMMIT
from ..data.channels import gray_processor
from ..errors import PeerError
from ..files import read_json
from ..reports.adapter_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, FITTED, LABELS
from ..reports.reader_folder import READS
from ..tasks.base import Task
from ..tasks.new_heads import drawn_weights
from ..tasks.zero_shot import ZeroShot
from .adapter_settings import read_setting
from .adapters import add_adapter, is_adapter, keep_fitted, load_adapter, save_adapter, saved_config
from .config_files import input_channels, read_config
from .head_labels import HeadLabels
from .head_layers import check_drawn, drawn_layers, head_layers, head_weights, renew_head
from .launched import written_here
from .loading_errors import peer_errors
from .loading_output import reported_once, without_bars
from .python_source import is_python_source, make_module
from .quantization import check_head, check_trainable, keep_layout, quantization_of
from .sharding import is_split, load_full_state, without_zero3_init
from .spec import PeerSpec
from .timm import is_timm_wrapper, save_timm_wrapper
from .weight_files import check_weight_files
from .weights_hash import all_finite
from .zero_shot import load_zero_shot, reads_labels

logger = logging.get_logger(__name__)

MODULE_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class LoadedPeer:
    """A model, its processor and what was said of it; `spec.revision` is a commit when it came from the Hub.

    `new_head` says that its head was drawn: whatever it answers before it has trained is chance. `drawn` are the
    weights that were not in the checkpoint, of the head and of what stands between it and the encoder.
    """

    model: nn.Module
    processor: Any
    spec: PeerSpec
    new_head: bool = False
    drawn: tuple[str, ...] = ()


def load_peer(
    name: str,
    peer: str | Path | PeerSpec | nn.Module | LoadedPeer,
    task: Task,
    *,
    labels: HeadLabels | None = None,
    trust_remote_code: bool = False,
    bases: dict[Any, Base] | None = None,
) -> LoadedPeer:
    """Load one peer and check that it can take part; `bases` are those that adapters of other peers are on.

    Raises:
        [`PeerError`]: it does not exist, is gated, is of another task, has no processor, needs
            remote code, brings only pickled weights, or has weights that are not finite.
    """
    if isinstance(peer, LoadedPeer):
        return peer
    if isinstance(peer, nn.Module):
        return LoadedPeer(peer, getattr(peer, "processor", None), PeerSpec(source=type(peer).__name__))
    spec = peer if isinstance(peer, PeerSpec) else PeerSpec.parse(str(peer))
    if is_python_source(spec.source):
        if spec.peft is not None:
            raise PeerError(f"peer {name!r}: peft is for models of transformers; put adapters into your own function")
        return own_module(name, spec, make_module(name, spec.source, trust_remote_code), task)
    labels = labels or HeadLabels()
    with peer_errors(name, spec):
        adapter = find_adapter(spec)
    if adapter is not None or spec.peft is not None:
        config, below, labels = base_of(name, spec, adapter, labels)
        bases = {} if bases is None else bases
        base = shared_base(bases, name, below, task, labels=labels, trust_remote_code=trust_remote_code)
        return load_adapted(name, spec, adapter, config=config, base=base, is_classifier=task.has_classes)
    if spec.load_in_4bit or spec.load_in_8bit:
        raise PeerError(f"peer {name!r}: load_in_4bit and load_in_8bit are for bases of adapters; give --peft lora")
    loaded = load_checkpoint(name, spec, task, labels, trust_remote_code)
    check_trainable(name, loaded.spec, loaded.model)
    keep_layout(loaded.model)
    return loaded


def load_checkpoint(name: str, spec: PeerSpec, task: Task, labels: HeadLabels, trust_remote_code: bool) -> LoadedPeer:
    """A whole model of the Hub or of a folder, with its processor; without weights where that is torch's device."""
    if Path(spec.source).is_dir() and not (Path(spec.source) / "config.json").is_file():
        raise PeerError(f"peer {name!r}: the folder {spec.source} has no config.json; it is no model folder")
    # False, not unset: unset makes transformers ask on the terminal.
    code = {"trust_remote_code": trust_remote_code}
    bars = without_bars() if Path(spec.source).is_dir() else contextlib.nullcontext()
    with peer_errors(name, spec), bars, reported_once(name):
        spec = pinned(spec)
        config = read_config(name, spec, trust_remote_code)
        check_weight_files(spec.source, spec.revision, config)
        task.check_config(name, config)
        reads = reads_labels(name, spec, config, task)
        wanted = None if reads else labels.wanted(name, config, task)
        if not reads and (wanted is None or not task.takes_encoder(config)):
            check_task(name, config, task)
        load = {"revision": spec.revision, "dtype": getattr(torch, spec.dtype), "use_safetensors": True, **code}
        bits: dict[str, Any] = {}
        if spec.load_in_4bit or spec.load_in_8bit:
            bits = quantization_of(name, spec, config, () if reads else head_layers(task, config, code))
        load |= {"device_map": "meta"} if is_on_meta() else bits
        drawn: list[str] = []
        if reads:
            model: nn.Module = load_zero_shot(name, spec, config, load, labels.renewed or labels.missing)
        elif wanted is None:
            model = load_with_head(name, spec, task, config, load)
        else:
            model, drawn = load_with_new_head(name, spec, task, config=config, load=load, labels=wanted)
            logger.warning_once(
                f"peer {name!r}: {spec.source} gets a new head, whose answers are chance until it learns"
            )
        if is_on_meta() and bits:
            described: Any = model.config
            described.quantization_config = bits["quantization_config"]
        with torch.device("cpu"):
            processor = fitting(name, config, load_processor(name, spec, task, code))
    task.check_peer(name, model, processor)
    check_finite(name, model)
    return LoadedPeer(model, processor, spec, wanted is not None, tuple(drawn))


def is_on_meta() -> bool:
    """Whether peers are described, not loaded: torch makes what has no weights."""
    return torch.get_default_device().type == "meta"


def find_adapter(spec: PeerSpec) -> Path | None:
    """The folder of the adapter that a source is; of the Hub's a folder in the cache, named after its commit."""
    if Path(spec.source).exists():
        is_whole = (Path(spec.source) / "config.json").is_file()
        return Path(spec.source) if (Path(spec.source) / ADAPTER_CONFIG).is_file() and not is_whole else None
    try:
        hf_hub_download(spec.source, "config.json", revision=spec.revision)
    except EntryNotFoundError:
        with contextlib.suppress(EntryNotFoundError):
            hf_hub_download(spec.source, ADAPTER_WEIGHTS, revision=spec.revision)
            for extra in (LABELS, READS, FITTED):
                with contextlib.suppress(EntryNotFoundError):
                    hf_hub_download(spec.source, extra, revision=spec.revision)
            return Path(hf_hub_download(spec.source, ADAPTER_CONFIG, revision=spec.revision)).parent
    return None


class Base(NamedTuple):
    """A model that adapters are on, and the names of the layers of its head."""

    peer: LoadedPeer
    head: list[str]


def base_of(name: str, spec: PeerSpec, adapter: Path | None, labels: HeadLabels) -> tuple[Any, PeerSpec, HeadLabels]:
    """The setting of a peer's adapter, a new or a saved one, and what it is on: a model, with a head for labels."""
    if adapter is None:
        return read_setting(spec.peft or "lora"), replace(spec, peft=None), labels
    if spec.peft is not None:
        raise PeerError(f"peer {name!r}: {spec.source} is an adapter, which is trained on; leave peft out for it")
    config = saved_config(name, adapter)
    base_spec = replace(spec, source=str(config.base_model_name_or_path), revision=config.revision)
    if labels.renewed is None and (adapter / LABELS).is_file():
        names = json.loads((adapter / LABELS).read_text(encoding="utf-8"))
        labels = HeadLabels([names[index] for index in sorted(names, key=int)])
        base_spec = replace(base_spec, zero_shot=False)
    if (adapter / READS).is_file():
        read = read_json(adapter / READS, error=PeerError)
        base_spec = replace(base_spec, prompt_templates=spec.prompt_templates or read.get("prompt_templates"))
        labels = HeadLabels(labels.renewed, labels.missing or read.get("labels"))
    return config, base_spec, labels


def shared_base(
    bases: dict[Any, Base],
    name: str,
    base_spec: PeerSpec,
    task: Task,
    *,
    labels: HeadLabels,
    trust_remote_code: bool,
) -> Base:
    """The base that peers over the same source share; the first of them brings it into `bases`."""
    bits = (base_spec.load_in_4bit, base_spec.load_in_8bit)
    heads = (tuple(labels.renewed or ()), tuple(labels.missing or ()))
    reading = (base_spec.zero_shot, tuple(base_spec.prompt_templates or ()))
    key = (base_spec.source, base_spec.revision, base_spec.dtype, str(base_spec.processor), heads, bits, reading)
    if key not in bases:
        peer = load_checkpoint(name, base_spec, task, labels, trust_remote_code)
        keep_layout(peer.model)
        code = {"trust_remote_code": trust_remote_code}
        head = [] if isinstance(peer.model, ZeroShot) else head_layers(task, peer.model.config, code)
        check_head(name, peer.model, head)
        bases[key] = Base(peer, sorted({*head, *drawn_layers(peer.model, peer.drawn)}))
    return bases[key]


def load_adapted(
    name: str, spec: PeerSpec, adapter: Path | None, *, config: Any, base: Base, is_classifier: bool
) -> LoadedPeer:
    """A peer that trains an adapter, a new one or a saved one, on a base."""
    on, source, revision = base.peer, base.peer.spec.source, base.peer.spec.revision
    model: Any = add_adapter(name, on.model, config, source=source, revision=revision, head=base.head)
    model.is_relabelled = on.new_head and is_classifier
    if adapter is None:
        return LoadedPeer(model, on.processor, replace(spec, revision=revision), on.new_head)
    if not is_on_meta():
        load_adapter(name, model, adapter)
    if (adapter / FITTED).is_file():
        keep_fitted(model, read_json(adapter / FITTED, error=PeerError), None)
    check_finite(name, model)
    commit = adapter.name if COMMIT.fullmatch(adapter.name) else spec.revision
    return LoadedPeer(model, on.processor, replace(spec, revision=commit))


def own_module(name: str, spec: PeerSpec, model: nn.Module, task: Task) -> LoadedPeer:
    """A module of the user's own code as a peer, in the dtype and with the processor that the user asked for."""
    check_finite(name, model)
    if isinstance(spec.processor, str):
        processor = load_processor(name, spec, task, {"trust_remote_code": False})
    else:
        processor = spec.processor or getattr(model, "processor", None)
    return LoadedPeer(model.to(getattr(torch, spec.dtype)), processor, spec)


def pinned(spec: PeerSpec) -> PeerSpec:
    """The same with the commit that a branch or tag of the Hub stands for now, or stood for when it was cached."""
    if Path(spec.source).exists():
        return spec
    config = hf_hub_download(spec.source, "config.json", revision=spec.revision)
    commit = Path(config).parent.name
    return replace(spec, revision=commit) if COMMIT.fullmatch(commit) else spec


def check_task(name: str, config: Any, task: Task) -> None:
    """Refuse a checkpoint whose architecture was made for another task."""
    architectures = getattr(config, "architectures", None) or []
    own_code = bool(getattr(config, "auto_map", None)) or config.model_type == "timm_wrapper"
    if architectures and not own_code and not task.architectures().intersection(architectures):
        way_out = "; label_alignment='new_head' puts a new head on its encoder" if task.takes_encoder(config) else ""
        classes = " or ".join(cls.__name__ for cls in task.auto_models)
        expected = f"a checkpoint of {classes}" if classes else "a module, or python:package.module:function"
        raise PeerError(
            f"peer {name!r} is a {architectures[0]}, not a model for {task.name}; expected {expected}{way_out}"
        )


def load_with_head(name: str, spec: PeerSpec, task: Task, config: Any, load: dict) -> nn.Module:
    """The model itself, with every weight found."""
    model, report = task.auto_model(config).from_pretrained(
        spec.source, config=config, output_loading_info=True, **load
    )
    if missing := drawn_weights(report):
        raise PeerError(
            f"peer {name!r}: {spec.source} lacks weights for {len(missing)} parameters ({missing[0]}, …); it is no "
            f"finished {task.name} model. Use label_alignment='new_head' to give it a new classifier"
        )
    return model


def load_with_new_head(
    name: str, spec: PeerSpec, task: Task, *, config: Any, load: dict, labels: Sequence[str]
) -> tuple[nn.Module, list[str]]:
    """The model with a head that was drawn, an encoder of which every weight was found, and what was drawn."""
    model: Any
    model, drawn = task.new_head(spec.source, config, labels, **load)
    if not task.has_classes:
        check_drawn(name, spec.source, model, drawn, ())
        return model, drawn
    code = {"trust_remote_code": load["trust_remote_code"]}
    check_drawn(name, spec.source, model, drawn, head_weights(task, model.config, code))
    if config.num_labels == len(labels):
        renew_head(model, task, model.config, code)
    return model, drawn


def load_processor(name: str, spec: PeerSpec, task: Task, code: dict) -> Any:
    """The processor that a peer was pretrained with."""
    if callable(spec.processor):
        return spec.processor
    source = spec.processor or spec.source
    try:
        return task.load_processor(source, None if spec.processor else spec.revision, code)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise
        raise PeerError(
            f"peer {name!r}: no {task.processor_noun} in {source}; say which one it was trained with, "
            f"e.g. PeerSpec(processor=ID_OR_FOLDER) or --peers.{name}.processor ID_OR_FOLDER"
        ) from error


def fitting(name: str, config: Any, processor: Any) -> Any:
    """The processor, of grey images for a model of one channel.

    Raises:
        [`PeerError`]: the model takes images of another number of channels than one or three.
    """
    channels = input_channels(config)
    if channels not in (1, 3) and hasattr(processor, "save_pretrained"):
        raise PeerError(f"peer {name!r} takes images of {channels} channels; data sets give colour or grey, 3 or 1")
    return gray_processor(processor) if channels == 1 and hasattr(processor, "save_pretrained") else processor


def check_finite(name: str, model: nn.Module) -> None:
    """Refuse weights that hold NaN or infinity."""
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not value.is_meta and not all_finite(value):
            raise PeerError(f"peer {name!r}: the weights hold NaN or infinity (first in {key}); the file is damaged")


def save_peer(model: nn.Module, processor: Any, folder: Path, state_dict: dict[str, torch.Tensor] | None) -> None:
    """Write a peer so that the stock Auto classes load it; a plain module leaves its weights as safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    if is_adapter(model):
        save_adapter(model, folder, state_dict)
    elif isinstance(model, PreTrainedModel):
        save = save_timm_wrapper if is_timm_wrapper(model) else type(model).save_pretrained
        with without_bars(), written_here(model):
            save(model, folder, state_dict=state_dict)
    elif state_dict is not None:
        save_file({key: value.contiguous() for key, value in state_dict.items()}, folder / MODULE_WEIGHTS)
    else:
        save_model(model, str(folder / MODULE_WEIGHTS))
    if hasattr(processor, "save_pretrained"):
        processor.save_pretrained(folder)


def load_weights(name: str, model: nn.Module, folder: Path) -> None:
    """Put the weights that [`save_peer`] wrote back into `model`, through `from_pretrained`'s own key conversion.

    Raises:
        [`PeerError`]: the folder lacks a weight or its configuration; nothing is loaded non-strictly.
    """
    if is_adapter(model):
        load_adapter(name, model, folder)
        return
    if not isinstance(model, PreTrainedModel):
        try:
            if is_split(model):
                load_full_state(model, load_file(folder / MODULE_WEIGHTS))
            else:
                load_model(model, str(folder / MODULE_WEIGHTS))
        except (OSError, RuntimeError) as error:
            raise PeerError(f"peer {name!r}: {folder} does not hold its weights: {error}") from error
        return
    if not (folder / "config.json").is_file():  # The model's own is used, but nobody else could load this folder.
        raise PeerError(f"peer {name!r}: {folder} has no config.json; the checkpoint is damaged")
    with peer_errors(name, PeerSpec(str(folder))):
        check_weight_files(str(folder), config=model.config)
    with without_bars(), without_zero3_init():
        saved, report = type(model).from_pretrained(
            folder,
            config=copy.deepcopy(model.config),
            dtype=model.dtype,
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
        )
    if report["missing_keys"] or report.get("mismatched_keys"):
        raise PeerError(
            f"peer {name!r}: {folder} lacks {sorted(report['missing_keys'])[:3]}; the checkpoint is damaged"
        )
    load_full_state(model, saved.state_dict())
