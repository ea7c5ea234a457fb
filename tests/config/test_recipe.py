"""Recipes: what is accepted, what is refused, and what the messages say."""

import dataclasses
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

from hf_mutual_kd import ConfigError, PeerSpec, RecipeOptions, TransferOptions
from hf_mutual_kd.config.fields import option
from hf_mutual_kd.config.recipe import HIDDEN, Recipe, parse_recipe, to_command
from hf_mutual_kd.config.values import convert, from_word
from hf_mutual_kd.experiments.launch import defaults_for

ROOT = Path(__file__).parents[2]


class Schedule(Enum):
    LINEAR = "linear"
    COSINE = "cosine"


@dataclass
class Nested:
    size: int | None = None
    kind: Literal["a", "b"] = "a"


@dataclass
class Config(TransferOptions):
    """A configuration with each kind of type that transformers.TrainingArguments has."""

    output_dir: str | None = None
    max_steps: int = -1
    eval_strategy: Literal["no", "steps", "epoch"] = "no"
    eval_steps: int | None = None
    save_steps: int = 500
    load_best_model_at_end: bool = False
    learning_rate: float = 5e-5
    bf16: bool = False
    tf32: bool | None = None
    schedule: "Schedule | str" = "linear"
    schedule_kwargs: dict[str, Any] | str | None = None
    flags: dict[str, bool] | None = None
    report_to: None | str | list[str] = "none"
    debug: str | list[Schedule] = ""
    resume_from_checkpoint: str | None = None
    parallel: Nested | None = None
    hub_token: str | None = None
    names: list[str] | None = None
    rates: dict[str, float] | None = None
    log_level: str = option("run", "passive", "How much is logged.", choices=["passive", "debug"])

    def __post_init__(self) -> None:
        self.resolved()
        if self.max_steps == 13:
            raise ValueError("13 steps are refused")


def parse(*argv: str, defaults: dict[str, Any] | None = None) -> Recipe:
    classes = (RecipeOptions, TransferOptions)
    return parse_recipe(list(argv), classes, lambda: Config, defaults=defaults)


