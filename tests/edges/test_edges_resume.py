"""Checkpoints that are damaged, not whole or another run's, and options that change between start and resume."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from edge_cases import RESUME, Row, but

CHECKPOINT = Path("stopped") / "checkpoint-2"
DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def without(*names):
    def make(here):
        for name in names:
            path = here / CHECKPOINT / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return make


def holding(name, content):
    def make(here):
        path = here / CHECKPOINT / name
        path.write_bytes(path.read_bytes()[:content] if isinstance(content, int) else content)

    return make


def pickled(name, content):
    return lambda here: torch.save(content, here / CHECKPOINT / name)


def with_json(name, **changes):
    def make(here):
        path = here / CHECKPOINT / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return make


def with_state(**changes):
    return with_json("trainer_state.json", **changes)


def with_cohort(**changes):
    return with_json("cohort_state.json", **changes)


def other_processor(here):
    shutil.copytree(place_of(here) / "vit", here / "vit")
    path = here / "vit" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.1, 0.1, 0.1]}))


def other_configuration(here):
    shutil.copytree(place_of(here) / "vit", here / "vit")
    path = here / "vit" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_dropout_prob": 0.3}))


def other_weights(here):
    from safetensors.torch import load_file, save_file

    shutil.copytree(place_of(here) / "vit", here / "vit")
    path = here / "vit" / "model.safetensors"
    weights = load_file(path)
    first = next(iter(weights))
    save_file(weights | {first: weights[first] + 1}, path, metadata={"format": "pt"})


def place_of(here):
    """The shared folder; rows lie below the same base as it does."""
    return next(path for path in here.parents[1].glob("edges*/place"))


def other_rows(change):
    def make(here):
        from conftest import make_rows
        from datasets import DatasetDict

        splits = {"train": make_rows(24), "validation": make_rows(6, 1), "test": make_rows(6, 2)}
        DatasetDict(splits | {"train": change(splits["train"])}).save_to_disk(here / "data")

    return make


def with_label(rows):
    return rows.map(lambda row, i: {"label": 1 if i == 5 else row["label"]}, with_indices=True)


def with_image(rows):
    images = list(rows["image"])
    images[3], images[4] = images[4], images[3]
    return rows.remove_columns("image").add_column("image", images, feature=rows.features["image"])


ALLOW = ("--resume_changes", "allow")
VIT = ("--peers", "vit={here}/vit", "cnx={place}/cnx")
NEW_DATA = ("--dataset", "{here}/data")

SLOW = pytest.mark.slow
"""Of rows that are refused at the same place as one that is not slow."""
ALIKE = ("--lr_scheduler_type", "--transfer_weight", "--temperature", "--retain", "--weight_decay")

IN_STATE, IN_COHORT = "trainer_state.json is damaged", "cohort_state.json is damaged"
DAMAGED = (
    [
        pytest.param(
            Row(f"{name}: {how}", RESUME, says=[name, says], make=make(name)),
            marks=SLOW if name != "cohort_state.json" and how not in ("missing", "cut") else (),
        )
        for name in ("trainer_state.json", "cohort_state.json")
        for how, says, make in (
            ("missing", "", without),
            ("cut", "is damaged", lambda name: holding(name, 40)),
            ("empty", "is damaged", lambda name: holding(name, 0)),
            ("a list", "is damaged", lambda name: holding(name, b"[1]")),
            ("nested", "is damaged", lambda name: holding(name, DEEP)),
            ("no UTF-8", "is damaged", lambda name: holding(name, b"\xff\xfe\x00")),
        )
    ]
    + [
        pytest.param(
            Row(f"{name}: {how}", RESUME, says=[name, "is damaged"], make=make(name)),
            marks=SLOW if name != "optimizer.pt" and how != "other keys" else (),
        )
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")
        for how, make in (
            ("cut", lambda name: holding(name, 300)),
            ("empty", lambda name: holding(name, 0)),
            ("text", lambda name: holding(name, b"hello")),
            ("another type", lambda name: pickled(name, [1, 2])),
            ("other keys", lambda name: pickled(name, {"a": 1})),
        )
    ]
    + [
        Row("a step that is text", RESUME, says=IN_STATE, make=with_state(global_step="2")),
        Row("a step below 0", RESUME, says=IN_STATE, make=with_state(global_step=-2)),
        Row("unknown keys", RESUME, says=IN_STATE, make=with_state(zoe=1)),
        Row("peers are a number", RESUME, says=IN_COHORT, make=with_cohort(peers=2)),
        Row("bests are a list", RESUME, says=IN_COHORT, make=with_cohort(bests=[])),
        Row("bests of other keys", RESUME, says=IN_COHORT, make=with_cohort(bests={"x": {}})),
        Row("no optimizer", RESUME, says=["no optimizer", "--resume_changes allow"], make=without("optimizer.pt")),
        Row("no schedule", RESUME, says="no schedule", make=without("scheduler.pt")),
        Row("no random states", RESUME, says="no random states", make=without("rng_state.pth")),
        Row(
            "saved with save_only_model",
            RESUME,
            says="no optimizer, schedule, random states (was it saved",
            make=without("optimizer.pt", "scheduler.pt", "rng_state.pth"),
        ),
        Row("no peer", RESUME, says="checkpoint-2/vit is missing", make=without("vit")),
        Row("a peer without weights", RESUME, says="vit holds no weights", make=without("vit/model.safetensors")),
        Row(
            "a peer with cut weights",
            RESUME,
            says="vit/model.safetensors is damaged",
            make=holding("vit/model.safetensors", 99),
        ),
        Row(
            "a peer without config",
            RESUME,
            says="checkpoint-2/vit has no config.json",
            make=without("vit/config.json"),
        ),
        Row("no roles", RESUME, says="roles.parquet", make=without("roles.parquet")),
        Row("cut roles", RESUME, says="roles.parquet", make=holding("roles.parquet", 50)),
    ]
)

CHANGED = [
    pytest.param(
        Row(
            " ".join(changes[:2]),
            but(RESUME, *changes),
            says=["made with other options", says, "--resume_changes allow"],
        ),
        marks=SLOW if changes[0] in ALIKE else (),
    )
    for says, *changes in (
        ("learning_rate was 5e-05, now 0.001", "--learning_rate", "1e-3"),
        ('lr_scheduler_type was "constant", now "linear"', "--lr_scheduler_type", "linear"),
        ('teacher_rule was "best", now "mean"', "--teacher_rule", "mean"),
        ('teacher_source was "live", now "frozen"', "--teacher_source", "frozen"),
        ("transfer_weight was 1.0, now 0.5", "--transfer_weight", "0.5"),
        ("temperature was 1.0, now 2.0", "--temperature", "2"),
        ("retain was true, now false", "--retain", "false"),
        ("seed was 42, now 43", "--seed", "43"),
        ("per_device_train_batch_size was 8, now 4", "--per_device_train_batch_size", "4"),
        ("gradient_accumulation_steps was 1, now 2", "--gradient_accumulation_steps", "2"),
        ("vit.learning_rate was null, now 0.001", "--peers.vit.learning_rate", "1e-3"),
        ("weight_decay was 0.0, now 0.1", "--weight_decay", "0.1"),
        ("augment was true, now false", "--augment", "false"),
    )
] + [
    Row("max_steps below the checkpoint's", but(RESUME, "--max_steps", "1"), says="made at step 2"),
    Row("another optim", but(RESUME, "--optim", "sgd"), says=["optim was", "start anew"]),
    Row("another optim, allowed", but(RESUME, "--optim", "sgd", *ALLOW), says="optim was"),
    Row("frozen peers", but(RESUME, "--peers.vit.frozen", "true"), says="vit.frozen was false, now true"),
    Row("frozen, allowed", but(RESUME, "--peers.vit.frozen", "true", *ALLOW), says="vit.frozen was"),
    Row("a processor", but(RESUME, *VIT), says="another processor of peer 'vit'", make=other_processor),
    pytest.param(
        Row(
            "a configuration", but(RESUME, *VIT), says="another configuration of peer 'vit'", make=other_configuration
        ),
        marks=SLOW,
    ),
    Row("the weights", but(RESUME, *VIT), says="other starting weights", make=other_weights),
    pytest.param(Row("a label", but(RESUME, *NEW_DATA), says="other data", make=other_rows(with_label)), marks=SLOW),
    Row("two images", but(RESUME, *NEW_DATA), says="other data", make=other_rows(with_image)),
    pytest.param(Row("fewer rows", but(RESUME, "--max_train_samples", "20"), says="other data"), marks=SLOW),
]


STAGES = but(RESUME, "--teaching", "auto", "--control", "true", "--eval_strategy", "steps", "--eval_steps", "1",
             "--max_steps", "2")  # fmt: skip


def stages_of(options, **changes):
    """The file of stages as a run leaves it, that began with these options."""

    def make(here):
        state = json.loads((here / CHECKPOINT / "cohort_state.json").read_text()) | {"done": [], "facts": {}}
        state["made_with"]["options"] |= options
        state |= changes
        (here / "stopped" / "stages").mkdir()
        (here / "stopped" / "stages" / "stages.json").write_text(json.dumps(state))

    return make


STAGED = [
    Row("stages: another learning rate", STAGES, says=["made with other options", "learning_rate was 7"],
        make=stages_of({"learning_rate": 7})),
    Row("stages: other peers", STAGES, says="made with other peers", make=stages_of({}, peers=["zoe"])),
    Row("stages: damaged", STAGES, says="stages.json is damaged: facts is missing", make=stages_of({}, facts=3)),
]  # fmt: skip


@pytest.mark.parametrize("row", STAGED, ids=str)
def test_stages_are_looked_at_before_anything_is_loaded(row, entry):
    """Minutes of loading before a refusal, or a comparison of arms that were trained otherwise."""
    entry.check(row)


@pytest.mark.parametrize("row", DAMAGED, ids=str)
def test_a_damaged_checkpoint_is_named_before_anything_is_touched(row, entry):
    """A traceback, or a training that goes on with half of its state made anew."""
    entry.check(row)


@pytest.mark.parametrize("row", CHANGED, ids=str)
def test_what_has_changed_since_the_checkpoint_is_named(row, entry):
    """A run that goes on otherwise than its card says."""
    entry.check(row)


def test_a_change_that_is_allowed_is_on_record(entry):
    """The card would print one learning rate for a run that had two."""
    row = Row("", but(RESUME, "--learning_rate", "1e-3", "--resume_changes", "allow"), make=without("scheduler.pt"))
    entry.here.mkdir()
    entry.point.copy_runs(row, entry.here)
    row.make(entry.here)
    ended = entry.run(row)
    assert ended.code == 0, ended.err[-3000:]
    record = json.loads((entry.here / "stopped" / "cohort.json").read_text())
    assert record["hyperparameters"]["changed"]["learning_rate"] == "5e-05 until step 2, then 0.001"
    assert {"step": 2, "option": "schedule", "from": "kept", "to": "made anew"} in record["changes"]
    assert "5e-05 until step 2, then 0.001" in (entry.here / "stopped" / "vit" / "README.md").read_text()
    state = json.loads((entry.here / "stopped" / "checkpoint-4" / "cohort_state.json").read_text())
    assert state["changes"] == record["changes"]
