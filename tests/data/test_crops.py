"""Training crops of whole images, compared with torchvision's RandomResizedCrop."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from zoo.data.augment import NUM_DRAWS, RandomFlip, RandomResizedCrop, RandomScaleCrop
from zoo.data.batch_rng import BatchRng
from zoo.data.folders import ImageFolders
from zoo.data.whole_pictures import PictureCrop

SIZE = 32


def theirs(shape, crop, num) -> torch.Tensor:
    """Top, left, height and width of torchvision's crops."""
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(SIZE, crop.area, crop.aspect)
    image = torch.empty(1, *shape, dtype=torch.uint8)
    drawn = (transform.make_params([image]) for _ in range(num))
    return torch.tensor([[one[key] for key in ("top", "left", "height", "width")] for one in drawn]).T.double()


SHAPES = {"landscape": (375, 500), "portrait": (500, 375), "square": (400, 400), "10:1": (1000, 100)}
FEW, MANY = 2000, 20_000  # torchvision's crops are slow
CASES = [(crop, shape, num) for num in (FEW, MANY) for crop in ("usual", "wide") for shape in SHAPES]


@pytest.mark.parametrize(
    ("crop", "shape", "num"), [pytest.param(*one, marks=[pytest.mark.slow] * (one[2] == MANY)) for one in CASES]
)
def test_areas_aspects_and_places_are_distributed_as_torchvisions(crop, shape, num):
    """Two-sample Kolmogorov-Smirnov tests, and the share of crops that are as long as the picture."""
    crop = RandomResizedCrop() if crop == "usual" else RandomResizedCrop((0.5, 1.0), (0.5, 2.0))
    height, width = SHAPES[shape]
    wanted = theirs(SHAPES[shape], crop, num)
    draw = BatchRng(1).uniform(NUM_DRAWS, num)
    found = torch.stack(crop.rectangles(draw, *torch.tensor(SHAPES[shape])[:, None])).double()
    assert (found >= 0).all()
    assert (found[0] + found[2] <= height).all()
    assert (found[1] + found[3] <= width).all()
    for what in (
        lambda top, left, h, w: h * w / (height * width),
        lambda top, left, h, w: w / h,
        lambda top, left, h, w: (top + h / 2) / height,
        lambda top, left, h, w: (left + w / 2) / width,
        lambda top, left, h, w: top / (height - h).clamp_min(1),
        lambda top, left, h, w: left / (width - w).clamp_min(1),
    ):
        assert ks_2samp(what(*found), what(*wanted)).pvalue > 0.002  # 96 tests
    whole, expected = (((h == height) | (w == width)).double().mean() for _, _, h, w in (found, wanted))
    assert float(whole) == pytest.approx(float(expected), abs=4 * (0.5 / num) ** 0.5)


def test_a_picture_that_no_rectangle_fits_shows_its_middle_as_torchvision_cuts_it():
    crop = RandomResizedCrop((1.0, 1.0), (0.9, 1.1))
    for shape in ((100, 1000), (1000, 101), (333, 100), (90, 300)):
        transform = v2.RandomResizedCrop(SIZE, crop.area, crop.aspect)
        wanted = transform.make_params([torch.empty(1, *shape)])
        found = crop.rectangles(BatchRng(0).uniform(NUM_DRAWS, 1), *torch.tensor(shape)[:, None])
        assert [int(one) for one in found] == [wanted[key] for key in ("top", "left", "height", "width")]


def test_a_crop_after_scaling_is_a_square_of_a_share_of_the_shorter_side_anywhere():
    draw = BatchRng(0).uniform(NUM_DRAWS, 20_000)
    sizes = torch.tensor([375, 500])[:, None]
    top, left, height, width = RandomScaleCrop((256, 480), 224).rectangles(draw, *sizes)
    assert torch.equal(height, width)
    assert (int(height.min()), int(height.max())) == (round(375 * 224 / 480), round(375 * 224 / 256))
    lengths = 375 * 224 / height.double()  # of the shorter side, which is uniform
    assert float(lengths.mean()) == pytest.approx(368, abs=2)
    assert float(lengths.std()) == pytest.approx((480 - 256) / 12**0.5, rel=0.02)
    assert (top.min(), (top + height).max(), left.min(), (left + width).max()) == (0, 375, 0, 500)
    for wrong in (((256, 480), 257), ((480, 256), 224), ((256, 480), 0)):
        with pytest.raises(ValueError, match="must"):
            RandomScaleCrop(*wrong)


