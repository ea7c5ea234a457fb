"""Adapters as peers: a frozen base, shared by the peers that name it, and small trained weights of each peer's own."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..config.values import nearest
from ..errors import ConfigError, PeerError
from ..files import write_json
from ..reports.adapter_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, FITTED, HUB_ID, LABELS, read_adapter
from ..reports.reader_folder import READS
from ..tasks.zero_shot import ZeroShot
from .adapter_settings import PEFT_ERRORS, made_config, method_of
from .quantization import is_quantized

MAGNITUDE = ".lora_magnitude_vector"

ADAPTER = "default"
"""What peft calls the adapter inside each peer: every peer is a model of its own."""


def is_adapter(model: nn.Module) -> TypeGuard[PeftModel]:
    """Whether a peer is a base with an adapter."""
    return isinstance(model, PeftModel)


def base_of(model: nn.Module) -> Any:
    """The model of transformers inside a peer: of an adapter its base, else the peer itself."""
    return model.get_base_model() if is_adapter(model) else model


# Building


def with_shared_weights(model: nn.Module, shared: Iterable[Tensor]) -> nn.Module:
    """A copy of a model that has these parameters and buffers in common with it; only what is not listed is copied.

    Peers over one base are such copies: each has its own modules, so that no adapter is ever switched on another's
    behalf (not in recomputed activations either), and all have the same frozen weights.
    """
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def add_adapter(
    name: str, base: nn.Module, config: PeftConfig, *, source: str, revision: str | None, head: Sequence[str] = ()
) -> PeftModel:
    """A peer that trains an adapter on a frozen base, which stays as it is.

    Args:
        name (`str`): the peer's. With the seed it decides the adapter's first weights, so that peers over one base
            differ, and a peer starts equally in whatever cohort.
        base (`nn.Module`): a whole model; the peer shares its weights.
        config (`PeftConfig`): without `target_modules` all linear layers are adapted, in models that have none all
            ungrouped convolutions; without `modules_to_save` the `head` is trained as a copy.
        source (`str`): where the base comes from, for the saved configuration.
        revision (`str`, *optional*): its commit on the Hub.
        head (`list[str]`): names of the layers whose size depends on the number of classes.

    Raises:
        [`PeerError`]: the adapter does not fit the model, or would change its base.
    """
    config = copy.copy(config)
    config.base_model_name_or_path, config.revision, config.inference_mode = source, revision, False
    if getattr(config, "modules_to_save", ()) is None:
        config.modules_to_save = list(head)
    if getattr(config, "target_modules", ()) is None:
        config.target_modules = default_targets(name, base, head)
        if getattr(config, "feedforward_modules", ()) is None:
            # IA3 scales these layers' inputs in place of their outputs; peft asks for them by name.
            config.feedforward_modules = []
    check_targets(name, base, getattr(config, "target_modules", None))
    config.target_modules = outside_of_rest(base, getattr(config, "target_modules", None))
    if getattr(getattr(base, "config", None), "tf_padding", False):
        raise PeerError(
            f"peer {name!r}: an adapter hides the stride of a convolution, which {type(base).__name__} reads for its "
            "tf_padding; train the peer without peft"
        )
    weights = [*base.parameters(), *base.buffers()]
    before = [(tensor._version, tensor.data_ptr()) for tensor in weights]
    with torch.random.fork_rng():
        torch.manual_seed(torch.initial_seed() ^ zlib.crc32(name.encode()))
        try:
            model = PeftModel(with_shared_weights(base, weights), config, ADAPTER)
        except PEFT_ERRORS as error:
            raise PeerError(
                f"peer {name!r}: {method_of(config)} does not fit {type(base).__name__}: {error}"
            ) from error
    if before != [(tensor._version, tensor.data_ptr()) for tensor in weights]:
        raise PeerError(f"peer {name!r}: this initialisation rewrites the base, which peers share; choose another")
    owned = {id(tensor) for tensor in weights}
    trained = [key for key, weight in model.named_parameters() if weight.requires_grad]
    of_base = [key for key in trained if id(model.get_parameter(key)) in owned]
    if of_base or not trained:
        what = f"trains the base's own weights ({of_base[0]}, …); bias must be none" if of_base else "trains nothing"
        raise PeerError(f"peer {name!r}: this adapter {what}")
    resting = [key for key in trained if rests(base, key.removeprefix("base_model.model."))]
    if resting:
        raise PeerError(f"peer {name!r}: this adapter changes what rests ({resting[0]}, …); leave target_modules out")
    return model


def rests(model: nn.Module, key: str) -> bool:
    """Whether a module or weight belongs to a part of a model that no training changes, as a text tower."""
    return key.partition(".")[0] in getattr(model, "resting_parts", ())


def outside_of_rest(model: nn.Module, targets: Any) -> Any:
    """The layers that a list of names means, without those that rest; all other targets as they are."""
    if not getattr(model, "resting_parts", ()) or targets is None or isinstance(targets, str):
        return targets
    keys = [key for key, _ in model.named_modules() if not rests(model, key)]
    return [key for key in keys if any(key == target or key.endswith(f".{target}") for target in targets)]


def default_targets(name: str, model: nn.Module, head: Collection[str]) -> list[str]:
    """Names of the layers to adapt, as short as they are unique: linear ones, else convolutions without groups."""
    # transformers' Conv1D is a linear layer with its weight transposed.
    kinds: dict[Any, list[str]] = {(nn.Linear, Conv1D): [], nn.Conv2d: []}
    inside_attention = [key for key, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    for key, module in model.named_modules():
        of_head = any(key == part or key.startswith(f"{part}.") for part in (*head, *inside_attention))
        of_head = of_head or rests(model, key)
        kind = next((kind for kind in kinds if isinstance(module, kind)), None)
        if kind is not None and not of_head and getattr(module, "groups", 1) == 1:
            kinds[kind].append(key)
    chosen = next((keys for keys in kinds.values() if keys), [])
    if not chosen:
        raise PeerError(f"peer {name!r}: {type(model).__name__} has no layers that lora adapts; give target_modules")
    short = {key.rpartition(".")[2] for key in chosen}
    meant = [key for key, _ in model.named_modules() if key.rpartition(".")[2] in short]
    return sorted(short) if meant == chosen else chosen


def check_targets(name: str, model: nn.Module, targets: Any) -> None:
    """Refuse names of layers that the model does not have, with the nearest."""
    if targets is None or isinstance(targets, str):
        return
    keys = [key for key, _ in model.named_modules()]
    for target in targets:
        if not any(key == target or key.endswith(f".{target}") for key in keys):
            layers = sorted({key.rpartition(".")[2] for key in keys if not key.rpartition(".")[2].isdigit()} - {""})
            raise PeerError(
                f"peer {name!r}: target_modules names {target!r}, which {type(model).__name__} does not have"
                f"{nearest(target, layers)}; leave it out, or choose of {', '.join(layers)[:300]}"
            )


def merged(model: nn.Module) -> nn.Module:
    """An ordinary model with the adapter's weights added to its base's; other models pass through."""
    if not is_adapter(model):
        return model
    method, kind = method_of(model.peft_config[ADAPTER]), type(base_of(model)).__name__
    if is_quantized(base_of(model)):
        raise ConfigError(
            f"{method} on a quantized {kind} cannot be merged without rounding; leave merge_adapters out"
        )
    try:
        return copy.deepcopy(model).merge_and_unload().requires_grad_(True)
    except PEFT_ERRORS as error:
        raise ConfigError(
            f"{method} on {kind} cannot be merged: {str(error).rstrip('.')}; leave merge_adapters out"
        ) from error


def adapter_facts(model: nn.Module) -> dict[str, Any]:
    """For records: method and number of trained weights of an adapter; empty for other models."""
    if not is_adapter(model):
        return {}
    weights = adapter_weights(model)
    kind = method_of(model.peft_config[ADAPTER])
    return {"adapter": {"type": kind, "parameters": sum(weight.numel() for weight in weights.values())}}


# Saving and loading


def adapter_weights(model: PeftModel, state_dict: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights of a peer's own, by the names that peft gives them in files.

    DoRA's magnitudes keep the `.weight` that peft takes off: peft reads both names, transformers this one alone, and
    would start the magnitudes anew without it.
    """
    weights = get_peft_model_state_dict(model, state_dict, ADAPTER, save_embedding_layers=False)
    return {f"{key}.weight" if key.endswith(MAGNITUDE) else key: weight for key, weight in weights.items()}


