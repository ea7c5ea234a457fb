"""Few labels for maps: `python recipes/few_labels_maps.py` writes a part of docs/LAND_COVER.md and docs/SALIENCY.md.

The embedded cohorts of segmentation and video saliency learn in stages (`teaching: auto`), of which a share of the
training rows keeps its label, beside what a user has without his peers: the start, the labels alone (for segmentation
also with per-pixel cross-entropy in the loss of heads with queries) and self-training on the same rows; and beside
distillation from one fixed teacher. Runs are kept and not repeated; `--report` writes the pages of what there is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from few_labels_tables import ARMS as ARMS_FILE
from few_labels_tables import COLUMNS, STAGES, favoured_control, half_width, kept_words, read_stages

from hf_mutual_kd import TASKS, write_text

ROOT = Path(__file__).resolve().parents[1]
HEADING = "## Few labels"
CONTROLS = ("start", "control", "pixel", "self")
"""What a user has without his peers."""
PIXEL_WEIGHT = 4.0
"""Of per-pixel cross-entropy; the best on validation of those that land_cover_benchmark.py tries."""

Run = Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """A task's embedded cohort, and how its numbers are shown."""

    task: str
    config: str
    rows: int
    unit: str
    metric: str
    scale: float
    digits: int
    page: str
    best_start: str
    """The best of its starts on the validation split, which teaches as the fixed teacher."""
    kinds: tuple[str, ...] = ("staged", "fixed")
    """The runs of each share and seed: the training in stages, and trainings of one arm."""

    def labels(self, share: int) -> int | None:
        """How many rows keep their label; `None` for all."""
        return None if share == 100 else max(1, round(self.rows * share / 100))


SETTINGS = {
    "segment": Setting(
        "semantic-segmentation",
        "embedded_segmentation",
        rows=344,
        unit="tiles",
        metric="mIoU",
        scale=100,
        digits=1,
        page="LAND_COVER.md",
        best_start="upernet",
        kinds=("staged", "pixel", "fixed"),
    ),
    "saliency": Setting(
        "video-saliency",
        "embedded_saliency",
        rows=120,
        unit="clips",
        metric="CC",
        scale=1,
        digits=3,
        page="SALIENCY.md",
        best_start="swin3d",
    ),
}


def command_of(setting: Setting, share: int, seed: int, folder: Path, *, kind: str, given: Sequence[str]) -> list[str]:
    """The recipe of one share and seed, of one of its kinds."""
    words = [sys.executable, "-m", "hf_mutual_kd", "train", setting.task, "--config", setting.config]
    words += ["--seeds", str(seed), "--data_seed", str(seed), "--output_dir", str(folder)]
    words += ["--overwrite_output_dir", "true", *given]
    labels = setting.labels(share)
    words += ["--max_labelled_samples", "null" if labels is None else str(labels)]
    if kind == "staged":
        return words
    # Of as many steps, and as many labels in each, as a stage; the teacher's weight is that of a stage, too.
    words += ["--teaching", "null"]
    words += [] if labels is None else ["--labelled_share", str(max(0.25, labels / setting.rows))]
    if kind == "pixel":
        return [*words, "--transfer_weight", "0", "--pixel_loss_weight", str(PIXEL_WEIGHT)]
    words += ["--control", "false", "--transfer_weight", str(TASKS[setting.task].teaching_weight)]
    return [*words, "--teacher_rule", f"fixed:{setting.best_start}", "--teacher_source", "frozen"]


def train(setting: Setting, share: int, seed: int, place: Path, given: Sequence[str]) -> None:
    """Run what is missing of one share and seed, and keep what was measured."""
    for kind in setting.kinds:
        folder = place / kind
        if not finished(folder):
            print(f"{setting.task}, {share} % of labels, seed {seed}, {kind}", flush=True)
            subprocess.run(command_of(setting, share, seed, folder, kind=kind, given=given), cwd=ROOT, check=True)
            for weights in (*folder.rglob("*.safetensors"), *folder.rglob("checkpoint-*")):
                shutil.rmtree(weights, ignore_errors=True) if weights.is_dir() else weights.unlink(missing_ok=True)


def finished(folder: Path) -> bool:
    """Whether a recipe came to its end."""
    return (folder / (f"{STAGES}/{ARMS_FILE}" if folder.name == "staged" else "results.json")).is_file()


def read(setting: Setting, share: int, seeds: Sequence[int], folder: Path) -> list[Run]:
    """Every seed's metric by arm and peer, and what was kept, of those that were run."""
    found = []
    for seed in seeds:
        place = folder / f"share-{share}" / f"seed-{seed}"
        staged = read_stages(place / "staged")
        if staged is None:
            continue
        arms = list(staged["arms"].values())
        ends = {one["name"]: one["end"] for one in arms} | {"start": arms[-1]["start"]}
        for single in (place / kind for kind in setting.kinds if kind != "staged"):
            if finished(single):
                ends[single.name] = json.loads((single / "summary.json").read_text(encoding="utf-8"))["end"]
        facts = staged["facts"]
        values = {
            arm: {peer: setting.scale * one[setting.metric] for peer, one in end.items() if setting.metric in one}
            for arm, end in ends.items()
        }
        favoured = {peer: values[favoured_control(facts, peer)][peer] for peer in facts["kept"]}
        found.append(
            {"values": values, "kept": facts["kept"], "way": facts.get("way"), "seed": seed, "favoured": favoured}
        )
    return found


def mean(runs: Sequence[Run], arm: str, peer: str) -> float:
    """Over seeds."""
    return statistics.fmean(run["values"][arm][peer] for run in runs)


