"""Time contenders in turn, round after round, so that a machine whose speed drifts slows all of them alike."""

import importlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from zoo.benchmarks import SUITES
from zoo.errors import BadInput, choices

Contender = Callable[[], float]  # does the work once, and gives its seconds


@dataclass(frozen=True)
class Suite:
    """Contenders by name, the baseline first; each call works on `num_samples`, whose forward pass has `macs` each."""

    contenders: dict[str, Contender]
    num_samples: int = 0
    macs: int = 0


def suite_of(cfg: DictConfig) -> Any:
    """Find the function that gives the suite `cfg.suite` of a config."""
    if cfg.suite not in SUITES:
        raise BadInput(f"suite={cfg.suite} is no suite; {choices(str(cfg.suite), SUITES)}")
    file, _, name = SUITES[cfg.suite].partition(".")
    return getattr(importlib.import_module(f"zoo.benchmarks.{file}"), name)


def measured(cfg: DictConfig) -> Iterator[dict[str, dict[str, Any]]]:
    """Run the suite `cfg.suite`, of its contenders those that `cfg.only` names, and give each one's figures.

    Of a suite that is made of others, those of one after the other.
    """
    suite: Suite | Iterator[dict[str, dict[str, Any]]] = suite_of(cfg)(cfg)
    if not isinstance(suite, Suite):
        yield from suite
    else:
        yield compared(suite, cfg)


def compared(suite: Suite, cfg: DictConfig) -> dict[str, dict[str, Any]]:
    """Compare the contenders of a suite, those that `cfg.only` names or all, over `cfg.rounds` rounds."""
    for name in cfg.only or ():
        if name not in suite.contenders:
            raise BadInput(f"only={name} is no contender of suite={cfg.suite}; {choices(name, suite.contenders)}")
    chosen = {name: suite.contenders[name] for name in cfg.only or suite.contenders}
    return compare(Suite(chosen, suite.num_samples, suite.macs), cfg.rounds)


def compare(suite: Suite, rounds: int) -> dict[str, dict[str, Any]]:
    """Run each contender once a round, the first round not counted, and compare them round by round.

    `ratio` is to the baseline, a median over the rounds; `tflops` counts a training step as three forward passes, and
    two operations a multiply-accumulate.
    """
    seconds: dict[str, list[float]] = {name: [] for name in suite.contenders}
    for i in range(rounds + 1):
        for name, run_once in suite.contenders.items():
            once = run_once()
            if i > 0:
                seconds[name].append(once)
    figures = {}
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
    return figures


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def exhaust(items: Iterable[object]) -> None:
    """Take all items, and keep none."""
    for _ in items:
        pass
