"""The .pte file: ExecuTorch computes the net's logits and has its metadata, and what does not suit it is refused."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from small import BAKED, FACTS, tiny

from zoo.data.sequences import SequenceData
from zoo.errors import BadInput
from zoo.export import format_pte
from zoo.export.export_format import format_of
from zoo.export.parts import parts
from zoo.export.verify import running

READ = """
import sys
from executorch.runtime import Runtime
program = Runtime.get().load_program(sys.argv[1])
print(*(program.load_method(name).execute([])[0] for name in ("classes", "mean", "input")), sep="\\n")
"""


@pytest.fixture
def has_executorch():
    pytest.importorskip("executorch")


def job_of(net, facts, data=None):
    settings = SimpleNamespace(bake=facts["export"]["bake"], calibration_batches=2)
    return SimpleNamespace(net=net, facts=facts, product=SimpleNamespace(facts=facts), data=data, cfg=settings)


@pytest.mark.slow
@pytest.mark.usefixtures("has_executorch")
@pytest.mark.parametrize("facts", [FACTS, BAKED], ids=["images", "pixels"])
def test_executorch_computes_the_logits_of_any_number_of_images(facts, tmp_path):
    net = tiny()
    (path,) = format_of("pte").write(tmp_path / "model.pte", job_of(net, facts))
    shape = (3, 1, 28, 28)
    images = torch.randint(256, shape, dtype=torch.uint8) if facts is BAKED else torch.randn(shape)
    with running([path], runs_alone=True) as (runs, measured), torch.inference_mode():
        expected = parts(net, facts)[""].net(images)
        torch.testing.assert_close(runs[0](images)[0], expected, rtol=1e-4, atol=1e-4)
        assert len(runs[0](images[:1])[0]) == 1
    assert "executorch" in measured["modules"]
    assert "zoo" not in measured["modules"]
    done = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=True)
    classes, mean, takes = done.stdout.splitlines()[-3:]
    assert (json.loads(classes), json.loads(mean)) == (FACTS["data"]["classes"], FACTS["data"]["mean"])
    assert takes.startswith("uint8" if facts is BAKED else "float32")


@pytest.mark.slow
@pytest.mark.usefixtures("has_executorch")
def test_scales_in_int8_come_from_the_training_images(tmp_path):
    net, images = tiny(), 0.5 * torch.randn(64, 1, 28, 28)
    data = SimpleNamespace(loader=lambda split, device: iter([(images[:32], None), (images[32:], None)]))
    (path,) = format_of("pte_int8").write(tmp_path / "model_int8.pte", job_of(net, FACTS, data))
    with running([path], runs_alone=True) as (runs, _), torch.inference_mode():
        found, expected = runs[0](images)[0], net(images)
        assert (found - expected).abs().max() < 0.1 * expected.abs().max()
        assert not torch.equal(found, expected)
        step = found.unique().diff()  # all logits of a net in int8 are multiples of one scale
        assert (step / step.min() - (step / step.min()).round()).abs().max() < 1e-3


def test_nets_that_do_not_suit_executorch_are_refused(tmp_path):
    form, path = format_pte.Format(), tmp_path / "model.pte"
    sequences = SequenceData.__new__(SequenceData)
    with pytest.raises(BadInput, match="this net reads sequences; use format=onnx"):
        form.write(path, job_of(tiny(), FACTS, sequences))
    with pytest.raises(BadInput, match="use format=pte_int8 with the float net"):
        form.write(path, job_of(tiny(), {**FACTS, "recipe": [{"pass": "weight_only"}]}))
    assert not path.exists()


@pytest.mark.parametrize(
    ("installed", "sentence"),
    [
        (None, "format=pte needs the package executorch"),
        ("raise ImportError('undefined symbol: _ZN5torch')", "does not work with torch .*undefined symbol"),
    ],
    ids=["absent", "of another torch"],
)
def test_an_executorch_that_is_absent_or_for_another_torch_is_said(installed, sentence, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "executorch"]:
        monkeypatch.delitem(sys.modules, name)
    if isinstance(installed, str):
        (tmp_path / "executorch").mkdir()
        (tmp_path / "executorch/__init__.py").write_text(installed)
        monkeypatch.syspath_prepend(tmp_path)
    else:
        monkeypatch.setitem(sys.modules, "executorch", installed)
    with pytest.raises(BadInput, match=sentence):
        format_of("pte").check()
