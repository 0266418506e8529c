"""zoo.list_models, create_model, list_trained and load, as a user types them."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, options
from PIL import Image

import zoo
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product

EARLIER = ROOT / "tests" / "earlier"


def test_importing_and_listing_imports_no_torch():
    code = "import sys, zoo; zoo.list_models(); zoo.list_trained(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_models_are_those_of_the_configs():
    assert zoo.list_models() == options("model")
    assert zoo.list_models("resnet1*") == ["resnet101", "resnet110", "resnet152", "resnet18"]
    assert zoo.list_models("nix*") == []


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "alexnet"])
def test_a_model_by_its_name_is_torchvisions(name):
    net = zoo.create_model(name, num_classes=1000, in_channels=3, image_size=224).eval()
    theirs = getattr(torchvision.models, name)().eval()
    theirs.load_state_dict(net.state_dict())  # strictly
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(net(image), theirs(image))


def test_a_model_takes_the_settings_of_its_yaml():
    net = zoo.create_model("lenet5", num_classes=3, in_channels=1, image_size=28, activation="tanh")
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 3)
    assert any(isinstance(module, torch.nn.Tanh) for module in net.modules())
    assert zoo.create_model("airbench", num_classes=10, in_channels=3)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    sizes = {"num_source_tokens": 30, "num_target_tokens": 40, "max_length": 20}
    assert zoo.create_model("transformer", **sizes, width=32).training


def test_published_weights_are_loaded_from_a_file(tmp_path):
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    settings = {"in_channels": 3, "image_size": 224, "pretrained": str(tmp_path / "resnet18.pth")}
    net = zoo.create_model("resnet18", num_classes=7, **settings)
    assert torch.equal(net.layer1[0].conv1.weight, theirs.layer1[0].conv1.weight)
    assert net.fc.weight.shape == (7, 512)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: zoo.create_model("resnt50", num_classes=1, in_channels=3, image_size=32), "resnet50"),
        (lambda: zoo.create_model("resnet50", num_classes=1), "in_channels"),
        (
            lambda: zoo.create_model("lenet5", num_classes=1, in_channels=1, image_size=28, activaton="relu"),
            "activaton",
        ),
        (lambda: zoo.create_model("lenet5", num_classes=0, in_channels=1, image_size=28), "num_classes"),
        (
            lambda: zoo.create_model("lenet5", num_classes=1, in_channels=1, image_size=28, pretrained=True),
            "pretrained",
        ),
        (lambda: zoo.load("lenet5_mnist5k"), "lenet5_mnist_5k"),
        (lambda: zoo.load("resnet18"), "create_model"),
        (lambda: zoo.load("zoo:nothing_like_it"), "zoo:nothing_like_it"),
        (lambda: zoo.load("zoo:../trained/lenet5_mnist_5k"), "does not come with the zoo"),
        (lambda: zoo.load("none.zoo"), "none.zoo"),
        (lambda: zoo.load(EARLIER / "resnet.safetensors").predict("none.png"), "none.png"),
        (lambda: zoo.load(EARLIER / "resnet.safetensors").predict(7), "int"),
        (lambda: zoo.load(EARLIER / "resnet.safetensors").predict(np.zeros((8, 8))), "float64"),
        (lambda: zoo.load(EARLIER / "resnet.safetensors").predict(np.zeros((3, 8, 8), np.uint8)), "(3, 8, 8)"),
        (lambda: zoo.load(EARLIER / "resnet.safetensors").predict([], top=0), "top"),
        (lambda: zoo.load(EARLIER / "resnet.safetensors").predict(torch.zeros(8, 9, dtype=torch.uint8)), "(8, 9)"),
        (lambda: zoo.load(EARLIER / "lstm.zoo").predict("Ü"), "Ü"),
        (lambda: zoo.load(EARLIER / "lstm.zoo").preprocess("abc"), "sequences"),
    ],
)
def test_what_is_wrong_is_a_value_error_that_names_it(call, word):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        call()
    assert word in str(caught.value)


def test_a_picture_is_the_same_as_a_file_an_image_an_array_and_a_tensor(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    image.save(tmp_path / "picture.png")
    trained = zoo.load(EARLIER / "resnet.safetensors")
    inputs = [tmp_path / "picture.png", image, array, torch.from_numpy(array).permute(2, 0, 1)]
    first, *others = (trained.preprocess(one) for one in inputs)
    assert first.shape == (1, 1, 28, 28)
    assert all(torch.equal(first, other) for other in others)
    one = trained.predict(str(tmp_path / "picture.png"), top=3)
    net = load_model(read_product(EARLIER / "resnet.safetensors")).eval()
    with torch.inference_mode():
        shares = net(first).softmax(1)[0]
    assert [name for name, _ in one] == [trained.classes[i] for i in shares.topk(3).indices]
    assert [share for _, share in one] == pytest.approx(shares.topk(3).values.tolist())
    assert [[name for name, _ in row] for row in trained.predict(inputs, top=3, batch_size=3)] == [
        [name for name, _ in one]
    ] * 4


def test_a_picture_held_sideways_is_turned(tmp_path):
    """By the EXIF orientation 6 of a phone, as a file and as an image that Pillow has opened."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    trained = zoo.load(EARLIER / "resnet.safetensors")
    upright = trained.preprocess(image.rotate(-90))
    assert torch.equal(trained.preprocess(tmp_path / "turned.png"), upright)
    with Image.open(tmp_path / "turned.png") as opened:
        assert torch.equal(trained.preprocess(opened), upright)


@pytest.mark.parametrize("name", ["resnet.safetensors", "resnet.onnx", "resnet.pt2", "packed.zoo"])
def test_every_kind_of_file_is_loaded(name):
    trained = zoo.load(EARLIER / name)
    assert not trained.net.training
    assert trained.classes == [str(digit) for digit in range(10)]
    ((label, share),) = trained.predict(np.zeros((28, 28), np.uint8), top=1)
    assert label in trained.classes
    assert 0 < share <= 1
    assert trained.card == ""


def test_a_sequence_net_writes():
    trained = zoo.load(EARLIER / "lstm.zoo")
    one, two = trained.predict(["abc", "head"], top=2)
    assert trained.predict("abc", top=2) == one
    assert len(two) == 2
