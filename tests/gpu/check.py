"""What can only be seen on a GPU, in one script of at most ten minutes and without a network.

`python tests/gpu/check.py --out runs/gpu` (or `make gpu`) prints a line per check and writes `gpu.json` and `gpu.md`.
A check that the machine cannot do says why. `--reduced` takes tiny models and the CPU, so that the script itself is
known to work where there is no GPU; its figures then say nothing of one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_mutual_kd import (
    BestRule,
    Cohort,
    LiveSource,
    LoadedPeer,
    MutualKDConfig,
    MutualKDTrainer,
    Objective,
    PeerSpec,
    assign_roles,
    render,
    transfer_loss,
    write_json,
    write_text,
)
from hf_mutual_kd.tasks.semantic_segmentation.scores import image_scores
from hf_mutual_kd.tasks.semantic_segmentation.transfer import mean_over_pixels

ROOT = Path(__file__).resolve().parents[2]
LABELS = [f"class {index}" for index in range(10)]
TABLE = ("| check | outcome | figures |", "| --- | --- | --- |")
BUDGET_S = 600
"""No check begins after this."""


@dataclass(frozen=True)
class Scale:
    """Where the checks run and how large they are."""

    device: str
    reduced: bool

    @property
    def size(self) -> int:
        """Pixels of an image's side."""
        return 32 if self.reduced else 224

    @property
    def batch(self) -> int:
        """Rows of a step."""
        return 4 if self.reduced else 64

    @property
    def dense_size(self) -> int:
        """Pixels of a map's side."""
        return 32 if self.reduced else 512


def models(scale: Scale) -> dict[str, nn.Module]:
    """ViT-B/16, ConvNeXt-T and ResNet-50 with random weights, or small ones of the same families."""
    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}
    if not scale.reduced:
        return {
            "vit": ViTForImageClassification(ViTConfig(**labels)),
            "convnext": ConvNextForImageClassification(ConvNextConfig(**labels)),
            "resnet": ResNetForImageClassification(ResNetConfig(**labels)),
        }
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vit = ViTConfig(image_size=scale.size, patch_size=16, **small, **labels)
    parts = {"hidden_sizes": [8, 8], "depths": [1, 1], **labels}
    return {
        "vit": ViTForImageClassification(vit),
        "convnext": ConvNextForImageClassification(ConvNextConfig(num_stages=2, **parts)),
        "resnet": ResNetForImageClassification(ResNetConfig(embedding_size=8, layer_type="basic", **parts)),
    }


def cohort_of(scale: Scale, names: tuple[str, ...] = ("vit", "convnext", "resnet")) -> Cohort:
    """The models as peers, with processors of their size."""
    processor = ViTImageProcessor(size={"height": scale.size, "width": scale.size})
    made = models(scale)
    return Cohort({name: LoadedPeer(made[name], processor, PeerSpec(name)) for name in names}, label_names=LABELS)


def rows(scale: Scale, count: int, seed: int = 0) -> Dataset:
    """Noise whose brightness is its class."""
    draw, labels = np.random.default_rng(seed), [index % len(LABELS) for index in range(count)]
    shape = (scale.size, scale.size, 3)
    pictures = [PILImage.fromarray((draw.integers(0, 60, shape) + 19 * label).astype(np.uint8)) for label in labels]
    features = Features({"image": Image(), "label": ClassLabel(names=LABELS)})
    return Dataset.from_dict({"image": pictures, "label": labels}, features)


