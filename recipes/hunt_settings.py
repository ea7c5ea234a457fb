"""What `recipes/hunt.py` looks for: peers, data regimes, ways of teaching, and what these have to beat."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from evidence_models import Start

from hf_mutual_kd import SOURCES, Objective, TransferOptions, make_rule

POOL = {
    **{f"{member}_{seed}": Start(member, seed) for member in ("cnn", "mlp") for seed in range(3)},
    **{f"vitt_{seed}": Start("vitt", seed) for seed in range(2)},
}
"""Peers by name: those of one number were pretrained on the same third of the pretraining rows."""

WEAK = "vitt"
"""The family that starts far below the others."""

DRAW_SEED, CONFIRMED = 20251022, 21


def draw_pairs() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The pairs that a way of teaching is chosen on, and the 21 others that it is confirmed on."""
    every = list(itertools.combinations(POOL, 2))
    confirmed = set(random.Random(DRAW_SEED).sample(every, CONFIRMED))
    return [pair for pair in every if pair not in confirmed], [pair for pair in every if pair in confirmed]


@dataclass(frozen=True)
class Way:
    """A way of teaching.

    Args:
        rule, source (`str`): as the options `teacher_rule` and `teacher_source`.
        weight, temperature (`float`): of transfer.
        learning_rate (`float`): Adam's, falling to 0 along a cosine.
        calibrate, retain (`bool`): as the options.
        rises (`bool`): the weight rises to its value over the first half of the steps.
    """

    rule: str = "mean"
    source: str = "frozen"
    weight: float = 3.0
    temperature: float = 1.0
    learning_rate: float = 1e-3
    calibrate: bool = False
    retain: bool = False
    rises: bool = False

    def objective(self, unlabelled: bool) -> Objective:
        """What the peers are trained for; `unlabelled`: whether some rows have no label."""
        return Objective(
            make_rule(self.rule, self.calibrate),
            SOURCES[self.source].from_options(TransferOptions()),
            retain=self.retain,
            weight=self.weight,
            temperature=self.temperature,
            unlabelled_rows=unlabelled,
        )


@dataclass(frozen=True)
class Plain:
    """A control: cross-entropy alone.

    Args:
        learning_rate (`float`): Adam's, falling to 0 along a cosine.
        label_smoothing (`float`): of the cross-entropy.
        labels_alone (`bool`): batches of 128 labelled rows for a fifth of the steps, in place of the labelled rows in
            the batches that transfer sees.
    """

    learning_rate: float
    label_smoothing: float = 0.0
    labels_alone: bool = False

    def objective(self) -> Objective:
        """What the peers are trained for."""
        plain = Way(weight=0.0).objective(unlabelled=False)
        return Objective(plain.rule, plain.source, retain=False, weight=0.0, label_smoothing=self.label_smoothing)


@dataclass(frozen=True)
class Regime:
    """A state of the data.

    Args:
        title (`str`): in words.
        labelled (`float`): share of the fresh rows that have a label.
        steps (`int`): of every training.
        ways (`dict[str, Way]`): among which one is chosen.
        controls (`list[Plain]`): among which, and the start, the best is what has to be beaten.
    """

    title: str
    labelled: float
    steps: int
    ways: Mapping[str, Way] = field(repr=False)
    controls: tuple[Plain, ...] = field(repr=False)


SMOOTHING = (0.0, 0.1)

REGIMES = {
    "few": Regime(
        "one row in five has a label",
        labelled=0.2,
        steps=780,
        ways={
            "frozen mean": Way(),
            "frozen mean, calibrated": Way(calibrate=True),
            "frozen mean, weight 10": Way(weight=10),
            "frozen mean, temperature 2": Way(temperature=2),
            "frozen mean, rate 3e-4": Way(learning_rate=3e-4),
            "frozen mean, rate 5e-5": Way(learning_rate=5e-5),
            "trust per class, frozen, calibrated": Way("class", calibrate=True),
            "gate, frozen, calibrated": Way("gated", calibrate=True),
            "mean of moving averages": Way(source="ema"),
            "best where labelled, else frozen mean": Way("best", "live", retain=True),
        },
        controls=tuple(
            [Plain(rate, smoothing, True) for rate in (1e-3, 3e-4, 1e-4) for smoothing in SMOOTHING]
            + [Plain(rate, smoothing) for rate in (1e-3, 3e-4) for smoothing in SMOOTHING]
        ),
    ),
    "all": Regime(
        "all rows have a label",
        labelled=1.0,
        steps=390,
        ways={
            "best, live, retention (the default)": Way("best", "live", 1.0, retain=True),
            "frozen mean": Way(),
            "frozen mean, calibrated, rate 3e-4": Way(calibrate=True, learning_rate=3e-4),
            "frozen mean, weight 10": Way(weight=10),
            "frozen mean, rate 5e-5": Way(learning_rate=5e-5),
            "trust per class, frozen, calibrated": Way("class", calibrate=True),
            "mean of moving averages": Way(source="ema"),
            "mean of moving averages, rising weight": Way(source="ema", rises=True),
        },
        controls=tuple(Plain(rate, smoothing) for rate in (1e-3, 3e-4, 1e-4, 3e-5) for smoothing in SMOOTHING),
    ),
}
