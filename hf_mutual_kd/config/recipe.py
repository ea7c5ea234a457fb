"""Options from a YAML file and the command line, strictly. Imports neither torch nor transformers."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, Optional, Union, get_args, get_type_hints

from ..errors import ConfigError, MutualKDError
from .command_line import Option, from_words, split_words, to_command
from .fields import GONE, OF_TASKS, refuse_gone
from .help_text import render_help
from .peers import PeerSpec, change_peer, plain_peers, read_peers
from .places import find_config, place
from .rules import check_rules
from .values import Mismatch, RawValue, accepts, check_text, compose_mapping, convert, hint_text, is_secret, nearest

__all__ = ["HIDDEN", "Recipe", "build_recipe", "parse_options", "parse_recipe", "to_command"]

HIDDEN = "(hidden)"
"""Stands for a secret in [`Recipe`]`.given`."""

TRUE_OR_PATH = ("resume_from_checkpoint",)
"""Options that transformers declares as text but that also take true."""

Defaults = Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Values of options, or a function that says them for what the user set, so that they yield to it."""


@dataclass(frozen=True)
class Recipe:
    """What a recipe was asked to do.

    Args:
        options: an instance of the option class that the configuration class does not already hold.
        config: an instance of the configuration class.
        given (`dict[str, Any]`): what the recipe, its file and the command line set, by name, ready for YAML or JSON;
            options left at their class's default are absent and secrets are `"(hidden)"`.
    """

    options: Any
    config: Any
    given: dict[str, Any]


def parse_recipe(
    argv: list[str],
    option_classes: tuple[type, ...],
    load_config_class: Callable[[], type],
    *,
    defaults: Defaults | None = None,
) -> Recipe:
    """Read the command line and the file of `--config`; every dataclass field of the classes is an option.

    The command line wins over the file, the file over `defaults`, those over the classes. `--name value …`,
    `--name=value` and `--na-me value` are the same; a bare `--flag` is true. `--peers.NAME.SETTING value`, as a key
    of a file too, changes one peer.

    Args:
        argv (`list[str]`): the words after the program's name.
        option_classes (`tuple[type, ...]`): dataclasses of options. One of them, the one the configuration class does
            not derive from, becomes `Recipe.options`.
        load_config_class (`Callable[[], type]`): returns the configuration class; called only when it is needed, as
            it usually imports torch.
        defaults (`dict[str, Any]`, *optional*): values of this recipe, already of the right type, or a function from
            what the user set to them.

    Returns:
        [`Recipe`]

    Raises:
        [`ConfigError`]: all problems at once, each with file and line (or `command line`), what
            was expected, what was given and the nearest valid name.

    Example:
        >>> recipe = parse_recipe(["--temperature", "2"], (RecipeOptions, TransferOptions), lambda: MutualKDConfig)
        >>> recipe.config.temperature, recipe.given
        (2.0, {'temperature': 2.0})
    """
    config_class = load_config_class()
    own_class = _own_class(option_classes, config_class)
    options = options_of(own_class, config_class)
    problems: list[str] = []
    words = split_words(argv, options, problems)
    layers = [_read_file(words, problems), _from_command_line(words, options, problems)]
    return _recipe(own_class, config_class, _values(layers, options, defaults or {}, problems))


def parse_options(argv: Sequence[str], cls: type, *, program: str, description: str) -> Any:
    """The options of a command that has no file, strictly; see [`parse_recipe`].

    A field with `positional=True` takes words without `--name`, one with `required=True` must be given.

    Args:
        argv (`list[str]`): the words after the command's name.
        cls (`type`): a dataclass, of which an instance is returned.
        program (`str`): the command, for `--help`.
        description (`str`): what `--help` says first.

    Raises:
        [`ConfigError`]: as [`parse_recipe`] does.
        `SystemExit`: with code 0 after `--help`.
    """
    options = options_of(cls)
    positions = [
        option.metadata.get("metavar", name.upper()) for name, option in options.items() if option.is_positional
    ]
    show_help(argv, (cls,), description, usage=" ".join([program, *positions, "[--option value …]"]), ending="")
    problems: list[str] = []
    layers = [_from_command_line(split_words(argv, options, problems), options, problems)]
    values = _values(layers, options, {}, problems)
    for name, option in options.items():
        if option.metadata.get("required") and name not in values:
            flag = option.metadata.get("metavar", name.upper()) if option.is_positional else f"--{name}"
            problems.append(f"command line: {flag} is missing: {option.metadata['help']}")
    _raise_if_any(problems)
    found = _build(cls, values)
    check_rules(found)
    return found


def show_help(
    argv: Sequence[str], classes: Sequence[type], description: str, *, usage: str, ending: str, whole: bool = True
) -> None:
    """Print and exit where `--help` is among the words; with `--help-all` it is `whole`."""
    asked = {"--help", "-h", "--help-all"} & set(argv)
    if asked:
        text = render_help(classes, description, usage=usage, whole=whole or "--help-all" in asked)
        sys.stdout.write(f"{text}\n\n{ending}\n" if ending else f"{text}\n")
        raise SystemExit(0)


def build_recipe(
    layers: Sequence[Mapping[str, RawValue]],
    option_classes: tuple[type, ...],
    load_config_class: Callable[[], type],
    *,
    defaults: Defaults | None = None,
) -> Recipe:
    """As [`parse_recipe`], from mappings that have been read, of which a later one wins over those before it."""
    config_class = load_config_class()
    own_class = _own_class(option_classes, config_class)
    return _recipe(own_class, config_class, _values(layers, options_of(own_class, config_class), defaults or {}, []))


