"""The .onnx file in float16."""

from zoo.export import format_onnx


class Format(format_onnx.Format):
    file, precision, smaller = "model_fp16.onnx", "fp16", True
