"""Runs on pictures that are not square, from the command line to exported files."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from photographs import write_folders
from PIL import Image
from small import FACTS
from torchvision.transforms.v2 import functional as F

import zoo
from zoo.callbacks.prediction_plots import thumbnails
from zoo.compare.file_pictures import as_png
from zoo.data.sources import LabelledImages
from zoo.data.survey import survey
from zoo.errors import BadInput
from zoo.inference import attribution, filters
from zoo.inference.unlike import Unlike
from zoo.inspection.thumbnails import of_pixels
from zoo.models.vit import ViT
from zoo.records.metadata import parse_metadata
from zoo.report.picture_grid import draw_grid
from zoo.run.directory import config_of
from zoo.run.picture_checks import check_sides

SIZE = (32, 48)
FOLDER = ["data=image_folder", "data.root=folders", "data.num_validation=6", "data.batch_size=6", "data.num_workers=0"]


def settled(*overrides):
    """The checked config of a run, without interpolations."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", ["name=test", *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        del cfg.hydra
        return OmegaConf.to_container(config_of(cfg), resolve=True)


def test_a_square_pair_is_settled_as_its_one_number_and_others_as_they_are():
    usual, pair = (settled(*FOLDER, f"data.image_size={size}") for size in ("64", "[64,64]"))
    assert pair == usual
    other = settled(*FOLDER, "data.image_size=[64,96]")
    assert other["data"]["image_size"] == other["model"]["image_size"] == [64, 96]
    assert other["data"]["augment"]["crop"]["size"] == [64, 96]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            ["data.image_size=[64,96,3]"],
            r"^data\.image_size: .*\(height, width\), got \[64, 96, 3\]$",
        ),
        (["data.image_size=[64,0]"], r"^data\.image_size: .* got \[64, 0\]$"),
        (["data.image_size=[64,-5]"], r"^data\.image_size: .* got \[64, -5\]$"),
        (["data.image_size=[64,1.5]"], r"^data\.image_size: .* got \[64, 1\.5\]$"),
        (["data.image_size=big"], r"^data\.image_size: .* got 'big'$"),
        (["data.image_size=[64,96]", "model.image_size=64"], r"^model\.image_size: expected \[64, 96\], .* got 64$"),
        (["data.image_size=64", "model.image_size=[64,96]"], r"^model\.image_size: expected 64, .* got \[64, 96\]$"),
        (["data.image_size=[64,96]", "task=rotation"], r"^data\.image_size: expected one number with task=rotation"),
    ],
)
def test_a_size_that_cannot_be_is_one_sentence(changes, words):
    with pytest.raises(BadInput, match=words):
        settled(*FOLDER, *changes)


def facts_with(**data):
    config = {**FACTS["config"], "data": {**FACTS["config"]["data"], **data}}
    return {**FACTS, "config": config, "format": 3}


def test_metadata_have_one_number_or_two_different_ones():
    for size, resize in (([32, 48], None), ([48, 32], 36), ([48, 32], 128), (28, 28)):
        facts = facts_with(image_size=size, resize=resize)
        assert parse_metadata(json.dumps(facts), "FILE")["config"]["data"]["image_size"] == size
    for size in (
        [28, 28],
        [28],
        [28, 32, 3],
        [0, 28],
        [28, 4096],
        [28, True],
        [28, "32"],
        [28, None],
        [[28], 32],
        "28",
    ):
        with pytest.raises(BadInput, match="image_size must be"):
            parse_metadata(json.dumps(facts_with(image_size=size)), "FILE")
    for resize in (31, 129, [40, 60]):
        with pytest.raises(BadInput, match="resize must be"):
            parse_metadata(json.dumps(facts_with(image_size=[32, 48], resize=resize)), "FILE")


def test_a_picture_is_unlike_the_data_in_its_size_relative_to_theirs():
    def hints(height, width, **data) -> list[str]:
        unlike = Unlike(facts_with(image_size=[*SIZE], **data))
        unlike.note("a.png", torch.full((3, height, width), 73, dtype=torch.uint8), torch.zeros(1, *SIZE))
        return unlike.sentences()

    assert hints(32, 48) == hints(64, 96, num_workers=0) == hints(64, 140, num_workers=0) == []
    (hint,) = hints(64, 96)
    assert "another size" in hint
    assert "48 × 32 px" in hint
    (hint,) = hints(32, 40, num_workers=0)
    assert "smaller" in hint
    (hint,) = hints(64, 150, num_workers=0)  # 2 and 3.1 times theirs
    assert "another shape" in hint


