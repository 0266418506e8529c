"""zoo.list_models, create_model, list_trained and load, as a user types them."""

import functools
import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, options
from PIL import Image

import zoo
from zoo.catalogue import catalogue, sizes_made_for
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.named_files import file_of
from zoo.checkpoint.product_file import read_product
from zoo.errors import BadInput

EARLIER = ROOT / "tests" / "earlier"


@functools.cache
def earlier(name):
    return zoo.load(EARLIER / name)


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
    for name, shape, num_classes in (("resnet18", (3, 224, 224), 1000), ("lenet5", (1, 28, 28), 10)):
        assert zoo.create_model(name).eval()(torch.zeros(1, *shape)).shape == (1, num_classes)  # made for these
    assert zoo.create_model("resnet18", num_classes=7).fc.out_features == 7


def test_the_sizes_of_a_net_are_those_of_the_data_that_it_was_made_for():
    for entry in catalogue():
        data = {key: entry.cfg.data.get(key) for key in ("num_classes", "in_channels", "image_size")}
        assert sizes_made_for(entry.name).items() >= data.items()


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
        (lambda: zoo.create_model("resnet20", num_clases=7), "did you mean num_classes"),
        (lambda: zoo.create_model("transformer"), "num_source_tokens and num_target_tokens"),
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
        (lambda: earlier("resnet.safetensors").predict(np.ma.masked_array(np.zeros((8, 8), np.uint8))), "MaskedArray"),
        (lambda: earlier("resnet.safetensors").predict("none.png"), "none.png"),
        (lambda: earlier("resnet.safetensors").predict(7), "int"),
        (lambda: earlier("resnet.safetensors").predict(np.zeros((8, 8))), "float64"),
        (lambda: earlier("resnet.safetensors").predict(np.zeros((3, 8, 8), np.uint8)), "(3, 8, 8)"),
        (lambda: earlier("resnet.safetensors").predict(torch.zeros(8, 9, dtype=torch.uint8)), "(8, 9)"),
        (lambda: earlier("lstm.zoo").predict("Ü"), "Ü"),
        (lambda: earlier("lstm.zoo").preprocess("abc"), "sequences"),
        (lambda: zoo.load("x" * 5000), "x" * 80),
        (lambda: zoo.load("a\nb\x1b"), "a\\nb\\x1b"),
        (lambda: zoo.load("a\0b"), "a\\x00b"),
        (lambda: zoo.load("lenet5_mnist_5k/\ud800"), "lenet5_mnist_5k/\\ud800"),
    ],
)
def test_what_is_wrong_is_a_value_error_that_names_it(call, word):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        call()
    assert word in str(caught.value)


@pytest.mark.parametrize(
    "value", [None, 3, b"x", ["x"], {"x": 1}, np.zeros((2, 2))], ids=lambda value: type(value).__name__
)
@pytest.mark.parametrize(
    ("call", "key"),
    [
        (lambda value: zoo.list_models(value), "pattern"),
        (lambda value: zoo.list_trained(value), "pattern"),
        (lambda value: zoo.create_model(value, num_classes=2, in_channels=1, image_size=28), "name"),
        (lambda value: zoo.load(value), "source"),
        (lambda value: zoo.load("lenet5_mnist_5k", trusted=[value]), "trusted"),
    ],
)
def test_an_argument_of_another_type_is_a_value_error_that_begins_with_its_name(call, key, value):
    with pytest.raises(ValueError, match=rf"^{key}: expected [^\n]+, got [^\n]+$"):
        call(value)


@pytest.mark.parametrize("trusted", [None, "my_package", 3, {"my_package": 1}])
def test_trusted_is_a_list_of_packages_and_not_the_letters_of_one(trusted):
    with pytest.raises(ValueError, match=r"^trusted: expected a list"):
        zoo.load("lenet5_mnist_5k", trusted=trusted)