def train(
    scale: Scale, *, cohort: Cohort | None = None, callbacks: Sequence[TrainerCallback] = (), **changes: Any
) -> dict[str, Any]:
    """A short training; its last loss, seconds and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "max_steps": 6,
            "per_device_train_batch_size": scale.batch,
            "learning_rate": 1e-3,
            "use_cpu": scale.device == "cpu",
            "report_to": "none",
            "disable_tqdm": True,
            "logging_steps": 1,
            "save_strategy": "no",
            "pre_flight": False,
        }
        args = MutualKDConfig(folder, **settings | changes)
        trainer = MutualKDTrainer(
            cohort or cohort_of(scale), args, train_dataset=rows(scale, 4 * scale.batch), callbacks=[*callbacks]
        )
        if scale.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        trainer.train()
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        found = {"loss": round(losses[-1], 4), "seconds": round(time.perf_counter() - began, 2)}
        if scale.device == "cuda":
            found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        return found


# The checks: each returns its figures, and raises where something is wrong


def precision(scale: Scale) -> dict[str, Any]:
    """fp32, bf16 and fp16 reach losses that are near each other."""
    kinds = {"fp32": {}, "bf16": {"bf16": True}} | ({"fp16": {"fp16": True}} if scale.device == "cuda" else {})
    found = {name: train(scale, **kind) for name, kind in kinds.items()}
    losses = [one["loss"] for one in found.values()]
    assert all(np.isfinite(losses)), losses
    assert max(losses) - min(losses) < 0.3 * max(losses), losses
    return found


def broken_peer(scale: Scale) -> dict[str, Any]:
    """In the lowest precision one peer that breaks while it trains neither stops the others nor reaches them."""
    cohort = cohort_of(scale)

    class Breaks(TrainerCallback):
        @torch.no_grad()
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for weight in cohort.peers["resnet"].classifier.parameters():
                weight.fill_(float("nan"))

    lowest = {"fp16" if scale.device == "cuda" else "bf16": True}
    found = train(scale, cohort=cohort, callbacks=[Breaks()], **lowest)
    for name in ("vit", "convnext"):
        finite = all(bool(torch.isfinite(weight).all()) for weight in cohort.peers[name].parameters())
        assert finite, f"{name} caught it"
    return found


def compiled(scale: Scale) -> dict[str, Any]:
    """torch.compile gives the loss of the plain training."""
    plain, fast = (train(scale, bf16=scale.device == "cuda", torch_compile=on) for on in (False, True))
    assert abs(plain["loss"] - fast["loss"]) < 0.15 * plain["loss"], (plain, fast)
    return {"plain": plain, "compiled": fast}


def fused(scale: Scale) -> dict[str, Any]:
    """The fused AdamW gives the loss of the plain one."""
    plain, fast = (train(scale, optim=name) for name in ("adamw_torch", "adamw_torch_fused"))
    assert abs(plain["loss"] - fast["loss"]) < 0.05 * plain["loss"], (plain, fast)
    return {"plain": plain, "fused": fast}


def checkpointing(scale: Scale) -> dict[str, Any]:
    """Peak memory with peer checkpointing over that without, in which the weights of all peers are contained."""
    found = {name: train(scale, bf16=True, peer_checkpointing=on) for name, on in (("plain", False), ("peers", True))}
    if scale.device == "cuda":
        found["ratio"] = round(found["peers"]["peak_gib"] / found["plain"]["peak_gib"], 3)
        assert found["ratio"] < 1, found
    return found


def quantized(scale: Scale) -> dict[str, Any]:
    """LoRA over a base in 4 bits and in 8 bits on this device."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        models(scale)["vit"].save_pretrained(folder)
        ViTImageProcessor(size={"height": scale.size, "width": scale.size}).save_pretrained(folder)
        for bits in ("load_in_4bit", "load_in_8bit"):
            specs = {name: PeerSpec(folder, peft="lora", **{bits: True}) for name in ("a", "b")}
            found[bits] = train(scale, cohort=Cohort.from_pretrained(specs, label_names=LABELS), bf16=True)
    return found


