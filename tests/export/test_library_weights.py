"""Weights for and from torchvision and timm: their nets give the same logits as ours."""

import json

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file

import zoo
from zoo.checkpoint.pretrained import load_published, published_normalisation
from zoo.checkpoint.timm_weights import from_timm, to_timm
from zoo.errors import BadInput

timm = pytest.importorskip("timm")
TIMM = {"vit_tiny": "vit_tiny_patch16_224", "vit_small": "vit_small_patch16_224", "vit_base": "vit_base_patch16_224"}
FAST = ("resnet18", "vit_tiny")
NAMES = [
    pytest.param(name, marks=[] if name in FAST else pytest.mark.slow)
    for name in ("resnet18", "resnet50", "vgg16_bn", "inception_v3", "vit_tiny", "vit_small", "vit_base")
]
CONFIG = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}}


def ours(name, size):
    torch.manual_seed(0)
    settings = {"aux_heads": False} if name == "inception_v3" else {}
    return zoo.create_model(name, num_classes=1000, in_channels=3, image_size=size, **settings).eval()


def relative_difference(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_timms_net_with_our_weights_and_ours_with_its(name, tmp_path):
    size = 299 if name == "inception_v3" else 224
    net, images = ours(name, size), torch.randn(2, 3, size, size)
    theirs = timm.create_model(TIMM.get(name, name), pretrained=False).eval()
    before = theirs(images)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    theirs.load_state_dict(to_timm(net.state_dict()), strict=True)
    assert relative_difference(theirs(images), net(images)) < 1e-5
    _, left = load_published(net, name, str(tmp_path / "model.safetensors"), {"image_size": size})
    assert left == []
    assert relative_difference(net(images), before) < 1e-5


def test_torchvisions_weights_pass_unchanged():
    weights = torchvision.models.resnet18().state_dict()
    assert from_timm(weights) == weights


@pytest.fixture
def weights(tmp_path):
    """A file in timm's layout, with its config.json."""
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path / "model.safetensors"


def test_mean_and_std_are_those_of_the_config_next_to_the_file(weights):
    mean, std = published_normalisation("resnet18", 3, str(weights))
    assert mean == pytest.approx([127.5, 102.0, 76.5])
    assert std == pytest.approx([51.0, 51.0, 25.5])
    assert published_normalisation("resnet18", 1, str(weights))[0] == pytest.approx([102.0])
    weights.with_name("config.json").unlink()
    assert published_normalisation("resnet18", 3, str(weights))[0] == pytest.approx([123.675, 116.28, 103.53])


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"pretrained_cfg": {"mean": [0.5]}}',
        b'{"pretrained_cfg": {"mean": [0.5], "std": [0.0]}}',
        b'{"pretrained_cfg": {"mean": [0.5], "std": [0.1, 0.1]}}',
        b'{"pretrained_cfg": {"mean": [1e9], "std": [0.1]}}',
        b'{"pretrained_cfg": {"mean": [0.5], "std": [0.1]}}',
        b'{"pretrained_cfg": {"mean": "half", "std": [0.1]}}',
        b" " * 2_000_000,
    ],
)
def test_a_config_of_another_kind_is_refused(weights, content):
    weights.with_name("config.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"config\.json"):
        published_normalisation("resnet18", 3, str(weights))


def test_weights_of_another_net_are_refused(weights):
    with pytest.raises(BadInput, match="another net"):
        load_published(ours("vit_tiny", 224), "vit_tiny", str(weights), {"image_size": 224})
    with pytest.raises(BadInput, match=r"vit_tiny.*timm"):
        load_published(ours("vit_tiny", 224), "vit_tiny", True, {"image_size": 224})


def test_a_trained_net_goes_to_both_libraries_and_comes_back(command, tmp_path, only_run):
    for split, num in (("train", 6), ("val", 2)):
        for colour in ("red", "blue"):
            folder = tmp_path / "pictures" / split / colour
            folder.mkdir(parents=True)
            for i in range(num):
                Image.new("RGB", (90, 80 + i), colour).save(folder / f"{i}.png")
    line = [
        "data=image_folder",
        "data.root=pictures",
        "data.num_validation=2",
        "data.batch_size=4",
        "data.image_size=80",
    ]
    line += ["model=resnet18", "trainer=smoke", "data.num_workers=0"]
    done = command("train", *line)
    assert done.code == 0, done.err
    folder = only_run()
    done = command("scripts/export", f"checkpoint={folder}", "data_root=pictures", "format=[torchvision,timm]")
    assert done.code == 0, done.err
    rows = json.loads((folder / "exports.json").read_text())["rows"]
    assert [row["modules"][0] for row in rows] == ["torch", "timm"]
    assert all(row["largest_difference"] < 1e-4 for row in rows)
    net = timm.create_model("resnet18", num_classes=2)
    net.load_state_dict(load_file(folder / "model_timm.safetensors"), strict=True)
    again = command("train", *line, f"model.pretrained={folder}/model_timm.safetensors", "name=again")
    assert again.code == 0, again.err
    assert "Mean and std are those of" in again.err
    small = ["data=mnist_5k", "model=resnet20", "trainer=smoke", "name=small"]
    assert command("train", *small).code == 0
    refused = command("scripts/export", "checkpoint=runs/small", "format=timm")
    assert refused.code == 1
    assert "75 px" in refused.err
