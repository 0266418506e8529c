"""A net, data and a task of a person's own package, from training to prediction, once they say that they trust it."""

import json
import sys

import pytest

PACKAGE = '''
import torch
from torch import nn

from zoo.data.sources import ImageSource, LabelledImages
from zoo.tasks.classification import ImageClassification


class TinyNet(nn.Module):
    head_names = ("head",)

    def __init__(self, in_channels: int, num_classes: int, image_size: int, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 3, stride=2)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(torch.relu(self.conv(images)).mean((2, 3)))


def stripes(num: int = 60) -> ImageSource:
    """Draw horizontal and vertical stripes, so that a net of one layer can tell them apart."""
    images = torch.zeros(num, 1, 12, 12, dtype=torch.uint8)
    images[::2, :, ::2] = 255
    images[1::2, :, :, ::2] = 255
    labels = torch.arange(num) % 2
    return ImageSource(LabelledImages(images, labels), None, ["across", "down"])


class Halved(ImageClassification):
    """Train with half of the loss."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) / 2


class Plain:
    pass
'''
CONFIGS = {
    "model/tiny": """
_target_: my_package.parts.TinyNet
in_channels: ${data.in_channels}
num_classes: ${data.num_classes}
image_size: ${data.image_size}
width: 256
init: paper
pretrained: false
freeze: null
""",
    "data/stripes": """
_target_: zoo.data.images.ImageData
source: {_target_: my_package.parts.stripes, _partial_: true}
num_classes: 2
in_channels: 1
image_size: 12
num_validation: 10
num_test: 10
batch_size: 8
eval_batch_size: 50
seed: ${seed}
""",
    "task/halved": """
_target_: my_package.parts.Halved
""",
}
OWN = ("model=tiny", "data=stripes", "task=halved")
LOGGED = ("trainer.log_every_n_steps=2",)
SETTINGS = ("--config-dir", "my_configs", "optim.lr=0.01", "trainer=cpu", "trainer.max_epochs=3", "name=own", *LOGGED)


@pytest.fixture
def package(tmp_path):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "parts.py").write_text(PACKAGE)
    for name, text in CONFIGS.items():
        file = tmp_path / "my_configs" / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    yield
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


def test_they_work_from_training_to_prediction(package, command, tmp_path):
    done = command("train", *SETTINGS, *OWN, "trusted=[my_package]")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "runs" / "own").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert result["test"]["accuracy"] == 1.0
    assert result["params"] == 256 * 9 + 256 + 256 * 2 + 2
    product = f"checkpoint={folder / 'model.safetensors'}"
    for script, *line in (
        ("evaluate", product),
        ("scripts/export", product, "format=[zoo,onnx]"),
        ("evaluate", f"checkpoint={folder / 'model.zoo'}"),
    ):
        untrusted = command(script, *line)
        assert (untrusted.code, "trusted=[my_package]" in untrusted.sentence) == (2, True), script
        trusted = command(script, *line, "trusted=[my_package]")
        assert trusted.code == 0, trusted.err
    for file in ("evaluation.json", "evaluation_model.zoo.json"):
        assert json.loads((folder / file).read_text())["accuracy"] == 1.0
    resumed = command("train", f"resume={folder}", "trainer.max_epochs=4", "trusted=[my_package]")
    assert resumed.code == 0, resumed.err
    line = (*SETTINGS, f"init_from={folder}", "trainer=smoke", *LOGGED, "name=more", "trusted=[my_package]")
    begun = command("train", *line)
    assert begun.code == 0, begun.err
    assert "my_package" not in sys.path[-1]
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("part", OWN)
def test_without_their_word_a_run_ends_before_it_begins(part, package, command, tmp_path):
    done = command("train", *SETTINGS, part, "trusted=[other]")
    assert (done.code, "trusted=[my_package]" in done.sentence) == (2, True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model._target_=my_package.parts.Plain", "not of the kind"),
        ("model._target_=my_package.parts.Missing", "not of the kind"),
        ("model._target_=my_package.none.Net", "cannot be imported"),
        ("data.source._target_=my_package.parts.TinyNet", "not of the kind"),
    ],
)
def test_what_a_trusted_package_does_not_have_is_refused(override, words, package, command, tmp_path):
    done = command("train", "trainer=smoke", override, "trusted=[my_package]")
    assert (done.code, words in done.sentence) == (2, True)
    assert not (tmp_path / "runs").exists()
