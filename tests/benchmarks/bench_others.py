"""A step of ours against one in the loops of torchdistill and pytorch-dml, on the same models, rows and batches.

    python tests/benchmarks/bench_others.py [--quick]

The two packages are no part of this one: pip puts them, without what they depend on, into a folder that is gone
afterwards. Each runs in a process of its own, where their step and ours take turns; ratios are of the medians of CPU
time, one thread. pytorch-dml's loop teaches mutually, as ours; torchdistill's has a frozen teacher and one student, so
that ours has a frozen peer there. What cannot be installed or run here is left out with a line that says why.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from bench_cost import write_part
from bench_training import BATCH, CLASSES, SIZE, alternate, models
from torch import Tensor, nn

from hf_mutual_kd import BestRule, Cohort, LiveSource, LoadedPeer, Objective, PeerSpec, render

PACKAGES = {"pytorch-dml": "1.1.0", "torchdistill": "1.1.5"}
COLUMNS = ("loop of", "trains", "ours, ms", "theirs, ms", "ours / theirs")
PATIENCE_S = 120

Step = Callable[[], None]


class Logits(nn.Module):
    """A model of transformers as these packages call models: pixels in, logits out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).logits


def our_step(pixels: Tensor, labels: Tensor, frozen: tuple[str, ...] = ()) -> Step:
    """A step of the cohort of both models, of which some are frozen."""
    specs = {name: PeerSpec(name, frozen=name in frozen) for name in models()}
    cohort = Cohort({name: LoadedPeer(model, None, specs[name]) for name, model in models().items()}).train()
    cohort.set_objective(Objective(BestRule(), LiveSource(), retain=False))
    optimizer = torch.optim.AdamW([weight for weight in cohort.parameters() if weight.requires_grad])
    views = {name: {"pixel_values": pixels} for name in cohort.names}

    def step() -> None:
        cohort(peer_inputs=views, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def mutual_step(pixels: Tensor, labels: Tensor) -> Step:
    """A step in pytorch-dml's loop over an epoch, here of one batch."""
    from pydml import DMLConfig, DMLTrainer

    both = [Logits(model) for model in models().values()]
    optimizers = [torch.optim.AdamW(model.parameters()) for model in both]
    trainer = DMLTrainer(both, config=DMLConfig(temperature=1.0), device="cpu", optimizers=optimizers)
    return lambda: trainer.train_epoch([(pixels, labels)], 1)


def distilling_step(pixels: Tensor, labels: Tensor) -> Step:
    """A step in torchdistill's loop, the larger model teaching the smaller."""
    from torchdistill.core.distillation import DistillationBox

    for module in ("high_level", "mid_level"):
        import_module(f"torchdistill.losses.{module}")  # which makes its losses known by name

    teacher, student = (Logits(model) for model in models().values())
    ends = {"student_module_path": ".", "student_module_io": "output"}
    ends |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    settings = {
        "num_epochs": 1,
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-3}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {
                "sub_terms": {
                    "kd": {
                        "criterion": {"key": "KDLoss", "kwargs": {**ends, "temperature": 1.0, "alpha": 0.5}},
                        "weight": 1.0,
                    }
                }
            },
        },
    }
    box = DistillationBox(teacher, student, {}, settings, torch.device("cpu"), None, False, 1)
    box.teacher_model.eval()
    box.student_model.train()
    return lambda: box.post_forward_process(loss=box.forward_process(pixels, labels))


LOOPS: dict[str, tuple[str, Callable[[Tensor, Tensor], Step], tuple[str, ...]]] = {
    "pytorch-dml": ("ViT and ResNet", mutual_step, ()),
    "torchdistill": ("ResNet, by the ViT", distilling_step, ("vit",)),
}


def measure(package: str, folder: str, repeats: int) -> dict[str, float]:
    """The child's work: median seconds of a step of ours and of theirs."""
    # Last, so that nothing of what is installed here is replaced.
    sys.path.append(folder)
    torch.manual_seed(0)
    pixels, labels = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(CLASSES, (BATCH,))
    _, theirs, frozen = LOOPS[package]
    return alternate({"ours": our_step(pixels, labels, frozen), "theirs": theirs(pixels, labels)}, repeats)


def compared(package: str, folder: str, repeats: int) -> tuple[str, ...] | str:
    """The row of a package, or why there is none."""
    named = f"{package}=={PACKAGES[package]}"
    # Wheels alone: nothing is run to install them.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    pip += ["--retries", "1", "--disable-pip-version-check", "--target", folder, named]
    child = [sys.executable, __file__, "--child", package, folder, str(repeats)]
    quiet = {**os.environ, "TQDM_DISABLE": "1"}
    for what, command in {"cannot be installed": pip, "does not run here": child}.items():
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=quiet, timeout=PATIENCE_S * (1 + repeats)
            )
        except subprocess.TimeoutExpired:
            return f"{named} is left out: it {what}, nothing came of it in time"
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
            return f"{named} is left out: it {what}: {reason[:200]}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    own, other = 1000 * found["ours"], 1000 * found["theirs"]
    return named, LOOPS[package][0], f"{own:.1f}", f"{other:.1f}", f"{own / other:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        package, folder, repeats = options.child
        print(json.dumps(measure(package, folder, int(repeats))))
        return 0
    rows, left_out = [], []
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as folder:
            found = compared(package, folder, 5 if options.quick else 25)
        rows += [] if isinstance(found, str) else [found]
        left_out += [found] if isinstance(found, str) else []
    if rows:
        print(render(COLUMNS, rows, title=f"A step of {BATCH} rows, CPU time, one thread"))
    print("\n".join(left_out), end="\n" if left_out else "")
    if not options.quick:
        table = [COLUMNS, ("---", "---", "---:", "---:", "---:"), *rows] if rows else []
        lines = [f"| {' | '.join(line)} |" for line in table] + [f"\n- {text}" for text in left_out]
        write_part("bench_others.py", "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
