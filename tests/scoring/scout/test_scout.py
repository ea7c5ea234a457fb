"""The scout: its numbers by hand, its choice of partners, and searches on the loopback Hub and among folders."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LABELS, MAKERS, make_rows, tiny_processor, tiny_vit
from hub_server import HubServer
from scipy import stats

from hf_mutual_kd import ConfigError, complement, ensemble_right
from hf_mutual_kd.cli import main as cli
from hf_mutual_kd.cli.scout import quantity
from hf_mutual_kd.scoring.scout.candidates import Pulled, name_for
from hf_mutual_kd.scoring.scout.figure import scout_figure
from hf_mutual_kd.scoring.scout.ranking import choose_partners, ensemble_gain, phi, wilson
from hf_mutual_kd.scoring.scout.report import cohort_choice_table, count


@pytest.mark.parametrize(("hits", "trials"), [(0, 20), (1, 10), (10, 10), (37, 200)])
def test_wilson_is_the_score_interval(hits, trials):
    """A normal interval says that 0 of 20 is surely 0."""
    found = wilson(hits, trials)
    known = stats.binomtest(hits, trials).proportion_ci(0.95, "wilson")
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-6)
    assert found.value == hits / trials


def test_gain_of_an_ensemble_by_hand():
    """The headline number: compared with the best member, not with the mean of them, sample by sample."""
    right = np.array([[1, 1, 0, 0, 1, 0], [0, 1, 1, 0, 0, 0]], bool)
    gain = ensemble_gain(right, np.array([1, 1, 1, 1, 0, 0], bool))
    difference = np.array([0, 0, 1, 1, -1, 0])
    assert gain.value == pytest.approx(1 / 6)
    assert gain.high - gain.value == pytest.approx(1.959964 * difference.std(ddof=1) / math.sqrt(6))
    assert ensemble_gain(right[:, :1], right[0, :1]).high == math.inf
    probs = np.log([[[0.6, 0.4], [0.9, 0.1]], [[0.1, 0.9], [0.2, 0.8]]])
    assert ensemble_right(probs, np.array([1, 0])).tolist() == [True, True]
    broken = np.stack([probs[0], np.full((2, 2), np.nan)])
    assert ensemble_right(broken, np.array([0, 0])).tolist() == [True, True]


def test_complement_by_hand():
    """Flips in the wrong direction would recommend the models that mine already surpasses."""
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    mine = np.array([0, 1, 1, 1, 1, 0, 2, 0])
    other = np.array([0, 0, 1, 0, 1, 1, 0, 0])
    margin = np.array([3.0, -1.0, -2.0, 3.0, 3.0, -0.5, 2.0, -9.0])
    found = complement(mine, other, together=mine == labels, labels=labels, margin=margin, classes=4)
    assert found.accuracy == 4 / 8
    assert (found.positive_flips.value, found.negative_flips.value) == (2 / 8, 2 / 8)
    assert found.by_class == [1 / 3, 1 / 3, 0.0, None]
    assert found.hardest == 0.0
    assert found.agreement == 4 / 8
    assert found.oracle == 6 / 8
    assert found.gain.value == 0.0
    assert found.lift.value == 0.0
    better = complement(mine, labels, together=np.arange(8) < 7, labels=labels, margin=margin, classes=4)
    assert (better.lift.value, better.gain.value) == (7 / 8 - 4 / 8, -1 / 8)
    assert found.error_correlation == pytest.approx(np.corrcoef(mine != labels, other != labels)[0, 1])
    assert phi(np.array([True, True]), np.array([True, False])) is None


def test_partners_are_the_best_that_the_budget_allows():
    """Greedy where exact is cheap misses the pair; a budget that is not kept costs the user's memory."""
    covers = np.array(
        [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 1, 0, 1, 0, 0, 0]], bool
    )
    costs = [10, 10, 10, 1]
    best = choose_partners(covers, costs, most=2)
    assert (best.partners, best.covered, best.errors, best.exact) == ([1, 2], 8, 8, True)
    greedy = choose_partners(covers, costs, most=2, exact_up_to=3)
    assert (greedy.covered, greedy.exact, 0 in greedy.partners) == (6, False, True)
    assert choose_partners(covers, costs).partners == [1, 2], "a third adds nothing"
    assert choose_partners(covers, costs, budget=11).partners == [2, 3]
    assert choose_partners(covers, costs, budget=11, exact_up_to=0).partners == [0, 3]
    assert choose_partners(covers, costs, budget=0.5).partners == []
    assert choose_partners(np.zeros((2, 5), bool), [1, 1]).partners == []
    assert choose_partners(np.zeros((0, 5), bool), []).partners == []
    cheap = choose_partners(covers[[0, 0, 0]], [3, 1, 2])
    assert cheap.partners == [1]


