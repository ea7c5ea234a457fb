"""What a run in stages kept of each peer, and why, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .results import CONTROL, MUTUAL, START, Difference, PeerResult, Results
from .task_words import TaskWords

TITLES = {"self": "self-trained", "taught": "mutual", MUTUAL: "kept"}
"""What arms of a run in stages are called; what is kept lies in the peers' folders, as what any run trained."""

ALONE = (START, CONTROL, "self")
"""What a peer would be without the others."""

WHAT = {
    "start": "its start",
    "adapted": "its adapted weights",
    "control": "its fine-tuned weights",
    "self": "what it taught itself",
    "mutual": "what its peers taught it",
}


def best_alone(peer: PeerResult, words: TaskWords) -> str | None:
    """The best of start, control and self-training on the test split, by its mean over seeds."""
    known = [arm for arm in ALONE if peer.value(arm, words.metric) is not None]
    return max(known, key=lambda arm: peer.value(arm, words.metric) or 0.0) if known else None


def reference_of(results: Results, peer: PeerResult, words: TaskWords) -> str:
    """The arm that a peer's gain is shown against: the control; of a run in stages the best that it reached alone."""
    return (best_alone(peer, words) if results.kept else None) or results.reference


def delta_of(results: Results, peer: PeerResult, words: TaskWords) -> Difference | None:
    """How far a peer is above [`reference_of`]."""
    return peer.delta(reference_of(results, peer, words), words.metric)


def reference_words(results: Results) -> str:
    """`"control"`, `"start"`, or `"best control"`, which differs by peer."""
    return "best control" if results.kept else results.reference


def kept_words(choice: dict[str, Any]) -> str:
    """`"what its peers taught it (way: mean), half way from its start (α 0.5)"`."""
    way = f" (way: {choice['way']})" if choice.get("way") else ""
    part = "" if choice["alpha"] == 1.0 else f", at α {choice['alpha']:g} of the way from its start"
    return f"{WHAT[choice['what']]}{way}{part}"


def reason(choice: dict[str, Any], words: TaskWords) -> str:
    """Why that is kept, in a sentence: what was compared on how many rows."""
    value, against = (words.text(choice[key]) for key in ("value", "against_value"))
    if choice["what"] == choice["against"] and choice["alpha"] == 1.0:
        return (
            f"Nothing was better than {WHAT[choice['against']]} by more than one standard error: {value} on "
            f"{choice['rows']:,} validation {words.counted}."
        )
    return (
        f"On {choice['rows']:,} validation {words.counted} it reached {value}, {WHAT[choice['against']]} {against}; "
        f"the rows differ by {choice['gain']:+.4f} in favour of it, more than one standard error, "
        f"{choice['margin']:.4f}."
    )


def kept_lines(results: Results | None, peer: str, words: TaskWords) -> list[str]:
    """For a card: which weights these are, which way taught, on what share of labelled rows, and why."""
    choices = (results.kept if results else {}).get(peer)
    if not choices or results is None:
        return []
    share = results.labelled_share
    held = "" if share is None else f" {100 * share:.0f} % of the rows of a step had a label."
    return [f"These weights are {kept_words(choices[0])}.{held}", reason(choices[0], words)]


def kept_sentence(results: Results) -> str:
    """What the peers keep, in one sentence, of the first seed: `"2 of 3 peers keep what the others taught; …"`."""
    first = {name: choices[0] for name, choices in results.kept.items() if choices}
    if not first:
        return ""
    gained = [name for name, choice in first.items() if choice["what"] == "mutual"]
    others = [f"{name} keeps {kept_words(choice)}" for name, choice in first.items() if name not in gained]
    ways = sorted({str(first[name]["way"]) for name in gained})
    by = f" (way: {', '.join(ways)})" if ways else ""
    sentences = [
        f"{len(gained)} of {len(first)} peers keep{'s' * (len(gained) == 1)} what the others taught{by}",
        *others,
    ]
    return f"{'; '.join(sentences)}."


def columns_of(results: Results) -> Sequence[str]:
    """Titles of the arms' columns."""
    return [TITLES.get(arm, arm) if results.kept else arm for arm in results.arms]
