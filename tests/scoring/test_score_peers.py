"""Scoring into a table: what is stored, that interruptions cost one shard, and what is refused."""

import json

import pytest
import torch
from accelerate import Accelerator
from conftest import LABELS, in_two_processes, make_rows, tiny_processor
from datasets import Value
from text_peers import tiny_text_peer
from torch.testing import assert_close

from hf_mutual_kd import (
    Cohort,
    ConfigError,
    DataError,
    LabelError,
    LoadedPeer,
    OutputFolderError,
    PeerSpec,
    RoleTaggingCollator,
    confidence_scores,
    identified,
    loss_scores,
    margin_scores,
)
from hf_mutual_kd.cli import main as cli
from hf_mutual_kd.peers.peer_mesh import PeerMesh
from hf_mutual_kd.scoring import score_peers as scoring
from hf_mutual_kd.scoring.score_peers import peer_facts, score_peers
from hf_mutual_kd.scoring.score_shards import Scoring, distribution
from hf_mutual_kd.scoring.score_table import ScoreTable


def cpu() -> Accelerator:
    """Anew each time: other tests put the shared state back."""
    return Accelerator(cpu=True)


def score(cohort, rows, folder, **options):
    return score_peers(
        cohort, rows, folder, Scoring(**{"batch_size": 7, "shard_rows": 20, "accelerator": cpu()} | options)
    )


def direct(cohort, rows):
    """Logits `[N, samples, C]` without any table."""
    counted = identified(rows)
    batch = RoleTaggingCollator(cohort.processors)([counted[index] for index in range(len(rows))])
    with torch.no_grad():
        return torch.stack(list(cohort.eval()(peer_inputs=batch["peer_inputs"]).outputs.values()))


def test_a_label_beyond_the_classes_is_refused(make_cohort, train_rows, tmp_path):
    """Its margin was that of another class, or an index error after the first shards."""
    numbers = train_rows.cast_column("label", Value("int64"))
    wrong = numbers.map(lambda row, index: {"label": 3 if index == 40 else row["label"]}, with_indices=True)
    with pytest.raises(LabelError, match="photos row 40: label 3 is out of range: 0 to 2"):
        score(make_cohort("vit", "cnx"), wrong, tmp_path / "t", name="photos")
    assert not (tmp_path / "t").exists()


