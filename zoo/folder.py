"""A run's folder, runs/<name>/<stamp>/: opened with a config that makes sense, new or resumed, and logged into."""

import contextlib
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from zoo import escape, ranks
from zoo.catalogue import matches, wants_of_data
from zoo.errors import BadInput, choices
from zoo.files import check_no_links, locked, open_file
from zoo.records import read_config, write_config

GROUPS = ("model", "data", "task", "optim", "schedule", "compress", "callbacks", "trainer", "experiment")
LAST, CONFIG, LOCK = "last.ckpt", "config.yaml", ".lock"
CUDA_GRAPHS = ("reduce-overhead", "max-autotune")  # modes of torch.compile that record them
MOST_NAMED = 8  # options in one sentence
log = logging.getLogger("zoo")


@dataclass(frozen=True)
class Run:
    """A run folder and the config in it, every interpolation resolved."""

    folder: Path
    cfg: DictConfig
    resumed: bool = False

    @property
    def last_checkpoint(self) -> Path | None:
        """Where to go on, or None where nothing was saved yet."""
        return self.folder / LAST if (self.folder / LAST).exists() else None


@contextmanager
def open_run(cfg: DictConfig) -> Iterator[Run]:
    """Open a run's folder, new or to be resumed, in each of its processes, and log to log.txt in it."""
    config_of(cfg)  # before the processes are connected, so that all of them refuse what is wrong with it
    with contextlib.ExitStack() as stack:
        stack.enter_context(ranks.joined(cfg.trainer.accelerator))
        mine = stack.enter_context(made(cfg)) if ranks.rank() == 0 and ranks.FOLDER not in os.environ else None
        there = Path(ranks.of_first(str(mine.folder) if mine else os.environ.get(ranks.FOLDER, "")))
        run = mine or Run(there, config_of(cfg) if cfg.resume else _load(there), resumed=bool(cfg.resume))
        stack.enter_context(_logging_to(run.folder))
        log.debug("config:\n%s", OmegaConf.to_yaml(run.cfg))
        lightning.seed_everything(run.cfg.seed, workers=True, verbose=False)
        yield run


@contextmanager
def made(cfg: DictConfig) -> Iterator[Run]:
    """Make a new run folder with its config.yaml, or find the one that `resume` names.

    Bad input that shows before anything was trained leaves no new folder behind.
    """
    settled = config_of(cfg)
    run = Run(Path(cfg.resume), settled, resumed=True) if cfg.resume else _new(settled)
    try:
        with locked(run.folder / LOCK, str(run.folder)):
            for litter in run.folder.glob(".*.part"):  # of a write that a kill cut short
                litter.unlink()
            yield run
    except BadInput:
        if not run.resumed and not run.last_checkpoint:
            _remove(run.folder)
            with contextlib.suppress(OSError):  # other runs of this name
                run.folder.parent.rmdir()
        raise


def _remove(folder: Path) -> None:
    """Remove a folder into which a logger's thread may still be writing."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
            return
        time.sleep(0.02)


def config_of(cfg: DictConfig) -> DictConfig:
    """Give the config of the run that a command line asks for, checked: with `resume` it is that run's own."""
    settled = _resumed(cfg) if cfg.resume else cfg
    if not cfg.resume:
        _check_fit(cfg)
    _check(settled)
    settled.name = str(settled.name)  # which name=7 and name=nan are none of
    return settled


def _new(cfg: DictConfig) -> Run:
    chosen = HydraConfig.get().runtime.choices
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    resolved = OmegaConf.create({**plain, "choices": {group: chosen.get(group) for group in GROUPS}})
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    parent = Path(cfg.runs) / cfg.name
    parent.mkdir(parents=True, exist_ok=True)
    folder, n = parent / stamp, 1
    while True:
        try:
            folder.mkdir()
            break
        except FileExistsError:  # another run of this name began in the same second
            folder, n = parent / f"{stamp}-{n}", n + 1
    write_config(folder / CONFIG, OmegaConf.to_yaml(resolved))
    return Run(folder, resolved)


def _resumed(cfg: DictConfig) -> DictConfig:
    """Read a run folder's own config; of the command line only trainer.* is taken over."""
    folder = Path(cfg.resume)
    if not (folder / CONFIG).is_file():
        there = [str(path.parent) for path in sorted(Path(cfg.runs).glob(f"*/*/{CONFIG}"))]
        raise BadInput(f"resume={folder} is no run folder, since it has no {CONFIG}; {choices(str(folder), there)}")
    check_no_links(folder)
    saved = _load(folder)
    changes = [o for o in HydraConfig.get().overrides.task if not o.startswith("resume=")]
    foreign = [o for o in changes if not o.startswith("trainer.")]
    if foreign:
        raise BadInput(f"{foreign[0]} cannot be given with resume, which keeps the run's own config but for trainer.*")
    for key, value in ((o.split("=")[0], OmegaConf.select(cfg, o.split("=")[0])) for o in changes):
        OmegaConf.update(saved, key, value)
    return saved


def _load(folder: Path) -> DictConfig:
    saved = read_config(folder / CONFIG)
    for group in GROUPS[:-1]:
        if not isinstance(saved.get(group), dict):
            raise BadInput(f"{folder / CONFIG} has no settings for {group}; use the original")
    return OmegaConf.create(saved)


