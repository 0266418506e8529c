"""What batches cost before a net sees them."""

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

NUM_PICTURES = 1280  # drawn for the loader suite, of 500 × 375 px, about what ImageNet's have


def augment_suite(cfg: DictConfig) -> Suite:
    """Resized crop, flip, colour jitter, normalisation and erasing of 2,048 colour images of 32 px, on the CPU.

    The baseline takes batches of data.batch_size at once; the others image by image, as tensors and as PIL's.
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
    """An epoch of pictures from JPEG files, cut to 224 px and mirrored at random, by a worker process a core.

    The baseline is the loader of torchvision's references/classification (v2 transforms on PIL's images, as it has by
    default); ours decodes and cuts to uint8 in the workers, and does the rest a batch at once, on the device. The
    workers leave no core for more than one thread here.
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
        _ = folder  # which is there as long as this is
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
    """Write JPEG files of two classes, two more than `num` into train and four into val: soft blots and some noise."""
    draw = np.random.default_rng(0)
    for split, count in (("train", num // 2 + 1), ("val", 2)):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                blots = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
                soft = np.asarray(blots.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
                noisy = soft + draw.integers(-12, 13, soft.shape, dtype=np.int16)
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / split / label / f"{i}.jpg", quality=90)
