"""The scout: which models complement mine? Finds candidates, scores all on the same sample, ranks what mine lacks."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from tqdm.auto import tqdm

from ...data.collator import identified
from ...data.fingerprint import labels_of
from ...errors import ConfigError, DataError
from ...files import write_json
from ...hub.calls import HubCalls, Patience
from ...peers.cohort import Cohort
from ...peers.spec import PeerSpec
from ...tasks.registry import Task
from ..score_peers import peer_facts, score_peers
from ..score_shards import Scoring
from ..score_table import ScoreTable
from .candidates import Candidate, Pulled, Unusable, Wanted, examine, find, name_for, plain_reason
from .ranking import Complement, choose_partners, complement, ensemble_gain, ensemble_right, paired

STATE, TABLE = "candidates.json", "table"
MINE = "mine"
TIMED_ROWS, TIMES = 8, 5
"""Rows of the batch that is timed, and how often: the quickest counts, as other work on the machine only slows."""


class Scout:
    """
    Looks at one candidate after the other and remembers what it found, so that an interrupted search goes on.

    Args:
        wanted ([`Wanted`]): what is looked for.
        rows (`datasets.Dataset`): the sample, all of it labelled.
        label_names (`list[str]`): its classes.
        folder (`Path`): of the results; `table/` in it is a score table that training can read.
        task ([`Task`]): of all models.
        scoring ([`Scoring`]): how, in one process; distributions are kept in full.
    """

    def __init__(
        self,
        wanted: Wanted,
        rows: Dataset,
        label_names: list[str],
        *,
        folder: Path,
        task: Task,
        scoring: Scoring,
    ):
        if scoring.accelerator.num_processes > 1:
            raise ConfigError("the scout pulls and scores in one process; start it without `accelerate launch`")
        self.wanted, self.rows, self.label_names = wanted, rows, label_names
        self.folder, self.task, self.scoring = folder, task, scoring
        deadline = math.inf if wanted.deadline_s is None else wanted.deadline_s
        self.ends = time.monotonic() + deadline
        self.calls = HubCalls(patience=Patience(deadline_s=deadline))
        self.found: dict[str, dict[str, Any]] = {}
        """By name: what is known of each model that was scored."""
        self.unusable: dict[str, str] = {}
        """By source: why a candidate cannot be used."""
        self.pulled = Pulled(wanted.limits.max_disk, {})

    def run(self) -> dict[str, Any]:
        """Score mine and all candidates; returns what `scout.json` holds.

        Raises:
            [`MutualKDError`]: my model or the data cannot be used; a candidate raises nothing.
        """
        self._recall()
        table = self._score(MINE, PeerSpec.parse(self.wanted.model), self.wanted.model)
        sources = list(dict.fromkeys(self._sources()))
        for source in tqdm(sources, desc="candidates", unit="model", leave=False):
            if self._enough(source):
                break
            if all(known["source"] != source for name, known in self.found.items() if name != MINE):
                self._try(source)
                self._remember()
        table = ScoreTable.load(self.folder / TABLE, [MINE, *self._scored(sources)])
        return self._report(table)

    def _sources(self) -> Iterator[str]:
        yield from self.wanted.candidates
        if self.wanted.search is not None:
            yield from find(self.calls, self.task, self.wanted.search, self.wanted.limits, self.wanted.limit)

    def _enough(self, source: str) -> bool:
        """Whether a search has brought what it should; what was named one by one is all looked at."""
        others = set(self.wanted.candidates)
        usable = [known for known in self.found.values() if known["source"] not in {*others, self.wanted.model}]
        return source not in others and len(usable) >= self.wanted.limit

    def _scored(self, sources: list[str]) -> list[str]:
        return [name for name, known in self.found.items() if known["source"] in sources and name != MINE]

    def _try(self, source: str) -> None:
        """Score one candidate, or say why not."""
        name = name_for(source, self.found)
        if time.monotonic() > self.ends:
            self.unusable[source] = "not looked at: the time was over; run the same command again to go on"
            return
        try:
            if source == self.wanted.model:
                raise Unusable("it is my model itself")
            candidate = examine(
                source, name, self.task, label_names=self.label_names, wanted=self.wanted, calls=self.calls
            )
            self.pulled.make_room(candidate.size)
            self.pulled.add(candidate, candidate.pull(self.calls))
            self._score(name, candidate.spec, source, candidate)
            self.unusable.pop(source, None)
        except Unusable as reason:
            self.unusable[source] = str(reason)
        except Exception as error:
            # Whatever one stranger's model raises must not end the search among the others.
            told = plain_reason(name, error).strip() or type(error).__name__
            self.unusable[source] = f"failed: {told.splitlines()[0][:300]}"

    def _score(self, name: str, spec: PeerSpec, source: str, candidate: Candidate | None = None) -> ScoreTable:
        limits = self.wanted.limits
        cohort = Cohort.from_pretrained(
            {name: spec},
            task=self.task,
            label_names=self.label_names,
            label_alignment=self.wanted.label_alignment,
            trust_remote_code=limits.trust_remote_code,
        )
        facts = peer_facts(cohort)[name]
        if name != MINE and limits.max_params is not None and facts["parameters"] > limits.max_params:
            raise Unusable(f"too large: {facts['parameters']:,} parameters are more than --max_params")
        mine = self.found.get(MINE)
        if name != MINE and mine is not None and facts["weights"] == mine["weights"]:
            raise Unusable("has the weights of my model")
        table = score_peers(cohort, self.rows, self.folder / TABLE, self.scoring)
        if name not in self.found:
            self.found[name] = {
                "source": source,
                "revision": cohort.specs[name].revision,
                "parameters": facts["parameters"],
                "weights": facts["weights"],
                "ms_per_image": latency(cohort, self.rows, self.scoring.accelerator),
                "downloads": candidate.downloads if candidate else None,
                "license": candidate.license if candidate else None,
            }
        return table

    def _recall(self) -> None:
        """Take over what an earlier call found."""
        path = self.folder / STATE
        if not path.is_file():
            return
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            self.found, kept = dict(state["found"]), dict(state["pulled"])
            model = self.found[MINE]["source"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged ({error}); give another --out") from error
        if model != self.wanted.model:
            raise DataError(f"{self.folder} is a search for partners of {model}; give another --out")
        self.pulled = Pulled(self.wanted.limits.max_disk, kept)

    def _remember(self) -> None:
        state = {"found": self.found, "unusable": self.unusable, "pulled": self.pulled.kept}
        write_json(self.folder / STATE, state)

    def _report(self, table: ScoreTable) -> dict[str, Any]:
        facts = compare(table)
        candidates = {name: self.found[name] | dataclasses.asdict(one) for name, one in facts.items()}
        ranked = sorted(candidates, key=lambda name: -candidates[name]["lift"]["value"])
        return {
            "model": self.found[MINE] | {"accuracy": float(_right(table)[0].mean())},
            "data": table.manifest["data"],
            "candidates": {name: candidates[name] for name in ranked},
            "unusable": self.unusable,
            "cohort": propose(table, facts, {name: self.found[name] for name in facts}, self.wanted.budget),
        }


def latency(cohort: Cohort, rows: Dataset, accelerator: Accelerator) -> float:
    """Milliseconds per image of one peer's forward on this machine, in batches of 8; without reading images."""
    counted: Any = identified(rows)
    collator = cohort.task.collator_class(cohort.processors, on_bad_row="skip", keep_places=True)
    batch = collator([counted[index] for index in range(min(TIMED_ROWS, len(rows)))])
    inputs = batch["peer_inputs"].to(accelerator.device)
    seconds = []
    with torch.no_grad(), accelerator.autocast():
        for _ in range(TIMES + 1):
            began = time.perf_counter()
            outputs = cohort.eval()(peer_inputs=inputs).outputs
            # Reading a value waits for the device.
            cohort.task.logits(outputs[cohort.names[0]]).flatten()[0].item()
            seconds.append(time.perf_counter() - began)
    return 1000 * min(seconds[1:]) / len(batch["sample_ids"])