def _check_fit(cfg: DictConfig) -> None:
    """Refuse a model or a task that looks up what the data do not have, such as one of images with sequences."""
    chosen = HydraConfig.get().runtime.choices
    for group in ("model", "task"):
        if wants_of_data(str(OmegaConf.to_container(cfg[group]))) - cfg.data.keys():
            option, data, pairs = chosen[group], chosen["data"], matches(group)
            fits = _some([theirs for mine, theirs in pairs if mine == option])
            others = _some([mine for mine, theirs in pairs if theirs == data])
            problem = f"{group}={option} does not fit data={data}"
            raise BadInput(f"{problem}: it takes data={fits}, and data={data} takes {group}={others}")


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMED else f"{', '.join(names[:3])} or another of {len(names)}"


def _check(cfg: DictConfig) -> None:
    """Refuse the values whose types are right and which still mean nothing."""

    def demand(key: str, fits: Callable[[Any], bool], what: str) -> None:
        value = OmegaConf.select(cfg, key)
        if not fits(value):
            raise BadInput(f"{key}={value} was asked for; it must be {what}")

    def at_least(least: int) -> Callable[[Any], bool]:
        return lambda value: type(value) is int and least <= value < 2**32

    demand("seed", at_least(0), "a whole number from 0 to 2^32 - 1")
    demand("name", lambda name: bool(name) and "/" not in str(name), "the name of a folder under runs/")
    demand("channels_last", lambda flag: isinstance(flag, bool), "true or false")
    demand("tf32", lambda flag: isinstance(flag, bool), "true or false")
    demand("preflight", lambda flag: flag is None or isinstance(flag, bool), "true or false")
    graphs = cfg.compile in CUDA_GRAPHS
    if not graphs and not isinstance(cfg.compile, bool):
        near = choices(str(cfg.compile), ("true", "false", *CUDA_GRAPHS))
        raise BadInput(f"compile={cfg.compile} is no way to compile; {near}")
    if cfg.trainer.max_epochs == 0 and cfg.compress.after_fit and not cfg.compress.before_fit:
        demand("init_from", bool, "the model.safetensors of a trained net, since trainer.max_epochs=0 trains none")
    else:
        demand("trainer.max_epochs", at_least(1), "a whole number, at least 1")
    demand("trainer.log_every_n_steps", at_least(1), "a whole number, at least 1")

    def above_zero(value: Any) -> bool:
        return isinstance(value, int | float) and 0 < value < math.inf

    some, sizes = at_least(1), "a whole number, at least 1, or auto for the fastest"
    demand("data.batch_size", lambda size: size == "auto" or some(size), sizes)
    demand("trainer.accumulate_grad_batches", at_least(1), "a whole number, at least 1")
    # A graph's gradients lie where its next run writes (https://github.com/pytorch/pytorch/issues/169545).
    demand("trainer.accumulate_grad_batches", lambda n: n == 1 or not graphs, f"1 with compile={cfg.compile}")
    demand("trainer.gradient_clip_val", lambda v: v is None or above_zero(v), "a number above 0, or null for none")
    demand("trainer.precision", lambda p: p != "16-true", "16-mixed or bf16-true: fp16 alone rounds gradients to 0")

    def devices(value: Any) -> bool:
        if OmegaConf.is_list(value):
            return len(value) > 0 and all(type(device) is int and device >= 0 for device in value)
        return value in (-1, "auto") or (type(value) is int and value > 0)

    demand(
        "trainer.devices", devices, "how many there are to be on each machine, auto for all, or a list such as [0,2]"
    )
    demand("optim.lr", above_zero, "a number above 0, such as 0.001")
    if "budget" in cfg.callbacks and not cfg.model.pretrained:
        demand("init_from", bool, "the model.safetensors of a trained net, whose accuracy compress=auto keeps to")
    for stage in ("before_fit", "after_fit"):
        demand(
            f"compress.{stage}", OmegaConf.is_dict, "passes by name, such as configs/compress/prune_channels.yaml has"
        )


@contextmanager
def _logging_to(folder: Path) -> Iterator[None]:
    """Send our messages to the console and to log.txt, and libraries' messages and warnings to log.txt only.

    Of the processes of a run only the first uses the console, and the others write to log_1.txt and so on.
    """
    rank = ranks.rank()
    file = open_file(folder / (f"log_{rank}.txt" if rank else "log.txt"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    to_file = logging.StreamHandler(os.fdopen(file, "a", encoding="utf-8"))
    to_file.setFormatter(escape.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    to_console = logging.StreamHandler()
    to_console.setLevel(logging.INFO)
    to_console.setFormatter(escape.Formatter())
    log.setLevel(logging.DEBUG)
    log.handlers, log.propagate = [to_file] if rank else [to_console, to_file], False
    others = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "py.warnings")]
    for logger in others:
        logger.handlers, logger.propagate = [to_file], False
    logging.captureWarnings(True)
    try:
        yield
    except BaseException as error:
        logging.getLogger("zoo").handlers = [to_file]
        log.error("%s: %s", type(error).__name__, error)
        raise
    finally:
        logging.captureWarnings(False)
        for logger in (log, *others):
            logger.removeHandler(to_file)
        to_file.close()
        to_file.stream.close()
