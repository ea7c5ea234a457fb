"""Peers, data, options and suites that cannot be meant: refused in one line, before anything is written."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import LABELS, make_rows
from datasets import ClassLabel, DatasetDict, Features, Image, Value
from edge_cases import RECIPE, Row, but

SLOW = pytest.mark.slow
OWN_DATA = but(RECIPE, "--dataset", "{here}/data")
OWN_PEER = but(RECIPE, "--peers", "vit={here}/vit", "cnx={place}/cnx")
DATA = ["--dataset", "{place}/data", "--use_cpu"]
TOKEN = "hf_" + "a" * 34


def score(*changes: str) -> list[str]:
    return but(["hf-mutual-kd", "score", "--peers", "vit={place}/vit", *DATA, "--out", "{here}/table"], *changes)


def scout(*candidates: str) -> list[str]:
    return ["hf-mutual-kd", "scout", "--model", "{place}/vit", "--candidates", *candidates, *DATA, "--out", "{here}/s"]


def python(program: str) -> list[str]:
    return ["python", f"from hf_mutual_kd import *\n{program}"]


# Labels


def with_labels(change, kind: str = "int64"):
    """Plain whole numbers, without names of classes."""

    def make(here):
        splits = {"train": make_rows(24), "validation": make_rows(6, 1), "test": make_rows(6, 2)}
        for name, rows in splits.items():
            labels = [change(name, row, label) for row, label in enumerate(rows["label"])]
            rows = rows.remove_columns("label").add_column("label", labels, feature=Value(kind))
            splits[name] = rows
        DatasetDict(splits).save_to_disk(here / "data")

    return make


def one_odd(value, kind: str = "int64"):
    return with_labels(lambda split, row, label: value if (split, row) == ("train", 3) else label, kind)


LABEL_ROWS = [
    Row("label 99", OWN_DATA, says="train row 3: label 99 is out of range: 0 to 2", make=one_odd(99)),
    Row("label -7", OWN_DATA, says="train row 3: label -7 is out of range", make=one_odd(-7)),
    Row(
        "labels 1 to 3",
        OWN_DATA,
        says="train row 2: label 3 is out of range",
        make=with_labels(lambda split, row, label: label + 1),
    ),
    Row(
        "label 2**63",
        OWN_DATA,
        says="train row 3: label 9223372036854775808 is out of range",
        make=one_odd(2**63, "uint64"),
    ),
    Row(
        "score: label 99",
        score("--dataset", "{here}/data"),
        says="train row 3: label 99 is out of range: 0 to 2",
        make=one_odd(99),
    ),
]

# Files and addresses in rows


def row_that_names(path: str):
    def make(here):
        (here / "data").mkdir()
        features = Features({"image": Image(), "label": ClassLabel(names=LABELS)})
        for split in ("train", "validation", "test"):
            rows = make_rows(4)
            cells = [{"bytes": image["bytes"], "path": None} for image in rows["image"]]
            cells[2] = {"bytes": None, "path": path}
            table = pa.table({"image": cells, "label": rows["label"]}).cast(features.arrow_schema)
            pq.write_table(
                table.replace_schema_metadata(features.arrow_schema.metadata), here / "data" / f"{split}-0.parquet"
            )

    return make


ADDRESSES = (
    "http://127.0.0.1:9/x.png",
    "s3://bucket/x.png",
    "hf://datasets/a/b/x.png",
    "gs://bucket/x.png",
    "zip://a.png::http://127.0.0.1:9/z.zip",
)
OUTSIDE = ("/etc/passwd", "file:///etc/passwd", "../../outside.png", "/dev/zero")
PLACE_ROWS = [
    *[
        Row(
            path,
            OWN_DATA,
            says=[f"train row 2: {path} names an address outside of the data set", "--files_from"],
            make=row_that_names(path),
        )
        for path in ADDRESSES
    ],
    *[
        Row(
            path,
            OWN_DATA,
            says=[f"train row 2: {path} names a file outside of the data set's folder", "--files_from"],
            make=row_that_names(path),
        )
        for path in OUTSIDE
    ],
    Row("a data set in a store", but(RECIPE, "--dataset", "s3://bucket/data"), says="s3://bucket/data"),
    Row(
        "a peer in a store", but(RECIPE, "--peers", "vit=s3://b/vit", "cnx={place}/cnx"), says="s3://b/vit is neither"
    ),
]


def split_record(text: str):
    def make(here):
        shutil.copytree(place_of(here) / "data", here / "data")
        (here / "data" / "dataset_dict.json").write_text(text)

    return make


def place_of(here: Path) -> Path:
    return next(path for path in here.parents[1].glob("edges*/place"))


PLACE_ROWS += [
    Row(f"dataset_dict.json: {text}", OWN_DATA, says=["dataset_dict.json", says], make=split_record(text))
    for text, says in (
        ("[]", "is damaged"),
        ('{"splits": 5}', "is damaged"),
        ('{"splits": ["../x"]}', "the split '../x', which has no folder"),
    )
]

# Peers


def changed_peer(file: str, **changes):
    def make(here):
        shutil.copytree(place_of(here) / "vit", here / "vit")
        path = here / "vit" / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return make


def shard(name: str):
    def make(here):
        shutil.copytree(place_of(here) / "vit", here / "vit")
        (here / "vit" / "model.safetensors").rename(here / "vit" / "weights.bin")
        index = {"metadata": {}, "weight_map": {"a": name}}
        (here / "vit" / "model.safetensors.index.json").write_text(json.dumps(index))

    return make


PROCESSOR, CONFIG = "preprocessor_config.json", "config.json"
PEER_ROWS = [
    Row(
        "a size that does not fit",
        OWN_PEER,
        says="peer 'vit' cannot work on a row of train",
        make=changed_peer(PROCESSOR, size={"height": 20, "width": 20}),
    ),
    Row(
        "two channels",
        OWN_PEER,
        says="peer 'vit' cannot work on a row",
        make=changed_peer(PROCESSOR, image_mean=[0, 0]),
    ),
    Row("a deviation of 0", OWN_PEER, says="an image_std of 0", make=changed_peer(PROCESSOR, image_std=[0, 0, 0])),
    Row(
        "hidden_size is text",
        OWN_PEER,
        says=["peer 'vit'", "hidden_size"],
        make=changed_peer(CONFIG, hidden_size="64"),
    ),
    Row("2**40 classes", OWN_PEER, says="says num_labels 1099511627776", make=changed_peer(CONFIG, num_labels=2**40)),
    Row("architectures 5", OWN_PEER, says="says architectures 5", make=changed_peer(CONFIG, architectures=5)),
    *[
        Row(f"{what}: a shard {name}", words, says=[f"names '{name}'", "nothing else is opened"], make=shard(name))
        for what, words in (("recipe", OWN_PEER), ("score", score("--peers", "vit={here}/vit")))
        for name in ("weights.bin", "../outside.safetensors", "../../../etc/passwd")
    ],
]

# Options


def config(text: str):
    return lambda here: (here / "c.yaml").write_text(text)


LAUNCHED = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
WITHOUT_CPU = [word for word in RECIPE if word != "--use_cpu"]
BARE = """
cohort = Cohort.from_pretrained({"vit": "{place}/vit"}, label_names=["circle", "square", "stripe"])
from datasets import load_from_disk
rows = load_from_disk("{place}/data")["train"]
"""
IN_FILE = ["vit_classify", "--config", "{here}/c.yaml"]
BRACKETS = "seeds: " + "[" * 3000 + "]" * 3000
ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
OPTION_ROWS = [
    Row(
        "a token in a wrong place", [*RECIPE, "--temperature", "2", TOKEN], says="holds an access token, which is not"
    ),
    Row("a token in an unknown option", [*RECIPE, "--hub_tokn", TOKEN], says="holds an access token, which is not"),
    Row(
        "two processes that do not see each other",
        WITHOUT_CPU,
        says="the launcher started 2 processes",
        env={"OMPI_COMM_WORLD_SIZE": "2"},
    ),
    Row(
        "the same in score",
        score()[:-3] + ["--out", "{here}/table"],
        says="the launcher started 2 processes",
        env={"OMPI_COMM_WORLD_SIZE": "2"},
    ),
    Row(
        "the same in Python",
        python(
            f"{BARE}MutualKDTrainer(cohort, MutualKDConfig('{{here}}/o', use_cpu=False, "
            "report_to='none'), train_dataset=rows)"
        ),
        says="the launcher started 2 processes",
        env={"OMPI_COMM_WORLD_SIZE": "2"},
        code=1,
    ),
    Row(
        "arguments of a schedule that takes none",
        but(RECIPE, "--lr_scheduler_kwargs", '{"num_cycles": 2}'),
        says="lr_scheduler_type constant does not go with lr_scheduler_kwargs",
    ),
    Row("export: max_drop below 0", ["hf-mutual-kd", "export", "{run}", "--max_drop", "-1"], says="max_drop must be"),
    Row(
        "aliases that multiply", IN_FILE, says="c.yaml:1: more than 10000 values", make=config(f"{ALIASES}seeds: *j\n")
    ),
    Row("5,000 digits", IN_FILE, says="max_steps must be a whole number", make=config("max_steps: " + "9" * 5000)),
    Row("3,000 brackets", IN_FILE, says="nested deeper than 20 levels", make=config(BRACKETS)),
    Row("half a surrogate pair", IN_FILE, says="half of a surrogate pair", make=config('dataset: "\\ud800"')),
    Row("a tag", IN_FILE, says="tags are not read", make=config("dataset: !!python/object:os.system x")),
    Row(
        "a crop of a million", ["segment", "--crop_size", "1000000", "--output_dir", "{here}/o"], says="from 1 to 8192"
    ),
    Row("a scale of 100,000", ["segment", "--scale_range", "0.1", "100000", "--output_dir", "{here}/o"], says="<= 16"),
]

# Suites

SUITE = """
base: {peers: {vit: {place}/vit, cnx: {place}/cnx}, dataset: {place}/data, max_steps: 1, use_cpu: true,
       report_to: none, eval_strategy: "no", load_best_model_at_end: false, per_device_train_batch_size: 8}