@pytest.fixture
def from_yaml(tmp_path):
    def read(text: str, *argv: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return parse("--config", str(path), *argv)

    return read


def test_command_line_wins_over_file_over_defaults(from_yaml, tmp_path):
    """A lower layer that wins would run another experiment than the one that was typed."""
    path = tmp_path / "r.yaml"
    path.write_text("max_steps: 2\ntemperature: 2\n")
    defaults = {"max_steps": 1, "temperature": 1.5, "dataset": "embedded", "seeds": [1]}
    recipe = parse("--max_steps", "3", "--config", str(path), defaults=defaults)
    assert (recipe.config.max_steps, recipe.config.temperature, recipe.options.dataset) == (3, 2.0, "embedded")
    assert recipe.given == {"max_steps": 3, "temperature": 2.0, "dataset": "embedded", "seeds": [1]}
    recipe.options.seeds.append(2)
    assert defaults["seeds"] == [1]


def test_spellings_of_one_option_agree():
    """`--max-steps=7` must not be another option than `--max_steps 7`."""
    for words in (["--max_steps", "7"], ["--max_steps=7"], ["--max-steps", "7"], ["--max-steps=7"]):
        assert parse(*words).config.max_steps == 7


@pytest.mark.parametrize(
    ("words", "name", "expected"),
    [
        ("--bf16", "bf16", True),
        ("--bf16 false", "bf16", False),
        ("--bf16 True", "bf16", True),
        ("--tf32", "tf32", True),
        ("--tf32 none", "tf32", None),
        ("--retain false", "retain", False),
        ("--max_steps -1", "max_steps", -1),
        ("--learning_rate 1e-6", "learning_rate", 1e-6),
        ("--learning_rate 1", "learning_rate", 1.0),
        ("--detach none", "detach", "none"),
        ("--role_table null", "role_table", None),
        ("--role_table none", "role_table", "none"),
        ("--output_dir 42", "output_dir", "42"),
        ("--output_dir=", "output_dir", ""),
        ("--schedule cosine", "schedule", Schedule.COSINE),
        ("--schedule_kwargs num_cycles=3 min_lr=1e-7", "schedule_kwargs", {"num_cycles": 3, "min_lr": 1e-7}),
        ('--schedule_kwargs {"a":{"b":[1,2]},"min_lr":1e-7}', "schedule_kwargs", {"a": {"b": [1, 2]}, "min_lr": 1e-7}),
        ("--schedule_kwargs folder/file.json", "schedule_kwargs", "folder/file.json"),
        ("--flags a=true b=false", "flags", {"a": True, "b": False}),
        ("--flags {}", "flags", {}),
        ("--report_to tensorboard", "report_to", "tensorboard"),
        ("--report_to tensorboard wandb", "report_to", ["tensorboard", "wandb"]),
        ("--debug linear cosine", "debug", [Schedule.LINEAR, Schedule.COSINE]),
        ("--names a", "names", ["a"]),
        ("--names []", "names", []),
        ("--rates a=1e-5 b=2", "rates", {"a": 1e-5, "b": 2.0}),
        ("--resume_from_checkpoint", "resume_from_checkpoint", True),
        ("--resume_from_checkpoint true", "resume_from_checkpoint", True),
        ("--resume_from_checkpoint runs/a/checkpoint-5", "resume_from_checkpoint", "runs/a/checkpoint-5"),
        ("--parallel size=2 kind=b", "parallel", Nested(2, "b")),
        ("--log_level debug", "log_level", "debug"),
    ],
)
def test_words_become_the_type_of_the_field(words, name, expected):
    """A value of another type (the text 'false' is true) would change a run without a word."""
    value = getattr(parse(*words.split()).config, name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        ("learning_rate: 1e-6", "learning_rate", 1e-6),
        ("learning_rate: '1e-6'", "learning_rate", 1e-6),
        ("learning_rate: 1", "learning_rate", 1.0),
        ("tf32: null", "tf32", None),
        ("detach: none", "detach", "none"),
        ("resume_from_checkpoint: true", "resume_from_checkpoint", True),
        (
            "schedule_kwargs: {min_lr: 1e-7, when: 2024-01-01}",
            "schedule_kwargs",
            {"min_lr": 1e-7, "when": "2024-01-01"},
        ),
        ("schedule_kwargs: file.json", "schedule_kwargs", "file.json"),
        ("report_to: [tensorboard, wandb]", "report_to", ["tensorboard", "wandb"]),
        ("debug: linear cosine", "debug", [Schedule.LINEAR, Schedule.COSINE]),
        ("debug: [linear]", "debug", [Schedule.LINEAR]),
        ("parallel:\n  size: 2", "parallel", Nested(2)),
        ("rates:\n  a: 1e-5", "rates", {"a": 1e-5}),
        ("output_dir: '42'", "output_dir", "42"),
        ("output_dir: 1e-6", "output_dir", "1e-6"),
    ],
)
def test_yaml_becomes_the_type_of_the_field(from_yaml, line, name, expected):
    """YAML 1.1 takes 1e-6 for text and 2024-01-01 for a date."""
    value = getattr(from_yaml(line).config, name)
    assert value == expected
    assert type(value) is type(expected)


def test_false_beside_text():
    """`trackio_static_space_id` takes text, null or false."""
    hint = str | None | Literal[False]
    assert [convert(from_word(word), hint, "space") for word in ("false", "null", "me/x")] == [False, None, "me/x"]


def test_peers_as_list_and_as_mapping(from_yaml):
    """Both forms in a file mean what the command line's form means."""
    expected = {"a": PeerSpec("x/y", "main"), "b": PeerSpec("z")}
    assert from_yaml("peers: [a=x/y@main, b=z]").options.peers == expected
    assert from_yaml("peers:\n  a: x/y@main\n  b: z").options.peers == expected
    assert parse("--peers", "a=x/y@main", "b=z").options.peers == expected


