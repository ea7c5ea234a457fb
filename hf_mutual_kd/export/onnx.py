"""Peers as ONNX, each file checked against PyTorch on samples of the test split before it may stay."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..config.rules import check_numbers
from ..data.collator import identified
from ..errors import ExportError
from ..files import read_json, staged, write_json
from ..hub.names import choose_peers
from ..peers.adapters import merged
from ..peers.loading import load_peer
from ..peers.spec import PeerSpec
from ..reports.run_record import read_run
from ..reports.task_words import TaskWords, text_under
from ..tasks.base import Task
from ..tasks.exporting import Given, TaskExport
from ..tasks.registry import TASKS, make_task
from ..tasks.run_splits import load_run_splits
from .checks import PYTORCH, Checked, Runner, file_runner, measure, torch_runner
from .onnx_files import OPSET, write_onnx
from .quantize import quantize

FOLDER = "onnx"
"""Inside a peer's folder, where transformers.js and Optimum look for `model.onnx` and `model_int8.onnx`."""
FACTS = "export.json"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
MODEL, QUANTIZED = "model.onnx", "model_int8.onnx"

LARGEST = 1_900_000_000
"""Bytes of weights; one ONNX file holds less than 2 GiB."""
CALIBRATION = 128
"""Training samples that set the ranges of activations of a static quantization."""


@dataclass
class Exported:
    """What became of one peer.

    Args:
        peer (`str`): its name.
        words ([`TaskWords`]): what is said of its task.
        folder (`Path`): of the files.
        samples (`int`): how many were looked at.
        inputs (`dict[str, list]`): the files' inputs, with the size of one sample, names in place of sizes that are
            free.
        outputs (`list[str]`): names of the files' outputs.
        split (`str`): where the samples are from.
        measured (`dict[str, Checked]`): by file, PyTorch under `"pytorch"`.
    """

    peer: str
    words: TaskWords
    folder: Path
    samples: int
    inputs: dict[str, list[int | str]]
    outputs: list[str]
    split: str = "test"
    measured: dict[str, Checked] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportCheck:
    """What a file must show before it may stay.

    Args:
        samples (`int`, *optional*, defaults to 256): of the test split, the first ones.
        dataset (`str`, *optional*): where the data set is, if not where the run had it.
        max_drop (`float`, *optional*, defaults to 0.02): accuracy (of maps: of pixels; of saliency: CC) that int8 may
            lose; without labels, the share of samples or pixels on which it may disagree with PyTorch, or what its
            CC with PyTorch's densities may lack of 1.

    Raises:
        [`ConfigError`]: a number breaks its rule.
    """

    samples: int = 256
    dataset: str | None = None
    max_drop: float = 0.02

    def __post_init__(self):
        check_numbers(samples=self.samples, max_drop=self.max_drop)


