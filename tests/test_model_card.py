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
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hub_cards import check_card, front_matter
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from hf_mutual_kd.errors import OutputFolderError, PeerError
from hf_mutual_kd.model_card import (
    BEGIN,
    END,
    base_facts,
    code,
    emissions_tracker,
    escape,
    fence,
    hardware_facts,
    hyperparameter_facts,
    merge_readme,
    objective_facts,
    run_snippet,
    scrub,
    scrub_command,
    split_readme,
    write_cards,
)

GOLDEN = Path(__file__).parent / "golden"
SHA = {"vit": "1" * 40, "cnn": "2" * 40, "data": "3" * 40}
VIT = "https://huggingface.co/someone/vit-tiny"
LABELS = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal"]
HOSTILE = [
    "a|b | c",
    "`code` ``` fence",
    "</details><script>alert(1)</script>",
    "line\nbreak\r\n\n# heading",
    "---",
    "\"quotes\" 'n' *stars* _x_ [l](http://e.com) <!-- hf_mutual_kd:end -->",
    "👩‍🚀 😀 été {{ 7 * 7 }} {% raw %} $$x$$",
    "x" * 5000,
    "\u202egnp.exe \x00\x1b[31m \ud800",
]


def made_up_results() -> dict:
    """Made up: `results.json` of three seeds, in which vit gains and cnn stays within noise."""
    flips = {"positive_flips": 0.0311, "negative_flips": 0.0107}
    peers = {
        "vit": {
            "start": {"accuracy": 0.8498, "top5_accuracy": 0.991, "loss": 0.4312, "expected_share": 0.4},
            "mutual": {"accuracy": 0.8702, "top5_accuracy": 0.9931, "loss": 0.3821, "expected_share": 0.4},
            "control": {"accuracy": 0.8632, "top5_accuracy": 0.9922, "loss": 0.4},
            **flips,
            "control_flips": {"positive_flips": 0.0301, "negative_flips": 0.0167},
            "share_taught": 0.375,
            "by_class": {
                "start": [0.80, 0.95, 0.70, None, 0.85, 0.90],
                "control": [0.81, 0.96, 0.72, None, 0.85, 0.91],
                "mutual": [0.84, 0.96, 0.71, None, 0.89, 0.92],
            },
            "per_seed": {"mutual": [0.8692, 0.8702, 0.8712], "control": [0.8627, 0.8632, 0.8637]},
            "delta": {"mean": 0.0070, "sd": 0.0005},
        },
        "cnn": {
            "start": {"accuracy": 0.8801, "top5_accuracy": 0.994, "loss": 0.35, "expected_share": 0.6},
            "mutual": {"accuracy": 0.8794, "top5_accuracy": 0.994, "loss": 0.34, "expected_share": 0.6},
            "control": {"accuracy": 0.8792, "top5_accuracy": 0.994, "loss": 0.35},
            **flips,
            "control_flips": {"positive_flips": 0.02, "negative_flips": 0.021},
            "share_taught": 0.5,
            "by_class": {"start": [0.9] * 6, "control": [0.9] * 6, "mutual": [0.9] * 6},
            "per_seed": {"mutual": [0.878, 0.8794, 0.8808], "control": [0.8792] * 3},
            "delta": {"mean": 0.0002, "sd": 0.0014},
        },
    }
    cohort = {"start": {"ensemble_accuracy": 0.8888, "oracle_accuracy": 0.93, "samples": 10000}}
    seconds = {"mutual": [190.0, 200.0, 210.0], "control": [120.0] * 3}
    return {"peers": peers, "cohort": cohort, "steps": 1200, "seconds": seconds, "seeds": [0, 1, 2]}


