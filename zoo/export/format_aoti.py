"""The AOTInductor package, run by torch; it is compiled code, so the zoo does not read it back."""

from pathlib import Path

from zoo.export.aoti import save_aoti
from zoo.export.export_format import ExportFormat, Job
from zoo.measure.compiler import check_compiler


class Format(ExportFormat):
    file, runtime, runs_alone, bakes = "model_aoti.pt2", "aotinductor", True, True

    def check(self) -> None:
        check_compiler("format=aoti")

    def write(self, path: Path, job: Job) -> list[Path]:
        return job.write_parts(path, save_aoti)
