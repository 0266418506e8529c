"""Folders of images, a class each, as ImageNet has them."""

import functools
import logging
from pathlib import Path
from typing import Any

import torch

from zoo import ranks
from zoo.data.decoding import Decoder, ImageFiles
from zoo.data.images import ImageData
from zoo.data.sources import ImageSource, LabelledImages
from zoo.errors import BadInput, reason
from zoo.ranges import Count, Index, Text

log = logging.getLogger("zoo")
MARGIN = 256 / 224  # of the size to which images are decoded over that which nets see, as torchvision has it


class ImageFolders(ImageData):
    """Read root/train/<class>/* and root/val/<class>/*, decoded to 256/224 of `image_size` px.

    All other arguments are ImageData's; `num_classes` null is as many as there are folders. Images that do not fit into
    memory (`cache`) are decoded by `num_workers` processes each time they are wanted, by default one a CPU core that
    this process has to itself; on CUDA, `decoder="cuda"` has JPEG files decoded there.
    """

    def __init__(
        self,
        *,
        root: Text,
        train: Text = "train",
        test: Text | None = "val",
        image_size: Count = 224,
        num_workers: Index | None = None,
        decoder: Decoder = "cpu",
        **settings: Any,
    ) -> None:
        each = max(1, ranks.num_cores() // ranks.local_world_size())
        workers = each if num_workers is None else num_workers
        if decoder == "cuda" and not torch.cuda.is_available():
            log.warning("data.decoder=cuda wants a CUDA device, and there is none here: worker processes decode.")
        source = functools.partial(image_folders, root, image_size, train, test, workers, decoder)
        super().__init__(source=source, image_size=image_size, **settings)


def image_folders(
    root: str,
    image_size: int,
    train: str = "train",
    test: str | None = "val",
    num_workers: int = 0,
    decoder: Decoder = "cpu",
) -> ImageSource:
    """List the files and classes of a folder; nothing is decoded yet.

    BadInput where a folder is absent, has a class without images, or where the two do not have the same classes.
    """
    from torchvision.datasets import ImageFolder

    folders = []
    for name in (train, test):
        if name is None:
            continue
        try:
            folders.append(ImageFolder(str(Path(root) / name)))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BadInput(
                f"{Path(root) / name} holds no folders of images ({reason(error)}): put the images of each class into "
                f"{Path(root) / name}/<class>/, or point data.root at a folder that has them"
            ) from error
    if folders[0].classes != folders[-1].classes:
        odd = sorted(set(folders[0].classes) ^ set(folders[-1].classes))[0]
        raise BadInput(f"{train} and {test} of {root} must hold the same classes; '{odd}' is in one of them only")
    size = round(image_size * MARGIN)
    parts = [
        LabelledImages(ImageFiles([path for path, _ in f.samples], size, num_workers, decoder), torch.tensor(f.targets))
        for f in folders
    ]
    return ImageSource(parts[0], parts[1] if test else None, folders[0].classes, image_size)
