"""One C file for a microcontroller, compiled and run by the host to verify it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoo.checkpoint.product_file import Product
from zoo.errors import BadInput
from zoo.export.c_program import Translation
from zoo.export.c_source import FRACTION, Source, source_of
from zoo.export.export_format import ExportFormat, Job
from zoo.export.worker import c_compiler
from zoo.files import replacing
from zoo.quantize.exact_program import ExactProgram
from zoo.quantize.graph_ir import QuantizedNet
from zoo.quantize.pt2e import program_of
from zoo.ranges import height_width

NUM_EXACT = 100  # test images whose scores must be those of exact arithmetic


def c_source(product: Product) -> Source:
    """Return the C file of a net in int8; raise BadInput for what C cannot express."""
    settings, data, program = (
        product.facts["config"]["data"],
        product.facts["data"],
        program_of(product.facts["recipe"]),
    )
    if data.get("number_scale"):
        raise BadInput("a C file gives each image one class, and this net gives numbers; use format=onnx")
    if program is None:
        raise BadInput(f"{product.path} is not in int8; use compress=ptq_int8 or qat_int8")
    shape = settings["in_channels"], *height_width(settings["image_size"])
    mean, std = (torch.tensor(data[name])[:, None] for name in ("mean", "std"))
    pixels = (torch.arange(256.0) - mean) * (1 / std)  # as zoo.data.loader computes them
    steps = Translation(product.weights, shape, pixels).run(program)
    return source_of(steps, shape, data["classes"])


class Format(ExportFormat):
    file, runtime, runs_alone, takes_pixels, needs_int8 = "model.c", "c99", True, True, True

    def check(self) -> None:
        if not shutil.which(c_compiler()):
            raise BadInput(
                f"format=c compiles the file to verify it, and there is no compiler '{c_compiler()}'; install gcc, or "
                "set CC"
            )

    def write(self, path: Path, job: Job) -> list[Path]:
        """Write the C file; raise BadInput for what C cannot express, and for activations that exceed `ram`."""
        source = c_source(job.product)
        if job.cfg.ram is not None and source.arena_bytes > job.cfg.ram:
            raise BadInput(f"its activations take {source.arena_bytes:,} bytes, more than ram={job.cfg.ram:,}")
        with replacing(path) as file:
            file.write(source.text.encode())
        return [path]

    def mismatch(self, logits: Sequence[Tensor], job: Job) -> str | None:
        """Compare scores with those of the program in exact arithmetic."""
        assert isinstance(job.net, QuantizedNet)
        images, _ = next(iter(job.data.loader("test", "cpu")))
        exact = ExactProgram(job.net).run(images[:NUM_EXACT])
        num_wrong = int((torch.round(exact * FRACTION) != logits[0][:NUM_EXACT] * FRACTION).sum())
        return f"{num_wrong:,} scores of {exact.numel():,} are not the program's" if num_wrong else None
