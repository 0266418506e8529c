"""The C++ compiler, which torch needs to compile a net for a CPU."""

import os
import shutil

from zoo.errors import BadInput


def compiler() -> str:
    """Return the name of the C++ compiler that torch uses."""
    return os.environ.get("CXX", "g++")


def has_compiler() -> bool:
    return shutil.which(compiler()) is not None


def check_compiler(setting: str) -> None:
    """Raise BadInput, which names the setting that needs it, if there is no C++ compiler."""
    if not has_compiler():
        raise BadInput(f"{setting} compiles the net, and there is no compiler '{compiler()}'; install g++, or set CXX")