def draw_sample(rows: Any, samples: int, seed: int) -> Dataset:
    """`samples` labelled rows, drawn by `seed`, in their order.

    Raises:
        [`DataError`]: the rows are streamed, or none has a label.
    """
    if not isinstance(rows, Dataset):
        raise DataError("the scout draws rows, which a stream does not allow; leave out --streaming")
    labelled = np.flatnonzero(labels_of(rows) >= 0)
    if samples < 1 or not len(labelled):
        raise DataError(f"no labelled rows to compare models on ({len(labelled)} labelled, --samples {samples})")
    chosen = np.random.default_rng(seed).permutation(labelled)[:samples]
    return rows.select(np.sort(chosen))


def compare(table: ScoreTable) -> dict[str, Complement]:
    """How each peer of a table complements the first."""
    labels, predictions = table.labels.numpy(), table.predictions().numpy()
    margin, mine = table.scores("margin")[0].numpy(), _log_probs(table, table.names[0])
    facts = {}
    for place, name in enumerate(table.names[1:], start=1):
        together = ensemble_right(np.stack([mine, _log_probs(table, name)]), labels)
        facts[name] = complement(
            predictions[0],
            predictions[place],
            together=together,
            labels=labels,
            margin=margin,
            classes=len(table.label_names),
        )
    return facts


def propose(
    table: ScoreTable, facts: dict[str, Complement], known: dict[str, dict[str, Any]], budget: int | None
) -> dict[str, Any]:
    """
    The cohort of two to four that covers most of my model's errors.

    A candidate with which the ensemble is clearly below my model (the interval of `lift` ends below 0) is left out: a
    bad model, too, has some of the errors right, by chance.
    """
    right = _right(table)
    likely = [name for name in facts if facts[name].lift.high >= 0]
    places = [table.names.index(name) for name in likely]
    costs = [known[name]["parameters"] for name in likely]
    choice = choose_partners(right[places][:, ~right[0]], costs, math.inf if budget is None else budget)
    partners = [likely[index] for index in choice.partners]
    members = [table.names[0], *partners]
    rows = [table.names.index(name) for name in members]
    together = ensemble_right(np.stack([_log_probs(table, name) for name in members]), table.labels.numpy())
    return {
        "partners": partners,
        "covered_errors": choice.covered,
        "errors": choice.errors,
        "exact": choice.exact,
        "left_out": [name for name in facts if name not in likely],
        "budget": budget,
        "partner_parameters": sum(known[name]["parameters"] for name in partners),
        "lift": dataclasses.asdict(paired(together, right[0])) if partners else None,
        "gain": dataclasses.asdict(ensemble_gain(right[rows], together)) if partners else None,
        "best": members[int(right[rows].mean(1).argmax())],
        "ensemble_accuracy": float(together.mean()),
        "oracle_accuracy": float(right[rows].any(axis=0).mean()),
    }


def _right(table: ScoreTable) -> np.ndarray:
    return table.predictions().numpy() == table.labels.numpy()


def _log_probs(table: ScoreTable, name: str) -> np.ndarray:
    return table.log_probs(name, torch.arange(len(table))).numpy()
