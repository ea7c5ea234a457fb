"""Pushing a run to the loopback Hub with the real client: what arrives, what never leaves, and what faults do."""

import base64
import json
import os
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hub_run import BRISK, CARD, PUSHED, REPOS, TOKEN, contents, push, sent, write_record
from hub_server import HubServer
from made_up_run import made_up_record, made_up_results, write_run
from safetensors.numpy import save_file

from hf_mutual_kd import HubError, OutputFolderError, Patience, PushTarget
from hf_mutual_kd.hub.files import PushFile, refuse_secrets, select
from hf_mutual_kd.hub.push import check_rights
from hf_mutual_kd.reports.readme_merge import BEGIN, END, merge_readme
from hf_mutual_kd.reports.text import split_readme

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
    index = {"weight_map": {"weight": "model-00001-of-00001.safetensors"}}
    (run / "a" / "model.safetensors.index.json").write_text(json.dumps(index))
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
    assert split_readme(merged)[0] == {"license": "mit", "tags": ["demo", "mine"], "thumbnail": "me.png"}
    assert merged.split("---\n")[2] == f"{BEGIN}\n# A peer\n\nNewer text.\n{END}\n\n## My notes\n\nCiao – not yours.\n"
    assert not push(hub, run, peers=["a"]).peers[0].changed


def test_metadata_of_a_user_that_cannot_be_read_stops_the_push(hub, run):
    """A typing error in the README on the Hub costs the user all metadata, or leaves them without a way on."""
    theirs = "---\nwidget: [\n---\nMine\n"
    hub.add_model(REPOS[1], {"README.md": theirs})
    with pytest.raises(HubError) as refusal:
        push(hub, run)
    text = str(refusal.value)
    assert text.startswith(f"pushing to {REPOS[1]} is refused: README.md of {REPOS[1]}: its metadata is not readable")
    assert "correct it" in text
    assert text.endswith(f"Continue with\n  hf-mutual-kd push {run} --namespace ada --peers b c d")
    assert hub.files(REPOS[1]) == {"README.md": theirs.encode()}


@pytest.mark.parametrize("finished", [False, True])
def test_metadata_in_the_run_that_cannot_be_read_is_refused_before_anything_is_sent(hub, tmp_path, finished):
    """A card that a user has edited and broken would be found out after the first peers are pushed."""
    folder = write_run(tmp_path / "run", made_up_record(), made_up_results() if finished else None)
    (folder / "cnn" / "README.md").write_text("---\na: [\n---\nMine\n")
    with pytest.raises(
        HubError, match=r"^cnn/README.md: its metadata is not readable as YAML; correct it .*nothing was"
    ):
        push(hub, folder)
    assert hub.requests == []


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


