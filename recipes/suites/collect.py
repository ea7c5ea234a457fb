"""Join what the suites found into one page: `make suites`, or `python recipes/suites/collect.py` after them."""

from __future__ import annotations

import argparse
import csv
import itertools
import shutil
import statistics
import sys
from pathlib import Path

from hf_mutual_kd import write_text

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from correlation import with_interval  # noqa: E402 - beside this folder, which is no package

DOCS = HERE.parents[1] / "docs"
ORDER = (
    "teachers",
    "temperature_weight",
    "n_peers",
    "label_free",
    "few_labels",
    "weak_with_strong",
    "pairs",
    "headline",
)

INTRODUCTION = """\
# Ways of teaching, side by side

Made by `make suites`: `python recipes/suites/make_peers.py`, `hf-mutual-kd compare --config recipes/suites/NAME.yaml`
for each suite and `python recipes/suites/collect.py`. All on the embedded part of Fashion-MNIST, with peers of about
20,000 parameters; 6,000 test rows; the last step is reported. The control has the same start, rows, order, steps and
learning rate: it is not tuned, unlike in [the hunt](HUNT.md), where a peer has to beat its best of several. Seconds
depend on what else the machine does: [costs](COST.md) are measured apart."""


def title_of(suite: Path) -> str:
    """The first sentence of a suite's comment."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), suite.read_text(encoding="utf-8").splitlines())
    words = " ".join(line.removeprefix("#").strip() for line in lines)
    return words.split(" First: ")[0].split(" Start it ")[0]


def section(name: str, folder: Path) -> tuple[str, list[str]]:
    """A suite's table and figure, and its settings, the best first."""
    _, _, rest = (folder / "comparison.md").read_text(encoding="utf-8").partition("\n\n")
    rest = rest.replace("(comparison.png)", f"(suite_{name}.png)").strip()
    with open(folder / "comparison.csv", encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: -float(row["delta"]))
    return f"## {name}\n\n{title_of(HERE / f'{name}.yaml')}\n\n{rest}", [row["setting"] for row in rows]


STUDY = """## Does the scout's number predict the gain?

Spearman's rank correlation, over both peers of every pair, of a number that is known before training with the gain
over the control. *Ensemble − best peer* is measured on the validation rows, accuracies before training on the test
rows. Intervals are a bootstrap over pairs. `hf-mutual-kd scout` ranks by *ensemble − my accuracy*; [the hunt](HUNT.md)
compares more numbers."""


def study(folder: Path) -> str:
    """The correlations in every setting of the suite of pairs."""
    with open(folder / "peers.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["| setting | known before training | ρ | 95 % | pairs |", "| --- | --- | --: | --: | --: |"]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        pairs: dict[str, dict[str, dict[str, float]]] = {}
        for row in rows:
            if row["setting"] == setting:
                pairs.setdefault(row["pair"], {}).setdefault(row["peer"], mean_of(rows, row))
        for name in ("ensemble − best peer", "ensemble − my accuracy", "partner's − my accuracy"):
            points = [known_of(list(peers.values()), name) for peers in pairs.values()]
            rho, low, high = with_interval(points)
            lines.append(f"| {setting} | {name} | {rho:+.2f} | {low:+.2f} … {high:+.2f} | {len(points)} |")
    return "\n".join([STUDY, "", *lines])


def mean_of(rows: list[dict[str, str]], one: dict[str, str]) -> dict[str, float]:
    """Means over the seeds of a row's peer in its pair and setting."""
    same = [row for row in rows if all(row[key] == one[key] for key in ("setting", "pair", "peer"))]
    names = ("start", "delta", "ensemble_minus_best_on_validation")
    return {name: statistics.fmean(float(row[name]) for row in same) for name in names}


def known_of(peers: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    """What is known of each peer of a pair, and what it gained."""
    best = max(peer["start"] for peer in peers)
    points = []
    for place, peer in enumerate(peers):
        together = peer["ensemble_minus_best_on_validation"]
        known = {
            "ensemble − best peer": together,
            "ensemble − my accuracy": together + best - peer["start"],
            "partner's − my accuracy": peers[1 - place]["start"] - peer["start"],
        }
        points.append((known[name], peer["delta"]))
    return points


def main(arguments: list[str] | None = None) -> int:
    """Write `SUITES.md` and the figures; suites that were not run are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suites", type=Path, default=Path("runs/suites"), help="where `compare` wrote")
    parser.add_argument("--output", type=Path, default=DOCS)
    options = parser.parse_args(arguments)
    done = [name for name in ORDER if (options.suites / name / "comparison.md").is_file()]
    if not done:
        parser.error(
            f"{options.suites} holds no finished suite; run hf-mutual-kd compare --config …/teachers.yaml first"
        )
    sections, best = zip(*(section(name, options.suites / name) for name in done), strict=True)
    lines = [f"- **{name}**: {', '.join(order[:3])}." for name, order in zip(done, best, strict=True)]
    missing = [name for name in ORDER if name not in done]
    said = f"\n\nNot run: {', '.join(missing)}." if missing else ""
    page = f"{INTRODUCTION}{said}\n\nThe settings with the largest means:\n\n" + "\n".join(lines)
    sections += (study(options.suites / "pairs"),) if "pairs" in done else ()
    write_text(options.output / "SUITES.md", "\n\n".join([page, *sections]) + "\n")
    for name in done:
        shutil.copyfile(options.suites / name / "comparison.png", options.output / f"suite_{name}.png")
    print(f"{options.output}/SUITES.md: {', '.join(done)}{said.strip()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
