"""Which way of teaching beats plain fine-tuning, for whom? `python recipes/hunt.py` looks for it among many.

In two regimes of data (recipes/hunt_settings.py) every way of teaching trains seven pairs of peers; the best by the
validation rows is then confirmed once, on 21 other pairs, on cohorts of six and eight and on a second data set, on
rows that nothing was trained or selected on. What a peer has to beat is what is best for it on the validation rows:
its start, or cross-entropy alone at one of several learning rates, with or without label smoothing. The same runs tell
which number, known before training, predicts a peer's gain.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from embedded.make_data import CLASS_NAMES
from evidence import QUICK_ROWS, QUICK_STEPS, Course, Lab, best, make_batches, train
from evidence_data import FashionMNIST, Rows, load, load_digits
from evidence_models import BATCH_SIZE, predict
from evidence_settings import Plan as BatchPlan
from hunt_report import Found, draw, markdown, outcome_table
from hunt_settings import POOL, REGIMES, Plain, Regime, Way, draw_pairs
from torch import Tensor

from hf_mutual_kd import (
    Cohort,
    LoadedPeer,
    MutualKDError,
    Objective,
    PeerSpec,
    __version__,
    complement,
    ensemble_right,
    write_json,
    write_text,
)

SIX = tuple(name for name in POOL if not name.startswith("vitt"))
COHORTS = (SIX, tuple(POOL))
DIGITS_SHARE = 0.25
"""Of the steps on Fashion-MNIST; the digits have a fourteenth of the rows."""


@dataclass
class Hunt:
    """Trains what is asked for on one data set, at most once: finished runs are kept in a folder.

    Args:
        lab ([`Lab`]): the data, and the pretrained peers.
        steps_share (`float`): of a regime's steps that every training has: fewer for fewer rows, or to try it out.
        seconds (`dict`): how long each run took, also those of an earlier start.
        bars (`dict`): what was found by [`bar`], by regime and seed.
        said (`dict`): log-probabilities of the starts on the validation rows, by peer.
    """

    lab: Lab
    steps_share: float = 1.0
    seconds: dict[str, float] = field(default_factory=dict)
    bars: dict[tuple[str, int], dict[str, dict[str, float]]] = field(default_factory=dict)
    said: dict[str, Tensor] = field(default_factory=dict)

    def gains(self, regime: Regime, way: Way, peers: Sequence[str], seed: int, part: str) -> dict[str, float]:
        """Points of each peer of a cohort above what it has to beat, on the validation or the held rows."""
        after, bar = self.taught(regime, way, peers, seed), self.bar(regime, seed)
        return {name: after[name][part] - bar[name][part] for name in peers}

    def taught(self, regime: Regime, way: Way, peers: Sequence[str], seed: int) -> dict[str, dict[str, float]]:
        """What the peers of a cohort have become by one way of teaching."""
        rows, labelled = self._rows(regime)
        batches = make_batches(labelled, len(rows) - labelled, self._plan("mean", regime, len(rows)), seed)
        fitted = self.lab.data.validation if way.calibrate or way.rule == "class" else None
        return self._run(
            ("way", asdict(way), regime.labelled),
            peers,
            seed,
            way.objective(unlabelled=labelled < len(rows)),
            Course(rows, batches[: self._steps(regime)], way.learning_rate, validation=fitted, rises=way.rises),
        )

    def bar(self, regime: Regime, seed: int) -> dict[str, dict[str, float]]:
        """What every peer of the pool has to beat: the best of its start and its controls on the validation rows."""
        key = (regime.title, seed)
        if key in self.bars:
            return self.bars[key]
        runs = [self.control(regime, plain, seed) for plain in regime.controls]
        found = self.bars[key] = {}
        for name, start in POOL.items():
            as_started = self.lab.start(start)
            here = {"validation": as_started["validation"], "held": as_started["held"], "gained": 0.0, "lost": 0.0}
            found[name] = best([here, *(run[name] for run in runs)])
        return found

    def control(self, regime: Regime, plain: Plain, seed: int) -> dict[str, dict[str, float]]:
        """What the peers of the pool become by cross-entropy alone; no peer sees another."""
        rows, labelled = self._rows(regime)
        plan = self._plan("control", regime, labelled if plain.labels_alone else len(rows), plain.labels_alone)
        steps = self._steps(regime) // 5 if plain.labels_alone else self._steps(regime)
        batches = make_batches(labelled, len(rows) - labelled, plan, seed)[: max(steps, 1)]
        return self._run(
            ("control", asdict(plain), regime.labelled),
            list(POOL),
            seed,
            plain.objective(),
            Course(rows, batches, plain.learning_rate),
        )

    def facts(self, pair: Sequence[str]) -> dict[str, dict[str, float | None]]:
        """What is known of a pair before training, for each of the two as "my model", on the validation rows."""
        said = torch.stack([self._start_log_probs(name) for name in pair])
        labels = self.lab.data.validation.labels
        truth = said.gather(2, labels.expand(len(pair), -1).unsqueeze(2)).squeeze(2)
        together = ensemble_right(said.numpy(), labels.numpy())
        guesses = said.argmax(2).numpy()
        found = {}
        for mine, name in enumerate(pair):
            other = 1 - mine
            one = complement(
                guesses[mine],
                guesses[other],
                together=together,
                labels=labels.numpy(),
                margin=truth[mine].numpy(),
                classes=len(CLASS_NAMES),
            )
            own = float((guesses[mine] == labels.numpy()).mean())
            found[name] = {
                "ensemble − best peer": one.gain.value,
                "ensemble − my accuracy": float(together.mean()) - own,
                "partner's − my accuracy": one.accuracy - own,
                "positive flips": one.positive_flips.value,
                "on my hardest quarter": one.hardest,
                "agreement": one.agreement,
                "error correlation": one.error_correlation,
                "oracle − my accuracy": one.oracle - own,
            }
        return found

    def _start_log_probs(self, name: str) -> Tensor:
        if name not in self.said:
            logits = predict(self.lab.model(POOL[name]), self.lab.data.validation.images)
            self.said[name] = logits.log_softmax(1)
        return self.said[name]

    def _rows(self, regime: Regime) -> tuple[Rows, int]:
        """The fresh rows, the labelled ones first, and how many these are."""
        rows = self.lab.data.transfer
        labelled = max(1, round(regime.labelled * len(rows)))
        visible = torch.arange(len(rows)) < labelled
        return Rows(rows.images, rows.labels.where(visible, -1)), labelled

    def _steps(self, regime: Regime) -> int:
        return max(1, round(self.steps_share * regime.steps))

    def _plan(self, arm: Any, regime: Regime, rows: int, labels_alone: bool = False) -> BatchPlan:
        """Enough epochs for the steps of a regime."""
        epochs = -(-self._steps(regime) // max(rows // BATCH_SIZE, 1))
        return BatchPlan(arm, epochs, labels_alone=labels_alone)

    def _run(
        self, what: tuple[Any, ...], peers: Sequence[str], seed: int, objective: Objective, course: Course
    ) -> dict[str, dict[str, float]]:
        """One training, measured, or what is kept of it."""
        facts = repr((what, list(peers), seed, len(course.batches)))
        path = self.lab.folder / "hunt" / f"{hashlib.sha256(facts.encode()).hexdigest()[:20]}.json"
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            self.seconds[path.name] = record["seconds"]
            return record["peers"]
        began = time.process_time()
        models = {name: self.lab.model(POOL[name]) for name in peers}
        loaded = {name: LoadedPeer(model, None, PeerSpec(name)) for name, model in models.items()}
        cohort = Cohort(loaded, label_names=CLASS_NAMES)
        train(cohort, objective, course, f"{'+'.join(peers)} seed {seed}")
        found = {name: self.lab.measure(model, POOL[name]) for name, model in cohort.peers.items()}
        seconds = round(time.process_time() - began, 1)
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"run": facts, "seconds": seconds, "peers": found})
        self.seconds[path.name] = seconds
        return found


def select(hunt: Hunt, regime: Regime, pairs: Sequence[tuple[str, str]], seed: int) -> dict[str, float]:
    """Mean gain of every way of teaching over the peers of the pairs, on the validation rows, the best first."""
    means = {}
    for name, way in regime.ways.items():
        found = [hunt.gains(regime, way, pair, seed, "validation") for pair in pairs]
        means[name] = statistics.fmean(gain for one in found for gain in one.values())
        print(f"  {name:<40} {means[name]:+.2f} on validation, {len(pairs)} pairs", flush=True)
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def confirm(hunt: Hunt, name: str, way_name: str, pairs: Sequence[tuple[str, str]], seeds: Sequence[int]) -> Found:
    """The chosen way on pairs and cohorts that it was not chosen on, on the held rows."""
    regime = REGIMES[name]
    way = regime.ways[way_name]

    def over_seeds(peers: Sequence[str]) -> dict[str, list[float]]:
        found = [hunt.gains(regime, way, peers, seed, "held") for seed in seeds]
        return {peer: [one[peer] for one in found] for peer in peers}

    bars = [hunt.bar(regime, seed) for seed in seeds]
    starts = {peer: hunt.lab.start(POOL[peer])["held"] for peer in POOL}
    return Found(
        regime=name,
        way=way_name,
        pairs={pair: over_seeds(pair) for pair in pairs},
        cohorts={peers: over_seeds(peers) for peers in COHORTS},
        known={pair: hunt.facts(pair) for pair in pairs},
        bars={peer: statistics.fmean(bar[peer]["held"] for bar in bars) for peer in POOL},
        starts=starts,
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="orders of the rows for confirmation")
    parser.add_argument(
        "--source", help="folder of Debian's dataset-fashion-mnist, or 'embedded' (unset: what is there)"
    )
    parser.add_argument(
        "--regimes", nargs="+", default=list(REGIMES), choices=list(REGIMES), help="states of the data"
    )
    parser.add_argument("--no_digits", action="store_true", help="leave out the second data set (needs scikit-learn)")
    parser.add_argument("--output", type=Path, default=Path("runs/hunt"), help="results; a restart resumes them")
    parser.add_argument("--quick", action="store_true", help="two steps on a few rows: shows that it runs, no more")
    return parser.parse_args(argv)


def search(data: Mapping[str, FashionMNIST], options: argparse.Namespace) -> dict[str, Any]:
    """Choose on the first data set, confirm on all."""
    shares = {"Fashion-MNIST": 1.0, "digits": DIGITS_SHARE}
    if options.quick:
        shares = dict.fromkeys(shares, 0.005)
    limit = QUICK_STEPS if options.quick else None
    hunts = {name: Hunt(Lab(one, options.output, limit), shares[name]) for name, one in data.items()}
    first = next(iter(hunts.values()))
    chosen_on, confirmed_on = draw_pairs()
    if options.quick:
        chosen_on, confirmed_on = chosen_on[:1], confirmed_on[:3]
    chosen, found = {}, {}
    for name in options.regimes:
        regime = REGIMES[name]
        print(f"{name}: {regime.title}", flush=True)
        chosen[name] = select(first, regime, chosen_on, options.seeds[0])
        for data_name, hunt in hunts.items():
            one = confirm(hunt, name, next(iter(chosen[name])), confirmed_on, options.seeds)
            found[name, data_name] = one
            print(outcome_table({(name, data_name): one}), flush=True)
    return {"chosen": chosen, "found": found, "seconds": sum(sum(hunt.seconds.values()) for hunt in hunts.values())}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the hunt, print its tables, write `hunt.md` and `hunt.png`."""
    options = parse(argv)
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    try:
        limit = QUICK_ROWS if options.quick else None
        data = {"Fashion-MNIST": load(options.source, limit)}
        if not options.no_digits:
            data["digits"] = load_digits(limit)
    except MutualKDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = search(data, options)
    facts = {
        "command": shlex.join(["python", "recipes/hunt.py", *(sys.argv[1:] if argv is None else argv)]),
        "seeds": options.seeds,
        "sources": {name: one.source for name, one in data.items()},
        "held": {name: len(one.held) for name, one in data.items()},
        "versions": {"hf_mutual_kd": __version__, "torch": torch.__version__, "python": sys.version.split()[0]},
        "seconds": round(result["seconds"]),
        "quick": options.quick,
    }
    write_text(options.output / "hunt.md", markdown(result["chosen"], result["found"], facts))
    draw(result["found"], options.output / "hunt.png")
    print(f"{options.output}/hunt.md, hunt.png; {facts['seconds']} s of training")
    return 0


if __name__ == "__main__":
    sys.exit(main())
