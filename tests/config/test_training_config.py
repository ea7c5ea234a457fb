"""Options and configuration: every rule refuses with its name and the value got."""

import dataclasses
import json
import typing

import pytest

from hf_mutual_kd import (
    ConfigError,
    MutualKDConfig,
    PeerSpec,
    RecipeOptions,
    SegmentationOptions,
    TransferOptions,
    make_task,
)
from hf_mutual_kd.config.options import PRESETS
from hf_mutual_kd.config.rules import choices_of
from hf_mutual_kd.experiments.launch import WAYS

CPU = {"use_cpu": True, "report_to": "none"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": 0}, ["temperature", "greater than 0", "0"]),
        ({"temperature": float("nan")}, ["temperature", "nan"]),
        ({"temperature": float("inf")}, ["temperature", "inf"]),
        ({"transfer_weight": -0.5}, ["transfer_weight", "0 or more", "-0.5"]),
        ({"transfer_weight": float("inf")}, ["transfer_weight", "inf"]),
        ({"preset": "paper"}, ["preset", "default, reference", "'paper'"]),
        ({"teacher_rule": "worst"}, ["teacher_rule", "best, mean", "'worst'"]),
        ({"teacher_source": "past"}, ["teacher_source", "live, frozen, ema", "'past'"]),
        ({"detach": "student"}, ["detach", "teacher, none"]),
        ({"role_score": "luck"}, ["role_score", "margin, confidence, loss"]),
        ({"batch_norm": "off"}, ["batch_norm", "train, freeze"]),
        ({"on_bad_row": "ignore"}, ["on_bad_row", "raise, skip"]),
        ({"transfer_warmup_steps": -1}, ["transfer_warmup_steps", "-1"]),
        ({"early_stopping_patience": 0}, ["early_stopping_patience", "1 or more"]),
        ({"labels": False, "teacher_rule": "best"}, ["needs labels", "confidence"]),
    ],
)
def test_rules_refuse_with_name_and_value(changes, words):
    """A value out of range that trains anyway costs a run."""
    with pytest.raises(ConfigError) as error:
        TransferOptions(**changes).resolved()
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_fills_only_what_is_unset(preset):
    """A preset that overrides what the user typed runs something else than was asked for."""
    options = TransferOptions(preset=preset, teacher_source="frozen")
    made = options.resolved()
    expected = PRESETS[preset] | {"teacher_source": "frozen"}
    assert {name: getattr(made, name) for name in expected} == expected
    assert made.resolved() == made


def test_options_stay_as_they_were_given():
    """A preset that was written into the options outlives it: the next preset would fill nothing, in silence."""
    options = TransferOptions(teacher_source="frozen")
    options.resolved()
    assert options == TransferOptions(teacher_source="frozen")
    other = dataclasses.replace(options, preset="reference").resolved()
    assert (other.detach, other.retain, other.teacher_source) == ("none", False, "frozen")


def test_options_that_are_no_more_say_what_took_their_place():
    """`unexpected keyword argument` leaves the reader of an older recipe to guess."""
    for cls in (TransferOptions, MutualKDConfig):
        with pytest.raises(ConfigError, match="role_source is no option any more: a score_table says who teaches"):
            cls(role_source="table")
        with pytest.raises(ConfigError, match="on_bad_image is no option any more: use on_bad_row"):
            cls(on_bad_image="skip")


def test_without_labels_the_frozen_mean_teaches():
    """Ranking peers by labels that do not exist would teach noise."""
    options = TransferOptions(labels=False).resolved()
    assert (options.teacher_rule, options.teacher_source, options.retain) == ("mean", "frozen", False)
    asked = TransferOptions(
        labels=False, teacher_rule="best", role_score="confidence", teacher_source="live"
    ).resolved()
    assert (asked.teacher_rule, asked.teacher_source) == ("best", "live")


@pytest.mark.parametrize("wrong", [{"crop_min_area": 0.0}, {"crop_min_area": 1.1}, {"color_jitter": -1.0}])
def test_a_view_that_is_none_is_refused(wrong):
    """A crop of nothing ends the first worker that draws it, epochs later."""
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}.*{next(iter(wrong.values()))}"):
        make_task("image-classification", **wrong)


def test_default_lists_are_not_shared():
    """A peer frozen in one run would be frozen in the next."""
    first, second = SegmentationOptions(), SegmentationOptions()
    first.scale_range.append(3.0)
    assert second.scale_range == [0.5, 2.0]
    assert RecipeOptions().peers is not RecipeOptions().peers


def test_every_option_has_help():
    """An option without a word is one that nobody can use."""
    for options in (TransferOptions, *(way.options for way in WAYS.values())):
        assert [item.name for item in dataclasses.fields(options) if not item.metadata.get("help")] == []