def test_sizes_of_pictures_are_compared_with_the_shape():
    class Found:
        flat = ()
        sides = torch.tensor([[64, 96], [64, 192], [64, 193], [33, 33]])

    sentence = check_sides(Found, [*SIZE]).sentence
    assert "25% have a side below data.image_size=[32, 48] px" in sentence
    assert "1 picture with one side, relative to the net's images, more than 2 times the other" in sentence
    Found.sides = torch.tensor([[64, 192]] * 3)
    assert check_sides(Found, [*SIZE]).state == "pass"
    assert "3 pictures with one side more than 2 times the other" in check_sides(Found, 32).sentence


def test_pictures_of_pages_and_boards_are_reduced_in_proportion():
    image = torch.randint(256, (3, 100, 400), dtype=torch.uint8)
    assert thumbnails(image[None]).shape == (1, 3, 8, 32)
    for uri, size in ((as_png(image), (96, 24)), (of_pixels(image), (112, 28))):
        assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size == size
    for kind, (height, width) in (("small", (20, 40)), ("large", (80, 160))):
        part = LabelledImages(torch.full((2, 3, height, width), 7, dtype=torch.uint8), torch.tensor([0, 1]))
        assert survey({"train": part}).mean.shape == ((3, 20, 40) if kind == "small" else (3, 32, 64))


def test_maps_and_filters_have_the_shape_and_a_grid_keeps_it():
    net, images = (
        ViT(16, 1, 2, 16, in_channels=1, num_classes=3, image_size=(96, 160)).eval(),
        torch.randn(2, 1, 96, 160),
    )
    assert attribution.rollout(net, images).shape == (2, 6, 10)
    maps = attribution.explanations(net, images)["attention rollout"](net, images, torch.tensor([0, 1]))
    assert maps.shape == (2, 96, 160)
    scores = attribution.deletion_and_insertion(net, images, torch.tensor([0, 1]), maps)
    assert all(score.shape == (2,) for score in scores)
    lenet = zoo.create_model("lenet5", num_classes=3, in_channels=1, image_size=SIZE).eval()
    found = filters.maximal_images(lenet, "features.0", {"mean": [100.0], "std": [50.0]}, SIZE)
    assert found.shape == (6, 1, *SIZE)
    white = torch.full((1, 3, 20, 40), 200, dtype=torch.uint8)
    sheet = draw_grid(white, [(("", "black"), ("", "black"))])
    rows, columns = (sheet == 200).all(2).nonzero().T
    assert (len(rows.unique()), len(columns.unique())) == (70, 140)


@pytest.mark.slow
def test_from_pictures_to_files_that_are_verified(command, tmp_path, only_run):
    write_folders(tmp_path / "folders", 6, 3, most=90)
    line = [*FOLDER, "model=lenet5", "data.image_size=[32,48]", "trainer=smoke"]
    outcome = command("train", *line)
    assert outcome.code == 0, outcome.err
    folder = only_run()
    for script, arguments in (
        ("evaluate", ["corruptions=true"]),
        ("scripts/export", ["format=[zoo,pt2,onnx]", "max_drop=100"]),
    ):
        outcome = command(script, f"checkpoint={folder}", "data_root=folders", *arguments)
        assert outcome.code == 0, outcome.err
    path = tmp_path / "folders/val/china/00.png"
    resized = F.pil_to_tensor(Image.open(path))
    found = {}
    for name in ("model.safetensors", "model.zoo", "model.pt2", "model.onnx"):
        trained = zoo.load(folder / name)
        assert trained.metadata["config"]["data"]["image_size"] == [*SIZE]
        found[name] = trained.preprocess(str(path))
        assert found[name].shape == (1, 3, *SIZE)
        assert len(trained.predict(str(path))) == 3
    height, width = resized.shape[1:]
    covers = 37, 55  # 256/224 of the size
    scale = max(covers[0] / height, covers[1] / width)
    sides = [max(least, int(side * scale)) for least, side in zip(covers, (height, width), strict=True)]
    facts = trained.metadata["data"]
    mean, std = (np.array(facts[key], np.float32)[:, None, None] for key in ("mean", "std"))
    expected = (F.center_crop(F.resize(resized, sides, antialias=True), [*SIZE]).numpy() - mean) / std
    np.testing.assert_allclose(found["model.onnx"][0].numpy(), expected, atol=0.02)
    outcome = command("scripts/predict", str(folder), "folders/val", "out=table.csv", "grid=grid.png")
    assert outcome.code == 0, outcome.err
    outcome = command("scripts/explain", f"checkpoint={folder}", str(path), "filters=last")
    assert outcome.code == 0, outcome.err
    again = [one for one in line if not one.startswith(("model=", "data=", "data.image_size="))]
    outcome = command("train", *again, f"init_from={folder}", "name=second")
    assert outcome.code == 0, outcome.err