settings: {best: {SETTING}}
"""
COMPARE = ["hf-mutual-kd", "compare", "--config", "{here}/suite.yaml", "--output_dir", "{here}/suite"]


def suite(setting: str = "", more=None):
    def make(here):
        text = SUITE.replace("{place}", str(place_of(here))).replace("{SETTING}", f"{{{setting}}}")
        (here / "suite.yaml").write_text(text)
        if more is not None:
            more(here / "suite")

    return make


def own_notes(folder: Path) -> None:
    (folder / "best" / "all" / "seed-0").mkdir(parents=True)
    (folder / "best" / "all" / "seed-0" / "notes.txt").write_text("mine")


SUITE_ROWS = [
    Row(
        "an unknown option",
        COMPARE,
        says="unknown option temprature (nearest: temperature)",
        make=suite("temprature: 2"),
    ),
    Row(
        "batch size 0",
        COMPARE,
        says="per_device_train_batch_size must be 1 or more",
        make=suite("per_device_train_batch_size: 0"),
    ),
    Row(
        "a peer that is not there",
        [*COMPARE, "--only", "best/all/seed-0"],
        says="zoe",
        make=suite("peers: {zoe: no/zoe, cnx: no/cnx}"),
    ),
    Row("no such arm", [*COMPARE, "--only", "bset/all/seed-0"], says="has no arm 'bset/all/seed-0'", make=suite()),
    Row(
        "a folder of the user's in the place of an arm",
        [*COMPARE, "--only", "best/all/seed-0"],
        says="replaces runs only",
        make=suite(more=own_notes),
    ),
    Row(
        "a file in the place of the suite",
        COMPARE,
        says="output_dir",
        make=suite(more=lambda path: path.write_text("")),
    ),
    Row("no suite", COMPARE, says="suite.yaml: cannot be read"),
]

QUICK = [*LABEL_ROWS, *PLACE_ROWS, *PEER_ROWS, *OPTION_ROWS, *SUITE_ROWS]
ALIKE = {
    "label -7",
    "gs://bucket/x.png",
    "hf://datasets/a/b/x.png",
    "file:///etc/passwd",
    "two channels",
    "score: a shard ../outside.safetensors",
    "score: a shard ../../../etc/passwd",
    "architectures 5",
}


@pytest.mark.parametrize("row", [pytest.param(row, marks=SLOW if row.name in ALIKE else ()) for row in QUICK], ids=str)
def test_what_cannot_be_meant_is_one_error_and_writes_nothing(row, entry):
    """A traceback, a training on something else, or a file read that is none of the data."""
    ended = entry.check(row)
    assert TOKEN not in ended.err


def odd_candidates(here):
    for name, changes in (("zero", {"hidden_size": 0}), ("text", {"hidden_size": "64"})):
        changed_peer(CONFIG, **changes)(here)
        (here / "vit").rename(here / name)
    shard("weights.bin")(here)


def test_odd_candidates_of_a_search_are_listed_as_refused(entry):
    """One bad folder would end the search of hours, without a word of the others."""
    row = Row(
        "", scout("{place}/cnx", "{here}/zero", "{here}/text", "{here}/vit"), make=odd_candidates, code=0, writes=True
    )
    ended = entry.check(row)
    found = json.loads((entry.here / "s" / "scout.json").read_text())
    assert list(found["candidates"]) == ["cnx"]
    assert sorted(Path(source).name for source in found["unusable"]) == ["text", "vit", "zero"]
    assert "weights.bin" in ended.out
