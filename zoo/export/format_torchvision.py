"""The weights of a net for torchvision, and verified by it."""

from pathlib import Path

from zoo.export.export_format import ExportFormat, Job
from zoo.export.library_weights import save_for_torchvision


class Format(ExportFormat):
    file, runtime, runs_alone = "model_torchvision.safetensors", "torchvision", True

    def write(self, path: Path, job: Job) -> list[Path]:
        save_for_torchvision(path, job)
        return [path]
