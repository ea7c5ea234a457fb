"""The trainer against what users rely on: equal paths for equal settings, exact resume, peers that stay apart."""

import copy
import json
import logging

import pytest
import torch
from conftest import LABELS, make_rows, tiny_processor, tiny_vit
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_mutual_kd import (
    Cohort,
    ConfigError,
    DataError,
    LoadedPeer,
    MutualKDConfig,
    MutualKDTrainer,
    PeerSpec,
    ResumeError,
    RoleTable,
    RoleTaggingCollator,
    SharedView,
    identified,
    make_task,
)

QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "pre_flight": False, "logging_steps": 2}


def config(folder, **changes) -> MutualKDConfig:
    settings = {"max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "save_strategy": "no"}
    return MutualKDConfig(str(folder), **QUIET | settings | changes)


def weights(cohort: Cohort) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in cohort.peers.state_dict().items()}


def assert_equal(left, right, tolerance=0.0):
    assert left.keys() == right.keys()
    for key, value in left.items():
        torch.testing.assert_close(
            value, right[key], rtol=tolerance, atol=tolerance, msg=lambda m, key=key: f"{key}: {m}"
        )


def train(cohort, folder, train_rows, resume=None, **changes):
    trainer = MutualKDTrainer(
        cohort, config(folder, **changes), train_dataset=train_rows, eval_dataset=make_rows(9, 1)
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


class PlainCollator:
    """What a user without this package would write: the same view and processor, for one model."""

    def __init__(self, seed):
        self.tagging = RoleTaggingCollator({"vit": tiny_processor()}, SharedView(seed=seed))

    def set_epoch(self, epoch):
        self.tagging.set_epoch(epoch)

    def __call__(self, rows):
        batch = self.tagging(rows)
        return {"pixel_values": batch["peer_inputs"]["vit"]["pixel_values"], "labels": batch["labels"]}


def test_one_peer_equals_the_plain_trainer_step_for_step(tmp_path, train_rows):
    """A cohort of one that drifts from plain fine-tuning would make every comparison with it unfair."""
    torch.manual_seed(3)
    model = tiny_vit(dropout=0.1)
    peers = {"vit": LoadedPeer(copy.deepcopy(model), tiny_processor(), PeerSpec())}
    cohort = Cohort(peers, label_names=LABELS, task=make_task("image-classification", crop_min_area=0.6))
    train(cohort, tmp_path / "a", train_rows, retain=False)
    collator = PlainCollator(seed=42)
    arguments = {key: QUIET[key] for key in ("use_cpu", "report_to", "disable_tqdm", "logging_steps")}
    plain = Trainer(
        model,
        TrainingArguments(
            str(tmp_path / "b"),
            max_steps=6,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            save_strategy="no",
            remove_unused_columns=False,
            **arguments,
        ),
        data_collator=collator,
        train_dataset=identified(train_rows),
    )
    plain.train()
    assert_equal(cohort.peers["vit"].state_dict(), model.state_dict())


def test_labels_are_smoothed(tmp_path, make_cohort, train_rows):
    """The Trainer looks for the configuration of one model where labels are smoothed, and a cohort has none."""
    settings = {"learning_rate": 0.0, "transfer_weight": 0.0, "logging_steps": 6}
    plain, smoothed, all_smoothed = (
        train(make_cohort("vit"), tmp_path / str(share), train_rows, label_smoothing_factor=share, **settings)
        for share in (0.0, 0.1, 0.2)
    )
    losses = [one.state.log_history[0]["vit/supervised"] for one in (plain, smoothed, all_smoothed)]
    assert losses[1] != pytest.approx(losses[0], abs=1e-5)
    # The loss is linear in the share.
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], abs=1e-5)


def test_transfer_weight_zero_equals_training_each_peer_alone(tmp_path, make_cohort, train_rows):
    """A control whose peers touch each other (clipping, optimizer, order) would not be one."""
    together = make_cohort("vit", "cnn")
    train(together, tmp_path / "both", train_rows, transfer_weight=0.0)
    for name in ("vit", "cnn"):
        alone = make_cohort(name)
        train(alone, tmp_path / name, train_rows, transfer_weight=0.0)
        assert_equal(together.peers[name].state_dict(), alone.peers[name].state_dict())


