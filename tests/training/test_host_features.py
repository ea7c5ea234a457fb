"""What people who know `transformers.Trainer` expect: it works for every peer, or is refused with what to use."""

import json

import numpy as np
import pytest
import torch
from conftest import LABELS, make_rows
from test_trainer import config
from transformers import EarlyStoppingCallback, TrainingArguments

from hf_mutual_kd import Cohort, ConfigError, DataError, MutualKDTrainer, PeerError


def test_predictions_of_every_peer_and_of_the_ensemble(make_cohort, tmp_path, train_rows, eval_rows):
    """`predict` ended in a KeyError; logits of another row or class would be silently wrong."""
    cohort = make_cohort("vit", "cnx")
    trainer = MutualKDTrainer(cohort, config(tmp_path, max_steps=2), train_rows)
    trainer.train()
    found = trainer.predict(eval_rows)
    assert list(found.predictions) == ["vit", "cnx", "ensemble"]
    assert np.array_equal(found.label_ids, eval_rows["label"])
    for name in ("vit", "cnx"):
        right = (found.predictions[name].argmax(1) == found.label_ids).mean()
        assert found.metrics[f"test_{name}/accuracy"] == pytest.approx(right)
    right = (found.predictions["ensemble"].argmax(1) == found.label_ids).mean()
    assert found.metrics["test_cohort/ensemble_accuracy"] == pytest.approx(right)
    mean = torch.stack([torch.tensor(found.predictions[name]).softmax(1) for name in ("vit", "cnx")]).mean(0)
    assert found.predictions["ensemble"] == pytest.approx(mean.log().numpy(), abs=1e-5)
    bare = trainer.predict(eval_rows.remove_columns("label"))
    assert bare.label_ids is None
    assert "test_vit/agreement" in bare.metrics
    assert np.array_equal(bare.predictions["vit"], found.predictions["vit"])
    assert trainer.evaluations["test"].end is None, "what was measured of another data set would be the run's result"
    with pytest.raises(DataError, match="give test_dataset"):
        trainer.predict(None)


def test_metrics_of_ones_own_once_per_peer_and_for_the_ensemble(make_cohort, tmp_path, train_rows, eval_rows):
    """They were taken and never called."""
    called = []

    def compute(prediction):
        called.append(prediction.predictions.shape)
        return {"hits": (prediction.predictions.argmax(1) == prediction.label_ids).mean()}

    trainer = MutualKDTrainer(
        make_cohort("vit", "cnx"), config(tmp_path), train_rows, eval_rows, compute_metrics=compute
    )
    found = trainer.evaluate()
    assert called == [(len(eval_rows), len(LABELS))] * 3
    for name in ("vit", "cnx"):
        assert found[f"eval_{name}/hits"] == pytest.approx(found[f"eval_{name}/accuracy"])
    assert found["eval_cohort/ensemble_hits"] == pytest.approx(found["eval_cohort/ensemble_accuracy"])
    assert trainer.evaluations["eval"].end.metrics["vit"]["hits"] == found["eval_vit/hits"]
    trainer.compute_metrics = lambda prediction: {"matrix": [[1]]}
    with pytest.raises(ConfigError, match="must return numbers, got matrix="):
        trainer.evaluate()


def test_each_peer_is_selected_by_the_metric_that_is_asked_for(make_cohort, tmp_path, train_rows, eval_rows):
    """`metric_for_best_model` was ignored, while the card printed it."""
    settings = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 4, "load_best_model_at_end": True}
    args = config(tmp_path, metric_for_best_model="loss", **settings)
    trainer = MutualKDTrainer(make_cohort("vit", "cnx"), args, train_rows, eval_rows)
    trainer.train()
    losses = [entry for entry in trainer.state.log_history if "eval_vit/loss" in entry]
    start = trainer.evaluations["eval"].start
    for name in ("vit", "cnx"):
        seen = [entry[f"eval_{name}/loss"] for entry in losses] + ([start.metrics[name]["loss"]] if start else [])
        assert trainer.bests.values[name] == min(seen)
    assert trainer.state.best_metric == pytest.approx(sum(trainer.bests.values.values()) / 2)


