"""The weights of a net for timm, and verified by it."""

import importlib.util
from pathlib import Path

from zoo.checkpoint.timm_weights import CONFIG_JSON
from zoo.errors import BadInput
from zoo.export.export_format import ExportFormat, Job
from zoo.export.library_weights import save_for_timm


class Format(ExportFormat):
    file, runtime, runs_alone = "model_timm.safetensors", "timm", True
    beside = (CONFIG_JSON,)

    def check(self) -> None:
        if importlib.util.find_spec("timm") is None:
            raise BadInput("format=timm needs the package timm, which verifies the file: pip install timm")

    def write(self, path: Path, job: Job) -> list[Path]:
        save_for_timm(path, job)
        return [path]
