"""The commands in the README work, and are those that CI runs."""

import re
import shlex
import subprocess

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", "").splitlines()
    if line.strip() and not line.startswith("#")
]
TRAIN = [c for c in COMMANDS if c.startswith("python train.py") and "<" not in c]


def test_the_first_two_commands_install_and_train_and_install_and_test():
    assert COMMANDS[0] == "pip install -e . && python train.py"
    assert COMMANDS[1] == "pip install -e '.[test]' && pytest"


def test_ci_runs_the_second():
    script = (ROOT / ".ci/run").read_text()
    (extraction,) = (line for line in script.splitlines() if line.startswith("line="))
    done = subprocess.run(["bash", "-c", f'{extraction}; echo "$line"'], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == COMMANDS[1]
    assert 'eval "$line"' in script


@pytest.mark.parametrize("line", TRAIN)
def test_every_training_command_composes(command, line):
    arguments = shlex.split(line)[2:]
    outcome = command("train", "--cfg", "job", *[a for a in arguments if a != "-m"]) if "-m" not in arguments else None
    if outcome is None:  # the choices of a sweep one by one
        first = [re.sub(r",.*", "", a) for a in arguments if a != "-m"]
        outcome = command("train", "--cfg", "job", *first)
    assert outcome.code == 0, outcome.err


def test_every_script_it_names_exists():
    for name in re.findall(r"python ((?:scripts/)?\w+\.py)", README):
        assert (ROOT / name).exists(), name


def test_every_local_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
