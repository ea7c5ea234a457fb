"""What a training is made of, as its checkpoints say it: what has changed since is named, and refused or recorded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.peers import PeerSpec
from ..config.task_options import own_fields
from ..config.training_config import MutualKDConfig
from ..data.fingerprint import fingerprint_of_rows
from ..data.processors import settings
from ..errors import ResumeError
from ..peers.adapters import base_of
from ..peers.cohort import Cohort
from ..tasks.base import Task
from .checkpoint_state import check_state, check_whole, progress_of, read_state

NOT_TRAINED = re.compile(
    r"output_dir|run_name|project|trackio_.*|report_to|disable_tqdm|push_to_hub|hub_.*|resume_.*|local_rank|ddp_.*|fsdp.*"
    r"|deepspeed|debug|do_.*|log_.*|logging_.*|save_.*|include_.*|skip_memory_metrics|dataloader_(?!drop_last).*"
    r"|per_device_eval_batch_size|prediction_loss_only|eval_on_start|eval_do_.*|eval_use_.*|eval_accumulation_steps"
    r"|batch_eval_metrics|full_eval|.*_full_eval|use_cpu|enable_jit_checkpoint|ignore_data_skip|restore_callback_.*"
    r"|torch_empty_cache_steps|pre_flight|cache_frozen|peer_checkpointing|.*_checkpointing|.*_checkpointing_kwargs"
    r"|merge_adapters|remove_unused_columns|label_names|auto_find_batch_size|full_determinism|preset|role_table|control"
    r"|score_table|peer_parallel|max_steps|num_train_epochs|per_device_train_batch_size|gradient_accumulation_steps|_.*"
)
"""Options without effect on what is learned, and those that [`made_with`] says otherwise; every other one counts."""

NEVER = re.compile(r"optim|.*\.(frozen|peft|dtype)")
"""Options on which the state of the optimizer depends."""

OF_PEERS = ("learning_rate", "weight_decay", "frozen", "batch_norm", "dtype", "peft")
"""What is said of single peers and changes what they learn."""

PER_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps")
"""Options that another number of processes has to change."""

PARTS = {
    "data": "other data ({})",
    "configurations": "another configuration of peer {!r}",
    "processors": "another processor of peer {!r}",
}

Change = dict[str, Any]

UNSAID = (
    "_name_or_path",
    "transformers_version",
    "image_processor_type",
    "processor_class",
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
)
"""Keys of configurations that say where from, not what, or that saving fills in."""


def made_with(
    cohort: Cohort, args: MutualKDConfig, rows: Mapping[str, Any], recipe_data: str | None = None
) -> dict[str, Any]:
    """
    What a training is made of, ready for JSON.

    Args:
        cohort ([`Cohort`]): the peers, of which configurations and processors count.
        args ([`MutualKDConfig`]): resolved; of the options those count that change what is learned.
        rows (`dict`): data sets by what they are for; `None` for none.
        recipe_data (`str`, *optional*): the fingerprint of all splits, where a recipe has made one.
    """
    data = {f"{name} rows": fingerprint_of_rows(part) for name, part in rows.items() if part is not None}
    return {
        "data": data if recipe_data is None else {"rows, images or labels": recipe_data},
        "configurations": {name: _hash(_configuration(cohort.model_of(name))) for name in cohort.names},
        "processors": {name: _hash(_settings(processor)) for name, processor in cohort.processors.items()},
        "options": options_of(args, cohort.specs, cohort.task),
    }


def options_of(args: MutualKDConfig, specs: Mapping[str, PeerSpec], task: Task) -> dict[str, Any]:
    """The options that change what is learned, of the run, its task and single peers, as JSON gives them back.

    Rows are known by what they hold, not by the options that chose them.
    """
    found = {
        item.name: getattr(args, item.name)
        for item in dataclasses.fields(args)
        if not NOT_TRAINED.fullmatch(item.name)
    }
    of_task = [item.name for item in own_fields(task.options) if item.metadata.get("group") != "data"]
    found |= {name: getattr(task.options, name) for name in of_task}
    for name in ("role_table", "score_table"):
        path = Path(getattr(args, name) or "")
        file = path / "manifest.json" if path.is_dir() else path
        found[name] = hashlib.sha256(file.read_bytes()).hexdigest()[:32] if file.is_file() else None
    if not str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)).startswith("constant"):
        # The learning rate of every step depends on how many there are.
        found |= {"max_steps": args.max_steps} if args.max_steps > 0 else {"num_train_epochs": args.num_train_epochs}
    found |= {name: getattr(args, name) for name in PER_STEP}
    found |= {f"{name}.{item}": getattr(spec, item) for name, spec in specs.items() for item in OF_PEERS}
    return json.loads(json.dumps(found, default=_plain))


def check_checkpoint(
    checkpoint: Path, identity: Mapping[str, Any], options: Mapping[str, Any], args: MutualKDConfig
) -> list[Change]:
    """
    Refuse a checkpoint that training cannot go on from as if it had never stopped; nothing is loaded or changed.

    Args:
        checkpoint (`Path`): a `checkpoint-N`.
        identity (`dict`): those of task, peers, labels and starting weights that are known already.
        options (`dict`): [`options_of`] the training that is to go on.
        args ([`MutualKDConfig`]): its own.

    Returns:
        `list[dict]`: options that have changed, at earlier resumes and now, for the record: `{"step": 500,
        "option": …, "from": …, "to": …}`.

    Raises:
        [`ResumeError`]: it is damaged, or another training's.
    """
    state = read_state(checkpoint)
    check_state(checkpoint, vars(state), identity)
    step = progress_of(checkpoint).global_step
    if 0 < args.max_steps < step:
        raise ResumeError(f"max_steps is {args.max_steps}, but {checkpoint} was made at step {step}; give more")
    changed = changed_options(checkpoint, vars(state), options, args)
    missing = check_whole(checkpoint, state, args.world_size, args.resume_changes == "allow")
    changed |= dict.fromkeys(missing, ("kept", "made anew"))
    made = [{"step": step, "option": name, "from": old, "to": new} for name, (old, new) in changed.items()]
    return [*state.changes, *made]


def check_parts(where: Path, made: Mapping[str, Any], then: Mapping[str, Any] | None = None) -> None:
    """
    Refuse other data, configurations or processors than a checkpoint was made with.

    Args:
        where (`Path`): a `checkpoint-N`, or what else says `then`.
        made (`dict`): what [`made_with`] says of the training that is to go on.
        then (`dict`, *optional*): what it said before; the checkpoint's when unset.
    """
    then = read_state(where).made_with if then is None else then
    for part, what in PARTS.items():
        for name, value in made[part].items():
            if then.get(part, {}).get(name, value) != value:
                raise ResumeError(
                    f"{where} was made with {what.format(name)}; resume with the same, or start anew in another "
                    "output_dir, from the peers that this run has trained"
                )


def changed_options(
    where: Path, state: Mapping[str, Any], options: Mapping[str, Any], args: MutualKDConfig
) -> dict[str, tuple[Any, Any]]:
    """
    Options that differ from those of an earlier part of a training, as `(before, now)`.

    Args:
        where (`Path`): of the earlier part, for messages.
        state (`dict`): its `made_with` and `processes`.
        options (`dict`): [`options_of`] the training that is to go on.
        args ([`MutualKDConfig`]): its own.

    Raises:
        [`ResumeError`]: one of them cannot change, or `resume_changes` does not allow it.
    """
    before, after = dict(state["made_with"].get("options", {})), dict(options)
    if state["processes"] != args.world_size:
        for name in PER_STEP:
            before.pop(name, None)
            after.pop(name, None)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    _refuse(where, [name for name in changed if NEVER.fullmatch(name)], before, after, "")
    if args.resume_changes != "allow":
        _refuse(where, changed, before, after, ", or go on with the change by --resume_changes allow")
    return {name: (before.get(name), after.get(name)) for name in changed}


def _refuse(checkpoint: Path, names: list[str], before: Mapping[str, Any], after: Mapping[str, Any], way: str) -> None:
    if names:
        shown = "; ".join(f"{name} was {_brief(before.get(name))}, now {_brief(after.get(name))}" for name in names)
        raise ResumeError(
            f"{checkpoint} was made with other options: {shown}; give them as they were{way}, or start anew in "
            "another output_dir"
        )


def described(changes: list[dict[str, Any]]) -> dict[str, str]:
    """Each changed option with the values it had, e.g. `{"learning_rate": "5e-05 until step 500, then 0.0001"}`."""
    found: dict[str, str] = {}
    for change in changes:
        name = change["option"]
        earlier = found.get(name, _brief(change["from"]))
        found[name] = f"{earlier} until step {change['step']}, then {_brief(change['to'])}"
    return found


def record_changes(record: dict[str, Any], changes: list[Change]) -> None:
    """Let the record of a run say from which step which value of an option held."""
    if not changes:
        return
    record["changes"] = changes
    for option, text in described(changes).items():
        record["hyperparameters"]["defaults"].pop(option, None)
        record["hyperparameters"]["changed"][option] = text


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}…"


def _configuration(peer: Any) -> Any:
    return _settings(getattr(base_of(peer), "config", base_of(peer)))


def _settings(thing: Any) -> Any:
    found = settings(thing)
    if found is None:
        return type(thing).__qualname__
    return {key: value for key, value in found.items() if key not in UNSAID}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()[:32]


def _plain(value: Any) -> Any:
    """What JSON cannot hold, without addresses in memory."""
    if hasattr(value, "value"):
        return value.value
    if isinstance(value, set | frozenset | tuple):
        return sorted(map(str, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    return value.to_dict() if hasattr(value, "to_dict") else type(value).__qualname__
