"""Recipes: strict options from a YAML file and the command line. Imports neither torch nor transformers."""

from __future__ import annotations

import copy
import json
import re
import shlex
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional, Union, get_type_hints

from ..errors import ConfigError, MutualKDError
from .options import OLD_NAMES
from .values import (
    Mismatch,
    Written,
    accepts,
    compose_mapping,
    convert,
    describe,
    from_word,
    is_secret,
    nearest,
)

HIDDEN = "(hidden)"
"""Stands for a secret in [`Recipe`]`.given`."""

TRUE_OR_PATH = ("resume_from_checkpoint",)
"""Options that transformers declares as text but that also take true."""

WIDTH = 110


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


@dataclass(frozen=True)
class _Option:
    """One option: its type and the classes that have it."""

    name: str
    hint: Any


def parse_recipe(
    argv: list[str],
    option_classes: tuple[type, ...],
    load_config_class: Callable[[], type],
    *,
    defaults: dict[str, Any] | None = None,
    description: str,
) -> Recipe:
    """Read the command line and the file of `--config`; every dataclass field of the classes is an option.

    The command line wins over the file, the file over `defaults`, those over the classes. `--name value …`,
    `--name=value` and `--na-me value` are the same; a bare `--flag` is true. `--help` prints and exits.

    Args:
        argv (`list[str]`): the words after the program's name.
        option_classes (`tuple[type, ...]`): dataclasses that `--help` shows. One of them, the one the configuration
            class does not derive from, becomes `Recipe.options`.
        load_config_class (`Callable[[], type]`): returns the configuration class; called only when it is needed, as
            it usually imports torch.
        defaults (`dict[str, Any]`, *optional*): values of this recipe, already of the right type.
        description (`str`): what `--help` says first.

    Returns:
        [`Recipe`]

    Raises:
        [`ConfigError`]: all problems at once, each with file and line (or `command line`), what
            was expected, what was given and the nearest valid name.
        `SystemExit`: with code 0 after `--help`.

    Example:
        >>> recipe = parse_recipe(["--temperature", "2"], (RecipeOptions, TransferOptions), lambda: MutualKDConfig,
        ...                       description="Image classification")
        >>> recipe.config.temperature, recipe.given
        (2.0, {'temperature': 2.0})
    """
    if "--help" in argv or "-h" in argv:
        print(render_help(option_classes, description))
        raise SystemExit(0)
    problems: list[str] = []
    words = _split_words(argv, problems)
    from_file = _read_file(words, problems)
    config_class = load_config_class()
    own_class = _own_class(option_classes, config_class)
    options = {item.name: item for cls in (own_class, config_class) for item in _options_of(cls)}
    _check_names(defaults or {}, options, "default of this recipe", problems)
    values = {name: copy.deepcopy(value) for name, value in (defaults or {}).items() if name in options}
    for name, written in from_file.items():
        # A value that the command line replaces is still checked: the file is wrong either way.
        _take(values, options, name, written, problems)
    for name, items in words.items():
        _take(values, options, name, _from_words(name, items, options), problems)
    _raise_if_any(problems)
    return _recipe(own_class, config_class, values)


def build_recipe(
    layers: Sequence[Mapping[str, Written]],
    option_classes: tuple[type, ...],
    load_config_class: Callable[[], type],
    *,
    defaults: dict[str, Any] | None = None,
) -> Recipe:
    """As [`parse_recipe`], from mappings that have been read, of which a later one wins over those before it."""
    problems: list[str] = []
    config_class = load_config_class()
    own_class = _own_class(option_classes, config_class)
    options = {item.name: item for cls in (own_class, config_class) for item in _options_of(cls)}
    values = copy.deepcopy(defaults or {})
    for layer in layers:
        for name, written in layer.items():
            _take(values, options, name, written, problems)
    _raise_if_any(problems)
    return _recipe(own_class, config_class, values)


