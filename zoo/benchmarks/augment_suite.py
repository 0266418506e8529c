"""Augmentation."""

import torch
from omegaconf import DictConfig
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

from zoo.benchmarks.rounds import Suite, exhaust, timed
from zoo.data.augment import ColorJitter, RandomErasing, RandomFlip, RandomResizedCrop
from zoo.data.loader import BatchLoader


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
