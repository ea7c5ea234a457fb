"""Image classifiers from the Hub that teach each other: `accelerate launch recipes/vit_classify.py [--key value …]`.

Without options it runs the embedded default (recipes/configs/embedded.yaml): three small specialists on a part of
Fashion-MNIST, no network needed.
"""

import sys
from pathlib import Path

from hf_mutual_kd.errors import MutualKDError
from hf_mutual_kd.options import RecipeOptions, TransferOptions
from hf_mutual_kd.recipe import parse_recipe

DEFAULTS = {
    "output_dir": "runs/vit_classify",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
}
EMBEDDED = Path(__file__).parent / "configs" / "embedded.yaml"


def load_config_class() -> type:
    from hf_mutual_kd.config import MutualKDConfig

    return MutualKDConfig


def main(argv: list[str]) -> int:
    if not any(word.split("=")[0] in ("--peers", "--dataset", "--config", "--help", "-h") for word in argv):
        argv = ["--config", str(EMBEDDED), *argv]
    try:
        recipe = parse_recipe(
            argv, (RecipeOptions, TransferOptions), load_config_class, defaults=DEFAULTS, description=__doc__
        )
        from hf_mutual_kd.experiment import Experiment, leave_together

        Experiment(
            "image-classification", recipe.options, recipe.config, "recipes/vit_classify.py", recipe.given
        ).run()
        leave_together()
    except MutualKDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
