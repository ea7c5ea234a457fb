"""What teachers are besides peers: fitted before training, moved or learned in it, saved with checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from ..distillation.rule_fitting import total_of
from ..errors import ResumeError
from ..peers.cohort import Cohort

TEACHERS = "teachers.safetensors"


class FollowPeers(TrainerCallback):
    """After every optimizer step, moves the copies of `teacher_source="ema"` towards their peers."""

    def __init__(self, cohort: Cohort):
        self.cohort = cohort

    def on_step_end(self, args, state, control, **kwargs):
        self.cohort.follow_peers()


def fit_rule(cohort: Cohort, model: Any, loader: DataLoader, prepare: Callable[[Any], Any], accelerator: Any) -> None:
    """
    Fit what the cohort's rule wants fitted, one pass over validation rows for each of it.

    Args:
        cohort ([`Cohort`]): the peers as they start.
        model: the cohort, or what wraps it.
        loader (`DataLoader`): validation rows.
        prepare (`Callable`): moves a batch to the device.
        accelerator (`accelerate.Accelerator`): joins the processes.

    Raises:
        [`DataError`]: no row has a label.
    """
    was_training = model.training
    model.eval()
    for fit in cohort.rule.fits() if cohort.rule is not None else ():
        totals: dict[str, Tensor] = {}
        for batch in loader:
            batch = prepare(batch)
            with torch.no_grad(), accelerator.autocast():
                outputs = model(peer_inputs=batch["peer_inputs"]).outputs.values()
                logits = [cohort.task.logits(output) for output in outputs]
                sums = fit.sums(cohort.task.units(logits, batch["labels"]))
            for key, value in total_of(accelerator.gather_for_metrics(sums)).items():
                totals[key] = totals[key] + value if key in totals else value
        fit.finish(totals)
    model.train(was_training)


def teacher_tensors(cohort: Cohort) -> dict[str, Tensor]:
    """Everything that a resumed training needs of the teachers; empty for most rules and sources."""
    found = {} if cohort.rule is None else {f"rule.{key}": value for key, value in cohort.rule.state_dict().items()}
    objective = cohort.objective
    if objective is not None and objective.source.decay is not None and cohort.starts is not None:
        for name, average in cohort.starts.items():
            if not cohort.specs[name].frozen:
                found |= {f"average.{name}.{key}": value for key, value in average.state_dict().items()}
    return found


def save_teachers(cohort: Cohort, folder: Path, place: int = 0) -> None:
    """Write [`teacher_tensors`] into a checkpoint, where there are any; each `place` of peers into its own file."""
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in teacher_tensors(cohort).items()}
    if tensors:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, (folder / TEACHERS).with_stem(f"teachers-{place}" if place else "teachers"))


def load_teachers(cohort: Cohort, folder: Path) -> None:
    """
    Bring back what [`save_teachers`] wrote.

    Raises:
        [`ResumeError`]: the checkpoint was made with another rule or source, or is damaged.
    """
    wanted = teacher_tensors(cohort)
    stored: dict[str, Tensor] = {}
    for path in sorted(folder.glob("teachers*.safetensors")):
        try:
            stored |= load_file(path)
        except SafetensorError as error:
            raise ResumeError(f"{path} is damaged: {error}; resume from another checkpoint") from error
    for name in cohort.elsewhere:
        stored = {key: value for key, value in stored.items() if not key.startswith(f"average.{name}.")}
    if {key: value.shape for key, value in stored.items()} != {key: value.shape for key, value in wanted.items()}:
        raise ResumeError(
            f"{folder} was made with another teacher_rule, teacher_source or calibrate; resume with the same, or "
            "start anew in another output_dir"
        )
    with torch.no_grad():
        for key, value in wanted.items():
            value.copy_(stored[key])