def best_control(runs: Sequence[Run], peer: str) -> str:
    """The best of what there is without peers, by its mean on the test rows."""
    known = [arm for arm in CONTROLS if all(peer in run["values"].get(arm, {}) for run in runs)]
    return max(known, key=lambda arm: mean(runs, arm, peer))


def gains(runs: Sequence[Run], peer: str, arm: str = "mutual") -> list[float]:
    """Of every seed above the best control; `"mutual"` is what was kept, `"taught"` where its peers led it."""
    against = best_control(runs, peer)
    return [run["values"][arm][peer] - run["values"][against][peer] for run in runs]


def share_table(setting: Setting, share: int, runs: Sequence[Run]) -> list[str]:
    """One share's peers, in Markdown."""
    titles = COLUMNS | {"control": "labels alone", "pixel": "labels alone + pixel CE", "fixed": "fixed teacher"}
    order = ("start", "control", "pixel", "self", "fixed", "taught", "mutual")
    arms = [arm for arm in order if all(arm in run["values"] for run in runs)]
    labels = setting.labels(share)
    several = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
    lines = [
        f"### {share} %: {'all' if labels is None else labels} of {setting.rows} {setting.unit}, {several}",
        "",
        f"| peer | {' | '.join(titles[arm] for arm in arms)} | Δ of kept against the best control | kept is |",
        f"| --- |{' --: |' * (len(arms) + 1)} --- |",
    ]
    for peer in runs[0]["kept"]:
        shown = " | ".join(f"{mean(runs, arm, peer):.{setting.digits}f}" for arm in arms)
        delta, width = gains(runs, peer), half_width(gains(runs, peer))
        spread = f" ± {width:.{setting.digits + 1}f}" if len(runs) > 1 else ""
        what = kept_words([run["kept"][peer] for run in runs])
        lines.append(
            f"| {peer} | {shown} | {statistics.fmean(delta):+.{setting.digits + 1}f}{spread} "
            f"({titles[best_control(runs, peer)]}) | {what} |"
        )
    return [*lines, "", f"Ways that went on, by seed: {', '.join(str(run['way']) for run in runs)}.", ""]


def section(setting: Setting, shares: Mapping[int, Sequence[Run]], given: Sequence[str]) -> str:
    """The part of a page."""
    each = [(runs, peer) for share, runs in shares.items() if share <= 20 for peer in runs[0]["kept"]]
    few = [gain for runs, peer in each for gain in gains(runs, peer)]
    favoured = [run["values"]["mutual"][peer] - run["favoured"][peer] for runs, peer in each for run in runs]
    fixed = [
        run["values"]["mutual"][peer] - run["values"]["fixed"][peer]
        for runs, peer in each
        for run in runs
        if "fixed" in run["values"]
    ]
    unit = "points of mIoU" if setting.scale == 100 else "of CC"
    goal = "1 point of mIoU" if setting.scale == 100 else "0.01 of CC"
    reached = (
        f"At 20 % of the labels or fewer what was kept is {statistics.fmean(few):+.{setting.digits + 1}f} {unit} from "
        f"the best of these controls on the same test rows, in the mean over shares, seeds and peers (the goal was "
        f"{goal}), and {statistics.fmean(favoured):+.{setting.digits + 1}f} from the one that validation favours."
        if few
        else "No share of 20 % or less was run."
    )
    if fixed:
        reached += (
            f" The fixed teacher, {setting.best_start}'s start, is another peer and so no such control; what was kept "
            f"is {statistics.fmean(fixed):+.{setting.digits + 1}f} {unit} from the peers that it taught."
        )
    options = f" with `{' '.join(given)}`" if given else ""
    lines = [
        HEADING,
        "",
        f"Made by `python recipes/few_labels_maps.py`{options}; no number is written by hand. `{setting.config}`, of "
        "whose training rows a share keeps its label; seeds draw these, order and augmentation. "
        f"{setting.metric} on the test split, which chose nothing, mean over seeds; Δ with half of its 95 % interval "
        "over seeds (paired t-test; of one seed none), in brackets the best control. What is kept of each peer was "
        f"chosen on the validation split. {reached}",
        "",
        *(line for share, runs in shares.items() for line in share_table(setting, share, runs)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def with_section(page: str, part: str) -> str:
    """A page with this part at its end, in place of an earlier one."""
    return page.split(f"\n{HEADING}\n")[0].rstrip() + "\n\n" + part


def kept_section(path: Path) -> str:
    """The part that a page has, for those who write the rest of it anew."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    _, found, part = text.partition(f"\n{HEADING}\n")
    return f"\n{HEADING}\n{part}" if found else ""


def main(arguments: list[str] | None = None) -> int:
    """Train what is missing and write the pages; options that it does not know go to the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--shares", nargs="+", type=int, default=[5, 10, 25, 100], help="of the labels, in %%")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/few_labels_maps"))
    parser.add_argument("--report", action="store_true", help="write the pages of what was run, train nothing")
    options, given = parser.parse_known_args(arguments)
    for name in options.tasks:
        setting, folder = SETTINGS[name], options.output_dir.absolute() / name
        for seed in options.seeds if not options.report else ():
            for share in options.shares:
                train(setting, share, seed, folder / f"share-{share}" / f"seed-{seed}", given)
        found = {share: read(setting, share, options.seeds, folder) for share in options.shares}
        done = {share: runs for share, runs in found.items() if runs}
        path = ROOT / "docs" / setting.page
        if done:
            write_text(path, with_section(path.read_text(encoding="utf-8"), section(setting, done, given)))
        print(f"{path}: {', '.join(f'{share} %' for share in done) or 'nothing has finished'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