def _recipe(own_class: type, config_class: type, values: dict[str, Any]) -> Recipe:
    given = {name: HIDDEN if is_secret(name) and value else _to_plain(value) for name, value in values.items()}
    return Recipe(_build(own_class, values), _build(config_class, values), given)


def to_command(script: str, given: dict[str, Any]) -> str:
    """The command that gives the same recipe, ready for a shell; secrets are left out.

    Example:

    ```python
    >>> to_command("recipes/vit_classify.py", {"peers": ["a=x", "b=y"], "bf16": True, "hub_token": "(hidden)"})
    'accelerate launch recipes/vit_classify.py --peers a=x b=y --bf16 true'
    ```
    """
    words = ["accelerate", "launch", script]
    for name, value in given.items():
        if is_secret(name):
            continue
        plain = _to_plain(value)
        parts = _dict_words(plain) if isinstance(plain, dict) else plain
        shown = [_spell(part) for part in (parts if isinstance(parts, list) else [parts])]
        words += [f"--{name}", *map(shlex.quote, shown)]
    return " ".join(words)


def _dict_words(entries: dict[str, Any]) -> list[str]:
    """`NAME=VALUE` for each entry; one word of JSON, which is YAML too, where a value has parts of its own."""
    if any(isinstance(item, dict | list) or item is None for item in entries.values()):
        return [json.dumps(entries, ensure_ascii=False)]
    return [f"{key}={item}" for key, item in entries.items()]


