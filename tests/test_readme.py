"""The commands in the README and in docs/ work, and those that CI runs are in the README."""

import ast
import json
import re
import shlex
import subprocess

import pytest
from conftest import ROOT

from zoo.paths import TRAINED

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = PAGES[0].read_text()


def commands_of(text):
    return [
        line.split("  #")[0].strip()
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        for line in block.replace("\\\n", "").splitlines()
        if line.strip() and not line.startswith("#")
    ]


COMMANDS = commands_of(README)
ALL = list(dict.fromkeys(command for page in PAGES for command in commands_of(page.read_text())))
TRAIN = [c for c in ALL if c.startswith("python train.py") and "--config-dir" not in c]  # of the reader's own


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


def test_its_python_classifies_a_picture(monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    first, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(first, {})
    assert ast.literal_eval(capfd.readouterr().out)[0][0] == "7"
    exec(second, {})


def test_its_first_run_is_that_of_the_net_that_comes_with_the_zoo():
    run = json.loads((TRAINED / "lenet5_mnist_5k.json").read_text())["run"]
    (shown,) = re.findall(r"accuracy │ +([\d.]+%) │ +([\d.]+%)", README)
    assert shown == (f"{run['validation']['accuracy']:.2%}", f"{run['test']['accuracy']:.2%}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_script_a_page_names_exists_and_every_local_link_leads_somewhere(page):
    text = page.read_text()
    for name in re.findall(r"python ((?:scripts/)?\w+\.py)", text):
        assert (ROOT / name).exists(), name
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    headings = [re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in text.splitlines()]
    for place in re.findall(r"\]\(#([^)]+)\)", text):
        assert place in headings, place
