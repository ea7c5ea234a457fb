"""The model card of every peer of a run, built from the run's records alone."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, Template

from ..errors import PeerError
from ..files import write_bytes
from .card_data import CardData, build_card, teacher_rows
from .card_metadata import metadata
from .curves import read_curves
from .figures import teacher_figure, training_figure
from .readme_merge import BEGIN, END, merge_readme
from .run_record import RunRecord, read_run
from .text import (
    TOKEN,
    Markdown,
    code,
    dump_front_matter,
    duration,
    escape,
    fence,
    number,
    sentence,
)

TEMPLATE = Path(__file__).with_name("model_card_template.md")

METHOD_CITATION = """@article{jain2025simplifying,
  title   = {Simplifying Knowledge Transfer in Pretrained Models},
  author  = {Jain and Karthik and Gandhi},
  journal = {Transactions on Machine Learning Research},
  year    = {2025},
  note    = {arXiv:2510.22208}
}"""

EXAMPLES = Path("report") / "examples.png"
"""The figure of a run that [`examples`] draws."""


@functools.cache
def _template() -> Template:
    environment = Environment(finalize=escape, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"code": code, "fence": fence, "sentence": sentence, "duration": duration, "ours": Markdown}
    environment.globals = {
        "number": number,
        "METHOD_CITATION": METHOD_CITATION,
        "BEGIN": Markdown(BEGIN),
        "END": Markdown(END),
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def render(card: CardData, data: Mapping[str, Any]) -> str:
    """The whole README."""
    return TOKEN.sub("(hidden)", dump_front_matter(data) + _template().render(card=card))


def draw_figures(run: RunRecord, name: str) -> dict[str, bytes]:
    """The figures for which there are numbers."""
    drawn = {}
    if shares := [(row["who"], row["share"]) for row in teacher_rows(run, name)]:
        drawn["teachers"] = teacher_figure(shares, name)
    if curves := read_curves(run.arm_folders(), name, run.words.metric, prefix=next(iter(run.eval_sets.values()))):
        drawn["training"] = training_figure(curves, run.words.shown[run.words.metric], run.selected_step(name))
    if (run.folder / EXAMPLES).is_file():
        drawn["examples"] = (run.folder / EXAMPLES).read_bytes()
    return drawn


def write_cards(
    run_dir: str | Path, peers: Sequence[str] | None = None, *, repositories: Mapping[str, str] | None = None
) -> dict[str, Path]:
    """Build the card of each peer inside its folder: `README.md` and `figures/*.png`. Needs no network.

    Args:
        run_dir (`str` or `Path`): a run, also one that has not ended: what is not known yet is left out.
        peers (`list[str]`, *optional*): whose cards; all that have a folder when unset.
        repositories (`dict[str, str]`, *optional*): the Hub id each peer goes to, for links and the snippet; those in
            `cohort.json` when unset.

    Returns:
        `dict[str, Path]`: the cards, by peer. A card that was there keeps what its user wrote ([`merge_readme`]).

    Raises:
        [`OutputFolderError`]: no run, or a damaged record.
        [`PeerError`]: a peer that the run does not have, that has no folder yet, or whose
            README.md has metadata that cannot be read.
    """
    run = read_run(run_dir, repositories)
    for name in peers or ():
        if name not in run.peers or not (run.folder / name).is_dir():
            raise PeerError(f"{run.folder} has no peer {name!r}; its peers are {', '.join(run.peers)}")
    written = {}
    for name in peers or [name for name in run.peers if (run.folder / name).is_dir()]:
        folder = run.folder / name
        figures = draw_figures(run, name)
        for figure in ("teachers", "training", "examples"):
            _write(folder / "figures" / f"{figure}.png", figures.get(figure))
        card = build_card(run, name, {figure: f"figures/{figure}.png" for figure in figures})
        text, path = render(card, metadata(run, name)), folder / "README.md"
        present = path.read_text(encoding="utf-8") if path.is_file() else None
        _write(path, merge_readme(text, present, f"{name}/README.md").encode())
        written[name] = path
    return written


def _write(path: Path, content: bytes | None) -> None:
    """Write a file; without content remove an old one."""
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_bytes(path, content)