REFUSED = {
    "plain arguments": (lambda f: {"args": TrainingArguments(str(f), report_to="none")}, "MutualKDConfig, which has"),
    "no arguments": (lambda f: {"args": None}, "must be a MutualKDConfig, got NoneType"),
    "a model": (lambda f: {"model": torch.nn.Linear(1, 1)}, "model must be a Cohort, got Linear"),
    "early stopping": (lambda f: {"callbacks": [EarlyStoppingCallback(1)]}, "early_stopping_patience=N"),
    "one peer's metric": (
        lambda f: {"args": config(f, metric_for_best_model="eval_vit/accuracy")},
        "own; give 'accuracy'",
    ),
    "unknown metric": (lambda f: {"args": config(f, metric_for_best_model="acuracy")}, "nearest: accuracy"),
    "collator": (lambda f: {"data_collator": list}, "data_collator is of no use to a cohort: .*`view`"),
    "processor": (lambda f: {"processing_class": object()}, r"PeerSpec\(ID, processor="),
    "model_init": (lambda f: {"model_init": object}, "hf-mutual-kd compare"),
    "loss": (lambda f: {"compute_loss_func": print}, r"objective=Objective\(…\)"),
    "preprocessing": (lambda f: {"preprocess_logits_for_metrics": print}, "compute_metrics gets the logits"),
    "noise": (lambda f: {"args": config(f, neftune_noise_alpha=5.0)}, "neftune_noise_alpha=5.0: it is noise on token"),
    "lengths": (lambda f: {"args": config(f, train_sampling_strategy="group_by_length")}, "rows are not sorted by"),
    "tokens": (lambda f: {"args": config(f, include_num_input_tokens_seen="all")}, "there are no tokens to count"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_cohort_does_otherwise_is_refused_with_what_to_use(case, make_cohort, tmp_path, train_rows):
    """An AttributeError in the middle of a run, or an option that does nothing, is found out after hours."""
    make, message = REFUSED[case]
    settings = {"model": make_cohort("vit"), "args": config(tmp_path), "train_dataset": train_rows} | make(tmp_path)
    with pytest.raises(ConfigError, match=message):
        MutualKDTrainer(**settings)


def test_what_is_called_later_is_refused_alike(make_cohort, tmp_path):
    """A callback can be added after the trainer was made."""
    trainer = MutualKDTrainer(make_cohort("vit"), config(tmp_path))
    with pytest.raises(ConfigError, match="early_stopping_patience"):
        trainer.add_callback(EarlyStoppingCallback)
    with pytest.raises(ConfigError, match="hf-mutual-kd compare"):
        trainer.hyperparameter_search(n_trials=2)
    with pytest.raises(ConfigError, match="a push is answered when it is done"):
        trainer.push_to_hub("a message", False)
    with pytest.raises(TypeError, match="has no argument 'data_colator'.*nearest: data_collator"):
        MutualKDTrainer(make_cohort("vit"), config(tmp_path), data_colator=list)


def test_one_model_in_the_place_of_a_mapping():
    """`from_pretrained` takes one name everywhere else."""
    with pytest.raises(PeerError, match=r"google/vit is no folder .*list or mapping, such as \['google/vit'\]"):
        Cohort.from_pretrained("google/vit")
    with pytest.raises(PeerError, match="a mapping of names to models, a list of them or the folder of a run, got 3"):
        Cohort.from_pretrained(3)


def test_evaluation_sets_by_name(make_cohort, tmp_path, train_rows):
    """Each has curves and figures of its own on the page; a loader brings batches that no peer can read."""
    sets = {"plain": make_rows(9, 1), "more <b>": make_rows(12, 2)}
    steps = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "pre_flight": False}
    trainer = MutualKDTrainer(make_cohort("vit", "cnx"), config(tmp_path, **steps), train_rows, sets)
    trainer.measure_start(metric_key_prefix="eval_plain")
    trainer.train()
    found = trainer.evaluate()
    assert found["eval_more <b>_cohort/samples"] == 12
    trainer.create_model_card()
    page = (tmp_path / "report" / "index.html").read_text()
    for name in ("vit", "cnx"):
        for shown in ("plain", "more &lt;b&gt;"):
            assert f"{name}, {shown}, accuracy, % on the validation split" in page
    assert "on every evaluation set; plain chose the weights to keep" in page
    assert "<b>" not in page
    assert (tmp_path / "vit" / "figures" / "training.png").is_file()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["peers"]["vit"]["arms"]["mutual"]["metrics"]["accuracy"] == found["eval_plain_vit/accuracy"]
    with pytest.raises(DataError, match=r"eval_dataset is a DataLoader; give its data set"):
        trainer.evaluate(torch.utils.data.DataLoader(make_rows(9, 1)))
