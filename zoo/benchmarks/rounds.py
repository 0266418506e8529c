"""Time contenders in turn, round after round, so that a drift in the machine's speed affects all equally."""

import contextlib
import importlib
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from zoo.benchmarks import SUITES
from zoo.checkpoint.stored_config import stored_data
from zoo.data.module import ResidentData
from zoo.errors import BadInput, choices

# Packages whose versions are recorded, and the word for each in the names of contenders
RIVALS = {
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "nncodec": "nnc",
    "nvidia-dali-cuda130": "dali",
    "pillow": "pil",
    "simplejpeg": "simplejpeg",
}
Contender = Callable[[], float]  # does the work once, and returns the seconds


@dataclass(frozen=True)
class Suite:
    """Contenders by name, the baseline first; each call processes `num_samples`, of `macs` per forward pass each.

    `verdict` returns sentences on the median seconds of the contenders that took part.
    """

    contenders: dict[str, Contender]
    num_samples: int = 0
    macs: int = 0
    verdict: Callable[[Mapping[str, float]], list[str]] | None = None


def versions_of_rivals() -> dict[str, str]:
    """Return the versions of the packages of RIVALS that are installed."""
    found = {}
    for package in RIVALS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def checkpoints(cfg: DictConfig) -> list[str]:
    """Return the files that `cfg.checkpoint` names, which is one or a list."""
    return [str(path) for path in ([cfg.checkpoint] if isinstance(cfg.checkpoint, str) else cfg.checkpoint)]


def data_of(facts: Mapping[str, Any], cfg: DictConfig, batch_size: int) -> ResidentData:
    """Return the data that a file's net was trained on, from `cfg.data_root`, in batches of this size."""
    return stored_data(
        facts, OmegaConf.create({"batch_size": batch_size, "data_root": cfg.data_root, "download": False})
    )


def suite_of(cfg: DictConfig) -> Any:
    """Return the function that builds the suite `cfg.suite`."""
    if cfg.suite not in SUITES:
        raise BadInput(f"suite={cfg.suite} is not a suite; {choices(str(cfg.suite), SUITES)}")
    file, _, name = SUITES[cfg.suite].partition(".")
    return getattr(importlib.import_module(f"zoo.benchmarks.{file}"), name)


def measured(cfg: DictConfig) -> Iterator[dict[str, dict[str, Any]]]:
    """Run the suite `cfg.suite`, or the contenders in `cfg.only`, and yield the figures of each.

    A suite that consists of others yields their figures one after the other.
    """
    suite: Suite | Iterator[dict[str, dict[str, Any]]] = suite_of(cfg)(cfg)
    if not isinstance(suite, Suite):
        yield from suite
    else:
        yield compared(suite, cfg)


def compared(suite: Suite, cfg: DictConfig) -> dict[str, dict[str, Any]]:
    """Compare all contenders of a suite, or those in `cfg.only`, over `cfg.rounds` rounds."""
    for name in cfg.only or ():
        if name not in suite.contenders:
            raise BadInput(f"only={name} is not a contender of suite={cfg.suite}; {choices(name, suite.contenders)}")
    chosen = {name: suite.contenders[name] for name in cfg.only or suite.contenders}
    return compare(replace(suite, contenders=chosen), cfg.rounds)


def compare(suite: Suite, rounds: int) -> dict[str, dict[str, Any]]:
    """Run each contender once per round, the first round not counted, and compare them round by round.

    `ratio` is relative to the baseline, as median over the rounds. `tflops` counts three forward passes per training
    step, and two operations per multiply-accumulate. The baseline has the `verdict` of the suite, if there is one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in suite.contenders}
    for i in range(rounds + 1):
        for name, run_once in suite.contenders.items():
            once = run_once()
            if i > 0:
                seconds[name].append(once)
    figures: dict[str, dict[str, Any]] = {}
    for name, times in seconds.items():
        ratios = [t / base for t, base in zip(times, next(iter(seconds.values())), strict=True)]
        median = statistics.median(times)
        figures[name] = {
            "seconds": times,
            "median_seconds": median,
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
        }
        if suite.num_samples:
            figures[name]["samples_per_second"] = suite.num_samples / median
        if suite.macs:
            figures[name]["tflops"] = 6 * suite.macs * suite.num_samples / median / 1e12
    if suite.verdict:
        medians = {name: row["median_seconds"] for name, row in figures.items()}
        figures[next(iter(figures))]["verdict"] = suite.verdict(medians)
    return figures


def timed(work: Callable[[], object]) -> float:
    """Return the duration of a call in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def exhaust(items: Iterable[object]) -> None:
    """Iterate over all items and discard them."""
    for _ in items:
        pass
