"""What a user can set: the options of knowledge transfer and those of a recipe.

Imports neither torch nor transformers, so that `--help` is quick; [`MutualKDConfig`] adds
everything of `transformers.TrainingArguments`.
"""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from ..errors import ConfigError
from .data_options import ColumnOptions, DataOptions
from .fields import option
from .peers import BatchNorm, PeerSpec
from .rules import (
    BELOW_ONE,
    COUNT,
    NOT_NEGATIVE,
    OPEN_SHARE,
    POSITIVE,
    SEED,
    check_choices,
    check_rules,
)
from .stage_options import StageOptions

Preset = Literal["default", "reference"]
TEACHER_RULES = ("best", "mean", "all", "fixed:NAME", "gated", "class", "self")
TeacherSourceName = Literal["live", "frozen", "ema", "table"]
RoleScore = Literal["margin", "confidence", "loss"]
Detach = Literal["teacher", "none"]
LabelAlignment = Literal["exact", "subset", "overlap", "new_head"]
OnBadRow = Literal["raise", "skip"]
ResumeChanges = Literal["refuse", "allow"]

Options = TypeVar("Options", bound="TransferOptions")

PRESETS: dict[str, dict[str, Any]] = {
    "default": {"teacher_rule": "best", "teacher_source": "live", "detach": "teacher", "retain": True},
    "reference": {"teacher_rule": "best", "teacher_source": "live", "detach": "none", "retain": False},
}
"""What an option is when it is left unset. `reference`, the form of the authors' code, harms the stronger peer."""

WITHOUT_LABELS: dict[str, Any] = {"teacher_rule": "mean", "teacher_source": "frozen", "retain": False}
"""What takes the preset's place where there are no labels to rank the peers by."""


MOST_KEPT = 20_000_000_000
"""Bytes that the log-probabilities of a score table may take on disk unless a user says otherwise."""


def names_in(group: str, *classes: Any) -> tuple[str, ...]:
    """The options of one group, those of [`TransferOptions`] and [`RecipeOptions`] when no class is given.

    Example:
        >>> names_in("hub")
        ('hub_namespace', 'hub_name_template')
    """
    every = [item for cls in classes or (TransferOptions, RecipeOptions) for item in fields(cls)]
    return tuple(dict.fromkeys(item.name for item in every if item.metadata.get("group") == group))


