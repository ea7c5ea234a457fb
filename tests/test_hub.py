"""Pushing a run to the loopback Hub with the real client: what arrives, what never leaves, and what faults do."""

import json
import logging
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LABELS, make_rows, tiny_processor, tiny_vit
from hub_server import HubServer
from safetensors.numpy import save_file
from test_model_card import made_up_record, made_up_results, write_run

from hf_mutual_kd import MutualKDTrainer
from hf_mutual_kd.errors import HubError
from hf_mutual_kd.hub import push_run
from hf_mutual_kd.hub_calls import Patience
from hf_mutual_kd.hub_checkpoints import PushInBackground, pull_checkpoint, push_checkpoint
from hf_mutual_kd.hub_files import Outgoing, refuse_secrets, select
from hf_mutual_kd.hub_names import Destination, Run, names_of, slug
from hf_mutual_kd.plain_state import from_plain, to_plain
from hf_mutual_kd.readme_merge import BEGIN, END, merge_readme, split_front_matter
from hf_mutual_kd.timm_peers import save_timm_wrapper

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


def push(hub, run, **options):
    settings = {"namespace": "ada", "token": TOKEN, "endpoint": hub.url, "patience": BRISK}
    return push_run(run, **settings | options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def sent(hub, method, part=""):
    return [request for request in hub.requests if request.method == method and part in request.path]


REPOS = [f"ada/{name}-fashion-mnist-mutual" for name in "abcd"]
PUSHED = {"README.md", "config.json", "figures/curve.png", "model.safetensors", "preprocessor_config.json"}


# What a push does


def test_every_peer_gets_one_repository_one_commit_and_only_its_own_files(hub, run):
    """A pickle, a hidden file, foreign code or a linked file from elsewhere would leave with the weights."""
    report = push(hub, run)
    assert [one.repo_id for one in report.peers] == REPOS
    for one in report.peers:
        assert set(hub.files(one.repo_id)) == PUSHED == set(one.files)
        assert len(hub.commits(one.repo_id)) == 2
        assert one.commit == hub.commits(one.repo_id)[0].id
        assert one.changed
        assert one.url == f"{hub.url}/{one.repo_id}"
        assert hub.files(one.repo_id)["model.safetensors"] == (run / one.peer / "model.safetensors").read_bytes()
    assert json.loads(hub.files(REPOS[0])["config.json"]) == {"model_type": "vit"}
    assert report.peers[0].left_out["outside.json"] == "a link that leads out of the folder"
    everything = hub.everything_received()
    for secret in (TOKEN, str(run), str(run.parent), str(Path.home()), "LEAKED", "PICKLE", "SystemExit"):
        assert secret.encode() not in everything
    carrying = {name for request in hub.requests for name, value in request.headers.items() if TOKEN in value}
    assert carrying == {"authorization"}


def test_pushing_again_commits_nothing_and_a_change_commits_once(hub, run):
    """A commit per push of the same run would bury the history, and a lost change would go unnoticed."""
    first = push(hub, run, namespace=None)
    again = push(hub, run)
    assert [one.changed for one in again.peers] == [False] * 4
    assert [one.commit for one in again.peers] == [one.commit for one in first.peers]
    (run / "c" / "config.json").write_text('{"model_type": "resnet"}')
    assert [one.peer for one in push(hub, run).peers if one.changed] == ["c"]
    assert [len(hub.commits(repo)) for repo in REPOS] == [2, 2, 3, 2]


def test_the_cohort_becomes_one_collection(hub, run):
    """A collection per push, or items listed twice, would litter the user's page."""
    report = push(hub, run, peers=["a", "b"])
    assert push(hub, run, peers=["c", "d"]).collection == report.collection == push(hub, run).collection
    (made,) = hub.store.collections.values()
    assert [item["id"] for item in made.items] == REPOS
    assert made.title == "fashion-mnist: models that taught each other"
    assert report.collection == f"{hub.url}/collections/{made.slug}"


@pytest.mark.parametrize("status", [404, 405, 501, 403])
def test_a_hub_without_collections_costs_one_line(hub, run, status):
    """The models are pushed by then: a missing collection must not look like a failed push."""
    hub.fail("POST", "/api/collections", status=status, times=9)
    report = push(hub, run, peers=["a"])
    assert report.collection is None
    assert report.collection_note.startswith("no collection: ")
    assert "\n" not in report.collection_note
    assert report.peers[0].changed


def test_visibility_organisations_branches_and_templates(hub, run):
    """A private model that becomes public cannot be called back."""
    push(hub, run, namespace="lab", private=True, peers=["a"], name_template="{dataset}.{peer}", collection=False)
    assert hub.repo("lab/fashion-mnist.a").private
    assert hub.store.collections == {}
    report = push(hub, run, namespace="lab", private=False, peers=["a"], name_template="{dataset}.{peer}")
    assert hub.repo("lab/fashion-mnist.a").private
    assert report.peers[0].note == "lab/fashion-mnist.a existed and stays private"
    push(hub, run, peers=["b"], revision="try/1")
    assert set(hub.files(REPOS[1], "try/1")) == PUSHED
    assert hub.files(REPOS[1]) == {}


def test_a_dry_run_sends_nothing_and_finds_what_a_push_would_refuse(hub, run):
    """A rehearsal that touched the Hub, or overlooked a secret, would be none."""
    report = push(hub, run, dry_run=True, namespace=None)
    assert hub.requests == []
    assert [one.repo_id for one in report.peers] == [name.removeprefix("ada/") for name in REPOS]
    assert set(report.peers[1].files) == PUSHED
    assert report.peers[1].bytes == sum((run / "b" / name).stat().st_size for name in PUSHED - {"config.json"}) + 26
    assert report.peers[1].metadata == {"license": "mit", "tags": ["demo"]}
    assert {"training_args.bin", "modeling_own.py", ".netrc"} <= set(report.peers[1].left_out)
    (run / "d" / "notes.txt").write_text(f"trained in {run}")
    with pytest.raises(HubError, match=r"d/notes.txt holds the absolute path of the run; take it out"):
        push(hub, run, dry_run=True)


def test_own_code_goes_only_where_the_run_was_told_to_trust_it(hub, run):
    """`auto_map` without its file breaks the pushed model; with a foreign one it runs code at the next user's."""
    write_record(run, *"abcd", recipe={"trust_remote_code": True})
    push(hub, run, peers=["a"])
    assert set(hub.files(REPOS[0])) == PUSHED | {"modeling_own.py"}
    assert "auto_map" in json.loads(hub.files(REPOS[0])["config.json"])


def test_weights_saved_in_other_parts_replace_the_old_ones(hub, run):
    """`from_pretrained` prefers a stale model.safetensors to new shards and would load the old weights."""
    push(hub, run, peers=["a"])
    os.rename(run / "a" / "model.safetensors", run / "a" / "model-00001-of-00001.safetensors")
    (run / "a" / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    hub.add_model(REPOS[0], {"mine.txt": "kept", "mine.safetensors": "kept"})
    push(hub, run, peers=["a"])
    sharded = {"model-00001-of-00001.safetensors", "model.safetensors.index.json", "mine.txt", "mine.safetensors"}
    assert set(hub.files(REPOS[0])) == PUSHED - {"model.safetensors"} | sharded


# The user's README


def test_what_a_user_wrote_into_the_readme_survives(hub, run):
    """A new push that overwrites a user's own sections makes them edit a card only once."""
    push(hub, run, peers=["a"])
    mine = CARD.replace("tags:\n", "thumbnail: me.png\ntags:\n- mine\n").replace("# A peer", "edited inside")
    hub.add_model(REPOS[0], {"README.md": f"{mine}\n## My notes\n\nCiao – not yours.\n"})
    (run / "a" / "README.md").write_text(CARD.replace("Text of ours.", "Newer text."))
    push(hub, run, peers=["a"])
    merged = hub.files(REPOS[0])["README.md"].decode()
    assert split_front_matter(merged)[1] == {"license": "mit", "tags": ["demo", "mine"], "thumbnail": "me.png"}
    assert (
        merged.split("---\n")[2] == f"\n{BEGIN}\n# A peer\n\nNewer text.\n{END}\n\n## My notes\n\nCiao – not yours.\n"
    )
    assert not push(hub, run, peers=["a"]).peers[0].changed


def test_cards_are_built_anew_with_links_and_leave_the_run_as_it_is(hub, tmp_path):
    """Repositories are known only when a run is pushed: cards of the training would link to no peer."""
    folder = write_run(tmp_path / "run", made_up_record(), made_up_results())
    (folder / "vit" / "README.md").write_text(f"{BEGIN}\nold\n{END}\n\n## Mine\n")
    before = contents(folder)
    report = push(hub, folder)
    card = hub.files("ada/vit-clothes-mutual")["README.md"].decode()
    assert "ada/cnn-clothes-mutual" in card
    assert card.rstrip().endswith("## Mine")
    assert card.count(BEGIN) == 1
    assert report.peers[0].metadata["license"] == "apache-2.0"
    assert contents(folder) == before
    assert not any(one.changed for one in push(hub, folder).peers)
    assert not push(hub, folder, peers=["cnn"]).peers[0].changed
    everything = hub.everything_received()
    assert not [secret for secret in (str(tmp_path), "/home/ann", "hf_abcdef") if secret.encode() in everything]


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (None, CARD),
        (CARD, CARD),
        ("", CARD),
        ("# Mine", f"---\nlicense: mit\ntags:\n- demo\n---\n# Mine\n\n{BEGIN}\n# A peer\n\nText of ours.\n{END}\n"),
        ("---\na: [\n---\nMine", f"---\nlicense: mit\ntags:\n- demo\n---\nMine\n\n{CARD.split('---')[2].strip()}\n"),
    ],
)
def test_merging_keeps_foreign_text_and_is_stable(present, expected):
    """A merge that adds something each time would make a commit of every push."""
    merged = merge_readme(CARD, present)
    assert merged == expected
    assert merge_readme(CARD, merged) == merged


