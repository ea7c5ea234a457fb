"""The loopback Hub against the real, unpatched client: what it stores and answers, and what the client retries."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from hub_cards import check_card
from hub_server import HubServer

PRELUDE = """
import json, os, sys, time, warnings
from pathlib import Path
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
api = HfApi()

def outcome(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__} {getattr(getattr(error, 'response', None), 'status_code', '')}".strip()
    return "ok"
"""


@pytest.fixture
def hub():
    with HubServer(
        users={"ada": "hf_ada", "eve": "hf_eve"}, read_tokens={"bob": "hf_bob"}, orgs={"lab": ["ada"]}
    ) as hub:
        yield hub


@pytest.fixture
def client(hub, tmp_path):
    """Run code in a fresh process that talks to the hub; what it passes to `answer(...)` comes back."""

    def run(code, token="hf_ada", cache="cache", **env):
        script = f"{PRELUDE}\nanswer = lambda value: print('ANSWER' + json.dumps(value))\n{textwrap.dedent(code)}"
        env = {**os.environ, **hub.env(token, cache=tmp_path / cache, **env)}
        done = subprocess.run(
            [sys.executable, "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER")]
        return json.loads(answers[-1].removeprefix("ANSWER")) if answers else None

    return run


@pytest.fixture
def peer(tmp_path):
    """A folder like a trained peer's: a card, a config, 1.5 MB of weights and a file in a sub-folder."""
    folder = tmp_path / "peer"
    (folder / "figures").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A peer\n")
    (folder / "config.json").write_text('{"model_type": "vit"}')
    (folder / "model.safetensors").write_bytes(os.urandom(1_500_000))
    (folder / "figures" / "curve 1.svg").write_text("<svg/>")
    return folder


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def sent(hub, method, part=""):
    return [request for request in hub.requests if request.method == method and part in request.path]


def test_a_pushed_folder_comes_back_and_is_not_pushed_twice(hub, client, peer):
    """A hub that lost bytes, or took an unchanged push for a change, would make every push test meaningless."""
    push = "answer(api.upload_folder(repo_id='ada/vit', folder_path='peer').oid)"
    first = client("api.create_repo('ada/vit')\n" + push)
    assert hub.files("ada/vit") == contents(peer)
    assert client(push) == first
    assert [c.title for c in hub.commits("ada/vit")] == ["Upload folder using huggingface_hub", "initial commit"]
    assert len(sent(hub, "PUT", "/lfs/")) == len(sent(hub, "POST", "/commit/")) == 1
    assert 1_500_000 < hub.bytes_received < 1_520_000


def test_a_download_fills_the_cache_and_works_offline(hub, client, peer):
    """A wrong ETag or X-Repo-Commit would put files where the client does not find them again."""
    sha = hub.add_model("ada/vit", peer)
    fetch = "answer([snapshot_download('ada/vit'), hf_hub_download('ada/vit', 'figures/curve 1.svg')])"
    folder, file = client(fetch, token=None)
    assert folder.endswith(f"snapshots/{sha}")
    assert file == f"{folder}/figures/curve 1.svg"
    files = {os.path.relpath(os.path.join(at, n), folder) for at, _, names in os.walk(folder) for n in names}
    assert files - {".gitattributes"} == set(contents(peer))
    seen = len(hub.requests)
    assert client(fetch, token=None, HF_HUB_OFFLINE="1") == [folder, file]
    assert len(hub.requests) == seen
    hub.stop()
    assert client(fetch, token=None) == [folder, file]


def test_revisions_name_what_they_named_before(hub, client):
    """A pinned sha that followed its branch would let a run load other weights than it recorded."""
    old = hub.add_model("ada/vit", {"config.json": "{}"})
    new = hub.add_model("ada/vit", {"config.json": '{"new": 1}'})
    code = f"""
        api.create_tag('ada/vit', tag='v1', revision='{old}')
        api.create_branch('ada/vit', branch='try/1', revision='v1')
        read = lambda revision: Path(hf_hub_download('ada/vit', 'config.json', revision=revision)).read_text()
        refs = api.list_repo_refs('ada/vit')
        answer([[read(r) for r in ('{old}', 'v1', 'try/1', 'main', '{new}')],
                [(r.name, r.target_commit) for r in refs.branches + refs.tags],
                [c.commit_id for c in api.list_repo_commits('ada/vit')][:2],
                outcome(lambda: read('gone')), outcome(lambda: api.create_tag('ada/vit', tag='v1'))])
    """
    read, refs, log, gone, again = client(code)
    assert read == ["{}", "{}", "{}", '{"new": 1}', '{"new": 1}']
    assert refs == [["main", new], ["try/1", old], ["v1", old]]
    assert log == [new, old]
    assert (gone, again) == ("RevisionNotFoundError 404", "HfHubHTTPError 409")


