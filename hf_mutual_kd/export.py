"""Peers as ONNX, each file checked against PyTorch on samples of the test split before it may stay."""

from __future__ import annotations

import itertools
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .adapters import merged
from .checkpoints import staged, write_json
from .errors import ExportError
from .hub_names import choose_peers, read_run
from .images import decode_image
from .peers import LoadedPeer, PeerSpec, label_list, load_peer
from .quantise import quantise
from .run_splits import load_run_splits
from .tasks import TASKS

FOLDER = "onnx"
"""Inside a peer's folder, where transformers.js and Optimum look for `model.onnx` and `model_int8.onnx`."""
FACTS = "export.json"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
MODEL, QUANTISED = "model.onnx", "model_int8.onnx"
OPSET = 20

TOLERANCE = 1e-3
"""Of the logits' size, which float32 in another order of operations stays well below."""
LARGEST = 1_900_000_000
"""Bytes of weights; one ONNX file holds less than 2 GiB."""
CALIBRATION = 128
"""Training samples that set the ranges of activations of a static quantisation."""
BATCH = 32
WARM_UP, TIMED = 5, 30


@dataclass
class Checked:
    """One file, or PyTorch itself, measured on the same samples.

    Args:
        what (`str`): `"PyTorch"`, `"float32"`, `"int8, dynamic"` or `"int8, static"`.
        bytes (`int`): of the file; of PyTorch's weights in memory.
        latency_ms (`float`): median of one sample on one core.
        max_difference (`float`): largest distance of a logit from PyTorch's.
        agreement (`float`): share of samples (of maps: pixels) with the same best class as PyTorch.
        accuracy (`float`, *optional*): where samples have labels that the peer knows by name.
        refused (`str`, *optional*): why the file was deleted.
    """

    what: str
    bytes: int
    latency_ms: float
    max_difference: float = 0.0
    agreement: float = 1.0
    accuracy: float | None = None
    refused: str | None = None


@dataclass
class Exported:
    """What became of one peer.

    Args:
        peer (`str`): its name.
        folder (`Path`): of the files.
        samples (`int`): how many were looked at.
        split (`str`): where they are from.
        measured (`dict[str, Checked]`): by file, PyTorch under `"pytorch"`.
    """

    peer: str
    folder: Path
    samples: int
    split: str = "test"
    measured: dict[str, Checked] = field(default_factory=dict)


@dataclass
class Samples:
    """What an export is checked with: images, and labels below 0 where there are none."""

    images: list[Any]
    labels: list[int]
    calibration: list[Any]
    label_names: list[str]


