"""A task that only this test knows, from its rows to a push: nothing in the package knows tasks by name."""

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from conftest import LABELS, write_place
from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset
from PIL import Image
from transformers import AutoModelForImageClassification

from hf_mutual_kd import (
    TASKS,
    Classification,
    ClassOptions,
    Cohort,
    ConfigError,
    DataError,
    Experiment,
    ExportError,
    Inputs,
    MutualKDConfig,
    OutputFolderError,
    PeerError,
    PeerSpec,
    RecipeOptions,
    RoleTaggingCollator,
    classification_words,
    export_peers,
    load_splits,
    push_run,
    write_space,
)
from hf_mutual_kd.cli import main as cli
from hf_mutual_kd.config.fields import OF_TASKS
from hf_mutual_kd.config.rules import NOT_NEGATIVE
from hf_mutual_kd.config.task_options import own_fields
from hf_mutual_kd.data.inputs import check_inputs
from hf_mutual_kd.experiments.launch import WAYS, train
from hf_mutual_kd.training.fingerprints import options_of


def painted(shades):
    if any(not 0 <= shade < 256 for shade in shades):
        raise DataError("shades are 0 to 255")
    return Image.fromarray(np.asarray(shades, np.uint8).reshape(4, 4)).resize((32, 32)).convert("RGB")


class ShadeCollator(RoleTaggingCollator):
    inputs = Inputs("shades", "row of shades", decode=painted, blank=lambda: Image.new("RGB", (32, 32)))


@dataclass
class ShadeOptions(ClassOptions):
    turns: int = field(
        default=0, metadata={"group": "view", "help": "Quarter turns of every picture.", "rule": NOT_NEGATIVE}
    )


class ShadeClassification(Classification):
    options_class = ShadeOptions
    options: ShadeOptions
    name = "shade-classification"
    words = classification_words("classification of shades", tags=("shades",))
    auto_models = (AutoModelForImageClassification,)
    collator_class = ShadeCollator

    def view(self, processors, seed):
        return lambda image, sample_id, epoch: image.rotate(90 * self.options.turns)


def shades(rows: int, seed: int) -> Dataset:
    draw = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    cells = [(80 * label + draw.integers(0, 80, 16)).tolist() for label in labels]
    made = Dataset.from_dict({"grey": cells, "label": labels.tolist()})
    return made.cast_column("label", ClassLabel(names=LABELS))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_place(tmp_path_factory.mktemp("own"), 3, 3, 3)
    sizes = {"train": 24, "validation": 9, "test": 12}
    DatasetDict({name: shades(rows, seed) for seed, (name, rows) in enumerate(sizes.items())}).save_to_disk(
        folder / "shades"
    )
    peers = {name: PeerSpec(str(folder / name)) for name in ("vit", "cnn")}
    options = RecipeOptions(peers=peers, dataset=str(folder / "shades"), input_column="grey", seeds=[0])
    config = MutualKDConfig(
        str(folder / "run"),
        max_steps=2,
        per_device_train_batch_size=8,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        pre_flight=False,
    )
    Experiment(ShadeClassification(), options, config=config).run()
    return folder / "run"


def test_a_task_of_ones_own_has_results_cards_and_a_page(run):
    """A run that dies where somebody looks up the task's words, metric or sections by its name."""
    assert ShadeClassification.name not in TASKS
    record, results = (json.loads((run / name).read_text()) for name in ("cohort.json", "results.json"))
    assert record["task"] == results["task"] == "shade-classification"
    assert record["words"]["title"] == "classification of shades"
    for peer in results["peers"].values():
        assert set(peer["arms"]) == {"start", "control", "mutual"}
        assert peer["differences"]["control"]["accuracy"]["low"] is not None
    card = (run / "vit" / "README.md").read_text()
    assert "classification of shades" in card
    assert "- shades" in card
    assert "accuracy, %" in card
    page = (run / "report" / "index.html").read_text()
    assert "classification of shades" in page
    assert all(f'id="{section}"' in page for section in ("results", "training", "calibration", "making"))


def test_a_page_and_a_push_need_the_record_alone(run, tmp_path, capsys):
    """A colleague without the task's code who can neither rebuild the page nor push the peers."""
    assert cli.main(["report", str(run), "--out", str(tmp_path)]) == 0
    assert "classification of shades" in (tmp_path / "index.html").read_text()
    assert 'id="calibration"' not in (tmp_path / "index.html").read_text()
    pushed = push_run(run, "me", dry_run=True).peers
    assert [peer.repo_id for peer in pushed] == ["me/vit-shades-mutual", "me/cnn-shades-mutual"]
    assert all({"README.md", "config.json", "model.safetensors"} <= set(peer.files) for peer in pushed)
    assert pushed[0].metadata["tags"][-1] == "shades"


def test_what_a_task_lacks_is_refused_in_words(run, tmp_path):
    """A traceback about None where a task has no exporter, no Space, or no model classes."""
    with pytest.raises(ExportError, match="shade-classification"):
        export_peers(run, out=tmp_path / "onnx", task=ShadeClassification())
    with pytest.raises(OutputFolderError, match="shade-classification"):
        write_space(run, tmp_path / "space", task=ShadeClassification())
    with pytest.raises(ConfigError, match="got 'shade-classification'"):
        export_peers(run, out=tmp_path / "onnx")

    class Bare(ShadeClassification):
        auto_models = ()

    with pytest.raises(PeerError, match="python:package.module:function"):
        Cohort.from_pretrained({"vit": str(run / "vit")}, task=Bare(), label_names=LABELS)


