"""`hf-mutual-kd export`: peers as ONNX, checked, and pushed on request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..config.fields import option
from ..config.rules import COUNT, between
from ..errors import ExportError

if TYPE_CHECKING:
    from ..export.onnx import Exported


@dataclass
class ExportOptions:
    """Options of `export`."""

    place: str = option(
        "run", "", "Folder of a run, or of one model.", positional=True, required=True, metavar="RUN_DIR|MODEL_DIR"
    )
    peers: list[str] | None = option("peers", None, "Only these peers.", metavar="NAME …")
    format: Literal["onnx"] = option("output", "onnx", "Of the files.")
    int8: bool = option("output", False, "Also a quantized file, a quarter of the size.")
    out: str | None = option("output", None, "Where to; onnx/ in each peer's folder when left out.", metavar="FOLDER")
    dataset: str | None = option("data", None, "The data set to check with; the run's when left out.", place=True)
    samples: int = option("data", 256, "Of the test split to check with.", rule=COUNT)
    max_drop: float = option(
        "output", 2.0, "Points of accuracy, or hundredths of CC, that int8 may lose.", rule=between(0, 100)
    )
    push: str | None = option("hub", None, "Push the peers with their cards and ONNX files.", metavar="NAMESPACE")


def run_export(options: ExportOptions) -> None:
    """Export, print the table, push where that was asked for, and fail where a file was refused."""
    if options.push and (options.out or not (Path(options.place) / "cohort.json").is_file()):
        raise ExportError("--push sends the peers of a run with the files in their folders: give RUN_DIR and no --out")
    from ..export.onnx import ExportCheck, export_peers

    done = export_peers(
        options.place,
        int8=options.int8,
        peers=options.peers,
        out=options.out,
        check=ExportCheck(samples=options.samples, dataset=options.dataset, max_drop=options.max_drop / 100),
    )
    print(export_table(done))
    if options.push:
        from ..hub.push import push_run

        for pushed in push_run(options.place, options.push, peers=options.peers).peers:
            print(f"{pushed.peer}: {pushed.url}")
    refused = [
        f"{one.peer}: {name} was deleted: {file.refused}"
        for one in done
        for name, file in one.measured.items()
        if file.refused
    ]
    if refused:
        raise ExportError("\n".join(refused))


def export_table(done: list[Exported]) -> str:
    """The table: what each file keeps of PyTorch's accuracy, how large and how fast it is, and where it lies."""
    from ..reports.task_words import text_under
    from ..reports.terminal import render, size_of

    words = done[0].words
    kept = words.shown[words.kept]
    columns = ("peer", "", kept, words.alike, "max difference", "size", "ms, one core")
    rows = [
        (
            one.peer,
            file.what,
            "–" if file.accuracy is None else text_under(kept, file.accuracy),
            "–" if file.agreement is None else text_under(words.alike, file.agreement),
            "–" if file.max_difference is None else f"{file.max_difference:.1e}",
            "deleted" if file.refused else size_of(file.bytes),
            "–" if file.latency_ms is None else f"{file.latency_ms:.2f}",
        )
        for one in done
        for file in one.measured.values()
    ]
    title = f"On {done[0].samples} samples of the {done[0].split} split; one sample at a time for the latency"
    return "\n".join([render(columns, rows, title=title), *(f"{one.peer}: {one.folder}" for one in done)])