# What never leaves


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("README.md", f"use {TOKEN}", "your token"),
        ("notes.txt", "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "a Hub token"),
        ("config.json", '{"from": "/home/somebody/models"}', "the path of somebody's home folder"),
        ("config.json", '{"from": "C:\\\\Users\\\\somebody\\\\models"}', "the path of somebody's home folder"),
        ("model.safetensors", None, "the path of your home folder"),
    ],
)
def test_secrets_and_local_paths_are_refused_before_anything_is_sent(hub, run, monkeypatch, name, content, found):
    """A token in a public repository is used by strangers within minutes."""
    monkeypatch.setenv("HOME", "/srv/people/ada")
    if content is None:
        save_file({"w": np.zeros(1)}, run / "c" / name, {"from": "/srv/people/ada/x"})
    else:
        (run / "c" / name).write_text(content)
    with pytest.raises(HubError, match=f"c/{name} holds {found}; take it out") as refusal:
        push(hub, run)
    assert "hf_" not in str(refusal.value)
    assert hub.requests == []


def test_words_that_only_look_like_paths_pass(tmp_path, monkeypatch):
    """With /root as home, every mention of it inside an address would block the push."""
    monkeypatch.setenv("HOME", "/root")
    text = b"https://example.org/rootless https://example.org/home/page hf_mutual_kd hf_hub:ada/x the/root/x"
    refuse_secrets([Outgoing("README.md", text)], tmp_path, None)
    with pytest.raises(HubError, match="your home folder"):
        refuse_secrets([Outgoing("README.md", b"in file:///root/x")], tmp_path, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"namespace": "../ada"}, "namespace '../ada' is no user"),
        ({"revision": "a..b"}, "revision 'a..b' is no branch name"),
        ({"peers": ["aa"]}, r"no peer 'aa' \(nearest: a\); it has a, b, c, d"),
        ({"name_template": "{peer}-{secret}"}, "name_template has {secret}; it can hold"),
        ({"name_template": "{peer.__class__}"}, "name_template has {peer.__class__}"),
        ({"name_template": "{peer"}, "cannot be read"),
        ({"name_template": "x"}, "gives two peers the repository ada/x"),
        ({"name_template": "{peer}--x"}, "cannot be pushed as 'ada/a--x'"),
        ({"name_template": "x/{peer}"}, "the namespace is an option of its own"),
    ],
)
def test_names_are_checked_before_anything_is_sent(hub, run, options, message):
    """A name that only the server refuses fails after the first peers are pushed."""
    with pytest.raises(HubError, match=message):
        push(hub, run, **options)
    assert hub.requests == []


