"""What the recipes share: options from the command line and YAML, the experiment, and errors in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.options import RecipeOptions, TransferOptions
from ..config.recipe import parse_recipe
from .program import run_command

DEFAULTS = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
}


def defaults_for(said: Mapping[str, Any]) -> dict[str, Any]:
    """[`DEFAULTS`], so far as they go with what the user set.

    Example:
        >>> defaults_for({"eval_strategy": "no"})
        {'eval_strategy': 'epoch', 'save_strategy': 'epoch', 'save_total_limit': 1}
    """
    found = dict(DEFAULTS)
    for kind in ("eval", "save"):
        if f"{kind}_steps" in said:
            found[f"{kind}_strategy"] = "steps"
    strategy = said.get("eval_strategy", "epoch")
    if getattr(strategy, "value", strategy) == "no":
        del found["load_best_model_at_end"]
    return found


CHOOSING = ("--peers", "--dataset", "--config", "--help", "-h")
"""Options that say what to run; without any of them a recipe runs its embedded default."""


def launch(
    task: str,
    script: str,
    argv: Sequence[str],
    embedded: Path,
    description: str,
    defaults: Mapping[str, Any] | None = None,
) -> int:
    """
    Run a recipe.

    Args:
        task (`str`): e.g. `"image-classification"`.
        script (`str`): the recipe's path in this repository, for the command that repeats the run.
        argv (`list[str]`): the words after the recipe's name.
        embedded (`Path`): the configuration that runs when nothing is chosen.
        description (`str`): for `--help`.
        defaults (`dict`, *optional*): of options, over those of all recipes.

    Returns:
        `int`: 0; 2 for an error of the user's, 130 when interrupted, 143 when terminated, with one line on stderr.
    """
    words = list(argv)
    if not any(word.split("=")[0] in CHOOSING for word in words):
        words = ["--config", str(embedded), *words]
    own = {"output_dir": f"runs/{Path(script).stem}", **(defaults or {})}

    def run() -> None:
        recipe = parse_recipe(
            words,
            (RecipeOptions, TransferOptions),
            load_config_class,
            defaults=lambda said: own | defaults_for(said),
            description=description,
        )
        from ..training.processes import leave_together
        from .experiment import Experiment

        Experiment(task, recipe.options, recipe.config, script, recipe.given).run()
        leave_together()

    return run_command(run)


def load_config_class() -> type:
    """The configuration's class; it imports torch, which `--help` need not wait for."""
    from ..config.training_config import MutualKDConfig

    return MutualKDConfig
