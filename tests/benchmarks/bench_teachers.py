"""What teachers cost whose outputs are computed once, what that changes, and how fast score tables are read.

    python tests/benchmarks/bench_teachers.py [--quick] [--out FOLDER]

The embedded cohorts of segmentation and video saliency are trained on a part of their rows by the mean of their frozen
starts: with starts that run in every step, with outputs that are kept (8 bits), and not taught at all. All rows have
labels: where few have, a head with queries has no gradient of the others unless it is taught, so that its control is
cheaper whatever teachers cost. CPU time is that of the whole training, filling the cache included, one thread, all in
one run, the least of two in turn; beside it stands what the peers reach on the test split, the mean of the seeds. Then
a table of 1,000 classes is made and read at random, against an image pipeline that decodes JPEGs for one peer. Writes
docs/TEACHERS.md; `--quick` takes a few steps and writes only where `--out` says.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from bench_training import alternate
from PIL import Image
from safetensors.torch import save_file
from transformers import ViTImageProcessor

from hf_mutual_kd import (
    Cohort,
    MeanRule,
    MutualKDConfig,
    MutualKDTrainer,
    Objective,
    RoleTaggingCollator,
    SharedView,
    TableSource,
    render,
)
from hf_mutual_kd.config.options import RecipeOptions
from hf_mutual_kd.scoring.score_shards import distribution
from hf_mutual_kd.scoring.score_table import FORMAT, INDEX, MANIFEST, SCORES, ScoreTable, shard_path
from hf_mutual_kd.scoring.table_teacher import TableTeacher
from hf_mutual_kd.tasks.registry import make_task
from hf_mutual_kd.training.shared_starts import shared_or_new

ROOT = Path(__file__).parents[2]
WEIGHT = 10.0
COST_BAR = 1.1
FILLED = 0.05
"""Seconds from which on a cache was filled, not only looked for."""
REPEATS = 2
"""Trainings of an arm, of which the quickest counts."""
TABLE_BAR_GB, IMAGENET_ROWS, CLASSES = 2.0, 1_300_000, 1000
TRAINING = ("setting", "teachers", "CPU s", "of it once", "/ not taught", "test {metric}", "KL kept, nats")
TABLE = ("kept", "bytes a row", "GB of 1.3 M rows", "rows/s", "/ images/s", "KL, nats")


class Setting(NamedTuple):
    """An embedded cohort as its recipe trains it."""

    task: str
    folder: str
    data: str
    peers: tuple[str, ...]
    rows: int
    tested: int
    epochs: int
    metric: str
    scale: float
    view: dict[str, Any]


SETTINGS = (
    Setting(
        "semantic-segmentation",
        "embedded_segmentation",
        "land_cover",
        ("segformer", "mask2former", "upernet"),
        32,
        48,
        6,
        "mIoU",
        100,
        {"scale_range": [0.8, 1.6]},
    ),
    Setting(
        "video-saliency",
        "embedded_saliency",
        "synthetic_gaze",
        ("convnext", "videomae", "swin3d"),
        16,
        6,
        6,
        "CC",
        1,
        {"crop_min_area": 1.0},
    ),
)
TAUGHT = {"teacher_rule": "mean", "teacher_source": "frozen", "transfer_weight": WEIGHT}
VIEWS_KEPT = 2
VIEWS = {True: "random", False: "the same"}


class Trained(NamedTuple):
    """One training: CPU seconds, those of the cache in them, and each peer's metric on the test split."""

    seconds: float
    once: float
    reached: dict[str, float]
    error: float