def test_folders_that_are_no_run_are_refused(hub, run, tmp_path):
    """A wrong folder, or a peer's folder that is a link to elsewhere, would push somebody's files."""
    with pytest.raises(HubError, match=r"cohort.json is missing or broken"):
        push(hub, tmp_path)
    shutil.move(run / "d", tmp_path / "d")
    (run / "d").symlink_to(tmp_path / "d")
    with pytest.raises(HubError, match="'d': its folder is a link that leads out"):
        push(hub, run)
    (run / "d").unlink()
    with pytest.raises(HubError, match="'d' has no folder"):
        push(hub, run)
    write_record(run, "../d")
    with pytest.raises(HubError, match=r"names '../d' as a peer"):
        push(hub, run)
    (run / "e").mkdir()
    with pytest.raises(HubError, match="no model folder"):
        select(run / "e")
    assert hub.requests == []


def test_names_from_outside_become_parts_of_repository_names():
    """A data set called `…/Été & co.` must not break the push of a trained cohort."""
    assert slug("Fashion MNIST!") == "fashion-mnist"
    assert slug("Été -- & co..") == "ete-co"
    assert slug("../../etc") == "etc"
    assert slug("数据") == "data"
    assert len(slug("x" * 200)) == 40
    run = Run(Path("run"), ["a--b-"], "zalando/fashion_mnist", "", False)
    assert names_of(run, run.peers, Destination("ada")) == {"a--b-": "ada/a-b-fashion_mnist-mutual"}