@dataclass
class TransferOptions(ColumnOptions, StageOptions):
    """Who teaches whom, how strongly, and what differs between the peers.

    > Who teaches

    Args:
        preset (`str`, *optional*, defaults to `"default"`):
            Fills `teacher_rule`, `teacher_source`, `detach` and `retain` where they are left unset.
        teacher_rule (`str`, *optional*):
            `"best"`: the peer with the strictly best score teaches; `"mean"`: the mean of all peers teaches everyone;
            `"all"`: every peer teaches every other (Deep Mutual Learning); `"fixed:NAME"`: one peer teaches the
            others, and goes on learning from labels unless it is frozen; `"gated"`: a weighted mean, by
            a gate that is trained with it; `"class"`: a weighted mean, by each peer's likelihood of the truth on
            validation rows of the class; `"self"`: each peer's own frozen start teaches it where there is no label.
        teacher_source (`str`, *optional*):
            `"live"`: teachers speak with this step's weights; `"frozen"`: with those they started from; `"ema"`: with
            a moving average of them, which then also takes the starts' place in `retain`; `"table"`: all
            peers of `score_table` teach as they were when it was scored, and only those that are trained are loaded.
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
        [`ConfigError`]: a value breaks its rule.
    """

    preset: Preset = option(
        "teaching", "default", "Fills the unset ones of teacher_rule, teacher_source, detach and retain."
    )
    teacher_rule: str | None = option(
        "teaching",
        None,
        "Who teaches: the best peer, the peers' mean, each the others, one, or a weighted mean.",
        metavar="|".join(TEACHER_RULES),
        often=True,
    )
    teacher_source: TeacherSourceName | None = option(
        "teaching",
        None,
        "Teachers speak as they are now, as they started, as a moving average, or from score_table.",
        often=True,
    )
    ema_decay: float = option(
        "teaching",
        0.99,
        "With teacher_source ema: how much of the average a step keeps, 0 to below 1.",
        rule=BELOW_ONE,
    )
    calibrate: bool = option(
        "teaching", False, "Fit a temperature to each teacher on validation rows before training."
    )
    gate_learning_rate: float = option(
        "teaching", 0.01, "With teacher_rule gated: learning rate of the gate.", rule=NOT_NEGATIVE
    )
    retain: bool | None = option("teaching", None, "Hold a teacher to its own frozen start on the samples it teaches.")
    detach: Detach | None = option(
        "teaching", None, "Whether the transfer loss also moves the teacher ('none': it does)."
    )
    role_score: RoleScore | None = option(
        "teaching",
        None,
        "What ranks the peers: margin or loss of the truth, or confidence. Unset: margin; loss for maps.",
    )
    score_table: str | None = option(
        "teaching",
        None,
        "Folder of `hf-mutual-kd score`, which then says who teaches, or with teacher_source table also speaks.",
        place=True,
    )
    refresh_epochs: int | None = option(
        "teaching", None, "With teacher_source table: score the trained peers anew so often.", rule=COUNT
    )
    role_table: str | None = option(
        "teaching", None, "Parquet role table of an earlier run; its samples keep their teacher.", place=True
    )
    labels: bool = option("data", True, "false: ignore all labels; only transfer trains the peers.", often=True)
    augment: bool = option("view", True, "Random crops, and flips of images, the same for all peers.", often=True)
    labelled_share: float | None = option(
        "training",
        None,
        "Share of labelled rows in every step, above 0 and below 1. Unset: rows come as they are.",
        rule=OPEN_SHARE,
    )
    transfer_weight: float | None = option(
        "teaching",
        None,
        "Weight of transfer against the supervised loss (0: control). Unset: 1; with teaching auto the task's own.",
        rule=NOT_NEGATIVE,
        often=True,
    )
    transfer_warmup_steps: int = option(
        "teaching", 0, "Optimizer steps over which the transfer weight rises from 0.", rule=NOT_NEGATIVE
    )
    temperature: float = option(
        "teaching",
        1.0,
        "Softening of teacher and student; the loss is scaled by its square.",
        rule=POSITIVE,
        often=True,
    )
    cache_frozen: bool | None = option(
        "teaching",
        None,
        "Compute the frozen starts' outputs once before training. Unset: where views stay and memory allows.",
    )
    cached_views: int | None = option(
        "teaching",
        None,
        "Show each row in so many random views in turn (of a video so many frames), for which the frozen starts' "
        "outputs are computed once. Unset: other views in every epoch.",
        rule=COUNT,
    )

    batch_norm: BatchNorm = option("peers", "train", "'freeze' keeps batch-norm statistics as they were pretrained.")
    peer_checkpointing: bool = option(
        "peers", False, "Recompute each whole peer in backward: activation memory of one peer."
    )
    peer_parallel: bool = option(
        "peers", False, "Several processes: hold each peer on a part of them, not all peers on every one.", often=True
    )
    merge_adapters: bool = option("peers", False, "With peft: end with whole models, adapters added to their bases.")
    early_stopping_patience: int | None = option(
        "training", None, "Evaluations without gain after which a peer stops learning.", rule=COUNT
    )
    resume_changes: ResumeChanges = option(
        "training",
        "refuse",
        "'allow': go on from a checkpoint with other options or without its optimizer; the record says since when.",
    )
    pre_flight: bool = option(
        "teaching", True, "Before training, report accuracy, ensemble, oracle and expected roles."
    )

    hub_namespace: str | None = option("hub", None, "User or organisation to push to; unset: yours.")
    hub_name_template: str = option(
        "hub", "{peer}-{dataset}-mutual", "Names of repositories: {peer}, {dataset}, {task}."
    )

    on_bad_row: OnBadRow = option(
        "data", "raise", "What an unreadable image, text, mask or video does: stop, or be left out and counted."
    )

    def resolved(self: Options) -> Options:
        """
        A copy in which what the preset decides is filled; the options themselves stay as they were given.

        Raises:
            [`ConfigError`]: a value breaks its rule.
        """
        if self.preset not in PRESETS:
            raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        self.check_stages()
        made = copy.copy(self)
        if self.teaching == "auto":
            check_choices(made)
            check_rules(made)
            return made
        defaults = PRESETS[self.preset] if self.labels else PRESETS[self.preset] | WITHOUT_LABELS
        defaults = {"transfer_weight": 1.0} | defaults
        for name, value in defaults.items():
            if getattr(made, name) is None:
                setattr(made, name, value)
        made._check()
        return made

    def _check(self) -> None:
        check_choices(self)
        check_rule(self.teacher_rule)
        check_rules(self)
        self._check_score_table()
        if self.teacher_rule == "self" and self.teacher_source != "frozen":
            raise ConfigError("teacher_rule 'self' needs teacher_source 'frozen': a peer cannot teach itself as it is")
        if not self.labels and self.teacher_rule == "gated":
            raise ConfigError("teacher_rule 'gated' trains its gate by labels; without them use 'mean' or 'class'")
        if not self.labels and self.teacher_rule == "best" and self.role_score != "confidence":
            raise ConfigError(
                f"teacher_rule 'best' by role_score {self.role_score!r} needs labels; without them use teacher_rule "
                "'mean', or role_score 'confidence' (which collapsed in our experiments)"
            )

    def _check_score_table(self) -> None:
        speaks = self.teacher_source == "table"
        problems = {
            "score_table is missing: teacher_source 'table' reads one that `hf-mutual-kd score` made": (
                speaks and self.score_table is None
            ),
            "score_table and role_table both say who teaches; leave one of them out": (
                self.score_table is not None and self.role_table is not None
            ),
            "teacher_source 'table' needs augment false: what is taught was computed on images without augmentation, "
            "and would be wrong of another view (a score_table whose teachers speak live goes with augmentation)": (
                speaks and self.augment
            ),
            "teacher_source 'table' needs detach 'teacher': no teacher is there to be moved": (
                speaks and self.detach == "none"
            ),
            "teacher_source 'table' keeps no validation rows to calibrate on; leave out calibrate": (
                speaks and self.calibrate
            ),
            "refresh_epochs needs teacher_source 'table'": self.refresh_epochs is not None and not speaks,
        }
        for message, applies in problems.items():
            if applies:
                raise ConfigError(message)


