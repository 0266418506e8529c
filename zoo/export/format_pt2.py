"""The .pt2 file, run by torch."""

from pathlib import Path

from zoo.export.export_format import ExportFormat, Job
from zoo.export.pt2 import open_pt2, save_pt2


class Format(ExportFormat):
    file, runtime, runs_alone, bakes = "model.pt2", "torch", True, True
    open = staticmethod(open_pt2)

    def write(self, path: Path, job: Job) -> list[Path]:
        return job.write_parts(path, save_pt2)