def test_an_option_of_ones_own_is_given_on_its_recipes_command_line(run, tmp_path, monkeypatch):
    """A setting that can be given in Python alone, or that training, its record or a resumption never hears of."""
    monkeypatch.setitem(TASKS, ShadeClassification.name, ShadeClassification)
    seen = []
    monkeypatch.setattr(ShadeClassification, "view", lambda task, processors, seed: seen.append(task.options.turns))
    words = f"--dataset {run.parent / 'shades'} --input_column grey --output_dir {tmp_path / 'run'} --use_cpu"
    words += f" --peers vit={run.parent / 'vit'} cnn={run.parent / 'cnn'} --report_to none --max_steps 1 --turns 2"
    words += " --teacher_rule best --control false --pre_flight false --disable_tqdm true --labels_per_class 5"
    train(ShadeClassification.name, words.split())
    assert set(seen) == {2}
    record = json.loads((tmp_path / "run" / "cohort.json").read_text())
    assert record["recipe"]["turns"] == record["hyperparameters"]["changed"]["turns"] == 2
    assert record["dataset"]["labelled"]["train"] == 15
    config = MutualKDConfig(str(tmp_path), use_cpu=True)
    assert options_of(config, {}, ShadeClassification(turns=2))["turns"] == 2
    for task, wrong in ((ShadeClassification.name, "turn"), ("image-classification", "turns")):
        with pytest.raises(ConfigError, match=f"unknown option {wrong}"):
            train(task, [f"--{wrong}", "1"])
    with pytest.raises(ConfigError, match="turns must be 0 or more, got -1"):
        train(ShadeClassification.name, ["--turns", "-1"])


def test_what_a_task_does_not_know_is_unknown_before_anything_is_written(tmp_path):
    """A crop size that changes nothing, found out from the results of a night."""
    config = MutualKDConfig(str(tmp_path / "run"), report_to="none", use_cpu=True)
    rows = RecipeOptions(dataset="x")
    with pytest.raises(ConfigError, match="shade-classification: unknown option crop_size: an option of semantic-seg"):
        ShadeClassification(crop_size=64)
    with pytest.raises(ConfigError, match="image-classification: unknown option turns"):
        Experiment("image-classification", ShadeOptions(dataset="x", turns=1), config=config)
    with pytest.raises(ConfigError, match="is made already.* give RecipeOptions, or the task's class with ShadeOpt"):
        Experiment(ShadeClassification(turns=1), ShadeOptions(dataset="x"), config=config)
    for given in (ShadeClassification, ShadeClassification(turns=1)):
        assert Experiment(given, rows, config=config).options.dataset == "x"
    assert Experiment(ShadeClassification(turns=1), rows, config=config).task.options.turns == 1
    for cls in (MutualKDConfig, RecipeOptions):
        with pytest.raises(ConfigError, match=r"make_task\('semantic-segmentation', transfer_grid=…\)"):
            cls("x", transfer_grid="label")
    assert not (tmp_path / "run").exists()


def test_options_of_tasks_are_told_from_one_table():
    """An error that names a task which does not know the option either; `--help` of other options than are taken."""
    assert {name: way.options for name, way in WAYS.items()} == {name: TASKS[name].options_class for name in WAYS}
    known = {name: {item.name for item in own_fields(way.options)} for name, way in WAYS.items()}
    told = {name: {option for option, tasks in OF_TASKS.items() if name in tasks} for name in WAYS}
    assert known == told


TEXTS = Inputs("text", "text", decode=lambda text, pair: (text, pair), blank=lambda: ("", ""), further=("text_pair",))


def test_inputs_of_two_columns_keep_their_names(tmp_path):
    """A second text that gets lost on the way to the batch, or the label that comes in its place."""
    columns = {"said": ["a", "b"] * 3, "text_pair": ["c", "d"] * 3, "more": [1] * 6, "label": [0, 1] * 3}
    rows = Dataset.from_dict(columns)
    for name in ("train", "validation", "test"):
        rows.to_parquet(tmp_path / f"{name}.parquet")
    options = RecipeOptions(dataset=str(tmp_path), input_column="said")
    splits = load_splits(options, seed=0, inputs=TEXTS)
    assert splits.train.column_names == ["text", "text_pair", "label"]
    assert TEXTS.read(splits.train[1]) == ("b", "d")
    stream = load_splits(replace(options, streaming=True), seed=0, inputs=TEXTS)
    assert isinstance(stream.train, IterableDataset)
    assert next(iter(stream.train)) == {"text": "a", "text_pair": "c", "label": 0}


def test_an_unreadable_input_is_named_as_what_it_is():
    """A message about an image where there is none."""
    bad = Dataset.from_dict({"shades": [[0] * 16, [300] * 16], "label": [0, 1]})
    with pytest.raises(DataError, match="train row 1: shades are 0 to 255"):
        check_inputs(bad, "train", inputs=ShadeCollator.inputs)
    assert check_inputs(bad, "train", "skip", inputs=ShadeCollator.inputs)[1] == 1
    collator = ShadeCollator({"a": lambda images: {"size": len(images)}})
    with pytest.raises(DataError, match="the row of shades of sample 1 cannot be read"):
        collator([{"sample_id": 1, **bad[1]}])
