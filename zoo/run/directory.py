"""The folder of a new or resumed run, runs/<name>/<stamp>/: its checked config and its log files."""

import contextlib
import logging
import os
import re
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from zoo import distributed, escape
from zoo.catalogue import chosen_by
from zoo.checkpoint.named_files import newest
from zoo.checkpoint.stored_config import check_new, check_run
from zoo.cli.settings import check_saved
from zoo.errors import NOT_ON_RESUME, BadInput, choices
from zoo.files import check_no_links, locked, open_file
from zoo.paths import CONFIG, CONFIGS, LAST, LOCK
from zoo.ranges import plain_size
from zoo.records.config_file import read_config, write_config
from zoo.run.compress_targets import is_auto, with_passes_for
from zoo.run.config_checks import GROUPS, check_fit, check_settings

log = logging.getLogger("zoo")


@dataclass(frozen=True)
class Run:
    """A run folder and the config in it, every interpolation resolved; the config is read-only."""

    folder: Path
    cfg: DictConfig
    resumed: bool = False

    def __post_init__(self) -> None:
        OmegaConf.set_readonly(self.cfg, True)

    def with_values(self, **groups: Mapping[str, Any]) -> "Run":
        """Return this run with settings that were left open, such as the number of classes, filled in."""
        cfg: Any = OmegaConf.create(OmegaConf.to_container(self.cfg))
        for group, values in groups.items():
            for key, value in values.items():
                cfg[group][key] = value
        return replace(self, cfg=cfg)

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint to resume from, or None if nothing was saved yet."""
        return self.folder / LAST if (self.folder / LAST).exists() else None


@contextmanager
def open_run(cfg: DictConfig) -> Iterator[Run]:
    """Open the folder of a new or resumed run in each of its processes, and log to its log.txt."""
    config_of(cfg)  # before the processes connect, so that each of them rejects a bad config
    with contextlib.ExitStack() as stack:
        stack.enter_context(distributed.process_group(cfg.trainer.accelerator))
        mine = (
            stack.enter_context(made(cfg)) if distributed.rank() == 0 and distributed.FOLDER not in os.environ else None
        )
        there = Path(distributed.broadcast_object(str(mine.folder) if mine else os.environ.get(distributed.FOLDER, "")))
        run = mine or Run(there, config_of(cfg) if cfg.resume else _load(there), resumed=bool(cfg.resume))
        stack.enter_context(_logging_to(run.folder))
        log.debug("command: %s", shlex.join(sys.argv))
        log.debug("config:\n%s", OmegaConf.to_yaml(run.cfg))
        lightning.seed_everything(run.cfg.seed, workers=True, verbose=False)
        yield run


@contextmanager
def made(cfg: DictConfig) -> Iterator[Run]:
    """Create a run folder with its config.yaml, or find the one named by `resume`.

    A new folder is removed if bad input is found before anything was trained.
    """
    settled = config_of(cfg)
    run = Run(_resumed_folder(cfg), settled, resumed=True) if cfg.resume else _new(settled)
    try:
        with locked(run.folder / LOCK, str(run.folder)):
            for litter in run.folder.glob(".*.part"):  # left by a write that was killed
                litter.unlink()
            yield run
    except BadInput:
        if not run.resumed and not run.last_checkpoint:
            _remove(run.folder)
            with contextlib.suppress(OSError):  # other runs of this name
                run.folder.parent.rmdir()
        raise


def _remove(folder: Path) -> None:
    """Remove a folder that a logger's thread may still be writing to."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
            return
        time.sleep(0.02)


def config_of(cfg: DictConfig) -> DictConfig:
    """Return the checked config of the requested run; with `resume`, the config saved in that run's folder."""
    settled = _resumed(cfg) if cfg.resume else cfg
    if not cfg.resume:
        check_fit(cfg)
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
        check_new(plain)
    if is_auto(settled):
        settled = with_passes_for(settled)
    check_settings(settled)
    values: dict[str, Any] = {"name": str(settled.name)}  # name=7 and name=nan are numbers
    if "image_size" in settled.data:
        values["data"] = {"image_size": plain_size(settled.data.image_size)}
    named: Any = OmegaConf.merge(settled, values)
    return named


