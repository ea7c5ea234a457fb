"""The answer to a visitor as HTML: who would teach whom and why, then each peer before and after."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import torch
from peers import IGNORE, PHASES, Seen
from PIL import Image

PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#4b0000", "#000096", "#962d00",
    "#693c69", "#a53cff", "#001ed2", "#2d0f4b", "#b4c396", "#875a69", "#4b2d3c", "#691e00", "#b4ffa5", "#69d2ff",
)  # fmt: skip
OTHER, NONE = "#9a9a9a", "#dedede"
WHEN = {"start": "before", "end": "after"}


def best_of(scores: Sequence[float | None]) -> int | None:
    """Who teaches: the strictly best score, nobody at a tie or where one is missing."""
    known = [score for score in scores if score is not None]
    if len(known) < max(2, len(scores)) or known.count(max(known)) > 1:
        return None
    return known.index(max(known))


def alert(text: str) -> str:
    """A message that screen readers speak at once."""
    return f'<div class="mk alert" role="alert">{html.escape(text)}</div>'


def answer(facts: dict[str, Any], image: Image.Image, truth: Any, seen: dict[str, dict[str, Seen | str]]) -> str:
    """The page below the form: who would teach whom and why, then each peer before and after."""
    colours = colours_of(truth, seen) if facts["task"] == "semantic-segmentation" else {}
    parts = [teaching(facts, truth is not None, seen)]
    if colours:
        shown = [figure("the image", data_uri(image))]
        shown += [figure("the truth", painted(truth, colours))] if truth is not None else []
        legend = "".join(
            f'<li><i style="background:{colour}"></i>{html.escape(facts["labels"][index])}</li>'
            for index, colour in colours.items()
        )
        parts.append(f'<section><div class="maps">{"".join(shown)}</div><ul class="legend">{legend}</ul></section>')
    right = None if truth is None or colours else facts["labels"][truth]
    parts += [peer_section(peer, seen[peer["name"]], right, colours) for peer in facts["peers"]]
    return f'<div class="mk" role="status">{"".join(parts)}</div>'


def teaching(facts: dict[str, Any], knows: bool, seen: dict[str, dict[str, Seen | str]]) -> str:
    """Who would teach whom, and the numbers that say so."""
    names = list(seen)
    value = (lambda one: one.score) if knows else (lambda one: one.confidence)
    columns = {
        phase: [value(one) if isinstance(one := seen[name][phase], Seen) else None for name in names]
        for phase in PHASES
    }
    teachers = {phase: best_of(column) for phase, column in columns.items()}
    said = []
    for phase, when in (("start", "At the start"), ("end", "After the training")):
        if None in columns[phase] or len(names) < 2:
            continue
        who = teachers[phase]
        if not knows:
            surest = "no peer is surer than the others" if who is None else f"{names[who]} is the surest of its guess"
            said.append(f"{when} {surest}.")
        elif who is None:
            said.append(f"{when} nobody would teach: it is a tie.")
        else:
            students = " and ".join(name for name in names if name != names[who])
            said.append(f"{when} {names[who]} knows the truth best and would teach {students}.")
    if not knows:
        said.append("Without the truth nobody can say who should teach: being sure is not being right.")
    head = facts["score"] if knows else "confidence: the probability of its own best guess"
    rows = "".join(
        f"<tr><th scope=row>{name}</th>"
        + "".join(
            f"<td>{shown_score(columns[phase][place], knows)}"
            + (" <b>teaches</b>" if knows and teachers[phase] == place else "")
            + "</td>"
            for phase in PHASES
        )
        + "</tr>"
        for place, name in enumerate(names)
    )
    label = html.escape(head, quote=True)
    table = (
        f'<p class=soft>{label}</p><div class=scroll><table aria-label="{label}"><thead><tr><th scope=col>peer</th>'
        f"<th scope=col>before</th><th scope=col>after</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
    rule = f"<p class=soft>In this run: {html.escape(facts['rule'])}</p>" if facts["rule"] else ""
    return f"<section><h2>Who would teach whom</h2><p>{html.escape(' '.join(said))}</p>{table}{rule}</section>"


def shown_score(value: float | None, knows: bool) -> str:
    """A score with its sign, or a confidence in percent."""
    if value is None:
        return "–"
    return f"{value:+.2f}".replace("-", "−") if knows else f"{100 * value:.1f} %"


def peer_section(
    peer: dict[str, Any], phases: dict[str, Seen | str], right: str | None, colours: dict[int, str]
) -> str:
    """One peer, before beside after, with a link to its card."""
    cards = [
        f'<a href="{html.escape(peer[key], quote=True)}" target="_blank" rel="noopener">{text}</a>'
        for key, text in (("card", "model card"), ("base_card", "what it started from"))
        if peer.get(key)
    ]
    halves = "".join(
        f"<div><h4>{when}</h4>{shown_phase(phases[phase], right, colours, peer['name'], when)}</div>"
        for phase, when in WHEN.items()
    )
    facts = html.escape(peer["said"])
    links = f" · {' · '.join(cards)}" if cards else ""
    return (
        f"<section class=peer><h3>{peer['name']}</h3><p class=soft>{facts}{links}</p>"
        f"<div class=pair>{halves}</div></section>"
    )


def shown_phase(seen: Seen | str, right: str | None, colours: dict[int, str], name: str, when: str) -> str:
    """Bars of the best guesses, or a map."""
    if isinstance(seen, str):
        return f"<p class=soft>{html.escape(seen)}</p>"
    if seen.classes is not None:
        share = "" if seen.right is None else f": {100 * seen.right:.1f} % of the pixels right"
        return figure(f"{name} {when}{share}", painted(seen.classes, colours))
    bars = []
    for label, share in seen.guesses:
        mark, word = ("✓ ", "hit") if label == right else ("", "")
        bars.append(
            f'<li class="{word}"><span class=label>{mark}{html.escape(label)}</span>'
            f"<span class=track><i style=width:{100 * share:.1f}%></i></span><span>{100 * share:.1f} %</span></li>"
        )
    return f"<ol class=bars>{''.join(bars)}</ol>"


def colours_of(truth: torch.Tensor | None, seen: dict[str, dict[str, Seen | str]]) -> dict[int, str]:
    """A colour for every class that occurs, the frequent ones first where there are more classes than colours."""
    maps = [one.classes for phases in seen.values() for one in phases.values() if isinstance(one, Seen)]
    planes = [plane.flatten() for plane in [*maps, truth] if plane is not None]
    counts = torch.bincount(torch.cat(planes)) if planes else torch.zeros(0)
    counts[IGNORE:] = 0
    found = counts.nonzero().flatten().tolist()
    if len(counts) and max(found, default=0) < len(PALETTE):
        return {index: PALETTE[index] for index in found}
    ranked = sorted(found, key=lambda index: -int(counts[index]))
    return {index: PALETTE[place] if place < len(PALETTE) else OTHER for place, index in enumerate(ranked)}


def painted(classes: torch.Tensor, colours: dict[int, str]) -> str:
    """A map of class ids as the address of a PNG."""
    height, width = classes.shape
    shown = Image.frombytes("L", (width, height), classes.to(torch.uint8).contiguous().numpy().tobytes())
    palette = [channel for index in range(256) for channel in bytes.fromhex(colours.get(index, NONE)[1:])]
    shown.putpalette(palette)
    return data_uri(shown)


def data_uri(image: Image.Image) -> str:
    """An image as an address that needs no request."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def figure(caption: str, address: str) -> str:
    """An image with its words."""
    words = html.escape(caption, quote=True)
    return f'<figure><img src="{address}" alt="{words}"><figcaption>{words}</figcaption></figure>'
