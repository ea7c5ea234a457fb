"""Several labels of each row: how they are read, what is measured, and what a training does with them."""

import json

import numpy as np
import pytest
import torch
from conftest import LABELS, MAKERS, draw, make_rows, tiny_processor
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from sklearn.metrics import average_precision_score, f1_score
from text_peers import TOPICS, WORDS, tiny_text_peer
from transformers import pipeline
from zero_shot_peers import write_reader

from hf_mutual_kd import Cohort, MutualKDConfig, MutualKDTrainer, PeerSpec, make_task
from hf_mutual_kd.cli.main import main
from hf_mutual_kd.config.options import RecipeOptions
from hf_mutual_kd.data.images import decode_image
from hf_mutual_kd.data.label_sets import class_set
from hf_mutual_kd.data.splits import load_splits
from hf_mutual_kd.errors import ConfigError, LabelError, PeerError
from hf_mutual_kd.scoring.score_peers import score_peers
from hf_mutual_kd.tasks.classification.multi_label_evaluator import MultiLabelEvaluator, average_precision
from hf_mutual_kd.tasks.registry import TASKS

TASK = "multi-label-image-classification"
NAMED = List(ClassLabel(names=LABELS))


def rows_of(count, seed=0, feature=NAMED, say=lambda found: found, hide=()):
    """Images of one or two shapes, brighter of the two; some rows say nothing, some say that there is none."""
    generator = np.random.default_rng(seed)
    images, labels = [], []
    for index in range(count):
        found = sorted({index % 3, (index // 3) % 3}) if index % 7 else []
        drawn = [np.asarray(draw(label, generator)).astype(int) for label in found] or [np.zeros((16, 16, 3), int)]
        images.append(np.max(drawn, axis=0).astype(np.uint8))
        labels.append(None if index in hide else say(found))
    from PIL import Image as PILImage

    features = Features({"image": Image(), "label": feature})
    made = Dataset.from_dict({"image": [PILImage.fromarray(one) for one in images], "label": labels}, features)
    return made.cast_column("image", Image(decode=False))


def saved(folder, rows):
    DatasetDict({"train": rows, "validation": rows, "test": rows}).save_to_disk(folder)
    return str(folder)


def load(tmp_path, rows, **options):
    options = RecipeOptions(dataset=saved(tmp_path / "data", rows), test_split="test", **options)
    return load_splits(options, seed=0, target="classes")


FORMS = {
    "classes": (NAMED, lambda found: found, {}),
    "names": (List(Value("string")), lambda found: [LABELS[one] for one in found], {}),
    "numbers": (List(Value("int64")), lambda found: found, {"label_names": LABELS}),
    "booleans": (List(Value("bool")), lambda found: [one in found for one in range(3)], {"label_names": LABELS}),
    "floats": (List(Value("float32")), lambda found: [float(one in found) for one in range(3)],
               {"label_names": LABELS}),
    "fixed": (List(Value("int8"), length=3), lambda found: [int(one in found) for one in range(3)],
              {"label_names": LABELS}),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_labels_says_the_same(form, tmp_path):
    """A vector that is read as numbers of classes, or an empty list as no label, trains towards other labels."""
    feature, say, options = FORMS[form]
    splits = load(tmp_path, rows_of(15, feature=feature, say=say, hide=(3, 10)), **options)
    expected = rows_of(15, hide=(3, 10))["label"][:]
    assert splits.train["label"][:] == expected
    assert splits.label_names == LABELS
    assert splits.facts["labelled"]["train"] == 13
    assert [] in expected


def test_labels_that_are_none_are_refused_with_their_row():
    """Half a vector, a class twice or one class that is read as several is training towards a slip of the pen."""
    cases = {
        "one class.*multi-label-": 2,
        "twice.*true and false": [0, 0, 1],
        "2 entries for 3": [True, False],
        "must be 0 or 1": [1.0, 0.5, 0.0],
        "only some classes": [1.0, -1.0, 0.0],
        "null or -1": [0, -1],
        "out of range": [3],
        "none of the label names": ["circel"],
    }
    for message, value in cases.items():
        with pytest.raises(LabelError, match=f"row 5.*{message}|{message}"):
            class_set(value, LABELS, classes=3, row="row 5")
    assert class_set([], LABELS, classes=3, row="row 5") == []
    assert class_set(torch.tensor([1.0, 0.0, 1.0]), LABELS, classes=3, row="row 5") == [0, 2]


def test_rows_for_another_task_are_refused_with_the_way_out(tmp_path):
    """Labels of one class, columns of 0 and 1 or a stream that are guessed at train something else."""
    with pytest.raises(LabelError, match="lists of classes: a multi-label task"):
        load_splits(RecipeOptions(dataset=saved(tmp_path / "c", rows_of(9)), label_column="label"), seed=0)
    with pytest.raises(LabelError, match="several labels per row are"):
        load(tmp_path, make_rows(9), label_column="label")
    numbered = rows_of(9, feature=List(Value("int64")))
    with pytest.raises(LabelError, match="--label_names"):
        load(tmp_path / "b", numbered)
    with pytest.raises(ConfigError, match="unknown option labels_per_class: an option of image-classification, text"):
        TASKS[TASK](labels_per_class=3)


def test_average_precision_and_f1_are_scikit_learns():
    """A metric of our own that ranks ties otherwise gives numbers that nobody can compare."""
    generator = np.random.default_rng(0)
    truth = generator.random((40, 4)) < [0.5, 0.2, 0.9, 0.0]
    said = generator.integers(0, 6, (40, 4)) / 6
    found = average_precision(said, truth)
    for column in range(3):
        np.testing.assert_allclose(found[column], average_precision_score(truth[:, column], said[:, column]))
    assert np.isnan(found[3])
    evaluator = MultiLabelEvaluator(["a", "b"], 4)
    for part in (slice(0, 25), slice(25, 40)):
        probs = torch.tensor(np.stack([said, 1 - said], 1)[part])
        evaluator.add({"sample_ids": torch.arange(40)[part], "labels": torch.tensor(truth[part]).long(),
                       "probs": probs, "ensemble": probs.mean(1), "loss": torch.ones(len(probs), 2),
                       "teacher": torch.zeros(len(probs)).long()})  # fmt: skip
    results = evaluator.compute()
    np.testing.assert_allclose(results["a"]["mAP"], found[:3].mean())
    np.testing.assert_allclose(results["a"]["F1"], f1_score(truth[:, :3], said[:, :3] > 0.5, average="macro"))
    np.testing.assert_allclose(results["a"]["micro_F1"], f1_score(truth, said > 0.5, average="micro"))
    assert evaluator.by_class()["a"][3] is None


def cohort_of(tmp_path, *names):
    for index, name in enumerate(names):
        torch.manual_seed(index)
        MAKERS[name]().save_pretrained(tmp_path / name)
        tiny_processor().save_pretrained(tmp_path / name)
    peers = {name: str(tmp_path / name) for name in names}
    return Cohort.from_pretrained(peers, TASK, label_names=LABELS, label_alignment="new_head")


@pytest.mark.parametrize("granularity", ["image", "class"])
def test_peers_learn_several_labels_and_answer_by_the_stock_pipeline(granularity, tmp_path):
    """A softmax in the loss, or in the saved model, can never say two classes of one image."""
    cohort = cohort_of(tmp_path, "vit", "cnn")
    cohort.task = make_task(TASK, granularity=granularity)
    args = MutualKDConfig(
        str(tmp_path / "run"), num_train_epochs=12, per_device_train_batch_size=16,
        learning_rate=0.01, report_to="none", disable_tqdm=True, augment=False, pre_flight=False,
    )  # fmt: skip
    train, validation = rows_of(96, hide=(3, 10, 50)), rows_of(42, seed=1)
    trainer = MutualKDTrainer(cohort, args, train, validation)
    start = trainer.measure_start(validation)
    trainer.train()
    trainer.evaluate()
    end = trainer.evaluations["eval"].end.metrics
    assert all(end[name]["mAP"] > start[name]["mAP"] + 0.05 for name in cohort.names)
    assert {"mAP", "F1", "micro_F1", "loss", "positive_flips", "agreement"} <= set(end["vit"])
    image = decode_image(validation[1]["image"])
    found = pipeline("image-classification", model=str(tmp_path / "run" / "vit"), device="cpu")(image)
    own = cohort.predict([image])["vit"][0]
    by_name = {one["label"]: one["score"] for one in found}
    np.testing.assert_allclose([by_name[name] for name in LABELS], own.numpy(), atol=1e-5)
    assert json.loads((tmp_path / "run/vit/config.json").read_text())["problem_type"] == "multi_label_classification"


def test_texts_with_several_labels(tmp_path):
    """A task of texts whose collator or labels are those of one class fails at its first batch."""
    generator = np.random.default_rng(0)

    def texts(count):
        said = [[topic for topic in TOPICS if generator.random() < 0.5] for _ in range(count)]
        read = [" ".join([*(WORDS[topic][place % 3] for topic in found), "a"]) for place, found in enumerate(said)]
        features = Features({"text": Value("string"), "label": List(Value("string"))})
        return Dataset.from_dict({"text": read, "label": said}, features)

    model, tokenizer = tiny_text_peer("gpt2")
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "gpt2")
    cohort = Cohort.from_pretrained(
        {"gpt2": str(tmp_path / "gpt2")}, "multi-label-text-classification", label_names=TOPICS,
        label_alignment="new_head",
    )  # fmt: skip
    args = MutualKDConfig(str(tmp_path / "run"), num_train_epochs=6, learning_rate=0.01, report_to="none",
                          disable_tqdm=True, pre_flight=False)  # fmt: skip
    trainer = MutualKDTrainer(cohort, args, texts(120), texts(40))
    trainer.train()
    assert trainer.evaluate()["eval_gpt2/mAP"] > 0.75
    answer = pipeline("text-classification", model=str(tmp_path / "run" / "gpt2"), top_k=None)("chess a")[0]
    own = cohort.predict(["chess a"])["gpt2"][0]
    by_name = {one["label"]: one["score"] for one in answer}
    np.testing.assert_allclose([by_name[name] for name in TOPICS], own.numpy(), atol=1e-5)


def test_what_makes_no_sense_is_refused_by_name(tmp_path):
    """An option that is taken and does nothing, or a peer whose answers mean something else."""
    for option, message in (({"teacher_rule": "class"}, "several"), ({"score_table": "x"}, "one class of each")):
        with pytest.raises(ConfigError, match=message):
            TASKS[TASK]().check_transfer(MutualKDConfig(str(tmp_path), **option))
    with pytest.raises(ConfigError, match="granularity must be one of image, class, got 'pixel'"):
        TASKS[TASK](granularity="pixel")
    reader = PeerSpec(write_reader(tmp_path / "clip"))
    with pytest.raises(PeerError, match="only compare the classes"):
        Cohort.from_pretrained({"clip": reader}, TASK, label_names=LABELS)
    siglip = write_reader(tmp_path / "siglip", "siglip")
    Cohort.from_pretrained({"siglip": siglip}, TASK, label_names=LABELS)
    cohort = cohort_of(tmp_path, "vit")
    args = MutualKDConfig(str(tmp_path / "run"), report_to="none", disable_tqdm=True)
    with pytest.raises(ConfigError, match="several to each row"):
        MutualKDTrainer(cohort, args, rows_of(9)).predict(rows_of(9))
    with pytest.raises(ConfigError, match="several to each row"):
        MutualKDTrainer(cohort, args, rows_of(9), compute_metrics=lambda found: {})
    with pytest.raises(ConfigError, match="a score table holds one class"):
        score_peers(cohort, rows_of(9), tmp_path / "table")
    assert not (tmp_path / "table").exists()
    model = MAKERS["vit"]()
    model.config.problem_type = "single_label_classification"
    with pytest.raises(PeerError, match="was trained for single_label"):
        TASKS[TASK]().check_peer("vit", model, None)


@pytest.mark.parametrize("words", [["score", "--peers", "a=x"], ["scout", "--model", "x", "--candidates", "y"]])
def test_tables_are_refused_before_anything_is_loaded(words, tmp_path, capsys):
    """A refusal after an hour of checking rows and loading models, which begins with an empty folder."""
    out = tmp_path / "out"
    assert main([*words, "--task", TASK, "--dataset", "no such folder", "--out", str(out)]) == 2
    assert TASK in capsys.readouterr().err
    assert not out.exists()