@dataclass
class RecipeOptions(DataOptions):
    """What a recipe works on: peers, data, and the runs to compare.

    Args:
        peers (`dict[str, PeerSpec]`): the cohort, one or more.
    """

    peers: dict[str, PeerSpec] = option(
        "peers",
        {},
        "The cohort: NAME=ID_OR_FOLDER[@REVISION] …, or IDs alone, whose last part is then the name. What differs "
        "between peers (source, learning_rate, weight_decay, frozen, processor, peft, dtype, …) is a mapping in YAML, "
        "and --peers.NAME.learning_rate 1e-5 here.",
        metavar="NAME=ID …",
        often=True,
    )
    peft: dict[str, Any] | list[str] | str | None = option(
        "peers",
        None,
        "Train adapters only: 'lora', or in YAML a configuration of peft with its peft_type. Several methods (lora "
        "dora ia3 bitfit) make a peer of each over one base.",
        often=True,
    )
    load_in_4bit: bool = option("peers", False, "With peft: hold the bases in 4 bits (nf4); needs bitsandbytes.")
    load_in_8bit: bool = option("peers", False, "With peft: hold the bases in 8 bits; needs bitsandbytes.")
    label_alignment: LabelAlignment = option(
        "peers",
        "exact",
        "'subset': peers may know more classes; 'overlap': and lack some, and teach each other what both know; "
        "'new_head': replace every classifier by a new one.",
        often=True,
    )
    trust_remote_code: bool = option("peers", False, "Run code that a peer's repository brings.", often=True)
    metrics: list[str] = option(
        "training",
        [],
        "Further metrics through `evaluate`, of every peer and the ensemble: names such as f1 roc_auc, whose code is "
        "downloaded from the Hub (--trust_remote_code true), or folders of their scripts.",
        place=True,
    )
    dataset_note: str | None = option("data", None, "What cards and tables say of the data set beside its name.")
    processes: int = option(
        "machine", 1, "Start so many processes of this machine through Accelerate.", rule=COUNT, often=True
    )
    control: bool = option("run", True, "Also run the control: the same without transfer.", often=True)
    seeds: list[int] = option(
        "run", [], "Repeat the whole for these seeds; unset: the one of --seed.", rule=SEED, often=True
    )
    overwrite_output_dir: bool = option("run", False, "Replace what is in output_dir.", often=True)
    estimate: bool = option(
        "run", False, "Time a few steps, say how long all trainings take and how much room, and train nothing."
    )


def check_rule(name: str | None) -> None:
    """Raise [`ConfigError`] where `teacher_rule` is none of [`TEACHER_RULES`]."""
    kind, colon, peer = (name or "").partition(":")
    if (kind, bool(peer)) != ("fixed", True) and (colon or kind not in TEACHER_RULES):
        near = difflib.get_close_matches(kind, [rule.partition(":")[0] for rule in TEACHER_RULES], 1)
        raise ConfigError(
            f"teacher_rule must be one of {', '.join(TEACHER_RULES)}, got {name!r}"
            + (f" (nearest: {near[0]})" if near and near[0] != "fixed" else "")
        )
