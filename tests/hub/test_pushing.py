"""Recipe and trainer against the loopback Hub: pushed while training, resumed from what was pushed, nothing leaks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_cards import check_card
from hub_server import HubServer
from recipe_run import FAST, RECIPE

TOKEN = "hf_adaTokenThatMustNeverLeave0123456789"

TRAINER = """
import sys
sys.path.insert(0, {tests!r})
from conftest import LABELS, MAKERS, make_rows, tiny_processor
from hf_mutual_kd import Cohort, MutualKDConfig, MutualKDTrainer
cohort = Cohort.from_pretrained({{"vit": {vit!r}, "cnx": "ada/base-cnx"}}, label_names=LABELS)
args = MutualKDConfig(
    {out!r}, max_steps=2, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no"
)
trainer = MutualKDTrainer(cohort, args, train_dataset=make_rows(16), eval_dataset=make_rows(9, 1))
trainer.train()
trainer.evaluate()
report = trainer.push_to_hub(namespace="ada", private=True)
again = trainer.push_to_hub(namespace="ada")
print([peer.changed for peer in report.peers], [peer.changed for peer in again.peers], cohort.specs["cnx"].revision)
"""


def run(*command: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *command], env=env, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def hub():
    with HubServer({"ada": TOKEN}) as hub:
        yield hub


@pytest.fixture
def env(hub, tmp_path):
    return {**os.environ, **hub.env(token=TOKEN, cache=tmp_path / "cache"), "ACCELERATE_USE_CPU": "true"}


def words(place: Path, out: Path) -> list[str]:
    peers = [f"{name}={place / name}" for name in ("vit", "cnx")]
    return ["--peers", *peers, "--dataset", str(place / "shapes"), "--output_dir", str(out), *FAST]


def test_recipe_pushes_while_it_trains_and_resumes_from_there(hub, env, place, tmp_path):
    """A machine that is gone must cost no more than the time since the last push."""
    if not (place / "shapes").exists():
        (place / "data").rename(place / "shapes")
    options = ["--push_to_hub", "--hub_namespace", "ada", "--hub_strategy", "checkpoint", "--control", "false"]
    first = words(place, tmp_path / "a")
    run(str(RECIPE), *first, *options, env=env)
    assert len(hub.store.collections) == 1
    for peer in ("vit", "cnx"):
        files = hub.files(f"ada/{peer}-shapes-mutual")
        assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"} <= set(files)
        assert files["model.safetensors"] == (tmp_path / "a" / peer / "model.safetensors").read_bytes()
        errors, _ = check_card(files["README.md"].decode(), "model")
        assert errors == []
        assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in files)
    resumed = words(place, tmp_path / "b")
    resumed += ["--control", "false", "--resume_from_checkpoint", "ada/vit-shapes-mutual", "--resume_changes", "allow"]
    resumed[resumed.index("--max_steps") + 1] = "6"
    run(str(RECIPE), *resumed, env=env)
    steps = [json.loads(line)["step"] for line in (tmp_path / "b" / "history.jsonl").open()]
    assert steps[0] == 2, "the log of the pushed part is kept"
    assert json.loads((tmp_path / "b" / "results.json").read_text())["steps"] == 6
    sent = hub.everything_received()
    for secret in (TOKEN, str(tmp_path), str(place), os.path.expanduser("~") + "/"):
        assert secret.encode() not in sent


def test_trainer_pushes_without_a_recipe(hub, env, place, tmp_path):
    """In a notebook there is no recipe: the trainer itself has to leave the records that cards need."""
    commit = hub.add_model("ada/base-cnx", place / "cnx")
    script = TRAINER.format(tests=str(Path(__file__).parents[1]), vit=str(place / "vit"), out=str(tmp_path / "out"))
    printed = run("-c", script, env=env).splitlines()[-1]
    assert printed == f"[True, True] [False, False] {commit}"
    assert hub.repo("ada/cnx-data-mutual").private
    card = hub.files("ada/cnx-data-mutual")["README.md"].decode()
    assert "base_model: ada/base-cnx" in card


PULL = """
import sys
sys.path.insert(0, {tests!r})
from conftest import LABELS
from hf_mutual_kd import Cohort, MutualKDError
for source in sys.argv[1:]:
    try:
        print(Cohort.from_pretrained({{"a": source}}, label_names=LABELS).specs["a"].revision)
    except MutualKDError as error:
        print(error)
"""


def test_peers_are_pulled_at_a_commit_and_found_again_offline(hub, env, place, tmp_path):
    """A branch that moves between two runs would silently compare two different starts."""
    commit = hub.add_model("ada/pulled", place / "vit")
    script = PULL.format(tests=str(Path(__file__).parents[1]))
    assert run("-c", script, "ada/pulled@main", env=env).split() == [commit]
    assert run("-c", script, "ada/pulled", env={**env, "HF_HUB_OFFLINE": "1"}).split() == [commit]


def test_peers_that_cannot_be_pulled_are_explained(hub, place, tmp_path):
    """The client's own errors for gated, private and missing repositories look alike to a user."""
    hub.add_model("ada/gated", place / "vit", gated=True)
    hub.add_model("ada/private", place / "vit", private=True)
    hub.add_model("ada/open", place / "vit")
    env = {**os.environ, **hub.env(cache=tmp_path / "cache")}
    script = PULL.format(tests=str(Path(__file__).parents[1]))
    gated, private, revision = run("-c", script, "ada/gated", "ada/private", "ada/open@nowhere", env=env).splitlines()
    assert "ada/gated is gated" in gated
    assert "hf auth login" in gated
    assert "ada/private is neither a folder nor a model" in private
    assert "hf auth login" in private
    assert "no revision nowhere" in revision
