"""Sources: every form in which a data set comes, and a message with a way out where it cannot be opened."""

import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from data_sets import ROOT, load, pixels, png, save, table, write_parquet
from datasets import Array2D, Dataset, Features, IterableDataset, Value

from hf_mutual_kd import DataError, RecipeOptions, load_splits
from hf_mutual_kd.data.splits import check_inputs


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Parquet files are prepared in a cache of their own, not in the user's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def test_saved_data_set_with_three_splits(tmp_path):
    """The plain case: nothing is drawn, nothing renamed, labels and names as they were."""
    path = save(tmp_path / "d", train=table(6), validation=table(4, 6), test=table(3, 10))
    splits = load(path)
    assert splits.facts["splits"] == {"train": "train", "validation": "validation", "test": "test"}
    assert splits.facts["rows"] == splits.facts["labelled"] == {"train": 6, "validation": 4, "test": 3}
    assert splits.facts["name"] == "d"
    assert splits.label_names == ["cat", "dog"]
    assert splits.train.column_names == ["image", "label"]
    assert splits.train["label"][:] == [0, 1, 0, 1, 0, 1]
    assert set(splits.train[0]["image"]) == {"bytes", "path"}
    assert pixels(splits.test) == [10, 11, 12]
    json.dumps(splits.facts)


def test_image_folder_of_classes(tmp_path):
    """`datasets` would put `test_1.png` in a test split and leave the other files out."""
    for name in ("dog", "cat", "train"):
        (tmp_path / "f" / name).mkdir(parents=True)
        for number in range(10):
            (tmp_path / "f" / name / f"test_{number}.png").write_bytes(png(number))
    splits = load(tmp_path / "f")
    assert splits.label_names == ["cat", "dog", "train"]
    assert splits.facts["rows"] == {"train": 24, "validation": 3, "test": 3}
    assert splits.train[0]["image"]["path"].endswith(".png")


def test_image_folder_of_splits(tmp_path):
    """Split folders are found by their usual names, and labels mean the same class in each of them."""
    for folder in ("train/dog", "train/cat", "val/dog", "test/cat"):
        (tmp_path / "f" / folder).mkdir(parents=True)
        (tmp_path / "f" / folder / "a.png").write_bytes(png())
    splits = load(tmp_path / "f")
    assert splits.facts["splits"] == {"train": "train", "validation": "val", "test": "test"}
    assert (splits.train["label"][:], splits.validation["label"][:], splits.test["label"][:]) == ([0, 1], [1], [0])
    streamed = load(tmp_path / "f", streaming=True)
    assert [row["label"] for row in streamed.train] == [0, 1]
    (tmp_path / "f" / "train" / "loose.png").write_bytes(png())
    with pytest.raises(DataError, match=r"train: loose.png lies in no class folder"):
        load(tmp_path / "f")


def test_image_folder_without_classes(tmp_path):
    """Images without class folders have no labels, and that is an error unless none are wanted."""
    (tmp_path / "f").mkdir()
    for number in range(20):
        (tmp_path / "f" / f"{number:02}.png").write_bytes(png(number))
    with pytest.raises(DataError, match="no column label, only: image"):
        load(tmp_path / "f")
    splits = load(tmp_path / "f", labels=False)
    assert splits.train.column_names == ["image"]
    assert splits.facts["labelled"] == {"train": 0, "validation": 0, "test": 0}


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("names", [("train", "validation", "test"), ("train-00000-of-00001", "val", "test")])
def test_folder_of_parquet_files(tmp_path, names, metadata):
    """Files written by pyarrow alone carry no feature types; their structs of bytes are images all the same."""
    for number, name in enumerate(names):
        write_parquet(tmp_path / f"{name}.parquet", 3, number * 3, metadata)
    splits = load(tmp_path)
    assert pixels(splits.train) + pixels(splits.validation) + pixels(splits.test) == list(range(9))
    assert splits.label_names == (["cat", "dog"] if metadata else None)
    streamed = load(tmp_path, streaming=True)
    assert isinstance(streamed.train, IterableDataset)
    assert pixels(streamed.test) == [6, 7, 8]
    assert streamed.label_names == splits.label_names
    assert streamed.facts["fingerprint_of"] == "names and sizes of files"


