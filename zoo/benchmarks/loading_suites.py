"""Data loading and augmentation."""

import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision
from omegaconf import DictConfig
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

from zoo import distributed
from zoo.benchmarks.rounds import Suite, exhaust, timed
from zoo.data.augment import ColorJitter, RandomErasing, RandomFlip, RandomResizedCrop
from zoo.data.folders import ImageFolders
from zoo.data.loader import BatchLoader

NUM_PICTURES = 1280  # of 500 × 375 px, about the size of ImageNet's, for the loader suite


def augment_suite(cfg: DictConfig) -> Suite:
    """Time resized crop, flip, colour jitter, normalisation and erasing of 2,048 colour images of 32 px, on the CPU.

    The baseline augments whole batches of data.batch_size; the others single images, as tensors and as PIL images.
    """
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2048, 3, 32, 32), dtype=torch.uint8, generator=draw)
    pictures = [to_pil_image(image) for image in images]
    mean, std = torch.full((3,), 120.0), torch.full((3,), 60.0)
    theirs = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(32, antialias=False),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((mean / 255).tolist(), (std / 255).tolist()),
            v2.RandomErasing(0.5, value="random"),
        ]
    )
    on_pil = v2.Compose([*theirs.transforms[1:4], theirs.transforms[0], *theirs.transforms[4:]])
    loader = BatchLoader(
        images,
        torch.zeros(2048, dtype=torch.long),
        cfg.data.batch_size,
        mean,
        std,
        shuffle=True,
        augmentations=[RandomResizedCrop(), RandomFlip(), ColorJitter(), RandomErasing()],
    )
    contenders = {
        "a batch at once": lambda: timed(lambda: exhaust(loader)),
        "image by image, tensors": lambda: timed(lambda: exhaust(theirs(image) for image in images)),
        "image by image, PIL": lambda: timed(lambda: exhaust(on_pil(picture) for picture in pictures)),
    }
    return Suite(contenders, len(loader) * cfg.data.batch_size)


def loader_suite(cfg: DictConfig) -> Suite:
    """Time an epoch of pictures from JPEG files, randomly cropped to 224 px and flipped, with one worker per core.

    The baseline is the loader of torchvision's references/classification (by default, v2 transforms on PIL images).
    Ours decodes and crops to uint8 in the workers, and does the rest in batches on the device. The main process uses
    one thread, since the workers occupy all cores.
    """
    torch.set_num_threads(1)
    folder = tempfile.TemporaryDirectory()
    _draw_pictures(Path(folder.name), NUM_PICTURES)
    device = torch.device("cuda" if cfg.trainer.accelerator == "gpu" else "cpu")
    workers, batch_size = distributed.num_cores(), 64
    reference = _reference_loader(f"{folder.name}/train", batch_size, workers, device)
    ours = ImageFolders(
        root=folder.name,
        num_classes=None,
        in_channels=3,
        num_validation=2,
        batch_size=batch_size,
        cache="none",
        num_workers=workers,
        augment={"crop": RandomResizedCrop(size=224), "flip": RandomFlip()},
        mean=[124.0, 116.0, 104.0],
        std=[58.0, 57.0, 57.0],
    )
    loader = ours.loader("train", device)
    assert len(loader) == len(reference)

    def reference_epoch() -> float:
        _ = folder  # keeps the temporary folder alive
        return timed(lambda: exhaust((x.to(device, non_blocking=True), y) for x, y in reference))

    contenders = {"torchvision's reference": reference_epoch, "ours": lambda: timed(lambda: exhaust(loader))}
    return Suite(contenders, len(loader) * batch_size)


def _reference_loader(root: str, batch_size: int, workers: int, device: torch.device) -> DataLoader:
    """Return the loader of torchvision's references/classification."""
    steps = v2.Compose(
        [
            v2.RandomResizedCrop(224, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            v2.ToPureTensor(),
        ]
    )
    return DataLoader(
        torchvision.datasets.ImageFolder(root, steps),
        batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        drop_last=True,
    )


def _draw_pictures(root: Path, num: int) -> None:
    """Write JPEG files of two classes, `num` + 2 into train and four into val: blurred blots with some noise."""
    draw = np.random.default_rng(0)
    for split, count in (("train", num // 2 + 1), ("val", 2)):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                blots = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
                soft = np.asarray(blots.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
                noisy = soft + draw.integers(-12, 13, soft.shape, dtype=np.int16)
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / split / label / f"{i}.jpg", quality=90)
