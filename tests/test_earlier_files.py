"""Files of earlier versions can be read, with the metrics in tests/earlier/evaluations.json.

They come from commit ffb58d79b682: smoke runs of tiny nets on the digits of mnist_5k and on reversed letters.
"""

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

EARLIER = ROOT / "tests" / "earlier"
EVALUATIONS = json.loads((EARLIER / "evaluations.json").read_text())


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_file_of_an_earlier_version_is_worth_what_it_was(command, tmp_path, name):
    done = command("evaluate", f"checkpoint={EARLIER / name}", f"out={tmp_path}", "accelerator=cpu")
    assert done.code == 0, done.err
    (file,) = tmp_path.glob("evaluation*.json")
    found = json.loads(file.read_text())
    for key, value in EVALUATIONS[name].items():
        assert found[key] == pytest.approx(value, rel=1e-4), key  # another CPU may sum in another order


def test_a_run_of_an_earlier_version_goes_on(command, tmp_path):
    shutil.copytree(EARLIER / "run", tmp_path / "runs" / "resnet" / "earlier")
    done = command("train", "resume=runs/resnet/earlier", "trainer.max_epochs=3")
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "runs/resnet/earlier/result.json").read_text())
    assert result["epochs"] == 3
    assert result["params"] == json.loads((EARLIER / "run/result.json").read_text())["params"]
    assert Path(tmp_path / "runs/resnet/earlier/metrics.csv").read_text().count("val") >= 1
