"""Published weights, offline: files with torchvision's keys, in its download folder or elsewhere."""

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, options
from PIL import Image

import zoo
from zoo.checkpoint.pretrained import load_published, published_normalisation
from zoo.checkpoint.product_file import read_product
from zoo.errors import BadInput
from zoo.models.googlenet import GoogLeNet
from zoo.models.resnet import ResNet

PUBLISHED = {name: name for name in torchvision.models.list_models()} | {
    "vit_base": "vit_b_16",
    "vit_base_32": "vit_b_32",
}


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    return torchvision.models.resnet18()


def resnet18(in_channels=3, num_classes=1000):
    return ResNet("basic", [2, 2, 2, 2], [64, 128, 256, 512], in_channels, num_classes, 224)


@pytest.fixture
def downloaded(theirs, tmp_path, monkeypatch):
    """Put the file into the download folder of torch.hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    path = tmp_path / "hub/checkpoints" / url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(theirs.state_dict(), path)
    return path


@pytest.mark.parametrize("source", [True, "IMAGENET1K_V1"])
def test_what_torchvision_downloads_is_taken_over_whole(theirs, downloaded, source):
    net = resnet18()
    name, left = load_published(net, "resnet18", source, {"image_size": 224})
    assert "ResNet18_Weights.IMAGENET1K_V1" in name
    assert left == []
    for key, weight in theirs.state_dict().items():
        assert torch.equal(net.state_dict()[key], weight), key


def test_a_head_of_1000_classes_of_other_names_is_matched_by_name(theirs, downloaded):
    categories = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    net, folders = resnet18(), [f"n{i:08}" for i in range(1000)]
    load_published(net, "resnet18", True, {"image_size": 224}, folders)  # named like ImageNet's folders
    assert net.fc.weight.equal(theirs.fc.weight)
    drawn = net.fc.weight.data.zero_()
    load_published(net, "resnet18", True, {"image_size": 224}, [*reversed(categories[1:]), "zoo"])
    assert net.fc.weight[:999].equal(theirs.fc.weight[1:].flip(0))
    assert not drawn[999].any()


def test_a_path_will_do_and_a_head_for_other_classes_stays_drawn(theirs, downloaded):
    net = resnet18(num_classes=7)
    head = net.fc.weight.detach().clone()
    _, left = load_published(net, "resnet18", str(downloaded), {"image_size": 224})
    assert left == ["fc.weight", "fc.bias"]
    assert torch.equal(net.fc.weight, head)
    assert torch.equal(net.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)


def test_a_gray_image_gives_what_it_would_give_in_three_equal_colours(theirs, downloaded):
    net = resnet18(in_channels=1).eval()
    load_published(net, "resnet18", str(downloaded), {"image_size": 224})
    gray = torch.randn(1, 1, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(net(gray), theirs.eval()(gray.expand(-1, 3, -1, -1)), atol=1e-4, rtol=0)


def test_auxiliary_heads_are_left_out_where_the_net_has_none(tmp_path):
    theirs = torchvision.models.googlenet(init_weights=False, aux_logits=True)
    torch.save(theirs.state_dict(), tmp_path / "googlenet.pth")
    net = GoogLeNet(aux_heads=False)
    assert load_published(net, "googlenet", str(tmp_path / "googlenet.pth"), {"image_size": 224})[1] == []
    assert torch.equal(net.inception5b.branch1.conv.weight, theirs.inception5b.branch1.conv.weight)


@pytest.mark.parametrize("model", [m for m in options("model") if m in PUBLISHED])
def test_inputs_are_normalised_as_torchvisions_net_wants_them(model):
    mean, std = published_normalisation(model, 3)
    pixels = torch.randint(256, (1, 3, 8, 8))
    transforms = torchvision.models.get_model_weights(PUBLISHED[model]).DEFAULT.transforms()
    expected = (pixels / 255 - torch.tensor(transforms.mean)[:, None, None]) / torch.tensor(transforms.std)[
        :, None, None
    ]
    if model in ("googlenet", "inception_v3"):
        net = getattr(torchvision.models, model)(init_weights=False, transform_input=True)
        expected = net._transform_input(expected)
    ours = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_every_family_that_torchvision_publishes_is_in_the_zoo():
    assert {"alexnet", "googlenet", "inception_v3", "vgg16_bn", "resnet152", "vit_base", "vit_base_32"} <= set(
        m for m in options("model") if m in PUBLISHED
    )


@pytest.mark.parametrize(
    ("model", "source", "size", "sentence"),
    [
        ("lenet5", True, 224, "torchvision publishes no weights for lenet5"),
        ("resnet18", True, 28, "another stem"),
        ("resnet18", "IMAGENET1K_V9", 224, "is not a file; use true, false, IMAGENET1K_V1"),
        ("resnet34", "FILE", 224, "the weights of another net"),
        ("resnet18", "BROKEN", 224, "cannot be read as weights"),
    ],
)
def test_what_cannot_be_taken_is_told(downloaded, tmp_path, model, source, size, sentence):
    (tmp_path / "BROKEN").write_bytes(downloaded.read_bytes()[:5000])
    source = {"FILE": str(downloaded), "BROKEN": str(tmp_path / "BROKEN")}.get(source, source)
    net = resnet18() if model != "resnet34" else ResNet("basic", [3, 4, 6, 3], [64, 128, 256, 512])
    with pytest.raises(BadInput, match=sentence):
        load_published(net, model, source, {"image_size": size})


def test_without_a_network_the_sentence_says_what_would_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        BadInput, match=r"could not be downloaded .* download https://download.pytorch.org/models/resnet18"
    ):
        load_published(resnet18(), "resnet18", True, {"image_size": 224})


@pytest.mark.parametrize(
    ("model", "setting", "value"),
    [
        ("resnet18", "activation", "silu"),
        ("resnet50", "stride_on", "1x1"),
        ("vit_base", "num_heads", 8),
        ("vgg11", "activation", "elu"),
        ("googlenet", "activation", "gelu"),
        ("alexnet", "activation", "tanh"),
    ],
)
def test_a_setting_that_changes_the_function_and_no_weight_is_refused(model, setting, value, theirs, downloaded):
    settings = {"num_classes": 1000, "in_channels": 3, "image_size": 224, setting: value, "pretrained": str(downloaded)}
    with torch.device("meta"), pytest.raises(ValueError, match=f"model.{setting}={value}"):
        zoo.create_model(model, **settings)


def test_settings_of_training_and_of_data_may_differ(downloaded):
    settings = {"num_classes": 7, "in_channels": 1, "image_size": 96, "stochastic_depth": 0.1}
    zoo.create_model("resnet18", pretrained=str(downloaded), **settings)


def test_the_command_line_refuses_such_a_setting_too(command, downloaded, two_classes):
    line = ["model=resnet50", f"model.pretrained={downloaded}", "model.stride_on=1x1", "trainer=smoke"]
    data = ["data=imagenet", f"data.root={two_classes}", "data.num_classes=2", "data.image_size=80"]
    outcome = command("train", *line, *data, "data.num_validation=4", "data.batch_size=4")
    assert outcome.code == 2
    assert "model.stride_on=1x1" in outcome.err


STRANGE = {
    "scalars": lambda weights: {name: torch.tensor(1.0) for name in weights},
    "float8": lambda weights: {name: w.to(torch.float8_e4m3fn) for name, w in weights.items()},
    "complex": lambda weights: {name: w.to(torch.complex64) for name, w in weights.items()},
    "sparse": lambda weights: weights | {"fc.bias": weights["fc.bias"].to_sparse()},
    "expanded": lambda weights: {name: torch.zeros(1).expand(1 << 40) for name in weights},
    "meta": lambda weights: {name: w.to("meta") for name, w in weights.items()},
    "numbers": lambda weights: dict(enumerate(weights.values())),
    "nothing": lambda weights: {},
    "nested": lambda weights: {"state_dict": weights},
    "vit": lambda weights: {"patch_embed.proj.weight": torch.tensor(1.0)},
    "vgg": lambda weights: {"pre_logits.fc1.weight": torch.tensor(1.0), "pre_logits.fc2.weight": torch.zeros(3)},
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_tensors_that_no_net_has_are_one_sentence(kind, in_channels, theirs, tmp_path):
    torch.save(STRANGE[kind](theirs.state_dict()), tmp_path / "weights.pth")
    net = resnet18(in_channels)
    before = net.fc.weight.clone()
    with pytest.raises(BadInput, match=r"^[^\n]+weights\.pth[^\n]+$"):
        load_published(net, "resnet18", str(tmp_path / "weights.pth"), {"image_size": 224}, ["a"] * 1000)
    assert net.fc.weight.equal(before)


@pytest.mark.parametrize("file", ["resnet.safetensors", "packed.zoo", "run", "zoo:lenet5_mnist_5k"])
def test_a_net_of_the_zoo_belongs_to_init_from(file):
    source = file if file.startswith("zoo:") else str(ROOT / "tests/earlier" / file)
    with pytest.raises(BadInput, match=f"init_from={source}"):
        published_normalisation("resnet18", 3, source)
    with pytest.raises(BadInput, match=f"init_from={source}"):
        load_published(resnet18(), "resnet18", source, {"image_size": 224})


@pytest.fixture
def two_classes(tmp_path):
    """A folder in ImageNet's layout: 12 + 6 red and blue pictures in JPEG files of several sizes."""
    draw = np.random.default_rng(0)
    for split, num in (("train", 12), ("val", 6)):
        for colour, name in ((0, "red"), (2, "blue")):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(num):
                pixels = draw.integers(0, 80, (80 + i, 100, 3), dtype=np.uint8)
                pixels[:, :, colour] += 150
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return tmp_path / "pictures"


