"""What a user can set: the options of knowledge transfer and those of a recipe.

Imports neither torch nor transformers, so that `--help` is quick; [`~hf_mutual_kd.config.MutualKDConfig`] adds
everything of `transformers.TrainingArguments`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

from .errors import ConfigError

Preset = Literal["default", "reference"]
TeacherRuleName = Literal["best", "mean"]
TeacherSourceName = Literal["live", "frozen"]
RoleScore = Literal["margin", "confidence", "loss"]
Detach = Literal["teacher", "none"]
LabelAlignment = Literal["exact", "subset", "new_head"]
BatchNorm = Literal["train", "freeze"]
OnBadImage = Literal["raise", "skip"]

PRESETS: dict[str, dict[str, Any]] = {
    "default": {"teacher_rule": "best", "teacher_source": "live", "detach": "teacher", "retain": True},
    "reference": {"teacher_rule": "best", "teacher_source": "live", "detach": "none", "retain": False},
}
"""What an option is when it is left unset. `reference`, the form of the authors' code, harms the stronger peer."""

WITHOUT_LABELS: dict[str, Any] = {"teacher_rule": "mean", "teacher_source": "frozen", "retain": False}
"""What takes the preset's place where there are no labels to rank the peers by."""


def option(default: Any, help: str, **kwargs: Any) -> Any:
    """A dataclass field with its help text; a list or dict default is copied for every instance."""
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata={"help": help, **kwargs})
    return field(default=default, metadata={"help": help, **kwargs})


@dataclass
class TransferOptions:
    """Who teaches whom, how strongly, and what differs between the peers.

    > Who teaches

    Args:
        preset (`str`, *optional*, defaults to `"default"`):
            Fills `teacher_rule`, `teacher_source`, `detach` and `retain` where they are left unset.
        teacher_rule (`str`, *optional*):
            `"best"`: the peer with the strictly best score teaches; `"mean"`: the mean of all peers teaches everyone.
        teacher_source (`str`, *optional*):
            `"live"`: teachers speak with this step's weights; `"frozen"`: with those they started from.
        retain (`bool`, *optional*):
            Hold a peer to its own frozen start on the samples where it is itself the teacher.

    > How strongly

    Args:
        transfer_weight (`float`, *optional*, defaults to 1.0):
            Weight of transfer against the supervised loss, >= 0; 0 is the control.
        transfer_warmup_steps (`int`, *optional*, defaults to 0):
            Optimizer steps over which the weight rises linearly from 0.
        temperature (`float`, *optional*, defaults to 1.0):
            Softens teacher and student, > 0; the loss is scaled by its square.

    Raises:
        [`~hf_mutual_kd.errors.ConfigError`]: a value breaks its rule.
    """

    preset: Preset = option("default", "Fills the unset ones of teacher_rule, teacher_source, detach and retain.")
    teacher_rule: TeacherRuleName | None = option(None, "Who teaches: the best peer per sample, or the peers' mean.")
    teacher_source: TeacherSourceName | None = option(None, "Teachers speak as they are now, or as they started.")
    retain: bool | None = option(None, "Hold a teacher to its own frozen start on the samples it teaches.")
    detach: Detach | None = option(None, "Whether the transfer loss also moves the teacher ('none': it does).")
    role_score: RoleScore = option("margin", "What decides who is best: margin or loss of the truth, or confidence.")
    role_table: str | None = option(None, "Parquet role table of an earlier run; its samples keep their teacher.")
    labels: bool = option(True, "false: ignore all labels; only transfer trains the peers.")
    transfer_weight: float = option(1.0, "Weight of transfer against the supervised loss (0: control).")
    transfer_warmup_steps: int = option(0, "Optimizer steps over which the transfer weight rises from 0.")
    temperature: float = option(1.0, "Softening of teacher and student; the loss is scaled by its square.")
    cache_frozen: bool | None = option(
        None, "Compute the frozen starts' outputs once before training. Unset: when augment is false."
    )

    peer_learning_rates: dict[str, float] = option({}, "Learning rate of single peers: NAME=RATE …")
    peer_weight_decays: dict[str, float] = option({}, "Weight decay of single peers: NAME=DECAY …")
    frozen_peers: list[str] = option([], "Peers that teach but do not learn.")
    batch_norm: BatchNorm = option("train", "'freeze' keeps batch-norm statistics as they were pretrained.")
    peer_checkpointing: bool = option(False, "Recompute each whole peer in backward: activation memory of one peer.")
    early_stopping_patience: int | None = option(None, "Evaluations without gain after which a peer stops learning.")
    pre_flight: bool = option(True, "Before training, report accuracy, ensemble, oracle and expected roles.")

    hub_namespace: str | None = option(None, "User or organisation to push to; unset: yours.")
    hub_name_template: str = option("{peer}-{dataset}-mutual", "Names of repositories: {peer}, {dataset}, {task}.")

    augment: bool = option(True, "Random crop and flip, the same for all peers.")
    crop_min_area: float = option(0.6, "Smallest share of the image that a random crop keeps, above 0, at most 1.")
    color_jitter: float = option(0.0, "Strength of random brightness, contrast and saturation changes.")
    on_bad_image: OnBadImage = option("raise", "What an unreadable image does: stop, or be left out and counted.")

    def resolve(self) -> None:
        """Fill what the preset decides and check every rule; called by the configuration's `__post_init__`."""
        if self.preset not in PRESETS:
            raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        defaults = PRESETS[self.preset] if self.labels else PRESETS[self.preset] | WITHOUT_LABELS
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        check_choices(self)
        self._check_numbers()
        if not self.labels and self.teacher_rule == "best" and self.role_score != "confidence":
            raise ConfigError(
                f"teacher_rule 'best' by role_score {self.role_score!r} needs labels; without them use teacher_rule "
                "'mean', or role_score 'confidence' (which collapsed in our experiments)"
            )

    def _check_numbers(self) -> None:
        patience = self.early_stopping_patience
        rules = [
            ("temperature", self.temperature, "greater than 0", self.temperature > 0),
            ("transfer_weight", self.transfer_weight, "0 or more", self.transfer_weight >= 0),
            ("transfer_warmup_steps", self.transfer_warmup_steps, "0 or more", self.transfer_warmup_steps >= 0),
            ("crop_min_area", self.crop_min_area, "above 0 and at most 1", 0 < self.crop_min_area <= 1),
            ("color_jitter", self.color_jitter, "0 or more", self.color_jitter >= 0),
            ("early_stopping_patience", patience, "1 or more", patience is None or patience >= 1),
        ]
        for kind in ("peer_learning_rates", "peer_weight_decays"):
            given = getattr(self, kind)
            rules += [(f"{kind}.{peer}", value, "0 or more", value >= 0) for peer, value in given.items()]
        for name, value, rule, holds in rules:
            if not holds or (value is not None and not math.isfinite(value)):
                raise ConfigError(f"{name} must be {rule}, got {value}")


