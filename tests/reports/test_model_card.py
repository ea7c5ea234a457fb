"""Model cards: the whole text, hostile text, the Hub's metadata rules, and runs with few facts.

All numbers of these runs are made up, and the functions that return them say so: they test the card, not the method.
"""

from __future__ import annotations

import html
import json
import random
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hostile_text import HOSTILE
from hub_cards import check_card, front_matter
from huggingface_hub import ModelCard
from made_up_run import (
    LABELS,
    SHA,
    golden_cards,
    made_up_record,
    made_up_results,
    words_of,
    write_full_run,
    write_roles,
    write_run,
)
from markdown_it import MarkdownIt

from hf_mutual_kd import OutputFolderError, PeerError, write_cards
from hf_mutual_kd.reports.readme_merge import BEGIN, END
from hf_mutual_kd.reports.text import split_readme

GOLDEN = Path(__file__).parents[1] / "golden"
VIT = "https://huggingface.co/someone/vit-tiny"


@pytest.fixture
def full_run(tmp_path):
    """Made up: a run with every record there can be."""
    return write_full_run(tmp_path / "run")


def html_of(text: str) -> str:
    """A card's text as GitHub-flavoured Markdown shows it, raw HTML included."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(split_readme(text)[1])


def read(folder: Path, name: str) -> str:
    return (folder / name / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    return golden_cards(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("name", ["vit", "cnn", "seg", "m2f", "mae", "s3d"])
def test_the_whole_card_is_as_it_was_read_and_approved(cards, name):
    """A section that silently vanishes, moves or changes its words; the golden files are never written by a test."""
    assert cards[name] == (GOLDEN / f"model_card_{name}.md").read_text(encoding="utf-8")
    assert check_card(cards[name]) == ([], [])


@pytest.mark.parametrize(
    ("name", "tag", "metrics"),
    [
        ("seg", "image-segmentation", {"mean_iou": 0.45, "fwIoU": 0.65, "mACC": 0.55, "pACC": 0.75}),
        ("mae", None, {"CC": 0.4625, "SIM": 0.3625, "NSS": 1.85, "AUC-J": 0.9, "sAUC": 0.7, "KLD": 1.5375}),
    ],
)
def test_the_hub_finds_every_task_by_its_own_words(cards, name, tag, metrics):
    """A segmentation model under image classification, or with numbers of an accuracy that it has not."""
    data = ModelCard(cards[name]).data
    assert (data.pipeline_tag, data.library_name) == (tag, "transformers")
    assert {result.metric_type: result.metric_value for result in data.eval_results} == pytest.approx(metrics)
    assert data.metrics == list(metrics)
    assert "accura" not in cards[name].replace("mACC", "")


def test_an_example_figure_is_on_every_card_and_only_where_there_is_one(tmp_path):
    """A link to a figure that was not pushed, or one of an earlier run that stayed."""
    run = write_full_run(tmp_path, "semantic-segmentation")
    for name, card in write_cards(run).items():
        assert "(figures/examples.png)" in card.read_text("utf-8")
        assert (run / name / "figures" / "examples.png").read_bytes() == b"a figure"
    (run / "report" / "examples.png").unlink()
    for name, card in write_cards(run).items():
        assert "examples.png" not in card.read_text("utf-8")
        assert not (run / name / "figures" / "examples.png").exists()


@pytest.mark.parametrize("name", ["vit", "cnn"])
def test_the_hub_accepts_the_metadata_and_finds_what_was_measured(full_run, name):
    """A card that the Hub refuses at the end of a push, or whose numbers it cannot read."""
    card = write_cards(full_run, [name])[name].read_text(encoding="utf-8")
    assert check_card(card) == ([], [])
    data = ModelCard(card).data
    result = data.eval_results[0]
    assert (data.base_model, data.base_model_relation) == (made_up_record()["peers"][name]["source"], "finetune")
    assert (result.dataset_type, result.dataset_split, result.dataset_revision) == (
        "someone/clothes",
        "test",
        SHA["data"],
    )
    # The weights are the first seed's, so the number that goes with them is, too; the table has the mean.
    assert result.metric_value == made_up_results()["peers"][name]["per_seed"]["mutual"][0]
    assert (data.library_name, data.pipeline_tag, data.datasets) == (
        "transformers",
        "image-classification",
        ["someone/clothes"],
    )


def test_figures_have_the_same_bytes_each_time_and_leave_matplotlib_alone(full_run):
    """A push that makes a commit because a figure has today's date in it; a user's own plots that change."""
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        write_cards(full_run)
        assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["axes.facecolor"]) == (30, "red")
    first = {path: path.read_bytes() for path in (full_run / "vit" / "figures").iterdir()}
    write_cards(full_run)
    assert sorted(path.name for path in first) == ["teachers.png", "training.png"]
    assert all(path.read_bytes() == content for path, content in first.items())
    assert not any(word in content for content in first.values() for word in (b"Software", b"matplotlib", b"tIME"))


def test_random_states_are_untouched(full_run):
    """A card in the middle of training that changes the draws after it."""

    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    write_cards(full_run)
    assert states() == before


def hostile_record() -> dict:
    record = made_up_record()
    record["labels"] = HOSTILE
    record["dataset"] |= {"name": HOSTILE[2], "config": HOSTILE[0], "fingerprint": HOSTILE[1]}
    record["dataset"]["splits"] = dict(zip(("train", "validation", "test"), HOSTILE[3:6], strict=True))
    record["peers"]["vit"] |= {"source": HOSTILE[5], "architecture": HOSTILE[6]}
    record["peers"]["vit"]["base"] = {"license": HOSTILE[2], "tags": HOSTILE, "citation": "\n".join(HOSTILE)}
    record["command"] = " ".join(HOSTILE)
    record["hyperparameters"]["changed"] = {text: text for text in HOSTILE}
    record["usage"] = {"vit": "\n".join(HOSTILE)}
    record["example"] = {"row": 0, "label": HOSTILE[5]}
    record["hardware"]["device"] = HOSTILE[2]
    record["versions"] = {HOSTILE[0]: HOSTILE[2]}
    return record


def test_text_from_outside_breaks_neither_markdown_nor_html_nor_yaml(tmp_path):
    """A label that opens a script, closes the folded part, adds a column or ends the metadata or our own block."""
    results = made_up_results()
    for arm, shift in (("start", 0.0), ("control", 0.01), ("mutual", 0.02)):
        results["peers"]["vit"]["by_class"][arm] = [
            0.5 + shift * (1 + i / 10) * (-1) ** i for i in range(len(HOSTILE))
        ]
    folder = write_run(tmp_path, hostile_record(), results)
    text = write_cards(folder)["vit"].read_text(encoding="utf-8")
    assert check_card(text)[0] == []
    page = html_of(text)
    tags = {tag.lower() for tag in re.findall(r"</?([a-zA-Z][\w-]*)", page)}
    ours = "h1 h2 p strong a code pre ul li table thead tbody tr th td details summary blockquote img"
    assert tags <= set(ours.split())
    assert page.count("<details>") == page.count("</details>") == 1
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert all(url.startswith(("https://huggingface.co/", "figures/")) for url in links)
    for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
        widths = {len(re.findall("<t[hd]", row)) for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)}
        assert len(widths) == 1
    assert "<h1>heading" not in page
    assert text.splitlines().count(BEGIN) == text.splitlines().count(END) == 1
    assert "a|b | c" in html.unescape(page)
    assert "{{ 7 * 7 }}" in html.unescape(page)
    assert "x" * 5000 not in text.split("```")[0]
    assert not set("\u202e\x00\x1b\r") & set(text)


def test_one_peer_without_control_in_one_seed(tmp_path):
    """Sections about teachers or a control that a run of one peer cannot have, and `None` in their place."""
    record, results = made_up_record(), made_up_results()
    del record["peers"]["cnn"], results["peers"]["cnn"]
    for key in ("control", "control_flips", "delta"):
        del results["peers"]["vit"][key]
    del results["peers"]["vit"]["by_class"]["control"]
    results |= {"seeds": [5], "seconds": {"mutual": [20.0], "control": []}}
    results["peers"]["vit"]["per_seed"] = {"mutual": [0.8702]}
    folder = write_run(tmp_path, record | {"seeds": [5]}, results)
    write_roles(folder / "roles.parquet", {"vit": [4, 4], "<mean>": [0, 0]}, [4, 4])
    text = write_cards(folder)["vit"].read_text(encoding="utf-8")
    assert "without other models: no peer taught it" in text
    assert "| accuracy, % | 84.98 | 87.02 |" in text
    assert "one seed (5)" in text
    assert "**No control was run**" in text
    assert not re.search(r"Who taught it|None|nan|control \|", text)
    assert check_card(text) == ([], [])


def test_a_control_only_run_claims_no_transfer(tmp_path):
    """Plain fine-tuning sold as mutual transfer."""
    record = made_up_record()
    record["objective"]["weight"] = 0.0
    text = write_cards(write_run(tmp_path, record, made_up_results()))["vit"].read_text(encoding="utf-8")
    assert "plain fine-tuning, without transfer" in text
    assert "This run is itself a control" in text
    assert not re.search("Who taught it|Better than|mutual-knowledge-transfer|forbidden", text)


@pytest.mark.parametrize(
    ("delta", "seeds", "words"),
    [
        ({"mean": 0.007, "sd": 0.0005}, [0, 1, 2], "**Better than the control** by 0.70 points"),
        ({"mean": -0.007, "sd": 0.0005}, [0, 1, 2], "**Worse than the control** by 0.70 points"),
        ({"mean": 0.0002, "sd": 0.001}, [0, 1, 2], "**Within noise of the control**: +0.02 points"),
        ({"mean": 0.007, "sd": None}, [4], "**One seed**: +0.70 points"),
        (
            {"mean": 0.007, "sd": 0.0001},
            [4, 5],
            "**Two seeds**: +0.70 points against the control, which two seeds cannot",
        ),
    ],
)
def test_the_verdict_is_in_words(tmp_path, delta, seeds, words):
    """A loss, or noise, that reads like a gain."""
    results = made_up_results()
    results["peers"]["vit"]["delta"] = delta
    text = write_cards(write_run(tmp_path, made_up_record(), results | {"seeds": seeds}))["vit"].read_text("utf-8")
    assert words in text


def test_a_run_that_has_only_begun_has_a_card_without_numbers(tmp_path):
    """A push in the middle of training that fails for want of results."""
    record = {"task": "image-classification", "words": words_of("image-classification"), "labels": LABELS}
    record["peers"] = {"vit": {"source": "peers/vit"}}
    text = write_cards(write_run(tmp_path, record))["vit"].read_text(encoding="utf-8")
    assert check_card(text) == ([], [])
    assert not re.search("Results|Flips|None|base_model|## Training|Reproduce", text)
    assert "a local model (<code>vit</code>)" in text


def test_finished_arms_count_before_the_run_ends(tmp_path):
    """Results of an interrupted run that are there but not shown; a seed without its control would spoil the pairs."""
    record = made_up_record()
    folder = write_run(tmp_path, record)

    def summary(name, seed, accuracy):
        start = {peer: {"accuracy": 0.8, "loss": 1.0} for peer in record["peers"]} | {"cohort": {"samples": 9}}
        end = {
            peer: {"accuracy": accuracy, "loss": 0.9, "positive_flips": 0.1, "negative_flips": 0.0}
            for peer in record["peers"]
        } | {"cohort": {"samples": 9}}
        classes = {peer: [0.5] * 6 for peer in record["peers"]}
        return {
            "name": name,
            "seed": seed,
            "steps": 3,
            "seconds": 1.0,
            "start": start,
            "end": end,
            "start_by_class": classes,
            "end_by_class": classes,
        }

    for place, arm in (
        (folder, summary("mutual", 0, 0.85)),
        (folder / "control", summary("control", 0, 0.84)),
        (folder / "seed-1" / "control", summary("control", 1, 0.1)),
    ):
        place.mkdir(parents=True, exist_ok=True)
        (place / "summary.json").write_text(json.dumps(arm), encoding="utf-8")
    text = write_cards(folder)["vit"].read_text(encoding="utf-8")
    assert "| accuracy, % | 80.00 | 84.00 | 85.00 | +1.00 |" in text
    assert "one seed (0)" in text


def test_a_timm_peer_says_how_timm_loads_it(full_run):
    """A timm model that is shown as one of transformers only."""
    (full_run / "vit" / "config.json").write_text('{"model_type": "timm_wrapper"}', encoding="utf-8")
    text = write_cards(full_run, repositories={"vit": "me/vit"})["vit"].read_text(encoding="utf-8")
    assert front_matter(text)["library_name"] == "timm"
    assert 'timm.create_model("hf-hub:me/vit", pretrained=True)' in text


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ({"license": "mit"}, {"license": "mit"}),
        ({"license": ["mit", "apache-2.0"]}, {"license": ["mit", "apache-2.0"]}),
        ({"license": "Apache 2.0"}, {"license": "other", "license_name": "Apache 2.0"}),
        (
            {"license": "other", "license_name": "snap", "license_link": "LICENSE"},
            {"license": "other", "license_name": "snap", "license_link": f"{VIT}/blob/{SHA['vit']}/LICENSE"},
        ),
        (
            {"license": "other", "license_name": "x", "license_link": "/etc/x"},
            {"license": "other", "license_name": "x"},
        ),
        ({}, {}),
    ],
)
def test_the_licence_is_carried_by_the_hubs_rules(tmp_path, base, expected):
    """A licence that is lost on the way, or one that the Hub refuses."""
    record = made_up_record()
    record["peers"]["vit"]["base"] = base
    text = write_cards(write_run(tmp_path, record))["vit"].read_text(encoding="utf-8")
    assert {key: value for key, value in front_matter(text).items() if key.startswith("license")} == expected
    assert check_card(text) == ([], [])


def test_only_peers_that_taught_are_warned_of(full_run):
    """A warning about a model that this one has nothing from, or none about a teacher's licence."""
    assert "Commercial use is forbidden by the licence of cnn (cc-by-nc-4.0)" in write_cards(full_run)[
        "vit"
    ].read_text("utf-8")
    results = json.loads((full_run / "results.json").read_text())
    results["teachers"] = {"all": {"vit": 8, "cnn": 0, "<mean>": 0, "nobody": 0}}
    (full_run / "results.json").write_text(json.dumps(results))
    assert "forbidden" not in write_cards(full_run, ["vit"])["vit"].read_text("utf-8")


