"""Weights for and from torchvision and timm: their nets give the same logits as ours."""

import json
import subprocess
import sys

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file

import zoo
from zoo.checkpoint.positions import interpolated
from zoo.checkpoint.pretrained import load_published, published_normalisation
from zoo.checkpoint.product_file import Product
from zoo.checkpoint.timm_weights import MOST_PX_OF_VGG, from_timm, to_timm
from zoo.errors import BadInput
from zoo.export.export_format import Job
from zoo.export.library_weights import save_for_timm

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
        b'{"pretrained_cfg": {"mean": "half", "std": [0.1]}}',
        b'{"pretrained_cfg": {"mean": [0.5], "std": [1]}}',
        b'{"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5], "std": [1e-320]}}',
        b'{"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5], "std": [NaN]}}',
        b'{"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.5], "std": [1, 1]}}',
        b'{"architecture": "resnetblur18", "pretrained_cfg": {"mean": [0.5], "std": [1]}}',
        b'{"model_args": ' + b'{"a": ' * 100_000,
        b'{"more": ' + b"[" * 100_000,
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


def exported(folder, name, in_channels, size=80):
    """Write the files of format=timm for a net with three classes; return the net."""
    torch.manual_seed(0)
    net = zoo.create_model(name, num_classes=3, in_channels=in_channels, image_size=size).eval()
    settings = {"choices": {"model": name}, "model": {}, "data": {"in_channels": in_channels, "image_size": size}}
    of_data = {"classes": ["cat", "dog", "owl"], "mean": [51.0] * in_channels, "std": [25.5] * in_channels}
    product = Product(folder, net.state_dict(), {})
    save_for_timm(
        folder / "model_timm.safetensors", Job(product, net, None, {"config": settings, "data": of_data}, None)
    )
    return net


@pytest.mark.parametrize(
    ("name", "in_channels"),
    [
        ("resnet18", 1),
        ("vit_tiny", 3),
        pytest.param("vit_tiny", 1, marks=pytest.mark.slow),
        pytest.param("vgg11_bn", 1, marks=pytest.mark.slow),
        pytest.param("inception_v3", 3, marks=pytest.mark.slow),
    ],
)
@torch.inference_mode()
def test_timm_alone_builds_the_net_from_the_folder_and_it_comes_back(name, in_channels, tmp_path):
    net, images = exported(tmp_path, name, in_channels), torch.randn(2, in_channels, 80, 80)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert relative_difference(theirs(images), net(images)) < 1e-5
    data = timm.data.resolve_data_config({}, model=theirs)
    assert data["input_size"] == (in_channels, 80, 80)
    assert data["mean"] == pytest.approx([0.2] * in_channels)
    assert data["std"] == pytest.approx([0.1] * in_channels)
    assert theirs.num_classes == 3
    assert theirs.pretrained_cfg["label_names"] == ["cat", "dog", "owl"]
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=5)(images).shape == (2, 5)
    file, settings = str(tmp_path / "model_timm.safetensors"), {"aux_heads": False} if "inception" in name else {}
    sizes = {"num_classes": 3, "in_channels": in_channels, "image_size": 80}
    again = zoo.create_model(name, pretrained=file, **sizes, **settings).eval()
    assert relative_difference(again(images), net(images)) < 1e-5
    assert published_normalisation(name, in_channels, file) == ([51.0] * in_channels, [25.5] * in_channels)