def test_words_of_the_report():
    """A proposal without its grounds, or one made of nothing, reads the same as a good one."""
    assert [count(number) for number in (950, 111_818, 86_567_656, 2e9)] == ["950", "112k", "86.6M", "2G"]
    nobody = {"partners": [], "left_out": ["a"], "budget": None}
    assert cohort_choice_table(nobody).startswith("No candidate is worth training with")
    some = {
        "partners": ["a"],
        "left_out": [],
        "budget": 3e6,
        "exact": False,
        "covered_errors": 3,
        "errors": 9,
        "lift": {"value": -0.01, "low": -0.03, "high": 0.01},
        "best": "a",
        "gain": {"high": 0.0},
    }
    text = cohort_choice_table(some)
    assert "fixed:" not in text
    assert "(--teacher_rule fixed:a)" in cohort_choice_table(some | {"gain": {"high": -0.01}})
    for part in ("greedily", "within 3M parameters", "3 of my 9 errors", "-1.00 points (-3.00 to +1.00)", "noise"):
        assert part in text


@pytest.mark.parametrize(("text", "number"), [("100M", 10**8), ("1.5G", 15 * 10**8), ("5GB", 5 * 10**9), ("7", 7)])
def test_quantities(text, number):
    """5GB read as 5 would remove every model at once."""
    assert quantity(text, "max_params") == number


@pytest.mark.parametrize("text", ["", "much", "-1", "5 cats", "nan"])
def test_quantities_that_are_none(text):
    """A misread limit is found when the disk is full."""
    with pytest.raises(ConfigError, match="max_params: expected a number"):
        quantity(text, "max_params")


def test_names_are_safe_and_differ():
    """Ids from outside become folders: none may leave the table, or share one."""
    assert name_for("google/vit-base-patch16-224@main", []) == "google-vit-base-patch16-224"
    assert name_for("a/b", ["a-b", "A-B-2"]) == "a-b-3"
    assert name_for("../../etc/passwd", []) == "etc-passwd"
    assert name_for("control", []) == "model-control"
    assert name_for("///", []) == "model"


def save(folder: Path, kind: str, seed: int, labels=LABELS, bias: float = 0.0, **config) -> Path:
    torch.manual_seed(seed)
    model = MAKERS[kind]() if labels == LABELS else tiny_vit(**config)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {name: index for index, name in enumerate(labels)}
    for key, value in config.items():
        setattr(model.config, key, value)
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "shapes"
    folder.mkdir()
    make_rows(6).to_parquet(str(folder / "train.parquet"))
    make_rows(60, 3).to_parquet(str(folder / "validation.parquet"))
    make_rows(6, 4).to_parquet(str(folder / "test.parquet"))
    return folder


def scout(data, out, *words) -> int:
    return cli.main(["scout", "--dataset", str(data), "--out", str(out), "--use_cpu", *map(str, words)])


