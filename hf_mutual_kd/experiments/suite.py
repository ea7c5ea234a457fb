"""A suite: base options, settings that change some of them, seeds and pairs, read strictly into the arms to train."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.options import TransferOptions, names_in
from ..config.recipe import Recipe, build_recipe
from ..config.values import Mismatch, RawValue, compose_mapping, convert, from_word, nearest, plain
from ..errors import ConfigError
from .launch import defaults_for, load_config_class, way_of

KEYS = ("task", "output_dir", "seeds", "base", "settings", "pairs")
SETTING_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
OWN = (*names_in("run"), "output_dir", "seed", "resume_from_checkpoint", "push_to_hub")
"""Options that a suite sets itself."""


@dataclass(frozen=True)
class PlannedArm:
    """One training of a suite.

    Args:
        name (`str`): its folder below the suite's, and how it is called.
        setting (`str`): of the suite; `"control"` for one of the controls.
        seed (`int`): of order, augmentation and drawn rows.
        pair (`tuple[str, ...]`): the peers of a drawn pair; empty where there are none.
        control (`str`, *optional*): name of the arm it is compared with; `None`: its own start.
        recipe ([`Recipe`]): what is trained.
    """

    name: str
    setting: str
    seed: int
    pair: tuple[str, ...]
    control: str | None
    recipe: Recipe


@dataclass(frozen=True)
class Suite:
    """What a suite asks for.

    Args:
        task (`str`): e.g. `"image-classification"`.
        folder (`Path`): where arms and tables go.
        seeds (`list[int]`): one or more.
        settings (`list[str]`): in the order of the file.
        arms (`list[PlannedArm]`): controls come before what is compared with them.
    """

    task: str
    folder: Path
    seeds: list[int]
    settings: list[str]
    arms: list[PlannedArm] = field(default_factory=list)


def read_suite(path: str | Path, output_dir: str | None = None) -> Suite:
    """
    Read a suite and build the options of every arm, so that nothing is refused after hours.

    Args:
        path (`str` or `Path`): YAML with `base` (options of a recipe), `settings` (a name, and what it changes), and
            optionally `task`, `output_dir`, `seeds` and `pairs` (`draw`: how many pairs of `base`'s peers every
            setting is trained with; `seed`: which).
        output_dir (`str`, *optional*): in place of the file's.

    Raises:
        [`ConfigError`]: with file, line and the nearest valid name.

    Example:

    ```yaml
    seeds: [0, 1, 2]
    base:
      peers: {vit: recipes/embedded/peers/vit, resnet: recipes/embedded/peers/resnet}
      dataset: recipes/embedded/fashion_mnist
    settings:
      best: {}
      mean: {teacher_rule: mean, teacher_source: frozen}
    ```
    """
    where, problems = str(path), list[str]()
    try:
        text = Path(path).read_text(encoding="utf-8")
        found = compose_mapping(text, where, problems)
        suite = _suite(found, where, output_dir, problems)
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {path}: not text in UTF-8: {error.reason}") from None
    except Mismatch as problem:
        raise ConfigError(str(problem)) from None
    if problems:
        raise ConfigError("\n".join(problems))
    return suite


def _suite(found: Mapping[str, RawValue], where: str, output_dir: str | None, problems: list[str]) -> Suite:
    base, settings = _mapping(found, "base", where), _mapping(found, "settings", where)
    _check_names(found, base, settings, where, problems)
    seeds = convert(found["seeds"], list[int], "seeds") if "seeds" in found else [0]
    if not seeds or len(set(seeds)) < len(seeds):
        raise Mismatch(f"{found['seeds'].where}: seeds must be one or more numbers that differ, got {seeds}")
    task = convert(found["task"], str, "task") if "task" in found else "image-classification"
    if output_dir is None:
        output_dir = convert(found["output_dir"], str, "output_dir") if "output_dir" in found else None
    folder = Path(output_dir or f"runs/suites/{Path(where).stem}")
    suite = Suite(task, folder, seeds, list(settings))
    return Suite(task, folder, seeds, list(settings), _arms(suite, base, settings, _pairs(found, base, where)))


def _check_names(
    found: Mapping[str, RawValue],
    base: Mapping[str, RawValue],
    settings: Mapping[str, RawValue],
    where: str,
    problems: list[str],
) -> None:
    """Add every name that does not belong where it is, and raise if there are any."""
    for key, value in found.items():
        if key not in KEYS:
            problems.append(f"{value.where}: a suite has no {key}{nearest(key, KEYS)}; it has {', '.join(KEYS)}")
    if not settings:
        problems.append(f"{where}: settings is empty; give one or more, each with the options that it changes")
    for name, changes in settings.items():
        if not SETTING_NAME.fullmatch(name) or name in ("control", "logs"):
            problems.append(f"{changes.where}: {name!r} is no name of a setting: letters, digits, '-', '_', '.', '+'")
        for option in (*base, *_changes(settings, name)):
            if option in OWN:
                problems.append(f"{changes.where}: {option} is the suite's own; leave it out of base and settings")
    if problems:
        raise Mismatch("\n".join(problems))


def _mapping(found: Mapping[str, RawValue], key: str, where: str) -> dict[str, RawValue]:
    if key not in found or not isinstance(found[key].value, dict):
        place = found[key].where if key in found else where
        raise Mismatch(f"{place}: {key} must be a mapping of names to values")
    return dict(found[key].value)


def _changes(settings: Mapping[str, RawValue], name: str) -> dict[str, RawValue]:
    """What a setting changes; an empty one may be written as nothing at all."""
    return {} if settings[name].value is None else _mapping(settings, name, settings[name].where)


def _pairs(found: Mapping[str, RawValue], base: Mapping[str, RawValue], where: str) -> list[tuple[str, ...]]:
    """The drawn pairs; one empty one where none are asked for."""
    if "pairs" not in found:
        return [()]
    options = _mapping(found, "pairs", where)
    for key, value in options.items():
        if key not in ("draw", "seed"):
            raise Mismatch(f"{value.where}: pairs has no {key}{nearest(key, ('draw', 'seed'))}; it has draw and seed")
    pool = list(base["peers"].value) if "peers" in base and isinstance(base["peers"].value, dict) else []
    every = list(itertools.combinations(pool, 2))
    draw = convert(options["draw"], int, "pairs.draw") if "draw" in options else len(every)
    if not 1 <= draw <= len(every):
        raise Mismatch(
            f"{found['pairs'].where}: pairs.draw must be 1 or more and at most {len(every)}, the pairs of the "
            f"{len(pool)} peers in base, got {draw}"
        )
    seed = convert(options["seed"], int, "pairs.seed") if "seed" in options else 0
    chosen = set(random.Random(seed).sample(every, draw))
    return [pair for pair in every if pair in chosen]


def _arms(
    suite: Suite, base: dict[str, RawValue], settings: Mapping[str, RawValue], pairs: Sequence[tuple[str, ...]]
) -> list[PlannedArm]:
    controls: dict[str, PlannedArm] = {}
    arms: list[PlannedArm] = []
    for name, pair, seed in itertools.product(settings, pairs, suite.seeds):
        layers = [base, _only(base, pair), _changes(settings, name)]
        inner = "+".join(pair) or "all"
        recipe = _recipe(suite, f"{name}/{inner}/seed-{seed}", seed, layers)
        control = None
        if recipe.config.labels and recipe.config.transfer_weight != 0 and not recipe.config.teaching:
            plain_layers = _without_transfer(suite, layers)
            control = f"control/{_digest(plain_layers)}/seed-{seed}"
            if control not in controls:
                plain_recipe = _recipe(suite, control, seed, plain_layers)
                controls[control] = PlannedArm(control, "control", seed, pair, None, plain_recipe)
        arms.append(PlannedArm(f"{name}/{inner}/seed-{seed}", name, seed, pair, control, recipe))
    return [*controls.values(), *arms]


def _only(base: Mapping[str, RawValue], pair: tuple[str, ...]) -> dict[str, RawValue]:
    """`base`'s peers without those that are not in the pair."""
    if not pair:
        return {}
    peers = base["peers"]
    kept = {name: written for name, written in peers.value.items() if name in pair}
    return {"peers": RawValue(kept, peers.text, peers.where, peers.typed)}