def made_up_record() -> dict:
    """Made up: `cohort.json` with every fact that a card can tell."""
    peers = {
        "vit": {
            "source": "someone/vit-tiny",
            "revision": SHA["vit"],
            "architecture": "ViTForImageClassification",
            "parameters": 5717416,
            "base": {
                "license": "apache-2.0",
                "tags": ["vision", "arxiv:2010.11929"],
                "citation": "@misc{vit,\n  title = {ViT}\n}",
            },
        },
        "cnn": {
            "source": "someone/cnn",
            "revision": SHA["cnn"],
            "architecture": "ResNetForImageClassification",
            "parameters": 77000,
            "base": {"license": "cc-by-nc-4.0"},
        },
    }
    splits = {"train": "train", "validation": "a tenth of train (seed 0)", "test": "test"}
    dataset = {
        "name": "someone/clothes", "config": "small", "revision": SHA["data"], "splits": splits,
        "rows": {"train": 45000, "validation": 5000, "test": 10000},
        "labelled": {"train": 1000, "validation": 5000, "test": 10000},
        "fingerprint": "0123456789abcdef", "fingerprint_of": "all bytes",
        "skipped_images": {"train": 2, "validation": 0, "test": 0},
    }  # fmt: skip
    rule = {"name": "mean", "description": "The mean teaches.", "citation": "Lan, Zhu, Gong: ONE, NeurIPS 2018"}
    return {
        "task": "image-classification",
        "peers": peers,
        "labels": LABELS,
        "seeds": [0, 1, 2],
        "dataset": dataset,
        "versions": {"hf_mutual_kd": "0.1.0", "torch": "2.15.0"},
        "command": "accelerate launch recipes/vit_classify.py --output_dir /home/ann --hub_token hf_abcdefghijklmnop",
        "recipe": {"learning_rate": 1e-5, "output_dir": "/home/ann/runs/x"},
        "hyperparameters": {"changed": {"learning_rate": 1e-5}, "defaults": {"optim": "adamw_torch", "seed": 42}},
        "objective": {
            "rule": rule, "source": {"name": "frozen", "description": "Teachers are frozen."}, "score": None,
            "retain": True, "detach": "teacher", "temperature": 1.0, "weight": 1.0, "labels": True,
        },
        "hardware": {"device": "A Made-up CPU", "processes": 2, "cores": 4},
        "co2_kg": 0.0123,
        "usage": {"vit": "Coat: 0.812\nDress: 0.100\nPullover: 0.050"},
        "example": {"row": 7, "label": "Coat"},
    }  # fmt: skip


def write_roles(path: Path, taught: dict[str, list[int]], decisions: list[int]) -> None:
    columns = {"sample_id": list(range(len(decisions))), "decisions": decisions}
    columns |= {f"taught/{who}": counts for who, counts in taught.items()}
    pq.write_table(pa.table(columns), path)


def write_history(folder: Path, rise: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": 400 * epoch, "eval_vit/accuracy": 0.85 + rise * epoch, "eval_my_vit/accuracy": 0.1, "epoch": epoch}
        for epoch in (1, 2, 3)
    ]
    lines += [
        {"step": 100 * k, "vit/supervised": 0.5 / k, "vit/transfer": 0.1 / k, "loss": 1.0, "learning_rate": 1e-5}
        for k in range(1, 13)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_run(folder: Path, record: dict, results: dict | None = None) -> Path:
    """A run folder of a record and results, with an empty-looking transformers folder for every peer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cohort.json").write_text(json.dumps(record), encoding="utf-8")
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    for name in record["peers"]:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    return folder


@pytest.fixture
def full_run(tmp_path):
    """Made up: a run with every record there can be."""
    folder = write_run(tmp_path / "run", made_up_record(), made_up_results())
    write_roles(folder / "roles.parquet", {"vit": [3, 0], "cnn": [1, 2], "<mean>": [0, 1]}, [4, 4])
    for seed, place in enumerate((folder, folder / "seed-1", folder / "seed-2")):
        write_history(place, 0.006 + 0.0005 * seed)
        write_history(place / "control", 0.004 + 0.0005 * seed)
    (folder / "summary.json").write_text('{"best_steps": {"vit": 1200}}', encoding="utf-8")
    return folder


def html_of(text: str) -> str:
    """A card's text as GitHub-flavoured Markdown shows it, raw HTML included."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(split_readme(text)[1])


def read(folder: Path, name: str) -> str:
    return (folder / name / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["vit", "cnn"])
def test_the_whole_card_is_as_it_was_read_and_approved(full_run, name):
    """A section that silently vanishes, moves or changes its words; the golden file is never written by a test."""
    write_cards(full_run, repositories={"vit": "me/vit-mutual"})
    assert read(full_run, name) == (GOLDEN / f"model_card_{name}.md").read_text(encoding="utf-8")


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


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_is_shown_as_it_is(text):
    """Escaping that drops or doubles what a label says."""
    shown = (
        MarkdownIt("commonmark", {"html": True}).enable("table").render(f"| a |\n|---|\n| {escape(text, 9999)} |\n")
    )
    expected = "".join(character for character in text if character not in "\u202e\x00\x1b\ud800")
    cell = html.unescape(re.search("<td>(.*)</td>", shown)[1]).replace("\ufffd", "")
    assert cell.replace(" ", "") == re.sub(r"\s", "", expected)
    assert shown.count("<td>") == 1


def test_a_code_block_is_not_closed_by_what_is_in_it():
    """A citation with a fence inside, after which the rest of the card is code."""
    page = MarkdownIt().render(fence("a\n````\n# not a heading", "text") + "\n\nafter")
    assert "<h1>" not in page
    assert "<p>after</p>" in page
    assert code("`|`") == "<code>&#96;&#124;&#96;</code>"


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
    record = {"task": "image-classification", "peers": {"vit": {"source": "peers/vit"}}, "labels": LABELS}
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
        return {"name": name, "seed": seed, "steps": 3, "seconds": 1.0, "start": start, "end": end,
                "start_by_class": classes, "end_by_class": classes}  # fmt: skip

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
)  # fmt: skip
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
    write_roles(full_run / "roles.parquet", {"vit": [4, 4], "cnn": [0, 0], "<mean>": [0, 0]}, [4, 4])
    assert "forbidden" not in write_cards(full_run, ["vit"])["vit"].read_text("utf-8")