def save_adapter(model: PeftModel, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
    """Write what `PeftModel.from_pretrained` and `pipeline` load; `state_dict` is the peer's where it is sharded."""
    weights = {key: value.detach().cpu().clone() for key, value in adapter_weights(model, state_dict).items()}
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / ADAPTER_WEIGHTS, {"format": "pt"})
    base = type(base_of(model))
    settings = model.peft_config[ADAPTER].to_dict() | {
        "inference_mode": True,
        "auto_mapping": {"base_model_class": base.__name__, "parent_library": base.__module__},
    }
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(settings.items())}
    write_json(folder / ADAPTER_CONFIG, plain)
    if isinstance(base_of(model), ZeroShot):
        write_json(folder / READS, base_of(model).reads())
    if getattr(model, "is_relabelled", False):
        write_json(folder / LABELS, {str(index): label for index, label in base_of(model).config.id2label.items()})
    if fitted := getattr(model, "fitted", None):
        write_json(folder / FITTED, fitted)


def keep_fitted(model: PeftModel, facts: dict[str, Any], folder: Path | None) -> None:
    """Let an adapter say what was fitted of it, as whole models do in their configuration.

    Args:
        model (`PeftModel`): whose base's configuration, a copy of its own, then says it, too.
        facts (`dict`): ready for JSON.
        folder (`Path`, *optional*): of the saved adapter.
    """
    base_of(model).config.update(facts)
    model.fitted = facts  # type: ignore[assignment]
    if folder is not None and (folder / ADAPTER_CONFIG).is_file():
        write_json(folder / FITTED, facts)