def export_peers(
    place: str | Path,
    *,
    int8: bool = False,
    peers: Sequence[str] | None = None,
    out: str | Path | None = None,
    dataset: str | None = None,
    samples: int = 256,
    max_drop: float = 0.02,
) -> list[Exported]:
    """
    Write the peers of a run, or one model folder, as ONNX.

    Each file has a dynamic batch, carries no path or name of this machine, and stays only where it does what PyTorch
    does: in float32 the same logits, in int8 nearly the same accuracy.

    Args:
        place (`str` or `Path`): folder of a run, or of a model (a peer's, then the run above it says which data).
        int8 (`bool`, *optional*, defaults to `False`): also a quantised file: weights only, with dynamic activations,
            for models that mostly multiply matrices; static, calibrated on training samples, for convolutions.
        peers (`list[str]`, *optional*): only these of the run.
        out (`str` or `Path`, *optional*): another folder, in which each peer gets one with its processor beside;
            `onnx/` in the peer's own folder when unset.
        dataset (`str`, *optional*): where the data set is, if not where the run had it.
        samples (`int`, *optional*, defaults to 256): of the test split, the first ones.
        max_drop (`float`, *optional*, defaults to 0.02): accuracy that int8 may lose; without labels, the share of
            samples on which it may disagree with PyTorch.

    Returns:
        `list[Exported]`: also with files that were refused, which are deleted.

    Raises:
        [`~hf_mutual_kd.errors.ExportError`]: packages are missing, no model here, a model that ONNX cannot hold, or
            float32 that differs from PyTorch.

    Example:

    ```python
    >>> [file.what for file in export_peers("runs/vit_classify", int8=True)[0].measured.values()]
    ['PyTorch', 'float32', 'int8, dynamic']
    ```
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ExportError(f"{', '.join(missing)} is missing; pip install 'hf-mutual-kd[onnx]'")
    if samples < 1:
        raise ExportError(f"samples must be 1 or more, got {samples}")
    folders, record = _find(Path(place), peers)
    splits = load_run_splits(record, dataset)
    test = list(itertools.islice(splits.test, samples))
    train = list(itertools.islice(splits.train, CALIBRATION)) if int8 else []
    drawn = Samples(
        [decode_image(row["image"]) for row in test],
        [label if isinstance(label := row.get("label"), int) else -1 for row in test],
        [decode_image(row["image"]) for row in train],
        splits.label_names or [],
    )
    trusted = (record.get("recipe") or {}).get("trust_remote_code") is True
    done = []
    for name, folder in folders.items():
        loaded = load_peer(name, PeerSpec(source=str(folder)), TASKS[record["task"]](), trust_remote_code=trusted)
        loaded = replace(loaded, model=merged(loaded.model))
        target = folder if out is None else Path(out) / name
        target.mkdir(parents=True, exist_ok=True)
        if out is not None:
            for part in (loaded.processor, loaded.model.config):
                part.save_pretrained(target)  # type: ignore[union-attr, operator]
        done.append(_export(name, loaded, target / FOLDER, drawn, int8, max_drop))
    return done


def _find(place: Path, peers: Sequence[str] | None) -> tuple[dict[str, Path], dict[str, Any]]:
    """The model folders by name, and the record of their run."""
    if (place / "cohort.json").is_file():
        run = read_run(place)
        names = choose_peers(run, peers)
        return {name: place / name for name in names}, _record(place)
    if not (place / "config.json").is_file():
        raise ExportError(f"{place} is neither a run (no cohort.json) nor a model folder (no config.json)")
    if peers:
        raise ExportError(f"peers are chosen from a run, and {place} is one model; leave --peers out")
    above = place.resolve().parent
    if (above / "cohort.json").is_file() and place.resolve().name in read_run(above).peers:
        return {place.resolve().name: place}, _record(above)
    architecture = str(
        (json.loads((place / "config.json").read_text(encoding="utf-8")).get("architectures") or [""])[0]
    )
    task = "semantic-segmentation" if "Segmentation" in architecture else "image-classification"
    return {place.resolve().name: place}, {"task": task}


def _record(run: Path) -> dict[str, Any]:
    record = json.loads((run / "cohort.json").read_text(encoding="utf-8"))
    if record.get("task") not in ("image-classification", "semantic-segmentation"):
        raise ExportError(
            f"{run}: peers for {record.get('task')} are not exported yet, only those that look at images"
        )
    return record


class LogitsOnly(nn.Module):
    """A peer as ONNX takes it: one tensor in, one out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        outputs = self.model(pixel_values=pixel_values)
        return outputs.logits if hasattr(outputs, "logits") else outputs


def _export(name: str, loaded: LoadedPeer, place: Path, drawn: Samples, int8: bool, max_drop: float) -> Exported:
    """Write, check and measure the files of one peer."""
    model = LogitsOnly(loaded.model.float()).eval()
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    if weights > LARGEST:
        raise ExportError(f"peer {name!r} has {weights / 1e9:.1f} GB of weights, and one ONNX file holds less than 2")
    pixels = _pixels(name, loaded.processor, drawn.images)
    truth = _truth(drawn, label_list(loaded.model))
    expected = _run_torch(name, model, pixels)
    report = Exported(name, place, len(pixels))
    report.measured["pytorch"] = Checked(
        "PyTorch", weights, _time_torch(model, pixels[:1]), 0.0, 1.0, _accuracy(expected, truth)
    )
    with staged(place) as made:
        _to_onnx(name, model, pixels, made / MODEL)
        plain = report.measured[MODEL] = _check(made / MODEL, "float32", pixels, expected, truth)
        limit = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        if not plain.max_difference <= limit:
            raise ExportError(
                f"peer {name!r}: ONNX gives other logits than PyTorch (largest difference {plain.max_difference:.2g}, "
                f"allowed {limit:.2g}); nothing was kept"
            )
        if int8:
            kind = quantise(made / MODEL, made / QUANTISED, _pixels(name, loaded.processor, drawn.calibration))
            small = report.measured[QUANTISED] = _check(made / QUANTISED, f"int8, {kind}", pixels, expected, truth)
            small.refused = _refusal(small, report.measured["pytorch"], max_drop)
            if small.refused:
                (made / QUANTISED).unlink()
        write_json(made / FACTS, facts_of(report))
    return report


