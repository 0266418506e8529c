"""Evaluation prepares pictures as the preset of the weights does, to within one grey level of each pixel."""

import json
import math

import numpy as np
import pytest
import torch
import torchvision
from conftest import compose_run, options
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

import zoo
from zoo.checkpoint.presets import crop_pct_of, published_resizing
from zoo.data.reading import reading_for
from zoo.errors import BadInput
from zoo.inference.predict import read_image
from zoo.run.data import build_data
from zoo.run.directory import Run
from zoo.run.start_from_file import with_those_of_file

THEIRS = {"vit_base": "vit_b_16", "vit_base_32": "vit_b_32"}
MODELS = [name for name in options("model") if THEIRS.get(name, name) in torchvision.models.list_models()]
SHAPES = [(375, 500), (500, 333), (256, 256), (90, 250)]


def entries_of(model):
    return list(torchvision.models.get_model_weights(THEIRS.get(model, model)))


def photograph(height, width) -> Image.Image:
    """A picture with detail at several scales."""
    draw = np.random.default_rng(height)
    layers = (draw.integers(0, 80, (height // k + 1, width // k + 1, 3)).repeat(k, 0).repeat(k, 1) for k in (1, 4, 16))
    return Image.fromarray(sum(layer[:height, :width] for layer in layers).astype(np.uint8))


@pytest.mark.parametrize("model", MODELS)
def test_sizes_and_interpolation_are_those_of_each_of_torchvisions_presets(model):
    for entry in entries_of(model):
        preset = entry.transforms()
        (size,), expected = preset.crop_size, (preset.resize_size[0], preset.interpolation.value)
        assert published_resizing(model, size, entry.name) == expected
        assert published_resizing(model, 2 * size, entry.name)[0] == 2 * expected[0]
    best = torchvision.models.get_model_weights(THEIRS.get(model, model)).DEFAULT
    assert published_resizing(model, 224) == published_resizing(model, 224, best.name)


def test_known_presets():
    assert published_resizing("resnet50", 224) == (232, "bilinear")
    assert published_resizing("resnet50", 224, "IMAGENET1K_V1") == (256, "bilinear")
    assert published_resizing("inception_v3", 299) == (342, "bilinear")
    assert published_resizing("vit_base", 384, "IMAGENET1K_SWAG_E2E_V1") == (384, "bicubic")
    assert published_resizing("lenet5", 224) is None


PRESETS = {
    (p.resize_size[0], p.crop_size[0], p.interpolation.value): p
    for p in (entry.transforms() for model in MODELS for entry in entries_of(model))
}


@pytest.mark.parametrize("preset", PRESETS.values(), ids=[f"{a}_{b}_{c}" for a, b, c in PRESETS])
def test_pixels_are_those_of_torchvisions_preset(preset, tmp_path):
    (size,), (resize,), interpolation = preset.crop_size, preset.resize_size, preset.interpolation.value
    settings = {"image_size": size, "in_channels": 3, "num_workers": 0}
    settings |= {"resize": resize, "interpolation": interpolation}
    facts = {"mean": [255 * x for x in preset.mean], "std": [255 * x for x in preset.std]}
    step = torch.tensor(facts["std"])[:, None, None]
    kept = reading_for(size, resize, interpolation)
    for shape in SHAPES:
        picture = photograph(*shape)
        expected, found = preset(picture), read_image(picture, settings, facts)[0]
        assert ((found - expected) * step).abs().max() < 1.01
        # In data sets, more is kept for augmentation, and its centre is what evaluation takes.
        edge = (kept.size[0] - size) // 2
        square = kept.cropped(F.pil_to_tensor(picture))[:, edge : edge + size, edge : edge + size]
        assert (square - (found * step + torch.tensor(facts["mean"])[:, None, None])).abs().max() < 0.01


def test_without_settings_a_stored_file_is_read_as_before():
    settings, facts = {"image_size": 224, "in_channels": 3, "num_workers": 0}, {"mean": [0.0] * 3, "std": [1.0] * 3}
    picture = F.pil_to_tensor(photograph(375, 500))
    expected = F.center_crop(F.resize(picture, [256], antialias=True), [224, 224])
    assert torch.equal(read_image(picture, settings, facts)[0], expected.float())


@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_those_of_timms_config_are_timms(tmp_path, crop_pct, interpolation):
    timm_data = pytest.importorskip("timm.data")
    (tmp_path / "model.safetensors").touch()
    config = {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": crop_pct, "interpolation": interpolation}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": config}))
    resize, mode = published_resizing("resnet18", 224, str(tmp_path / "model.safetensors"))
    theirs = timm_data.create_transform((3, 224, 224), **config)
    settings = {"image_size": 224, "in_channels": 3, "num_workers": 0, "resize": resize, "interpolation": mode}
    facts = {"mean": [127.5] * 3, "std": [127.5] * 3}
    for shape in SHAPES:
        found, expected = read_image(photograph(*shape), settings, facts)[0], theirs(photograph(*shape))
        assert ((found - expected) * 127.5).abs().max() < 1.01


def test_timm_gets_back_the_shorter_side():
    for size in (96, 160, 224, 299, 384):
        for resize in range(size, 2 * size):
            assert math.floor(size / crop_pct_of(size, resize)) == resize
    assert crop_pct_of(224, 256) == 0.875


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                photograph(90 + i, 100).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def run_of(folder, *changes) -> Run:
    line = ["data=image_folder", f"data.root={folder}", "data.num_validation=2", "data.num_workers=0"]
    cfg = compose_run("model=resnet50", *line, "data.batch_size=2", *changes, "+choices={model: resnet50}")
    return Run(folder, cfg)


def test_a_run_takes_them_from_its_weights_unless_they_are_set(folder):
    small = ("data.image_size=112", "model.image_size=112")
    for changes, expected in (
        (["model.pretrained=true", "data.interpolation=bicubic"], (116, "bicubic")),
        (["model.pretrained=IMAGENET1K_V1", "data.resize=150"], (150, "bilinear")),
        ([], (None, None)),
    ):
        run, data = build_data(run_of(folder, *small, *changes))
        assert (run.cfg.data.resize, run.cfg.data.interpolation) == expected
        reading = data.files["test"].reading
        assert reading.resize == (expected[0] or 128, expected[0] or 128)
        assert reading.interpolation == (expected[1] or "bilinear")


def test_a_shorter_side_that_has_no_room_for_the_crop_is_refused(folder):
    for resize in (223, 897):
        with pytest.raises(BadInput, match=r"data\.resize"):
            build_data(run_of(folder, f"data.resize={resize}"))


@pytest.mark.slow
def test_a_file_hands_them_on_to_prediction_and_the_next_run(command, folder, only_run):
    line = ["model=lenet5", "data=image_folder", f"data.root={folder}", "data.num_validation=2", "data.batch_size=2"]
    line += ["data.image_size=32", "data.resize=48", "data.interpolation=bicubic", "data.num_workers=0"]
    assert command("train", *line, "trainer=smoke").code == 0
    file = only_run() / "model.safetensors"
    trained, path = zoo.load(file), folder / "val/a/0.png"
    facts = trained.metadata["data"]
    mean, std = (torch.tensor(facts[key])[:, None, None] for key in ("mean", "std"))
    resized = F.resize(Image.open(path).convert("RGB"), [48], InterpolationMode.BICUBIC)
    expected = (F.pil_to_tensor(F.center_crop(resized, [32, 32])) - mean) / std
    torch.testing.assert_close(trained.preprocess(path)[0], expected)
    evaluated = command("evaluate", f"checkpoint={file}", f"data_root={folder}")
    assert evaluated.code == 0, evaluated.err
    for size, expected in ((32, 48), (64, 96)):
        start = with_those_of_file([f"init_from={file}", f"data.root={folder}", f"data.image_size={size}"])
        run, _ = build_data(Run(folder, compose_run(*start, "data.num_workers=0", "+choices={model: lenet5}")))
        assert (run.cfg.data.resize, run.cfg.data.interpolation) == (expected, "bicubic")
