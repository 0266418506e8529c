"""An int8 .onnx file: Quantize and Dequantize around each tensor, which ONNX Runtime turns into integer kernels."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.export.onnx import quiet

if TYPE_CHECKING:
    import onnx


def quantized(model: "onnx.ModelProto", batches: Iterable[np.ndarray]) -> "onnx.ModelProto":
    """Return a float32 graph with int8 weights, one scale per channel, and uint8 activations, one per tensor.

    The scales of activations are moving averages of their minimum and maximum over the input batches. Operators that
    ONNX Runtime can fuse are fused first, which makes a ViT a fifth faster. The original graph cannot be used
    afterwards.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {model.graph.input[0].name: batch}

    with quiet(), tempfile.TemporaryDirectory() as folder:
        joined, path = Path(folder) / "joined.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(model, joined)
        quantize_static(
            joined,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"CalibMovingAverage": True},
        )
        return onnx.load(path)


def dynamically_quantized(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a float32 graph with the matrices of linear layers in int8, one scale per channel.

    Activations are quantized dynamically at each call. The original graph cannot be used afterwards.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            model, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
        )
        return onnx.load(path)