def test_settings_of_a_peer_are_in_the_peer(from_yaml):
    """A learning rate that is lost, or goes to another peer."""
    held = PeerSpec("x", "v2", learning_rate=1e-5, frozen=True, peft="lora", processor="p")
    said = "peers:\n  a: {source: x@v2, learning_rate: 1e-5, frozen: true, peft: lora, processor: p}\n  b: y\n"
    assert from_yaml(said).options.peers == {"a": held, "b": PeerSpec("y")}
    changed = from_yaml(said, "--peers.b.weight_decay", "0.5", "--peers.a.frozen", "false").options.peers
    assert changed == {"a": dataclasses.replace(held, frozen=False), "b": PeerSpec("y", weight_decay=0.5)}
    assert from_yaml("peers.b.frozen: true\npeers: {b: y}").options.peers == {"b": PeerSpec("y", frozen=True)}


def test_peers_without_names_are_called_by_their_last_part():
    """`--peers google/vit-base-patch16-224` says all that there is to say."""
    found = parse("--peers", "google/vit-base@main", "runs/x/peer", "python:mine.nets:small").options.peers
    assert list(found) == ["vit-base", "peer", "small"]
    assert found["vit-base"] == PeerSpec("google/vit-base", "main")
    with pytest.raises(ConfigError, match="two peers are called 'vit'.*vit-1=a/vit vit-2=b/vit"):
        parse("--peers", "a/vit", "b/vit")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("peers: {a: {sorce: x}}", "peers.a has no field sorce (nearest: source)"),
        ("peers: {a: {frozen: true}}", "peers.a has no source"),
        ("peers: {a: {source: x, dtype: float33}}", "dtype of a peer must be one of float32"),
        ("peers: {a: {source: x, learning_rate: -1}}", "learning_rate of a peer must be 0 or more, got -1.0"),
        ("peers: {a: {source: x, learning_rate: fast}}", 'peers.a.learning_rate must be a number, got "fast"'),
        ("peers.a.frozen: true", "peers.a.frozen names no setting of a peer; the peers are not given"),
        (
            "frozen_peers: [a]",
            "frozen_peers is no option any more: it is a setting of the peer: --peers.NAME.frozen VALUE, in YAML",
        ),
        ("max_train_samples: 0", "max_train_samples must be 1 or more, got 0"),
    ],
)
def test_settings_of_peers_are_strict(from_yaml, line, message):
    """A misspelt setting of one peer would leave it as the others are."""
    with pytest.raises(ConfigError) as caught:
        from_yaml(line)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_steps: [3, 4]", "max_steps must be a whole number, got [3, 4]"),
        ("max_steps: yes", "max_steps must be a whole number, got yes"),
        ("max_steps: 3.0", "max_steps must be a whole number, got 3.0"),
        ("max_steps: '3'", 'max_steps must be a whole number, got "3"'),
        ("max_steps: 012", 'max_steps must be a whole number, got "012"'),
        ("max_steps: 1:30", 'max_steps must be a whole number, got "1:30"'),
        ("max_steps:", "max_steps must be a whole number, got nothing"),
        ("learning_rate: true", "learning_rate must be a number, got true"),
        ("learning_rate: .nan", 'learning_rate must be a number, got ".nan"'),
        ("learning_rate: fast", 'learning_rate must be a number, got "fast"'),
        ("bf16: 1", "bf16 must be true or false, got 1"),
        ("output_dir: 42", "output_dir must be text, got 42; put it in quotes"),
        ("detach: techer", 'detach must be one of teacher, none, got "techer" (nearest: teacher)'),
        ("preset: [default]", "preset must be one of default, reference, got [default]"),
        ("schedule: cosin", 'schedule must be one of linear, cosine, got "cosin" (nearest: cosine)'),
        ("log_level: debgu", 'log_level must be one of passive, debug, got "debgu" (nearest: debug)'),
        ("seeds: a", 'seeds must be a list (a whole number …), got "a"; write it as [a, b]'),
        ("peers: {a: 3}", "peers.a must be text, got 3; put it in quotes"),
        ("rates: {a: x}", 'rates.a must be a number, got "x"'),
        ("rates: 3", "got 3; write it as a mapping of names to values"),
        ("parallel: {sise: 2}", "parallel has no field sise (nearest: size)"),
        ("parallel: {kind: c}", 'parallel.kind must be one of a, b, got "c"'),
        ("hub_token: 12345", "hub_token must be text, got a hidden value"),
        ("learning_rte: 1", "unknown option learning_rte (nearest: learning_rate)"),
        ("config: other.yaml", "unknown option config"),
        ("1: 2", "a key must be text, got 1; put it in quotes if it is a name"),
        ("max_steps: !!python/name:os.system x", "tags are not read, got !!python/name:os.system"),
        ("max_steps: !!int '3'", "tags are not read, got !!int"),
        (f"max_steps: {'9' * 5000}", 'max_steps must be a whole number, got "999'),
        ('output_dir: "\\ud800"', "'output_dir' holds half of a surrogate pair"),
        ("temperature: hf_0123456789abcdefXYZ01", "temperature holds an access token, which is not shown"),
        ("max_steps: !own 3", "tags are not read, got !own"),
        ("max_steps: &a [*a]", "nested deeper than 20 levels"),
    ],
)
def test_yaml_is_strict(from_yaml, line, message):
    """TRL lets `n: [3, 4]` pass for a number; here each wrong value is named with file and line."""
    with pytest.raises(ConfigError) as caught:
        from_yaml(f"# first line\n{line}\n")
    assert message in str(caught.value)
    assert "recipe.yaml:2: " in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--max_steps yes", 'command line: --max_steps must be a whole number, got "yes"'),
        ("--max_steps 3 4", 'command line: --max_steps must be a whole number, got "3 4"'),
        ("--max_steps", "command line: --max_steps needs a value: a whole number"),
        ("--max_step 3", "command line: unknown option max_step (nearest: max_steps)"),
        ("--unheard", "command line: unknown option unheard"),
        ("run --bf16", "command line: 'run' belongs to no option"),
        ("--bf16=true run", "command line: 'run' belongs to no option"),
        ("--bf16 --bf16 false", "command line: --bf16 is given twice"),
        ("--rates a", '--rates must be NAME=VALUE … (a number), got "a"'),
        ("--rates a=1 a=2", "--rates has a twice"),
        ("--schedule_kwargs {a:", "not readable as YAML"),
        ('--schedule_kwargs {"a":1,"a":2}', "a is given twice"),
        ("--config", "--config takes one YAML file or name, got none"),
        ("--learning_rate inf", "learning_rate must be 0 or more, got inf"),
        ("--config nowhere.yaml", "nowhere.yaml: cannot be read: No such file"),
        ("--max_steps 13", "13 steps are refused"),
        ("--temperature 0", "temperature must be greater than 0, got 0.0"),
    ],
)
def test_command_line_is_strict(words, message):
    """A stray or misspelt word must not be swallowed."""
    with pytest.raises(ConfigError) as caught:
        parse(*words.split())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 10)}]\n" for i in range(12)),
            "more than 10000",
        ),
        (f"seeds: {'[' * 3000}1{']' * 3000}", "nested deeper than 20 levels"),
    ],
    ids=["aliases", "brackets"],
)
def test_small_files_that_grow(from_yaml, text, message):
    """A file of 1 kB whose aliases multiply held the program for minutes; brackets ended it with a traceback."""
    began = time.monotonic()
    with pytest.raises(ConfigError, match=message):
        from_yaml(text)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "words",
    ["--temperature 2 {}", "--temperature {}", "{}", "--{} 2", "--dataset {}", "--peers a={}", "--output_dir= {}"],
)
def test_a_token_in_the_wrong_place_is_not_shown(words):
    """Terminals, logs and reports of bugs are read by others; what is recorded of a run is pushed."""
    token = "hf_adaTokenThatMustNeverLeave0123456789"
    with pytest.raises(ConfigError) as caught:
        parse(*words.format(token).split())
    assert "adaToken" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ("epoch", "epoch", True)),
        ("--eval_strategy no", ("no", "epoch", None)),
        ("--eval_steps 50", ("steps", "epoch", True)),
        ("--save_steps 50", ("epoch", "steps", True)),
        ("--eval_strategy no --load_best_model_at_end", ("no", "epoch", True)),
    ],
)
def test_a_default_yields_to_what_the_user_sets(words, expected):
    """`--eval_strategy no` was refused, as a default of ours wanted evaluations; `--eval_steps 50` did nothing."""
    said = parse(*words.split()).given
    found = defaults_for(said) | said
    assert tuple(found.get(name) for name in ("eval_strategy", "save_strategy", "load_best_model_at_end")) == expected