@dataclass
class RecipeOptions:
    """What a recipe works on: peers, data, and the runs to compare.

    Args:
        peers (`list[str]`): `NAME=ID_OR_FOLDER[@REVISION]`, one or more.
        dataset (`str`): a Hub id, a `save_to_disk` folder, an image folder, or Parquet files.
    """

    peers: list[str] = option([], "The cohort: NAME=ID_OR_FOLDER[@REVISION] …")
    peer_processors: dict[str, str] = option({}, "Processor of single peers that have none: NAME=ID_OR_FOLDER …")
    dataset: str | None = option(None, "Hub id, save_to_disk folder, image folder, or Parquet file, folder or glob.")
    dataset_config: str | None = option(None, "Name of the data set's configuration on the Hub.")
    dataset_revision: str | None = option(None, "Branch, tag or commit of the data set on the Hub.")
    train_split: str = option("train", "Split to learn from.")
    validation_split: str | None = option(None, "Split that selects; unset: 'validation' or a tenth of train.")
    test_split: str | None = option(None, "Split that is reported; unset: 'test' or half of validation.")
    image_column: str = option("image", "Column that holds the image.")
    label_column: str = option("label", "Column that holds the label; null or -1 is a row without a label.")
    streaming: bool = option(False, "Read the data set as a stream, without storing it.")
    max_train_samples: int | None = option(None, "Use only so many training rows.")
    max_eval_samples: int | None = option(None, "Use only so many rows of the validation and test splits.")
    label_alignment: LabelAlignment = option(
        "exact", "'subset': peers may know more classes; 'new_head': replace every classifier by a new one."
    )
    trust_remote_code: bool = option(False, "Run code that a peer's repository brings.")
    control: bool = option(True, "Also run the control: the same without transfer.")
    seeds: list[int] = option([], "Repeat the whole for these seeds; unset: the one of --seed.")
    overwrite_output_dir: bool = option(False, "Replace what is in output_dir.")


def choices_of(hint: Any) -> tuple[Any, ...]:
    """The allowed values of a `Literal`, also of an optional one; empty for other types."""
    if getattr(hint, "__origin__", None) is Literal:
        return get_args(hint)
    parts = [part for part in get_args(hint) if part is not type(None)]
    return choices_of(parts[0]) if len(parts) == 1 else ()


def check_choices(options: Any) -> None:
    """Raise [`~hf_mutual_kd.errors.ConfigError`] where a field with a `Literal` type holds another value."""
    hints = get_type_hints(type(options))
    for item in fields(options):
        allowed = choices_of(hints[item.name])
        value = getattr(options, item.name)
        if allowed and value is not None and value not in allowed:
            raise ConfigError(f"{item.name} must be one of {', '.join(map(str, allowed))}, got {value!r}")
