"""Training cost as ratios from one run: steps, frozen starts, input pipeline, memory, import time.

`python tests/benchmarks/bench_training.py [--quick]` prints the bar beside each figure; none of them is a timed test.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_mutual_kd import (
    BestRule,
    Cohort,
    LiveSource,
    LoadedPeer,
    Objective,
    PeerSpec,
    RoleTaggingCollator,
    SharedView,
    render,
)

BATCH, SIZE, CLASSES = 32, 64, 100
LABELS = [f"class {index}" for index in range(CLASSES)]
ROWS: list[tuple[str, str, str, str]] = []


def models() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    named = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}
    vit = ViTConfig(
        image_size=SIZE,
        patch_size=8,
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=256,
        **named,
    )
    resnet = ResNetConfig(embedding_size=32, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], layer_type="basic", **named)
    return {"vit": ViTForImageClassification(vit), "cnn": ResNetForImageClassification(resnet)}


def make_cohort(retain: bool, weight: float = 1.0) -> Cohort:
    cohort = Cohort({name: LoadedPeer(model, None, PeerSpec(name)) for name, model in models().items()})
    cohort.set_objective(Objective(BestRule(), LiveSource(), retain=retain, weight=weight))
    return cohort.train()


def alternate(cases: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each case, measured in turn so that a slow spell of the machine hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 2):
        for name, case in cases.items():
            began = time.process_time()
            case()
            if repeat >= 2:
                times[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def report(what: str, value: float, bar: float, unit: str = "x") -> None:
    ROWS.append((what, f"{value:.2f} {unit}", f"<= {bar:g} {unit}", "pass" if value <= bar else "FAIL"))


def bench_step(repeats: int) -> None:
    inputs, labels = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(CLASSES, (BATCH,))
    alone = models()
    cohorts = {"mutual": make_cohort(False), "retain": make_cohort(True), "cached": make_cohort(True)}
    views = {name: {"pixel_values": inputs} for name in alone}
    starts = cohorts["cached"].start_logits(views)
    cohorts["cached"].drop_starts()

    def step(module, loss_of):
        optimizer = torch.optim.AdamW(module.parameters())

        def run():
            loss_of().backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    def cohort_loss(cohort, **extra):
        return lambda: cohort(peer_inputs=views, labels=labels, **extra).loss

    cases = {
        name: step(model, lambda model=model: F.cross_entropy(model(pixel_values=inputs).logits, labels))
        for name, model in alone.items()
    }
    cases |= {name: step(cohort, cohort_loss(cohort)) for name, cohort in cohorts.items() if name != "cached"}
    cases["cached"] = step(cohorts["cached"], cohort_loss(cohorts["cached"], start_logits=starts))
    seconds = alternate(cases, repeats)
    floor = seconds["vit"] + seconds["cnn"]
    report("step / sum of the peers' plain steps", seconds["mutual"] / floor, 1.03)
    report("same with retention from live frozen copies", seconds["retain"] / floor, 1.36)
    report("same with retention from cached outputs", seconds["cached"] / floor, 1.05)


def jpeg(width: int, height: int) -> dict[str, bytes]:
    """A file of soft noise, about as hard to decode as a photograph."""
    noise = torch.randint(256, (height // 16, width // 16, 3), dtype=torch.uint8).numpy()
    stream = io.BytesIO()
    Image.fromarray(noise).resize((width, height)).save(stream, "JPEG", quality=90)
    return {"bytes": stream.getvalue()}


def bench_input(repeats: int) -> None:
    processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    rows = [
        {"image": Image.new("RGB", (96, 96), (index, 0, 0)), "label": 0, "sample_id": index} for index in range(BATCH)
    ]
    one = RoleTaggingCollator({"a": processor}, SharedView())
    four = RoleTaggingCollator(dict.fromkeys("abcd", processor), SharedView())
    seconds = alternate({"one": lambda: one(rows), "four": lambda: four(rows)}, repeats)
    report("input of 4 peers with one processor / 1 peer", seconds["four"] / seconds["one"], 1.11)
    processor = ViTImageProcessor()
    one = RoleTaggingCollator({"a": processor}, SharedView())
    for what, size in {"ImageNet's size": (500, 375), "2 megapixels": (1600, 1200)}.items():
        files = [{"image": jpeg(*size), "label": 0, "sample_id": index} for index in range(BATCH)]
        stock = functools.partial(stock_input, files, processor)
        seconds = alternate({"ours": lambda files=files: one(files), "stock": stock}, repeats)
        report(f"input of JPEG files of {what} / by RandomResizedCrop", seconds["ours"] / seconds["stock"], 1.0)


def stock_input(rows: list[dict[str, Any]], processor: ViTImageProcessor) -> None:
    """What the example scripts of transformers do to learn from image files."""
    crop = v2.RandomResizedCrop(processor.size["height"], [0.6, 1.0])
    images = [crop(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")) for row in rows]
    processor(images=images, return_tensors="pt")


def bench_bases() -> None:
    """Bytes of a ViT-B/16 with 1,000 classes as the base of an adapter, in fewer bits and in fp32."""
    if find_spec("bitsandbytes") is None:
        return
    labels = {"id2label": {index: f"class {index}" for index in range(1000)}}
    with tempfile.TemporaryDirectory() as folder:
        ViTForImageClassification(ViTConfig(**labels)).save_pretrained(folder)
        ViTImageProcessor().save_pretrained(folder)
        sizes = {}
        for name, bits in {"fp32": {}, "8 bits": {"load_in_8bit": True}, "4 bits": {"load_in_4bit": True}}.items():
            spec = PeerSpec(folder, peft="lora", **bits)
            base = Cohort.from_pretrained({"vit": spec}).peers["vit"].get_base_model()
            kept = [(key, one) for key, one in (*base.named_parameters(), *base.named_buffers())]
            sizes[name] = sum(one.nbytes for key, one in kept if "lora_" not in key and "modules_to_save" not in key)
    for name, bar in (("8 bits", 0.3), ("4 bits", 0.2)):
        megabytes = f"{sizes[name] / 2**20:.0f} of {sizes['fp32'] / 2**20:.0f} MiB"
        report(f"base in {name} / fp32: {megabytes}", sizes[name] / sizes["fp32"], bar)


PEAK = """
import sys, torch
sys.path.insert(0, {folder!r})
from bench_training import *
torch.set_num_threads(1)
which = sys.argv[1]
inputs, labels = torch.randn(256, 3, SIZE, SIZE), torch.randint(CLASSES, (256,))
vits = {{name: models()["vit"] for name in "abc"}}
if which == "one":
    model = vits["a"].train()
    run = lambda: F.cross_entropy(model(pixel_values=inputs).logits, labels).backward()
