"""Metrics by name: what `evaluate` computes for every peer and the ensemble, and what is refused before training."""

import json

import numpy as np
import pytest
from edge_cases import RECIPE, Row
from sklearn.metrics import f1_score, roc_auc_score
from transformers.trainer_utils import EvalPrediction

from hf_mutual_kd import ConfigError, SemanticSegmentation
from hf_mutual_kd.training.named_metrics import NamedMetrics, named_metrics

# As the scripts on the Hub are: `evaluate` reads them from a folder of their name.
SCRIPT = """
import datasets
import evaluate
from sklearn.metrics import {function}


class Metric(evaluate.Metric):
    def _info(self):
        several = self.config_name == "multiclass"
        score = datasets.Sequence(datasets.Value("float")) if several else datasets.Value("float")
        features = datasets.Features({{"{inputs}": {kind}, "references": datasets.Value("int32")}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, {inputs}, references, {settings}):
        return {{"{name}": {function}(references, {inputs}, {given})}}
"""
F1 = {
    "name": "f1",
    "function": "f1_score",
    "inputs": "predictions",
    "kind": 'datasets.Value("int32")',
    "settings": "average='binary'",
    "given": "average=average",
}
ROC = {
    "name": "roc_auc",
    "function": "roc_auc_score",
    "inputs": "prediction_scores",
    "kind": "score",
    "settings": "multi_class='raise', labels=None",
    "given": "multi_class=multi_class, labels=labels",
}
BROKEN = F1 | {"name": "broken", "given": "average='no such'"}
MATRIX = {
    "name": "matrix",
    "function": "confusion_matrix",
    "inputs": "predictions",
    "kind": 'datasets.Value("int32")',
    "settings": "labels=None",
    "given": "labels=labels",
}


def write_scripts(folder, *scripts):
    for script in scripts:
        (folder / script["name"]).mkdir()
        (folder / script["name"] / f"{script['name']}.py").write_text(SCRIPT.format(**script))
    return [str(folder / script["name"]) for script in scripts]


@pytest.mark.parametrize("classes", [2, 3])
def test_metrics_are_those_of_their_scripts(classes, tmp_path):
    """f1 of class 1 alone among ten classes, or an area under the curve of guesses in place of probabilities."""
    metrics = NamedMetrics(write_scripts(tmp_path, F1, ROC), classes)
    assert metrics.keys == ["f1", "roc_auc"]
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(40, classes)), np.arange(40) % classes
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = metrics(EvalPrediction(logits, labels))
    average = "binary" if classes == 2 else "macro"
    area = roc_auc_score(labels, probs[:, 1] if classes == 2 else probs, multi_class="ovr")
    assert found == {
        "f1": pytest.approx(f1_score(labels, logits.argmax(1), average=average)),
        "roc_auc": pytest.approx(area, abs=1e-6),
    }
    logits[3] = np.nan
    assert np.isfinite(list(metrics(EvalPrediction(logits, labels)).values())).all(), "a broken peer ends the run"


def test_metrics_that_cannot_be_meant_are_refused(tmp_path, make_cohort):
    """Found out at the first evaluation, or code of the Hub that runs unasked."""
    broken, matrix = write_scripts(tmp_path, BROKEN, MATRIX)
    for name, says in (
        ("f1", "downloaded from the Hub and run.*--trust_remote_code"),
        (broken, "broken cannot be computed for 3 classes"),
        (matrix, "is no number, but matrix"),
        (str(tmp_path / "nowhere"), "nowhere is code"),
    ):
        with pytest.raises(ConfigError, match=says):
            NamedMetrics([name], 3)
    with pytest.raises(ConfigError, match="cannot be loaded.*without a network"):
        NamedMetrics(["no_such_metric_of_anybody"], 3, trust_remote_code=True)
    cohort = make_cohort("vit")
    shown = dict(cohort.task.words.shown)
    (accuracy,) = write_scripts(tmp_path, F1 | {"name": "accuracy"})
    with pytest.raises(ConfigError, match="accuracy is measured for image-classification as it is"):
        named_metrics(cohort, [accuracy])
    cohort.task = SemanticSegmentation()
    with pytest.raises(ConfigError, match="which are maps in semantic-segmentation: its own are mIoU"):
        named_metrics(cohort, [accuracy])
    assert make_cohort("vit").task.words.shown == shown


def test_a_recipe_measures_and_shows_them(entry):
    """Numbers that are computed and then in no table, or of the peers without the ensemble."""
    words = [*RECIPE, "--metrics", "{here}/f1", "{here}/roc_auc"]
    entry.check(Row("", words, make=lambda here: write_scripts(here, F1, ROC), code=0, writes=True))
    out = entry.here / "out"
    found = json.loads((out / "results.json").read_text())
    assert found["metrics"] == ["f1", "roc_auc"]
    for peer in (*found["peers"].values(), found["ensemble"]):
        for arm in ("start", "mutual"):
            assert set(peer["arms"][arm]["metrics"]) >= {"accuracy", "f1", "roc_auc"}
        assert set(peer["differences"]["start"]) >= {"f1", "roc_auc"}
    value = found["peers"]["vit"]["arms"]["mutual"]["metrics"]["f1"]
    card = (out / "vit" / "README.md").read_text()
    assert f"| f1 | {found['peers']['vit']['arms']['start']['metrics']['f1']:.3f} | {value:.3f} |" in card
    assert "| roc_auc, of the mean of all peers |" in card
    said = entry.here.with_name("here.stdout").read_text()
    assert f"{found['ensemble']['arms']['mutual']['metrics']['roc_auc']:.3f}" in said
    assert "roc_auc" in (out / "report" / "index.html").read_text()