def _refusal(small: Checked, plain: Checked, max_drop: float) -> str | None:
    if small.accuracy is not None and plain.accuracy is not None:
        lost = plain.accuracy - small.accuracy
        return (
            f"it loses {100 * lost:.1f} points of accuracy, allowed {100 * max_drop:.1f}" if lost > max_drop else None
        )
    other = 1 - small.agreement
    return f"it disagrees on {100 * other:.1f} %, allowed {100 * max_drop:.1f}" if other > max_drop else None


def facts_of(report: Exported) -> dict[str, Any]:
    """What a card may say of an export, ready for JSON."""
    return {
        "opset": OPSET,
        "samples": report.samples,
        "split": report.split,
        "measured": {
            name: {k: v for k, v in asdict(one).items() if v is not None} for name, one in report.measured.items()
        },
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime")},
    }


def _pixels(name: str, processor: Any, images: Sequence[Any]) -> np.ndarray:
    """Images as the peer takes them `[R, 3, H, W]`."""
    if not images:
        return np.empty((0,), np.float32)
    made = dict(processor(images=list(images), return_tensors="pt"))
    pixels = made.pop("pixel_values", None)
    # A mask over pixels that are all there says nothing.
    extra = [key for key, value in made.items() if not (key == "pixel_mask" and bool(value.all()))]
    if pixels is None or extra:
        raise ExportError(
            f"peer {name!r} takes {', '.join(extra) or 'no pixel_values'}; only peers of images are exported"
        )
    return np.ascontiguousarray(pixels.float().numpy())


def _truth(drawn: Samples, labels: Sequence[str]) -> np.ndarray | None:
    """Each sample's class among the peer's own, `None` where names do not tell."""
    places = {label: place for place, label in enumerate(labels)}
    if not drawn.label_names or min(drawn.labels) < 0:
        return None
    found = [places.get(drawn.label_names[label], -1) for label in drawn.labels]
    return np.array(found) if min(found) >= 0 else None


def _to_onnx(name: str, model: nn.Module, pixels: np.ndarray, path: Path) -> None:
    # Two samples, as a batch of one would be taken for a constant.
    example = torch.from_numpy(np.repeat(pixels[:1], 2, axis=0))
    shapes = {"pixel_values": {0: torch.export.Dim("batch")}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model, (example,), dynamo=True, opset_version=OPSET, dynamic_shapes=shapes, verbose=False,
                input_names=["pixel_values"], output_names=["logits"],
            )  # fmt: skip
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"peer {name!r} cannot be written as ONNX: {reason}") from error
    if program is None:
        raise ExportError(f"peer {name!r} cannot be written as ONNX: torch.onnx gave no program")
    _forget_sources(program.model)
    program.save(str(path), external_data=False)


def _forget_sources(model: Any) -> None:
    """Take out where each node comes from: it names folders of this machine."""
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*graph.inputs, *getattr(graph, "initializers", {}).values()):
            value.metadata_props.clear()
    model.metadata_props.clear()


def _session(path: Path) -> Any:
    """ONNX Runtime on one core of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _check(path: Path, what: str, pixels: np.ndarray, expected: np.ndarray, truth: np.ndarray | None) -> Checked:
    session = _session(path)
    found = np.concatenate([session.run(None, {"pixel_values": batch})[0] for batch in _batches(pixels)])
    agreement = float((found.argmax(1) == expected.argmax(1)).mean())
    latency = _median_ms(lambda: session.run(None, {"pixel_values": pixels[:1]}))
    difference = float(np.abs(found - expected).max())
    return Checked(what, path.stat().st_size, latency, difference, agreement, _accuracy(found, truth))


def _run_torch(name: str, model: nn.Module, pixels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        outputs = [model(torch.from_numpy(batch)) for batch in _batches(pixels)]
    if not isinstance(outputs[0], torch.Tensor) or outputs[0].ndim < 2:
        raise ExportError(f"peer {name!r} gives no logits per class; models that answer with queries are not exported")
    return torch.cat(outputs).numpy()


def _time_torch(model: nn.Module, pixels: np.ndarray) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            return _median_ms(lambda: model(torch.from_numpy(pixels)))
    finally:
        torch.set_num_threads(threads)


def _median_ms(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(WARM_UP + TIMED):
        began = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[WARM_UP:])


def _batches(pixels: np.ndarray) -> Iterable[np.ndarray]:
    return (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))


def _accuracy(logits: np.ndarray, truth: np.ndarray | None) -> float | None:
    return None if truth is None or logits.ndim > 2 else float((logits.argmax(1) == truth).mean())