def test_folders_are_compared_without_a_network(data, tmp_path, capsys):
    """Offline use; a broken candidate, or my own model among the candidates, must not end the search."""
    folders = {name: save(tmp_path / name, name, seed) for seed, name in enumerate(MAKERS)}
    other = save(tmp_path / "animals", "vit", 9, labels=["cat", "dog", "owl"])
    copy = save(tmp_path / "copy", "vit", 0)
    broken = save(tmp_path / "broken", "cnn", 5)
    (broken / "model.safetensors").write_bytes(b"torn")
    odd = {"sharded": save(tmp_path / "sharded", "cnn", 6), "numbers": save(tmp_path / "numbers", "vit", 7)}
    (odd["sharded"] / "model.safetensors.index.json").write_text('{"weight_map": {"a": "weights.bin"}}')
    config = json.loads((odd["numbers"] / "config.json").read_text())
    (odd["numbers"] / "config.json").write_text(json.dumps(config | {"hidden_size": 0, "id2label": {"x": "circle"}}))
    among = ["--candidates", *odd.values(), folders["cnn"], other, broken, copy, folders["vit"]]
    words = ["--model", folders["vit"], "--samples", 50, *among]
    assert scout(data, tmp_path / "out", *words) == 0
    report = json.loads((tmp_path / "out" / "scout.json").read_text())
    assert list(report["candidates"]) == ["cnn"]
    reasons = {Path(source).name: reason for source, reason in report["unusable"].items()}
    assert "plain names" in reasons["sharded"]
    assert "numbers" in reasons
    assert "labels" in reasons["animals"]
    assert "'cat'" in reasons["animals"]
    assert reasons["broken"].startswith("failed: ")
    assert reasons["copy"] == "has the weights of my model"
    assert reasons["vit"] == "it is my model itself"
    assert report["data"]["rows"] == 50
    assert (tmp_path / "out" / "scout.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    for part in ("ens-best", "cnn", "has the weights of my model", "scout.json"):
        assert part in shown
    before = (tmp_path / "out" / "table" / "cnn" / "shard-00000.safetensors").stat().st_mtime_ns
    words[-4:] = [folders["cnx"]]
    assert scout(data, tmp_path / "out", *words) == 0
    again = json.loads((tmp_path / "out" / "scout.json").read_text())
    assert set(again["candidates"]) == {"cnn", "cnx"}
    assert again["candidates"]["cnn"] == report["candidates"]["cnn"]
    assert (tmp_path / "out" / "table" / "cnn" / "shard-00000.safetensors").stat().st_mtime_ns == before
    if again["cohort"]["partners"]:
        assert f"--peers mine={folders['vit']}" in again["command"]
        assert f"--dataset {data}" in again["command"]
    assert scout(data, tmp_path / "out", *among, "--model", folders["cnx"]) == 2
    assert "a search for partners of" in capsys.readouterr().err
    assert scout(data, tmp_path / "out", *among, "--model", folders["vit"], "--samples", "40") == 2
    assert "number of rows" in capsys.readouterr().err
    assert scout(data, tmp_path / "new", "--model", folders["vit"]) == 2
    assert "nobody to look at" in capsys.readouterr().err
    assert scout(data, tmp_path / "late", *words, "--deadline_s", "0.001") == 0
    late = json.loads((tmp_path / "late" / "scout.json").read_text())
    assert all("time was over" in reason for reason in late["unusable"].values())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer({"ada": "hf_ada"}) as hub:
        for name, value in (
            ("ENDPOINT", hub.url),
            ("HF_HUB_CACHE", str(tmp_path / "cache")),
            ("HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"),
        ):
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
        yield hub


def add(hub, tmp_path, repo_id, kind, seed, license="mit", downloads=0, **more):
    folder = save(tmp_path / repo_id.replace("/", "_"), kind, seed, **more.pop("save", {}))
    card = f"---\nlicense: {license}\npipeline_tag: image-classification\n---\n"
    (folder / "README.md").write_text(card)
    for name, content in more.pop("files", {}).items():
        (folder / name).write_text(content)
    for name in more.pop("without", ()):
        (folder / name).unlink()
    hub.add_model(repo_id, folder, downloads=downloads, **more)


def test_candidates_are_found_on_the_hub(hub, data, tmp_path, capsys):
    """Pulling what cannot be used costs hours; running a stranger's code, or its pickles, costs more."""
    mine = save(tmp_path / "my_vit", "vit", 0)
    add(hub, tmp_path, "ada/good", "cnn", 1, downloads=90)
    add(hub, tmp_path, "bob/second", "cnx", 2, downloads=80)
    add(hub, tmp_path, "bob/animals", "vit", 3, downloads=70, save={"labels": ["cat", "dog", "owl"]})
    add(hub, tmp_path, "bob/gated", "cnx", 4, downloads=60, gated="auto")
    add(
        hub,
        tmp_path,
        "bob/own-code",
        "vit",
        5,
        downloads=50,
        files={"config.json": json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}})},
    )
    add(
        hub,
        tmp_path,
        "bob/pickled",
        "vit",
        6,
        downloads=40,
        files={"pytorch_model.bin": "x"},
        without=["model.safetensors"],
    )
    index = json.dumps({"weight_map": {"a": "weights.bin"}})
    add(hub, tmp_path, "bob/sharded", "vit", 8, downloads=30, files={"model.safetensors.index.json": index})
    add(hub, tmp_path, "eve/paid", "vit", 7, downloads=99, license="other")
    words = ["--model", mine, "--search", "image-classification", "--license", "mit", "--max_disk", "18k"]
    sizes = {repo: len(hub.files(repo)["model.safetensors"]) for repo in ("ada/good", "bob/second")}
    assert max(sizes.values()) + 2000 < 18_000 < sum(sizes.values()) + 2000, sizes
    assert scout(data, tmp_path / "out", *words) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "scout.json").read_text())
    assert {one["source"]: one["license"] for one in report["candidates"].values()} == {
        "ada/good": "mit",
        "bob/second": "mit",
    }
    assert report["candidates"]["ada-good"]["revision"] == hub.commits("ada/good")[0].id
    assert report["candidates"]["ada-good"]["downloads"] == 90
    reasons = report["unusable"]
    assert "labels" in reasons["bob/animals"]
    assert "is gated" in reasons["bob/gated"]
    assert "brings its own code" in reasons["bob/own-code"]
    assert "no weights as safetensors" in reasons["bob/pickled"]
    assert "plain names" in reasons["bob/sharded"]
    assert "eve/paid" not in {*reasons, *report["candidates"]}
    asked = [request.path for request in hub.requests]
    for repo in ("bob/animals", "bob/gated", "bob/own-code", "bob/pickled", "bob/sharded"):
        assert not [path for path in asked if repo in path and path.endswith((".safetensors", ".bin", ".py"))]
    cached = {path.parent.parent.parent.name for path in (tmp_path / "cache").rglob("model.safetensors")}
    assert cached == {"models--bob--second"}, "the older one had to go"
    assert not list((tmp_path / "cache" / "models--ada--good" / "blobs").glob("*")) or all(
        blob.stat().st_size < 5000 for blob in (tmp_path / "cache" / "models--ada--good" / "blobs").iterdir()
    )
    hub.requests.clear()
    assert scout(data, tmp_path / "out", *words, "--max_params", "1k", "--candidates", "ada/good", "bob/second") == 0
    assert not [request for request in hub.requests if request.path.endswith(".safetensors")]