def test_accumulating_eight_batches_equals_one_batch_of_eight_times_the_size(tmp_path, make_cohort, train_rows):
    """Means of means differ from the mean when batches hold different numbers of labelled rows."""
    rows = train_rows.map(lambda row, index: {"label": -1 if index % 5 == 0 else row["label"]}, with_indices=True)
    big, small = make_cohort("vit", "cnx"), make_cohort("vit", "cnx")
    # Adam would blow up rounding where a gradient is zero but for it.
    settings = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1}
    a = train(big, tmp_path / "a", rows, per_device_train_batch_size=24, **settings)
    b = train(small, tmp_path / "b", rows, per_device_train_batch_size=3, gradient_accumulation_steps=8, **settings)
    assert_equal(weights(big), weights(small), 1e-6)
    first, second = a.state.log_history[0], b.state.log_history[0]
    assert first["loss"] == pytest.approx(second["loss"], abs=1e-5)
    assert first["cnx/transfer"] == pytest.approx(second["cnx/transfer"], abs=1e-5)


def few_labels(rows, every=6):
    return rows.map(lambda row, index: {"label": row["label"] if index % every == 0 else -1}, with_indices=True)


def test_a_share_of_labelled_rows_is_in_every_step_and_goes_on_where_it_stopped(tmp_path, make_cohort, train_rows):
    """A resumed epoch that begins its draws anew shows rows twice; a control that runs all rows costs four times."""
    settings = {"labelled_share": 0.25, "save_strategy": "steps", "save_steps": 3, "max_steps": 8}
    whole, first = make_cohort("vit", "cnn"), make_cohort("vit", "cnn")
    train(whole, tmp_path / "a", few_labels(train_rows), lr_scheduler_type="constant", **settings)
    settings["max_steps"] = 3
    train(first, tmp_path / "b", few_labels(train_rows), lr_scheduler_type="constant", **settings)
    settings["max_steps"] = 8
    again = make_cohort("vit", "cnn")
    train(again, tmp_path / "b", few_labels(train_rows), True, lr_scheduler_type="constant", **settings)
    assert_equal(weights(whole), weights(again))
    trainer = MutualKDTrainer(again, config(tmp_path / "c", **settings), train_dataset=few_labels(train_rows))
    batches = list(trainer.get_train_dataloader())
    assert [int((batch["labels"] >= 0).sum()) for batch in batches] == [2] * 7
    trainer.data_collator.labelled_only = True
    alone = list(trainer.get_train_dataloader())
    for batch, labelled in zip(batches, alone, strict=True):
        kept = batch["labels"] >= 0
        assert labelled["sample_ids"].tolist() == batch["sample_ids"][kept].tolist()


def test_a_share_of_labels_that_nobody_can_know_is_refused(tmp_path, make_cohort, train_rows):
    """A share of rows whose labels are unknown would be drawn from all of them, without a word."""
    for rows, words in ((list(train_rows), "which_labelled"), (train_rows, "rows without")):
        with pytest.raises((ConfigError, DataError), match=words):
            MutualKDTrainer(make_cohort("vit"), config(tmp_path, labelled_share=0.25), train_dataset=rows)


@pytest.mark.parametrize("save_at", [2, 3], ids=["within an epoch", "at its end"])
def test_resume_is_exact(tmp_path, make_cohort, train_rows, save_at):
    """A resumed run that differs in one bit has lost optimizer, RNG, epoch, role or best-checkpoint state."""
    settings = {
        "per_device_train_batch_size": 16,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": save_at,
        "load_best_model_at_end": True,
        "logging_steps": 5,
        "max_steps": 7,
    }
    whole = make_cohort("vit", "cnn")
    straight = train(whole, tmp_path / "a", train_rows, **settings)
    first = make_cohort("vit", "cnn")

    class Stop(Exception):
        pass

    broken = MutualKDTrainer(
        first, config(tmp_path / "b", **settings), train_dataset=train_rows, eval_dataset=make_rows(9, 1)
    )
    step = broken.training_step

    def interrupted(*args, **kwargs):
        if broken.state.global_step == save_at + 1:
            raise Stop
        return step(*args, **kwargs)

    broken.training_step = interrupted
    with pytest.raises(Stop):
        broken.train()
    again = make_cohort("vit", "cnn")
    resumed = train(again, tmp_path / "b", train_rows, resume=True, **settings)
    assert_equal(weights(whole), weights(again))
    for name in ("roles.parquet", "vit/model.safetensors", "cnn/model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    timed = ("runtime", "per_second", "train_loss")
    histories = [
        [{k: v for k, v in entry.items() if not k.endswith(timed)} for entry in trainer.state.log_history]
        for trainer in (straight, resumed)
    ]
    assert histories[0] == histories[1]
    assert straight.bests.state() == resumed.bests.state()


def test_a_checkpoint_names_no_place_that_it_has_left(tmp_path, make_cohort, train_rows):
    """The host's best checkpoint, looked for where this one was written, is told as lost at every resume."""
    both = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    chosen = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "learning_rate": 1e-3}
    cohort = make_cohort("vit")
    cohort.model_of("vit").classifier.bias.data[0] = 9.0  # Whatever it starts with, a step makes it better.
    train(cohort, tmp_path, train_rows, **both, **chosen)
    state = json.loads((tmp_path / "checkpoint-1" / "trainer_state.json").read_text())
    assert (state["best_global_step"], state["best_model_checkpoint"]) == (1, None)