def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch):
    shutil.copy(EARLIER / "resnet.safetensors", tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert zoo.load(".").path.name == "model.safetensors"
    with pytest.raises(ValueError, match=r"^source: expected .* got ''$"):
        zoo.load("")
    with pytest.raises(BadInput, match="got ''"):
        file_of("")


@pytest.mark.parametrize("key", ["_target_", "_partial_", "_args_", "_convert_", "_recursive_"])
def test_what_hydra_understands_is_no_setting_of_a_net(key):
    settings = {"num_classes": 2, "in_channels": 1, "image_size": 28}
    with pytest.raises(ValueError, match=rf"^{key}: expected a setting of configs/model/lenet5"):
        zoo.create_model("lenet5", **settings, **{key: "builtins.dict"})
    with pytest.raises(ValueError, match=r"^num_classes: expected a plain value, got dict$"):
        zoo.create_model("lenet5", **{**settings, "num_classes": {key: "builtins.int"}})


@pytest.mark.parametrize("name", ["resnet.safetensors", "lstm.zoo"])
@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, "2", None, True, np.float64(2), [1], float("nan")])
@pytest.mark.parametrize("key", ["top", "batch_size"])
def test_numbers_for_predict_are_whole_and_at_least_1(name, key, value):
    trained = earlier(name)
    for inputs in ([], "abc"):
        with pytest.raises(ValueError, match=rf"^{key}: expected a whole number of at least 1, got [^\n]+$"):
            trained.predict(inputs, **{key: value})


def test_the_version_is_that_of_the_installed_package():
    assert zoo.__version__ == importlib.metadata.version("zoo")


def test_a_net_in_train_mode_predicts_as_in_eval_mode():
    trained, picture = earlier("resnet.safetensors"), np.full((28, 28), 90, np.uint8)
    expected = trained.predict(picture)
    trained.net.train()
    assert trained.predict(picture) == expected


def test_numpys_whole_numbers_are_taken():
    trained, picture = earlier("resnet.safetensors"), np.zeros((28, 28), np.uint8)
    assert (
        trained.predict([picture] * 3, top=np.int64(2), batch_size=np.uint8(2)) == [trained.predict(picture, top=2)] * 3
    )


@pytest.mark.parametrize(
    "inputs",
    [{"abc"}, {"abc": 1}, iter(["abc"]), [["abc"]], deque(["abc"]), b"abc", b"", None, 3, range(0)],
    ids=lambda inputs: type(inputs).__name__,
)
@pytest.mark.parametrize("name", ["resnet.safetensors", "lstm.zoo"])
def test_only_a_list_or_a_tuple_is_several_inputs(name, inputs):
    got = f"got ({type(inputs).__name__}|{re.escape(repr(inputs))})"
    with pytest.raises(ValueError, match=rf"^[^\n]+ list [^\n]+ {got}$|^[^\n]+ {got}; [^\n]+ a list or a tuple"):
        earlier(name).predict(inputs)


def test_texts_are_given_as_a_list_or_a_tuple_and_no_path_is_a_text():
    trained = earlier("lstm.zoo")
    assert trained.predict(("abc", "head"), top=2) == trained.predict(["abc", "head"], top=2)
    assert trained.predict([]) == trained.predict(()) == []
    with pytest.raises(ValueError, match=r"^inputs: expected a text, or a list or tuple of texts, got PosixPath$"):
        trained.predict(Path("abc"))
    with pytest.raises(ValueError, match=r"got 7$"):
        trained.predict(["abc", 7])


def test_a_picture_is_the_same_as_a_file_an_image_an_array_and_a_tensor(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    image.save(tmp_path / "picture.png")
    trained = earlier("resnet.safetensors")
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
    trained = earlier("resnet.safetensors")
    upright = trained.preprocess(image.rotate(-90))
    assert torch.equal(trained.preprocess(tmp_path / "turned.png"), upright)
    with Image.open(tmp_path / "turned.png") as opened:
        assert torch.equal(trained.preprocess(opened), upright)


@pytest.mark.parametrize("name", ["resnet.safetensors", "resnet.onnx", "resnet.pt2", "packed.zoo"])
def test_every_kind_of_file_is_loaded(name):
    trained = earlier(name)
    assert not trained.net.training
    assert trained.classes == [str(digit) for digit in range(10)]
    ((label, share),) = trained.predict(np.zeros((28, 28), np.uint8), top=1)
    assert label in trained.classes
    assert 0 < share <= 1
    assert trained.card == ""


def test_a_sequence_net_writes():
    trained = earlier("lstm.zoo")
    one, two = trained.predict(["abc", "head"], top=2)
    assert trained.predict("abc", top=2) == one
    assert len(two) == 2
