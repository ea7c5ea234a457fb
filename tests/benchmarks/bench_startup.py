"""From the command to the first optimizer step: three peers by our command against one by `transformers.Trainer`.

    python tests/benchmarks/bench_startup.py [--quick] [--rounds N]

Whole processes in turns, each from its start to the end of its first optimizer step, on the same class folders of JPEG
files and with the same ViT-Ti/16; our command has a ResNet-18 and a ConvNeXt-T beside it. The script for the plain
`Trainer` reads rows, loads and trains as the example scripts of transformers do. What our command measures of the
peers before they train is a result, the start in every table, that a plain `Trainer` does not have; it grows with the
rows and is counted apart. A step of three peers and their frozen starts is no start-up (`bench_training.py` has its
cost), so that the time until the first batch lies ready is printed too. Ratios are of medians, of CPU time and by the
clock; a FAIL makes the exit status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")

BAR = 1.2
BATCH = 8
CLASSES = 10
PEERS = ("vit", "resnet", "convnext")
SIZE = 64
"""Pixels that the peers see: their weights are those of 224, and looking at a row costs a twelfth."""
ROWS = {"train": 400, "validation": 20, "test": 20}


def write_peers(folder: Path) -> None:
    """ViT-Ti/16, ResNet-18 and ConvNeXt-T with random weights, each with the processor of its kind."""
    import transformers as hf

    names = [f"class {index}" for index in range(CLASSES)]
    named: dict[str, Any] = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    vit = hf.ViTConfig(image_size=SIZE, hidden_size=192, num_attention_heads=3, intermediate_size=768, **named)
    resnet = hf.ResNetConfig(
        hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", embedding_size=64, **named
    )
    models = (
        hf.ViTForImageClassification(vit),
        hf.ResNetForImageClassification(resnet),
        hf.ConvNextForImageClassification(hf.ConvNextConfig(**named)),
    )
    convnext = hf.ConvNextImageProcessor(size={"shortest_edge": SIZE})
    processors = (hf.ViTImageProcessor(size={"height": SIZE, "width": SIZE}), convnext, convnext)
    for name, model, processor in zip(PEERS, models, processors, strict=True):
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)


def write_rows(folder: Path) -> None:
    """Class folders of JPEG files of ImageNet's usual size."""
    from bench_training import jpeg

    for split, count in ROWS.items():
        for index in range(count):
            place = folder / split / f"class {index % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{index}.jpg").write_bytes(jpeg(500, 375)["bytes"])


def ours(folder: Path) -> None:
    """What `hf-mutual-kd train` does, as its entry point does it."""
    from hf_mutual_kd.cli.main import main

    peers = [f"{name}={folder / name}" for name in PEERS]
    words = ["train", "image-classification", "--peers", *peers, "--dataset", str(folder / "rows")]
    words += ["--output_dir", str(folder / "run"), "--report_to", "none"]
    main([*words, "--per_device_train_batch_size", str(BATCH), "--max_steps", "10", "--use_cpu", "true"])


def plain(folder: Path) -> None:
    """The training of one of the peers as in transformers' example for image classification, without its options."""
    import torch
    from datasets import load_dataset
    from torchvision.transforms import CenterCrop, Compose, Normalize, RandomResizedCrop, Resize, ToTensor
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageClassification,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    arguments = TrainingArguments(
        str(folder / "plain"),
        per_device_train_batch_size=BATCH,
        max_steps=10,
        eval_strategy="epoch",
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
    )
    set_seed(0)
    rows = load_dataset("imagefolder", data_dir=str(folder / "rows"))
    source = str(folder / PEERS[0])
    config = AutoConfig.from_pretrained(source)
    model = AutoModelForImageClassification.from_pretrained(source, config=config)
    processor = AutoImageProcessor.from_pretrained(source)
    size = (processor.size["height"], processor.size["width"])
    made = [ToTensor(), Normalize(mean=processor.image_mean, std=processor.image_std)]
    views = {
        "train": Compose([RandomResizedCrop(size), *made]),
        "validation": Compose([Resize(size), CenterCrop(size), *made]),
    }
    for split, view in views.items():

        def seen(batch: dict[str, Any], view: Any = view) -> dict[str, Any]:
            return {"pixel_values": [view(image.convert("RGB")) for image in batch["image"]], "labels": batch["label"]}

        rows[split].set_transform(seen)

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        pixels = torch.stack([example["pixel_values"] for example in examples])
        return {"pixel_values": pixels, "labels": torch.tensor([example["labels"] for example in examples])}

    Trainer(
        model, arguments, train_dataset=rows["train"], eval_dataset=rows["validation"], data_collator=collate
    ).train()