def test_neither_paths_nor_tokens_nor_user_names_are_written(full_run):
    """A user's name or token that a push makes public."""
    write_cards(full_run)
    for name in ("vit", "cnn"):
        assert not re.search(rf"/home|ann\b|hf_abc|hub_token hf|{re.escape(str(full_run))}", read(full_run, name))
    assert scrub_command("run --a=/x/y/z --hub_token hf_1 --peers v=/home/ann/v@main '/a b/c d.yaml' runs/x") == (
        "run --a=z --hub_token '(hidden)' --peers v=v@main 'c d.yaml' runs/x"
    )
    assert scrub_command("run --peers 'v=/home/ann b/v' '--out=w=/c d/e'") == "run --peers v=v --out=w=e"
    assert scrub_command("HF_TOKEN=abc run --hub-token=abc") == "'HF_TOKEN=(hidden)' run '--hub-token=(hidden)'"
    assert scrub("~/runs, C:\\Users\\ann\\x, /home/ann, ../bob/x, https://hf.co/a/b, a/b, file:///home/ann/d") == (
        "runs, x, HOME, x, https://hf.co/a/b, a/b, d"
    )


@pytest.mark.parametrize("broken", ["{", "[]", '{"task": "image-classification"}', '{"peers": {"../x": {}}}'])
def test_what_is_no_run_is_refused_by_name(tmp_path, broken):
    """A traceback, or files written outside the run."""
    (tmp_path / "cohort.json").write_text(broken, encoding="utf-8")
    with pytest.raises(OutputFolderError, match=re.escape(str(tmp_path))):
        write_cards(tmp_path)


@pytest.mark.parametrize("name", ["results.json", "history.jsonl", "roles.parquet"])
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


# A README that was there


def test_a_users_own_text_and_keys_survive():
    """Sections that a user wrote and that the next push throws away."""
    new = (GOLDEN / "model_card_vit.md").read_text(encoding="utf-8")
    mine = new.replace(BEGIN, f"My intro\n\n{BEGIN}").replace("task", "TASK", 1) + "\n## My section\n\n---\nmine\n"
    mine = mine.replace("---\n", "---\nwidget: []\n", 1).replace("tags:\n", "tags:\n- my-tag\n", 1)
    merged = merge_readme(mine, new)
    assert (
        merged.index("My intro")
        < merged.index(BEGIN)
        < merged.index(END)
        < merged.index("## My section\n\n---\nmine\n")
    )
    assert front_matter(merged)["widget"] == []
    assert "my-tag" in front_matter(merged)["tags"]
    assert merged.count(BEGIN) == 1
    assert merge_readme(merged, new) == merged
    assert check_card(merged) == ([], [])


