"""How cost grows with peers, classes, resolution and processes; writes docs/COST.md and docs/cost.png.

    python tests/benchmarks/bench_cost.py [--quick] [--out FOLDER]

Every row compares two measurements of one run, taken in turns, one thread per process: the role and transfer loss with
the authors' formulation (all pairs, masked afterwards; `bench_losses.all_pairs`), forward and backward; a whole
training step of N peers with N plain cross-entropy steps; a step of several processes with one process' step on as
many rows each. `--quick` measures a few small rows, and writes only where `--out` says.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from bench_losses import Case, inputs, ours, times
from bench_training import alternate
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import ViTConfig, ViTForImageClassification

from hf_mutual_kd import BestRule, Cohort, LiveSource, LoadedPeer, Objective, PeerSpec, png, render
from hf_mutual_kd.reports.figures import LIGHT

DOCS = Path(__file__).parents[2] / "docs"
BATCH, CLASSES = 16, 100
COLUMNS = ("what grows", "case", "ours, ms", "compared with", "that, ms", "ratio")
PAIRS, MOVING = "all pairs", "moving its maps"
FURTHER = "\n## Start-up, and other packages\n"
"""From here on docs/COST.md is written by other scripts, see [`write_part`]."""
NOTES = """\
- *all pairs*: the authors' formulation, every ordered pair's KL by `softmax().log()` on every unit, masked afterwards.
  Forward and backward, in CPU time; steps by the clock.
- *moving its maps*: reading them twice and writing a gradient for each, the least that any form of the loss moves; the
  loss takes so many times as long that memory is not what bounds it.
- *N plain steps*: cross-entropy steps of the same peers, one after the other at the same batch: the floor on one
  device. Small ViTs without retention; `bench_training.py` measures what that adds.
- *one process*: its step on as many rows as each of the processes takes; 1.00 would be perfect scaling.
- Offloading the optimizer state of resting peers to the CPU is not measured: on a CPU it lies there already, and there
  is nothing to gain.
"""


class Row(NamedTuple):
    """One line of the table: what `value` grows along, in one panel of the figure."""

    panel: str
    case: str
    value: float
    ours: float
    compared: str
    other: float

    def cells(self) -> tuple[str, ...]:
        ratio = self.ours / self.other
        return (self.panel, self.case, f"{self.ours:.2f}", self.compared, f"{self.other:.2f}", f"{ratio:.2f}")


def losses(quick: bool) -> Iterator[Row]:
    """Role and transfer loss, forward and backward."""
    repeats = 3 if quick else 15
    few = 3 if quick else 5
    shapes = [(128, 10), (128, 1000)] if quick else [(128, 10), (128, 1000), (32, 21841)]
    for peers in (2, 4) if quick else (2, 4, 8):
        for shape in shapes:
            case = Case(peers, shape, repeats=repeats if shape[1] < 10_000 else few)
            yield loss_row("classes of the loss", shape[1], case)
    sides = (16, 32) if quick else (32, 64, 128)
    for peers in (2,) if quick else (2, 4, 8):
        for side in sides if peers == 2 else sides[:2]:
            shape = (4, 150, side, side)
            yield loss_row("pixels of the dense loss", side**2, Case(peers, shape, repeats=few))
    yield moving_row()


def moving_row() -> Row:
    """The dense loss of two peers against nothing but the memory that it cannot do without."""
    case = Case(2, (4, 150, 64, 64), repeats=15)
    logits, labels = inputs(case)

    def loss() -> None:
        for z in logits:
            z.grad = None
        ours(logits, labels)

    def moving() -> None:
        # Forward reads all maps once; backward reads them once more, and writes a gradient for each.
        for z in logits:
            z.detach().sum()
        for z in logits:
            torch.empty_like(z).copy_(z.detach())

    found = alternate({"ours": loss, "moving": moving}, case.repeats)
    return Row("memory of the dense loss", case.name, 64**2, 1000 * found["ours"], MOVING, 1000 * found["moving"])


def loss_row(panel: str, value: float, case: Case) -> Row:
    found = times(case)
    return Row(panel, case.name, value, found["ours"], PAIRS, found["all_pairs"])


def vit(size: int) -> torch.nn.Module:
    names = [f"class {index}" for index in range(CLASSES)]
    named = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    config = ViTConfig(
        image_size=size,
        patch_size=8,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        **named,
    )
    return ViTForImageClassification(config)


def cohort_of(peers: int, size: int) -> Cohort:
    torch.manual_seed(0)
    cohort = Cohort({f"vit{index}": LoadedPeer(vit(size), None, PeerSpec("")) for index in range(peers)})
    cohort.set_objective(Objective(BestRule(), LiveSource(), retain=False))
    return cohort.train()


def batch_of(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(BATCH, 3, size, size), torch.randint(CLASSES, (BATCH,))


def stepping(module: torch.nn.Module, loss_of: Any) -> Any:
    optimizer = torch.optim.AdamW(module.parameters())

    def step() -> None:
        loss_of().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def steps(quick: bool) -> Iterator[Row]:
    """Whole training steps, by peers and by resolution."""
    repeats = 3 if quick else 11
    for peers in (1, 2) if quick else (1, 2, 4, 8):
        yield step_row("peers of a step", peers, peers, 64, repeats)
    for size in (32,) if quick else (32, 64, 96):
        yield step_row("pixels of a step", size**2, 2, size, repeats)


def step_row(panel: str, value: float, peers: int, size: int, repeats: int) -> Row:
    cohort, (images, labels) = cohort_of(peers, size), batch_of(size)
    inputs = {name: {"pixel_values": images} for name in cohort.names}
    alone = [cohort_of(1, size).peers["vit0"] for _ in range(peers)]
    singles = [
        stepping(model, lambda model=model: F.cross_entropy(model(pixel_values=images).logits, labels))
        for model in alone
    ]
    together = stepping(cohort, lambda: cohort(peer_inputs=inputs, labels=labels).loss)
    found = alternate({"ours": together, "plain": lambda: [single() for single in singles]}, repeats)
    name = f"N={peers} {BATCH}x3x{size}x{size}"
    return Row(panel, name, value, 1000 * found["ours"], "N plain steps", 1000 * found["plain"])


def processes(quick: bool) -> Iterator[Row]:
    """A step of two peers by one and two processes, under DDP over gloo, with as many rows for each process."""
    found = {count: process_step(count, quick) for count in (1, 2)}
    for count, ms in found.items():
        yield Row("processes", f"{count} x (N=2 {BATCH}x3x64x64)", count, ms, "one process", found[1])


def process_step(count: int, quick: bool) -> float:
    launch = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(count),
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    ]
    child = [__file__, "--child", *(["--quick"] if quick else [])]
    done = subprocess.run([sys.executable, *launch, *child], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure_process(quick: bool) -> None:
    """The child's work; the first process prints milliseconds."""
    distributed.init_process_group("gloo")
    cohort, (images, labels) = cohort_of(2, 64), batch_of(64)
    wrapped = DistributedDataParallel(cohort)
    inputs = {name: {"pixel_values": images} for name in cohort.names}
    step = stepping(cohort, lambda: wrapped(peer_inputs=inputs, labels=labels).loss)
    seconds = alternate({"step": step}, 3 if quick else 15)["step"]
    if distributed.get_rank() == 0:
        print(1000 * seconds)
    distributed.destroy_process_group()


