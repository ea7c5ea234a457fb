"""Loads the peers of `data/facts.json` when they are asked for, and asks them what a visitor gave."""

from __future__ import annotations

import json
from collections import OrderedDict
from importlib import import_module
from pathlib import Path
from typing import Any

from view import PHASES, Given, Looks, View

MOST_BYTES = 3_000_000_000
"""Of weights in memory; beyond, the models that were not asked for longest leave."""


class Models:
    """Loads peers when they are asked for and keeps those that were asked for last, within [`MOST_BYTES`].

    Args:
        folder (`Path`): of the app; models that lie in it are named relative to it.
        view ([`~view.View`]): loads them.
        most_bytes (`int`): of float32 weights that are held.
    """

    def __init__(self, folder: Path, view: View, most_bytes: int = MOST_BYTES):
        self.folder, self.view, self.most_bytes = folder, view, most_bytes
        self.held: OrderedDict[str, Any] = OrderedDict()
        self.processors: dict[str, Any] = {}

    def get(self, place: dict[str, Any]) -> Any:
        """The model at a place, `{"folder": …}` or `{"repo": …, "revision": …}`, with its `parameters`."""
        key = json.dumps(place, sort_keys=True)
        if key not in self.held:
            room = self.most_bytes - 4 * place["parameters"]
            while self.held and sum(4 * json.loads(one)["parameters"] for one in self.held) > room:
                self.held.popitem(last=False)
            self.held[key] = self.view.load(*self._source(place)).eval()
        self.held.move_to_end(key)
        return self.held[key]

    def processor(self, place: dict[str, Any]) -> Any:
        """The processor at a place."""
        key = json.dumps(place, sort_keys=True)
        if key not in self.processors:
            self.processors[key] = self.view.load_processor(*self._source(place))
        return self.processors[key]

    def _source(self, place: dict[str, Any]) -> tuple[str, str | None]:
        return (str(self.folder / place["folder"]), None) if "folder" in place else (place["repo"], place["revision"])


class Cohort:
    """The peers of a run, as `data/facts.json` describes them.

    Args:
        folder (`Path`): with `data/facts.json`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.facts: dict[str, Any] = json.loads((folder / "data" / "facts.json").read_text(encoding="utf-8"))
        self.view: View = import_module(self.facts["view"]).VIEW(folder, self.facts)
        self.models = Models(folder, self.view)

    def look(self, given: Given) -> Looks:
        """What every peer sees, by name and phase, or in words why there is nothing to show."""
        return {
            peer["name"]: {phase: self._look(peer, phase, given) for phase in PHASES} for peer in self.facts["peers"]
        }

    def _look(self, peer: dict[str, Any], phase: str, given: Given) -> Any:
        if peer[phase] is None:
            return peer["no_start"]
        try:
            model, processor = self.models.get(peer[phase]), self.models.processor(peer["end"])
        except (OSError, ValueError, ImportError) as error:
            print(f"{peer['name']}: {error}", flush=True)
            return "This model cannot be loaded at the moment; try again later."
        try:
            return self.view.see(model, processor, peer, given)
        except (RuntimeError, ValueError) as error:
            print(f"{peer['name']}: {error}", flush=True)
            return f"This model cannot work on {self.facts['thing']} of this size; try another one."