def train(setting: Setting, splits: Any, seed: int, steps: int | None, *, measures: bool, **options: Any) -> Trained:
    """One arm of one seed, with what it reaches where it `measures`."""
    place = ROOT / "recipes" / setting.folder
    cohort = Cohort.from_pretrained(
        {name: str(place / "peers" / name) for name in setting.peers},
        task=make_task(setting.task, **setting.view),
        label_names=splits.label_names,
    )
    with tempfile.TemporaryDirectory() as folder:
        args = MutualKDConfig(
            folder,
            seed=seed,
            learning_rate=1e-3,
            lr_scheduler_type="cosine",
            num_train_epochs=setting.epochs,
            max_steps=steps or -1,
            per_device_train_batch_size=8,
            per_device_eval_batch_size=16,
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            pre_flight=False,
            **options,
        )
        trainer = MutualKDTrainer(cohort, args, train_dataset=splits.train, eval_dataset=splits.test)
        began = time.process_time()
        trainer.start_cache = shared_or_new(trainer)
        once = time.process_time() - began
        trainer.train()
        seconds = time.process_time() - began
        if not measures:
            return Trained(seconds, once, {}, float("nan"))
        error = cache_error(trainer) if trainer.start_cache is not None else float("nan")
        found = trainer.evaluate(metric_key_prefix="test")
    reached = {name: setting.scale * found[f"test_{name}/{setting.metric}"] for name in setting.peers}
    return Trained(seconds, once, reached, error)


def cache_error(trainer: MutualKDTrainer) -> float:
    """Mean KL from what the starts say to what was kept of it, over cells of a batch and peers."""
    starts = Cohort.from_pretrained(
        {name: spec.source for name, spec in trainer.cohort.specs.items()},
        task=trainer.cohort.task,
        label_names=trainer.cohort.label_names,
    ).eval()
    trainer.data_collator.set_epoch(0)
    trainer.train_dataset.set_epoch(0)
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(16)])
    dims = trainer.task.map_dims
    with torch.no_grad():
        outputs = starts(peer_inputs=batch["peer_inputs"]).outputs.values()
        said = trainer.task.start_maps([trainer.task.logits(one).float() for one in outputs], batch["labels"])
    errors = []
    for one, kept in zip(said, trainer.start_cache.lookup(batch["sample_ids"]), strict=True):
        left, right = (z if len(dims) == 1 else z.flatten(1) for z in (one, kept))
        left, right = left.log_softmax(1), right.log_softmax(1)
        errors.append(float((left.exp() * (left - right)).sum(1).mean()))
    return statistics.fmean(errors)


def trainings(setting: Setting, seeds: list[int], steps: int | None) -> list[tuple[str, ...]]:
    """The table of one task."""
    found: dict[tuple[bool, str], list[Trained]] = {}
    for seed in seeds:
        data = RecipeOptions(
            dataset=str(ROOT / "recipes" / setting.folder / setting.data),
            max_train_samples=setting.rows,
            max_eval_samples=setting.tested,
        )
        task = make_task(setting.task, data, **setting.view)
        splits = task.load_splits(seed, True)
        task.check_splits(splits, "raise")
        drawn = setting.task == "video-saliency"
        arms: dict[tuple[bool, str], dict[str, Any]] = {}
        for augment in (True,) if drawn else (False, True):
            view = {"augment": augment}
            arms[augment, "nobody"] = view | {"transfer_weight": 0.0}
            arms[augment, "run in every step"] = view | TAUGHT | {"cache_frozen": False}
            for views in (VIEWS_KEPT,) if augment else (None,):
                shown = {} if views is None else {"cached_views": views}
                arms[augment, "kept" + (f", {views} views" if views else "")] = view | TAUGHT | shown
        times: dict[tuple[bool, str], list[Trained]] = {arm: [] for arm in arms}
        # In turn, so that a slow spell of the machine hits all of them; other work on it only adds.
        for repeat, (arm, options) in itertools.product(range(1 if steps else REPEATS), arms.items()):
            times[arm].append(train(setting, splits, seed, steps, measures=not repeat, **options))
            print(f"{setting.task}, seed {seed}, {arm}: {times[arm][-1]}", flush=True)
        for arm, runs in times.items():
            quickest = min(runs, key=lambda one: one.seconds)
            found.setdefault(arm, []).append(runs[0]._replace(seconds=quickest.seconds, once=quickest.once))
    rows = []
    for (augment, teachers), runs in found.items():
        plain = statistics.fmean(one.seconds for one in found[augment, "nobody"])
        seconds, once = (statistics.fmean(getattr(one, key) for one in runs) for key in ("seconds", "once"))
        reached = [statistics.fmean(one.reached[name] for one in runs) for name in setting.peers]
        digits = 1 if setting.scale == 100 else 3
        rows.append(
            (
                f"{setting.task}, view {VIEWS[augment]}",
                teachers,
                f"{seconds:.0f}",
                f"{once:.1f}" if once > FILLED else "",
                f"{seconds / plain:.2f}" + (f", {(seconds - once) / plain:.2f} without" if once > FILLED else ""),
                f"{setting.metric} " + " / ".join(f"{value:.{digits}f}" for value in reached),
                f"{runs[0].error:.1e}" if runs[0].error == runs[0].error else "",
            )
        )
    return rows