def test_a_frozen_pretrained_backbone_learns_a_new_task_and_stays_as_it_was(
    command, downloaded, theirs, two_classes, only_run
):
    line = ["model=resnet18", f"model.pretrained={downloaded}", "model.freeze=backbone", "task.head_lr=0.05"]
    data = ["data=imagenet", f"data.root={two_classes}", "data.num_classes=2", "data.image_size=80"]
    sizes = ["data.num_validation=4", "data.batch_size=10", "+data.augment.crop.area=[0.5,1]"]
    outcome = command(
        "train", *line, *data, *sizes, "trainer=cpu", "trainer.max_epochs=4", "trainer.log_every_n_steps=1"
    )
    assert outcome.code == 0, outcome.err
    assert "Frozen: 11,176,512 of 11,177,538 parameters" in outcome.err
    assert "fc.weight and fc.bias start from random values" in outcome.err
    product = read_product(only_run() / "model.safetensors")
    for key, weight in theirs.state_dict().items():  # including the statistics of its norms
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
            assert torch.equal(product.weights[key], weight), key
    assert product.facts["config"]["data"]["mean"] == pytest.approx([123.675, 116.28, 103.53])
    evaluated = command("evaluate", f"checkpoint={only_run()}/model.safetensors", f"data_root={two_classes}")
    assert evaluated.code == 0, evaluated.err
