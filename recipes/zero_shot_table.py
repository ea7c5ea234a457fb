"""The table of docs/guides/zero_shot.md from what `hf-mutual-kd compare --config recipes/zero_shot.yaml` wrote.

`python recipes/zero_shot_table.py` writes it between the guide's marks.
"""

from __future__ import annotations

import csv
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "guides" / "zero_shot.md"
MARKS = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end -->)", re.DOTALL)
LABELS = {"few": "5 per class", "all": "one row in 16", "none": "none"}


def table(rows: list[dict[str, str]]) -> str:
    """Means over seeds in %, and what the peers added to the better of start, control and self-training."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        labels, arm = row["setting"].split("_")
        values = found[labels, row["peer"]]
        values[arm].append(100 * float(row["end"]))
        if arm == "mutual":
            values["start"].append(100 * float(row["start"]))
            values["control"].append(100 * float(row["control"]))
    lines = [
        "| labels | peer | start | control | self-trained | mutual | mutual − best other |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for (labels, peer), values in found.items():
        arms = [statistics.fmean(values[arm]) for arm in ("start", "control", "self", "mutual")]
        shown = [f"{value:.1f}" for value in arms]
        if labels == "none":
            shown[1] = "–"
        gain = f"{arms[3] - max(arms[:3]):+.1f}".replace("-", "−")
        spread = statistics.stdev(values["mutual"])
        lines.append(f"| {LABELS[labels]} | {peer} | {' | '.join(shown)} ± {spread:.1f} | {gain} |")
    return "\n".join(["", *lines, "", ""])


def main(folder: str = "runs/suites/zero_shot") -> int:
    """Write the table of a suite's folder into the guide."""
    with open(Path(folder) / "peers.csv", encoding="utf-8", newline="") as file:
        made = table(list(csv.DictReader(file)))
    GUIDE.write_text(MARKS.sub(lambda _: made, GUIDE.read_text(encoding="utf-8")), encoding="utf-8")
    print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