def test_who_may_not_gets_the_exception_of_the_real_hub(hub, client):
    """`hub.py` tells its errors apart by class and status; one common error would hide a wrong branch there."""
    hub.add_model("ada/open", {"config.json": "{}"})
    hub.add_model("ada/secret", {"config.json": "{}"}, private=True)
    hub.add_model("ada/gated", {"config.json": "{}"}, gated="manual", granted={"bob"})
    code = """
        def outcomes(token, name):
            get = lambda repo, file='config.json': lambda: hf_hub_download(repo, file, token=token, cache_dir=name)
            file = dict(path_or_fileobj=b'x', path_in_repo='x', token=token)
            return [outcome(call) for call in (
                get('ada/secret'), get('ada/gated'), get('ada/none'), get('ada/open', 'none.json'),
                lambda: api.upload_file(repo_id='ada/open', **file),
                lambda: api.create_repo(f'lab/{name}', token=token, exist_ok=True),
                lambda: api.create_repo('ada/open', token=token, exist_ok=True))]
        tokens = {'ada': 'hf_ada', 'eve': 'hf_eve', 'bob': 'hf_bob', 'nobody': False, 'wrong': 'hf_wrong'}
        answer({name: outcomes(token, name) for name, token in tokens.items()})
    """
    missing, no_repo, anonymous = "RemoteEntryNotFoundError 404", "RepositoryNotFoundError 404", "HfHubHTTPError 401"
    no_repo_401, forbidden = "RepositoryNotFoundError 401", "HfHubHTTPError 403"
    assert client(code) == {
        "ada": ["ok", "ok", no_repo, missing, "ok", "ok", "ok"],
        "eve": [no_repo, "GatedRepoError 403", no_repo, missing, forbidden, forbidden, "ok"],
        "bob": [no_repo, "ok", no_repo, missing, forbidden, forbidden, "ok"],
        "nobody": [no_repo_401, "GatedRepoError 401", no_repo_401, missing, anonymous, anonymous, "ok"],
        "wrong": [anonymous] * 7,
    }
    assert b"hf_" not in hub.everything_received().replace(b"hf_hub", b"")


def test_lists_infos_and_pages(hub, client):
    """A list cut after its first page would make `delete_patterns` and the scout overlook files and models."""
    hub.page_size = 2
    card = "---\nlicense: mit\npipeline_tag: image-classification\nbase_model: google/vit\ndatasets: [beans]\n---\n"
    for name in ("vit-a", "vit-b", "vit-c", "other"):
        hub.add_model(f"ada/{name}", {"README.md": card if name != "other" else "", "config.json": "{}", "a/b/c": "1"})
    hub.add_model("ada/vit-secret", {"README.md": card}, private=True)
    code = """
        info = api.model_info('ada/vit-a', files_metadata=True)
        answer([sorted(m.id for m in api.list_models(author='ada', search='VIT', filter='license:mit', token=False)),
                len(list(api.list_models(pipeline_tag='image-classification'))),
                [m.id for m in api.list_models(filter='dataset:beans', limit=1)],
                [f.path for f in api.list_repo_tree('ada/vit-a', recursive=True)],
                [f.path for f in api.get_paths_info('ada/vit-a', ['a/b', 'config.json', 'none'])],
                [info.card_data.license, info.pipeline_tag, info.tags, {s.rfilename: s.size for s in info.siblings}]])
    """
    public, visible, one, tree, paths, info = client(code)
    assert public == ["ada/vit-a", "ada/vit-b", "ada/vit-c"]
    assert (visible, len(one)) == (4, 1)
    assert tree == [".gitattributes", "README.md", "a", "a/b", "a/b/c", "config.json"]
    assert paths == ["a/b", "config.json"]
    tags = ["image-classification", "dataset:beans", "base_model:google/vit", "license:mit"]
    assert info[:3] == ["mit", "image-classification", tags]
    assert {path: info[3][path] for path in ("README.md", "a/b/c")} == {"README.md": len(card), "a/b/c": 1}


def test_repositories_change_and_go(hub, client):
    """Deleted files, a stale parent and settings are state that a stateless stand-in would not notice."""
    old = hub.add_model("ada/vit", {"a": "1", "old/b": "2"})
    hub.add_model("ada/vit", {"a": "3"})
    code = f"""
        from huggingface_hub import CommitOperationCopy
        stale = outcome(lambda: api.upload_file(
            path_or_fileobj=b'4', path_in_repo='a', repo_id='ada/vit', parent_commit='{old}'))
        api.delete_folder('old', 'ada/vit')
        api.create_commit('ada/vit', [CommitOperationCopy('a', 'copy')], commit_message='copy')
        api.update_repo_settings('ada/vit', private=True, gated='auto')
        api.move_repo('ada/vit', 'lab/vit')
        info = api.model_info('lab/vit')
        api.create_repo('ada/space', repo_type='space', space_sdk='static')
        api.delete_repo('ada/space', repo_type='space')
        space = api.repo_exists('ada/space', repo_type='space')
        answer([stale, info.private, info.gated, space, api.whoami()['orgs']])
    """
    orgs = [{"type": "org", "name": "lab", "roleInOrg": "write"}]
    assert client(code) == ["HfHubHTTPError 412", True, "auto", False, orgs]
    assert hub.files("lab/vit") == {"a": b"3", "copy": b"3"}


