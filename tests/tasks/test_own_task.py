"""A task that only this test knows, from its rows to a push: nothing in the package knows tasks by name."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from conftest import LABELS, write_place
from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset
from PIL import Image
from transformers import AutoModelForImageClassification

from hf_mutual_kd import (
    TASKS,
    Classification,
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
    TransferOptions,
    classification_words,
    export_peers,
    load_splits,
    push_run,
    write_space,
)
from hf_mutual_kd.cli import main as cli
from hf_mutual_kd.data.inputs import check_inputs
from hf_mutual_kd.experiments.launch import WAYS


def painted(shades):
    if any(not 0 <= shade < 256 for shade in shades):
        raise DataError("shades are 0 to 255")
    return Image.fromarray(np.asarray(shades, np.uint8).reshape(4, 4)).resize((32, 32)).convert("RGB")


class ShadeCollator(RoleTaggingCollator):
    inputs = Inputs("shades", "row of shades", decode=painted, blank=lambda: Image.new("RGB", (32, 32)))


class ShadeClassification(Classification):
    name = "shade-classification"
    words = classification_words("classification of shades", tags=("shades",))
    auto_models = (AutoModelForImageClassification,)
    collator_class = ShadeCollator


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


def test_options_of_other_tasks_are_unknown_before_anything_is_written(tmp_path):
    """A crop size that changes nothing, found out from the results of a night."""
    with pytest.raises(ConfigError, match="crop_size is for tasks with masks, and no option of shade-classification"):
        ShadeClassification().configured(TransferOptions(crop_size=64))
    config = MutualKDConfig(str(tmp_path / "run"), report_to="none", use_cpu=True)
    for wrong in ({"eval_frame_step": 2}, {"reduce_labels": True}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is for tasks with .* image-classification"):
            Experiment("image-classification", RecipeOptions(dataset="x", **wrong), config=config).run()
    assert not (tmp_path / "run").exists()
    kinds = {item.metadata.get("only") for cls in (TransferOptions, RecipeOptions) for item in fields(cls)}
    assert kinds - {None} == {kind for task in TASKS.values() for kind in task.option_kinds}
    assert {name: way.kinds for name, way in WAYS.items()} == {name: TASKS[name].option_kinds for name in WAYS}


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