# What never leaves


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("README.md", f"use {TOKEN}", "your token"),
        ("notes.txt", "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "a Hub token"),
        ("config.json", '{"from": "/home/somebody/models"}', "the path of somebody's home folder"),
        ("config.json", '{"from": "C:\\\\Users\\\\somebody\\\\models"}', "the path of somebody's home folder"),
        ("model.safetensors", None, "the path of your home folder"),
        ("README.md", "data in /scratch/ada/imagenet", "a path of somebody's machine"),
        ("config.json", '{"from": "/mnt/data/models"}', "a path of somebody's machine"),
        ("README.md", base64.b64encode(f"a {TOKEN} b".encode()).decode(), "your token .in base64."),
        ("README.md", base64.urlsafe_b64encode(f"??>{TOKEN}".encode()).decode(), "your token .in base64."),
        ("notes.txt", TOKEN.encode("utf-16"), "your token .as UTF-16."),
        ("notes.txt", "-----BEGIN RSA " + "PRIVATE KEY-----", "what looks like a secret .Private Key."),
        ("notes.txt", "AKIA" + "IOSFODNN7EXAMPLE", "what looks like a secret .AWS Access Key."),
        ("notes.txt", "export WANDB_API_KEY=" + "ab34cd90" * 5, "what looks like a key"),
        ("notes.txt", "AIza" + "SyA1b" * 7, "what looks like a key"),
        ("config.json", '{"wandb_password": "hunter2hunter"}', "what looks like a secret .Secret Keyword."),
    ],
)
def test_secrets_and_local_paths_are_refused_before_anything_is_sent(hub, run, monkeypatch, name, content, found):
    """A token in a public repository is used by strangers within minutes."""
    monkeypatch.setenv("HOME", "/srv/people/ada")
    if content is None:
        save_file({"w": np.zeros(1)}, run / "c" / name, {"from": "/srv/people/ada/x"})
    else:
        (run / "c" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(HubError, match=f"c/{name} holds {found}; take it out") as refusal:
        push(hub, run)
    assert "hf_" not in str(refusal.value)
    assert hub.requests == []


def test_words_that_only_look_like_paths_pass(tmp_path, monkeypatch):
    """With /root as home, every mention of it inside an address would block the push."""
    monkeypatch.setenv("HOME", "/root")
    text = b"https://example.org/rootless https://example.org/home/page hf_mutual_kd hf_hub:ada/x the/root/x"
    text += (
        b" https://x.org/mnt/y pad_token=<pad> tokenizer_class: PreTrainedTokenizerFast2 api key: none " + b"a" * 45
    )
    refuse_secrets([PushFile("README.md", text)], tmp_path, None)
    with pytest.raises(HubError, match="your home folder"):
        refuse_secrets([PushFile("README.md", b"in file:///root/x")], tmp_path, None)


def test_folders_that_are_no_run_are_refused(hub, run, tmp_path):
    """A wrong folder, or a peer's folder that is a link to elsewhere, would push somebody's files."""
    with pytest.raises(OutputFolderError, match=r"is no run: it has no cohort.json"):
        push(hub, tmp_path)
    shutil.move(run / "d", tmp_path / "d")
    (run / "d").symlink_to(tmp_path / "d")
    with pytest.raises(HubError, match="'d': its folder is a link that leads out"):
        push(hub, run)
    (run / "d").unlink()
    with pytest.raises(HubError, match="'d' has no folder"):
        push(hub, run)
    write_record(run, "../d")
    with pytest.raises(OutputFolderError, match=r"names '../d' as a peer"):
        push(hub, run)
    (run / "e").mkdir()
    with pytest.raises(HubError, match=r"no whole model: it lacks config.json"):
        select(run / "e")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("lost", "index", "message"),
    [
        ("model.safetensors", None, "lacks model.safetensors"),
        ("config.json", None, "lacks config.json"),
        ("preprocessor_config.json", None, "lacks its processor, one of preprocessor_config.json"),
        ("nothing", {"weight_map": {"w": "model-00002-of-00002.safetensors"}}, "lacks model-00002-of-00002"),
        ("nothing", [], "model.safetensors.index.json is damaged"),
    ],
)
def test_a_peer_that_is_not_whole_is_refused(hub, run, lost, index, message):
    """A repository without weights or processor is found out by those who try to load it."""
    (run / "c" / lost).unlink(missing_ok=True)
    if index is not None:
        (run / "c" / "model.safetensors.index.json").write_text(json.dumps(index))
    for dry_run in (True, False):
        with pytest.raises(HubError, match=message):
            push(hub, run, dry_run=dry_run)
    assert hub.requests == []


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

    def merge_slowly(built, present, name):
        calls.append(present)
        if len(calls) == 1:
            hub.add_model(REPOS[0], {"README.md": f"{CARD}\nA note in between.\n"})
        return merge(built, present, name)

    monkeypatch.setattr("hf_mutual_kd.hub.commit.merge_readme", merge_slowly)
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
    with pytest.raises(HubError, match=r"failed: the deadline of 0.5 s that was given is over"):
        push(hub, run, patience=Patience(deadline_s=0.5))
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


@pytest.mark.parametrize(
    ("token", "namespace", "message"),
    [
        ("hf_wrong", None, r"\(401.*`hf auth login`"),
        ("hf_bob", None, "your token of bob may only read"),
        ("hf_eve", "ada", "hub_namespace 'ada' is not yours; you may push to eve"),
        (TOKEN, "watched", "your role in 'watched' is to read"),
    ],
)
def test_rights_are_asked_before_hours_of_training(token, namespace, message):
    """A token that may not write is found out by the push, after the training."""
    orgs = {"lab": ["ada"], "watched": {"ada": "read"}}
    with HubServer({"ada": TOKEN, "eve": "hf_eve"}, orgs, read_tokens={"bob": "hf_bob"}) as hub:
        with pytest.raises(HubError, match=message):
            check_rights(PushTarget(namespace, token=token, endpoint=hub.url))
        check_rights(PushTarget("lab", token=TOKEN, endpoint=hub.url))
        check_rights(PushTarget(None, token=TOKEN, endpoint=hub.url))
        assert {request.method for request in hub.requests} == {"GET"}