# Faults


@pytest.mark.parametrize(
    ("method", "path", "fault"),
    [
        ("POST", "/repos/create", {"status": 503}),
        ("POST", "/repos/create", {"drop_reply": True}),
        ("POST", "/commit/", {"status": 500}),
        ("POST", "/commit/", {"status": 502, "body": "<html>Bad gateway</html>"}),
        ("POST", "/commit/", {"status": 429, "headers": {"Retry-After": "3600"}}),
        ("POST", "/commit/", {"drop_reply": True}),
        ("POST", "/commit/", {"drop_reply": True, "reset": True}),
        ("GET", "/api/models/ada", {"status": 504}),
        ("PUT", "/lfs/", {"cut": 1_000_000, "reset": True}),
        ("PUT", "/lfs/", {"cut": 1_000_000}),
        ("POST", "/validate-yaml", {"status": 503}),
        ("POST", "/api/collections", {"status": 503}),
        ("POST", "/items", {"drop_reply": True}),
    ],
)
def test_passing_faults_are_outlasted_with_one_commit(hub, run, method, path, fault):
    """An upload of hours would be lost to one bad answer, or a repeated commit doubled."""
    before = contents(run)
    struck = hub.fail(method, path, **fault)
    report = push(hub, run, peers=["b"])
    assert struck.seen > 1 or "drop_reply" in fault
    assert report.peers[0].changed
    assert report.peers[0].commit == hub.commits(REPOS[1])[0].id
    assert len(hub.commits(REPOS[1])) == 2
    assert hub.files(REPOS[1])["model.safetensors"] == (run / "b" / "model.safetensors").read_bytes()
    (collection,) = hub.store.collections.values()
    assert [item["id"] for item in collection.items] == [REPOS[1]]
    assert contents(run) == before