def _to_plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {item.name: _to_plain(getattr(value, item.name)) for item in fields(value) if item.init}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _raise_if_any(problems: list[str]) -> None:
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        raise ConfigError(f"{len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems))


def _split_words(argv: list[str], problems: list[str]) -> dict[str, list[str]]:
    """The words of each option, by its name with underscores; a word that belongs to none is a problem."""
    words: dict[str, list[str]] = {}
    target: list[str] | None = None
    for word in argv:
        if not re.match(r"--[A-Za-z]", word):
            if target is None:
                problems.append(f"command line: {word!r} belongs to no option; options are written --name value")
            else:
                target.append(word)
            continue
        flag, equals, value = word[2:].partition("=")
        name = flag.replace("-", "_")
        if name in words:
            problems.append(f"command line: --{name} is given twice")
        words[name] = [value] if equals else []
        target = None if equals else words[name]
    return words


def _read_file(words: dict[str, list[str]], problems: list[str]) -> dict[str, Written]:
    paths = words.pop("config", None)
    if paths is None:
        return {}
    if len(paths) != 1:
        raise ConfigError(f"command line: --config takes one YAML file, got {' '.join(paths) or 'none'}")
    try:
        text = Path(paths[0]).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--config {paths[0]}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {paths[0]}: not text in UTF-8: {error.reason}") from None
    try:
        return compose_mapping(text, paths[0], problems)
    except Mismatch as problem:
        raise ConfigError(str(problem)) from None


def _own_class(option_classes: tuple[type, ...], config_class: type) -> type:
    own = [cls for cls in option_classes if not issubclass(config_class, cls)]
    if len(own) != 1:
        raise TypeError(f"one of the option classes must be no base of {config_class.__name__}, got {own}")
    return own[0]


def _options_of(cls: type) -> list[_Option]:
    hints = get_type_hints(cls)
    return [_Option(item.name, _full_hint(item, hints[item.name])) for item in fields(cls) if item.init]  # type: ignore[arg-type]


def _full_hint(item: Field[Any], hint: Any) -> Any:
    """The hint with what argparse metadata and our own table add: choices, and `true` for options of text."""
    allowed = item.metadata.get("choices")
    if allowed and accepts(hint, str):
        literal = Literal[tuple(allowed)]  # type: ignore[valid-type]
        hint = Optional[literal] if accepts(hint, type(None)) else literal  # noqa: UP045 - the X | Y form needs types
    takes_true = item.name in TRUE_OR_PATH or item.metadata.get("nargs") == "?"
    return Union[bool, hint] if takes_true and not accepts(hint, bool) else hint  # noqa: UP007


def _check_names(names: Iterable[str], options: dict[str, _Option], where: str, problems: list[str]) -> None:
    for name in names:
        if name in OLD_NAMES:
            problems.append(f"{where}: {name} is no option any more: {OLD_NAMES[name]}")
        elif name not in options:
            problems.append(f"{where}: unknown option {name}{nearest(name, options)}")


def _from_words(name: str, words: list[str], options: dict[str, _Option]) -> Written | None:
    """What the words of one option say; `None` where a value is missing."""
    if words:
        items = [from_word(word, "command line") for word in words]
        return items[0] if len(items) == 1 else Written(items, " ".join(words), "command line", typed=False)
    if name not in options or accepts(options[name].hint, bool):
        return from_word("true", "command line")
    return None


def _take(
    values: dict[str, Any], options: dict[str, _Option], name: str, written: Written | None, problems: list[str]
) -> None:
    if written is None:
        problems.append(f"command line: --{name} needs a value: {describe(options[name].hint)}")
        return
    if name not in options:
        _check_names([name], options, written.where, problems)
        return
    shown = name if written.typed else f"--{name}"
    if name == "peers" and isinstance(written.value, dict):
        written = _peers_as_list(written)
    try:
        values[name] = convert(written, options[name].hint, shown)
    except Mismatch as problem:
        problems.append(str(problem))


def _peers_as_list(written: Written) -> Written:
    """`peers: {NAME: ID}` as `[NAME=ID]`; an ID that is no text stays as it is, for [`convert`] to refuse."""
    items = [
        Written(f"{name}={item.text}", f"{name}={item.text}", item.where, typed=True)
        if isinstance(item.value, str)
        else item
        for name, item in written.value.items()
    ]
    return Written(items, written.text, written.where, typed=True)


def _build(cls: type, values: dict[str, Any]) -> Any:
    own = {item.name for item in fields(cls) if item.init}  # type: ignore[arg-type]
    try:
        return cls(**{name: value for name, value in values.items() if name in own})
    except MutualKDError:
        raise
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise ConfigError(f"these options do not work together or not on this machine: {error}") from error


def render_help(option_classes: tuple[type, ...], description: str) -> str:
    """The text of `--help`: a group for each class, an entry for each field."""
    lines = [description, "", "  --config FILE.yaml", "      The same names in a file; the command line wins."]
    shown: set[str] = set()
    for cls in option_classes:
        title = " ".join((cls.__doc__ or cls.__name__).strip().split("\n\n")[0].split())
        lines += ["", title]
        hints = get_type_hints(cls)
        for item in fields(cls):  # type: ignore[arg-type]
            if item.init and item.name not in shown:
                lines += _help_entry(item, hints[item.name])
                shown.add(item.name)
    lines += ["", "Every field of transformers.TrainingArguments is an option too, for example --output_dir DIR,"]
    lines += ["--learning_rate 1e-5, --max_steps 200, --per_device_train_batch_size 32, --bf16, --seed 1."]
    return "\n".join(lines)


def _help_entry(item: Field[Any], hint: Any) -> list[str]:
    default = item.default_factory() if item.default_factory is not MISSING else item.default
    shown = "" if default is MISSING or default is None or default in ([], {}) else f" Default: {_spell(default)}."
    help_text = item.metadata.get("help", "") + shown
    indent = " " * 6
    entry = textwrap.wrap(help_text, WIDTH, initial_indent=indent, subsequent_indent=indent)
    return [f"  --{item.name} {item.metadata.get('metavar') or _spell_type(hint)}", *entry]


def _spell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value.value if isinstance(value, Enum) else value)


def _spell_type(hint: Any) -> str:
    text = describe(hint).replace(" or null", "").replace("null or ", "")
    if text.startswith("one of "):
        return text.removeprefix("one of ").replace(", ", "|")
    words = {"true or false": "true|false", "a whole number": "N", "a number": "X", "text": "TEXT"}
    if text.startswith("a list ("):
        return f"{words.get(text[8:-3], 'VALUE')} …"
    return words.get(text, text.split(" (")[0])