CASES: dict[str, Callable[[Path], None]] = {"ours": ours, "plain": plain}


def spent() -> tuple[float, float]:
    """Seconds of CPU time of this process and its children, and by the clock."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system, time.time()


def measure(case: str, folder: Path) -> None:
    """The child's work: it ends with its first step, and says what that took, what came before, and measuring."""
    if case == "ours":
        # As the command does it, and before anything else has imported what it imports.
        from hf_mutual_kd.experiments import launch

        launch.load_config_class()
        launch.load_experiment_class()
    from transformers.trainer_callback import CallbackHandler

    measuring, ready = [0.0, 0.0], []

    def begin(*given: Any) -> Any:
        ready[:] = spent()
        return begins(*given)

    def end(*_: Any) -> NoReturn:
        sys.__stdout__.write("\n" + json.dumps([*spent(), *ready, *measuring]) + "\n")
        sys.__stdout__.flush()
        os._exit(0)

    begins, CallbackHandler.on_step_begin = CallbackHandler.on_step_begin, begin
    CallbackHandler.on_step_end = end
    if case == "ours":
        from hf_mutual_kd import MutualKDTrainer

        untimed = MutualKDTrainer._measure

        def timed(*args: Any, **kwargs: Any) -> Any:
            before = spent()
            found = untimed(*args, **kwargs)
            for index, (now, then) in enumerate(zip(spent(), before, strict=True)):
                measuring[index] += now - then
            return found

        MutualKDTrainer._measure = timed
    CASES[case](folder)


def run(case: str, folder: Path) -> tuple[float, ...]:
    """CPU seconds and seconds of a process to the end of its first step, to its beginning, and in measuring."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    began = time.time()
    child = [sys.executable, __file__, "--child", case, str(folder)]
    # Compiled modules are kept, as wherever a package is installed.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(child, capture_output=True, text=True, check=False, env=env)
    try:
        cpu, clock, ready_cpu, ready_clock, *measuring = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise SystemExit(f"{case} made no step:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}") from None
    return cpu, clock - began, ready_cpu, ready_clock - began, *measuring


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each, after one that is not counted")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(options.child[0], Path(options.child[1]))
        return 1
    from bench_cost import write_part  # not for the children, whose start is measured

    rounds = 2 if options.quick else options.rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_peers(folder)
        write_rows(folder / "rows")
        found: dict[str, list[tuple[float, ...]]] = {case: [] for case in CASES}
        for turn in range(rounds + 1):
            for case, runs in found.items():
                once = run(case, folder)
                # The first fills caches of the disk, and those of `datasets`.
                runs += [once] if turn else []
    medians = {case: [statistics.median(column) for column in zip(*runs, strict=True)] for case, runs in found.items()}
    passed, rows = True, ROWS["validation"] + ROWS["test"]
    said = [f"Medians of {rounds} processes of each, in turns; bar {BAR:g}:", ""]
    for index, unit in enumerate(("CPU time", "by the clock")):
        measuring = medians["ours"][index + 4]
        for what, column in (("to the end of the first step", index), ("until the first batch lies ready", index + 2)):
            own, other = medians["ours"][column] - measuring, medians["plain"][column]
            passed = passed and own / other <= BAR
            verdict = "pass" if own / other <= BAR else "FAIL"
            said.append(f"- {unit}, {what}: {own:.1f} s / {other:.1f} s = {own / other:.2f} ({verdict})")
        said.append(f"- {unit}, measuring the start on {rows} rows: {measuring:.1f} s more")
    print("\n".join(said))
    if not options.quick:
        write_part("bench_startup.py", "\n".join(said))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
