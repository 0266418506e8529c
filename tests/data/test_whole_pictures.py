"""Crops of whole pictures from files and from memory: their pixels, their place in an epoch, and their memory."""

from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from torchvision.transforms import InterpolationMode, v2

from zoo import memory
from zoo.data import image_workers
from zoo.data.augment import NUM_DRAWS, Cut, RandomResizedCrop
from zoo.data.batch_rng import BatchRng
from zoo.data.file_cache import estimate_bytes, whole_pictures
from zoo.data.folders import ImageFolders
from zoo.data.image_files import ImageFiles
from zoo.data.picture_parts import size_of
from zoo.data.reading import Reading
from zoo.data.whole_pictures import PictureCrop
from zoo.errors import BadInput

SIZE = 32
PHOTOGRAPHS = ("china.jpg", "flower.jpg")  # of 640 x 427 px, in scikit-learn


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Files of two photographs: as they are, portrait by EXIF, and as PNG; and wide ones."""
    folder = tmp_path_factory.mktemp("photographs")
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in PHOTOGRAPHS:
        picture = Image.open(str(resources("sklearn.datasets") / "images" / name))
        picture.save(folder / f"as_is_{name}", quality=95)
        picture.save(folder / f"turned_{name}", quality=95, exif=exif)
        picture.crop((0, 0, 640, 424)).save(folder / f"even_{name}", quality=95, exif=exif)
        picture.save(folder / f"{name}.png")
        picture.crop((0, 100, 640, 164)).save(folder / f"wide_{name}", quality=95)
    return sorted(map(str, folder.iterdir()))


def picture_of(path) -> torch.Tensor:
    return v2.functional.pil_to_tensor(ImageOps.exif_transpose(Image.open(path)))


def torchvisions(path, cut, draw, mode=InterpolationMode.BILINEAR) -> torch.Tensor:
    picture = picture_of(path)
    rectangle = [int(x) for x in cut.rectangles(draw[:, None], *torch.tensor(picture.shape[1:])[:, None])]
    return v2.functional.resized_crop(picture, *rectangle, [SIZE, SIZE], mode, antialias=True)


def differences(found, wanted) -> torch.Tensor:
    return (found.int() - wanted.int()).abs()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_crop_from_a_file_or_from_memory_is_torchvisions_of_the_whole_picture(photographs, interpolation):
    files = ImageFiles(photographs, Reading(SIZE, interpolation=interpolation, scaled=False))
    crop = PictureCrop(RandomResizedCrop(), SIZE, interpolation)
    draws = BatchRng(0).uniform(NUM_DRAWS, len(files))
    kept, numbers = whole_pictures(files, 640)  # not reduced
    assert numbers.tolist() == list(range(len(files)))
    in_memory = crop.of_kept(kept, draws)
    from_files, index = next(files.batches([slice(None)], torch.device("cpu"), crop, [draws]))
    assert index.tolist() == numbers.tolist()
    for i, path in enumerate(photographs):
        wanted = torchvisions(path, crop.cut, draws[:, i], InterpolationMode(interpolation))
        assert differences(from_files[i], wanted).max() <= 1
        assert differences(in_memory[i], wanted).max() <= 1


@dataclass(frozen=True)
class Given(Cut):
    """A crop of one rectangle of each picture: top, left, height and width."""

    rectangle: tuple[int, int, int, int]

    def rectangles(self, draw, height, width) -> tuple[torch.Tensor, ...]:
        return tuple(torch.tensor([float(one)]) for one in self.rectangle)


JPEGS = {
    "RGB 4:2:0": {"subsampling": "4:2:0"},
    "RGB 4:4:4": {"subsampling": "4:4:4"},
    "L": {},
    "CMYK": {},
    "RGB progressive": {"progressive": True},
    "RGB turned": {"exif": 6},
    "RGB mirrored": {"exif": 5},
}


@pytest.mark.parametrize("kind", JPEGS)
def test_crops_at_every_edge_of_every_kind_of_jpeg_are_torchvisions(tmp_path, kind):
    settings = dict(JPEGS[kind])
    if "exif" in settings:
        exif = Image.Exif()
        exif[0x0112] = settings["exif"]
        settings["exif"] = exif
    picture = Image.open(str(resources("sklearn.datasets") / "images" / PHOTOGRAPHS[1])).crop((0, 0, 201, 151))
    picture.convert(kind.split()[0]).save(tmp_path / "a.jpg", quality=90, **settings)
    with Image.open(tmp_path / "a.jpg") as opened:
        whole = v2.functional.pil_to_tensor(ImageOps.exif_transpose(opened).convert("RGB"))
    height, width = whole.shape[1:]
    for rectangle in (
        (0, 0, height, width),
        (0, 0, 40, 50),
        (0, width - 50, 40, 50),
        (height - 40, 0, 40, 50),
        (height - 40, width - 50, 40, 50),
        (17, 33, 71, 45),
        (50, 60, SIZE, SIZE),
        (height - 1, width - 1, 1, 1),
        (33, 0, 1, width),
        (0, 15, height, 1),
    ):
        found = PictureCrop(Given(rectangle), SIZE).of_file(str(tmp_path / "a.jpg"), [], Reading(SIZE, scaled=False))
        expected = v2.functional.resized_crop(whole, *rectangle, [SIZE, SIZE], antialias=True)
        assert differences(found, expected).max() <= 1, rectangle


def test_a_batch_from_files_has_the_crops_that_each_file_has_alone(photographs, tmp_path, monkeypatch):
    """Some JPEG files are open at the same time; large ones, those of other formats and damaged ones are read alone."""
    (tmp_path / "cut.jpg").write_bytes(Path(photographs[0]).read_bytes()[:-9000])
    (tmp_path / "empty.jpg").write_bytes(b"")
    paths = [*photographs[:5], str(tmp_path / "cut.jpg"), str(tmp_path / "empty.jpg"), *photographs[5:]]
    monkeypatch.setattr(image_workers, "AT_ONCE", 4)
    monkeypatch.setattr(image_workers, "MOST_HELD", max(size_of(path) for path in paths if path.endswith("jpg")) - 1)
    crop = PictureCrop(RandomResizedCrop(), SIZE)
    draws = BatchRng(0).uniform(NUM_DRAWS, len(paths)).T.tolist()
    decoding = image_workers.Decoding(paths, Reading(SIZE), crop, raw=False, full=True)
    items = list(zip(range(len(paths)), draws, strict=True))
    for one, alone in zip(decoding.__getitems__(items), map(decoding.__getitem__, items), strict=True):
        assert torch.equal(one.image, alone.image)
        assert one._replace(image=None) == alone._replace(image=None)
    assert [len(one.failures) for one in decoding.__getitems__(items)].count(1) == 2


def test_a_crop_from_a_smaller_decoding_is_mostly_within_one_grey_level(photographs):
    """Each photograph is decoded at the size that its crop needs, also a turned one; PNG is always decoded whole."""
    crop, close, divisors = PictureCrop(RandomResizedCrop((0.3, 1.0)), SIZE), [], set()
    draws = BatchRng(0).uniform(NUM_DRAWS, 3 * len(photographs)).T
    for draw, path in zip(draws, photographs * 3, strict=True):
        found = crop.of_file(path, draw.tolist(), Reading(SIZE))
        off = differences(found, torchvisions(path, crop.cut, draw))
        rectangle = crop.rectangles([draw.tolist()], [picture_of(path).shape[1:]])
        divisors.add(divisor := crop.divisor(*rectangle[2:, 0].tolist()))
        if path.endswith("png") or divisor == 1:
            assert off.max() <= 1
        else:
            assert off.float().mean() < 1.5
            close.append(float((off <= 1).float().mean()))
    assert divisors == {1, 2, 4}
    assert np.mean(close) > 0.9


def test_a_file_is_decoded_smaller_only_where_its_crop_keeps_twice_its_size(photographs, monkeypatch):
    drafted = []
    real = JpegImageFile.draft
    monkeypatch.setattr(JpegImageFile, "draft", lambda self, *size: drafted.append(size[1]) or real(self, *size))
    cut = RandomResizedCrop((1.0, 1.0), (427 / 640, 640 / 427))  # all of it
    whole = [path for path in photographs if "as_is" in path]
    for scaled, size, wanted in (
        (True, 107, []),
        (True, 106, [(320, 213)]),
        (True, 53, [(160, 106)]),
        (True, 26, [(80, 53)]),
        (False, 26, []),
    ):
        drafted.clear()
        draw = [0.999] * NUM_DRAWS
        PictureCrop(cut, size).of_file(whole[0], draw, Reading(size, scaled=scaled))
        assert drafted == wanted


def test_pictures_in_memory_keep_their_aspect_ratio_at_the_size_that_is_set(photographs):
    files = ImageFiles(photographs, Reading(SIZE))
    kept, _ = whole_pictures(files, 100)
    whole = [picture_of(path) for path in photographs]
    assert kept.sides.tolist() == [list(one.shape[1:]) for one in whole]
    crop, draws = PictureCrop(RandomResizedCrop((0.5, 1.0)), SIZE), BatchRng(0).uniform(NUM_DRAWS, len(files))
    found = crop.of_kept(kept, draws)
    for i, (path, picture) in enumerate(zip(photographs, whole, strict=True)):
        shorter = min(picture.shape[1:])
        shape = [side * 100 // shorter if shorter > 100 else side for side in picture.shape[1:]]
        assert list(kept.shapes[i]) == shape
        assert differences(found[i], torchvisions(path, crop.cut, draws[:, i])).float().mean() < 3
    assert kept.numel() == 3 * int(kept.shapes.prod(1).sum())
    assert estimate_bytes(files, 100) == kept.numel()


def test_of_pinned_pictures_only_those_of_the_batch_are_copied(photographs, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)  # needs CUDA
    kept, _ = whole_pictures(ImageFiles(photographs, Reading(SIZE)), 50)
    part = kept[torch.tensor([3, 0, 3])]
    copy = part.pinned()
    assert copy.numel() == sum(one.numel() for one in part) < kept.numel()
    draws, crop = BatchRng(0).uniform(NUM_DRAWS, 3), PictureCrop(RandomResizedCrop(), SIZE)
    assert torch.equal(crop.of_kept(copy, draws), crop.of_kept(part, draws))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("cache", ["host", "device"])
def test_crops_on_a_gpu_are_those_of_the_cpu_but_for_rounding(folder, cache):
    batches = [list(data(folder, cache=cache).loader("train", device)) for device in ("cpu", "cuda")]
    for (x, y), (u, v) in zip(*batches, strict=True):
        assert u.device.type == "cuda"
        assert torch.equal(y, v.cpu())
        assert (x - u.cpu()).abs().mean() < 1


@pytest.fixture
def folder(photographs, tmp_path):
    """Two classes of eight training pictures, and one test picture each."""
    for split, num in (("train", 8), ("val", 1)):
        for label, name in enumerate(("a", "b")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(num):
                picture = Image.open(photographs[(2 * i + label) % len(photographs)])
                ImageOps.exif_transpose(picture).resize((60 + 7 * i, 50)).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def data(root, **changes) -> ImageFolders:
    settings = {"num_classes": 2, "in_channels": 3, "num_validation": 0, "batch_size": 4, "num_workers": 0}
    settings |= {"mean": [0.0] * 3, "std": [2.0] * 3, "image_size": SIZE, "augment": {"crop": RandomResizedCrop()}}
    return ImageFolders(root=str(root), **{**settings, **changes})


@pytest.mark.parametrize("cache", ["host", "none"])
def test_an_epoch_of_crops_goes_on_where_it_stood(folder, cache):
    one, other = (data(folder, cache=cache).loader("train", "cpu") for _ in range(2))
    batches = list(one)
    iterator = iter(one)
    next(iterator), next(iterator)
    other.load_state_dict(one.state_dict())
    rest = list(other)
    assert len(rest) == 2
    for (x, y), (u, v) in zip(rest, batches[2:], strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_a_file_that_cannot_be_read_is_left_out_of_those_in_memory(folder):
    (folder / "train/a/3.png").write_bytes(b"no image")
    cut = (folder / "train/b/5.png").read_bytes()
    (folder / "train/b/5.png").write_bytes(cut[: len(cut) // 2])
    found = data(folder, cache="host", batch_size=14)
    assert found.load().num_samples["train"] == 14
    ((images, labels),) = found.loader("train", "cpu")
    assert images.shape == (14, 3, SIZE, SIZE)
    assert labels.bincount().tolist() == [7, 7]


def test_whole_pictures_are_kept_only_within_the_free_memory(folder, monkeypatch):
    num_bytes = sum(3 * 50 * (60 + 7 * i) for i in range(8) for _ in range(2)) + 2 * 3 * 36 * 36
    for free, is_kept in ((2 * num_bytes, True), (2 * num_bytes - 2, False)):
        monkeypatch.setattr(memory, "available_bytes", lambda free=free: free)
        found = data(folder, cache="auto")
        found.load()
        assert (found.whole is not None) == is_kept
    monkeypatch.setattr(memory, "available_bytes", lambda: num_bytes - 1)
    with pytest.raises(BadInput, match=r"data\.cache"):
        data(folder, cache="host").load()
    data(folder, cache="host", cache_px=20).load()
