"""How sure peers are and how often they are right, before, in the control and after."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from .blocks import Figures, Section, Table, Text
from .charts import reliability_chart
from .figures import draw
from .report_data import Reliability
from .text import number, spread


def calibration_of(peers: Sequence[str], units: str, found: Sequence[Mapping[str, Sequence[Reliability]]]) -> Section:
    """
    The section on calibration.

    Args:
        peers (`list[str]`): the N peers.
        units (`str`): what is counted.
        found (N of `dict[str, list[Reliability]]`): of each peer at the `start`, in the `control` and `after`, a part
            for each seed.
    """
    rows, figures = [], []
    for name, arms in zip(peers, found, strict=True):
        errors = {arm: [one.error for one in parts] for arm, parts in arms.items()}
        shown = {arm: number(statistics.fmean(each), True) for arm, each in errors.items() if each}
        rows.append([name, *(shown[arm] + spread(errors[arm], True) if arm in shown else "–" for arm in errors)])
        alt = f"{name}, accuracy over confidence; calibration error " + ", ".join(
            f"{a} {v} %" for a, v in shown.items()
        )
        chart = reliability_chart({arm: parts[0] for arm, parts in arms.items() if parts})
        figures.append(draw(f"reliability-{name}", f"{alt}.", chart, (3.6, 3.3), name))
    return Section(
        "calibration",
        "Calibration",
        [
            Text(
                "Expected calibration error: the mean gap between how sure a peer is and how often it is right, over "
                f"15 bins; 0 is perfect. Counted on {units}. Below the diagonal a peer is too sure. Figures are of "
                "the first seed."
            ),
            Table("Expected calibration error on the test split, %", ("peer", "start", "control", "after"), rows),
            Figures(figures),
        ],
    )