def test_all_problems_are_listed_at_once(from_yaml):
    """One error at a time means as many starts as mistakes."""
    with pytest.raises(ConfigError) as caught:
        from_yaml("max_steps: x\nmax_steps: 3\nbf16: 1\nnonsense: 2\n", "--tf32", "maybe")
    text = str(caught.value)
    assert text.startswith("5 problems:")
    for part in ("recipe.yaml:2: max_steps is given twice, first at", "recipe.yaml:1:", "recipe.yaml:3: bf16"):
        assert part in text
    assert "recipe.yaml:4: unknown option nonsense" in text
    assert "command line: --tf32" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\nb: 2", "recipe.yaml:2: not readable as YAML"),
        (b"- a\n- b", "recipe.yaml:1: expected lines of `name: value`"),
        (b"just text", "expected lines of `name: value`"),
        (b"a: 1\n---\nb: 2", "not readable as YAML"),
        (b"a: \x00", "not readable as YAML"),
        (b"a: \xff", "not text in UTF-8"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, content, message):
    """A parser's traceback names no line of the user's file."""
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r".") as caught:
        parse("--config", str(path))
    assert message in str(caught.value)


def test_empty_file_sets_nothing(from_yaml):
    """A file of comments is a valid recipe."""
    assert from_yaml("# nothing\n").given == {}


