"""The .pte file with 8-bit weights and activations."""

from torch.export import ExportedProgram

from zoo.export import format_pte
from zoo.export.calibration_images import calibration_images
from zoo.export.export_format import Job
from zoo.export.parts import ExportPart
from zoo.export.pte import quantized_for_xnnpack


class Format(format_pte.Format):
    file, precision, smaller = "model_int8.pte", "int8", True

    def program(self, part: ExportPart, job: Job) -> ExportedProgram:
        return quantized_for_xnnpack(part, calibration_images(job))
