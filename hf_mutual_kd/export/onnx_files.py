"""ONNX files of peers: written by `torch.onnx`, without a word of the machine, and run by ONNX Runtime."""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ExportError
from ..tasks.exporting import Given, Traceable

OPSET = 20

CODE_PLACE = re.compile(r"([\w-]+\.py)\", line (\d+)")


def write_onnx(name: str, traceable: Traceable, example: Given, free: Sequence[str], path: Path) -> None:
    """
    Write a peer as one file for batches of any size.

    Args:
        name (`str`): the peer, for messages.
        traceable ([`Traceable`]): in eval mode.
        example (`dict[str, torch.Tensor]`): one sample, `[1, ...]` each.
        free (`list[str]`): as of [`TaskExport`].
        path (`Path`): where the file goes.

    Raises:
        [`ExportError`]: `torch.onnx` cannot hold what the model does (says which operator or
            line), or the model's code takes the number of samples for a constant.
    """
    traceable = copy.deepcopy(traceable)
    _make_traceable(traceable.model)
    sizes = {place: torch.export.Dim(called) for place, called in enumerate(free)}
    try:
        with silenced():
            program = torch.onnx.export(
                # Two samples, as a batch of one would be taken for a constant.
                traceable,
                tuple(torch.cat([value, value]) for value in example.values()),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
                dynamic_shapes={"tensors": (sizes,) * len(example)},
                input_names=list(example),
                output_names=list(traceable.outputs),
                custom_translation_table={torch.ops.aten._is_all_true.default: _all_true},
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ExportError(f"peer {name!r} cannot be written as ONNX: {_reason(error)}") from error
    if program is None:
        raise ExportError(f"peer {name!r} cannot be written as ONNX: torch.onnx gave no program")
    shape = program.model.graph.inputs[0].shape
    fixed = [called for place, called in enumerate(free) if shape is None or isinstance(shape[place], int)]
    if fixed:
        raise ExportError(
            f"peer {name!r} cannot be written as ONNX: the code of {type(traceable.model).__name__} takes the size of "
            f"the {fixed[0]} for a constant, as len(tensor) or int(tensor.shape[0]) in its forward do"
        )
    _forget_sources(program.model)
    program.save(str(path), external_data=False)


@contextmanager
def silenced() -> Iterator[None]:
    """Nothing from exporters and quantizers, which print whole graphs; of errors we say what counts."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _make_traceable(model: Any) -> None:
    """Choose those of equal ways through a model that `torch.onnx` can follow."""
    if hasattr(model, "set_attn_implementation"):
        # Fused attention leaves its output in another memory order than the steps that it is taken apart into.
        model.set_attn_implementation("eager")
    for part in model.modules():
        switches = getattr(part, "attn_mask_probs", None)
        if isinstance(switches, Tensor):
            # EoMT reads from a buffer whether a layer is masked, which a trace cannot know.
            del part.attn_mask_probs
            part.attn_mask_probs = switches.tolist()


def _all_true(values: Any) -> Any:
    """What a check inside a model asks, which `torch.onnx` takes out only after it has looked for its form in ONNX."""
    from onnx import TensorProto
    from onnxscript import opset20

    op: Any = opset20
    return op.Cast(op.ReduceMin(op.Cast(values, to=TensorProto.INT32), keepdims=0), to=TensorProto.BOOL)


def _reason(error: BaseException) -> str:
    """What stands in the way, as the innermost error says it, and the line of the model where that is known."""
    text = str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        text += f"\n{error}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = re.sub(r" *See the stack trace for more information\.$", "", lines[0]) if lines else type(error).__name__
    unknown = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", text)
    if unknown:
        reason = f"opset {OPSET} of torch.onnx has no form for the operator {unknown[1]}"
    place = next((found for found in CODE_PLACE.findall(text) if found[0].startswith("modeling_")), None)
    return f"{reason} ({place[0]}, line {place[1]})" if place else reason


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


def open_onnx(path: Path) -> Any:
    """ONNX Runtime on one core of the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
