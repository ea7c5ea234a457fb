"""The report of a run: one HTML file that needs no network, and its figures as PNG."""

from __future__ import annotations

import base64
import functools
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from ..data.collator import SAMPLE_ID, rows_with
from ..errors import DataError, OutputFolderError
from ..files import write_bytes, write_text
from .blocks import FLAC, JPEG, Figures, Section, Table, Text
from .card_data import hyperparameters
from .charts import lines_chart
from .closing_table import table as closing_table
from .curves import Points, read_curves
from .figures import Figure, draw
from .interactive import LIBRARY, chart_json, themes
from .pictures import PICTURES, SampleImages, write_pictures
from .predictions import Predictions
from .report_data import MOST_SAMPLES, choose_flips, read_report_data
from .report_sections import COMMON_SECTIONS, ReportTask
from .results import RESULTS
from .results_section import metric_label, tiles, title_of
from .run_record import RunRecord, read_run
from .text import TOKEN, duration, one_line

TEMPLATE = Path(__file__).with_name("report_template.html")
FOLDER = "report"
PAGE = "index.html"

LONGEST_TEXT, LONGEST_COMMAND = 300, 20_000


def write_report(
    run_dir: str | Path, test_rows: Any = None, *, out: str | Path | None = None, task: ReportTask | None = None
) -> Path:
    """
    Write `report/index.html` and the figures beside it, from the run's records.

    Args:
        run_dir (`str` or `Path`): a run, also one that has not ended: what is not known yet is left out.
        test_rows (*optional*): the test split as [`load_splits`] gives it, for the images or texts of
            flipped samples; without it those of an earlier report are shown again, or none.
        out (`str` or `Path`, *optional*): another folder than the run's `report`.
        task ([`Task`], *optional*): the run's, whose sections the page has; without it those of every task.

    Returns:
        `Path`: the page. The same records give the same bytes.

    Raises:
        [`OutputFolderError`]: no run, or a damaged record.
        [`DataError`]: `test_rows` are not those of the run.

    Example:

    ```python
    >>> write_report("runs/vit_classify", task=ImageClassification())
    PosixPath('runs/vit_classify/report/index.html')
    ```
    """
    data = read_report_data(read_run(run_dir))
    folder = Path(out) if out else data.run.folder / FOLDER
    data.inside = folder.resolve() == (data.run.folder / FOLDER).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if test_rows is not None and task is not None and data.first is not None:
        data.pictures = _make_previews(data.first, test_rows, task)
        write_pictures(data.run.folder / PICTURES, data.peers, data.pictures)
    made = [make(data) for make in (COMMON_SECTIONS if task is None else task.report_sections)]
    sections = [section for section in made if section is not None]
    return _write_page(folder, title_of(data), lead_of(data.run), tiles(data), sections)


def compare_runs(run_dirs: Sequence[str | Path], out: str | Path) -> Path:
    """
    Write one page that shows several runs side by side: results, curves and the options that differ.

    Args:
        run_dirs (`list[str | Path]`): two or more runs with the same metric.
        out (`str` or `Path`): folder of the page.

    Raises:
        [`OutputFolderError`]: no run, a run that is given twice, or runs of different tasks.
    """
    runs = _named_runs([read_run(path) for path in run_dirs])
    metrics = {run.words.metric for run in runs.values()}
    if len(metrics) > 1:
        raise OutputFolderError(
            f"only runs with the same metric can be compared, these have {', '.join(sorted(metrics))}"
        )
    found = (_compared_results(runs), _compared_curves(runs), _compared_options(runs))
    sections = [section for section in found if section is not None]
    Path(out).mkdir(parents=True, exist_ok=True)
    return _write_page(Path(out), f"{len(runs)} runs compared", [("runs", ", ".join(runs))], [], sections)


def _named_runs(runs: Sequence[RunRecord]) -> dict[str, RunRecord]:
    """The runs by the last part of their folder, with the part above where two share it."""
    folders = [run.folder.resolve() for run in runs]
    if len(set(folders)) < len(folders):
        raise OutputFolderError("a run is given twice; give each once")
    names = [folder.name for folder in folders]
    long = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    chosen = [full if names.count(name) > 1 else name for name, full in zip(names, long, strict=True)]
    return {
        name if chosen.count(name) == 1 else f"{name} ({place})": run
        for place, (name, run) in enumerate(zip(chosen, runs, strict=True), start=1)
    }


def _compared_results(runs: Mapping[str, RunRecord]) -> Section | None:
    tables = {name: closing_table(run.results, run.words) for name, run in runs.items() if run.results}
    # A column that says nothing of a run is left out of its table.
    columns = dict.fromkeys(column for found, _ in tables.values() for column in found)
    rows = [
        [name, *(dict(zip(found, row, strict=True)).get(column, "–") for column in columns)]
        for name, (found, each) in tables.items()
        for row in each
    ]
    caption = f"Test split: {metric_label(next(iter(runs.values())))}"
    return Section("results", "Results", [Table(caption, ("run", *columns), rows, words=2)]) if rows else None