def _values(
    layers: Sequence[Mapping[str, RawValue]], options: Mapping[str, Option], defaults: Defaults, problems: list[str]
) -> dict[str, Any]:
    """The value of every option that is set.

    Raises:
        [`ConfigError`]: of all problems, those that were found before and those with values.
    """
    given: dict[str, Any] = {}
    for layer in layers:
        # A value that a later layer replaces is still checked: the file is wrong either way.
        for name in sorted(layer, key=lambda name: "." in name):
            _take(given, options, name, layer[name], problems)
    found = copy.deepcopy(dict(defaults(given) if callable(defaults) else defaults))
    problems += [f"default of this recipe: {unknown(name, options)}" for name in found if name not in options]
    _raise_if_any(problems)
    return found | given


def _recipe(own_class: type, config_class: type, values: dict[str, Any]) -> Recipe:
    given = {name: HIDDEN if is_secret(name) and value else to_plain(value) for name, value in values.items()}
    options = _build(own_class, values)
    check_rules(options)
    return Recipe(options, _build(config_class, values), given)


def to_plain(value: Any) -> Any:
    """A value of an option ready for YAML or JSON."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict) and value and all(isinstance(item, PeerSpec) for item in value.values()):
        return to_plain(plain_peers(value))
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if is_dataclass(value):
        return {item.name: to_plain(getattr(value, item.name)) for item in fields(value) if item.init}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _raise_if_any(problems: list[str]) -> None:
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        raise ConfigError(f"{len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _read_file(words: dict[str, list[str]], problems: list[str]) -> dict[str, RawValue]:
    given = words.pop("config", None)
    if given is None:
        return {}
    if len(given) != 1:
        raise ConfigError(f"command line: --config takes one YAML file or name, got {' '.join(given) or 'none'}")
    try:
        return compose_mapping(read_config(given[0]), str(find_config(given[0])), problems)
    except Mismatch as problem:
        raise ConfigError(str(problem)) from None


def read_config(given: str) -> str:
    """The text of the file of `--config`.

    Raises:
        [`ConfigError`]: it cannot be read.
    """
    path = find_config(given)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--config {given}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {given}: not text in UTF-8: {error.reason}") from None


def _from_command_line(
    words: Mapping[str, list[str]], options: Mapping[str, Option], problems: list[str]
) -> dict[str, RawValue]:
    found = {}
    for name, items in words.items():
        written = from_words(options.get(name), items)
        if written is not None:
            found[name] = written
        else:
            problems.append(f"command line: --{name} needs a value: {hint_text(options[name].hint)}")
    return found


def _own_class(option_classes: tuple[type, ...], config_class: type) -> type:
    own = [cls for cls in option_classes if not issubclass(config_class, cls)]
    if len(own) != 1:
        raise TypeError(f"one of the option classes must be no base of {config_class.__name__}, got {own}")
    return own[0]


def options_of(*classes: type) -> dict[str, Option]:
    """All options of dataclasses, by name."""
    found = {}
    for cls in classes:
        hints = get_type_hints(cls)
        for item in fields(cls):  # type: ignore[arg-type]
            if item.init:
                found[item.name] = Option(item.name, _full_hint(item, hints[item.name]), item.metadata)
    return found


def _full_hint(item: Field[Any], hint: Any) -> Any:
    """The hint with what argparse metadata and our own table add: choices, and `true` for options of text."""
    allowed = item.metadata.get("choices")
    if allowed and accepts(hint, str):
        literal = Literal[tuple(allowed)]  # type: ignore[valid-type]
        hint = Optional[literal] if accepts(hint, type(None)) else literal  # noqa: UP045 - the X | Y form needs types
    takes_true = item.name in TRUE_OR_PATH or item.metadata.get("nargs") == "?"
    return Union[bool, hint] if takes_true and not accepts(hint, bool) else hint  # noqa: UP007


def unknown(name: str, names: Iterable[str]) -> str:
    """What a message says of an option that there is not."""
    if name in OF_TASKS:
        return f"unknown option {name}: an option of {', '.join(OF_TASKS[name])}"
    return f"unknown option {name}{nearest(name, names)}"


def _take(
    values: dict[str, Any], options: Mapping[str, Option], name: str, written: RawValue, problems: list[str]
) -> None:
    option = options.get(name)
    try:
        check_text(name, written)
        if name in GONE:
            refuse_gone([name], f"{written.where}: ")
        elif "." in name and _is_of_peers(options.get(name.partition(".")[0])):
            values["peers"] = change_peer(values.get("peers", {}), name, written)
        elif option is None:
            problems.append(f"{written.where}: {unknown(name, options)}")
        elif _is_of_peers(option):
            values[name] = read_peers(written)
        else:
            given = place(written) if option.metadata.get("place") else written
            values[name] = convert(given, option.hint, name if written.typed else f"--{name}")
    except (Mismatch, MutualKDError) as problem:
        problems.append(str(problem))


def _is_of_peers(option: Option | None) -> bool:
    return option is not None and PeerSpec in get_args(option.hint)


def _build(cls: type, values: dict[str, Any]) -> Any:
    own = {item.name for item in fields(cls) if item.init}  # type: ignore[arg-type]
    try:
        return cls(**{name: value for name, value in values.items() if name in own})
    except MutualKDError:
        raise
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise ConfigError(f"these options do not work together or not on this machine: {error}") from error


TRAINING = (
    "Every field of transformers.TrainingArguments is an option too, for example --output_dir DIR,\n"
    "--learning_rate 1e-5, --max_steps 200, --per_device_train_batch_size 32, --bf16, --seed 1.\n"
    "--config FILE.yaml|NAME: the same names in a file, or a configuration of the package; the command line wins."
)