@pytest.mark.parametrize(
    "existing", ["", "Just text\n", "---\nlicense: mit\n---\n# Mine\n", f"lost\n{BEGIN}\nopen\n", "---\n---\nx"]
)
def test_a_readme_without_our_card_is_kept_below_it(existing):
    """A first push over a README that the user has written; a block whose end was deleted."""
    new = (GOLDEN / "model_card_cnn.md").read_text(encoding="utf-8")
    merged = merge_readme(existing, new)
    assert merged.count(BEGIN) == merged.count(END) == 1
    for words in re.findall("Just text|# Mine|lost|open|x$", existing):
        assert words in merged.split(END)[1]
    assert front_matter(merged)["license"] == "cc-by-nc-4.0"
    assert merge_readme(merged, new) == merged
    assert merge_readme("", new) == new


def test_metadata_that_cannot_be_read_is_not_thrown_away():
    """A user's metadata lost because of one typing error."""
    with pytest.raises(PeerError, match="not readable as YAML"):
        merge_readme("---\na: [\n---\nx", "---\nlicense: mit\n---\n")


def test_text_that_looks_like_a_number_stays_text_on_the_hub(tmp_path):
    """A commit of digits and one `e`, which the Hub's YAML parser takes for a number."""
    record = made_up_record()
    record["dataset"]["revision"] = "1234567890" * 3 + "12345678e1"
    text = write_cards(write_run(tmp_path, record, made_up_results()))["vit"].read_text(encoding="utf-8")
    assert "revision: '123456789012345678901234567890" in text


# What a run records


def test_base_facts_of_a_folder(tmp_path):
    """A licence or citation that the card of the start has and ours does not."""
    bibtex = "@article{a,\n  title={{A} b}\n}"
    (tmp_path / "README.md").write_text(
        f"---\nlicense: other\nlicense_name: my\ntags: [vision, 3]\n---\n# x\n```bibtex\n{bibtex}\n```\n",
        encoding="utf-8",
    )
    facts = base_facts(str(tmp_path))
    assert facts == {"license": "other", "license_name": "my", "tags": ["vision"], "citation": bibtex}
    assert base_facts(str(tmp_path / "missing")) == {}
    (tmp_path / "README.md").write_text("---\na: [\n---\n", encoding="utf-8")
    assert base_facts(str(tmp_path)) == {}


def test_base_facts_from_the_cache_without_network(tmp_path, monkeypatch):
    """A run without network that loses the licence of a cached model."""
    snapshot = tmp_path / "models--someone--vit" / "snapshots" / SHA["vit"]
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert base_facts("someone/vit", SHA["vit"]) == {"license": "mit"}
    assert base_facts("someone/cnn", SHA["cnn"]) == {}


def test_run_snippet_prints_what_the_saved_peer_says(make_cohort, tmp_path):
    """An output in the card that no run of the snippet gave; a model that draws random numbers when it is loaded."""
    from PIL import Image

    cohort = make_cohort("vit")
    cohort.save_pretrained(tmp_path)
    before = random.getstate(), torch.get_rng_state().tolist()
    printed = run_snippet(tmp_path / "vit", Image.new("RGB", (20, 20), "red"))
    assert (random.getstate(), torch.get_rng_state().tolist()) == before
    assert re.fullmatch(r"(?:(?:circle|square|stripe): 0\.\d{3}\n?){3}", printed)
    (tmp_path / "plain").mkdir()
    assert run_snippet(tmp_path / "plain", Image.new("RGB", (20, 20))) is None


def test_facts_describe_themselves(tmp_path):
    """Secrets, paths or values that JSON cannot hold in the record."""
    from hf_mutual_kd.config import MutualKDConfig
    from hf_mutual_kd.teachers import Objective

    config = MutualKDConfig(str(tmp_path), learning_rate=3e-4, hub_token="hf_secret", use_cpu=True)
    facts = hyperparameter_facts({"learning_rate": 3e-4, "seed": 42, "output_dir": str(tmp_path)}, config)
    assert facts["changed"] == {"learning_rate": 3e-4}
    assert facts["defaults"]["seed"] == 42
    assert not re.search(f"hf_secret|{tmp_path}", json.dumps(facts))
    assert json.loads(json.dumps(objective_facts(Objective.from_options(config))))["rule"]["name"] == "best"
    assert hardware_facts(2)["processes"] == 2


def test_without_codecarbon_nothing_is_measured(monkeypatch):
    """A run that stops because an extra is not installed."""
    monkeypatch.setitem(__import__("sys").modules, "codecarbon", None)
    with emissions_tracker() as tracker:
        assert tracker is None
