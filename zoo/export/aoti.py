"""The AOTInductor package: a net compiled to machine code, for a process that has torch and nothing of ours.

It is never read here, since code that somebody compiled cannot be checked before it runs.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import BadInput
from zoo.export.file_metadata import labels
from zoo.export.onnx import quiet
from zoo.export.parts import Part, trace
from zoo.files import replacing


def check_compiler() -> None:
    """Raise BadInput where there is no C++ compiler."""
    name = os.environ.get("CXX", "g++")
    if not shutil.which(name):
        raise BadInput(f"format=aoti compiles the net, and there is no compiler '{name}'; install g++, or set CXX")


def save_aoti(path: Path, part: Part, facts: Mapping[str, Any]) -> None:
    """Compile a net's part for CPUs like this one, and any number of threads; whole or not at all."""
    from torch._inductor import aoti_compile_and_package

    program = trace(part)
    program.example_inputs = (part.inputs, {})
    settings = {"aot_inductor.metadata": labels(facts), "cpp.dynamic_threads": True}
    with quiet(), replacing(path) as file:
        aoti_compile_and_package(program, package_path=file, inductor_configs=settings)
