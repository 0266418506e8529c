"""The .onnx file with 8-bit weights and activations."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.data.sequences import SequenceData
from zoo.export import format_onnx
from zoo.export.export_format import Job
from zoo.export.onnx import translate, write_onnx
from zoo.export.onnx_int8 import dynamically_quantized, quantized
from zoo.export.parts import ExportPart
from zoo.export.read_export import pixels


class Format(format_onnx.Format):
    file, precision, smaller = "model_int8.onnx", "int8", True

    def write(self, path: Path, job: Job) -> list[Path]:
        """Calibrate activations on augmented training batches; for sequences, quantize them at each call."""

        def save(path: Path, part: ExportPart, facts: dict[str, Any]) -> None:
            model = translate(part)
            if isinstance(job.data, SequenceData):
                write_onnx(path, dynamically_quantized(model), facts)
            else:
                write_onnx(path, quantized(model, _calibration(job)), facts)

        return job.write_parts(path, save)


def _calibration(job: Job) -> Iterator[np.ndarray]:
    mean, std = (torch.tensor(job.facts["data"][name])[:, None, None] for name in ("mean", "std"))
    for images, _ in itertools.islice(job.data.loader("train", "cpu"), job.cfg.calibration_batches):
        yield (pixels(images, mean, std) if job.cfg.bake else images).numpy()
