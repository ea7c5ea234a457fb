"""A run of four peers with everything in it that must stay, and a loopback Hub to push it to."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer
from made_up_run import words_of
from safetensors.numpy import save_file

from hf_mutual_kd import Patience, PushReport, PushTarget, push_run
from hf_mutual_kd.reports.readme_merge import BEGIN, END

TOKEN = "hf_adaTokenThatMustNeverLeave0123456789"
BRISK = Patience(first_wait_s=0.01, longest_wait_s=0.02, call_s=5.0, deadline_s=20.0)
CARD = f"---\nlicense: mit\ntags:\n- demo\n---\n\n{BEGIN}\n# A peer\n\nText of ours.\n{END}\n"


@pytest.fixture
def hub():
    users = {"ada": TOKEN, "eve": "hf_eve"}
    with HubServer(users, orgs={"lab": ["ada"]}, read_tokens={"bob": "hf_bob"}) as hub:
        yield hub


def write_record(folder: Path, *names: str, dataset: str = "ada/Fashion MNIST!", **more) -> None:
    record = {
        "task": "image-classification",
        "words": words_of("image-classification"),
        "peers": {name: {} for name in names},
        "dataset": {"name": dataset},
        **more,
    }
    (folder / "cohort.json").write_text(json.dumps(record))


def write_peer(folder: Path, seed: int, size: int = 5000) -> None:
    """A folder as training leaves it, with everything in it that must stay."""
    (folder / "figures").mkdir(parents=True)
    weights = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    save_file({"weight": weights}, folder / "model.safetensors", {"format": "pt"})
    config = {"model_type": "vit", "auto_map": {"AutoModel": "modeling_own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text("{}")
    (folder / "README.md").write_text(CARD)
    (folder / "figures" / "curve.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    (folder / "modeling_own.py").write_text("raise SystemExit('this must not run')")
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "extra.pkl", ".netrc", "model.ckpt"):
        (folder / name).write_bytes(b"PICKLE " + str(folder).encode())


@pytest.fixture(scope="session")
def run_template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("somebody") / "runs" / "vit"
    folder.mkdir(parents=True)
    for seed, name in enumerate("abcd"):
        write_peer(folder / name, seed, 500_000 if name == "b" else 5000)
    write_record(folder, *"abcd")
    return folder


@pytest.fixture
def run(run_template, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_template, folder)
    (folder / "a" / "outside.json").symlink_to(tmp_path / "secret.json")
    (tmp_path / "secret.json").write_text('{"password": "LEAKED"}')
    return folder


def push(hub, run, **options) -> PushReport:
    to = {item.name: options.pop(item.name) for item in fields(PushTarget) if item.name in options}
    return push_run(run, PushTarget(**asdict(destination(hub)) | to), **{"patience": BRISK} | options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def destination(hub) -> PushTarget:
    return PushTarget("ada", token=TOKEN, endpoint=hub.url)


def sent(hub, method, part=""):
    return [request for request in hub.requests if request.method == method and part in request.path]


REPOS = [f"ada/{name}-fashion-mnist-mutual" for name in "abcd"]
PUSHED = {"README.md", "config.json", "figures/curve.png", "model.safetensors", "preprocessor_config.json"}
