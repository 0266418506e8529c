"""Image data sets that fit into memory, as a LightningDataModule whose batches never leave the training device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import lightning
import torch
from torch import Tensor

from zoo.data.loader import Augmentation, BatchLoader
from zoo.data.mix import Mix
from zoo.data.sources import ImageSource, LabelledImages
from zoo.data.splits import fold_sizes, split_hash, stratified_split
from zoo.errors import BadInput

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class ImageFacts:
    """What a product file must know of its data; mean and std are per channel, in units of a pixel's 0…255."""

    classes: list[str]
    mean: list[float]
    std: list[float]
    split_hash: str
    num_samples: dict[str, int]


class InMemoryImages(lightning.LightningDataModule):
    """Keep a whole image data set as uint8 on the training device and cut augmented, normalised batches from it.

    Validation images (and test images where the source has none) are drawn from the training images: stratified, and
    by `split_seed` only, so that every run of whatever `seed` has the same. With `folds`, for cross-validation, they
    are the `fold`-th (from 0) of as many equal parts, whatever `num_validation` says. `mean` and `std` normalise each
    channel, in units of a pixel's 0…255; by default they are those of the remaining training images.

    Raises BadInput where the data contradict num_classes, in_channels or image_size, or where a size cannot be met.
    """

    def __init__(
        self,
        source: Callable[[], ImageSource],
        num_classes: int,
        in_channels: int,
        image_size: int,
        num_validation: int,
        num_test: int = 0,
        folds: int | None = None,
        fold: int = 0,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        augment: Mapping[str, Augmentation | None] | None = None,
        mix: Mix | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            if (mean is None) != (std is None) or (values is not None and len(values) != in_channels):
                raise BadInput(
                    f"data.{name}={values} does not fit: give mean and std, a number a channel each, or none"
                )
        if mean is not None and std is not None and (min(std) <= 0 or max(mean + std) <= 1):
            raise BadInput(
                f"data.mean={mean} data.std={std} do not fit: they are in units of 0…255, and std is above 0"
            )
        if not 0 <= fold < (folds or 1):
            count = f"there are {folds} of them" if folds else "data.folds says how many there are, and is null"
            raise BadInput(f"data.fold={fold} is no fold: {count}, counted from 0")
        for name, value in {"mix": mix, **{f"augment.{key}": value for key, value in (augment or {}).items()}}.items():
            if value is not None and not callable(value):
                raise BadInput(
                    f"data.{name}={value} is no augmentation; say {{_target_: zoo.data.mix.CutMix}}, or null"
                )
        if mix is not None and batch_size < 2:
            raise BadInput(f"data.mix wants two images and more, and data.batch_size={batch_size}")
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if size < 1:
                raise BadInput(f"data.{name}={size} was asked for; it must be at least 1")
        self.source, self.num_classes, self.in_channels, self.image_size = source, num_classes, in_channels, image_size
        self.num_validation, self.num_test = num_validation, num_test
        self.folds, self.fold = folds, fold
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.augmentations = [a for a in (augment or {}).values() if a is not None]
        self.mix, self.mean, self.std = mix, mean, std
        self.seed, self.split_seed = seed, split_seed
        self.splits: dict[str, LabelledImages] = {}
        self._train_state: dict[str, int] | None = None

    def load(self) -> ImageFacts:
        """Read, check and split the data once; later calls return the same facts."""
        if not self.splits:
            source = self.source()
            self._check(source)
            self.splits = self._split(source)
            train = self.splits["train"].images
            mean, std = (
                channel_statistics(train) if self.mean is None else (torch.tensor(self.mean), torch.tensor(self.std))
            )
            self.facts = ImageFacts(
                classes=list(source.classes),
                mean=mean.tolist(),
                std=std.tolist(),
                split_hash=split_hash([(part.images, part.labels) for part in self.splits.values()]),
                num_samples={name: len(part) for name, part in self.splits.items()},
            )
            if self.batch_size > len(train):
                raise BadInput(f"data.batch_size={self.batch_size} is larger than the {len(train)} training images")
        return self.facts

    def _check(self, source: ImageSource) -> None:
        for part in (source.train, source.test):
            if part is None:
                continue
            shape, expected = tuple(part.images.shape[1:]), (self.in_channels, self.image_size, self.image_size)
            if shape != expected:
                raise BadInput(f"the images have (channels, height, width) {shape}; the data config says {expected}")
            found = int(part.labels.max()) + 1
            if len(source.classes) != self.num_classes or found > self.num_classes or int(part.labels.min()) < 0:
                raise BadInput(
                    f"data.num_classes={self.num_classes} was given, but the data have "
                    f"{max(found, len(source.classes))} classes"
                )

    def _split(self, source: ImageSource) -> dict[str, LabelledImages]:
        if (source.test is None) == (self.num_test == 0):
            has = "none, so some must be set aside" if source.test is None else "test images of its own"
            raise BadInput(f"data.num_test={self.num_test} does not fit: this data set has {has}")
        labels, names = source.train.labels, "data.folds" if self.folds else "data.num_validation and data.num_test"
        try:
            if self.folds:
                sizes = fold_sizes(len(labels) - self.num_test, self.folds)
                test, *parts = stratified_split(labels, [self.num_test, *sizes[:-1]], self.split_seed)
                val = parts.pop(self.fold)
                train = torch.cat(parts).sort().values
            else:
                val, test, train = stratified_split(labels, [self.num_validation, self.num_test], self.split_seed)
        except ValueError as error:
            raise BadInput(f"{names}: {error}") from error

        def part(index: Tensor) -> LabelledImages:
            return LabelledImages(source.train.images[index], source.train.labels[index])

        return {"train": part(train), "val": part(val), "test": source.test or part(test)}

    def loader(self, split: Split, device: torch.device | str) -> BatchLoader:
        """Give the batches of a split on a device; only training batches are shuffled and augmented."""
        facts = self.load()
        part = self.splits[split]
        training = split == "train"
        return BatchLoader(
            part.images.to(device),
            part.labels.to(device),
            self.batch_size if training else self.eval_batch_size,
            torch.tensor(facts.mean),
            torch.tensor(facts.std),
            shuffle=training,
            augmentations=self.augmentations if training else (),
            mix=self.mix if training else None,
            num_classes=self.num_classes,
            seed=self.seed,
        )

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")

    def train_dataloader(self) -> BatchLoader:
        self._train_loader = self.loader("train", self._device())
        if self._train_state is not None:
            self._train_loader.load_state_dict(self._train_state)
        return self._train_loader

    def val_dataloader(self) -> BatchLoader:
        return self.loader("val", self._device())

    def test_dataloader(self) -> BatchLoader:
        return self.loader("test", self._device())

    def state_dict(self) -> dict[str, Any]:
        """Save the training loader's place, which Lightning by itself restores only where no schedule counts steps."""
        state = self._train_loader.state_dict()
        ended = self.trainer is not None and self.trainer.is_last_batch  # by trainer.limit_train_batches, perhaps
        return {"train_loader": {**state, "position": 0} if ended else state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._train_state = state["train_loader"]


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Give each channel's mean and standard deviation over (N, C, H, W) uint8 images, exactly, from histograms."""
    levels = torch.arange(256, dtype=torch.float64)
    moments = []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        mean = (counts * levels).sum() / counts.sum()
        variance = (counts * (levels - mean) ** 2).sum() / counts.sum()
        moments.append((mean, variance.sqrt().clamp_min(1e-3)))
    means, deviations = zip(*moments, strict=True)
    return torch.stack(means).float(), torch.stack(deviations).float()
