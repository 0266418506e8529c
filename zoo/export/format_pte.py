"""The .pte file for phones, run by ExecuTorch."""

from pathlib import Path

from torch.export import ExportedProgram

from zoo.compress.recipe import in_integers
from zoo.data.sequences import SequenceData
from zoo.errors import BadInput
from zoo.export.export_format import ExportFormat, Job
from zoo.export.parts import ExportPart, parts
from zoo.export.pte import check_executorch, of_one_image, save_pte


class Format(ExportFormat):
    file, runtime, runs_alone, bakes = "model.pte", "executorch", True, True

    def check(self) -> None:
        check_executorch()

    def write(self, path: Path, job: Job) -> list[Path]:
        """Write the program; raise BadInput for a sequence net and for one that is already quantized."""
        if isinstance(job.data, SequenceData):
            raise BadInput("it takes a single image, and this net reads sequences; use format=onnx")
        if in_integers(job.product.facts["recipe"]):
            raise BadInput("XNNPACK has other integers than this net; use format=pte_int8 with the float net")
        save_pte(path, self.program(parts(job.net, job.facts)[""], job), job.facts)
        return [path]

    def program(self, part: ExportPart, job: Job) -> ExportedProgram:
        return of_one_image(part)