def _compared_curves(runs: Mapping[str, RunRecord]) -> Section | None:
    label = metric_label(next(iter(runs.values())))
    scale = next(iter(runs.values())).words.scale
    figures = []
    for peer in dict.fromkeys(name for run in runs.values() for name in run.peers):
        lines: dict[str, Points] = {}
        for name, run in runs.items():
            curves = read_curves(run.arm_folders(), peer, run.words.metric, prefix=next(iter(run.eval_sets.values())))
            lines |= {name: curves.mutual[0]} if curves.mutual else {}
            lines |= {f"{name}, control": curves.control[0]} if curves.control else {}
        if lines:
            ends = [f"{name} ends at {scale * points[-1][1]:.2f}" for name, points in lines.items()]
            alt = f"{peer}, validation {label} over the steps: {'; '.join(ends)}."
            dashed = [name for name in lines if name.endswith(", control")]
            chart = lines_chart(lines, f"validation {label}", scale=scale, dashed=dashed)
            figures.append(draw(f"compare-{peer}", alt, chart, caption=peer))
    words = Text("On the validation split, first seed of each run.")
    return Section("training", "Training", [words, Figures(figures)]) if figures else None


def _compared_options(runs: Mapping[str, RunRecord]) -> Section | None:
    given = {
        name: {key: value for part in hyperparameters(run).values() for key, value in part.items()}
        for name, run in runs.items()
    }
    options = dict.fromkeys(key for values in given.values() for key in values)
    rows = [[key, *(values.get(key, "–") for values in given.values())] for key in options]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return None
    return Section("options", "Options", [Table("Options that differ", ("option", *runs), rows)])


def lead_of(run: RunRecord) -> list[tuple[str, str]]:
    """The facts under the title."""
    dataset, seeds, steps = run.dataset, run.seeds, run.results.steps if run.results else 0
    facts = [
        ("task", run.words.title),
        ("data", str(dataset["name"]).rstrip("/").split("/")[-1] if dataset.get("name") else ""),
        ("of the data", str(dataset.get("note") or "")),
        ("seeds", ", ".join(map(str, seeds))),
        ("steps", f"{steps:,}" if steps else ""),
        ("finished", _finished(run)),
        ("trained for", duration(sum(sum(each) for each in run.results.seconds.values())) if run.results else ""),
        ("device", str((run.fact("hardware") or {}).get("device") or "")),
    ]
    return [(name, value) for name, value in facts if value]


def _finished(run: RunRecord) -> str:
    """The day on which the results were written."""
    path = run.folder / RESULTS
    return time.strftime("%Y-%m-%d", time.gmtime(path.stat().st_mtime)) if path.is_file() else ""


def _write_page(
    folder: Path,
    title: str,
    lead: Sequence[tuple[str, str]],
    heroes: Sequence[Mapping[str, str]],
    sections: Sequence[Section],
) -> Path:
    for figure in (item for section in sections for block in section.blocks for item in _figures(block)):
        write_bytes(folder / f"{figure.name}.png", figure.light)
    page = render(title, lead, heroes, sections)
    write_text(folder / PAGE, page)
    return folder / PAGE


KINDS = {JPEG: "image/jpeg", FLAC: "audio/flac"}
"""Of what pages carry, by the first bytes; everything else is PNG."""


@functools.cache
def _template() -> tuple[Template, str]:
    """The page's template, and its own script."""
    environment = Environment(
        autoescape=True, finalize=_shown, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["whole"] = lambda text: escape(one_line(text, LONGEST_COMMAND))
    environment.filters["picture"] = _picture_url
    environment.filters["chart"] = chart_json
    source = TEMPLATE.read_text(encoding="utf-8")
    return environment.from_string(source), source.split("<script>")[1].split("</script>")[0]


def render(
    title: str, lead: Sequence[tuple[str, str]], heroes: Sequence[Mapping[str, str]], sections: Sequence[Section]
) -> str:
    """The whole page; all text is escaped and cut, and the page forbids itself all requests and other scripts."""
    template, own = _template()
    drawn = any(item.chart for section in sections for block in section.blocks for item in _figures(block))
    library = f"\n{LIBRARY.read_text(encoding='utf-8')}\n" if drawn else ""
    page = template.render(
        title=title,
        lead=lead,
        heroes=heroes,
        sections=sections,
        themes=themes(),
        script_hashes=" ".join(f"'{_digest(script)}'" for script in (own, library) if script),
    )
    # The library is put in last: nothing that looks like a token to us may be changed in it.
    page = TOKEN.sub("(hidden)", page)
    return page.replace("<script>", f"<script>{library}</script>\n<script>", 1) if library else page


def _digest(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _figures(block: Any) -> Sequence[Figure]:
    return block.items if block.kind == "figures" else ()


def _shown(value: Any) -> Any:
    """Text from outside on one line and cut; what is markup already stays."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return one_line(value, LONGEST_TEXT)


def _picture_url(content: bytes) -> Markup:
    """A PNG, JPEG or FLAC as a `data:` URL."""
    kind = next((kind for start, kind in KINDS.items() if content.startswith(start)), "image/png")
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")


def _make_previews(part: Predictions, rows: Any, task: ReportTask) -> list[SampleImages]:
    """Small images, sounds or texts of the samples that the page shows.

    Raises:
        [`DataError`]: a row has another label than the run measured it with.
    """
    chosen = {int(part.ids[row]): int(part.labels[row]) for row in choose_flips(part, MOST_SAMPLES)}
    made = []
    for row in rows_with(rows, list(chosen)):
        place = row[SAMPLE_ID]
        if row.get("label") != chosen[place]:
            raise DataError(
                f"test sample {place} has label {row.get('label')}, but the run measured it with {chosen[place]}; "
                "give the data set of the run"
            )
        seen = task.preview(row)
        if isinstance(seen, str):
            made.append(SampleImages(place, f"test sample {place}", text=seen))
        elif seen is not None:
            made.append(SampleImages(place, f"test sample {place}", seen))
    return made