def jpeg_rows(count: int) -> list[dict[str, Any]]:
    """Smooth images of ImageNet's usual 500 x 375 with a little noise, as JPEG files."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(count):
        small = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        image = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        image = (image + generator.integers(-8, 9, image.shape)).clip(0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=90)
        rows.append({"image": {"bytes": stream.getvalue(), "path": None}, "label": 0, "sample_id": index})
    return rows


def made_table(folder: Path, rows: int, keep: str, shard_rows: int = 2048) -> ScoreTable:
    """A table of one peer that is sure of 1,000 classes as a trained one is, without the peer."""
    generator = torch.Generator().manual_seed(0)
    (folder / "peer").mkdir(parents=True)
    for shard, start in enumerate(range(0, rows, shard_rows)):
        logits = said(min(shard_rows, rows - start), generator)
        save_file(distribution(logits.log_softmax(1), keep), shard_path(folder / "peer", shard))
    labels = [f"class {index}" for index in range(CLASSES)]
    data = {"name": "made", "rows": rows, "labels": labels, "fingerprint": "", "fingerprint_of": ""}
    manifest = {"format": FORMAT, "task": "image-classification", "data": data, "keep": keep}
    manifest |= {"shard_rows": shard_rows, "shape": [CLASSES], "peers": {"peer": {"weights": "", "processor": ""}}}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    columns = {"sample_id": np.arange(rows), "label": np.zeros(rows, np.int32)}
    columns |= {f"peer/{kind}": np.zeros(rows, np.float32) for kind in SCORES}
    pq.write_table(pa.table(columns), folder / INDEX)
    return ScoreTable.load(folder)


def said(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Logits of which one stands out as it does in a classifier of ImageNet."""
    logits = 2.0 * torch.randn(rows, CLASSES, generator=generator)
    chosen = torch.randint(CLASSES, (rows, 1), generator=generator)
    return logits.scatter_add_(1, chosen, 8.0 + 4.0 * torch.randn(rows, 1, generator=generator))


def tables(rows: int, repeats: int) -> tuple[list[tuple[str, ...]], bool]:
    """What tables take and how fast they are read, against images; whether the bars are held."""
    batch, images = 64, jpeg_rows(64)
    collator = RoleTaggingCollator({"peer": ViTImageProcessor(size={"height": 224, "width": 224})}, SharedView())
    shuffled = np.random.default_rng(0).permutation(rows)
    exact = said(2048, torch.Generator().manual_seed(0)).log_softmax(1)
    lines, held = [], True
    with tempfile.TemporaryDirectory() as place:
        cases, sizes, errors = {"images": lambda: collator(images)}, {}, {}
        for keep in ("8bit", "topk:50", "full"):
            table = made_table(Path(place) / keep.replace(":", "-"), rows, keep)
            sizes[keep] = sum(one.stat().st_size for one in table.folder.rglob("*") if one.is_file()) / rows
            found = table.log_probs("peer", torch.arange(2048))
            errors[keep] = float((exact.exp() * (exact - found)).sum(1).mean())
            cases[keep] = reader(table, shuffled, batch)
        seconds = alternate(cases, repeats)
    for keep, size in sizes.items():
        ratio, total = seconds["images"] / seconds[keep], size * IMAGENET_ROWS / 1e9
        held = held and ratio >= 1 and (keep != "8bit" or total <= TABLE_BAR_GB)
        speed = f"{batch / seconds[keep]:,.0f}"
        lines.append((keep, f"{size:.0f}", f"{total:.2f}", speed, f"{ratio:.0f}", f"{errors[keep]:.1e}"))
    print(f"images/s: {batch / seconds['images']:.0f}")
    return lines, held