def test_half_written_checkpoint_is_never_picked_up(tmp_path, make_cohort, train_rows):
    """A process killed while saving must not leave a folder that the next start takes for a checkpoint."""
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trainer = MutualKDTrainer(make_cohort("vit"), config(tmp_path, **settings), train_dataset=train_rows)
    save = trainer._save_rng_state

    def killed(folder):
        if trainer.state.global_step == 4:
            raise KeyboardInterrupt
        save(folder)

    trainer._save_rng_state = killed
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = train(make_cohort("vit"), tmp_path, train_rows, resume=True, **settings)
    assert resumed.state.global_step == 4
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


def test_resume_refuses_another_cohort(tmp_path, make_cohort, train_rows):
    """Weights of one peer in another's place would train on without a word."""
    train(make_cohort("vit", "cnn"), tmp_path, train_rows, save_strategy="steps", save_steps=3)
    with pytest.raises(ResumeError, match="other peers"):
        train(make_cohort("vit", "cnx"), tmp_path, train_rows, resume=True)
    changed = make_cohort("vit", "cnn")
    with torch.no_grad():
        next(changed.peers["vit"].parameters()).add_(1)
    with pytest.raises(ResumeError, match="other starting weights"):
        train(changed, tmp_path, train_rows, resume=True)


def test_learning_rates_and_frozen_peers_are_per_peer(tmp_path, make_cohort, train_rows):
    """One group for all would train a peer at another's rate."""
    cohort = make_cohort("vit", "cnn", "cnx")
    settings = {"vit": {"weight_decay": 0.3}, "cnn": {"frozen": True}, "cnx": {"learning_rate": 0.5}}
    cohort = Cohort(
        {
            name: LoadedPeer(cohort.peers[name], cohort.processors[name], PeerSpec(name, **settings[name]))
            for name in settings
        },
        label_names=LABELS,
    )
    before = weights(cohort)
    trainer = train(cohort, tmp_path, train_rows, batch_norm="freeze")
    after = weights(cohort)
    frozen = {key for key in before if key.startswith("cnn.")}
    assert all(torch.equal(before[key], after[key]) for key in frozen)
    assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith("vit."))
    rates = {group["initial_lr"] for group in trainer.optimizer.param_groups}
    assert rates == {1e-2, 0.5}
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.0, 0.3}
    cohort.freeze(cohort.names)
    with pytest.raises(ConfigError, match="every peer is frozen"):
        train(cohort, tmp_path / "b", train_rows)


def test_broken_peer_does_not_harm_the_others(tmp_path, make_cohort, train_rows, caplog):
    """NaN in one peer used to reach the others through 0 * NaN, or by skipping the common step."""
    cohort = make_cohort("vit", "cnx", "cnn")

    class Breaks(TrainerCallback):
        """As an overflow does on the way; a peer that is broken before is refused."""

        def on_train_begin(self, args, state, control, **kwargs):
            with torch.no_grad():
                cohort.peers["cnx"].classifier.weight[0, 0] = float("nan")

    trainer = MutualKDTrainer(cohort, config(tmp_path), train_dataset=train_rows, callbacks=[Breaks()])
    trainer.train()
    after = weights(cohort)
    assert all(value.isfinite().all() for key, value in after.items() if not key.startswith("cnx."))
    assert trainer.record.role_table.counts()["cnx"] == 0
    assert trainer.record.role_table.counts()["vit"] > 0
    assert any(entry.get("cnx/not_finite") for entry in trainer.state.log_history)
    assert all(
        entry["vit/supervised"] == entry["vit/supervised"] for entry in trainer.state.log_history if "loss" in entry
    )


