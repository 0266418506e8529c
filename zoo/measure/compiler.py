"""The C++ compiler, which torch needs to compile a net for a CPU."""

import os
import shlex
import shutil
import sys

from zoo.errors import BadInput


def compiler() -> str:
    """Return the command of the C++ compiler that torch uses."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def has_compiler() -> bool:
    """Return whether the program of that command, which may have arguments, is there."""
    words = shlex.split(compiler())
    return bool(words) and shutil.which(words[0]) is not None


def check_compiler(setting: str) -> None:
    """Raise BadInput, which names the setting that needs it, if there is no C++ compiler."""
    if not has_compiler():
        raise BadInput(f"{setting} compiles the net, and there is no compiler '{compiler()}'; install g++, or set CXX")