def step_time(scale: Scale) -> dict[str, Any]:
    """A step of the cohort over the sum of its peers' plain steps in bf16; the bar is 1.03."""
    alone = {name: model.to(scale.device).train() for name, model in models(scale).items()}
    cohort = cohort_of(scale).to(scale.device)
    cohort.set_objective(Objective(BestRule(), LiveSource()))
    cohort.train()
    pixels = torch.randn(scale.batch, 3, scale.size, scale.size, device=scale.device)
    labels = torch.randint(len(LABELS), (scale.batch,), device=scale.device)

    def stepping(module: nn.Module, loss_of: Callable[[], torch.Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(module.parameters(), 1e-4)

        def step() -> None:
            with torch.autocast(scale.device, torch.bfloat16):
                loss = loss_of()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    cases = {
        name: stepping(model, lambda model=model: F.cross_entropy(model(pixel_values=pixels).logits.float(), labels))
        for name, model in alone.items()
    }
    views = {name: {"pixel_values": pixels} for name in alone}
    cases["cohort"] = stepping(cohort, lambda: cohort(peer_inputs=views, labels=labels).loss)
    times: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(3 if scale.reduced else 20):
        for name, case in cases.items():
            synchronize(scale)
            began = time.perf_counter()
            case()
            synchronize(scale)
            if repeat:
                times[name].append(time.perf_counter() - began)
    ms = {name: round(1000 * statistics.median(values), 2) for name, values in times.items()}
    return {"ms": ms, "ratio": round(ms["cohort"] / sum(ms[name] for name in alone), 3)}


def pull(live: list[torch.Tensor], said: None, cells: torch.Tensor, classes: None) -> torch.Tensor:
    """What every cell costs its students."""
    return transfer_loss(live, cells)


def dense(scale: Scale) -> dict[str, Any]:
    """Role and transfer loss of two peers' maps, 150 classes: time, and memory beside the maps' own."""
    side = scale.dense_size
    draw = torch.Generator().manual_seed(0)
    shapes = [(4, 150, side // 4, side // 4), (4, 150, side // 8, side // 8)]
    maps = [torch.randn(shape, generator=draw).to(scale.device).requires_grad_() for shape in shapes]
    labels = torch.randint(150, (4, side, side), generator=draw).to(scale.device)
    times = []
    for _ in range(2 if scale.reduced else 10):
        if scale.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        synchronize(scale)
        began = time.perf_counter()
        teacher = assign_roles(image_scores(maps, labels))
        mean_over_pixels(pull, maps, teacher, labels).sum(dim=0).mean().backward()
        synchronize(scale)
        times.append(time.perf_counter() - began)
    assert all(bool(torch.isfinite(one.grad).all()) for one in maps)
    found: dict[str, Any] = {"ms": round(1000 * statistics.median(times), 2)}
    if scale.device == "cuda":
        own = sum(one.nbytes for one in maps)
        found["peak_over_maps"] = round(torch.cuda.max_memory_allocated() / own, 2)
    return found


def hunt(scale: Scale) -> dict[str, Any]:
    """The embedded peers and all rows of Fashion-MNIST: `--teaching auto` with few labels, in large."""
    labels = "2" if scale.reduced else "25"
    words = ["image-classification", "--labels_per_class", labels, "--report_to", "none"]
    words += ["--max_steps", "4", "--seeds", "0"] if scale.reduced else ["--seeds", "0", "1", "--bf16", "true"]
    if scale.reduced:
        words += ["--max_train_samples", "400", "--max_eval_samples", "100", "--use_cpu", "true"]
    with tempfile.TemporaryDirectory() as folder:
        run([sys.executable, "-m", "hf_mutual_kd", "train", *words, "--output_dir", f"{folder}/run"])
        results = json.loads(Path(folder, "run", "results.json").read_text(encoding="utf-8"))
    arms = {name: peer["arms"] for name, peer in results["peers"].items()}
    return {
        name: {arm: round(one["metrics"]["accuracy"], 4) for arm, one in each.items()} for name, each in arms.items()
    }


def launched(config: str, processes: int) -> Callable[[Scale], dict[str, Any]]:
    """A training through Accelerate with a configuration of `recipes/accelerate/`."""

    def check(scale: Scale) -> dict[str, Any]:
        """Trains, saves and measures; several processes or one."""
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
        launcher += ["--config_file", str(ROOT / "recipes" / "accelerate" / config), "--num_processes", str(processes)]
        words = ["--max_steps", "4", "--teaching", "none", "--control", "false", "--max_train_samples", "400"]
        words += ["--max_eval_samples", "100", "--report_to", "none", "--pre_flight", "false"]
        words += ["--use_cpu", "true"] if scale.device == "cpu" else []
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            run([*launcher, str(ROOT / "recipes" / "vit_classify.py"), *words, "--output_dir", f"{folder}/run"])
            assert Path(folder, "run", "results.json").is_file()
            return {"seconds": round(time.perf_counter() - began, 1)}

    return check


def run(command: list[str]) -> None:
    """A command in the repository; its last words where it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-800:]


def synchronize(scale: Scale) -> None:
    """Wait for the device."""
    if scale.device == "cuda":
        torch.cuda.synchronize()


# What can be checked here


def missing(*, gpus: int = 1, package: str | None = None, also_cpu: bool = False) -> Callable[[Scale], str]:
    """Why a check cannot be done here; empty where it can."""

    def why(scale: Scale) -> str:
        if package is not None and find_spec(package) is None:
            return f"{package} is not installed"
        if scale.device == "cpu":
            return "" if also_cpu else "needs a GPU"
        return "" if torch.cuda.device_count() >= gpus else f"needs {gpus} GPUs, found {torch.cuda.device_count()}"

    return why


CHECKS: dict[str, tuple[Callable[[Scale], dict[str, Any]], Callable[[Scale], str]]] = {
    "precision": (precision, missing(also_cpu=True)),
    "broken_peer": (broken_peer, missing(also_cpu=True)),
    "step_time": (step_time, missing(also_cpu=True)),
    "dense": (dense, missing(also_cpu=True)),
    "fused": (fused, missing(also_cpu=True)),
    "checkpointing": (checkpointing, missing(also_cpu=True)),
    "compiled": (compiled, missing()),
    "quantized": (quantized, missing(package="bitsandbytes")),
    "nccl": (launched("ddp_gpu.yaml", 1), missing()),
    "fsdp2": (launched("fsdp2.yaml", 1), missing()),
    "zero2": (launched("deepspeed_zero2.yaml", 1), missing(package="deepspeed")),
    "zero3": (launched("deepspeed_zero3.yaml", 1), missing(package="deepspeed")),
    "ddp": (launched("ddp_gpu.yaml", 2), missing(gpus=2)),
    "hunt": (hunt, missing()),
}


def main(argv: list[str] | None = None) -> int:
    """Do the checks and write what they found; the number of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS))
    parser.add_argument("--reduced", action="store_true", help="tiny models on the CPU")
    options = parser.parse_args(argv)
    if not options.reduced and not torch.cuda.is_available():
        parser.error("no GPU was found; --reduced tries the script on the CPU")
    scale = Scale("cpu" if options.reduced else "cuda", options.reduced)
    device = platform.processor() or "CPU" if scale.reduced else torch.cuda.get_device_name()
    began, found = time.perf_counter(), {}
    for name in options.only:
        check, why = CHECKS[name]
        started = time.perf_counter()
        reason = why(scale) or ("no time was left" if started - began > BUDGET_S else "")
        result: dict[str, Any] = {"outcome": "not run", "why": reason}
        if not reason:
            try:
                result = {"outcome": "holds", "figures": check(scale)}
            except Exception as error:
                result = {"outcome": "FAILS", "why": f"{type(error).__name__}: {error}"}
                traceback.print_exc()
        found[name] = result | {"seconds": round(time.perf_counter() - started, 1)}
        print(f"{name}: {result['outcome']} {result.get('why') or json.dumps(result['figures'])}", flush=True)
    facts = {"device": device, "torch": torch.__version__, "reduced": scale.reduced, "checks": found}
    write_json(options.out / "gpu.json", facts)
    table = [(name, one["outcome"], one.get("why") or json.dumps(one["figures"])) for name, one in found.items()]
    lines = [f"| {name} | {outcome} | {said} |" for name, outcome, said in table]
    lines = [f"Made by `make gpu` on {device}, torch {torch.__version__}.", "", *TABLE, *lines]
    write_text(options.out / "gpu.md", "\n".join(lines) + "\n")
    print(
        render(("check", "outcome", "figures"), [(name, said, text[:90]) for name, said, text in table], title=device)
    )
    return sum(one["outcome"] == "FAILS" for one in found.values())


if __name__ == "__main__":
    sys.exit(main())