def test_a_commit_of_somebody_else_in_between_is_not_overwritten(hub, run, monkeypatch):
    """The README is read, merged and written back: a note added in between would be lost."""
    push(hub, run, peers=["a"])
    (run / "a" / "README.md").write_text(CARD.replace("Text of ours.", "Newer."))
    merge, calls = merge_readme, []

    def merge_slowly(built, present):
        calls.append(present)
        if len(calls) == 1:
            hub.add_model(REPOS[0], {"README.md": f"{CARD}\nA note in between.\n"})
        return merge(built, present)

    monkeypatch.setattr("hf_mutual_kd.hub_commit.merge_readme", merge_slowly)
    push(hub, run, peers=["a"])
    readme = hub.files(REPOS[0])["README.md"].decode()
    assert len(calls) == 2
    assert "A note in between." in readme
    assert "Newer." in readme


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"status": 401}, r"\(401\); the Hub does not accept your token, .*`hf auth login`"),
        ({"status": 403}, r"\(403\); your token may not write there; .*write permission"),
        ({"status": 404}, r"\(404\); it does not exist, or your token may not see it"),
        ({"status": 409}, r"\(409\); the name is taken"),
        ({"status": 503}, r"failed after 5 attempts \(503\); the Hub has trouble"),
        ({"status": 429, "headers": {"Retry-After": "0"}}, r"after 5 attempts \(429\); the Hub asks to slow down"),
        ({"status": 400, "body": {"error": "too long"}}, r"\(400: too long\)"),
        ({"cut": 10, "reset": True}, r"after 5 attempts: the connection broke"),
    ],
)
def test_a_failure_names_what_is_pushed_and_the_command_that_continues(hub, run, fault, message):
    """After a failure in the middle a user must not wonder which of the repositories are whole."""
    before = contents(run)
    hub.fail("POST", f"{REPOS[2]}/commit/", times=99, **fault)
    with pytest.raises(HubError, match=message) as failure:
        push(hub, run, private=True, collection=False)
    text = str(failure.value)
    assert text.startswith(f"pushing to {REPOS[2]} failed")
    assert f"pushed: a ({REPOS[0]}), b ({REPOS[1]}); not pushed: c, d. Continue with\n" in text
    assert text.endswith(f"  hf-mutual-kd push {run} --namespace ada --private --no_collection --peers c d")
    assert TOKEN not in text
    assert [len(hub.commits(repo)) for repo in REPOS[:3]] == [2, 2, 1]
    assert contents(run) == before
    hub.faults.clear()
    push(hub, run, private=True, peers=["c", "d"])
    assert [len(hub.commits(repo)) for repo in REPOS] == [2, 2, 2, 2]
    assert [item["id"] for item in next(iter(hub.store.collections.values())).items] == REPOS


@pytest.mark.parametrize(
    ("token", "namespace", "message"),
    [
        ("hf_wrong", "ada", r"looking for ada/.* failed \(401: .*`hf auth login`"),
        ("hf_bob", "bob", r"creating bob/.* failed \(403: .*write permission"),
        ("hf_eve", "ada", r"creating ada/.* failed \(403: .*another namespace"),
        ("hf_eve", "lab", r"failed \(403"),
    ],
)
def test_missing_permission_is_said_in_one_message(hub, run, token, namespace, message):
    """The client reports `create_repo` as done where a repository can be seen; only the commit tells otherwise."""
    with pytest.raises(HubError, match=message):
        push(hub, run, token=token, namespace=namespace)
    hub.add_model(f"{namespace}/a-fashion-mnist-mutual", {"x": "1"})
    with pytest.raises(HubError, match="pushed: nothing; not pushed: a, b, c, d"):
        push(hub, run, token=token, namespace=namespace)


def test_a_card_that_the_hub_refuses_is_named_and_not_tried_again(hub, run):
    """Five attempts at a card that can never pass only delay the message."""
    (run / "a" / "README.md").write_text("---\nlicense: free\n---\n")
    with pytest.raises(HubError, match=r'is refused: Invalid metadata in README.md. - "license" must be one of'):
        push(hub, run)
    assert len(sent(hub, "POST", "/validate-yaml")) == 1


def test_a_server_that_goes_silent_does_not_hold_the_push_for_ever(hub, run):
    """The client has no timeouts: a stalled commit would hang the command until somebody kills it."""
    hub.fail("POST", "/commit/", delay=60, times=9)
    began = time.monotonic()
    with pytest.raises(HubError, match=r"failed after 2 attempts: no answer within .* s; check the connection"):
        push(hub, run, patience=replace(BRISK, call_s=0.4, slowest_upload=1e9, attempts=2))
    assert time.monotonic() - began < 3
    hub.faults.clear()
    hub.fail("GET", "/api/models/", delay=60, times=99)
    began = time.monotonic()
    with pytest.raises(HubError, match="no answer within"):
        push(hub, run, deadline_s=0.5)
    assert time.monotonic() - began < 3


