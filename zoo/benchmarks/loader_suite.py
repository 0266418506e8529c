"""Loading of JPEG files: ours against torchvision's loader, at the same crops of the same pictures."""

import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from zoo.benchmarks.dali_loader import DaliLoader
from zoo.benchmarks.rounds import Suite, compared, exhaust, timed
from zoo.data.augment import RandomFlip, RandomResizedCrop
from zoo.data.folders import ImageFolders
from zoo.data.image_files import ImageFiles
from zoo.data.loader import BatchLoader
from zoo.errors import counted

NUM_PICTURES, SIDES, QUALITY = 1280, (500, 375), 90  # about the size of ImageNet's
NUM_WORKERS = (1, 2, 4)
BATCH_SIZE, SIDE = 64, 224
MEAN, STD = (124.0, 116.0, 104.0), (58.0, 57.0, 57.0)  # of 0…255
Crop = tuple[int, tuple[int, int, int, int]]  # the number of a picture; top, left, height and width in it


def loader_suite(cfg: DictConfig) -> Iterator[dict[str, dict[str, Any]]]:
    """Time an epoch of pictures from JPEG files, cropped to 224 px, flipped and normalised, with 1, 2 and 4 workers.

    The baseline is torchvision's ImageFolder with v2 transforms on uint8 tensors, as its documentation recommends, in
    a DataLoader with persistent workers; the second contender is the same on PIL images, which is the default of
    torchvision's references/classification. All crop the same rectangles in the same order: those that ours draws,
    which the others are given in advance. Before timing, the first batches are compared. NVIDIA DALI takes part if it
    is installed (pip install nvidia-dali-cuda130), with threads as workers; its pixels differ by up to three grey
    levels. The main process has one thread, since the workers occupy the cores.
    """
    torch.set_num_threads(1)
    device = torch.device("cuda" if cfg.trainer.accelerator == "gpu" else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        _draw_pictures(Path(folder), NUM_PICTURES)
        work = {"pictures": NUM_PICTURES, "sides": SIDES, "quality": QUALITY, "crop_px": SIDE, "batch_size": BATCH_SIZE}
        for workers in NUM_WORKERS:
            figures = compared(_suite(folder, workers, device), cfg)
            yield {
                f"{name}, {counted(workers, 'worker')}": {**row, "workers": workers, **work}
                for name, row in figures.items()
            }


def _suite(folder: str, workers: int, device: torch.device) -> Suite:
    ours = _our_loader(folder, workers, device)
    crops = _crops_of(ours)
    loaders: dict[str, Iterable[tuple[Tensor, Tensor]]] = {
        "torchvision, tensors": _their_loader(f"{folder}/train", _decoded, crops, workers, device),
        "torchvision, PIL": _their_loader(f"{folder}/train", None, crops, workers, device),
    }
    if importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"):
        loaders["DALI"] = _dali_loader(ours, crops, workers)
    _check_same(next(iter(ours))[0], next(iter(loaders["torchvision, tensors"]))[0].to(device))

    def epoch(batches: Iterable[tuple[Tensor, Tensor]]) -> Callable[[], float]:
        return lambda: timed(lambda: exhaust((x.to(device, non_blocking=True), y) for x, y in batches))

    contenders = {name: epoch(loader) for name, loader in loaders.items()} | {"ours": epoch(ours)}
    return Suite(contenders, len(ours) * BATCH_SIZE)


def _our_loader(folder: str, workers: int, device: torch.device) -> BatchLoader:
    data = ImageFolders(
        root=folder,
        num_classes=None,
        in_channels=3,
        num_validation=0,
        batch_size=BATCH_SIZE,
        cache="none",
        num_workers=workers,
        augment={"crop": RandomResizedCrop(size=SIDE), "flip": RandomFlip()},
        mean=list(MEAN),
        std=list(STD),
    )
    return data.loader("train", device)


def _crops_of(loader: BatchLoader) -> list[list[Crop]]:
    """Return the crops of each batch of an epoch."""
    crop, (width, height) = RandomResizedCrop(size=SIDE), torch.tensor(SIDES)
    batches = []
    for index, draw in zip(loader.indices(), loader.crop_draws(range(len(loader))), strict=True):
        assert isinstance(index, Tensor)
        rectangles = torch.stack(crop.rectangles(draw, height, width)).int().T.tolist()
        batches.append([(i, (a, b, c, d)) for i, (a, b, c, d) in zip(index.tolist(), rectangles, strict=True)])
    return batches


class _Given(v2.RandomResizedCrop):
    """torchvision's crop, of a rectangle that is given."""

    rectangle = (0, 0, 1, 1)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return dict(zip(("top", "left", "height", "width"), self.rectangle, strict=True))


class _Cropped(Dataset[tuple[Tensor, int]]):
    """torchvision's ImageFolder, indexed by a picture's number and the rectangle to crop."""

    def __init__(self, root: str, read: Callable[[str], Tensor] | None) -> None:
        self.crop = _Given(SIDE, antialias=True)
        steps = [
            self.crop,
            v2.RandomHorizontalFlip(),
            *([] if read else [v2.PILToTensor()]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([level / 255 for level in MEAN], [level / 255 for level in STD]),
            v2.ToPureTensor(),
        ]
        settings = {} if read is None else {"loader": read}
        self.pictures = ImageFolder(root, v2.Compose(steps), **settings)

    def __getitem__(self, crop: Crop) -> tuple[Tensor, int]:
        index, self.crop.rectangle = crop
        found: tuple[Tensor, int] = self.pictures[index]
        return found


def _decoded(path: str) -> Tensor:
    return decode_image(path, ImageReadMode.RGB)


def _their_loader(
    root: str, read: Callable[[str], Tensor] | None, crops: list[list[Crop]], workers: int, device: torch.device
) -> Iterable[tuple[Tensor, Tensor]]:
    return DataLoader(
        _Cropped(root, read),
        batch_sampler=crops,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )


def _dali_loader(ours: BatchLoader, crops: list[list[Crop]], workers: int) -> DaliLoader:
    assert isinstance(ours.images, ImageFiles)
    paths = ours.images.paths
    batches = [([paths[i] for i, _ in batch], np.array([crop for _, crop in batch])) for batch in crops]
    return DaliLoader(batches, SIDE, MEAN, STD, workers)


def _check_same(ours: Tensor, theirs: Tensor) -> None:
    """Check that two batches are the same pictures, flipped or not, within one grey level."""
    std = torch.tensor(STD, device=ours.device)[:, None, None]
    apart = torch.stack([((ours - one) * std).abs().amax((1, 2, 3)) for one in (theirs, theirs.flip(3))])
    assert apart.amin(0).max() < 1.01, "the loaders do different work"


def _draw_pictures(root: Path, num: int) -> None:
    """Write JPEG files of two classes, `num` into train and four into val: blurred blots with some noise."""
    draw = np.random.default_rng(0)
    for split, count in (("train", num // 2), ("val", 2)):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                blots = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
                soft = np.asarray(blots.resize(SIDES, Image.Resampling.BICUBIC), dtype=np.int16)
                noisy = Image.fromarray((soft + draw.integers(-12, 13, soft.shape)).clip(0, 255).astype(np.uint8))
                noisy.save(root / split / label / f"{i}.jpg", quality=QUALITY)
