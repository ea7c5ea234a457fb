"""The progress of a cohort: a short line per log instead of a dictionary of every number; in a terminal a bar."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from transformers.trainer_callback import ProgressCallback

from ..reports.task_words import TaskWords
from ..reports.terminal import percent


class CohortProgress(ProgressCallback):
    """As the Trainer's progress bar, where there is a terminal; each log is one line with the figures of every peer.

    Args:
        peer_names (`list[str]`): the cohort's peers.
        words ([`TaskWords`]): of their task.
        quality (`str`): what training logs call the quality of a peer: the deciding metric, or a share.
        teaches (`bool`, *optional*, defaults to `True`): whether anybody is taught, as in a control nobody is.
    """

    def __init__(self, peer_names: Sequence[str], words: TaskWords, quality: str, teaches: bool = True):
        super().__init__()
        self.peer_names, self.words, self.quality, self.teaches = list(peer_names), words, quality, teaches
        self.has_no_bar = False

    def on_train_begin(self, args, state, control, **kwargs):
        """A bar, unless what is written goes into a file, where it would be a line for every step."""
        self.has_no_bar = not sys.stderr.isatty()
        if not self.has_no_bar:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if sys.stderr.isatty():
            super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)

    def on_train_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)
        self.has_no_bar = False

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Write the line, above the bar; logs without figures of peers are left to the history."""
        line = self.line(state.global_step, logs or {})
        if not line or not state.is_world_process_zero:
            return
        if self.training_bar is not None:
            self.training_bar.write(line)
        elif self.has_no_bar:
            print(line, flush=True)

    def line(self, step: int, logs: Mapping[str, float]) -> str:
        """`step 40 · loss 2.310 · vit 81.2 % taught 40 % · cnn 79.9 % taught 60 %`, or `""`."""
        if f"{self.peer_names[0]}/{self.quality}" in logs:
            peers = [
                f"{name} {self._quality(logs[f'{name}/{self.quality}'])}"
                + (f" taught {percent(logs[f'{name}/taught'])} %" if self.teaches else "")
                for name in self.peer_names
            ]
            return " · ".join([f"step {step}", f"loss {logs['loss']:.3f}", *peers])
        suffix = f"_{self.peer_names[0]}/{self.words.metric}"
        measured = min((key.removesuffix(suffix) for key in logs if key.endswith(suffix)), key=len, default="")
        shown = {name: logs.get(f"{measured}_{name}/{self.words.metric}") for name in self.peer_names}
        peers = [f"{name} {self.words.unit(value)}" for name, value in shown.items() if value is not None]
        return " · ".join([f"step {step} · {measured}", *peers]) if peers else ""

    def _quality(self, value: float) -> str:
        return self.words.unit(value) if self.quality == self.words.metric else f"{percent(value)} %"