def test_a_slow_server_is_waited_for(hub, run):
    """A bound that is too tight would turn a busy hour of the Hub into a failure."""
    hub.fail("POST", "/commit/", delay=0.7)
    assert push(hub, run, peers=["a"]).peers[0].changed
    assert len(sent(hub, "POST", "/commit/")) == 1


def test_retries_leave_the_runs_random_numbers_alone(hub, run):
    """Jitter drawn from the shared generator would make a run depend on the Hub's mood."""
    hub.fail("POST", "/commit/", status=503)
    random.seed(3)
    state = random.getstate()
    push(hub, run, peers=["a"], collection=False)
    assert random.getstate() == state


# Loading what was pushed


LOAD = """
import json, torch; torch.set_num_threads(1)
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
image = Image.new("RGB", (20, 20), (200, 10, 60))
found = {}
for peer in ("vit", "timm"):
    repo = f"ada/{peer}-shapes-mutual"
    model, processor = AutoModelForImageClassification.from_pretrained(repo), AutoImageProcessor.from_pretrained(repo)
    with torch.no_grad():
        logits = model(**processor(image, return_tensors="pt")).logits[0]
    best = pipeline("image-classification", model=repo)(image)[0]["label"]
    found[peer] = [logits.tolist(), best, model.config.id2label[int(logits.argmax())]]
import timm
model = timm.create_model("hf-hub:ada/timm-shapes-mutual", pretrained=True).eval()
processor = AutoImageProcessor.from_pretrained("ada/timm-shapes-mutual")
with torch.no_grad():
    found["by timm"] = model(processor(image, return_tensors="pt")["pixel_values"])[0].tolist()
print("ANSWER" + json.dumps(found))
"""


def tiny_timm():
    import timm
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    cfg = timm.create_model("test_vit", pretrained=False).pretrained_cfg
    config = TimmWrapperConfig.from_dict(
        {"architecture": "test_vit", "pretrained_cfg": dict(cfg), "num_classes": 3, "label_names": LABELS}
    )
    return TimmWrapperForImageClassification(config)


def test_pushed_peers_load_with_the_stock_classes_in_a_clean_cache(hub, tmp_path):
    """A model that only loads on the machine that trained it is not shared; timm users have no transformers."""
    folder = tmp_path / "run"
    torch.manual_seed(0)
    models = {"vit": tiny_vit().eval(), "timm": tiny_timm().eval()}
    models["vit"].save_pretrained(folder / "vit")
    save_timm_wrapper(models["timm"], folder / "timm")
    tiny_processor().save_pretrained(folder / "vit")
    write_record(folder, *models, dataset="shapes")
    push(hub, folder)
    env = {**os.environ, **hub.env(cache=tmp_path / "clean")}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.split("ANSWER")[1])
    for name in models:
        logits, piped, label = found[name]
        assert len(logits) == len(LABELS)
        assert piped == label
        assert label in LABELS
    torch.testing.assert_close(torch.tensor(found["by timm"]), torch.tensor(found["timm"][0]))


# Checkpoints


def train(make_cohort, folder, steps, resume=None, **changes):
    from hf_mutual_kd import MutualKDConfig

    torch.manual_seed(0)
    args = MutualKDConfig(
        str(folder), max_steps=steps, per_device_train_batch_size=8, learning_rate=1e-2, save_steps=3,
        save_strategy="steps", eval_strategy="steps", eval_steps=3, use_cpu=True, report_to="none", disable_tqdm=True,
        pre_flight=False, **changes,
    )  # fmt: skip
    trainer = MutualKDTrainer(make_cohort("vit", "cnx"), args, make_rows(48), make_rows(9, 1))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def destination(hub) -> Destination:
    return Destination("ada", token=TOKEN, endpoint=hub.url)