def reader(table: ScoreTable, order: np.ndarray, batch: int) -> Any:
    """Reads the targets of one batch after the other in an order that is not the table's."""
    teacher, place = TableTeacher(table, ["peer"], Objective(MeanRule(), TableSource())), [0]

    def read() -> None:
        ids = order[place[0] : place[0] + batch]
        place[0] = (place[0] + batch) % (len(order) - batch)
        teacher(torch.from_numpy(ids))

    return read


def markdown(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = [columns, ("---", "---", *["---:"] * (len(columns) - 2)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def document(trained: list[tuple[str, ...]], read: list[tuple[str, ...]], rows: int, seeds: int) -> str:
    machine = f"{os.cpu_count()}-core {platform.machine()} CPU, one thread, torch {torch.__version__}"
    return f"""# What teachers cost

Made by `python tests/benchmarks/bench_teachers.py` in one run ({machine}).

## Frozen teachers whose maps are kept

The embedded cohorts on {rows_words()}, all of them with
labels, {seeds} seed{"s" * (seeds > 1)}; the mean of the frozen starts teaches. CPU seconds are of the whole training,
the least of {REPEATS} in turn; *of it once* is what filling the cache took. *Test* is each peer's on
{SETTINGS[0].tested} tiles or {SETTINGS[1].tested} videos of the test split, in the order of its recipe. *KL kept* is
how far what is kept in 8 bits is from what the starts say, per cell or map. "Nobody" has the same rows and steps.
(Where few rows have labels, a head with queries has no gradient of the others unless it is taught: its control is then
cheaper, whatever teachers cost.)

{markdown(columns_of(), trained)}

- A cache pays for K passes of the starts once, where starts that run pay for one in every epoch: the longer the
  training, the nearer its cost is to the ratio "without".
- What peers reach with kept teachers and with those that run differs by 8 bits in one view, and by the views that are
  shown in random ones. One seed and so few test rows: a difference of a point is noise.
- With `--cached_views K` the peers see K views of each row in turn (of a video K frames), not a new one in every
  epoch.

## Score tables

A generated table of {rows:,} rows and {CLASSES:,} classes, one peer, read in random order by batches of 64 (targets
ready for the loss), against decoding, cropping and resizing as many JPEGs of 500 x 375 to 224 x 224. KL is from the
exact distribution; that of `topk` says how heavy the tails are that were made.

{markdown(TABLE, read)}
"""


def rows_words() -> str:
    return " and ".join(f"{one.rows} rows of {one.task} ({one.epochs} epochs)" for one in SETTINGS)


def columns_of() -> tuple[str, ...]:
    return tuple(name.replace("{metric}", "").strip() for name in TRAINING)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps and rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    parser.add_argument("--out", type=Path, help="folder for TEACHERS.md; docs/ unless --quick")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, steps = (10_000, 2) if options.quick else (16_384, None)
    read, held = tables(rows, 5 if options.quick else 15)
    print(render(TABLE, read, title="Score tables"))
    seeds = options.seeds[:1] if options.quick else options.seeds
    trained = [row for setting in SETTINGS for row in trainings(setting, seeds, steps)]
    print(render(columns_of(), trained, title="Frozen teachers"))
    kept = [float(row[4].partition(",")[0]) for row in trained if row[1].startswith("kept")]
    print(f"largest cost of kept teachers: {max(kept):.2f} (bar {COST_BAR})")
    out = options.out or (None if options.quick else ROOT / "docs")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "TEACHERS.md").write_text(document(trained, read, rows, len(seeds)), encoding="utf-8")
    return 0 if held and max(kept) <= COST_BAR else 1


if __name__ == "__main__":
    sys.exit(main())
