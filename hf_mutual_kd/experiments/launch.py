"""Training from a command line: options from words and YAML, one process or several, the experiment, plain errors."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config.options import RecipeOptions, TransferOptions
from ..config.recipe import TRAINING, parse_recipe, show_help
from ..config.stage_options import DECIDED
from ..config.task_options import ClassOptions, SeveralLabelsOptions
from ..errors import ConfigError
from ..tasks.audio_classification.options import AudioOptions, MultiLabelAudioOptions
from ..tasks.image_classification.options import ImageOptions, MultiLabelImageOptions
from ..tasks.semantic_segmentation.options import SegmentationOptions
from ..tasks.video_classification.options import VideoOptions
from ..tasks.video_saliency.options import SaliencyOptions
from .program import first_import, run_command

if TYPE_CHECKING:
    from ..config.training_config import MutualKDConfig
    from .experiment import Experiment

DEFAULTS = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
}
CHOOSING = ("--peers", "--dataset", "--config")
"""Options that say what to train; without any of them the embedded default of a task is trained."""


class Way(NamedTuple):
    """How a task is trained from the command line: a line of help, its options, its embedded default."""

    help: str
    options: type[RecipeOptions]
    embedded: str | None = None


WAYS = {
    "image-classification": Way("Image classifiers that teach each other.", ImageOptions, "embedded"),
    "text-classification": Way("Text classifiers that teach each other.", ClassOptions, "embedded_text"),
    "audio-classification": Way("Audio classifiers that teach each other.", AudioOptions, "embedded_audio"),
    "video-classification": Way("Video classifiers that teach each other.", VideoOptions),
    "multi-label-image-classification": Way("Classifiers of images with several labels.", MultiLabelImageOptions),
    "multi-label-text-classification": Way("Classifiers of texts with several labels.", SeveralLabelsOptions),
    "multi-label-audio-classification": Way("Classifiers of sounds with several labels.", MultiLabelAudioOptions),
    "semantic-segmentation": Way(
        "Segmentation models that teach each other.", SegmentationOptions, "embedded_segmentation"
    ),
    "video-saliency": Way("Video saliency models that teach each other.", SaliencyOptions, "embedded_saliency"),
}
"""The tasks of the command `train`."""


def way_of(task: str) -> Way:
    """How a task is trained, also one that somebody has put into `TASKS`.

    Raises:
        [`ConfigError`]: there is no such task.
    """
    if task in WAYS:
        return WAYS[task]
    from ..tasks.registry import task_class

    return Way("", task_class(task).options_class)


ADAPTER_LEARNING_RATE = 5e-4
"""Ten times that of transformers: at its 5e-5 adapters and new heads learn next to nothing in a short training."""


def defaults_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """[`DEFAULTS`], so far as they go with what the user set.

    Example:
        >>> defaults_for({"eval_strategy": "no"})
        {'eval_strategy': 'epoch', 'save_strategy': 'epoch', 'save_total_limit': 1}
        >>> defaults_for({"peft": "lora"})["learning_rate"]
        0.0005
    """
    found: dict[str, Any] = dict(DEFAULTS)
    if given.get("peft"):
        found["learning_rate"] = ADAPTER_LEARNING_RATE
    for kind in ("eval", "save"):
        if f"{kind}_steps" in given:
            found[f"{kind}_strategy"] = "steps"
    strategy = given.get("eval_strategy", "epoch")
    if getattr(strategy, "value", strategy) == "no":
        del found["load_best_model_at_end"]
    return found


def stages_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """A training adapts, teaches and chooses, unless the user says who teaches, or asks for what stages lack.

    Example:
        >>> stages_for({"learning_rate": 1e-4}), stages_for({"teacher_rule": "mean"})
        ({'teaching': 'auto'}, {})
    """
    says_who = {*DECIDED, "score_table"} - {"labels"}
    decided = given.get("labels") is False or any(name in given for name in says_who)
    lacks = given.get("control") is False or given.get("transfer_weight") == 0
    pushes_while_it_trains = given.get("push_to_hub") and "checkpoint" in str(given.get("hub_strategy", ""))
    elsewhere = isinstance(given.get("resume_from_checkpoint"), str)
    splits_weights = any(
        given.get(kind) or os.environ.get(f"ACCELERATE_USE_{kind.upper()}") == "true" for kind in ("fsdp", "deepspeed")
    )
    plain = decided or lacks or pushes_while_it_trains or elsewhere or splits_weights
    return {} if plain else {"teaching": "auto"}


def launch(task: str, argv: Sequence[str]) -> int:
    """
    Train from a command line, and end as a program does: see [`train`].

    Args:
        task (`str`): e.g. `"image-classification"`, or one that you have put into `TASKS`.
        argv (`list[str]`): the words after the program's name.

    Returns:
        `int`: 0; 2 for an error of the user's, 130 when interrupted, 143 when terminated, with one line on stderr.
    """
    return run_command(lambda: train(task, argv))


def train(task: str, argv: Sequence[str]) -> None:
    """
    Train a cohort as the words of a command line say.

    Args:
        task (`str`): e.g. `"image-classification"`.
        argv (`list[str]`): the words after `hf-mutual-kd train TASK`; without peers, data set or configuration the
            embedded default is trained.

    Raises:
        [`MutualKDError`]: an error of the user's.
        `SystemExit`: with code 0 after `--help`.
    """
    way, words = way_of(task), list(argv)
    if way.embedded and not any(word.split("=")[0] in CHOOSING for word in words):
        words = ["--config", way.embedded, *words]
    command = f"hf-mutual-kd train {task}" if task in WAYS else ""
    classes = (way.options, TransferOptions)
    usage = f"{command} [--option value …]" if command else ""
    show_help(words, classes, way.help, usage=usage, ending=TRAINING, whole=False)
    recipe = parse_recipe(
        words,
        classes,
        load_config_class,
        defaults=lambda given: {"output_dir": f"runs/{task}"} | defaults_for(given) | stages_for(given),
    )
    if recipe.options.processes > 1 and "WORLD_SIZE" not in os.environ:
        start_processes(task, argv, recipe.options.processes, folder=Path(recipe.config.output_dir))
        return
    experiment_class = load_experiment_class()
    from ..peers.launched import leave_together

    experiment = experiment_class(task, recipe.options, config=recipe.config, program=command, given=recipe.given)
    experiment.estimate() if recipe.options.estimate else experiment.run()
    leave_together()


def start_processes(task: str, argv: Sequence[str], count: int, *, folder: Path) -> None:
    """
    Train in several processes of this machine, which Accelerate starts, into a folder.

    Raises:
        [`ConfigError`]: there are fewer GPUs than processes, or the training ended with an error, which it has told;
            where it has written a checkpoint, with the way to go on.
    """
    import torch

    from ..training.run_state import how_to_go_on, newest_checkpoint

    gpus = torch.cuda.device_count()
    if 0 < gpus < count:
        raise ConfigError(f"processes must be at most {gpus}, the GPUs of this machine, got {count}")
    machine = ["--num_processes", str(count), "--num_machines", "1", "--mixed_precision", "no"]
    # Accelerate starts several processes for this type only; without a GPU each must be told, see `check_launch`.
    machine += ["--dynamo_backend", "no", "--multi_gpu"]
    words = [sys.executable, "-m", "accelerate.commands.launch", *machine, "-m", "hf_mutual_kd", "train", task, *argv]
    if not gpus and not any(word.split("=")[0].replace("-", "_") == "__use_cpu" for word in argv):
        words.append("--use_cpu")
    began = time.time()
    code = subprocess.run(words, check=False).returncode
    if code:
        newest = newest_checkpoint(folder)
        way_out = "" if newest is None or newest.stat().st_mtime < began else f"; {how_to_go_on(folder)}"
        raise ConfigError(f"training in {count} processes ended with code {code}; the lines above say why{way_out}")


def load_config_class() -> type[MutualKDConfig]:
    """The configuration's class; it imports torch, which `--help` need not wait for."""
    with first_import("hf_mutual_kd.config.training_config"):
        from ..config.training_config import MutualKDConfig
    return MutualKDConfig


def load_experiment_class() -> type[Experiment]:
    """The experiment's class; it imports whatever trains."""
    with first_import("hf_mutual_kd.experiments.experiment"):
        from .experiment import Experiment
    return Experiment