def test_clipping_keeps_peers_apart(make_cohort, tmp_path, train_rows):
    """A peer with large gradients used to shrink everybody's update."""
    both, alone = make_cohort("vit", "cnx"), make_cohort("vit")
    settings = {"max_grad_norm": 1e-3, "transfer_weight": 0.0, "optim": "sgd"}
    both.specs["cnx"] = PeerSpec("cnx", learning_rate=50.0)
    train(both, tmp_path / "a", train_rows, **settings)
    train(alone, tmp_path / "b", train_rows, **settings)
    assert_equal(both.peers["vit"].state_dict(), alone.peers["vit"].state_dict())


def test_best_weights_are_kept_per_peer(tmp_path, make_cohort, train_rows):
    """One common best step would return some peers worse than they have been."""
    cohort = make_cohort("vit", "cnx")
    cohort.specs["cnx"] = PeerSpec("cnx", learning_rate=3.0)
    trainer = train(
        cohort, tmp_path, train_rows, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True, max_steps=8
    )
    history = [entry for entry in trainer.state.log_history if "eval_vit/accuracy" in entry]
    final = trainer.evaluate()
    start = trainer.evaluations["eval"].start.metrics
    for name in ("vit", "cnx"):
        candidates = [start[name]["accuracy"], *(entry[f"eval_{name}/accuracy"] for entry in history)]
        assert final[f"eval_{name}/accuracy"] == max(candidates)
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        saved = AutoModelForImageClassification.from_pretrained(tmp_path / name)
        assert_equal(saved.state_dict(), cohort.peers[name].state_dict())
        assert saved.config.id2label == dict(enumerate(LABELS))
        AutoImageProcessor.from_pretrained(tmp_path / name)


def test_the_folder_holds_what_was_measured(tmp_path, make_cohort, train_rows):
    """A card with the numbers of other weights than those beside it is a false claim."""
    cohort = make_cohort("vit", "cnx")
    trainer = train(cohort, tmp_path, train_rows, eval_strategy="steps", eval_steps=1, learning_rate=0.5)
    assert trainer.bests.steps == {}
    for name in ("vit", "cnx"):
        saved = type(cohort.peers[name]).from_pretrained(tmp_path / name)
        assert_equal(saved.state_dict(), cohort.peers[name].state_dict())


def test_stopped_peer_rests_while_others_learn(tmp_path, make_cohort, train_rows):
    """Momentum and weight decay would move a stopped peer if its gradients were merely zero."""
    cohort = make_cohort("vit", "cnn")
    kept = {}
    trainer = MutualKDTrainer(
        cohort,
        config(tmp_path, eval_strategy="steps", eval_steps=1, early_stopping_patience=1, weight_decay=0.1),
        train_dataset=train_rows,
        eval_dataset=make_rows(9, 1),
    )
    update = trainer.bests.update

    def stop_cnn(values, step):
        improved = update({"vit": float(step), "cnn": 0.5}, step)
        if step == 2:
            kept.update({key: value.clone() for key, value in cohort.peers["cnn"].state_dict().items()})
        return improved

    trainer.bests.update = stop_cnn
    before = weights(cohort)
    trainer.train()
    assert trainer.bests.stopped == ["cnn"]
    assert trainer.state.global_step == 6
    assert_equal(kept, cohort.peers["cnn"].state_dict())
    assert not torch.equal(before["vit.classifier.weight"], weights(cohort)["vit.classifier.weight"])


def test_roles_of_a_table_are_obeyed(tmp_path, make_cohort, train_rows):
    """A table that is loaded but not used would change nothing, and nobody would notice."""
    table = RoleTable(["vit", "cnx"])
    table.record(torch.arange(48), torch.ones(48, dtype=torch.long), labels=torch.zeros(48, dtype=torch.long))
    table.save(tmp_path / "table.parquet")
    trainer = train(
        make_cohort("vit", "cnx"), tmp_path / "run", train_rows, role_table=str(tmp_path / "table.parquet")
    )
    counts = trainer.record.role_table.counts()
    assert (counts["vit"], counts["cnx"]) == (0, 48)
    assert RoleTable.load(tmp_path / "run" / "roles.parquet").counts() == counts


