"""Peers in parallel against DDP of the whole cohort: time of a step, memory and bytes of each process.

    python tests/benchmarks/bench_peer_parallel.py [--quick]

For N peers on N processes (gloo, one thread each): the same rows per step, once with every process holding all peers
and taking its share of the rows (DDP), once with every process holding one peer and seeing all rows. Time is CPU time
of a process, in turns with a plain cross-entropy step of one peer on all rows, and of the slowest process; memory is
the peak of a process above what it held before it made any peer, and so is that of loading, of larger peers from
folders. A last line compares how two processes that hold peers of the same rows decode: each all of them, as they do,
or each a half, of which it sends the other the pixels. The guide gets the tables, not of `--quick`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from bench_cost import BATCH, CLASSES, batch_of, cohort_of, stepping
from bench_training import alternate, jpeg
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_mutual_kd import BestRule, Cohort, CohortBatch, LiveSource, Objective, PeerMasks, render
from hf_mutual_kd.data.images import decode_image
from hf_mutual_kd.experiments.peak_memory import forget_peak, peak_memory
from hf_mutual_kd.peers.peer_mesh import PeerMesh
from hf_mutual_kd.tasks.semantic_segmentation.task import SemanticSegmentation

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "multi_gpu.md"
BEGIN, END = "<!-- bench_peer_parallel.py: begin -->", "<!-- end -->"
SIZE = 64
MAPS = (4, 150, 64, 64)
COLUMNS = (
    "peers = processes",
    "held as",
    "step / a peer's own step",
    "memory, MiB",
    "loading, MiB",
    "gradients, MiB",
    "logits, KiB",
)

DENSE = ("peers", "whole loss, ms", "on one of N processes, ms", "with all students, ms", "of the whole")


def measure_loading(variant: str, peers: int, folder: str) -> float:
    """MiB that loading takes of the process that needs most."""
    PartialState(cpu=True)
    before = resident()
    forget_peak()
    Cohort.from_pretrained(dict.fromkeys(names_of(peers), folder), peer_parallel=variant == "peers")
    every: list[Any] = [None] * peers
    distributed.all_gather_object(every, ((peak_memory() or before) - before) / 2**20)
    distributed.destroy_process_group()
    return max(every)


def names_of(peers: int) -> list[str]:
    return [f"vit{index}" for index in range(peers)]


def write_peer(folder: str) -> float:
    """A ViT of 22 M weights; returns how many MiB it has."""
    model = ViTForImageClassification(ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536))
    model.save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    return sum(weight.nbytes for weight in model.parameters()) / 2**20


def measure(variant: str, peers: int, repeats: int) -> tuple[float, float]:
    """Of the slowest process a step by a peer's own, and MiB of the one that needs most."""
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    images, labels = batch_of(SIZE)
    alone = cohort_of(1, SIZE).peers["vit0"]
    plain = stepping(alone, lambda: F.cross_entropy(alone(pixel_values=images).logits, labels))
    plain()
    before = resident()
    forget_peak()
    cohort = cohort_of(peers, SIZE)
    rows = slice(None)
    if variant == "ddp":
        share = len(labels) // peers
        rows = slice(rank * share, (rank + 1) * share)
    else:
        PeerMesh([[name] for name in cohort.names], peers, rank).take(cohort, torch.device("cpu"))
    # Where nobody else holds the peer there is nobody to average with.
    wrapped = DistributedDataParallel(cohort) if variant == "ddp" else cohort
    inputs = {name: {"pixel_values": images[rows]} for name in cohort.peers}
    forget_peak()
    step = stepping(cohort, lambda: wrapped(peer_inputs=inputs, labels=labels[rows]).loss)
    seconds = alternate({"step": step, "plain": plain}, repeats)
    peak = (peak_memory() or before) - before
    every: list[Any] = [None] * peers
    distributed.all_gather_object(every, (seconds["step"] / seconds["plain"], peak / 2**20))
    distributed.destroy_process_group()
    return max(every)[0], max(memory for _, memory in every)


def dense_loss(peers: int, repeats: int) -> tuple[float, float, float]:
    """Milliseconds of CPU time for the loss of maps: of all students, and on a process that holds one of them."""
    torch.manual_seed(0)
    maps = [torch.randn(*MAPS) for _ in range(peers)]
    batch = CohortBatch(torch.randint(MAPS[1], (MAPS[0], *MAPS[2:])))
    objective, task = Objective(BestRule(), LiveSource(), retain=False, score="loss"), SemanticSegmentation()
    nothing = torch.zeros(peers, MAPS[0])

    def lossy(learn: int, students: int) -> Callable[[], None]:
        def run() -> None:
            live = [one.detach().requires_grad_(place < learn) for place, one in enumerate(maps)]
            masks = PeerMasks(list(range(students)))
            objective.loss(live, batch, losses=nothing, peers=masks, units=task).loss.backward()

        return run

    found = alternate({"whole": lossy(peers, peers), "all": lossy(1, peers), "own": lossy(1, 1)}, repeats)
    return 1000 * found["whole"], 1000 * found["all"], 1000 * found["own"]


