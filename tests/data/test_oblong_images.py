"""Images that are not square: torchvision is what crops are compared with, and a square pair with its one number."""

import contextlib

import numpy as np
import pytest
import torch
from photographs import write_arrow, write_folders, write_shards, write_table
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from zoo.data import geometry
from zoo.data.arrow_folders import ArrowFolder
from zoo.data.augment import NUM_DRAWS, RandomCrop, RandomFlip, RandomResizedCrop, RandomScaleCrop
from zoo.data.batch_rng import BatchRng
from zoo.data.corruptions import KINDS, corrupt, generator, pixelate
from zoo.data.file_cache import whole_pictures
from zoo.data.folders import ImageFolders
from zoo.data.image_files import ImageFiles
from zoo.data.image_tables import ImageTable
from zoo.data.images import ImageData
from zoo.data.loader import centre
from zoo.data.reading import Reading, reading_for
from zoo.data.shards import Shards
from zoo.data.sources import ImageSource, LabelledImages
from zoo.data.survey import survey
from zoo.data.whole_pictures import PictureCrop
from zoo.errors import BadInput
from zoo.inference.predict import read_image

SIZE = (24, 40)


def noise(height, width, seed=0) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3)).astype(np.uint8)
    return F.pil_to_tensor(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_evaluation_covers_the_shape_and_crops_its_centre_as_torchvision_does():
    """The margin of 30/24 leaves 30 × 50 px: a side of the picture has that, and the other at least that."""
    settings = {"image_size": [*SIZE], "in_channels": 3, "num_workers": 0, "resize": 30}
    facts = {"mean": [0.0] * 3, "std": [1.0] * 3}
    kept = reading_for([*SIZE], 30)
    for height, width, resized in (
        (60, 200, [30]),  # the shorter side, in torchvision's words
        (100, 70, [50]),
        (100, 101, [50 * 100 // 101, 50]),
        (48, 80, [30, 50]),
        (20, 33, [50 * 20 // 33, 50]),
    ):
        picture = noise(height, width)
        expected = F.center_crop(F.resize(picture, resized, antialias=True), [*SIZE])
        assert torch.equal(read_image(picture, settings, facts)[0], expected.float())
        # In data sets, more is kept for augmentation, and its centre is what evaluation takes.
        found = kept.cropped(picture)
        assert found.shape[1:] == kept.size != SIZE
        assert torch.equal(centre(found[None], SIZE)[0], expected)


def test_by_default_the_margin_is_that_of_squares():
    assert reading_for((192, 320)).resize == (219, 365)
    assert reading_for((320, 192)).resize == (365, 219)
    assert reading_for(224) == reading_for([224, 224])
    assert reading_for(224).resize == (256, 256)
    with pytest.raises(BadInput, match=r"^data\.resize: expected 192 to 768 px, .* got 191$"):
        reading_for((192, 320), 191)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_random_crops_are_torchvisions_of_the_same_rectangle(tmp_path, interpolation):
    mode, sides = InterpolationMode(interpolation), ((90, 130), (130, 90), (200, 64))
    for i, one in enumerate(sides):
        F.to_pil_image(noise(*one, i)).save(tmp_path / f"{i}.png")
    paths = sorted(map(str, tmp_path.iterdir()))
    files = ImageFiles(paths, Reading(SIZE, interpolation=interpolation))
    crop, draws = PictureCrop(RandomResizedCrop(), SIZE, interpolation), BatchRng(0).uniform(NUM_DRAWS, 3)
    in_memory = crop.of_kept(whole_pictures(files, 640)[0], draws)
    from_files, _ = next(files.batches([slice(None)], torch.device("cpu"), crop, [draws]))
    for i, one in enumerate(sides):
        rectangle = [int(x) for x in crop.cut.rectangles(draws[:, i : i + 1], *torch.tensor(one)[:, None])]
        expected = v2.functional.resized_crop(noise(*one, i), *rectangle, [*SIZE], mode, antialias=True).int()
        assert (from_files[i].int() - expected).abs().max() <= 1
        assert (in_memory[i].int() - expected).abs().max() <= 1


@pytest.mark.parametrize("size", [SIZE, (48, 80)])
def test_crops_of_images_in_memory_are_torchvisions_without_antialiasing(size):
    images, crop = torch.stack([noise(*SIZE, i) for i in range(8)]), RandomResizedCrop(size=size)
    top, left, height, width = crop.rectangles(BatchRng(3).uniform(NUM_DRAWS, 8), *torch.tensor(SIZE)[:, None])
    found = geometry.resized_crop(images, top, left, height, width, size)
    boxes = torch.stack([top, left, height, width], 1).int().tolist()
    expected = [F.resized_crop(x, *box, [*size], antialias=False) for x, box in zip(images, boxes, strict=True)]
    assert (found.int() - torch.stack(expected).int()).abs().max() <= 1
    assert crop(images, BatchRng(3)).shape == (8, 3, *size)
    assert RandomResizedCrop()(images, BatchRng(3)).shape == images.shape


def test_a_crop_after_scaling_has_the_shape_and_fits():
    draw, (height, width) = BatchRng(0).uniform(NUM_DRAWS, 5000), SIZE
    for sides in ((300, 400), (400, 300), (300, 500)):
        top, left, down, across = RandomScaleCrop((24, 48), SIZE).rectangles(draw, *torch.tensor(sides)[:, None])
        times = down.double() * 40 / (across.double() * 24)
        assert float((times - 1).abs().max()) < 0.02  # in whole px
        assert (top.min(), left.min()) == (0, 0)
        assert float((top + down).max()) <= sides[0]
        assert float((left + across).max()) <= sides[1]
        covers = min(sides[0] / height, sides[1] / width)  # times the crop at which a side is used up
        assert float(down.max()) == pytest.approx(covers * height, abs=1)
        assert float(down.min()) == pytest.approx(covers * height / 2, abs=1)
    with pytest.raises(ValueError, match=r"size=\[24, 40\] px"):
        RandomScaleCrop((23, 48), SIZE)


def test_a_jpeg_file_is_decoded_smaller_only_where_both_sides_keep_twice_the_crops():
    crop = PictureCrop(RandomResizedCrop(), SIZE)
    assert [crop.divisor(48 * k, 96 * k) for k in (1, 2, 4, 8, 9)] == [1, 2, 4, 8, 8]
    assert crop.divisor(95, 190) == 1  # 96 px are twice 2 · 24
    assert crop.divisor(1000, 159) == 1  # 160 px are twice 2 · 40


COMMON = {"num_classes": None, "in_channels": 3, "batch_size": 8, "num_validation": 6, "num_workers": 0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("oblong") / "folders", 6, 2, most=48)


def batches(data) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [batch for split in ("train", "val", "test") for batch in data.loader(split, "cpu")]


def test_every_form_of_pictures_gives_the_same_batches(folders, tmp_path):
    settings = {**COMMON, "image_size": [*SIZE], "augment": {"crop": RandomResizedCrop(size=[*SIZE])}, "cache": "none"}
    shards = write_shards(folders, tmp_path / "shards")
    expected = batches(ImageFolders(root=str(folders), **settings))
    assert {images.shape[1:] for images, _ in expected} == {(3, *SIZE)}
    forms = [
        ImageTable(table=write_table(folders, tmp_path / "labels.csv"), images=str(folders), split="split", **settings),
        Shards(urls=f"{shards}/train-*.tar", test_urls=f"{shards}/test-0.tar", **settings),
    ]
    with contextlib.suppress(ImportError):  # without pyarrow
        forms.append(ArrowFolder(root=str(write_arrow(folders, tmp_path / "arrow")), **settings))
    for data in forms:
        for (images, _), (same, _) in zip(batches(data), expected, strict=True):
            assert torch.equal(images, same)


@pytest.mark.parametrize("cache", ["none", "host"])
def test_a_pair_of_equal_numbers_gives_the_batches_of_the_one_number(folders, cache):
    found = []
    for size in (28, [28, 28]):
        augment = {"crop": RandomResizedCrop(size=size), "flip": RandomFlip()}
        data = ImageFolders(root=str(folders), image_size=size, augment=augment, cache=cache, **COMMON)
        found.append(batches(data))
        assert data.image_size == 28
    for (images, labels), (same_images, same_labels) in zip(*found, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


def source(height=20, width=30) -> ImageSource:
    images = torch.stack([noise(height, width, i) for i in range(12)])
    part = LabelledImages(images, torch.arange(12) % 3)
    return ImageSource(part, part, ["a", "b", "c"])


def module(size, **changes) -> ImageData:
    settings = {"num_classes": 3, "in_channels": 3, "num_validation": 3, "batch_size": 4}
    return ImageData(source, image_size=size, **{**settings, **changes})


def test_images_in_memory_need_not_be_square():
    augment = {"flip": RandomFlip(), "crop": RandomCrop(4), "resized": RandomResizedCrop()}
    data = module((20, 30), augment=augment)
    assert {images.shape[1:] for images, _ in batches(data)} == {(3, 20, 30)}
    assert data.example()[0].shape == (1, 3, 20, 30)
    assert data.random_batch(2, torch.device("cpu"))[0].shape == (2, 3, 20, 30)
    assert survey({"train": source().train}).mean.shape == (3, 20, 30)


@pytest.mark.parametrize(
    ("size", "changes", "sentence"),
    [
        (20, {}, r"^data\.image_size: expected \[20, 30\], as in the images, got 20$"),
        ((30, 20), {}, r"^data\.image_size: expected \[20, 30\], as in the images, got \[30, 20\]$"),
        ((20, 30), {"augment": {"a": RandomCrop(20)}}, r"^data\.augment\.a\.padding: .* 20 px, got 20$"),
        (
            (20, 30),
            {"augment": {"a": RandomResizedCrop(size=(30, 20))}},
            r"^data\.augment\.a\.size: expected data\.image_size=\[20, 30\] or null, got \[30, 20\]$",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(size, changes, sentence):
    with pytest.raises(BadInput, match=sentence):
        module(size, **changes).load()


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k == "glass_blur")) for k in KINDS])
def test_corruptions_keep_the_shape(kind):
    images = torch.stack([noise(*SIZE, i) for i in range(2)])
    found = corrupt(images, kind, 3, generator(kind, 3, 0, torch.device("cpu")))
    assert found.shape == images.shape
    assert not torch.equal(found, images)


def test_pixelate_is_pils_box_filter():
    image = noise(40, 64)
    small = F.to_pil_image(image).resize((int(64 * 0.4), int(40 * 0.4)), Image.Resampling.BOX)
    expected = F.pil_to_tensor(small.resize((64, 40), Image.Resampling.BOX))
    assert (pixelate(image[None], 0.4)[0].int() - expected.int()).abs().max() <= 1