def test_choices_of_optional_literals():
    """Choices that are lost behind `| None` would accept any value."""
    assert choices_of(TransferOptions.__dataclass_fields__["preset"].type) == ()  # a string until it is resolved
    hints = typing.get_type_hints(TransferOptions)
    assert choices_of(hints["teacher_source"]) == ("live", "frozen", "ema", "table")
    assert choices_of(hints["temperature"]) == ()
    assert choices_of(hints["control_learning_rates"]) == ()


def test_config_is_training_arguments_that_keep_the_image(tmp_path):
    """`remove_unused_columns` would drop the image, and the step of saving has no say in what is best."""
    config = MutualKDConfig(
        str(tmp_path), temperature=2, load_best_model_at_end=True, eval_strategy="epoch", save_strategy="no", **CPU
    )
    assert not config.remove_unused_columns
    assert config.load_best_model_at_end
    assert (config.teacher_rule, config.metric_for_best_model) == (None, None), "as it was given"
    resolved = config.resolved()
    assert (resolved.teacher_rule, resolved.retain, resolved.metric_for_best_model) == ("best", True, "loss")
    assert json.loads(json.dumps(config.to_dict()))["temperature"] == 2
    other = dataclasses.replace(config, transfer_weight=0.0, seed=3)
    assert (other.load_best_model_at_end, other.transfer_weight, other.seed) == (True, 0.0, 3)
    assert (config.transfer_weight, resolved.transfer_weight) == (None, 1.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"remove_unused_columns": True}, "remove_unused_columns must be false"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end needs evaluations"),
        ({"early_stopping_patience": 2}, "early_stopping_patience needs evaluations"),
        ({"temperature": -1}, "temperature must be greater than 0, got -1"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be 1 or more, got 0"),
        ({"per_device_eval_batch_size": -4}, "per_device_eval_batch_size must be 1 or more, got -4"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be 1 or more"),
        ({"learning_rate": -1.0}, "learning_rate must be 0 or more, got -1.0"),
        ({"learning_rate": float("inf")}, "learning_rate must be 0 or more, got inf"),
        ({"adam_beta2": 1.5}, "adam_beta2 must be 0 or more and below 1, got 1.5"),
        ({"num_train_epochs": float("inf")}, "num_train_epochs must be greater than 0, got inf"),
        ({"num_train_epochs": -3}, "num_train_epochs must be greater than 0, got -3"),
        ({"max_steps": 0}, "max_steps must be -1 .as many as num_train_epochs has., or 1 or more, got 0"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers must be 0 or more"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be 0 or more"),
        ({"save_steps": 0}, "save_steps must be a whole number of steps"),
        ({"eval_steps": 0}, "eval_steps must be a whole number of steps"),
        ({"save_total_limit": 0}, "save_total_limit must be 1 or more"),
        ({"seed": -1}, "seed must be from 0 to 4294967295, got -1"),
        ({"report_to": "wandbx"}, r"report_to names 'wandbx' \(nearest: wandb\); there are"),
        ({"report_to": ["tensorboard", "clearml"]}, "report_to names 'clearml', which is not installed here"),
        ({"lr_scheduler_kwargs": {"min_lrr": 1}}, "lr_scheduler_type linear does not go with lr_scheduler_kwargs"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "cosine_with_min_lr does not go with .* unset: One of min_lr"),
        ({"fp16": True}, "fp16 needs a GPU"),
    ],
)
def test_config_refuses_before_training(tmp_path, changes, words):
    """Early stopping without evaluations never stops, and says nothing."""
    with pytest.raises(ConfigError, match=words):
        MutualKDConfig(str(tmp_path), **CPU | changes)


def test_a_rule_of_an_unknown_peer_and_a_cohort_that_learns_nothing_are_refused(tmp_path):
    """A teacher that is not there, or a run in which nobody learns."""
    held, learns = PeerSpec("x", frozen=True), PeerSpec("y")
    with pytest.raises(ConfigError, match="names 'vti', but the peers are vit, cnn"):
        MutualKDConfig(str(tmp_path), **CPU, teacher_rule="fixed:vti").check_peers({"vit": learns, "cnn": learns})
    with pytest.raises(ConfigError, match="nothing would learn"):
        MutualKDConfig(str(tmp_path), **CPU).check_peers({"vit": held, "cnn": held})
    MutualKDConfig(str(tmp_path), **CPU).check_peers({"vit": held, "cnn": learns})


@pytest.mark.parametrize(
    ("name", "value"),
    [("peer_learning_rates", {"vit": 1.0}), ("peer_weight_decays", {}), ("frozen_peers", []), ("peer_processors", {})],
)
def test_former_options_say_what_they_are_now(name, value, tmp_path):
    """Python's own message for an unknown keyword names no way on."""
    with pytest.raises(
        ConfigError, match=rf"{name} is no option any more: it is a setting of the peer: --peers.NAME.*PeerSpec\("
    ):
        MutualKDConfig(str(tmp_path), **{name: value})
