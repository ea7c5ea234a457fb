"""Data sets as they come: the trainer reads columns and names, refuses before training, and takes others later."""

import pytest
from conftest import LABELS, make_rows
from datasets import ClassLabel, Value
from test_trainer import config

from hf_mutual_kd import Cohort, ConfigError, DataError, LabelError, MutualKDTrainer
from hf_mutual_kd.scoring.score_table import plain_rows


def in_another_order(rows):
    """The same classes, numbered the other way round."""
    last = len(LABELS) - 1
    turned = rows.cast_column("label", Value("int64")).map(lambda row: {"label": last - row["label"]})
    return turned.cast_column("label", ClassLabel(names=LABELS[::-1]))


def test_classes_are_aligned_by_the_data_sets_names(make_peers, tmp_path, train_rows, eval_rows):
    """A data set whose names stand in another order than the peers' was trained on wrong classes, without a word."""
    usual, turned = Cohort(make_peers("vit", "cnx")), Cohort(make_peers("vit", "cnx"))
    expected = MutualKDTrainer(usual, config(tmp_path), train_rows, eval_rows).evaluate()
    trainer = MutualKDTrainer(turned, config(tmp_path), in_another_order(train_rows), in_another_order(eval_rows))
    found = trainer.evaluate()
    assert turned.label_names == LABELS[::-1]
    for name in ("eval_vit/loss", "eval_cnx/accuracy"):
        assert found[name] == pytest.approx(expected[name])
    with pytest.raises(LabelError, match=r"train_dataset differ in their label names \(class 0: 'circle', 'stripe'"):
        MutualKDTrainer(Cohort(make_peers("vit"), label_names=LABELS), config(tmp_path), in_another_order(train_rows))


def test_a_label_column_of_another_name_trains_with_labels(make_cohort, tmp_path, train_rows):
    """`labels` in the place of `label` was a training without any label."""
    renamed = train_rows.rename_columns({"image": "img", "label": "fine_label"})
    found = MutualKDTrainer(make_cohort("vit"), config(tmp_path), renamed)
    assert plain_rows(found.train_dataset).column_names == ["image", "label"]
    numbers = renamed.cast_column("fine_label", Value("int64")).rename_column("fine_label", "labels")
    with pytest.raises(DataError, match=r"no column label, only: img \(Image\), labels \(int64\)"):
        MutualKDTrainer(make_cohort("vit"), config(tmp_path), numbers)
    given = MutualKDTrainer(make_cohort("vit"), config(tmp_path, input_column="img", label_column="labels"), numbers)
    assert plain_rows(given.train_dataset)[4]["label"] == 1


@pytest.mark.parametrize("where", ["train_dataset", "eval_dataset"])
def test_labels_beyond_the_classes_are_refused_before_training(make_cohort, tmp_path, train_rows, where):
    """One 99 among 0 ... 2 ended in an index error in the middle of a run, or never."""
    numbers = train_rows.cast_column("label", Value("int64"))
    wrong = numbers.map(lambda row, index: {"label": 99 if index == 40 else row["label"]}, with_indices=True)
    with pytest.raises(LabelError, match=f"{where} row 40: label 99 is out of range: 0 to 2"):
        MutualKDTrainer(make_cohort("vit"), config(tmp_path), **({"train_dataset": numbers} | {where: wrong}))


def test_bools_leave_a_role_table(make_peers, tmp_path):
    """They trained, then crashed in the role table at the first checkpoint and lost it with the history."""
    rows = make_rows(16).cast_column("label", Value("int64"))
    truths = [label == 1 for label in rows["label"]]
    trainer = MutualKDTrainer(
        Cohort(make_peers("vit", "cnx")),
        config(tmp_path, max_steps=2, save_strategy="steps", save_steps=1),
        rows.remove_columns("label").add_column("label", truths),
    )
    trainer.train()
    assert (tmp_path / "roles.parquet").is_file()
    assert set(plain_rows(trainer.train_dataset)["label"]) == {0, 1}


def test_data_sets_that_are_set_later(make_cohort, tmp_path, train_rows, eval_rows):
    """Both are plain attributes of a Trainer: what they hold lacked its `sample_id`."""
    trainer = MutualKDTrainer(make_cohort("vit", "cnx"), config(tmp_path, max_steps=2))
    hidden = train_rows.map(lambda row, index: {"label": -1 if index % 2 else row["label"]}, with_indices=True)
    trainer.train_dataset = train_rows
    assert not trainer.objective.unlabelled_rows
    trainer.train_dataset = hidden
    assert trainer.objective.unlabelled_rows
    assert trainer.train_dataset[3]["sample_id"] == 3
    assert trainer.cohort.objective is trainer.objective
    trainer.eval_dataset = {"shapes": eval_rows}
    trainer.train()
    assert trainer.evaluate()["eval_shapes_cohort/samples"] == len(eval_rows)
    bound = MutualKDTrainer(make_cohort("vit", "cnx"), config(tmp_path, augment=False, cache_frozen=True), train_rows)
    bound.train()
    with pytest.raises(ConfigError, match="cache_frozen belongs to the rows that the trainer was made with"):
        bound.train_dataset = eval_rows
