"""What the small runs of tasks with clips and maps share: settings, exact resume, and a run in which nothing moves."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from hf_mutual_kd import Cohort, MutualKDConfig, make_task
from hf_mutual_kd.config.task_options import own_fields
from hf_mutual_kd.peers.launched import leave_together

SETTINGS = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 2,
    "learning_rate": 1e-3,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "pre_flight": False,
    "logging_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
}


def config_of(cohort: Cohort, out, **settings) -> MutualKDConfig:
    """The configuration of a training; what is an option of the cohort's task is set there."""
    own = {item.name for item in own_fields(cohort.task.options)}
    cohort.task = make_task(cohort.task, **{name: value for name, value in settings.items() if name in own})
    return MutualKDConfig(str(out), **{name: value for name, value in settings.items() if name not in own})


def check_resume(make_trainer, folder: Path, peers) -> None:
    """A run in one go, into `folder/a`, against one that was interrupted half way, into `folder/b`."""
    constant = {"lr_scheduler_type": "constant"}
    straight = make_trainer(str(folder / "a"), **constant)
    straight.train()
    make_trainer(str(folder / "b"), max_steps=2, **constant).train()
    resumed = make_trainer(str(folder / "b"), **constant)
    resumed.train(resume_from_checkpoint=True)
    for name in peers:
        left, right = (load_file(folder / run / "checkpoint-4" / name / "model.safetensors") for run in "ab")
        assert all(left[key].equal(right[key]) for key in left)
    assert straight.bests.state() == resumed.bests.state()


def run_still(trainer, out: str, rows) -> None:
    """Train without dropout, measure on `rows` and leave what was found in `outcome.json`."""
    for module in trainer.cohort.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer.train()
    metrics = trainer.evaluate(rows, metric_key_prefix="test")
    if trainer.is_world_process_zero():
        Path(out, "outcome.json").write_text(json.dumps({"metrics": metrics, "history": trainer.state.log_history}))
    leave_together()