def _new(cfg: DictConfig) -> Run:
    chosen = _chosen()
    plain = _with_text_keys(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
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


def _with_text_keys(node: Any) -> Any:
    """Return a plain config whose keys are texts; names of classes, such as 0 to 9, may be read as numbers."""
    if isinstance(node, dict):
        return {str(key): _with_text_keys(value) for key, value in node.items()}
    return node


def _chosen() -> dict[str, str | None]:
    """Return the option of each group; lists such as callbacks=[ema,diagnostics] are joined with a plus sign."""
    chosen = dict(HydraConfig.get().runtime.choices)
    if experiment := chosen.get("experiment"):  # Hydra leaves lists out
        chosen = {**chosen_by(CONFIGS / "experiment" / f"{experiment}.yaml"), **chosen}
    for override in HydraConfig.get().overrides.task:
        group, _, options = override.partition("=")
        if group in GROUPS and options.startswith("["):
            chosen[group] = options
    return {group: option and "+".join(re.findall(r"[\w.-]+", str(option))) for group, option in chosen.items()}


def _resumed(cfg: DictConfig) -> DictConfig:
    """Read the config of a run folder and apply the trainer.* overrides of the command line; reject all others."""
    folder = _resumed_folder(cfg)
    check_no_links(folder)
    saved = _load(folder)
    check_saved(saved)
    check_run(OmegaConf.to_container(saved), cfg.trusted)  # type: ignore[arg-type]
    changes = [o for o in HydraConfig.get().overrides.task if not o.startswith(("resume=", "trusted="))]
    foreign = [o for o in changes if not o.startswith("trainer.")]
    if foreign:
        raise BadInput(f"{foreign[0]} {NOT_ON_RESUME}")
    for key, value in ((o.split("=")[0], OmegaConf.select(cfg, o.split("=")[0])) for o in changes):
        OmegaConf.update(saved, key, value)
    return saved


def _resumed_folder(cfg: DictConfig) -> Path:
    """Return the run folder named by `resume`: the folder itself, or the newest run folder in it."""
    folder = Path(cfg.resume)
    if found := newest(folder, CONFIG):
        return found.parent
    there = [str(path.parent) for path in sorted(Path(cfg.runs).glob(f"*/*/{CONFIG}"))]
    raise BadInput(f"resume={folder} is not a run folder, since it has no {CONFIG}; {choices(str(folder), there)}")


def _load(folder: Path) -> DictConfig:
    saved = read_config(folder / CONFIG)
    for group in GROUPS[:-1]:
        if not isinstance(saved.get(group), dict):
            raise BadInput(f"{folder / CONFIG} has no settings for {group}; use the original")
    return OmegaConf.create(saved)


class ToConsole(logging.Handler):
    """Print messages to the stderr of the moment: a progress bar replaces it, to print them above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


@contextmanager
def _logging_to(folder: Path) -> Iterator[None]:
    """Send our messages to the console and to log.txt, and libraries' warnings to log.txt only.

    Only the first process of a run uses the console; the others write to log_1.txt and so on. Of Lightning, messages
    below warnings, such as its tips, are dropped.
    """
    rank = distributed.rank()
    file = open_file(folder / (f"log_{rank}.txt" if rank else "log.txt"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    to_file = logging.StreamHandler(os.fdopen(file, "a", encoding="utf-8"))
    to_file.setFormatter(escape.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    to_console = ToConsole()
    to_console.setLevel(logging.INFO)
    to_console.setFormatter(escape.Formatter())
    log.setLevel(logging.DEBUG)
    log.handlers, log.propagate = [to_file] if rank else [to_console, to_file], False
    others = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "py.warnings")]
    for logger in others:
        logger.handlers, logger.propagate = [to_file], False
        logger.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec", FutureWarning)  # Lightning's own use of torch
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
