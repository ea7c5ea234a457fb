"""Role and transfer loss against the all-pairs formulation: time and peak memory as ratios from one run.

    python tests/benchmarks/bench_losses.py [--quick]

Both get the same logits (fp32, one thread), decide the roles and run forward and backward. Time is CPU time, so that
waiting for other processes does not count: the median over blocks of calls, the two forms in turns, the first call of
a block left out. Memory (ratio of MiB + 1) is the growth of the peak resident set over the logits, each in a process
of its own. Where a bar is set the row says PASS or FAIL, and a FAIL makes the exit status 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_mutual_kd import assign_roles, margin_scores, transfer_loss


class Case(NamedTuple):
    """One row of the table; a bar of None is shown without a verdict."""

    peers: int
    shape: tuple[int, ...]
    time_bar: float | None = None
    memory_bar: float | None = None
    repeats: int = 15

    @property
    def name(self) -> str:
        return f"N={self.peers} {'x'.join(map(str, self.shape))}"


CLASSIFICATION = [(128, 10), (128, 1000), (128, 21841)]
DENSE = (4, 150, 128, 128)
BARS = {2: 0.5, 4: 0.25}


def cases(quick: bool) -> list[Case]:
    """All rows, or with `quick` those that have a bar at N=2 and the small ones."""
    rows = []
    for shape in CLASSIFICATION:
        for n in (2, 4, 8):
            bar = BARS.get(n) if shape[1] == 1000 else None
            rows.append(Case(n, shape, bar, repeats=5 if shape[1] > 1000 else 31))
    rows += [Case(n, DENSE, BARS[n], 0.55, repeats=7) for n in (2, 4)]
    if quick:
        rows = [row for row in rows if row.shape[1] <= 1000 and row.peers * row.shape[-1] < 512 or row.peers == 2]
        rows = [row._replace(repeats=min(row.repeats, 7)) for row in rows if row.shape[1] <= 1000]
    return rows


def inputs(case: Case) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = [(3 * torch.randn(case.shape, generator=generator)).requires_grad_() for _ in range(case.peers)]
    labels = torch.randint(case.shape[1], (case.shape[0], *case.shape[2:]), generator=generator)
    return logits, labels


def ours(logits: list[Tensor], labels: Tensor) -> None:
    teacher = assign_roles(margin_scores(logits, labels))
    transfer_loss(logits, teacher).sum(dim=0).mean().backward()


def all_pairs(logits: list[Tensor], labels: Tensor) -> None:
    """The usual form: every ordered pair's KL on every unit by `softmax().log()`, masked afterwards, not detached."""
    index = labels.unsqueeze(1)
    truth = torch.stack([z.softmax(dim=1).gather(1, index).squeeze(1) for z in logits])
    best, winner = truth.max(dim=0)
    single = (truth == best).sum(dim=0) == 1
    probs = [z.softmax(dim=1) for z in logits]
    total = torch.zeros(())
    for t, p in enumerate(probs):
        teaches = (single & (winner == t)).float()
        pairs = [F.kl_div(q.log(), p, reduction="none").sum(dim=1) for m, q in enumerate(probs) if m != t]
        total = total + (teaches * torch.stack(pairs).sum(dim=0)).mean()
    total.backward()


FORMS: dict[str, Callable[[list[Tensor], Tensor], None]] = {"ours": ours, "all_pairs": all_pairs}


def times(case: Case) -> dict[str, float]:
    """Median milliseconds of each form, measured in turns so that a busy machine slows both."""
    logits, labels = inputs(case)
    seconds: dict[str, list[float]] = {name: [] for name in FORMS}
    calls = 5 if len(case.shape) == 2 and case.shape[1] <= 1000 else 1
    for _ in range(case.repeats):
        for name, form in FORMS.items():
            form(logits, labels)
            spent = 0.0
            for _ in range(calls):
                for z in logits:
                    z.grad = None
                start = time.process_time()
                form(logits, labels)
                spent += time.process_time() - start
            seconds[name].append(spent / calls)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def peak_mib(case: Case, form: str) -> float:
    """Growth of the peak resident set in MiB, measured in a fresh process."""
    request = json.dumps([form, case.peers, case.shape])
    done = subprocess.run([sys.executable, __file__, "--child", request], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure_peak(form: str, peers: int, shape: list[int]) -> float:
    """The child's work: warm up on a tiny case, so that code and thread pools are counted in neither form."""
    FORMS[form](*inputs(Case(peers, (2, 3))))
    logits, labels = inputs(Case(peers, tuple(shape)))
    before = peak_resident_kib()
    FORMS[form](logits, labels)
    return (peak_resident_kib() - before) / 1024


def peak_resident_kib() -> int:
    """VmHWM of this process; `ru_maxrss` will not do, as a child starts with its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise OSError("no VmHWM in /proc/self/status: peak memory can only be measured on Linux")


def verdict(ratio: float, bar: float | None) -> tuple[str, bool]:
    if bar is None:
        return f"{ratio:5.2f}", True
    return f"{ratio:5.2f} (bar {bar:.2f} {'PASS' if ratio <= bar else 'FAIL'})", ratio <= bar


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, few repeats")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.child:
        print(measure_peak(*json.loads(options.child)))
        return 0
    print(
        f"{'case':<24}{'ours ms':>10}{'pairs ms':>10}  {'time ratio':<24}"
        f"{'ours MiB':>9}{'pairs MiB':>10}  memory ratio"
    )
    passed = True
    for case in cases(options.quick):
        ms = times(case)
        mib = {name: peak_mib(case, name) for name in FORMS}
        time_text, time_ok = verdict(ms["ours"] / ms["all_pairs"], case.time_bar)
        memory_text, memory_ok = verdict((mib["ours"] + 1) / (mib["all_pairs"] + 1), case.memory_bar)
        passed = passed and time_ok and memory_ok
        print(
            f"{case.name:<24}{ms['ours']:>10.2f}{ms['all_pairs']:>10.2f}  {time_text:<24}"
            f"{mib['ours']:>9.0f}{mib['all_pairs']:>10.0f}  {memory_text}",
            flush=True,
        )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