def test_neither_paths_nor_tokens_nor_user_names_are_written(full_run):
    """A user's name or token that a push makes public."""
    write_cards(full_run)
    for name in ("vit", "cnn"):
        assert not re.search(rf"/home|ann\b|hf_abc|hub_token hf|{re.escape(str(full_run))}", read(full_run, name))


@pytest.mark.parametrize("broken", ["{", "[]", '{"task": "image-classification"}', '{"peers": {"../x": {}}}'])
def test_what_is_no_run_is_refused_by_name(tmp_path, broken):
    """A traceback, or files written outside the run."""
    (tmp_path / "cohort.json").write_text(broken, encoding="utf-8")
    with pytest.raises(OutputFolderError, match=re.escape(str(tmp_path))):
        write_cards(tmp_path)


@pytest.mark.parametrize("name", ["results.json", "history.jsonl", "summary.json"])
def test_a_damaged_record_is_named(full_run, name):
    """A traceback that does not say which file is broken."""
    (full_run / name).write_text("{broken", encoding="utf-8")
    with pytest.raises(OutputFolderError, match=f"{name} is damaged"):
        write_cards(full_run)


def test_an_unknown_peer_is_refused_before_anything_is_written(full_run):
    """Half of the cards written."""
    with pytest.raises(PeerError, match="no peer 'x'"):
        write_cards(full_run, ["vit", "x"])
    assert not (full_run / "vit" / "README.md").exists()


def test_text_that_looks_like_a_number_stays_text_on_the_hub(tmp_path):
    """A commit of digits and one `e`, which the Hub's YAML parser takes for a number."""
    record = made_up_record()
    record["dataset"]["revision"] = "1234567890" * 3 + "12345678e1"
    text = write_cards(write_run(tmp_path, record, made_up_results()))["vit"].read_text(encoding="utf-8")
    assert "revision: '123456789012345678901234567890" in text
