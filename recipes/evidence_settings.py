"""The settings that `recipes/evidence.py` compares: who takes part, on which rows, how long, and figures to reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from evidence_models import Start

from hf_mutual_kd import BestRule, FrozenSource, LiveSource, MeanRule, Objective

Arm = Literal["control", "default", "reference", "mean"]


def objective_of(arm: Arm, weight: float = 1.0, labels: bool = True) -> Objective:
    """What the peers of an arm are trained for.

    Args:
        arm (`str`): `"control"`: labels alone; `"default"`: the best peer of this step teaches, and is held to its own
            start where it does; `"reference"`: as the authors' code, the teacher is moved too and nothing is held;
            `"mean"`: the mean of the frozen starts teaches every peer on every row.
        weight (`float`, *optional*, defaults to 1.0): of transfer.
        labels (`bool`, *optional*, defaults to `True`): whether labels are used at all.
    """
    if arm == "control":
        return Objective(BestRule(), LiveSource(), retain=False, weight=0.0)
    if arm == "reference":
        return Objective(BestRule(), LiveSource(), retain=False, detach="none", weight=weight)
    if arm == "mean":
        return Objective(MeanRule(), FrozenSource(), retain=False, weight=weight, labels=labels)
    return Objective(BestRule(), LiveSource(), weight=weight)


@dataclass(frozen=True)
class Plan:
    """One training.

    Args:
        arm (`str`): see [`objective_of`].
        epochs (`int`): over the rows of the setting.
        learning_rate (`float`): Adam's, falling to 0 along a cosine.
        weight (`float`, *optional*, defaults to 1.0): of transfer.
        labels_alone (`bool`, *optional*, defaults to `False`): epochs and batches of 128 are over the labelled rows
            only. Unset, batches are those of the whole setting, of which `control` and `reference` see the labelled
            rows.
    """

    arm: Arm
    epochs: int
    learning_rate: float = 1e-3
    weight: float = 1.0
    labels_alone: bool = False


@dataclass(frozen=True)
class Bar:
    """Figures to reach, in points.

    Args:
        mean (`dict[str, float]`): smallest mean over seeds, by peer.
        every_seed (`float`, *optional*): what every peer has to exceed in every seed.
        average (`float`, *optional*): smallest mean over peers and seeds.
    """

    mean: Mapping[str, float] = field(default_factory=dict)
    every_seed: float | None = None
    average: float | None = None

    def text(self, peer: str) -> str:
        """What one peer has to reach; empty where nothing was promised."""
        parts = [f"≥ {self.mean[peer]:+.2f}"] if peer in self.mean else []
        return ", ".join(parts + ([f"each > {self.every_seed:+.2f}"] if self.every_seed is not None else []))

    def met(self, peer: str, deltas: Sequence[float]) -> bool | None:
        """Whether it did, given its difference in every seed; `None` where nothing was promised."""
        if not self.text(peer):
            return None
        enough = sum(deltas) / len(deltas) >= self.mean.get(peer, float("-inf"))
        return enough and (self.every_seed is None or min(deltas) > self.every_seed)

    def average_met(self, deltas: Sequence[Sequence[float]]) -> bool | None:
        """Whether the mean over peers and seeds is reached; `None` where nothing was promised."""
        if self.average is None:
            return None
        means = [sum(one) / len(one) for one in deltas]
        return sum(means) / len(means) >= self.average


@dataclass(frozen=True)
class Setting:
    """A comparison.

    Args:
        title (`str`): what it is, in one line.
        peers (`dict[str, str]`): members by peer name, in the order of roles.
        arm ([`Plan`]): what is judged.
        controls (`tuple[Plan]`): what it is judged against: per peer, the one that is best on the validation rows; the
            starts where there are none.
        references (`tuple[Plan]`): the authors' form, reported beside it; chosen as the control is.
        kind (`str`): `"own"`: peers of one seed, all pretrained on the rows that they now learn from; `"specialists"`:
            of one seed, on fresh rows; `"different"`: peers pretrained on different rows, on fresh rows.
        rows (`int`, *optional*): so many fresh rows take part; unset: all of them.
        labels (`int`, *optional*): so many fresh rows have a label; unset: all rows have one.
        augment (`bool`): shift images by up to one pixel.
        bar ([`Bar`]): figures to reach.
    """

    title: str
    peers: Mapping[str, str]
    arm: Plan
    controls: tuple[Plan, ...]
    references: tuple[Plan, ...] = ()
    kind: Literal["own", "specialists", "different"] = "own"
    rows: int | None = None
    labels: int | None = None
    augment: bool = False
    bar: Bar = Bar()

    def starts(self, seed: int) -> dict[str, Start]:
        """The pretrained weights of every peer."""
        if self.kind == "different":
            return {peer: Start(member, int(peer.rpartition("_")[2])) for peer, member in self.peers.items()}
        special = self.kind == "specialists"
        return {
            peer: Start(member, seed, position if special else None)
            for position, (peer, member) in enumerate(self.peers.items())
        }


def on_labels(arm: Arm) -> tuple[Plan, ...]:
    """What a user of few labels would do without the other rows: 20 epochs at each of three learning rates."""
    return tuple(Plan(arm, 20, rate, labels_alone=True) for rate in (1e-3, 3e-4, 1e-4))


PAIR = {"mlp": "mlp", "cnn": "cnn"}
SIX = {f"{member}_{seed}": member for member in ("cnn", "mlp") for seed in range(3)}

SETTINGS = {
    "A": Setting(
        "long training that overfits (24 epochs, no augmentation), against the same schedule",
        PAIR,
        arm=Plan("default", 24),
        controls=(Plan("control", 24),),
        references=(Plan("reference", 24),),
        bar=Bar({"mlp": 0.35, "cnn": 0.35}, every_seed=0.2),
    ),
    "A'": Setting(
        "the same runs, against a control that stops early (8 epochs)",
        PAIR,
        arm=Plan("default", 24),
        controls=(Plan("control", 8),),
        references=(Plan("reference", 24),),
        bar=Bar({"mlp": 0.0, "cnn": 0.0}, average=0.1),
    ),
    "B": Setting(
        "specialists, zero labels, the mean of the frozen starts teaches; against the starts",
        PAIR,
        arm=Plan("mean", 8, 3e-4),
        controls=(),
        kind="specialists",
        labels=0,
        bar=Bar({"mlp": 3.0, "cnn": 4.5}),
    ),
    "C": Setting(
        "specialists, 1,000 labels and 7,000 rows without, frozen mean and labels; against labels alone",
        PAIR,
        arm=Plan("mean", 40, 3e-4),
        controls=(Plan("control", 40, 3e-4), *on_labels("control")),
        references=(Plan("reference", 40, 3e-4), *on_labels("reference")),
        kind="specialists",
        rows=8_000,
        labels=1_000,
        bar=Bar({"mlp": 0.5, "cnn": 0.1}),
    ),
    "D": Setting(
        "safety of the strong peer beside a weak one (6 epochs)",
        {"vitt": "vitt", "cnn": "cnn"},
        arm=Plan("default", 6),
        controls=(Plan("control", 6),),
        references=(Plan("reference", 6),),
        augment=True,
        bar=Bar({"cnn": -0.3}),
    ),
    "E": Setting(
        "six peers pretrained on different rows, 2,000 labels and 8,000 rows without, frozen mean with weight 3",
        SIX,
        arm=Plan("mean", 40, weight=3.0),
        controls=(Plan("control", 40), Plan("control", 40, 3e-4), *on_labels("control")),
        references=(Plan("reference", 40), *on_labels("reference")),
        kind="different",
        rows=10_000,
        labels=2_000,
        bar=Bar(every_seed=0.0, average=0.5),
    ),
    "even": Setting(
        "an even pair, short training (4 epochs): nothing is expected",
        PAIR,
        arm=Plan("default", 4),
        controls=(Plan("control", 4),),
        references=(Plan("reference", 4),),
        augment=True,
    ),
    "four": Setting(
        "four peers, short training (4 epochs): nothing is expected",
        {"mlp": "mlp", "cnn": "cnn", "res": "res", "vitt": "vitt"},
        arm=Plan("default", 4),
        controls=(Plan("control", 4),),
        references=(Plan("reference", 4),),
        augment=True,
    ),
}
