"""Texts from rows to a run: each peer's tokens, what is refused, exact resume, new heads, adapters and cards."""

import importlib
import json
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from task_run import SETTINGS
from text_peers import (
    TOPICS,
    letter_tokenizer,
    save_text_peers,
    save_text_rows,
    text_cohort,
    text_rows,
    tiny_text_peer,
)
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForMaskedLM, pipeline

from hf_mutual_kd import (
    Cohort,
    ConfigError,
    DataError,
    ImageOptions,
    MutualKDConfig,
    MutualKDTrainer,
    PeerError,
    PeerSpec,
    TextClassification,
    export_peers,
    write_report,
    write_space,
)
from hf_mutual_kd.cli import main as cli
from hf_mutual_kd.data.inputs import check_inputs
from hf_mutual_kd.data.processors import PeerProcessors, settings_of
from hf_mutual_kd.experiments.launch import train
from hf_mutual_kd.reports.run_facts import run_snippet
from hf_mutual_kd.reports.samples import SAMPLES_FILE, read_samples, write_samples
from hf_mutual_kd.tasks.run_splits import load_run_splits
from hf_mutual_kd.tasks.text_classification.collator import TEXTS, TextCollator
from hf_mutual_kd.training.fingerprints import made_with

FAST = [
    "--max_steps",
    "2",
    "--per_device_train_batch_size",
    "8",
    "--use_cpu",
    "--report_to",
    "none",
    "--disable_tqdm",
    "true",
    "--eval_strategy",
    "no",
    "--save_strategy",
    "no",
    "--seeds",
    "0",
    "--learning_rate",
    "1e-2",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of pairs of texts by three peers: words, other words, letters."""
    folder = tmp_path_factory.mktemp("texts")
    peers = save_text_peers(folder, ("bert", "roberta", "gpt2"))
    data = save_text_rows(folder / "data", pairs=True)
    words = ["--peers", *(f"{name}={source}" for name, source in peers.items()), "--dataset", data]
    train("text-classification", [*words, "--output_dir", str(folder / "run"), "--teacher_rule", "best", *FAST])
    return folder / "run"


def test_every_peer_reads_its_own_tokens_as_far_as_it_can():
    """A long text that ends a run in one peer's positions, or tokens of one peer that another is given."""
    cohort = text_cohort(("bert", "roberta"))
    rows = [{"text": "a program " * 20, "label": 0, "sample_id": 0}, {"text": "chess", "label": 1, "sample_id": 1}]
    found = TextCollator(cohort.processors)(rows)["peer_inputs"]
    assert {name: list(one["input_ids"].shape) for name, one in found.items()} == {"bert": [2, 16], "roberta": [2, 12]}
    assert found["bert"]["attention_mask"].sum(1).tolist() == [16, 3]


def test_pairs_are_tokenized_as_pairs_whatever_else_is_in_the_batch():
    """A premise without its hypothesis, or tokens that depend on the rows that happen to be beside it."""
    _, tokenizer = tiny_text_peer("bert")
    pair = {"text": "chess", "text_pair": "a letter", "label": 0, "sample_id": 0}
    alone, among = (
        TextCollator({"bert": tokenizer})(rows)["peer_inputs"]["bert"]["input_ids"][0]
        for rows in ([pair], [pair, {"text": "a program for music", "label": 1, "sample_id": 1}])
    )
    expected = tokenizer("chess", "a letter")["input_ids"]
    assert alone.tolist() == expected
    assert among[: len(expected)].tolist() == expected


@pytest.mark.parametrize(("text", "said"), [(None, "null"), ("  ", "empty"), (3.5, "float, no text")])
def test_rows_without_a_text_are_named_or_left_out(text, said):
    """A row of nothing that teaches its label to whoever sees nothing."""
    rows = [{"text": "chess", "label": 0}, {"text": text, "label": 1}]
    with pytest.raises(DataError, match=f"train row 1: it is .*{said}"):
        check_inputs(Rows(rows), "train", inputs=TEXTS)
    kept, skipped = check_inputs(Rows(rows), "train", "skip", inputs=TEXTS)
    assert (len(kept), skipped) == (1, 1)


class Rows(list):
    """A table of plain rows."""

    def select(self, places):
        return Rows(self[place] for place in places)


def test_processors_are_told_apart_by_their_tokens():
    """A run that goes on with another vocabulary, or two peers that share tokens of one of them."""
    _, words = tiny_text_peer("bert")
    _, again = tiny_text_peer("bert")
    words(["a text", "another"], padding=True, truncation=True)  # leaves its mark in the tokenizer
    assert settings_of(words) == settings_of(again)
    again.add_tokens(["chess2"])
    assert settings_of(words) != settings_of(again)
    assert len(PeerProcessors({"a": words, "b": again}).groups) == 2
    cohort = text_cohort(("bert",))
    made = [made_with(cohort, MutualKDConfig("x", use_cpu=True), {})["processors"]]
    cohort.processors["bert"] = again
    made.append(made_with(cohort, MutualKDConfig("x", use_cpu=True), {})["processors"])
    assert made[0] != made[1]


def test_what_a_tokenizer_leaves_open_is_filled_from_its_model(tmp_path):
    """A decoder that cannot pad, reads a class at padding, or fails at its first long text."""
    peers = save_text_peers(tmp_path, ("gpt2",))
    cohort = Cohort.from_pretrained(peers, "text-classification", label_names=TOPICS)
    assert cohort.processors["gpt2"].model_max_length == 64
    rows = [{"text": "chess " * 40, "label": 0, "sample_id": 0}, {"text": "inbox", "label": 1, "sample_id": 1}]
    together = TextCollator(cohort.processors)(rows)
    alone = TextCollator(cohort.processors)(rows[1:])
    said = [cohort.eval()(batch["peer_inputs"]).outputs["gpt2"][-1] for batch in (together, alone)]
    torch.testing.assert_close(*said)


def test_peers_that_cannot_take_part_are_named(tmp_path):
    """A regressor that is trained as a classifier, a tokenizer of another model, or one that cannot pad."""
    task = TextClassification()
    model, tokenizer = tiny_text_peer("bert")
    _, more = tiny_text_peer("bert")
    more.add_tokens([f"word{number}" for number in range(9)])
    with pytest.raises(PeerError, match=r"tokenizer has 32 tokens, and the model knows 23.*--peers.a.processor"):
        task.check_peer("a", model, more)
    with pytest.raises(PeerError, match="no pad_token"):
        task.check_peer("a", tiny_text_peer("gpt2")[0], letter_tokenizer(end=None))
    for kind in ("regression", "multi_label_classification"):
        model.config.problem_type = kind
        with pytest.raises(PeerError, match=f"was trained for {kind}.*new_head"):
            task.check_peer("a", model, tokenizer)
    with pytest.raises(PeerError, match="no tokenizer.*callable texts -> {'input_ids'"):
        TextCollator({"a": None})
    model.config.problem_type = None
    model.save_pretrained(tmp_path / "bare")
    with pytest.raises(PeerError, match="no tokenizer in"):
        Cohort.from_pretrained({"a": str(tmp_path / "bare")}, "text-classification", label_names=TOPICS)


def test_a_new_head_forgets_what_the_source_was_trained_for(tmp_path):
    """Several labels from a pipeline of a model that knows one, or a language model that is refused."""
    model, tokenizer = tiny_text_peer("bert", names=["only"])
    model.config.problem_type = "regression"
    BertForMaskedLM(model.config).save_pretrained(tmp_path / "language")
    model.save_pretrained(tmp_path / "regressor")
    for folder in ("language", "regressor"):
        tokenizer.save_pretrained(tmp_path / folder)
    cohort = Cohort.from_pretrained(
        {name: str(tmp_path / name) for name in ("language", "regressor")},
        "text-classification",
        label_names=TOPICS,
        label_alignment="new_head",
    )
    cohort.save_pretrained(tmp_path / "out")
    for name in cohort.names:
        found = pipeline("text-classification", str(tmp_path / "out" / name))("chess", top_k=None)
        assert sum(guess["score"] for guess in found) == pytest.approx(1, abs=1e-5)
        assert {guess["label"] for guess in found} == set(TOPICS)


def test_a_run_leaves_pipelines_cards_and_results(run):
    """A trained text classifier that the stock pipeline does not load, or whose card shows code for images."""
    results = json.loads((run / "results.json").read_text())
    assert set(results["peers"]) == {"bert", "roberta", "gpt2"}
    for name in results["peers"]:
        card = (run / name / "README.md").read_text()
        assert 'pipeline("text-classification", model="' in card
        assert "pipeline_tag: text-classification" in card
        found = pipeline("text-classification", str(run / name))({"text": "chess", "text_pair": "the chess"})
        assert found["label"] in TOPICS
        assert results["usage"][name].count("\n") == len(TOPICS) - 1


def test_the_page_shows_flipped_texts_escaped(run):
    """Markup in a text that a page runs, or flips of which nobody sees what they are."""
    measured = read_samples(run / SAMPLES_FILE, ["bert", "roberta", "gpt2"])
    start, after = dict(measured.start), dict(measured.after)
    guess = next(key for key in start if key.endswith("guess"))
    start[guess], after[guess] = (np.full_like(start[guess], value) for value in (0, 1))
    write_samples(run / SAMPLES_FILE, measured.peers, start, after, measured.facts)
    rows = load_run_splits(json.loads((run / "cohort.json").read_text())).test
    page = write_report(run, rows, task=TextClassification()).read_text()
    shown = page.split('id="flips"')[1]
    assert "<blockquote>" in shown
    assert "&lt;b&gt;fast&lt;/b&gt;" in shown
    assert "<b>fast" not in page
    assert " / the " in shown
    assert write_report(run, task=TextClassification()).read_text() == page


def test_a_space_asks_the_peers_about_texts(run, tmp_path, monkeypatch):
    """A Space without its tokenizers, or a second text of a pair that no peer reads."""
    pytest.importorskip("gradio", reason="needs `pip install 'hf-mutual-kd[space]'`")
    made = write_space(run, tmp_path / "space", samples=4).folder
    assert (made / "data" / "peers" / "roberta" / "end" / "tokenizer.json").is_file()
    assert "torchvision" not in (made / "requirements.txt").read_text()
    monkeypatch.syspath_prepend(str(made))
    try:
        app, peers = importlib.import_module("app"), importlib.import_module("peers")
        cohort = peers.Cohort(made)
        sample = cohort.facts["samples"][0]
        said = app.ask(cohort, cohort.view.sample_value(sample), sample["truth"])
        assert said.count("<section class=peer>") == 3
        assert "knows the truth best" in said
        model = AutoModelForSequenceClassification.from_pretrained(run / "bert")
        tokenizer = AutoTokenizer.from_pretrained(run / "bert")
        inputs = tokenizer(sample["text"], sample["text_pair"], truncation=True, return_tensors="pt")
        share = model(**inputs).logits.softmax(-1).max().item()
        assert f"{100 * share:.1f} %" in said
        for given, words in ((" ", "Write a text"), ("x" * 20_001, "at most 20,000"), ("one text", "read two texts")):
            assert words in app.ask(cohort, given, None)
        assert app.build(cohort) is not None
    finally:
        for file in made.glob("*.py"):
            sys.modules.pop(file.stem, None)


def test_options_of_images_are_none_of_texts():
    """A colour jitter that changes nothing in a text, found out from the results."""
    with pytest.raises(ConfigError, match="text-classification: unknown option color_jitter: an option of image-clas"):
        TextClassification(ImageOptions(color_jitter=0.3))


def test_an_adapter_keeps_all_that_was_drawn_with_its_head(tmp_path):
    """A layer between encoder and classifier that is chance anew whenever the trained adapter is loaded."""
    save_text_peers(tmp_path, ("roberta",), names=["other", "labels", "of", "it"])
    specs = {"a": PeerSpec(str(tmp_path / "roberta"), peft="lora")}
    made = Cohort.from_pretrained(specs, "text-classification", label_names=TOPICS, label_alignment="new_head")
    trained = {key for key, weight in made.peers["a"].named_parameters() if weight.requires_grad}
    assert any("lora_A" in key for key in trained)
    args = MutualKDConfig(str(tmp_path / "run"), **{**SETTINGS, "max_steps": 2, "save_strategy": "no"})
    MutualKDTrainer(made, args, train_dataset=text_rows(16), eval_dataset=text_rows(6, 1)).train()
    batch = TextCollator(made.processors)([{**row, "sample_id": 0} for row in text_rows(3, 2)])["peer_inputs"]
    torch.manual_seed(99)
    again = Cohort.from_pretrained({"a": str(tmp_path / "run" / "a")}, "text-classification", label_names=TOPICS)
    torch.testing.assert_close(again.eval()(batch).outputs["a"], made.eval()(batch).outputs["a"])
    printed = run_snippet(tmp_path / "run" / "a", repr("chess"), TextClassification.words)
    assert sorted(line.split(":")[0] for line in printed.splitlines()) == TOPICS


@pytest.mark.parametrize("peer", ["bert", *(pytest.param(one, marks=pytest.mark.slow) for one in ("roberta", "gpt2"))])
def test_files_take_texts_of_any_length_as_pytorch_does(run, tmp_path, peer):
    """A file for the length of one text, or one that forgets which tokens are padding."""
    (one,) = export_peers(run, peers=[peer], out=tmp_path)
    plain = one.measured["model.onnx"]
    assert one.inputs["input_ids"] == one.inputs["attention_mask"] == ["sequence"]
    assert plain.agreement == 1.0
    assert plain.accuracy == one.measured["pytorch"].accuracy is not None
    tokenizer = AutoTokenizer.from_pretrained(run / peer)
    given = tokenizer(["chess", "a program for the inbox and the letter"], padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(str(tmp_path / peer / "onnx" / "model.onnx"))
    (found,) = session.run(["logits"], dict(given))
    model = AutoModelForSequenceClassification.from_pretrained(run / peer)
    with torch.no_grad():
        expected = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in ("chess",)]
    torch.testing.assert_close(torch.from_numpy(found[0]), expected[0], atol=1e-5, rtol=1e-4)


def test_texts_that_are_cut_are_counted_and_told(run, capsys):
    """A peer that reads a quarter of every text, found out by nobody."""
    record = json.loads((run / "cohort.json").read_text())
    splits = load_run_splits(record)
    tokenizer = AutoTokenizer.from_pretrained(run / "bert")
    cut = [
        len(tokenizer.tokenize(row["text"])) + len(tokenizer.tokenize(row["text_pair"])) > 13 for row in splits.test
    ]
    assert 0 < sum(cut) < len(cut)
    said = record["peers"]["bert"]["limits"]
    assert said.startswith("reads at most 16 tokens; the rest is cut from ")
    assert said.endswith(f"{sum(cut)} of 15 test texts")
    assert f"bert {said}" in (run / "bert" / "README.md").read_text()


def test_a_cohort_predicts_texts_and_pairs(run):
    """Texts that are opened as paths of images, or second texts that nobody reads."""
    cohort = Cohort.from_pretrained(run)
    alone, pair = cohort.predict(["chess"]), cohort.predict([{"text": "chess", "text_pair": "the inbox"}])
    for found in (alone, pair):
        assert set(found) == {"bert", "roberta", "gpt2", "cohort"}
        torch.testing.assert_close(found["cohort"].sum(1), torch.ones(1))
    stock = pipeline("text-classification", str(run / "bert"))({"text": "chess", "text_pair": "the inbox"}, top_k=1)
    assert pair["bert"].max() == pytest.approx(stock["score"] if isinstance(stock, dict) else stock[0]["score"])
    assert not torch.equal(alone["bert"], pair["bert"])


def test_scores_and_partners_are_found_for_texts(run, tmp_path, capsys):
    """Tables and searches that only images have, or a proposed command that trains another task."""
    words = ["--dataset", str(run.parent / "data"), "--use_cpu"]
    peers = [f"{name}={run / name}" for name in ("bert", "roberta")]
    table = str(tmp_path / "table")
    assert (
        cli.main(
            ["score", "--task", "text-classification", "--peers", *peers, *words, "--out", table, "--keep", "full"]
        )
        == 0
    )
    taught = ["--peers", *peers, "--dataset", words[1], "--score_table", table, "--teacher_source", "table"]
    train("text-classification", [*taught, "--augment", "false", "--output_dir", str(tmp_path / "taught"), *FAST])
    assert (tmp_path / "taught" / "bert" / "model.safetensors").is_file()
    searched = [
        "--model",
        str(run / "bert"),
        "--candidates",
        str(run / "roberta"),
        *words,
        "--out",
        str(tmp_path / "s"),
    ]
    assert cli.main(["scout", "--task", "text-classification", *searched]) == 0
    command = json.loads((tmp_path / "s" / "scout.json").read_text())["command"]
    assert command is None or command.startswith("hf-mutual-kd train text-classification ")
    assert cli.main(["scout", "--task", "video-saliency", *searched[:-1], str(tmp_path / "t")]) == 2
    assert "every row has a class" in capsys.readouterr().err