@pytest.mark.slow
def test_timm_does_so_in_a_process_without_the_zoo(tmp_path):
    net = exported(tmp_path, "resnet18", 1)
    code = (
        "import sys, timm, torch; net = timm.create_model(f'local-dir:{sys.argv[1]}', pretrained=True).eval(); "
        "print(net(torch.ones(1, 1, 80, 80)).tolist()[0], net.num_classes, 'zoo' in sys.modules)"
    )
    line = [sys.executable, "-P", "-c", code, str(tmp_path)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
    logits, rest = done.stdout.strip().split("] ")
    found = torch.tensor(json.loads(f"{logits}]"))
    assert relative_difference(found, net(torch.ones(1, 1, 80, 80))[0].detach()) < 1e-5
    assert rest == "3 False"


def test_a_gray_net_comes_from_colour_and_not_the_other_way(tmp_path):
    exported(tmp_path, "resnet18", 3)
    file = str(tmp_path / "model_timm.safetensors")
    assert published_normalisation("resnet18", 1, file) == (pytest.approx([51.0]), pytest.approx([25.5]))
    zoo.create_model("resnet18", num_classes=3, in_channels=1, image_size=80, pretrained=file)
    exported(tmp_path, "resnet18", 1)
    with pytest.raises(BadInput, match=r"1 channel.*in_channels=3"):
        published_normalisation("resnet18", 3, file)


def test_heads_are_matched_by_timms_label_names(tmp_path):
    theirs, file = exported(tmp_path, "resnet18", 3), str(tmp_path / "model_timm.safetensors")
    net = zoo.create_model("resnet18", num_classes=3, in_channels=3, image_size=80)
    drawn = net.fc.weight.detach().clone()
    load_published(net, "resnet18", file, {"image_size": 80}, ["owl", "bee", "cat"])
    assert net.fc.weight.equal(torch.stack([theirs.fc.weight[2], drawn[1], theirs.fc.weight[0]]))


def saved(folder, name, **arguments):
    """Save a net of timm with its weights and the config.json that timm writes for it."""
    theirs = timm.create_model(name, pretrained=False, **arguments)
    timm.models._hub.save_for_hf(theirs, folder, safe_serialization=True)
    return theirs


OTHERS = [  # nets of the same names and shapes of weights, which compute something else
    ("resnet18", "resnetblur18", {}, "resnetblur18"),
    pytest.param("resnet18", "resnet18", {"global_pool": "max"}, "global_pool=max", marks=pytest.mark.slow),
    ("resnet18", "resnet18", {"act_layer": "silu"}, "act_layer=silu"),
    pytest.param("resnet18", "resnet18", {"output_stride": 16}, "output_stride=16", marks=pytest.mark.slow),
    ("vit_tiny", "vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}, "global_pool=avg"),
    ("vit_tiny", "vit_tiny_patch16_224", {"num_heads": 6}, "num_heads=6"),
    pytest.param("vit_tiny", "vit_tiny_patch16_224", {"act_layer": "relu"}, "act_layer=relu", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "theirs", "arguments", "word"), OTHERS)
@torch.inference_mode()
def test_timms_nets_that_compute_something_else_are_refused(name, theirs, arguments, word, tmp_path):
    other, net = saved(tmp_path, theirs, **arguments).eval(), ours(name, 224)
    net.load_state_dict(from_timm(other.state_dict()))  # strictly
    image = torch.randn(1, 3, 224, 224)
    assert relative_difference(net(image), other(image)) > 1e-3
    with pytest.raises(BadInput, match=word):
        load_published(net, name, str(tmp_path / "model.safetensors"), {"image_size": 224})


@pytest.mark.parametrize(
    ("name", "theirs", "arguments"),
    [
        ("resnet18", "resnet18", {"drop_rate": 0.1, "zero_init_last": False}),
        ("vit_tiny", "deit_tiny_patch16_224", {"drop_path_rate": 0.1, "num_heads": 3, "act_layer": "gelu"}),
    ],
)
@torch.inference_mode()
def test_what_timm_saves_is_loaded_if_it_is_the_same(name, theirs, arguments, tmp_path):
    other, net, images = saved(tmp_path, theirs, **arguments).eval(), ours(name, 224), torch.randn(1, 3, 224, 224)
    load_published(net, name, str(tmp_path / "model.safetensors"), {"image_size": 224})
    assert relative_difference(net(images), other(images)) < 1e-5
    assert published_normalisation(name, 3, str(tmp_path / "model.safetensors"))[0] == pytest.approx(
        [255 * one for one in other.pretrained_cfg["mean"]]
    )


@torch.inference_mode()
def test_positions_of_timms_vit_are_those_of_the_images_in_its_config(tmp_path):
    """As many patches as in a square of 224 px, in other places."""
    other, net = saved(tmp_path, "vit_tiny_patch16_224", img_size=(112, 448)), ours("vit_tiny", 224)
    load_published(net, "vit_tiny", str(tmp_path / "model.safetensors"), {"image_size": 224})
    assert torch.equal(net.encoder.pos_embedding, interpolated(other.pos_embed, (7, 28), (14, 14)))


def test_images_in_which_timms_vgg_looks_at_several_places_are_refused(tmp_path):
    """It does from 256 px on, where the map is 8 × 8: timm's head then sees four places, and ours is at one."""
    with torch.device("meta"):
        theirs, image = timm.create_model("vgg11"), torch.empty(1, 3, MOST_PX_OF_VGG, MOST_PX_OF_VGG)
        assert theirs.pre_logits(theirs.forward_features(image)).shape[2:] == (1, 1)
        larger = torch.empty(1, 3, MOST_PX_OF_VGG + 1, MOST_PX_OF_VGG + 1)
        assert theirs.pre_logits(theirs.forward_features(larger)).shape[2:] == (2, 2)
    save_file({"pre_logits.fc1.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    net = ours("resnet18", 224)
    with pytest.raises(BadInput, match=r"data\.image_size=255"):
        load_published(net, "vgg11", str(tmp_path / "model.safetensors"), {"image_size": 256})


def test_a_vit_of_timm_without_its_config_has_no_known_mean(tmp_path):
    means = {
        timm.get_pretrained_cfg(name).mean for name in ("vit_base_patch16_224.augreg_in1k", "deit_base_patch16_224")
    }
    assert len(means) == 2  # of nets with the same names of weights
    save_file({"patch_embed.proj.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match=r"config\.json.*data\.mean"):
        published_normalisation("vit_base", 3, str(tmp_path / "model.safetensors"))
    exported(tmp_path, "resnet18", 3)
    (tmp_path / "config.json").unlink()
    with pytest.raises(BadInput, match=r"config\.json.*data\.mean"):
        published_normalisation("resnet18", 3, str(tmp_path / "model_timm.safetensors"))


def test_what_is_assumed_without_a_config_is_in_the_log(weights, caplog):
    weights.with_name("config.json").unlink()
    with caplog.at_level("INFO"):
        published_normalisation("resnet18", 3, str(weights))
        load_published(ours("resnet18", 224), "resnet18", str(weights), {"image_size": 224})
    assert "Mean and std are torchvision's" in caplog.text
    assert "default activation and pooling" in caplog.text


def test_weights_without_auxiliary_heads_say_how_to_leave_them_out(tmp_path):
    save_file(timm.create_model("inception_v3", pretrained=False).state_dict(), tmp_path / "model.safetensors")
    sizes = {
        "num_classes": 1000,
        "in_channels": 3,
        "image_size": 299,
        "pretrained": str(tmp_path / "model.safetensors"),
    }
    with pytest.raises(ValueError, match=r"aux_heads=false"):
        zoo.create_model("inception_v3", **sizes)
    zoo.create_model("inception_v3", **sizes, aux_heads=False)


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
    assert [row["files"] for row in rows] == [
        ["model_torchvision.safetensors"],
        ["model_timm.safetensors", "config.json"],
    ]
    assert command("scripts/export", f"checkpoint={folder}", "data_root=pictures", "format=timm").code == 0  # again
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/config.json").write_text("{}")
    foreign = command("scripts/export", f"checkpoint={folder}", "data_root=pictures", "format=timm", "out=elsewhere")
    assert foreign.code == 2
    assert "config.json, which no export wrote" in foreign.err
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["config.json"]
    product = command("train", *line, f"model.pretrained={folder}/model.safetensors", "name=product")
    assert product.code == 2
    assert "init_from" in product.err
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
