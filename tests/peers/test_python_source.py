"""Peers of the user's own code: run only when allowed, and told apart from what is broken."""

import sys

import pytest
import torch

from hf_mutual_kd import ImageClassification, PeerError, PeerSpec
from hf_mutual_kd.peers.loading import load_peer, load_weights, save_peer
from hf_mutual_kd.peers.spec import parse_peers

TASK = ImageClassification()

CODE = """
import torch
from hf_mutual_kd.tasks.video_saliency.data.clips import ClipPolicy

RUNS = []

def processor(frames):
    return {"pixel_values": frames}

def pretrained():
    RUNS.append(1)
    model = torch.nn.Linear(3, 2)
    model.processor = processor
    model.clip_policy = ClipPolicy(4, stride=2)
    return model

def broken():
    model = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(model.weight, float("nan"))
    return model

def text():
    return "no module"

def leaves():
    raise SystemExit

number = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's own on the path."""
    folder = tmp_path / "my_models"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "vinet.py").write_text(CODE)
    (folder / "leaving.py").write_text("raise SystemExit(0)\n")
    (folder / "needy.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "python:my_models"
    for name in ("my_models", "my_models.vinet", "my_models.needy", "my_models.leaving"):
        sys.modules.pop(name, None)


def test_a_function_gives_the_peer(package, tmp_path):
    """The module keeps its own processor and clip policy, and its weights come back from safetensors."""
    peer = load_peer("mine", f"{package}.vinet:pretrained", TASK, trust_remote_code=True)
    assert peer.processor(1) == {"pixel_values": 1}
    assert peer.model.clip_policy.relative == (-6, -4, -2, 0)
    assert peer.spec.source == f"{package}.vinet:pretrained"
    save_peer(peer.model, peer.processor, tmp_path / "saved", None)
    assert [file.name for file in (tmp_path / "saved").iterdir()] == ["model.safetensors"]
    fresh = load_peer("mine", parse_peers([f"mine={package}.vinet:pretrained"])["mine"], TASK, trust_remote_code=True)
    assert not torch.equal(fresh.model.weight, peer.model.weight)
    load_weights("mine", fresh.model, tmp_path / "saved")
    assert torch.equal(fresh.model.weight, peer.model.weight)


def test_what_the_user_says_of_it_counts(package):
    """A dtype or processor that is set must not be silently left out."""

    def own(frames):
        return {}

    spec = PeerSpec(source=f"{package}.vinet:pretrained", dtype="bfloat16", processor=own)
    peer = load_peer("mine", spec, TASK, trust_remote_code=True)
    assert peer.model.weight.dtype == torch.bfloat16
    assert peer.processor is own


def test_code_runs_only_when_allowed(package):
    """Importing a module runs it: a recipe from somebody else could do anything."""
    with pytest.raises(PeerError, match="my_models.vinet:pretrained runs code; .* --trust_remote_code true"):
        load_peer("mine", f"{package}.vinet:pretrained", TASK)
    assert "my_models.vinet" not in sys.modules


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (".vinet", "expected python:package.module:function, got 'python:my_models.vinet'"),
        (".vinet:", "expected python:package.module:function"),
        (".vinet:pretrained()", "expected python:package.module:function"),
        ("/../vinet:pretrained", "expected python:package.module:function"),
        (".vinet:nothing", "my_models.vinet has no function nothing"),
        (".vinet:number", "my_models.vinet has no function number"),
        (".vinet:text", "must return an nn.Module, it returned a str"),
        (".vinet:leaves", "ended the program"),
        (".leaving:pretrained", "importing my_models.leaving ended the program"),
        (".vinet:broken", "the weights hold NaN or infinity"),
        (".vinett:pretrained", "there is no module my_models.vinett; .* PYTHONPATH"),
        ("_two.vinet:pretrained", "there is no module my_models_two; .* PYTHONPATH"),
    ],
)
def test_what_is_wrong_is_named(package, place, message):
    """A mistyped source must not be looked for on the Hub, nor end in a bare import error."""
    with pytest.raises(PeerError, match="peer 'mine': .*" + message):
        load_peer("mine", package + place, TASK, trust_remote_code=True)


def test_errors_of_the_code_itself_are_passed_on(package):
    """A package that the user's code lacks is not the user's code missing."""
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        load_peer("mine", f"{package}.needy:pretrained", TASK, trust_remote_code=True)