def test_training_resumes_exactly_from_a_pushed_checkpoint(hub, make_cohort, tmp_path, monkeypatch):
    """A state that lost a bit on its way to the Hub resumes without complaint and ends elsewhere."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    whole = train(make_cohort, tmp_path / "whole", 6)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    write_record(tmp_path / "whole", "vit", "cnx", dataset="shapes")
    pushed = push_checkpoint(tmp_path / "whole", checkpoint, "checkpoint", destination(hub), BRISK)
    assert pushed.repositories["vit"] == "ada/vit-shapes-mutual"
    names = {name for repo in pushed.repositories.values() for name in hub.files(repo)}
    assert {Path(name).suffix for name in names} <= {".json", ".safetensors"}
    assert [len(hub.commits(repo)) for repo in pushed.repositories.values()] == [2, 2]
    assert str(tmp_path).encode() not in hub.everything_received()
    pulled = pull_checkpoint(
        "ada/vit-shapes-mutual", tmp_path / "resumed", token=TOKEN, endpoint=hub.url, patience=BRISK
    )
    assert pulled == tmp_path / "resumed" / "checkpoint-3"
    ours, theirs = contents(checkpoint), contents(pulled)
    assert set(theirs) == set(ours)
    for name in ours:
        if not name.endswith((".pt", ".pth")):
            assert theirs[name] == ours[name], name
    resumed = train(make_cohort, tmp_path / "resumed", 6, resume=str(pulled))
    for key, value in whole.cohort.peers.state_dict().items():
        assert torch.equal(value, resumed.cohort.peers.state_dict()[key]), key
    assert torch.equal(*(torch.load(tmp_path / run / "checkpoint-6/rng_state.pth", weights_only=False)["cpu"]
                         for run in ("whole", "resumed")))  # fmt: skip
    assert contents(tmp_path / "whole" / "vit") == contents(tmp_path / "resumed" / "vit")
    with pytest.raises(HubError, match="checkpoint-3 exists already"):
        pull_checkpoint("ada/vit-shapes-mutual", tmp_path / "resumed", token=TOKEN, endpoint=hub.url, patience=BRISK)
    with pytest.raises(
        HubError, match="holds no checkpoint in last-checkpoint; give the repository of the cohort's fi"
    ):
        pull_checkpoint("ada/cnx-shapes-mutual", tmp_path / "other", token=TOKEN, endpoint=hub.url, patience=BRISK)


def fake_checkpoint(run: Path, step: int, **files: bytes) -> Path:
    folder = run / f"checkpoint-{step}"
    for name in "abcd":
        shutil.copytree(run / name, folder / name, symlinks=True)
        (folder / name / "config.json").write_text(json.dumps({"model_type": "vit", "step": step}))
    state = {"global_step": step, "best_model_checkpoint": str(run / "checkpoint-1")}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    torch.save({"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(3)}}}, folder / "optimizer.pt")
    (folder / "training_args.bin").write_bytes(b"PICKLE")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_strategies_push_what_their_names_say(hub, run):
    """`all_checkpoints` keeps every state, `checkpoint` the last; stale parts of the last one would mix two steps."""
    push_checkpoint(run, fake_checkpoint(run, 1), "every_save", destination(hub), BRISK)
    assert set(hub.files(REPOS[0])) == PUSHED
    shutil.copytree(run / "checkpoint-1" / "a", run / "checkpoint-1" / "best" / "a", symlinks=True)
    push_checkpoint(run, run / "checkpoint-1", "checkpoint", destination(hub), BRISK)
    assert "last-checkpoint/best/a/model.safetensors" in hub.files(REPOS[0])
    push_checkpoint(run, fake_checkpoint(run, 2), "checkpoint", destination(hub), BRISK)
    first, second = hub.files(REPOS[0]), hub.files(REPOS[1])
    assert "last-checkpoint/best/a/model.safetensors" not in first
    assert json.loads(first["last-checkpoint/a/config.json"])["step"] == json.loads(first["config.json"])["step"] == 2
    state = {name for name in first if name.startswith("last-checkpoint/") and name.count("/") == 1}
    assert {Path(name).name for name in state} == {
        "trainer_state.json", "optimizer.pt.json", "optimizer.pt.safetensors", "pushed_checkpoint.json",
    }  # fmt: skip
    assert {name.split("/")[1] for name in second if name.startswith("last-checkpoint/")} == {"b"}
    for step in (3, 4):
        push_checkpoint(run, fake_checkpoint(run, step), "all_checkpoints", destination(hub), BRISK)
    assert {name.split("/")[0] for name in hub.files(REPOS[0])} >= {"checkpoint-3", "checkpoint-4", "last-checkpoint"}
    assert b"PICKLE" not in hub.everything_received()
    assert str(run).encode() not in hub.everything_received()
    with pytest.raises(HubError, match="strategy must be one of every_save, checkpoint, all_checkpoints, got 'end'"):
        push_checkpoint(run, run / "checkpoint-1", "end", destination(hub), BRISK)


def test_state_that_would_need_pickles_is_refused_before_anything_is_sent(hub, run):
    """State of a sharded run silently left out would be found missing when it is needed."""
    checkpoint = fake_checkpoint(run, 1, **{"__0_0.distcp": b"x"})
    with pytest.raises(HubError, match=r"__0_0.distcp is state of a sharded run.*use hub_strategy 'every_save'"):
        push_checkpoint(run, checkpoint, "checkpoint", destination(hub), BRISK)
    assert hub.requests == []
    push_checkpoint(run, checkpoint, "every_save", destination(hub), BRISK)


def test_state_survives_the_way_through_json_and_safetensors():
    """Python, NumPy and torch generators, schedules and optimizers hold more kinds of values than JSON knows."""
    value = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.get_rng_state(),
        0: [
            1,
            -2.5,
            1e-300,
            float("inf"),
            True,
            None,
            "text",
            (),
            np.float32(3),
            torch.tensor(2.0, dtype=torch.bfloat16),
        ],
        "shared": (shared := torch.arange(6).view(2, 3).T),
        "again": shared,
    }
    tensors = {}
    text = json.dumps(to_plain(value, tensors), allow_nan=False)
    back = from_plain(json.loads(text), tensors)
    random.setstate(back["python"])
    assert back["python"] == value["python"]
    assert back["numpy"][1].dtype == np.uint32
    np.testing.assert_array_equal(back["numpy"][1], value["numpy"][1])
    assert back["numpy"][2:] == value["numpy"][2:]
    assert torch.equal(back["cpu"], value["cpu"])
    assert torch.equal(back["again"], shared)
    assert [type(item) for item in back[0]] == [type(item) for item in value[0]]
    assert back[0] == value[0]
    with pytest.raises(HubError, match="holds a set, which cannot be pushed"):
        to_plain({"x": {1}}, {})


def test_pushes_in_the_background_neither_block_nor_stop_training(hub, run, caplog, monkeypatch):
    """A Hub that is down for an hour must cost a warning, not the training; a rotated checkpoint must still arrive."""
    monkeypatch.setattr(logging.getLogger("hf_mutual_kd"), "propagate", True)
    hub.fail("POST", "/commit/", delay=0.5)
    pushes = PushInBackground(run, "checkpoint", destination(hub), BRISK)
    began = time.monotonic()
    for step in (1, 2, 3):
        checkpoint = fake_checkpoint(run, step)
        pushes.push_checkpoint(checkpoint)
        shutil.rmtree(checkpoint)
        time.sleep(0.1 if step == 1 else 0)
    assert time.monotonic() - began < 0.5
    assert [done.step for done in pushes.finish()] == [1, 3]
    assert json.loads(hub.files(REPOS[0])["last-checkpoint/trainer_state.json"])["global_step"] == 3
    assert not list(run.glob(".pushing-*"))
    hub.fail("POST", "/commit/", status=403)
    pushes.push_checkpoint(fake_checkpoint(run, 4))
    pushes.finish()
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("hf_mutual_kd")]
    assert len(warnings) == 1
    assert "checkpoint-4 is not pushed, training goes on: pushing to ada/b" in warnings[0]
    pushes.push_checkpoint(fake_checkpoint(run, 5))
    assert [done.step for done in pushes.finish()] == [1, 3, 5]
    idle = PushInBackground(run, "end", destination(hub), BRISK)
    idle.push_checkpoint(run / "checkpoint-5")
    assert idle.finish() == []
    every = PushInBackground(run, "all_checkpoints", destination(hub), BRISK)
    for step in (4, 5):
        every.push_checkpoint(run / f"checkpoint-{step}")
    assert [done.step for done in every.finish()] == [4, 5]