def test_collections_keep_items_and_notes_and_can_be_switched_off(hub, client):
    """The push makes one collection per cohort, updates it on the next push, and does without where there is none."""
    hub.add_model("ada/a", {"config.json": "{}"})
    code = """
        make = lambda: api.create_collection('Cohort: beans', description='Two peers', exists_ok=True)
        slug = make().slug
        for _ in range(2):
            cohort = api.add_collection_item(slug, 'ada/a', 'model', note='first', exists_ok=True)
        api.update_collection_item(slug, cohort.items[0].item_object_id, note='second')
        items = [(i.item_id, i.item_type, i.note) for i in api.get_collection(slug).items]
        listed = [c.slug for c in api.list_collections(owner='ada')]
        answer([make().slug == slug, slug.split('-')[0], items, listed == [slug],
                outcome(lambda: api.add_collection_item(slug, 'ada/none', 'model')),
                outcome(lambda: api.create_collection('x', description='y' * 151))])
    """
    items = [["ada/a", "model", "second"]]
    assert client(code) == [True, "ada/cohort", items, True, "RepositoryNotFoundError 404", "BadRequestError 400"]
    hub.collections = False
    assert client("answer(outcome(lambda: api.create_collection('x')))") == "HfHubHTTPError 404"


RESULT = (
    "{task: {type: image-classification}, dataset: {type: beans, name: Beans}, metrics: [{type: accuracy, value: 1}]}"
)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("license: mit\nbase_model: [google/vit, ada/b]\nbase_model_relation: finetune", None),
        (f"model-index: [{{name: x, results: [{RESULT}]}}]", None),
        ("license: free", '"license" must be one of [apache-2.0'),
        ("base_model: ./runs/vit", '"base_model" with value "./runs/vit" is not valid. Use a model id'),
        ("base_model: [google/vit, /home/ada/x]", '"base_model[1]" with value'),
        ("base_model_relation: child", '"base_model_relation" must be one of'),
        ("pipeline_tag: image-classify", '"pipeline_tag" must be one of'),
        ("tags: demo", '"tags" must be an array'),
        ("tags: [1]", '"tags[0]" must be a string'),
        ("language: [English]", '"language[0]" must only contain lowercase'),
        ("language: no", '"language" must be an array'),
        ("a: [", "Invalid YAML in README.md"),
        ("license: mit\nlicense: mit", "duplicated mapping key: license"),
        ("model-index: {}", '"model-index" must be an array'),
        ("model-index: [{results: []}]", '"model-index[0].name" is required'),
        ("model-index: [{name: x}]", '"model-index[0].results" must be an array'),
        (
            f"model-index: [{{name: x, results: [{RESULT.replace('name: Beans', '')}]}}]",
            'results[0].dataset.name" is req',
        ),
        (
            f"model-index: [{{name: x, results: [{RESULT.replace('value: 1', 'value: .nan')}]}}]",
            "must be a finite number",
        ),
        (
            f"model-index: [{{name: x, results: [{RESULT.replace(', value: 1', '')}]}}]",
            '.metrics[0].value" is required',
        ),
    ],
)
def test_card_metadata_is_checked_as_on_the_hub(metadata, message):
    """A lenient check would let cards pass here that the Hub refuses after hours of training."""
    errors, warnings = check_card(f"---\n{metadata}\n---\n# Text\n")
    assert warnings == []
    if message is None:
        assert errors == []
    else:
        assert len(errors) == 1
        assert message in errors[0]


def test_a_bad_card_is_refused_and_an_empty_one_warned_of(hub, client):
    """The client asks `validate-yaml` before a push; the commit itself must be refused too."""
    hub.add_model("ada/vit", {"a": "1"})
    code = """
        def push(text):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter('always')
                done = outcome(lambda: api.upload_file(
                    path_or_fileobj=text.encode(), path_in_repo='README.md', repo_id='ada/vit'))
            return [done, [str(w.message).splitlines()[-1] for w in caught]]
        answer([push('---\\nlicense: free\\n---\\n'), push('# No metadata')])
    """
    assert client(code) == [["ValueError", []], ["ok", ["- empty or missing yaml metadata in repo card"]]]


