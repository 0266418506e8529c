"""Base LightningDataModule of all data sets."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Literal, get_args

import lightning
import torch

from zoo.errors import BadInput, counted
from zoo.ranges import Count

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class ResidentData(lightning.LightningDataModule, ABC):
    """Keep a whole data set near the training device, with loaders whose state can be saved in mid-epoch.

    `batch_size` is the total over all processes, `eval_batch_size` per process.
    """

    kind: ClassVar[str]  # kind of data that a task must support: images or sequences

    def __init__(self, batch_size: Count, eval_batch_size: Count, seed: int) -> None:
        super().__init__()
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self._train_state: dict[str, int] | None = None

    @abstractmethod
    def load(self) -> Any:
        """Read, check and split the data once, and return the facts to be stored in a product file."""

    @abstractmethod
    def loader(self, split: Split, device: torch.device | str) -> Any:
        """Return the batches of a split on a device."""

    @abstractmethod
    def example(self) -> tuple[torch.Tensor, ...]:
        """Return the inputs of a net for one sample of typical size, on the meta device."""

    @abstractmethod
    def random_batch(self, num: int, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return a random training batch, with samples of typical size."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Return the settings a net is built with that depend on the data, and may be null in the config."""

    @property
    def number_scale(self) -> dict[str, list[float]] | None:
        """Return the mean and std of labels that are numbers; None for classes and sequences."""
        return None

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")

    def train_dataloader(self) -> Any:
        self._train_loader = self.loader("train", self._device())
        if self._train_state is not None:
            self._train_loader.load_state_dict(self._train_state)
        return self._train_loader

    def val_dataloader(self) -> Any:
        return self.limited_loader("val", self._device(), self.trainer.limit_val_batches if self.trainer else None)

    def test_dataloader(self) -> Any:
        return self.limited_loader("test", self._device(), self.trainer.limit_test_batches if self.trainer else None)

    def limited_loader(self, split: Split, device: torch.device, limit: float | None) -> Any:
        """Return the batches of a split of which only a number or a fraction, `limit`, will be used.

        Each batch is then spread over the whole split, since samples may be in the order of their class or length.
        """
        loader = self.loader(split, device)
        loader.spread = isinstance(limit, int) or (limit is not None and limit < 1)
        return loader

    def limited_batches(self, split: Split, device: torch.device, limit: float | None) -> Iterator[Any]:
        """Return the batches of a split that a trainer with this limit uses: a number of them, a fraction, or all."""
        loader = self.limited_loader(split, device, limit)
        return itertools.islice(loader, int(limit * len(loader)) if isinstance(limit, float) else limit)

    def state_dict(self) -> dict[str, Any]:
        """Save the training loader's position; on its own, Lightning restores it only if no schedule counts steps."""
        state = self._train_loader.state_dict()
        ended = self.trainer is not None and self.trainer.is_last_batch  # e.g. due to trainer.limit_train_batches
        return {"train_loader": {**state, "position": 0} if ended else state, "facts": asdict(self.load())}

    def test_hash(self) -> str | None:
        """Hash the test samples alone: equal hashes mean equal test sets, however the rest is split. None: unknown."""
        return None

    def test_content_hash(self) -> str | None:
        """Hash the content of the test files; `test_hash` covers only names and sizes. None: unknown."""
        return None

    def test_sample_hash(self) -> str | None:
        """Hash the content of some test files, also if they are read only during training. None: not in files."""
        return None

    def check_same(self, before: Mapping[str, Any], whose: str) -> None:
        """Raise BadInput, naming the difference, unless these data and their split match the facts `before`."""
        now = asdict(self.load())
        both = [(now.get(key), before.get(key)) for key in ("content_hash", "sample_hash")]
        if now["split_hash"] == before["split_hash"] and all(a == b for a, b in both if a and b):
            return
        what = "the same number of samples, but different contents, labels or split"
        for part, num in now["num_samples"].items():
            if num != (were := before["num_samples"].get(part)):
                what = f"{counted(num, 'sample')} for {part} instead of {were:,}"
        for key in ("classes", "source_symbols", "target_symbols"):
            if odd := sorted(set(now.get(key, ())) ^ set(before.get(key, ()))):
                what = f"different {key.replace('_', ' ')}, such as '{odd[0]}'"
        raise BadInput(f"the data found are not those {whose}: they have {what}")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._train_state = state["train_loader"]