else:
    cohort = Cohort({{name: LoadedPeer(model, None, PeerSpec(name)) for name, model in vits.items()}}).train()
    cohort.set_objective(Objective(BestRule(), LiveSource(), retain=False))
    cohort.peer_checkpointing = which == "checkpointed"
    views = {{name: {{"pixel_values": inputs}} for name in cohort.names}}
    run = lambda: cohort(peer_inputs=views, labels=labels).loss.backward()
def peak():
    # Not ru_maxrss: a child starts with its parent's.
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before = peak()
run()
print(peak() - before)
"""


def bench_memory() -> None:
    def peak(which: str) -> float:
        script = PEAK.format(folder=os.path.dirname(os.path.abspath(__file__)))
        # Freed tensors go back to the system at once, so that the peak is that of live ones.
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(
            [sys.executable, "-c", script, which], capture_output=True, text=True, check=True, env=env
        )
        return float(done.stdout.split()[-1])

    one = peak("one")
    report("peak of 3 peers with peer checkpointing / 1 peer", peak("checkpointed") / one, 1.15)
    report("peak of 3 peers without it / 1 peer (for comparison)", peak("plain") / one, 99)


def bench_import(repeats: int) -> None:
    def run(*argv: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *argv], capture_output=True, check=True)
        return time.perf_counter() - began

    bare = statistics.median(run("-c", "pass") for _ in range(repeats))
    report(
        "import hf_mutual_kd",
        statistics.median(run("-c", "import hf_mutual_kd") for _ in range(repeats)) - bare,
        0.3,
        "s",
    )
    report(
        "hf-mutual-kd --help",
        statistics.median(run("-m", "hf_mutual_kd.cli.main", "--help") for _ in range(repeats)),
        1,
        "s",
    )
    report(
        "recipe --help", statistics.median(run("recipes/vit_classify.py", "--help") for _ in range(repeats)), 1, "s"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    repeats = 5 if parser.parse_args().quick else 25
    torch.set_num_threads(1)
    bench_step(repeats)
    bench_input(repeats)
    bench_memory()
    bench_bases()
    bench_import(3 if repeats == 5 else 7)
    print(render(("what", "measured", "bar", ""), ROWS, title="Training cost, one run, one thread"))
    return int(any(row[3] == "FAIL" for row in ROWS))


if __name__ == "__main__":
    sys.exit(main())