def load_adapter(name: str, model: PeftModel, folder: Path) -> None:
    """Put the weights that [`save_adapter`] wrote back into `model`.

    Raises:
        [`PeerError`]: a weight is missing, superfluous or of another shape.
    """
    try:
        weights = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise PeerError(
            f"peer {name!r}: {folder} holds no adapter as safetensors ({ADAPTER_WEIGHTS}): {error}"
        ) from error
    differ = sorted(set(weights) ^ set(adapter_weights(model)))
    if differ:
        raise PeerError(f"peer {name!r}: {folder} holds another adapter: {differ[:3]} are in one of the two only")
    try:
        set_peft_model_state_dict(model, weights, ADAPTER)
    except PEFT_ERRORS as error:
        raise PeerError(f"peer {name!r}: {folder} does not fit: {error}") from error


def saved_config(name: str, folder: Path) -> PeftConfig:
    """The configuration of a saved adapter, checked as far as it names its base.

    Raises:
        [`PeerError`]: it is damaged, or does not say what its base is.
    """
    content = read_adapter(folder)
    if "peft_type" not in content:
        raise PeerError(f"peer {name!r}: {folder / ADAPTER_CONFIG} is damaged; it names no peft_type")
    config = made_config(content, f"peer {name!r}")
    base = config.base_model_name_or_path
    if not base or not (Path(base).is_dir() or HUB_ID.fullmatch(base)):
        raise PeerError(
            f"peer {name!r} is an adapter of {base or 'a model that it does not name'}, which is neither a folder nor "
            f"a Hub id; write it into {ADAPTER_CONFIG} as base_model_name_or_path"
        )
    return config
