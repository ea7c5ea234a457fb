"""Parts of the answer that tasks share, as HTML: who would teach whom and why, a peer before and after."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image
from view import PHASES

WHEN = {"start": "before", "end": "after"}


@dataclass(frozen=True)
class Ranking:
    """The numbers that say who would teach.

    Args:
        names (`list[str]`): of the peers.
        values (`dict[str, list]`): for each phase a number of every peer, higher is better, `None` where there is
            none.
        head (`str`): what the numbers are called.
        show (callable): a number as text.
        unknown (`str`, *optional*): where the truth is not known, so that nobody would teach: what to say of that.
        leads (`tuple[str, str]`, *optional*): and what to say of the highest number, and where no one is highest.
    """

    names: Sequence[str]
    values: dict[str, list[float | None]]
    head: str
    show: Callable[[float], str]
    unknown: str = ""
    leads: tuple[str, str] | None = None


def best_of(scores: Sequence[float | None]) -> int | None:
    """Who teaches: the strictly best score, nobody at a tie or where one is missing."""
    known = [score for score in scores if score is not None]
    if len(known) < max(2, len(scores)) or known.count(max(known)) > 1:
        return None
    return known.index(max(known))


def alert(text: str) -> str:
    """A message that screen readers speak at once."""
    return f'<div class="mk alert" role="alert">{html.escape(text)}</div>'


def teaching(ranking: Ranking) -> str:
    """Who would teach whom, and the numbers that say so."""
    sentences = []
    for phase, when in (("start", "At the start"), ("end", "After the training")):
        if None not in ranking.values[phase] and len(ranking.names) > 1:
            sentence = _leader(ranking, phase) if ranking.unknown else _teacher(ranking, phase)
            sentences += [f"{when} {sentence}."] if sentence else []
    sentences += [ranking.unknown] if ranking.unknown else []
    teachers = {phase: None if ranking.unknown else best_of(ranking.values[phase]) for phase in PHASES}
    rows = []
    for place, name in enumerate(ranking.names):
        cells = [
            ("–" if (value := ranking.values[phase][place]) is None else ranking.show(value))
            + (" <b>teaches</b>" if teachers[phase] == place else "")
            for phase in PHASES
        ]
        rows.append(f"<tr><th scope=row>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    label = html.escape(ranking.head, quote=True)
    return (
        f"<p>{html.escape(' '.join(sentences))}</p><p class=soft>{label}</p><div class=scroll><table aria-label="
        f'"{label}"><thead><tr><th scope=col>peer</th><th scope=col>before</th><th scope=col>after</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _leader(ranking: Ranking, phase: str) -> str:
    who = best_of(ranking.values[phase])
    if ranking.leads is None:
        return ""
    return ranking.leads[1] if who is None else f"{ranking.names[who]} {ranking.leads[0]}"


def _teacher(ranking: Ranking, phase: str) -> str:
    who = best_of(ranking.values[phase])
    if who is None:
        return "nobody would teach: it is a tie"
    students = " and ".join(name for name in ranking.names if name != ranking.names[who])
    return f"{ranking.names[who]} knows the truth best and would teach {students}"


def rule_of(facts: dict[str, Any]) -> str:
    """By which rule the run chose its teachers."""
    return f"<p class=soft>In this run: {html.escape(facts['rule'])}</p>" if facts["rule"] else ""


def signed(value: float) -> str:
    """A score with its sign."""
    return f"{value:+.2f}".replace("-", "−")


def about(peer: dict[str, Any]) -> str:
    """What is said of a peer, with links to its cards."""
    cards = [
        f'<a href="{html.escape(peer[key], quote=True)}" target="_blank" rel="noopener">{text}</a>'
        for key, text in (("card", "model card"), ("base_card", "what it started from"))
        if peer.get(key)
    ]
    links = f" · {' · '.join(cards)}" if cards else ""
    return f"<h3>{peer['name']}</h3><p class=soft>{html.escape(peer['said'])}{links}</p>"


def beside(phases: dict[str, Any], show: Callable[[Any, str], str]) -> str:
    """A peer before beside after; `show` makes HTML of what was seen, and of the word for when."""
    halves = [
        f"<div><h4>{when}</h4>"
        + (f"<p class=soft>{html.escape(seen)}</p>" if isinstance(seen := phases[phase], str) else show(seen, when))
        + "</div>"
        for phase, when in WHEN.items()
    ]
    return f"<div class=pair>{''.join(halves)}</div>"


def data_uri(image: Image.Image, kind: str = "PNG") -> str:
    """An image as an address that needs no request."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def figure(caption: str, address: str) -> str:
    """An image with its words."""
    words = html.escape(caption, quote=True)
    return f'<figure><img src="{address}" alt="{words}"><figcaption>{words}</figcaption></figure>'
