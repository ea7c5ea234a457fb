"""Tables for the terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table


def render(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> str:
    """A plain-text table; the first column is left-aligned, all others right-aligned, nothing is wrapped or cut."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(width=max(200, 8 * len(columns)), color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def program() -> str:
    """How this package's command is typed here: by its path where that is in no folder of `PATH`."""
    beside = Path(sys.executable).parent / "hf-mutual-kd"
    if shutil.which("hf-mutual-kd") or not beside.is_file():
        return "hf-mutual-kd"
    return os.path.relpath(beside)


def percent(value: float, sign: bool = False) -> str:
    """`0.8731` as `87.3`; with `sign` a difference in points, `+0.4`."""
    return f"{100 * value:+.2f}" if sign else f"{100 * value:.1f}"


def size_of(size: int) -> str:
    """`1536` as `1.5 kB`, in powers of 1000."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
