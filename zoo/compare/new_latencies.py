"""Latencies of the nets of runs, measured again, in one sitting."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.named_files import is_shipped
from zoo.checkpoint.product_file import read_product
from zoo.checkpoint.stored_config import example_of
from zoo.compare.runs import Finished
from zoo.errors import BadInput
from zoo.measure.device import described, device_for
from zoo.measure.latency import filled, in_turn_ms
from zoo.paths import PRODUCT
from zoo.report.settings_row import simulates_int8

MOST_RUNS = 30  # whose nets are in memory together
SECONDS = 0.6  # per net


def with_new_latencies(runs: Sequence[Finished], accelerator: str) -> list[Finished]:
    """Return the runs with the latency of one sample in torch, uncompiled, in the precision of the file's weights.

    All nets are called in turn, so that the same other work slows them. Runs whose int8 torch only simulates are
    returned as they are, and those without a file of their net without a latency. Raises BadInput for too many runs,
    and for one whose net cannot be loaded.
    """
    in_floats = [run for run in runs if not simulates_int8(run.result)]
    timed = [run for run in in_floats if _file(run).exists()]
    if len(timed) > MOST_RUNS:
        raise BadInput(
            f"latency=true measures up to {MOST_RUNS} runs, got {len(timed)}; name fewer, or select some, as by last="
        )
    device = device_for(accelerator)
    found = in_turn_ms([_call(run, device) for run in timed], device, SECONDS * len(timed))
    new: dict[int, float | None] = {id(run): None for run in in_floats}
    new |= {id(run): ms for run, ms in zip(timed, found, strict=True)}
    place = described(device)
    return [
        replace(run, result={**run.result, "latency_ms": new[id(run)]}, timed_on=place) if id(run) in new else run
        for run in runs
    ]


def _call(run: Finished, device: torch.device) -> Callable[[], object]:
    """Return a call of the net of a run with one sample."""
    product = read_product(_file(run))
    net = load_model(product).to(device).eval()
    return functools.partial(net, *filled(net, example_of(product.facts), device))


def _file(run: Finished) -> Path:
    """Return the file of the net of a run, which may come with the zoo."""
    packed = run.folder.with_name(f"{run.folder.name}.zoo")
    return packed if is_shipped(packed) else run.folder / PRODUCT
