"""The notebook of docs/ is valid, has no outputs, and runs to its end."""

import ast
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

NOTEBOOK = json.loads((ROOT / "docs/tour.ipynb").read_text())
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_is_a_notebook_of_short_python_cells_without_outputs():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    assert {cell["cell_type"] for cell in NOTEBOOK["cells"]} == {"code", "markdown"}
    for cell in NOTEBOOK["cells"]:
        extra = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert cell.keys() == {"cell_type", "id", "metadata", "source", *extra}
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    for source in CODE:
        ast.parse(source)
        assert len(source.splitlines()) <= 15


@pytest.mark.slow
def test_its_cells_run_in_order(tmp_path):
    for name in ("configs", "scripts", "zoo", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "train.py", tmp_path)
    (tmp_path / "notebook").mkdir()
    cells = [source.replace("EPOCHS = 5", "EPOCHS = 1") for source in CODE]
    assert cells != CODE
    done = subprocess.run(
        [sys.executable, "-c", "\n\n".join(cells)],
        cwd=tmp_path / "notebook",  # as in docs/
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/tour_comparison/comparison.html").is_file()
    assert "('7', " in done.stdout
