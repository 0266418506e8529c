"""The command `zoo`: from any folder, `zoo train ...` does what `python train.py ...` does in a checkout."""

import ast
import contextlib
import os
import runpy
import sys

from zoo.errors import choices
from zoo.paths import STARTED_BY_ZOO, commands


def main() -> None:
    """Run the command named by the first argument, or list all commands."""
    files = commands()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        lines = ["Train, evaluate, compress and export the networks of the zoo: zoo COMMAND [OPTIONS]", ""]
        for command, file in files.items():
            first_line = (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()[0]
            lines.append(f"  {command:12} {first_line}")
        with contextlib.suppress(BrokenPipeError):  # the reader has closed the pipe
            print("\n".join([*lines, "", "zoo COMMAND --help lists the options of a command."]))
        return
    if name not in files:
        print(f"error: zoo {name}: there is no such command; {choices(name, files)}", file=sys.stderr)
        sys.exit(2)
    os.environ[STARTED_BY_ZOO] = "1"
    sys.argv = [str(files[name]), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")
