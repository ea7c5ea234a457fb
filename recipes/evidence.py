"""Does transfer beat plain fine-tuning? `python recipes/evidence.py [--settings A B …] [--seeds 0 1 2]` measures it.

Every setting (recipes/evidence_settings.py) trains small peers that were pretrained on a part of Fashion-MNIST, once
with transfer and once without, from the same starts, on the same rows in the same order. [`train`] is also the example
of a plain loop of one's own around [`Cohort`]: no trainer, no data set library.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The peers are too small for a second thread; the runtime reads this when torch is imported. OMP_PROC_BIND is left
# unset: it would put this thread on the first core, together with that of every other process that sets it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from embedded.make_data import CLASS_NAMES
from evidence_data import FashionMNIST, Rows, load, shift, slice_of
from evidence_models import BATCH_SIZE, MEMBERS, Start, predict, pretrained
from evidence_report import Outcome, draw, figures, markdown, table
from evidence_settings import SETTINGS, Plan, Setting, objective_of
from torch import Tensor
from tqdm import tqdm

from hf_mutual_kd import (
    Cohort,
    LoadedPeer,
    MutualKDError,
    Objective,
    PeerSpec,
    __version__,
    total_of,
    write_json,
    write_text,
)

WEIGHT_DECAY = 1e-5
QUICK_ROWS, QUICK_STEPS = 320, 2


@dataclass(frozen=True)
class Course:
    """What a cohort is trained on, and how.

    Args:
        rows ([`Rows`]): what it learns from; label -1 where there is none.
        batches (tensors of shape `[B]`): row numbers.
        learning_rate (`float`): at the first step.
        shifts (`torch.Generator`, *optional*): moves images by up to one pixel; unset, inputs never change, so that
            the outputs of frozen starts are computed once.
        validation ([`Rows`], *optional*): what rules that are fitted are fitted on.
        rises (`bool`, *optional*, defaults to `False`): let the weight of transfer rise to its value over the first
            half of the steps.
    """

    rows: Rows
    batches: Sequence[Tensor]
    learning_rate: float
    shifts: torch.Generator | None = None
    validation: Rows | None = None
    rises: bool = False


def train(cohort: Cohort, objective: Objective, course: Course, title: str = "") -> None:
    """Train a cohort in place, in a plain loop: Adam, a cosine to 0, one step per batch.

    Args:
        cohort ([`Cohort`]): peers at their start.
        objective ([`Objective`]): what they are trained for.
        course ([`Course`]): rows, batches, learning rate.
        title (`str`): shown beside the progress bar.
    """
    rows, batches, shifts = course.rows, course.batches, course.shifts
    cohort.set_objective(objective)
    if course.validation is not None:
        fit(cohort, course.validation)
    cached = None
    if cohort.starts is not None and shifts is None and objective.source.decay is None:
        pieces = rows.images.split(1_000)
        found = [cohort.start_logits(inputs(cohort, piece)) for piece in pieces]
        cached = [torch.cat(of_peer) for of_peer in zip(*found, strict=True)]
        cohort.drop_starts()
    parameters = [weight for weights in cohort.peer_parameters().values() for weight in weights]
    parameters += [] if cohort.rule is None else list(cohort.rule.parameters())
    optimizer = torch.optim.Adam(parameters, lr=course.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    cohort.train()
    for step, index in enumerate(tqdm(batches, desc=title, unit="step", leave=False), start=1):
        images = rows.images[index] if shifts is None else shift(rows.images[index], shifts)
        start_logits = None if cached is None else [one[index] for one in cached]
        weight = objective.weight * (min(1.0, 2 * step / len(batches)) if course.rises else 1.0)
        output = cohort(
            peer_inputs=inputs(cohort, images),
            labels=rows.labels[index],
            start_logits=start_logits,
            transfer_weight=weight,
        )
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        schedule.step()
        cohort.follow_peers()


def fit(cohort: Cohort, rows: Rows) -> None:
    """Fit what the cohort's rule wants fitted, such as temperatures, to labelled rows."""
    for one in cohort.rule.fits() if cohort.rule is not None else ():
        said = [predict(model, rows.images) for model in cohort.peers.values()]
        one.finish(total_of(one.sums([(said, rows.labels)])))


def inputs(cohort: Cohort, images: Tensor) -> dict[str, dict[str, Tensor]]:
    """The same images for every peer."""
    return {name: {"pixel_values": images} for name in cohort.names}