def measure_decoding(repeats: int) -> tuple[float, float, float]:
    """Milliseconds of CPU time of a process for a batch: all decoded, a half, and a half with its pixels exchanged."""
    distributed.init_process_group("gloo")
    files = [jpeg(500, 375) for _ in range(BATCH)]
    half = files[: BATCH // 2]

    def decode(some: list[dict[str, bytes]]) -> torch.Tensor:
        return torch.stack([torch.from_numpy(np.array(decode_image(file))) for file in some])

    def exchange() -> None:
        mine = decode(half)
        distributed.all_gather([torch.empty_like(mine) for _ in range(2)], mine)

    found = alternate({"all": lambda: decode(files), "half": lambda: decode(half), "exchanged": exchange}, repeats)
    distributed.destroy_process_group()
    return 1000 * found["all"], 1000 * found["half"], 1000 * found["exchanged"]


def bytes_of(variant: str, peers: int) -> tuple[float, float]:
    """
    What a process averages and hears in a step: MiB of gradients of the peers that others hold, too, and KiB of what
    every other peer says, logits `[B, C]` and losses `[B]` in fp32.
    """
    if variant == "ddp":
        return sum(weight.nbytes for weight in cohort_of(peers, SIZE).parameters()) / 2**20, 0.0
    return 0.0, 4 * (peers - 1) * BATCH * (CLASSES + 1) / 2**10


def resident() -> int:
    """Bytes that the process holds now."""
    return os.sysconf("SC_PAGE_SIZE") * int(Path("/proc/self/statm").read_text().split()[1])


def measured(variant: str, peers: int, how: str) -> Any:
    """A variant in processes of its own: steps, so many of them, or how it loads from a folder."""
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(peers), "--rdzv-backend", "c10d"]
    child = ["--rdzv-endpoint", "localhost:0", __file__, "--child", variant, str(peers), how]
    done = subprocess.run([sys.executable, *launch, *child], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two peers, few steps")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        variant, peers, how = options.child
        found: Any
        if variant == "decoding":
            found = measure_decoding(int(how))
        elif how.isdigit():
            found = measure(variant, int(peers), int(how))
        else:
            found = measure_loading(variant, int(peers), how)
        if os.environ["RANK"] == "0":
            print(json.dumps(found))
        return 0
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        size = write_peer(folder)
        for peers in (2,) if options.quick else (2, 4, 8):
            for variant, name in {"ddp": "all peers (DDP)", "peers": "one peer"}.items():
                # Eight processes on two cores would only measure how they wait.
                found = () if peers == 8 else measured(variant, peers, "3" if options.quick else "9")
                ratio, memory = (f"{found[0]:.2f}", f"{found[1]:.1f}") if found else ("", "")
                loading = f"{measured(variant, peers, folder):.0f}"
                gradients, heard = bytes_of(variant, peers)
                cells.append((str(peers), name, ratio, memory, loading, f"{gradients:.1f}", f"{heard:.1f}"))
    print(render(COLUMNS, cells, title=f"Peers in parallel, one run; those that are loaded have {size:.0f} MiB each"))
    losses = []
    for peers in (2,) if options.quick else (2, 4, 8):
        whole, every, own = dense_loss(peers, 3 if options.quick else 9)
        losses.append((str(peers), f"{whole:.0f}", f"{own:.0f}", f"{every:.0f}", f"{own / whole:.2f}"))
    print(render(DENSE, losses, title=f"Loss of maps {MAPS}, forward and backward"))
    whole, half, exchanged = measured("decoding", 2, "3" if options.quick else "9")
    decoding = (
        f"Decoding {BATCH} JPEG files of 500 x 375 takes {whole:.1f} ms of CPU time in each of two processes; half of "
        f"them {half:.1f} ms, and with the pixels of the other half from the other process {exchanged:.1f} ms."
    )
    print(decoding)
    if not options.quick:
        lines = [COLUMNS, ("---:", "---", *["---:"] * 5), *cells]
        dense = [DENSE, ("---:",) * 5, *losses]
        table = "\n\n".join("\n".join(f"| {' | '.join(line)} |" for line in rows) for rows in (lines, dense))
        table = f"{table}\n\n{decoding}"
        before, after = GUIDE.read_text(encoding="utf-8").split(BEGIN)
        GUIDE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after.split(END, 1)[1]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
