"""Image data sets as a LightningDataModule, kept on the training device, in host memory or in files."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from zoo import distributed
from zoo.data.augment import Cut, check_augmentations
from zoo.data.file_cache import Cache, cached
from zoo.data.file_checks import check_readable, warn_of_shared
from zoo.data.image_files import ImageFiles
from zoo.data.image_statistics import channel_statistics, check_normalisation
from zoo.data.loader import Augmentation, BatchLoader
from zoo.data.mix import Mix
from zoo.data.module import ResidentData, Split
from zoo.data.number_scale import are_numbers, number_scale
from zoo.data.sources import ImageSource, LabelledImages
from zoo.data.split_source import Shares, split_source
from zoo.data.splits import split_hash
from zoo.data.whole_pictures import WholePictures
from zoo.errors import BadInput, counted
from zoo.ranges import Count, ImageSize, Index, Positive, Range, height_width, plain_size

NUM_FOR_STATISTICS = 2000  # images in files to compute mean and std from
TIMES_FOR_CROPS = 2  # default of cache_px, over the crop's size: about a fifth of the usual crops are then enlarged
log = logging.getLogger("zoo")


@dataclass(frozen=True)
class ImageFacts:
    """Facts about the data stored in a product file; mean and std are per channel, in pixel units 0…255.

    `split_hash` covers the pixels or, for images in files, their names and sizes in bytes. `sample_hash` covers the
    content of some hundred files of each split and, if all files were read before training, `content_hash` of all.
    If labels are numbers, `classes` are their names, and `number_scale` their mean and std.
    """

    classes: list[str]
    mean: list[float]
    std: list[float]
    split_hash: str
    num_samples: dict[str, int]
    content_hash: str | None = None
    sample_hash: str | None = None
    number_scale: dict[str, list[float]] | None = None


class ImageData(ResidentData):
    """Keep an image data set as uint8 and yield augmented, normalised batches on the training device.

    `cache` sets where it is kept: on the device, on the host, not at all (none: files are decoded each time), or in the
    first of these with enough room (auto). For random crops, it keeps pictures in files whole, with shorter sides of at
    most `cache_px` px, by default twice the crop's. `batch_size` is the total over all processes, `eval_batch_size` per
    process.

    Validation images (and test images if the source has none) are a stratified sample of the training images that
    depends only on `split_seed`, so that runs with different `seed` share a split. With `folds`, for cross-validation,
    they are the `fold`-th (from 0) of that many equal parts, and `num_validation` is ignored. `mean` and `std`
    normalise each channel, in pixel units 0…255; by default they are computed from the remaining training images, or
    from 2,000 of them if they are in files. After `distinct_epochs`, the training batches of the first epochs are
    repeated, with the same augmentation. With `sampler` balanced, every class is equally frequent in an epoch.

    Raises BadInput if the data contradict num_classes, in_channels or image_size, or if a size is impossible.
    """

    kind = "images"

    def __init__(
        self,
        source: Callable[[], ImageSource],
        num_classes: Count | None,
        in_channels: Count,
        image_size: ImageSize,
        num_validation: Index,
        num_test: Index = 0,
        folds: Annotated[int, Range(2)] | None = None,
        fold: Index = 0,
        batch_size: Count = 128,
        eval_batch_size: Count = 500,
        augment: Mapping[str, Augmentation | None] | None = None,
        mix: Mix | None = None,
        sampler: Literal["shuffled", "balanced"] = "shuffled",
        distinct_epochs: Count | None = None,
        mean: list[float] | None = None,
        std: list[Positive] | None = None,
        cache: Cache = "auto",
        cache_px: Count | None = None,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, seed)
        check_normalisation(mean, std, in_channels)
        check_augmentations(augment or {}, mix, image_size)
        if mix is not None and batch_size < 2:
            raise BadInput(f"data.mix needs batches of at least two images, got data.batch_size={batch_size}")
        self.source, self.num_classes, self.in_channels = source, num_classes, in_channels
        self.image_size = plain_size(image_size)
        self.shares = Shares(num_validation, num_test, folds, fold)
        self.sampler, self.distinct_epochs = sampler, distinct_epochs
        self.augmentations = [a for a in (augment or {}).values() if a is not None]
        self.mix, self.mean, self.std = mix, mean, std
        self.cache, self.cache_px, self.split_seed = cache, cache_px, split_seed
        self.splits: dict[str, LabelledImages] = {}
        self.whole: WholePictures | None = None  # training pictures in memory, if random crops are cut from them
        self.files: dict[str, ImageFiles] = {}  # files that the splits are read from
        self.samples: dict[str, tuple[Tensor, Tensor]] = {}  # digests and labels of some files of each split
        self.contents: dict[str, Tensor] = {}  # digests of the files that were decoded in advance

    def load(self) -> ImageFacts:
        """Read, check and split the data once; later calls return the same facts."""
        if not self.splits:
            source = self.source()
            splits = self.split(source)
            self.files = {name: part.images for name, part in splits.items() if isinstance(part.images, ImageFiles)}
            scale = number_scale(splits["train"].labels, source.classes)
            self._check_labels(splits["train"].labels)
            if not self.files and (self.cache == "none" or self.cache_px is not None):
                key = "cache_px" if self.cache_px is not None else "cache=none"
                raise BadInput(f"data.{key} is only for image folders; use data.cache=device, host or auto, without px")
            check_readable(self.files, source.classes, {name: part.labels for name, part in splits.items()})
            mean, std = self._statistics(splits["train"].images)
            digests = [(_identity(part.images), part.labels) for part in splits.values()]
            self.splits, self.whole = cached(splits, self.cache, self._whole_px())
            content_hash = self._content_hash(splits, source.classes)
            self.samples = {name: self._sampled(name, splits[name].labels) for name in self.files}
            self.facts = ImageFacts(
                classes=list(source.classes),
                mean=mean,
                std=std,
                split_hash=split_hash(digests),
                num_samples={name: len(part) for name, part in self.splits.items()},
                content_hash=content_hash,
                sample_hash=split_hash(list(self.samples.values())) if self.samples else None,
                number_scale=scale,
            )
            if self.batch_size > len(self.splits["train"]):
                num = len(self.splits["train"])
                raise BadInput(f"data.batch_size={self.batch_size} is larger than the {num} training images")
        return self.facts

    def split(self, source: ImageSource) -> dict[str, LabelledImages]:
        """Return the images of a source by split, without reading files; raise BadInput if settings contradict it."""
        self._check(source)
        return split_source(source, self.shares, self.split_seed)

    @property
    def multilabel(self) -> bool:
        """Return whether an image may have several labels, which are then (N, C)."""
        return self.number_scale is None and self.splits["train"].labels.ndim == 2

    @property
    def number_scale(self) -> dict[str, list[float]] | None:
        return self.load().number_scale

    def _statistics(self, images: Tensor | ImageFiles) -> tuple[list[float], list[float]]:
        if self.mean is not None and self.std is not None:
            return self.mean, self.std
        if isinstance(images, ImageFiles):
            chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.split_seed))
            images, _ = images[chosen[:NUM_FOR_STATISTICS]].decoded()
        mean, std = channel_statistics(images)
        return mean.tolist(), std.tolist()

    def _whole_px(self) -> int | None:
        """Return the shorter side of whole training pictures in memory; None without random crops of them."""
        crop = next((a for a in self.augmentations if isinstance(a, Cut)), None)
        longer = max(height_width(self.image_size))
        return None if crop is None else self.cache_px or TIMES_FOR_CROPS * longer

    def test_hash(self) -> str:
        self.load()
        part, files = self.splits["test"], self.files.get("test")
        if files is None:
            return split_hash([(_identity(part.images), part.labels)])
        readable = self._readable(files)
        labels = part.labels if isinstance(part.images, Tensor) else part.labels[readable]
        return split_hash([(files.fingerprint()[readable], labels)])

    def test_content_hash(self) -> str | None:
        self.load()
        if "test" not in self.contents:
            return None
        readable = self._readable(self.files["test"])
        return split_hash([(self.contents["test"][readable], self.splits["test"].labels)])

    def _sampled(self, name: str, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the digests and labels of some files of a split, which are read only if not all of them were."""
        rows = self.files[name].sample()
        known = name in self.contents
        return self.contents[name][rows] if known else self.files[name][rows].contents(), labels[rows]

    def test_sample_hash(self) -> str | None:
        self.load()
        return split_hash([self.samples["test"]]) if "test" in self.samples else None

    @staticmethod
    def _readable(files: ImageFiles) -> Tensor:
        """Return a mask of the files that no process has failed to read so far."""
        unreadable = set().union(*distributed.all_gather_object(files.unreadable))
        return torch.tensor([path not in unreadable for path in files.paths], dtype=torch.bool)

    def _content_hash(self, splits: dict[str, LabelledImages], classes: Sequence[str]) -> str | None:
        """Hash the content of files decoded in advance, else return None; warn about files in two splits or classes."""
        were_read = all(isinstance(part.images, Tensor) for part in self.splits.values())
        self.contents = {name: images.contents() for name, images in self.files.items()} if were_read else {}
        if "train" in self.contents:
            warn_of_shared(self.files, self.contents, splits["train"].labels, classes)
        digests = [(rows, splits[name].labels) for name, rows in self.contents.items()]
        return split_hash(digests) if digests else None

    def _check(self, source: ImageSource) -> None:
        if len(set(source.classes)) < len(source.classes):
            raise BadInput("data.source: two classes have the same name; rename one")
        for part in (source.train, source.val, source.test):
            if part is None:
                continue
            channels, height, width = part.images.shape[1:]
            size = plain_size(source.image_size or (height, width))
            for key, has, asked in (("in_channels", channels, self.in_channels), ("image_size", size, self.image_size)):
                if has != asked:
                    raise BadInput(f"data.{key}: expected {has}, as in the images, got {asked}")
            found = part.labels.shape[1] if part.labels.ndim == 2 else int(part.labels.max()) + 1
            self.num_classes = self.num_classes or len(source.classes)
            is_negative = int(part.labels.min()) < 0 and not are_numbers(part.labels)
            if len(source.classes) != self.num_classes or found > self.num_classes or is_negative:
                what = "number" if are_numbers(part.labels) else "class"
                num = counted(max(found, len(source.classes)), what)
                raise BadInput(f"data.num_classes={self.num_classes} is wrong: the data have {num}")

    def _check_labels(self, labels: Tensor) -> None:
        """Raise BadInput for settings that need one class per image, if training labels are (N, C)."""
        if labels.ndim == 2 and self.sampler == "balanced":
            what = "these are numbers" if are_numbers(labels) else "these have several"
            raise BadInput(f"data.sampler=balanced needs one label per image, and {what}; leave it out")
        if self.mix is not None and are_numbers(labels):
            raise BadInput("data.mix mixes the classes of images, and these have numbers; leave it out")

    def loader(self, split: Split, device: torch.device | str) -> BatchLoader:
        """Return the batches of a split on a device; only training batches are shuffled and augmented."""
        facts = self.load()
        training, device = split == "train", torch.device(device)
        images: Tensor | ImageFiles | WholePictures = self.splits[split].images
        labels = self.splits[split].labels
        if training and self.whole is not None:
            images = self.whole
        if not isinstance(images, ImageFiles) and self._fits_on(device, images):
            images, labels = images.to(device), labels.to(device)
        return BatchLoader(
            images,
            labels,
            self.batch_size if training else self.eval_batch_size,
            torch.tensor(facts.mean),
            torch.tensor(facts.std),
            device=device,
            image_size=self.image_size,
            shuffle=training,
            balanced=self.sampler == "balanced",
            augmentations=self.augmentations if training else (),
            mix=self.mix if training else None,
            distinct_epochs=self.distinct_epochs if training else None,
            num_classes=len(facts.classes),
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )

    def _fits_on(self, device: torch.device, images: Tensor | WholePictures) -> bool:
        if device.type != "cuda" or self.cache == "device":
            return True
        return self.cache == "auto" and images.numel() < torch.cuda.mem_get_info(device)[0] / 2

    def class_counts(self) -> dict[str, int]:
        """Return the number of training samples of each class; raise BadInput if one has none."""
        classes, labels = self.load().classes, self.splits["train"].labels
        counts = dict(zip(classes, labels.bincount(minlength=len(classes)).tolist(), strict=True))
        if missing := [name for name, num in counts.items() if not num]:
            raise BadInput(f"task.class_weights and task.logit_adjustment: class '{missing[0]}' has no training sample")
        return counts

    def sizes(self) -> dict[str, int]:
        return {"num_classes": len(self.load().classes)}

    def random_batch(self, num: int, device: torch.device) -> tuple[Tensor, ...]:
        self.load()
        images = torch.randn(num, self.in_channels, *height_width(self.image_size), device=device)
        labels = self.splits["train"].labels
        return images, labels[torch.randint(len(labels), (num,))].to(device)

    def example(self) -> tuple[Tensor, ...]:
        return (torch.empty(1, self.in_channels, *height_width(self.image_size), device="meta"),)


def _identity(images: Tensor | ImageFiles) -> Tensor:
    return images.fingerprint() if isinstance(images, ImageFiles) else images