def make_batches(labelled: int, unlabelled: int, plan: Plan, seed: int) -> list[Tensor]:
    """Row numbers of every step.

    An epoch visits every row once, in batches of about 128; each batch holds its share of the labelled rows (0 to
    `labelled` - 1), in the same order for every plan with the same epochs. Control and reference see only those.
    """
    generator = torch.Generator().manual_seed(seed)
    alone = plan.labels_alone or not unlabelled
    steps = max((labelled if alone else labelled + unlabelled) // BATCH_SIZE, 1)
    batches: list[Tensor] = []
    for _ in range(plan.epochs):
        with_label = torch.randperm(labelled, generator=generator).tensor_split(steps)
        without = (torch.randperm(unlabelled, generator=generator) + labelled).tensor_split(steps)
        taught = plan.arm == "mean" and not plan.labels_alone
        batches += [torch.cat(pair) if taught else pair[0] for pair in zip(with_label, without, strict=True)]
    return batches


@dataclass
class Lab:
    """Trains what is asked for, at most once: finished runs and pretrained members are kept in a folder.

    Args:
        data ([`FashionMNIST`]): all rows.
        folder (`Path`): where results are kept.
        max_steps (`int`, *optional*): ends every training early, to try the recipe out.
        measured (`dict`): starts that were measured.
        seconds (`dict`): how long each run took, pretraining included where it was needed.
    """

    data: FashionMNIST
    folder: Path
    max_steps: int | None = None
    measured: dict[Start, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        made = [(name, one.epochs, one.specialist_epochs, one.learning_rate) for name, one in MEMBERS.items()]
        kind = repr((self.data.source, len(self.data.held), self.max_steps, __version__, made))
        self.folder = self.folder / f"cache-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def outcome(self, name: str, setting: Setting, seeds: Sequence[int], reference: bool) -> Outcome:
        """All runs of a setting, joined."""
        per_seed = [self.compare(setting, seed, reference) for seed in seeds]
        return Outcome(name, setting, {peer: [one[peer] for one in per_seed] for peer in setting.peers})

    def compare(self, setting: Setting, seed: int, reference: bool) -> dict[str, dict[str, Any]]:
        """For every peer, its start, arm and control (and reference) with one seed."""
        start = {peer: self.start(start) for peer, start in setting.starts(seed).items()}
        arm = self.run(setting, setting.arm, seed)
        controls = [self.run(setting, plan, seed) for plan in setting.controls]
        references = [self.run(setting, plan, seed) for plan in setting.references if reference]
        found = {}
        for peer in setting.peers:
            plain = {"validation": start[peer]["validation"], "held": start[peer]["held"], "gained": 0.0, "lost": 0.0}
            control = best(one[peer] for one in controls) if controls else plain
            found[peer] = {"start": plain, "arm": arm[peer], "control": control}
            if references:
                found[peer]["reference"] = best(one[peer] for one in references)
        return found

    def run(self, setting: Setting, plan: Plan, seed: int) -> dict[str, dict[str, float]]:
        """One training, measured: per peer the accuracies on validation and held rows, and flips, in percent."""
        rows = self.rows(setting, seed)
        labelled = int((rows.labels >= 0).sum())
        starts = setting.starts(seed)
        facts = repr((starts, setting.kind, len(rows), labelled, setting.augment, plan, seed))
        path = self.folder / f"{plan.arm}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            self.seconds[path.name] = record["seconds"]
            return record["peers"]
        began = time.monotonic()
        models = {peer: self.model(start) for peer, start in starts.items()}
        cohort = Cohort(
            {peer: LoadedPeer(model, None, PeerSpec(peer)) for peer, model in models.items()}, label_names=CLASS_NAMES
        )
        batches = make_batches(labelled, len(rows) - labelled, plan, seed)[: self.max_steps]
        shifts = torch.Generator().manual_seed(seed) if setting.augment else None
        objective = objective_of(plan.arm, plan.weight, labels=labelled > 0)
        title = f"{'+'.join(starts)} {plan.arm} seed {seed}"
        train(cohort, objective, Course(rows, batches, plan.learning_rate, shifts), title)
        found = {peer: self.measure(model, starts[peer]) for peer, model in cohort.peers.items()}
        self.seconds[path.name] = round(time.monotonic() - began, 1)
        record = {"run": facts, "steps": len(batches), "seconds": self.seconds[path.name], "peers": found}
        write_json(path, record)
        return found

    def rows(self, setting: Setting, seed: int) -> Rows:
        """What a setting trains on: the peers' own pretraining rows, or fresh ones with as many labels as it says."""
        if setting.kind == "own":
            return slice_of(self.data.pretrain, seed)
        rows = self.data.transfer.take(slice(setting.rows))
        if setting.labels is None:
            return rows
        visible = torch.arange(len(rows)) < min(setting.labels, len(rows) // 2)
        return Rows(rows.images, rows.labels.where(visible, -1))

    def model(self, start: Start) -> torch.nn.Module:
        """A fresh copy of a pretrained member."""
        return pretrained(start, self.data, self.folder / "starts", self.max_steps)

    def start(self, start: Start) -> dict[str, Any]:
        """How good a start is, and on which held rows it is right."""
        if start not in self.measured:
            model = self.model(start)
            right = predict(model, self.data.held.images).argmax(1) == self.data.held.labels
            self.measured[start] = {
                "validation": accuracy(model, self.data.validation),
                "held": 100 * right.double().mean().item(),
                "right": right,
            }
        return self.measured[start]

    def measure(self, model: torch.nn.Module, start: Start) -> dict[str, float]:
        """Accuracies of a trained peer and its flips against its start, in percent."""
        right = predict(model, self.data.held.images).argmax(1) == self.data.held.labels
        before = self.start(start)["right"]
        return {
            "validation": accuracy(model, self.data.validation),
            "held": 100 * right.double().mean().item(),
            "gained": 100 * (right & ~before).double().mean().item(),
            "lost": 100 * (before & ~right).double().mean().item(),
        }


def best(runs: Iterable[dict[str, float]]) -> dict[str, float]:
    """The run that is best on the validation rows; the held rows are not looked at."""
    return max(runs, key=lambda one: one["validation"])


def accuracy(model: torch.nn.Module, rows: Rows) -> float:
    """In percent."""
    return 100 * (predict(model, rows.images).argmax(1) == rows.labels).double().mean().item()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*SETTINGS, "reference"]
    asked = "which to run; 'reference' runs the authors' form beside each (default: all)"
    parser.add_argument("--settings", nargs="+", default=names, choices=names, help=asked)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="other starts, rows, order for each")
    parser.add_argument(
        "--source", help="folder of Debian's dataset-fashion-mnist, or 'embedded' (unset: what is there)"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/evidence"), help="results; a restart resumes them")
    parser.add_argument("--quick", action="store_true", help="two steps on a few rows: shows that it runs, no more")
    return parser.parse_args(argv)


def write_results(outcomes: Sequence[Outcome], facts: Mapping[str, Any], folder: Path) -> None:
    """`results.json`, `evidence.md` and `evidence.png`, each whole."""
    write_json(folder / "results.json", {**facts, "settings": {one.name: figures(one) for one in outcomes}})
    write_text(folder / "evidence.md", markdown(outcomes, facts))
    draw(outcomes, folder / "evidence.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the settings, print their tables, write the results."""
    options = parse(argv)
    torch.set_num_threads(1)
    try:
        data = load(options.source, QUICK_ROWS if options.quick else None)
    except MutualKDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{data.source}: {len(data.held):,} held-out rows, {len(data.validation):,} for validation", flush=True)
    lab = Lab(data, options.output, QUICK_STEPS if options.quick else None)
    outcomes = []
    for name in (name for name in SETTINGS if name in options.settings):
        outcomes.append(lab.outcome(name, SETTINGS[name], options.seeds, "reference" in options.settings))
        print(table(outcomes[-1]), end="\n\n", flush=True)
    facts = {
        "source": data.source,
        "machine": f"{os.cpu_count()}-core CPU, one thread",
        "held_rows": len(data.held),
        "seeds": options.seeds,
        "quick": options.quick,
        "command": shlex.join(["python", "recipes/evidence.py", *(sys.argv[1:] if argv is None else argv)]),
        "versions": {"hf_mutual_kd": __version__, "torch": torch.__version__, "python": sys.version.split()[0]},
        "training_seconds": round(sum(lab.seconds.values())),
    }
    write_results(outcomes, facts, options.output)
    print(f"{options.output}/results.json, evidence.md, evidence.png; {facts['training_seconds']} s of training")
    missed = [one.name for one in outcomes if one.passed is False]
    if options.quick:
        print("A quick run: its figures mean nothing.")
    else:
        print(f"Figures not reached: {', '.join(missed)}" if missed else "All figures that were promised are reached.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