def _without_transfer(suite: Suite, layers: Sequence[Mapping[str, RawValue]]) -> list[dict[str, RawValue]]:
    """The layers of the control: settings that differ in nothing but what has no effect on it share one."""
    transfer_only = names_in("teaching", way_of(suite.task).options, TransferOptions)
    kept = [{key: value for key, value in layer.items() if key not in transfer_only} for layer in layers]
    return [*kept, {"transfer_weight": from_word("0.0", "control"), "pre_flight": from_word("false", "control")}]


def _digest(layers: Sequence[Mapping[str, RawValue]]) -> str:
    """What names a control: the same for settings that share it."""
    merged = {key: plain(value) for layer in layers for key, value in layer.items()}
    return hashlib.sha256(json.dumps(merged, sort_keys=True).encode()).hexdigest()[:8]


def _recipe(suite: Suite, name: str, seed: int, layers: Sequence[Mapping[str, RawValue]]) -> Recipe:
    own: dict[str, Any] = {"save_strategy": "no", "output_dir": str(suite.folder / name), "disable_tqdm": True}
    own |= {"seed": seed, "seeds": [seed], "control": False, "overwrite_output_dir": True}
    classes = (way_of(suite.task).options, TransferOptions)
    return build_recipe(layers, classes, load_config_class, defaults=lambda given: defaults_for(given) | own)
