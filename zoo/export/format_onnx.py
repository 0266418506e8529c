"""The .onnx file, run by ONNX Runtime."""

from pathlib import Path

from zoo.export.export_format import ExportFormat, Job
from zoo.export.onnx import open_onnx, save_onnx


class Format(ExportFormat):
    file, runtime, runs_alone, bakes = "model.onnx", "onnxruntime", True, True
    open = staticmethod(open_onnx)

    def write(self, path: Path, job: Job) -> list[Path]:
        return job.write_parts(path, save_onnx)
