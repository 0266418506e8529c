"""Let a run be stopped at any moment and go on as if it had not been."""

import contextlib
import io
import os
import random
import signal
import time
import zipfile
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import lightning
import msgspec
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from zoo import distributed
from zoo.callbacks.state import check_counts, check_tensors, check_training, check_whole
from zoo.errors import BadInput, Interrupted, reason
from zoo.files import open_file, replacing
from zoo.paths import LAST, PRODUCT
from zoo.ranges import NotNegative
from zoo.records.schema import Count

NUMPY_WORDS = 624  # of the state of a Mersenne Twister
PREVIOUS = "previous.ckpt"  # what last.ckpt was before, while a run is training
RESERVES = b"bytearray"  # the one name that torch's own list allows and that takes more memory than the file has bytes


class RandomStates(msgspec.Struct, frozen=True):
    """The states of a process's random number generators."""

    python: tuple[int, tuple[int, ...], float | None]
    numpy: dict[str, Any]
    torch: Any
    cuda: list[Any]


class State(msgspec.Struct, frozen=True):
    """What a checkpoint must hold for training to go on as if it had not been interrupted."""

    epoch: Count
    global_step: Count
    state_dict: dict[str, Any]
    loops: dict[str, dict[str, Any]]
    callbacks: dict[str, dict[str, Any]]
    optimizer_states: list[dict[str, Any]]
    lr_schedulers: list[dict[str, Any]]
    random_states: Annotated[list[RandomStates], msgspec.Meta(min_length=1)]
    stopped_early_at: Count | None
    version: Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+")] = msgspec.field(name="pytorch-lightning_version")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write Lightning's checkpoints whole or not at all, and read them without unpickling.

    The one before is kept as previous.ckpt, in case that the disk or a copy damages the last.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()  # torch's own writer would turn a full disk into "unexpected pos"
        torch.save(checkpoint, buffer)
        _keep(Path(path))
        with replacing(path) as file:
            file.write(buffer.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        try:
            return _checkpoint(path, map_location)
        except Exception as error:  # bytes that are no checkpoint lead torch's reader anywhere
            why, else_ = reason(error)[:100], _instead_of(Path(path))
            raise BadInput(f"{path} is damaged or is no checkpoint of ours ({why}); {else_}") from error


def _checkpoint(path: Any, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint, of which every byte that is read has its checksum in the archive; else raise anything."""
    _check_archive(path)
    checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
    msgspec.convert(checkpoint, State)
    check_tensors(checkpoint)
    return checkpoint


def _check_archive(path: Any) -> None:
    """Raise ValueError or BadZipFile unless all checksums of torch's archive fit and it is as large as it says."""
    with open(open_file(path), "rb") as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(one.compress_type != zipfile.ZIP_STORED for one in members):
            raise ValueError("it is compressed")
        if sum(one.file_size for one in members) > os.fstat(file.fileno()).st_size:
            raise ValueError("it is larger than its file")
        if len({one.filename for one in members}) < len(members):
            raise ValueError("it has two parts of one name")
        if (name := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {name} does not match")
        if any(RESERVES in archive.read(one) for one in members if one.filename.endswith("data.pkl")):
            raise ValueError("it reserves memory")


def _keep(path: Path) -> None:
    """Keep the checkpoint that is about to be replaced, by a second name of its file, which costs no time."""
    spare = path.with_name(f".{PREVIOUS}.part")
    spare.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there is none, or the file system has no second names
        os.link(path, spare)
        os.replace(spare, path.with_name(PREVIOUS))


def _instead_of(path: Path) -> str:
    """Say what there is instead of a damaged checkpoint."""
    previous, product = path.with_name(PREVIOUS), path.with_name(PRODUCT)
    with contextlib.suppress(Exception):  # neither is sure to be there, or whole
        step = _checkpoint(previous)["global_step"]
        return f"{PREVIOUS} is whole, of step {step}: mv {previous} {path}, and resume again"
    if product.exists():
        return f"init_from={product} begins a new run with its best weights"
    return "without it, train anew"


class ResumeCheckpoint(Checkpoint):
    """Write last.ckpt after every epoch, every so many minutes within one, and on SIGTERM and Ctrl-C.

    A signal lets the step in hand finish; then the state is saved and the run ends with Interrupted. A second signal
    ends it at once. Of several processes none stops alone: they ask each other every `log_every_n_steps`. Beside what
    Lightning saves stand the states of the random number generators.
    """

    def __init__(self, every_minutes: NotNegative = 10) -> None:
        self.every_minutes = every_minutes
        self._signal: int | None = None
        self._saved = 0.0
        self._random_states: dict[str, Any] | None = None
        self._stopped_early_at: int | None = None  # the max_epochs of a run that early stopping ended
        self._to_check: dict[str, Any] | None = None  # once there are optimizers
        self.has_begun = False
        self._handlers: dict[int, Any] = {}

    def _notice(self, signum: int, frame: FrameType | None) -> None:
        self._signal = signum
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._to_check is not None:
            check_training(trainer, self._to_check)
            self._to_check = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._saved = time.monotonic()
        # Not in on_fit_start: Lightning's own handler would be put around these, and end the run without an error.
        self._handlers = {s: signal.signal(s, self._notice) for s in (signal.SIGINT, signal.SIGTERM)}
        if self._random_states is not None:
            set_random_states(self._random_states)
        if self._stopped_early_at == trainer.max_epochs:  # raising max_epochs is how a person says: go on
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.has_begun = True  # with what was loaded: a step has shown that it fits
        if trainer.is_last_batch:  # validation belongs to this epoch; on_train_epoch_end saves after it
            return
        if (batch_idx + 1) % trainer.accumulate_grad_batches:  # half-summed gradients are in no checkpoint
            return
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if distributed.world_size() > 1 and trainer.global_step % every:  # asking each other at every step would cost
            return
        due = self._signal or time.monotonic() - self._saved > 60 * self.every_minutes
        if any(distributed.of_all(due)):
            self._save(trainer)
        self._stop_if_told(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._save(trainer)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.current_epoch > 0:
            self._stop_if_told(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        for logger in trainer.loggers:  # before and not after, so that the curves reach at least as far
            logger.after_save_checkpoint(self)  # type: ignore[arg-type]
        trainer.save_checkpoint(Path(trainer.default_root_dir) / LAST, weights_only=False)  # optimizer and all
        self._saved = time.monotonic()

    def _stop_if_told(self, trainer: lightning.Trainer) -> None:
        told = [number for number in distributed.of_all(self._signal) if number]  # a signal may come to some of us only
        if told:
            raise Interrupted(
                f"stopped by {signal.Signals(told[0]).name} after step {trainer.global_step}; "
                f"python train.py resume={os.path.relpath(trainer.default_root_dir)} goes on from there",
                told[0],
            )

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._restore_handlers()
        self._stop_if_told(trainer)  # in its last step
        if distributed.rank() == 0:
            (Path(trainer.default_root_dir) / PREVIOUS).unlink(missing_ok=True)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._restore_handlers()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["random_states"] = distributed.of_all(get_random_states())
        checkpoint["stopped_early_at"] = trainer.max_epochs if trainer.should_stop else None

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        check_whole(trainer, checkpoint)
        if trainer.optimizers:  # already, as with weights that are shared out, which torch compares itself
            check_counts(trainer, checkpoint)
        else:
            self._to_check = checkpoint
        states = checkpoint["random_states"]  # of each process there was
        self._random_states = states[distributed.rank()] if len(states) == distributed.world_size() else None
        self._stopped_early_at = checkpoint["stopped_early_at"]


def get_random_states() -> dict[str, Any]:
    """Collect the states of Python's, NumPy's and torch's generators as plain data."""
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002  the global stream is the one others may have drawn from
    assert isinstance(numpy, dict)
    numpy["state"]["key"] = numpy["state"]["key"].tolist()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what `get_random_states` collected."""
    random.setstate(states["python"])
    key, place = np.array(states["numpy"]["state"]["key"], dtype=np.uint32), states["numpy"]["state"]["pos"]
    if key.shape != (NUMPY_WORDS,) or type(place) is not int or not 0 <= place <= NUMPY_WORDS:
        raise ValueError("the state of NumPy's generator is none")  # NumPy itself would read next to it
    np.random.set_state({**states["numpy"], "state": {**states["numpy"]["state"], "key": key}})  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