def test_default_that_is_no_option_is_refused():
    """A recipe script with a misspelt default would run without it."""
    with pytest.raises(ConfigError, match="default of this recipe: unknown option max_step "):
        parse(defaults={"max_step": 3})


@pytest.mark.parametrize("form", ["file", "command"])
def test_what_was_given_gives_the_same_again_and_hides_secrets(form, tmp_path):
    """The recorded recipe and the printed command must give the same run again, and must not hold a token."""
    words = "--peers a=x b=y@v1 --peers.b.learning_rate 1e-5 --peers.b.frozen --learning_rate 1e-6 --schedule cosine"
    words += " --detach none --retain false --seeds 1 2 --schedule_kwargs a=1e-7 b=no --role_table 1e-6"
    words += " --output_dir 012 --parallel size=2 --hub_token hf_x"
    recipe = parse(*words.split(), "--peers.a.peft", '{"peft_type": "LORA", "r": 2}')
    assert recipe.given["hub_token"] == HIDDEN
    assert recipe.config.hub_token == "hf_x"
    if form == "file":
        text = json.dumps({name: value for name, value in recipe.given.items() if name != "hub_token"})
        path = tmp_path / "again.yaml"
        path.write_text(text, encoding="utf-8")
        again = parse("--config", str(path))
    else:
        text = to_command("train", recipe.given)
        again = parse(*shlex.split(text)[1:])
    assert "hf_x" not in text
    assert "hub_token" not in text
    assert again.given == {name: value for name, value in recipe.given.items() if name != "hub_token"}
    assert again.options == recipe.options
    assert again.options.peers["b"] == PeerSpec("y", "v1", learning_rate=1e-5, frozen=True)


def test_help_is_quick_and_loads_no_torch():
    """`--help` that imports torch takes ten seconds."""
    code = (
        "import sys\n"
        "from hf_mutual_kd.config.options import RecipeOptions, TransferOptions\n"
        "from hf_mutual_kd.config.recipe import TRAINING, show_help\n"
        "try:\n"
        "    show_help(['--help-all'], (RecipeOptions, TransferOptions), 'Classify.', usage='', ending=TRAINING)\n"
        "finally:\n"
        "    assert not {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 3  # the bar is 1 s; a loaded machine is slower
    for item in (*fields(RecipeOptions), *fields(TransferOptions)):
        assert f"--{item.name} " in done.stdout
    assert "--teacher_rule best|mean|all|fixed:NAME|gated|class" in done.stdout
    assert "Default: 1.0." in done.stdout
    assert "transformers.TrainingArguments" in done.stdout
