"""The launch configurations of `recipes/accelerate`, as Accelerate itself reads them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin, prepare_multi_gpu_env
from conftest import LABELS, MAKERS, tiny_processor

from hf_mutual_kd import (
    BestRule,
    Cohort,
    ConfigError,
    EmaSource,
    GatedRule,
    LiveSource,
    LoadedPeer,
    MutualKDConfig,
    Objective,
    PeerSpec,
)
from hf_mutual_kd.peers.sharding import check_sharded, check_zero, layers_to_split, zero_with_graph

CONFIGS = sorted((Path(__file__).parents[2] / "recipes" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_it(path):
    """A key that Accelerate does not know, or a process too few, shows only on the machine that was paid for."""
    config = load_config_from_file(str(path))
    assert config.num_processes == 2
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", str(path), "train.py"]))
    assert args.multi_gpu or args.use_fsdp or args.use_deepspeed
    comment = path.read_text().splitlines()[0]
    assert comment.startswith("# ")
    assert config.deepspeed_config.get("zero_stage") != 3 or config.deepspeed_config["zero3_save_16bit_model"]
    assert path.stem == "ddp_cpu" or comment.lower().endswith("not verified: needs a gpu.")


def environment(name: str) -> dict[str, str]:
    path = next(path for path in CONFIGS if path.stem == name)
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", str(path), "train.py"]))
    return prepare_multi_gpu_env(args)


def make_cohort(objective: Objective) -> Cohort:
    peers = {name: LoadedPeer(MAKERS[name](), tiny_processor(), PeerSpec(name)) for name in ("vit", "cnx")}
    cohort = Cohort(peers, label_names=LABELS)
    cohort.set_objective(objective)
    return cohort


def fsdp(monkeypatch, **changes) -> SimpleNamespace:
    """An accelerator that was launched by `fsdp2.yaml`."""
    for key, value in environment("fsdp2").items():
        monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    for key, value in changes.items():
        setattr(plugin, key, value)
    return SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))


LIVE = Objective(BestRule(), LiveSource(), retain=True)


def test_fsdp2_is_what_the_trainer_accepts(monkeypatch, tmp_path):
    """A configuration that the trainer refuses is worse than none."""
    cohort, args = make_cohort(LIVE), MutualKDConfig(str(tmp_path), use_cpu=True, report_to="none")
    accelerator = fsdp(monkeypatch)
    check_sharded(accelerator, cohort, args, LIVE)
    cohort._no_split_modules = layers_to_split(cohort.peers)
    accelerator.state.fsdp_plugin.set_auto_wrap_policy(cohort)
    assert {"ViTLayer"} <= set(cohort._no_split_modules)


@pytest.mark.parametrize(
    ("objective", "changes", "said"),
    [
        (Objective(BestRule(), EmaSource(0.9)), {}, "'ema'"),
        (Objective(GatedRule(), LiveSource(), retain=False), {}, "'gated' learns weights"),
        (LIVE, {"fsdp_version": 1}, "set fsdp_version: 2"),
        (LIVE, {"cpu_ram_efficient_loading": True}, "fsdp_cpu_ram_efficient_loading to false"),
    ],
)
def test_what_cannot_be_split_is_refused(objective, changes, said, monkeypatch, tmp_path):
    """Each of these trains without an error and is wrong, or stops after the first epoch."""
    cohort, args = make_cohort(objective), MutualKDConfig(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ConfigError, match=said):
        check_sharded(fsdp(monkeypatch, **changes), cohort, args, objective)


def test_shared_weights_are_refused(monkeypatch, tmp_path):
    """FSDP splits a weight that two modules hold once, and leaves the other module with the whole."""
    cohort, args = make_cohort(LIVE), MutualKDConfig(str(tmp_path), use_cpu=True, report_to="none")
    vit, cnx = cohort.peers.values()
    vit.vit.layernorm.bias = cnx.convnext.layernorm.bias
    with pytest.raises(ConfigError, match="share weights"):
        check_sharded(fsdp(monkeypatch), cohort, args, LIVE)


@pytest.mark.parametrize(
    ("settings", "changes", "said"),
    [
        ({"optimizer": {}, "zero_optimization": {"stage": 2}}, {}, "one learning rate"),
        (
            {"zero_optimization": {"stage": 2}},
            {"early_stopping_patience": 1, "eval_strategy": "epoch"},
            "rests single",
        ),
        ({"zero_optimization": {"stage": 3}}, {}, "zero3_save_16bit_model"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(settings, changes, said, tmp_path):
    """DeepSpeed updates inside its backward: what is done to one peer after it would be done to none."""
    with pytest.raises(ConfigError, match=said):
        check_zero(settings, MutualKDConfig(str(tmp_path), use_cpu=True, report_to="none", **changes))


def test_every_peer_is_in_the_graph():
    """A process without labels for a peer would leave out its gradient, for which the others wait."""
    log_probs = [torch.tensor([[1.0, float("nan")]], requires_grad=True), torch.ones(1, 2, requires_grad=True)]
    zero = zero_with_graph(log_probs)
    zero.backward()
    assert zero == 0
    assert all((logits.grad == 0).all() for logits in log_probs)