def test_parquet_shards_file_and_glob(tmp_path):
    """Shards of one split are one split; a single file and other names are `train`."""
    for number in range(2):
        write_parquet(tmp_path / f"train-0000{number}-of-00002.parquet", 10, number * 10)
    for form in (tmp_path, tmp_path / "train-*.parquet"):
        splits = load(form)
        assert sorted(pixels(splits.train) + pixels(splits.validation) + pixels(splits.test)) == list(range(20))
    assert load(tmp_path / "train-00000-of-00002.parquet").facts["rows"]["train"] == 8
    (tmp_path / "other").mkdir()
    write_parquet(tmp_path / "other" / "part1.parquet", 20)
    assert load(tmp_path / "other").facts["splits"]["train"] == "the rest of train (seed 0)"


def test_folder_of_tar_files(tmp_path):
    """WebDataset, the form of ImageNet on the Hub: images are `jpg`, labels `cls`."""
    for split in ("train", "validation"):
        with tarfile.open(tmp_path / f"{split}-0000.tar", "w") as archive:
            for number in range(6):
                for ending, content in (("png", png(number)), ("cls", str(number % 3).encode())):
                    member = tarfile.TarInfo(f"{number:05}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    for streaming in (False, True):
        splits = load(tmp_path, input_column="png", label_column="cls", streaming=streaming)
        assert sorted(pixels(splits.validation) + pixels(splits.test)) == list(range(6))
        assert [row["label"] for row in splits.train] == [0, 1, 2, 0, 1, 2]
    assert splits.facts["fingerprint_of"] == "names and sizes of files"


def test_stream_that_does_not_say_its_types(tmp_path):
    """A stream of JSON lines knows its columns only from its first row."""
    lines = []
    for value in range(16):
        (tmp_path / f"{value}.png").write_bytes(png(value))
        lines.append(json.dumps({"image": str(tmp_path / f"{value}.png"), "label": 1, "note": "x"}))
    (tmp_path / "d").mkdir()
    for split in ("train", "validation"):
        (tmp_path / "d" / f"{split}.jsonl").write_text("\n".join(lines))
    splits = load(tmp_path / "d", streaming=True, files_from=[str(tmp_path)])
    assert pixels(splits.train) == list(range(16))
    assert sorted(pixels(splits.validation) + pixels(splits.test)) == list(range(16))
    with pytest.raises(DataError, match=r"no column img, only: image \(string\), label \(int64\), note \(string\)"):
        load(tmp_path / "d", streaming=True, input_column="img")
    with pytest.raises(DataError, match="column label of split train holds int64, no images"):
        load(tmp_path / "d", streaming=True, input_column="label", label_column="image")


def test_column_of_bytes_and_of_paths(tmp_path):
    """Images stored as plain bytes or as paths need no special type."""
    (tmp_path / "a.png").write_bytes(png(7))
    for value, kind in ((png(7), "binary"), (str(tmp_path / "a.png"), "string")):
        features = Features({"image": Value(kind), "label": Value("int8")})
        data = Dataset.from_dict({"image": [value] * 30, "label": [1] * 30}, features=features)
        path = save(tmp_path / kind, train=data, validation=data, test=data)
        for streaming in (False, True):
            assert pixels(load(path, streaming=streaming, files_from=[str(tmp_path)]).test) == [7] * 30


def test_column_of_arrays(tmp_path):
    """Arrays are images too."""
    features = Features({"image": Array2D((4, 4), "uint8"), "label": Value("int64")})
    data = Dataset.from_dict({"image": [np.full((4, 4), 9, np.uint8)] * 20, "label": [0] * 20}, features=features)
    path = save(tmp_path / "d", train=data)
    assert pixels(load(path).test) == [9, 9]


@pytest.mark.skipif(not (ROOT / "recipes/embedded/fashion_mnist/train.parquet").exists(), reason="made by a script")
def test_embedded_data():
    """The default of the recipe: rows of -1 are rows without a label; `pretrain` is no part of the run."""
    splits = load(ROOT / "recipes/embedded/fashion_mnist", max_train_samples=200, max_eval_samples=50)
    assert splits.facts["splits"] == {"train": "train", "validation": "validation", "test": "test"}
    assert splits.facts["rows"] == {"train": 200, "validation": 50, "test": 50}
    assert 0 < splits.facts["labelled"]["train"] < 200
    assert splits.label_names is None or len(splits.label_names) == 10
    assert check_inputs(splits.train, "train")[1] == 0


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (None, "no data set: --dataset takes"),
        ("{tmp}/nowhere", "no such folder or file, and no Hub id"),
        ("{tmp}/halv", r"halv: no such folder or file \(nearest: \S*/half\), and no Hub id"),
        ("{tmp}/*.arrow", "no file matches"),
        ("{tmp}/a.csv", "files must be Parquet, got a.csv"),
        ("{tmp}/empty", "cannot be loaded"),
        ("{tmp}/broken.parquet", "cannot be loaded"),
        ("{tmp}/half", "lists the split 'train', which has no folder with a state.json"),
    ],
)
def test_data_sets_that_cannot_be_opened(tmp_path, dataset, message):
    """Not a traceback of `datasets`, but what was given and what is expected."""
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match=message):
        load_splits(RecipeOptions(dataset=dataset and dataset.format(tmp=tmp_path)), seed=0)


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the Hub does for repositories that may not be read."""

    def answer(self) -> None:
        kinds = {"gated": (403, "GatedRepo"), "private": (401, "RepoNotFound"), "old": (404, "RevisionNotFound")}
        kinds |= {"script": (404, "EntryNotFound")}
        name = next((kind for kind in kinds if f"me/{kind}" in self.path), "private")
        code, error = kinds[name]
        is_info = name == "script" and "/api/datasets/me/script" in self.path
        is_file = name == "script" and self.path.endswith("script.py")
        self.send_response(200 if is_info or is_file else code)
        if error:
            self.send_header("X-Error-Code", error)
        body = json.dumps({"id": "me/script", "sha": "0" * 40, "siblings": [], "tags": []}) if is_info else "x = 1\n"
        if is_file:
            self.send_header("ETag", '"abc"')
            self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body.encode())

    do_GET = do_HEAD = do_POST = answer

    def log_message(self, *args) -> None:
        pass


HUB_USER = (
    "import sys\n"
    "from hf_mutual_kd.data.splits import load_splits\n"
    "from hf_mutual_kd.errors import DataError\n"
    "from hf_mutual_kd.config.options import RecipeOptions\n"
    "for name in sys.argv[1:]:\n"
    "    try:\n"
    "        load_splits(RecipeOptions(dataset=name, dataset_revision='old' if 'old' in name else None), seed=0)\n"
    "    except DataError as error:\n"
    "        print(error)\n"
)


def messages(home: Path, *names: str, **environment: str) -> list[str]:
    """What a process of its own says to each data set; the client reads its environment when it is imported."""
    own = {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    variables = {**os.environ, **own, **environment}
    command = [sys.executable, "-c", HUB_USER, *names]
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_data_sets_that_the_hub_refuses(tmp_path):
    """The real client against a server that refuses: gated, private, another revision, a script; then offline mode."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        answers = messages(tmp_path, "me/gated", "me/private", "me/old", "me/script", HF_ENDPOINT=endpoint)
    finally:
        server.shutdown()
        server.server_close()
    gated, private, old, script = answers
    assert "me/gated: is gated on the Hub: accept its terms on its page, then log in with `hf auth login`" in gated
    assert "does not exist or is private" in private
    assert "hf auth login" in private
    assert "no such revision" in old
    assert "scripts are no longer supported" in script
    (offline,) = messages(tmp_path, "me/other", HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="1")
    assert "offline mode is on" in offline


@pytest.mark.slow
def test_unreachable_hub(tmp_path):
    """The client tries for about 20 seconds; then the message says what still works."""
    (message,) = messages(tmp_path, "me/other", HF_ENDPOINT="http://127.0.0.1:9")
    assert "the Hub cannot be reached; check the connection, or give a local folder" in message
