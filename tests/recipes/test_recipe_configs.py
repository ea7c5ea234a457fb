"""Recipes with transformers.TrainingArguments itself, and the configurations that are shipped."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

import pytest

from hf_mutual_kd import ConfigError, RecipeOptions, TransferOptions
from hf_mutual_kd.config.recipe import parse_recipe
from hf_mutual_kd.config.values import accepts, convert, from_word

CONFIGS = Path(__file__).parents[2] / "hf_mutual_kd" / "configs"


@pytest.fixture(scope="module")
def training_arguments():
    from transformers import TrainingArguments

    @dataclass
    class Arguments(TransferOptions, TrainingArguments):
        def __post_init__(self) -> None:
            self.resolved()
            TrainingArguments.__post_init__(self)

    return Arguments


SAMPLES = {bool: "true", int: "3", float: "0.5", dict: "a=1", list: "a", str: "text"}
CHOSEN = {
    "lr_scheduler_type": "cosine",
    "optim": "adamw_torch",
    "logging_strategy": "no",
    "eval_strategy": "steps",
    "save_strategy": "best",
    "hub_strategy": "end",
    "log_level": "debug",
    "log_level_replica": "info",
    "debug": "underflow_overflow",
    "dataloader_multiprocessing_context": "spawn",
    "train_sampling_strategy": "sequential",
    "ddp_backend": "gloo",
    "liger_kernel_config": "rope=true",
    "parallelism_config": "dp_replicate_size=1",
}


def test_every_training_argument_can_be_written(training_arguments):
    """A field whose hint is not understood could not be set from a recipe at all."""
    from hf_mutual_kd.config.recipe import options_of

    hints = {item.name: item.hint for item in options_of(training_arguments).values()}
    for item in fields(training_arguments):
        if not item.init or item.name in TransferOptions.__dataclass_fields__:
            continue
        hint = hints[item.name]
        sample = CHOSEN.get(item.name) or next(text for kind, text in SAMPLES.items() if accepts(hint, kind))
        value = convert(from_word(sample), hint, item.name)
        assert value is not None, item.name
    assert set(CHOSEN) <= set(hints)
    assert hints["fsdp"] != get_type_hints(training_arguments)["fsdp"]


def test_recipe_builds_training_arguments(training_arguments, tmp_path):
    """The values must also be what TrainingArguments itself takes, `no` in YAML included."""
    path = tmp_path / "r.yaml"
    path.write_text(
        f"output_dir: {tmp_path}\neval_strategy: no\nsave_strategy: steps\noptim: adamw_torch\nuse_cpu: yes\n"
        "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1e-7}\nreport_to: none\n"
        "learning_rate: 1e-6\nwarmup_steps: 0.1\naccelerator_config: {split_batches: false}\n"
    )
    classes = (RecipeOptions, TransferOptions)
    recipe = parse_recipe(
        ["--config", str(path), "--max_steps", "5", "--resume_from_checkpoint"],
        classes,
        lambda: training_arguments,
    )
    config = recipe.config
    assert (config.eval_strategy, config.optim, config.lr_scheduler_kwargs) == ("no", "adamw_torch", {"min_lr": 1e-7})
    assert (config.learning_rate, config.warmup_steps, config.max_steps) == (1e-6, 0.1, 5)
    assert (config.resume_from_checkpoint, config.use_cpu) == (True, True)
    assert recipe.given["eval_strategy"] == "no"
    with pytest.raises(ConfigError, match="optim must be one of .*nearest: adamw_torch"):
        parse_recipe(["--optim", "adamw_torh"], classes, lambda: training_arguments)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("imagenet*.yaml")), ids=lambda path: path.stem)
def test_configurations_of_the_paper_load(path, training_arguments, tmp_path):
    """A shipped file that does not parse is found by its first user."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Not run here.")
    argv = ["--config", str(path), "--output_dir", str(tmp_path), "--use_cpu", "--bf16", "false"]
    recipe = parse_recipe(argv, (RecipeOptions, TransferOptions), lambda: training_arguments)
    assert recipe.options.control is True
    assert len(recipe.options.peers) >= 2
    assert recipe.config.learning_rate == 1e-6


def test_there_are_configurations_of_the_paper():
    """The test above passes for an empty folder."""
    assert len(list(CONFIGS.glob("imagenet*.yaml"))) >= 5
