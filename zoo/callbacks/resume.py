"""Stopping and resuming a run at any moment, with the same results as without interruption."""

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

NUMPY_WORDS = 624  # in the state of a Mersenne Twister
PREVIOUS = "previous.ckpt"  # the checkpoint before last.ckpt, while a run is training
RESERVES = b"bytearray"  # the only name allowed by torch that can allocate more memory than the file has bytes


class RandomStates(msgspec.Struct, frozen=True):
    """The states of a process's random number generators."""

    python: tuple[int, tuple[int, ...], float | None]
    numpy: dict[str, Any]
    torch: Any
    cuda: list[Any]


class State(msgspec.Struct, frozen=True):
    """Contents a checkpoint needs for training to continue as if it had not been interrupted."""

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
    """Write Lightning's checkpoints atomically, and read them without unpickling.

    The previous one is kept as previous.ckpt, in case the last is damaged on disk or by copying.
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
        except Exception as error:  # torch's reader may raise anything on other bytes
            why, else_ = reason(error)[:100], _instead_of(Path(path))
            raise BadInput(f"{path} is damaged or not a checkpoint of this project ({why}); {else_}") from error


def _checkpoint(path: Any, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint after verifying its checksums; may raise any exception if it is invalid."""
    _check_archive(path)
    checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
    msgspec.convert(checkpoint, State)
    check_tensors(checkpoint)
    return checkpoint


def _check_archive(path: Any) -> None:
    """Raise ValueError or BadZipFile unless the checksums and sizes in torch's archive are correct."""
    with open(open_file(path), "rb") as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(one.compress_type != zipfile.ZIP_STORED for one in members):
            raise ValueError("it is compressed")
        if sum(one.file_size for one in members) > os.fstat(file.fileno()).st_size:
            raise ValueError("it is larger than its file")
        if len({one.filename for one in members}) < len(members):
            raise ValueError("it has two parts with the same name")
        if (name := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {name} does not match")
        if any(RESERVES in archive.read(one) for one in members if one.filename.endswith("data.pkl")):
            raise ValueError("it reserves memory")


def _keep(path: Path) -> None:
    """Keep the checkpoint about to be replaced, by a hard link, which takes no time."""
    spare = path.with_name(f".{PREVIOUS}.part")
    spare.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there is no file, or the file system has no hard links
        os.link(path, spare)
        os.replace(spare, path.with_name(PREVIOUS))


def _instead_of(path: Path) -> str:
    """Suggest an alternative to a damaged checkpoint."""
    previous, product = path.with_name(PREVIOUS), path.with_name(PRODUCT)
    with contextlib.suppress(Exception):  # it may be missing or damaged
        step = _checkpoint(previous)["global_step"]
        return f"{PREVIOUS}, of step {step}, is intact: mv {previous} {path}, and resume again"
    if product.exists():
        return f"init_from={product} starts a new run from its best weights"
    return "start a new run"


class ResumeCheckpoint(Checkpoint):
    """Write last.ckpt after every epoch, every `every_minutes` within an epoch, and on SIGTERM and Ctrl-C.

    After a signal, the current step is finished and saved, and the run ends with Interrupted. A second signal ends it
    immediately. Several processes stop together: they synchronise every `log_every_n_steps`. In addition to
    Lightning's state, the states of the random number generators are saved.
    """

    def __init__(self, every_minutes: NotNegative = 10) -> None:
        self.every_minutes = every_minutes
        self._signal: int | None = None
        self._saved = 0.0
        self._random_states: dict[str, Any] | None = None
        self._stopped_early_at: int | None = None  # the max_epochs of a run that early stopping ended
        self._to_check: dict[str, Any] | None = None  # to be checked once there are optimizers
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
        # Not in on_fit_start: Lightning's own handler would wrap these, and end the run without an error.
        self._handlers = {s: signal.signal(s, self._notice) for s in (signal.SIGINT, signal.SIGTERM)}
        if self._random_states is not None:
            set_random_states(self._random_states)
        if self._stopped_early_at == trainer.max_epochs:  # the user can raise max_epochs to continue
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.has_begun = True  # a step has shown that the loaded state works
        if trainer.is_last_batch:  # validation belongs to this epoch; on_train_epoch_end saves after it
            return
        if (batch_idx + 1) % trainer.accumulate_grad_batches:  # checkpoints have no partially summed gradients
            return
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if distributed.world_size() > 1 and trainer.global_step % every:  # synchronising at every step would be slow
            return
        due = self._signal or time.monotonic() - self._saved > 60 * self.every_minutes
        if any(distributed.all_gather_object(due)):
            self._save(trainer)
        self._stop_if_signalled(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._save(trainer)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.current_epoch > 0:
            self._stop_if_signalled(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        for logger in trainer.loggers:  # before the checkpoint, so that the logs reach at least as far
            logger.after_save_checkpoint(self)  # type: ignore[arg-type]
        trainer.save_checkpoint(Path(trainer.default_root_dir) / LAST, weights_only=False)  # optimizer and all
        self._saved = time.monotonic()

    def _stop_if_signalled(self, trainer: lightning.Trainer) -> None:
        received = [
            number for number in distributed.all_gather_object(self._signal) if number
        ]  # some processes may get none
        if received:
            raise Interrupted(
                f"stopped by {signal.Signals(received[0]).name} after step {trainer.global_step}; "
                f"python train.py resume={os.path.relpath(trainer.default_root_dir)} continues from there",
                received[0],
            )

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._restore_handlers()
        self._stop_if_signalled(trainer)  # by a signal in the last step
        if distributed.rank() == 0:
            (Path(trainer.default_root_dir) / PREVIOUS).unlink(missing_ok=True)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._restore_handlers()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["random_states"] = distributed.all_gather_object(get_random_states())
        checkpoint["stopped_early_at"] = trainer.max_epochs if trainer.should_stop else None

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        check_whole(trainer, checkpoint)
        if trainer.optimizers:  # they exist already with sharded weights, which torch compares itself
            check_counts(trainer, checkpoint)
        else:
            self._to_check = checkpoint
        states = checkpoint["random_states"]  # one per process
        self._random_states = states[distributed.rank()] if len(states) == distributed.world_size() else None
        self._stopped_early_at = checkpoint["stopped_early_at"]


def get_random_states() -> dict[str, Any]:
    """Collect the states of Python's, NumPy's and torch's generators as plain data."""
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002  others may have drawn from the global stream
    assert isinstance(numpy, dict)
    numpy["state"]["key"] = numpy["state"]["key"].tolist()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state(), "cuda": cuda}


def set_random_states(states: dict[str, Any]) -> None:
    """Restore the states returned by `get_random_states`."""
    random.setstate(states["python"])
    key, place = np.array(states["numpy"]["state"]["key"], dtype=np.uint32), states["numpy"]["state"]["pos"]
    if key.shape != (NUMPY_WORDS,) or type(place) is not int or not 0 <= place <= NUMPY_WORDS:
        raise ValueError("the state of NumPy's generator is invalid")  # NumPy itself would read out of bounds
    np.random.set_state({**states["numpy"], "state": {**states["numpy"]["state"], "key": key}})  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
