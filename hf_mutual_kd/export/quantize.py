"""ONNX models in int8, by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks.exporting import Given
from .onnx_files import silenced


def quantize(source: Path, target: Path, calibration: Iterator[Given]) -> str:
    """
    Write the int8 file of an ONNX model.

    Args:
        source (`Path`): the model.
        target (`Path`): where its int8 form goes.
        calibration (iterator of `dict[str, torch.Tensor]`): batches of inputs that set the ranges of activations,
            where these are static; read only then.

    Returns:
        `str`: `"static"` where convolutions hold at least half of the weights, else `"dynamic"`.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_name(f"prepared_{target.name}")
    with silenced():
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    try:
        if _convolved(onnx.load(str(prepared))) < 0.5:
            with silenced():
                quantize_dynamic(str(prepared), str(target), op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
            return "dynamic"

        class Reader(CalibrationDataReader):
            def get_next(self) -> dict[str, np.ndarray] | None:
                batch = next(calibration, None)
                return None if batch is None else {name: value.numpy() for name, value in batch.items()}

        with silenced():
            quantize_static(str(prepared), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
        return "static"
    finally:
        prepared.unlink()


def _convolved(model: Any) -> float:
    """The share of the weights that belongs to convolutions; cutting an image into patches is none."""
    shapes = {one.name: list(one.dims) for one in model.graph.initializer}
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    convolved = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            given = {one.name: list(one.ints) for one in node.attribute}
            # ONNX lets a kernel's shape be that of its weights.
            kernel = given.get("kernel_shape") or shapes.get(node.input[1], [])[2:]
            is_patch = kernel == given.get("strides") and max(kernel, default=1) > 1
            convolved += 0 if is_patch else sum(sizes.get(name, 0) for name in node.input)
    return convolved / max(1, sum(sizes.values()))