def export_peers(
    place: str | Path,
    *,
    int8: bool = False,
    peers: Sequence[str] | None = None,
    out: str | Path | None = None,
    task: Task | None = None,
    check: ExportCheck | None = None,
) -> list[Exported]:
    """
    Write the peers of a run, or one model folder, as ONNX.

    Each file has a dynamic batch, carries no path or name of this machine, and stays only where it does what PyTorch
    does: in float32 the same outputs, in int8 nearly the same accuracy. Inputs and outputs are called as transformers
    calls them, so that the peer's own processor makes the former and reads the latter: `pixel_values`, or what a
    tokenizer makes, of any length; `logits`, or `class_queries_logits` and `masks_queries_logits` of heads with
    queries.

    Args:
        place (`str` or `Path`): folder of a run, or of a model (a peer's, then the run above it says which data).
        int8 (`bool`, *optional*, defaults to `False`): also a quantized file: weights only, with dynamic activations,
            for models that mostly multiply matrices; static, calibrated on training samples, for convolutions.
        peers (`list[str]`, *optional*): only these of the run.
        out (`str` or `Path`, *optional*): another folder, in which each peer gets one with its processor beside;
            `onnx/` in the peer's own folder when unset.
        task ([`Task`], *optional*): the run's, where it is none of [`TASKS`].
        check ([`ExportCheck`], *optional*): on how many samples, and what int8 may lose.

    Returns:
        `list[Exported]`: also with files that were refused, which are deleted.

    Raises:
        [`ExportError`]: packages are missing, no model here, a model that ONNX cannot hold,
            samples of several sizes, or float32 that differs from PyTorch.

    Example:

    ```python
    >>> [file.what for file in export_peers("runs/vit_classify", int8=True)[0].measured.values()]
    ['PyTorch', 'float32', 'int8, dynamic']
    ```
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ExportError(f"{', '.join(missing)} is missing; pip install 'hf-mutual-kd[onnx]'")
    check = check or ExportCheck()
    folders, record = _find(Path(place), peers)
    task = task or make_task(record["task"])
    if task.exporter is None:
        raise ExportError(f"{place}: peers for {task.name} are not exported")
    splits = load_run_splits(record, check.dataset, task)
    test = _first(splits.test, check.samples)
    train = _first(splits.train, CALIBRATION) if int8 else None
    recipe = record.get("recipe") or {}
    done = []
    for name, folder in folders.items():
        loaded = load_peer(
            name, PeerSpec(source=str(folder)), task, trust_remote_code=recipe.get("trust_remote_code") is True
        )
        loaded = replace(loaded, model=merged(loaded.model).float().eval())
        target = folder if out is None else Path(out) / name
        target.mkdir(parents=True, exist_ok=True)
        if out is not None:
            for part in (loaded.processor, loaded.model.config):
                part.save_pretrained(target)  # type: ignore[union-attr, operator]
        labels = splits.label_names or record.get("labels") or []
        on_bad_row = recipe.get("on_bad_row", "raise")
        peer = task.exporter(
            task, name, loaded.model, processor=loaded.processor, labels=labels, on_bad_row=on_bad_row
        )
        done.append(export_peer(peer, target / FOLDER, test, train, check.max_drop))
    return done


def _first(rows: Any, count: int) -> list[Any]:
    """The first rows of a split, which are decoded later."""
    found: Any = identified(rows)
    return list(itertools.islice(found, count))


def _find(place: Path, peers: Sequence[str] | None) -> tuple[dict[str, Path], dict[str, Any]]:
    """The model folders by name, and the record of their run."""
    if (place / "cohort.json").is_file():
        run = read_run(place)
        names = choose_peers(run, peers)
        return {name: place / name for name in names}, dict(run.record)
    if not (place / "config.json").is_file():
        raise ExportError(f"{place} is neither a run (no cohort.json) nor a model folder (no config.json)")
    if peers:
        raise ExportError(f"peers are chosen from a run, and {place} is one model; leave --peers out")
    above = place.resolve().parent
    if (above / "cohort.json").is_file() and place.resolve().name in (run := read_run(above)).peers:
        return {place.resolve().name: place}, dict(run.record)
    architectures = set(
        read_json(place / "config.json", error=ExportError, advice="save it anew").get("architectures") or ()
    )
    # What no task knows is a classifier that brings its own code.
    task = next((name for name, one in TASKS.items() if one().architectures() & architectures), next(iter(TASKS)))
    return {place.resolve().name: place}, {"task": task}


def export_peer(
    peer: TaskExport, place: Path, test: Sequence[Any], train: Sequence[Any] | None, max_drop: float
) -> Exported:
    """
    Write, check and measure the files of one peer.

    Args:
        peer ([`TaskExport`]): with its model in eval mode.
        place (`Path`): the folder of the files, which is replaced.
        test (`list[dict]`): rows that are looked at.
        train (`list[dict]`, *optional*): rows that an int8 file may be calibrated with; unset: there is no such file.
        max_drop (`float`): as of [`ExportCheck`].

    Raises: as [`export_peers`].
    """
    first = next(peer.batches(test[:1]))
    model, example = peer.traceable(first), peer.inputs(first)
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    if weights > LARGEST:
        raise ExportError(
            f"peer {peer.name!r} has {weights / 1e9:.1f} GB of weights, and one ONNX file holds less than 2"
        )
    with staged(place) as made:
        write_onnx(peer.name, model, example, peer.free, made / MODEL)
        runners = {PYTORCH: torch_runner(model, weights), MODEL: _plain_runner(peer.name, made / MODEL, example)}
        small = None
        if train is not None:
            small = Checked(f"int8, {quantize(made / MODEL, made / QUANTIZED, _calibration(peer, train))}", 0)
            try:
                runners[QUANTIZED] = file_runner(made / QUANTIZED, small.what, example)
            except ExportError as error:
                small.refused = str(error)
        found = measure(peer, peer.batches(test), runners)
        if found.differing[MODEL]:
            raise ExportError(
                f"peer {peer.name!r}: ONNX gives other numbers than PyTorch ({found.differing[MODEL]}); nothing was "
                "kept"
            )
        report = Exported(
            peer.name,
            peer.task.words,
            place,
            found.samples,
            {name: [*peer.free[1:], *value.shape[len(peer.free) :]] for name, value in example.items()},
            list(model.outputs),
            measured=found.checked,
        )
        if small is not None:
            small = report.measured.setdefault(QUANTIZED, small)
            small.refused = small.refused or _refusal(small, report.measured[PYTORCH], max_drop, report.words)
            if small.refused:
                (made / QUANTIZED).unlink()
        write_json(made / FACTS, facts_of(report))
    return report


def _plain_runner(name: str, path: Path, example: Given) -> Runner:
    try:
        return file_runner(path, "float32", example)
    except ExportError as error:
        raise ExportError(f"peer {name!r}: {error}; nothing was kept") from error


def _calibration(peer: TaskExport, rows: Sequence[Any]) -> Iterator[Given]:
    return (peer.inputs(batch) for batch in peer.batches(rows))


def _refusal(small: Checked, plain: Checked, max_drop: float, words: TaskWords) -> str | None:
    """Why an int8 file may not stay; NaN is no reason to keep one."""
    if small.accuracy is not None and plain.accuracy is not None:
        head, before, after = words.shown[words.kept], plain.accuracy, small.accuracy
    else:
        head, before, after = words.alike, 1.0, small.agreement or 0.0
    if before - after <= max_drop:
        return None
    lost, allowed = (text_under(head, value) for value in (before - after, max_drop))
    return f"it loses {lost} of {text_under(head, before)} ({head}), allowed {allowed}"


def facts_of(report: Exported) -> dict[str, Any]:
    """What a card may say of an export, ready for JSON."""
    return {
        "opset": OPSET,
        "input": report.inputs,
        "outputs": report.outputs,
        "samples": report.samples,
        "split": report.split,
        "measured": {
            name: {k: v for k, v in asdict(one).items() if v is not None} for name, one in report.measured.items()
        },
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime")},
    }
