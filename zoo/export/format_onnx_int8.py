"""The .onnx file with 8-bit weights and activations."""

from pathlib import Path
from typing import Any

from zoo.data.sequences import SequenceData
from zoo.export import format_onnx
from zoo.export.calibration_images import calibration_images
from zoo.export.export_format import Job
from zoo.export.onnx import translate, write_onnx
from zoo.export.onnx_int8 import dynamically_quantized, quantized
from zoo.export.parts import ExportPart


class Format(format_onnx.Format):
    file, precision, smaller = "model_int8.onnx", "int8", True

    def write(self, path: Path, job: Job) -> list[Path]:
        """Calibrate activations on augmented training batches; for sequences, quantize them at each call."""

        def save(path: Path, part: ExportPart, facts: dict[str, Any]) -> None:
            model = translate(part)
            if isinstance(job.data, SequenceData):
                write_onnx(path, dynamically_quantized(model), facts)
            else:
                write_onnx(path, quantized(model, (images.numpy() for images in calibration_images(job))), facts)

        return job.write_parts(path, save)