def figure(rows: list[Row]) -> bytes:
    """A panel for everything that grows: ours against what it is compared with."""
    panels = list(dict.fromkeys(row.panel for row in rows if row.compared != MOVING))

    def draw(sheet: Any) -> None:
        for place, panel in enumerate(panels, 1):
            axes = sheet.add_subplot(2, (len(panels) + 1) // 2, place)
            of_panel = [row for row in rows if row.panel == panel]
            series = sorted({row.case.split()[0] for row in of_panel}) if "loss" in panel else [""]
            for name, style in zip(series, ("-", "--", ":"), strict=False):
                shown = sorted((row for row in of_panel if row.case.startswith(name)), key=lambda row: row.value)
                values = [row.value for row in shown]
                label = f" {name}" if name else ""
                axes.plot(
                    values,
                    [row.other for row in shown],
                    style,
                    marker=".",
                    color=LIGHT.control,
                    label=shown[0].compared + label,
                )
                axes.plot(
                    values, [row.ours for row in shown], style, marker=".", color=LIGHT.mutual, label=f"ours{label}"
                )
            if "loss" in panel:
                axes.set_xscale("log")
                axes.set_yscale("log")
                for axis in (axes.xaxis, axes.yaxis):
                    axis.set_major_formatter("{x:g}")
                    axis.set_minor_formatter("")
            else:
                axes.set_ylim(bottom=0)
                axes.set_xticks(sorted({row.value for row in of_panel}))
            axes.set_title(panel, fontsize=9)
            axes.set_ylabel("ms", fontsize=8)
            axes.tick_params(labelsize=7, which="both")
            axes.legend(frameon=False, fontsize=6)

    return png(draw, width=9.6, height=5.6)


def document(rows: list[Row]) -> str:
    cells = [COLUMNS, ("---", "---", "---:", "---", "---:", "---:"), *(row.cells() for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in cells)
    machine = f"{os.cpu_count()}-core {platform.machine()} CPU, one thread per process, torch {torch.__version__}"
    return (
        f"# What mutual transfer costs\n\nMade by `python tests/benchmarks/bench_cost.py` in one run ({machine}).\n"
        "Ratios below 1 are cheaper than what they are compared with.\n\n"
        f"![Cost by peers, classes, resolution and processes](cost.png)\n\n{table}\n\n{NOTES}"
    )


def write_part(script: str, text: str) -> None:
    """Put what another script found into docs/COST.md, between its marks."""
    page, begin, end = DOCS / "COST.md", f"<!-- {script}: begin -->\n", f"<!-- {script}: end -->\n"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small rows")
    parser.add_argument("--out", type=Path, help="folder for COST.md and cost.png; docs/ unless --quick")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        measure_process(options.quick)
        return 0
    rows = [*losses(options.quick), *steps(options.quick), *processes(options.quick)]
    print(render(COLUMNS, [row.cells() for row in rows], title="Cost, one run"))
    out = options.out or (None if options.quick else DOCS)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "cost.png").write_bytes(figure(rows))
        page = out / "COST.md"
        _, further, parts = (page.read_text(encoding="utf-8") if page.is_file() else "").partition(FURTHER)
        page.write_text(f"{document(rows)}{further}{parts}", encoding="utf-8")
        print(f"written: {out / 'COST.md'}, {out / 'cost.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