def test_cached_starts_equal_live_copies(tmp_path, make_cohort, train_rows):
    """A cache that mixes up samples or peers would hold every student to the wrong start."""
    live, cached = make_cohort("vit", "cnx"), make_cohort("vit", "cnx")
    a = train(live, tmp_path / "a", train_rows, augment=False, cache_frozen=False, teacher_source="frozen")
    b = train(cached, tmp_path / "b", train_rows, augment=False, teacher_source="frozen")
    assert a.start_cache is None
    assert b.start_cache is not None
    assert cached.starts is None
    assert_equal(weights(live), weights(cached), 1e-5)
    with pytest.raises(ConfigError, match="augment"):
        train(make_cohort("vit", "cnx"), tmp_path / "c", train_rows, cache_frozen=True)


def test_rows_without_labels_learn_from_the_frozen_mean(tmp_path, make_cohort, train_rows):
    """Unlabelled rows that silently drop out, or enter the cross-entropy as class -1, look like a normal run."""
    rows = train_rows.map(lambda row, index: {"label": -1 if index >= 24 else row["label"]}, with_indices=True)
    trainer = train(make_cohort("vit", "cnx"), tmp_path, rows)
    counts = trainer.record.role_table.counts()
    assert counts["mean"] == 24
    assert counts["vit"] + counts["cnx"] + counts["nobody"] == 24
    only = train(make_cohort("vit", "cnx"), tmp_path / "b", rows.remove_columns("label"), labels=False)
    assert only.record.role_table.counts()["mean"] == 48
    assert only.state.log_history[0]["vit/transfer"] > 0


def test_streamed_rows_train_as_stored_ones(tmp_path, make_cohort, train_rows):
    """A stream without stable sample ids would give roles that belong to no sample."""
    stream = train_rows.to_iterable_dataset()
    trainer = train(make_cohort("vit", "cnx"), tmp_path, stream, max_steps=12, per_device_train_batch_size=8)
    assert trainer.state.global_step == 12
    assert len(trainer.record.role_table) == 48


def test_low_precision_and_checkpointing_run(tmp_path, make_cohort, train_rows):
    """Options that are accepted but break the forward fail only on users' machines."""
    train(make_cohort("vit", "cnn"), tmp_path / "bf16", train_rows, bf16=True, max_steps=2)
    plain, whole = make_cohort("vit", "cnn", "cnx"), make_cohort("vit", "cnn", "cnx")
    train(plain, tmp_path / "a", train_rows, max_steps=3)
    train(whole, tmp_path / "b", train_rows, max_steps=3, peer_checkpointing=True)
    assert_equal(weights(plain), weights(whole), 1e-6)


@pytest.mark.slow
def test_compiled_cohort_equals_the_plain_one(tmp_path, make_cohort, train_rows):
    """A graph that is specialised on the first batch's roles would teach wrongly on the second."""
    plain, compiled = make_cohort("vit", "cnx"), make_cohort("vit", "cnx")
    train(plain, tmp_path / "a", train_rows, max_steps=4, optim="sgd")
    train(compiled, tmp_path / "b", train_rows, max_steps=4, optim="sgd", torch_compile=True)
    assert_equal(weights(plain), weights(compiled), 1e-6)


def test_transfer_weight_rises_over_the_warm_up(tmp_path, make_cohort, train_rows):
    """A warm-up that never ends, or never starts, changes results without any error."""
    seen = []
    trainer = MutualKDTrainer(
        make_cohort("vit", "cnx"),
        config(tmp_path, transfer_warmup_steps=4, transfer_weight=2.0),
        train_dataset=train_rows,
    )
    loss = trainer.compute_loss

    def watched(*args, **kwargs):
        seen.append(trainer._transfer_weight().item())
        return loss(*args, **kwargs)

    trainer.compute_loss = watched
    trainer.train()
    assert seen == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_unreadable_images_are_passed_over_in_evaluations(tmp_path, make_cohort, train_rows):
    """Processes gather their batches by place: one that drops a sample would shift, or hang, all others."""
    rows = make_rows(12, 1)
    images = rows["image"][:]
    images[5] = {"bytes": b"no image", "path": None}
    broken = Dataset.from_dict({"image": images, "label": rows["label"][:]}, features=rows.features)
    trainer = MutualKDTrainer(make_cohort("vit"), config(tmp_path, on_bad_row="skip"), train_dataset=train_rows)
    metrics = trainer.evaluate(broken)
    kept = trainer.evaluate(broken.select([*range(5), *range(6, 12)]))
    assert metrics["eval_cohort/samples"] == 11
    assert metrics["eval_vit/loss"] == pytest.approx(kept["eval_vit/loss"])