def detailed(draw, height, width) -> Image.Image:
    """An image with detail at every scale, like a photograph."""
    total = np.zeros((height, width, 3))
    for side in (4, 8, 16, 32, 64, 128):
        noise = draw.normal(0, 20, (side * 3 // 4, side, 3)).clip(-127, 127)
        layer = Image.fromarray((noise + 128).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer, dtype=float) - 128
    return Image.fromarray((total + 128).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """48 images of 160 x 120 px in two classes, and four for testing."""
    root, draw = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for split, num in (("train", 24), ("val", 2)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(num):
                detailed(draw, 120, 160).save(root / split / name / f"{i:02}.png")
    return root


def loader(root, **changes):
    settings = {"num_classes": 2, "in_channels": 3, "num_validation": 0, "batch_size": 48, "num_workers": 0}
    settings |= {"mean": [0.0] * 3, "std": [2.0] * 3, "image_size": SIZE, "cache": "none"}
    settings["augment"] = {"crop": RandomResizedCrop(size=SIZE)}
    return ImageFolders(root=str(root), **{**settings, **changes}).loader("train", "cpu")


def energy(images) -> float:
    x = images.double()
    return float((x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean()).sqrt())


@pytest.mark.parametrize(("cache", "least"), [("none", 0.97), ("host", 0.9)])
def test_crops_are_as_sharp_as_torchvisions(photographs, cache, least):
    torch.manual_seed(0)
    transform = v2.RandomResizedCrop(SIZE, antialias=True)
    pictures = [v2.functional.pil_to_tensor(Image.open(path)) for path in sorted(photographs.glob("train/*/*.png"))]
    wanted = energy(torch.stack([transform(picture) for picture in pictures for _ in range(3)]))
    one = loader(photographs, cache=cache)
    epochs = []
    for epoch in range(3):
        one.set_epoch(epoch)
        epochs += [2 * images for images, _ in one]
    assert least < energy(torch.cat(epochs)) / wanted < 1.03


def test_a_crop_is_torchvisions_of_the_same_rectangle(photographs):
    path = sorted(photographs.glob("train/*/*.png"))[0]
    picture, crop = v2.functional.pil_to_tensor(Image.open(path)), RandomResizedCrop()
    draw = BatchRng(0).uniform(NUM_DRAWS, 8)
    rectangles = torch.stack(crop.rectangles(draw, *torch.tensor(picture.shape[1:])[:, None])).int().T.tolist()
    for numbers, rectangle in zip(draw.T.tolist(), rectangles, strict=True):
        wanted = v2.functional.resized_crop(picture, *rectangle, [SIZE, SIZE], antialias=True)
        assert torch.equal(PictureCrop(crop, SIZE).of_picture(picture, numbers), wanted)


def test_a_cache_workers_and_processes_cut_the_same_rectangles(photographs):
    """Cached images are resized twice, so pixels differ slightly."""
    wanted, labels = next(iter(loader(photographs)))
    augment = {"flip": RandomFlip(0.0), "crop": RandomResizedCrop()}  # first, whatever the order
    for changes in ({"num_workers": 1}, {"augment": augment}):
        images, same = next(iter(loader(photographs, **changes)))
        assert torch.equal(images, wanted)
        assert torch.equal(same, labels)
    images, same = next(iter(loader(photographs, cache="host")))
    assert torch.equal(same, labels)
    assert (images - wanted).abs().mean() * 2 < 6  # of 0…255
    assert (images - wanted.roll(1, 0)).abs().mean() * 2 > 20


def test_every_part_of_a_picture_is_seen(tmp_path):
    """Black with white ends, so the centre square is black."""
    picture = np.zeros((60, 160, 3), dtype=np.uint8)
    picture[:, :20] = picture[:, -20:] = 255
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(8):
                Image.fromarray(picture).save(tmp_path / split / name / f"{i}.png")
    for cache in ("none", "host"):
        ((images, _),) = loader(tmp_path, cache=cache, batch_size=16)
        ends = images.flatten(1, 2)[..., [0, -1]].amax(1) > 120
        assert ends.sum() >= 4