def test_what_the_client_retries_itself(hub, client):
    """Preparation, uploads and lists are repeated by the client; creating a repository and the commit are not."""
    preupload = hub.fail("POST", "/preupload/", status=503)
    batch = hub.fail("POST", "/objects/batch", status=429, headers={"Retry-After": "0"})
    upload = hub.fail("PUT", "/lfs/", cut=1000, reset=True)
    commit = hub.fail("POST", "/commit/", status=503)
    create = hub.fail("POST", "/repos/create", status=429, headers={"Retry-After": "0"})
    code = """
        create = lambda: api.create_repo('ada/vit', exist_ok=True)
        push = lambda: api.upload_file(path_or_fileobj=bytes(2_000_000), path_in_repo='a.bin', repo_id='ada/vit')
        answer([outcome(create), outcome(create), outcome(push), outcome(push)])
    """
    assert client(code) == ["HfHubHTTPError 429", "ok", "HfHubHTTPError 503", "ok"]
    assert (preupload.seen, batch.seen, upload.seen, commit.seen, create.seen) == (3, 3, 2, 2, 2)
    assert hub.files("ada/vit") == {"a.bin": bytes(2_000_000)}


def test_a_lost_reply_leaves_one_commit(hub, client):
    """The commit is applied though the client sees an error; pushing again must find nothing to do."""
    hub.add_model("ada/vit", {"a": "1"})
    hub.fail("POST", "/commit/", drop_reply=True)
    code = """
        push = lambda: api.upload_file(path_or_fileobj=b'2', path_in_repo='a', repo_id='ada/vit')
        answer([outcome(push), outcome(push)])
    """
    assert client(code) == ["RemoteProtocolError", "ok"]
    assert len(hub.commits("ada/vit")) == 3
    assert hub.files("ada/vit") == {"a": b"2"}


def test_a_cut_download_is_resumed_unless_reset(hub, client):
    """The client resumes after FIN, in steps of 10 MiB, but gives up after RST: `hub.py` has to repeat that one."""
    data = os.urandom(1000) * 12_000
    hub.add_model("ada/vit", {"model.safetensors": data, "config.json": "{}"})
    hub.fail("GET", "/resolve/.*safetensors", cut=11_000_000)
    hub.fail("GET", "/resolve/.*config", cut=1, reset=True)
    code = """
        weights = Path(hf_hub_download('ada/vit', 'model.safetensors')).read_bytes()
        answer([len(weights), outcome(lambda: hf_hub_download('ada/vit', 'config.json'))])
    """
    assert client(code) == [12_000_000, "ReadError"]
    assert [r.headers.get("range") for r in sent(hub, "GET", "safetensors")] == [None, "bytes=10485760-"]


def test_every_byte_that_left_can_be_searched(hub, client):
    """Regular files leave in base64: a search of raw bodies alone would miss a secret inside them."""
    hub.add_model("ada/vit", {"a": "1"})
    client("api.upload_file(path_or_fileobj=b'my /home/ada/secret', path_in_repo='notes.txt', repo_id='ada/vit')")
    assert not any(b"/home/ada/secret" in request.body for request in hub.requests)
    assert b"/home/ada/secret" in hub.everything_received()
    assert b"hf_ada" not in hub.everything_received()
    assert any("hf_ada" in value for request in hub.requests for value in request.headers.values())


def test_a_fault_has_an_effect_or_is_refused(hub, client):
    """A fault without effect would let a fault test pass for nothing."""
    late = hub.fail("GET", "/whoami", nth=2, delay=0.5)
    code = """
        start = time.monotonic(); api.whoami(); first = time.monotonic(); api.whoami()
        answer([first - start, time.monotonic() - first])
    """
    first, second = client(code)
    assert first < 0.5 <= second
    assert late.seen == 2
    with pytest.raises(ValueError, match="needs one of status, cut, delay, drop_reply"):
        hub.fail("GET", "/api")


def test_transformers_pushes_and_loads_through_it(hub, client):
    """The stock classes ask for more files and headers than the bare client; all must find their answer."""
    code = """
        import torch; torch.set_num_threads(1)
        from transformers import AutoConfig, AutoModelForImageClassification, ViTConfig, ViTForImageClassification
        sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8)
        model = ViTForImageClassification(ViTConfig(patch_size=4, num_labels=3, **sizes))
        model.push_to_hub('ada/tiny', private=True)
        loaded, again = AutoModelForImageClassification.from_pretrained('ada/tiny'), model.state_dict()
        equal = all(torch.equal(value, again[name]) for name, value in loaded.state_dict().items())
        answer([equal, AutoConfig.from_pretrained('ada/tiny').num_labels,
                outcome(lambda: AutoConfig.from_pretrained('ada/none'))])
    """
    assert client(code) == [True, 3, "OSError"]
    assert set(hub.files("ada/tiny")) == {"README.md", "config.json", "model.safetensors"}
    assert hub.repo("ada/tiny").private
