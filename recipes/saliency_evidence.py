"""Does mutual transfer help video saliency models on synthetic gaze? `python recipes/saliency_evidence.py`

Runs the embedded peers on all of the embedded gaze, two of them and three, three seeds each with their controls, and
writes docs/SALIENCY.md. What was interrupted goes on where it stopped: finished arms are not run again. Options that
it does not know go to the recipe.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from few_labels_maps import kept_section

from hf_mutual_kd import Difference, verdict, write_text

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "embedded_saliency"
SEEDS = (0, 1, 2)
METRICS = ("CC", "SIM", "NSS", "AUC-J", "sAUC")
COHORTS = {"two": ("convnext", "videomae"), "three": ("convnext", "videomae", "swin3d")}
HEADS = ("", *METRICS)

Arm = Mapping[str, Any]

READING = """# Video saliency: does mutual transfer help?

**All data here are synthetic**: scenes, motion and gaze are drawn by the law that
`recipes/embedded_saliency/README.md` tells; nobody watched these videos. The numbers say how the method works on a
small problem, not how well anything predicts where people look.

Written by `python recipes/saliency_evidence.py` from the runs of `recipes/video_saliency.py` with
`{config}` ({steps} steps; weights chosen on the validation split by CC). Each peer was pretrained on other frames
than the others. Numbers are of {samples} frames of {videos} held-out test videos, whose scenes and sprites are in no
other split: mean ± standard deviation over {seeds} seeds of order and augmentation. The control is the same training
without transfer; the difference is paired by seed. The centre prior is where people look in the training videos,
whatever is to be seen; the negatives of sAUC are the fixations there. *Within noise* means that a paired t-test over
the seeds does not reach 95 %.
"""


def run(name: str, options: Sequence[str]) -> None:
    """Run, or go on with, one cohort's arms."""
    peers = [f"{peer}=recipes/embedded_saliency/peers/{peer}" for peer in COHORTS[name]]
    seeds = [str(seed) for seed in SEEDS]
    command = [sys.executable, "recipes/video_saliency.py", "--config", CONFIG, "--peers", *peers, "--seeds", *seeds]
    # Every clip with its gaze, and the best peer teaches: the embedded default hides gaze and trains in stages.
    command += ["--max_labelled_samples", "null", "--teacher_rule", "best", "--num_train_epochs", "10"]
    command += ["--output_dir", str(folder_of(name).relative_to(ROOT)), "--resume_from_checkpoint", "true", *options]
    subprocess.run(command, cwd=ROOT, check=True)


def folder_of(name: str) -> Path:
    """Where a cohort's arms are."""
    return ROOT / "runs" / "saliency_evidence" / name


def read_arms(name: str) -> dict[str, list[Arm]]:
    """What was found by both arms, in the order of the seeds; empty where one has not finished."""
    arms: dict[str, list[Arm]] = {"mutual": [], "control": []}
    for seed in SEEDS:
        folder = folder_of(name) if seed == SEEDS[0] else folder_of(name) / f"seed-{seed}"
        for arm, path in (("mutual", folder / "summary.json"), ("control", folder / "control" / "summary.json")):
            if not path.is_file():
                return {}
            arms[arm].append(json.loads(path.read_text(encoding="utf-8")))
    return arms


def spread(values: Sequence[float], sign: bool = False) -> str:
    """`0.551 ± 0.004`."""
    return f"{statistics.fmean(values):{'+' if sign else ''}.3f} ± {statistics.stdev(values):.3f}"


def peer_table(peer: str, arms: Mapping[str, Sequence[Arm]]) -> list[str]:
    """Lines of Markdown: the five metrics of a peer, against the centre prior and the control."""
    ends = {kind: [arm["end"][peer] for arm in found] for kind, found in arms.items()}
    first = arms["mutual"][0]
    rows: list[tuple[str, ...]] = [
        ("centre prior", *(f"{first['start']['cohort'][f'centre_prior_{metric}']:.3f}" for metric in METRICS)),
        ("start", *(f"{first['start'][peer][metric]:.3f}" for metric in METRICS)),
    ]
    rows += [
        (kind, *(spread([end[metric] for end in ends[kind]]) for metric in METRICS)) for kind in ("control", "mutual")
    ]
    gains = {
        metric: [after[metric] - plain[metric] for after, plain in zip(ends["mutual"], ends["control"], strict=True)]
        for metric in METRICS
    }
    rows.append(("mutual − control", *(spread(values, sign=True) for values in gains.values())))
    said = [
        verdict(Difference(statistics.fmean(values), statistics.stdev(values)), len(values))
        for values in gains.values()
    ]
    rows.append(("", *said))
    lines = [f"\n**{peer}**\n", f"| {' | '.join(HEADS)} |", f"|---|{'--:|' * len(METRICS)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def cohort_section(name: str, arms: Mapping[str, Sequence[Arm]]) -> list[str]:
    """A heading, a sentence on what transfer did, and a table for each peer."""
    peers, first = COHORTS[name], arms["mutual"][0]
    said = {}
    for peer in peers:
        pairs = zip(arms["mutual"], arms["control"], strict=True)
        gains = [mutual["end"][peer]["CC"] - plain["end"][peer]["CC"] for mutual, plain in pairs]
        said[peer] = verdict(Difference(statistics.fmean(gains), statistics.stdev(gains)), len(gains))
    start = first["start"]
    ensemble, best = start["cohort"]["ensemble_CC"], max(start[peer]["CC"] for peer in peers)
    steady = ", ".join(f"{peer} {first['end'][peer]['consistency']:.3f}" for peer in peers)
    words = "; ".join(f"{peer} is {text}" for peer, text in said.items())
    lines = [
        f"\n## {name.capitalize()} peers: {', '.join(peers)}\n",
        f"Against the control in CC: {words}. The mean of the peers' densities before training has a CC of "
        f"{ensemble:.3f}, the best single peer {best:.3f}.",
        f"CC of neighbouring measured frames after training (first seed): {steady}; of the truth itself "
        f"{first['end']['cohort']['truth_consistency']:.3f}.",
    ]
    return lines + [line for peer in peers for line in peer_table(peer, arms)]


def write(path: Path) -> list[str]:
    """Write the page of all cohorts whose arms have finished; gives their names."""
    done = {name: arms for name in COHORTS if (arms := read_arms(name))}
    if not done:
        return []
    first = next(iter(done.values()))["mutual"][0]
    cohort = first["end"]["cohort"]
    head = READING.format(
        config=CONFIG, steps=first["steps"], samples=cohort["samples"], videos=cohort["videos"], seeds=len(SEEDS)
    )
    text = "\n".join([head.rstrip(), *(line for name, arms in done.items() for line in cohort_section(name, arms))])
    write_text(path, text + "\n" + kept_section(path))
    return list(done)


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", nargs="+", choices=COHORTS, default=list(COHORTS), help="which ones to run")
    parser.add_argument("--write_only", action="store_true", help="only write the page of what has finished")
    options, others = parser.parse_known_args(arguments)
    for name in () if options.write_only else options.cohorts:
        run(name, others)
    done = write(ROOT / "docs" / "SALIENCY.md")
    print(f"docs/SALIENCY.md: {', '.join(done) or 'nothing has finished'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
