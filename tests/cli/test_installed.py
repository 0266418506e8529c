"""The package installed with `pip install .` includes its configs and commands, and works from any folder."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Install the project into a separate folder, as pip does, and return a function that runs the command `zoo`."""
    there, empty = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("empty")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*pip, str(there), str(ROOT)], check=True, capture_output=True, text=True)
    environment = {**os.environ, "PYTHONPATH": str(there)}

    def run(*line):
        command = [sys.executable, str(there / "bin/zoo"), *line]
        return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=300)

    run.folder = empty
    return run


def test_it_trains_and_evaluates_from_an_empty_folder_and_names_its_own_commands(zoo):
    trained = zoo("train", "trainer=smoke", "trainer.accelerator=cpu", "name=first")
    assert trained.returncode == 0, trained.stderr
    (product,) = zoo.folder.glob("runs/first/*/model.safetensors")
    assert f"zoo evaluate checkpoint={product.relative_to(zoo.folder)}" in trained.stdout
    evaluated = zoo("evaluate", f"checkpoint={product}", "accelerator=cpu")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads((product.parent / "evaluation.json").read_text())["num_samples"] == 1000


def test_without_a_command_it_lists_them_and_a_typo_is_told_with_what_was_meant(zoo):
    listed = zoo()
    assert listed.returncode == 0
    assert {line.split()[0] for line in listed.stdout.splitlines() if line.startswith("  ")} == {
        *("train", "evaluate", "predict", "export", "compare", "search", "sensitivity", "summary", "benchmark"),
        *("calibrate", "explain", "reproduce", "inspect_data"),
    }
    typo = zoo("trian")
    assert typo.returncode == 2
    assert "train" in typo.stderr


def test_help_shows_every_option_of_every_group(zoo):
    shown = zoo("train", "--help")
    assert shown.returncode == 0
    groups = ("model", "data", "task", "optim", "schedule", "callbacks", "compress", "trainer", "experiment")
    for group in groups:
        assert {file.stem for file in (ROOT / "configs" / group).glob("*.yaml")} <= set(shown.stdout.split())