def test_flips_count_against_the_start(tmp_path, make_cohort, train_rows):
    """Accuracy may stay while many samples change sides."""
    trainer = MutualKDTrainer(make_cohort("vit", "cnx"), config(tmp_path, max_steps=20), train_dataset=train_rows)
    rows = make_rows(30, 5)
    start = trainer.measure_start(rows, "test")
    trainer.train()
    end = trainer.evaluate(rows, metric_key_prefix="test")
    for name in ("vit", "cnx"):
        gain = end[f"test_{name}/positive_flips"] - end[f"test_{name}/negative_flips"]
        assert gain == pytest.approx(end[f"test_{name}/accuracy"] - start[name]["accuracy"])
    assert trainer.state.log_history[-1]["test_cohort/samples"] == 30


def test_flips_count_against_the_start_in_every_kind_of_evaluation(tmp_path, make_cohort, train_rows):
    """Several evaluation sets, or a second call of `train`, must not lose or move what flips are counted against."""
    sets = {"shapes": make_rows(9, 1), "more": make_rows(9, 2)}
    args = config(tmp_path, pre_flight=True, eval_strategy="steps", eval_steps=3)
    trainer = MutualKDTrainer(make_cohort("vit", "cnx"), args, train_dataset=train_rows, eval_dataset=sets)
    trainer.train()
    assert any("eval_shapes_vit/positive_flips" in entry for entry in trainer.state.log_history)
    start = copy.deepcopy(trainer.evaluations["eval_shapes"].start.metrics)
    trainer.train()
    assert trainer.evaluations["eval_shapes"].start.metrics == start
    with pytest.raises(ConfigError, match="'test' was not measured before and after"):
        trainer.arm("mutual", "test", 0.0)


def test_skipped_images_are_reported(tmp_path, make_cohort, train_rows, caplog, monkeypatch):
    """Rows that vanish in silence may be half of the data."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    images = train_rows["image"][:]
    images[3] = {"bytes": b"no image", "path": None}
    rows = Dataset.from_dict({"image": images, "label": train_rows["label"][:]}, features=train_rows.features)
    train(make_cohort("vit"), tmp_path, rows, on_bad_row="skip")
    assert "left out of batches, 1 in all" in caplog.text


def test_any_negative_label_is_none(tmp_path, make_cohort, train_rows):
    """-100 is what the ecosystem writes for rows without a label."""
    labels = [-100, *train_rows["label"][1:]]
    rows = train_rows.remove_columns("label").add_column("label", labels)
    trainer = train(make_cohort("vit", "cnx"), tmp_path, rows)
    assert trainer.state.global_step == 6


def test_records_of_an_earlier_training_are_replaced(tmp_path, make_cohort, train_rows):
    """A card with the numbers and the base models of yesterday's run in the same folder."""
    for steps, source in ((4, "ada/old"), (2, "ada/new")):
        cohort = make_cohort("vit")
        cohort.specs["vit"] = PeerSpec(source)
        trainer = train(cohort, tmp_path, train_rows, max_steps=steps, pre_flight=True)
        trainer.evaluate()
        trainer.create_model_card()
    assert json.loads((tmp_path / "results.json").read_text())["steps"] == 2
    assert json.loads((tmp_path / "cohort.json").read_text())["peers"]["vit"]["source"] == "ada/new"


def test_mistakes_are_refused_before_training(tmp_path, make_cohort, train_rows):
    """Errors after hours of training cost more than errors at the start."""
    with pytest.raises(ConfigError, match="Cohort"):
        MutualKDTrainer(tiny_vit(), config(tmp_path))
    with pytest.raises(DataError, match="train_dataset"):
        MutualKDTrainer(make_cohort("vit"), config(tmp_path)).train()
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(ResumeError, match="no checkpoint of a cohort"):
        train(make_cohort("vit"), tmp_path, train_rows, resume=True)