def test_a_table_holds_what_the_peers_say(make_cohort, train_rows, tmp_path):
    """Rows of a wrong shard or peer would teach every student from another picture."""
    cohort = make_cohort("vit", "cnx").train()
    table = score(cohort, train_rows, tmp_path / "t", keep="full")
    assert cohort.training
    logits, labels = direct(cohort, train_rows), torch.tensor(train_rows["label"])
    assert (table.names, len(table), table.label_names) == (["vit", "cnx"], 48, LABELS)
    for kind, expected in (
        ("margin", margin_scores(logits, labels)),
        ("loss", loss_scores(logits, labels)),
        ("confidence", confidence_scores(logits)),
    ):
        assert_close(table.scores(kind), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(table.predictions(), logits.argmax(2))
    ids = torch.tensor([47, 0, 19, 20, 20])
    for index, name in enumerate(table.names):
        assert_close(table.log_probs(name, ids), logits[index, ids].log_softmax(1), rtol=2e-3, atol=2e-3)
    assert_close(table.log_probs("vit", ids).exp().sum(1), torch.ones(5))
    assert sorted(path.name for path in (tmp_path / "t" / "vit").iterdir()) == [
        f"shard-0000{shard}.safetensors" for shard in range(3)
    ]


def test_most_probable_classes_and_the_mass_of_the_others():
    """Top-k whose rest is dropped makes every student surer than its teacher."""
    kept = distribution(torch.tensor([[0.1, 0.7, 0.2], [0.25, 0.25, 0.5]]).log(), "topk:1")
    assert kept["classes"].tolist() == [[1], [2]]
    assert kept["log_probs"].tolist() == [[0.0], [0.0]]
    assert_close(kept["tail"].exp(), torch.tensor([0.3 / 0.7, 1.0]).half(), rtol=1e-3, atol=1e-3)
    assert distribution(torch.zeros(1, 3), "none") == {}
    sure = distribution(torch.tensor([[0.0, float("-inf"), float("-inf")]]), "topk:1")
    assert sure["tail"].isfinite().all()
    assert distribution(torch.full((1, 3), float("nan")), "topk:1")["tail"].isnan().all()


def test_top_k_is_spread_evenly(make_cohort, train_rows, tmp_path):
    """The documented approximation, and a K of all classes, which must be none."""
    cohort = make_cohort("vit")
    exact = direct(cohort, train_rows)[0].softmax(1)
    table = score(cohort, train_rows, tmp_path / "top", keep="topk:1")
    found = table.log_probs("vit", torch.arange(48)).exp()
    top, place = exact.max(1)
    assert_close(found.gather(1, place[:, None])[:, 0], top, rtol=2e-3, atol=1e-3)
    others = found.scatter(1, place[:, None], 0.0)
    assert_close(others.amax(1), (1 - top) / 2, rtol=2e-3, atol=1e-3)
    assert score(cohort, train_rows, tmp_path / "all", keep="topk:3").manifest["keep"] == "full"


def test_an_interrupted_call_goes_on(make_cohort, train_rows, tmp_path, monkeypatch):
    """Scoring ImageNet again because of one lost hour; or a half shard that counts as whole."""
    cohort, folder = make_cohort("vit", "cnx"), tmp_path / "t"
    whole = score(cohort, train_rows, tmp_path / "whole", keep="full")
    from hf_mutual_kd.scoring import score_shards as scoring

    calls, real = [], scoring._score_batch

    def dying(*args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(scoring, "_score_batch", dying)
    with pytest.raises(KeyboardInterrupt):
        score(cohort, train_rows, folder, keep="full")
    assert [path.name for path in (folder / "vit").iterdir()] == ["shard-00000.safetensors"]
    with pytest.raises(DataError, match="not finished"):
        ScoreTable.load(folder)
    table = score(cohort, train_rows, folder, keep="full", shard_rows=99)
    assert len(calls) == 5 + 5
    assert (folder / "index.parquet").read_bytes() == (tmp_path / "whole" / "index.parquet").read_bytes()
    ids = torch.arange(48)
    assert torch.equal(table.log_probs("cnx", ids), whole.log_probs("cnx", ids))


def test_two_calls_do_not_write_into_one_table(make_cohort, train_rows, tmp_path):
    """Shards of two calls in one folder, of which the manifest says one thing."""
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / ".lock").write_text("4711\nanother-host\n1\n")
    with pytest.raises(OutputFolderError, match="is in use by .*4711.*another-host"):
        score(make_cohort("vit"), train_rows, folder)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_peers_are_added_without_scoring_others_again(make_cohort, train_rows, tmp_path):
    """The scout adds one candidate after the other; each must cost only itself."""
    score(make_cohort("vit"), train_rows, tmp_path)
    before = (tmp_path / "vit" / "shard-00000.safetensors").stat().st_mtime_ns
    table = score(make_cohort("vit", "cnn"), train_rows, tmp_path)
    assert table.names == ["vit", "cnn"]
    assert (tmp_path / "vit" / "shard-00000.safetensors").stat().st_mtime_ns == before
    assert score(make_cohort("cnx"), train_rows, tmp_path).names == ["vit", "cnn", "cnx"]
    both = score(make_cohort("cnx", "cnn"), train_rows, tmp_path / "other")
    assert torch.equal(table.columns["cnn"]["margin"], both.columns["cnn"]["margin"])


def test_what_does_not_fit_is_named(make_cohort, train_rows, eval_rows, tmp_path):
    """Mixing two data sets or two versions of a peer in one table goes unseen until the results are odd."""
    score(make_cohort("vit"), train_rows, tmp_path)
    with pytest.raises(DataError, match=r"number of rows \(48 in the table, 21 here\)"):
        score(make_cohort("vit"), eval_rows, tmp_path)
    with pytest.raises(DataError, match="fingerprint of the data set"):
        score(make_cohort("vit"), make_rows(48, 5), tmp_path)
    other = make_cohort("vit")
    with torch.no_grad():
        other.peers["vit"].classifier.bias += 1
    with pytest.raises(DataError, match="the weights of peer 'vit'"):
        score(other, train_rows, tmp_path)
    model = make_cohort("vit").peers["vit"]
    seen_otherwise = Cohort({"vit": LoadedPeer(model, tiny_processor(0.1), PeerSpec("vit"))}, label_names=LABELS)
    with pytest.raises(DataError, match="the processor of peer 'vit'"):
        score(seen_otherwise, train_rows, tmp_path)
    with pytest.raises(DataError, match="keep none, got full"):
        score(make_cohort("vit"), train_rows, tmp_path, keep="full")
    with pytest.raises(DataError, match="leave out --streaming"):
        score(make_cohort("vit"), train_rows.to_iterable_dataset(), tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(OutputFolderError, match="no score table"):
        score(make_cohort("vit"), train_rows, tmp_path / "mine")
    for options, message in (({"keep": "topk:0"}, "topk:K"), ({"batch_size": 0}, "1 or more")):
        with pytest.raises(ConfigError, match=message):
            score(make_cohort("vit"), train_rows, tmp_path / "new", **options)


def test_broken_peers_and_unreadable_images_teach_nobody(make_cohort, train_rows, tmp_path):
    """A NaN in one peer must not win a role, and a blank in place of an image must not be believed."""
    cohort = make_cohort("vit", "cnx")
    with torch.no_grad():
        cohort.peers["vit"].classifier.bias[0] = float("nan")
    rows = train_rows.map(
        lambda row, i: {"image": {"bytes": b"no image", "path": None}} if i == 3 else {},
        with_indices=True,
        features=train_rows.features,
    )
    table = score(cohort, rows, tmp_path, keep="topk:1")
    assert (table.predictions()[0] == -1).all()
    assert table.predictions()[1, 3] == -1
    assert table.log_probs("vit", torch.tensor([0])).isnan().all()
    teachers = table.teachers()
    assert teachers[3] == -1
    assert (teachers[torch.arange(48) != 3] == 1).all()


def test_two_processes_make_the_same_table(make_cohort, tmp_path):
    """Each process takes its own shards: one left out, or written by both, would be missing or torn."""
    peers = {}
    for name in ("vit", "cnx"):
        make_cohort(name).save_pretrained(tmp_path)
        peers[name] = tmp_path / name
    make_rows(30).to_parquet(str(tmp_path / "train.parquet"))
    words = [
        "score",
        "--peers",
        *(f"{name}={folder}" for name, folder in peers.items()),
        "--dataset",
        tmp_path / "train.parquet",
        "--max_train_samples",
        "20",
        "--shard_rows",
        "4",
        "--keep",
        "full",
        "--use_cpu",
    ]
    assert in_two_processes([*words, "--out", tmp_path / "two"]).count("Scored 20 rows of train.parquet") == 1
    assert cli.main([*map(str, words), "--out", str(tmp_path / "one")]) == 0
    assert (tmp_path / "one" / "index.parquet").read_bytes() == (tmp_path / "two" / "index.parquet").read_bytes()
    one, two = (ScoreTable.load(tmp_path / name) for name in ("one", "two"))
    assert torch.equal(one.log_probs("cnx", torch.arange(20)), two.log_probs("cnx", torch.arange(20)))
    assert str(tmp_path) not in (tmp_path / "one" / "table.json").read_text()


def test_processes_that_hold_some_peers_make_the_same_table(make_cohort, tmp_path, monkeypatch):
    """A peer that nobody holds, or shards that two processes take for theirs, leave holes or are torn."""
    rows, names = make_rows(30), ("vit", "cnx", "vit_2")
    one = score(make_cohort(*names), rows, tmp_path / "one", shard_rows=4, keep="full")
    there = []
    for process in range(2):
        cohort = make_cohort(*names)
        mesh = PeerMesh.of_cohort(cohort, 2, process)
        monkeypatch.setattr(scoring, "_mesh", lambda *given, mesh=mesh: mesh)
        two = score(cohort, rows, tmp_path / "two", shard_rows=4, keep="full")
        there.append({path.parent.name for path in (tmp_path / "two").glob("*/*.safetensors")})
    assert there == [set(PeerMesh.of_cohort(make_cohort(*names), 2, 0).held), set(names)]
    assert len(there[0]) in (1, 2)
    assert (tmp_path / "one" / "index.parquet").read_bytes() == (tmp_path / "two" / "index.parquet").read_bytes()
    for name in names:
        assert one.log_probs(name, torch.arange(30)).equal(two.log_probs(name, torch.arange(30)))


def test_another_tokenizer_of_the_same_class_is_another_processor():
    """A table of what a model says of other tokens would be read as its own."""
    model, tokenizer = tiny_text_peer("bert")
    facts = []
    for tokens in ([], ["zebra"]):
        tokenizer.add_tokens(tokens)
        cohort = Cohort({"bert": LoadedPeer(model, tokenizer, PeerSpec("bert"))}, "text-classification")
        facts.append(peer_facts(cohort)["bert"])
    assert facts[0]["weights"] == facts[1]["weights"]
    assert facts[0]["processor"] != facts[1]["processor"]


def test_peers_on_a_common_grid_are_scored_by_all_processes(make_cohort, tmp_path, monkeypatch):
    """What is kept of a map depends on the others' sizes."""
    cohort = make_cohort("vit", "cnx")
    monkeypatch.setattr(type(cohort.task), "grid", "coarsest")
    with pytest.raises(ConfigError, match="peer_parallel: these peers are scored on a grid"):
        score(cohort, make_rows(4), tmp_path, peer_parallel=True)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_found(make_cohort, tmp_path, capsys):
    """A table nobody can read off leaves the user to write code for a first look; errors come before any work."""
    make_cohort("vit").save_pretrained(tmp_path)
    make_rows(12).to_parquet(str(tmp_path / "train.parquet"))
    words = ["score", "--peers", f"a={tmp_path / 'vit'}", "--dataset", str(tmp_path / "train.parquet"), "--use_cpu"]
    assert cli.main([*words, "--out", str(tmp_path / "t"), "--split", "validation"]) == 0
    shown = capsys.readouterr().out
    assert "a tenth of train (seed 42)" in shown
    assert "log-probabilities kept: none" in shown
    assert json.loads((tmp_path / "t" / "table.json").read_text())["peers"]["a"]["source"] == "vit"
    assert cli.main([*words, "--out", str(tmp_path / "t")]) == 2
    assert "number of rows" in capsys.readouterr().err
    assert cli.main([*words, "--out", str(tmp_path / "u"), "--peers.b.processor", "x"]) == 2
    assert "peers.b.processor names no setting of a peer" in capsys.readouterr().err