def test_limits_are_kept_before_anything_is_pulled(hub, data, tmp_path, capsys):
    """A model of 20 GB found too large after its download."""
    mine = save(tmp_path / "my_vit", "vit", 0)
    add(hub, tmp_path, "ada/good", "cnn", 1)
    add(hub, tmp_path, "ada/next", "cnx", 1)
    words = ["--model", mine, "--candidates", "ada/good@main", "ada/missing", "--max_params", "100"]
    assert scout(data, tmp_path / "a", *words) == 0
    shown = capsys.readouterr().out
    assert "ada/good@main: too large: " in shown
    assert "--max_params 100" in shown
    assert "ada/missing: asking the Hub for ada/missing failed" in shown
    assert "No candidate is worth training with" in shown
    assert scout(data, tmp_path / "b", "--model", mine, "--candidates", "ada/good", "--max_disk", "100") == 0
    assert "bytes to pull are more than --max_disk 100" in capsys.readouterr().out
    assert scout(data, tmp_path / "c", "--model", mine, "--candidates", "ada/good", "--license", "gpl") == 0
    assert "its licence is mit, asked for was gpl" in capsys.readouterr().out
    assert not [request for request in hub.requests if request.path.endswith(".safetensors")]
    assert scout(data, tmp_path / "d", "--model", mine, "--search", "ad", "--limit", "1") == 0
    assert len(json.loads((tmp_path / "d" / "scout.json").read_text())["candidates"]) == 1


def test_what_was_cached_before_stays(hub, tmp_path):
    """Deleting a user's own model from the cache because a search came across it."""
    from huggingface_hub import hf_hub_download

    add(hub, tmp_path, "ada/own", "cnn", 1)
    weights, config = (Path(hf_hub_download("ada/own", name)) for name in ("model.safetensors", "config.json"))
    revision = weights.parent.name
    hf_hub_download("ada/own", "README.md")
    entry = {"repository": "ada/own", "revision": revision, "files": {"model.safetensors": 10}}
    pulled = Pulled(25, {"ada/own": entry, "x/gone": {**entry, "repository": "x/gone"}})
    pulled.make_room(5)
    assert (pulled.total, weights.exists()) == (20, True)
    pulled.make_room(6)
    assert (pulled.total, weights.exists(), config.exists()) == (10, False, True)
    assert len(list((weights.parents[2] / "blobs").iterdir())) == 2
    Pulled(None, pulled.kept).make_room(10**15)


def test_the_figure_is_drawn_for_few_and_many():
    """A hundred candidates or a thousand classes must not make an image that nothing opens."""
    one = {"lift": {"value": 0.01, "low": -0.01, "high": 0.03}, "by_class": [0.1, None] + [0.0] * 998}
    many = scout_figure({f"model-{index}-{'x' * 40}": one for index in range(60)}, [f"c{i}" for i in range(1000)], [])
    few = scout_figure({"a": {**one, "by_class": [None, 0.5]}}, ["cat", "dog"], ["a"])
    assert all(picture.startswith(b"\x89PNG") for picture in (many, few))
