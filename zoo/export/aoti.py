"""The AOTInductor package: a net compiled to machine code, for a process that has only torch installed.

The zoo never reads one, since compiled code cannot be checked before it runs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.export.file_metadata import labels
from zoo.export.onnx import quiet
from zoo.export.parts import ExportPart, trace
from zoo.files import replacing


def save_aoti(path: Path, part: ExportPart, facts: Mapping[str, Any]) -> None:
    """Compile a part of a net for this kind of CPU and any number of threads; write it atomically."""
    from torch._inductor import aoti_compile_and_package

    program = trace(part)
    program.example_inputs = (part.inputs, {})
    settings = {"aot_inductor.metadata": labels(facts), "cpp.dynamic_threads": True}
    with quiet(), replacing(path) as file:
        aoti_compile_and_package(program, package_path=file, inductor_configs=settings)
