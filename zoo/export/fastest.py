"""format=fastest: export a net to every format that runs on this machine, time the files in turn, keep the fastest."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from zoo.checkpoint.product_file import Product
from zoo.compress.recipe import in_integers
from zoo.errors import BadInput, ZooError
from zoo.export.export_format import Job, format_of
from zoo.export.export_report import Row, number
from zoo.export.parts import parts
from zoo.export.verify import running
from zoo.measure.device import device_name
from zoo.quantize.int8_speed import why_int8_is_slower

FASTEST = "fastest"
CANDIDATES = ("onnx", "onnx_int8", "pt2", "aoti", "pte", "pte_int8")
FOR_FLOATS = ("onnx_int8", "pte", "pte_int8")
ROUNDS = 3


@dataclass(frozen=True)
class Timed:
    """A verified file of a format, and the median over the rounds of its latency in ms."""

    name: str
    row: Row
    ms: float


def with_candidates(names: Sequence[str], product: Product) -> tuple[list[str], list[str]]:
    """Return formats with `fastest` replaced by those to try, and why others are not tried.

    Raises BadInput for a sequence net.
    """
    if FASTEST not in names:
        return list(names), []
    if "classes" not in product.facts["data"]:
        raise BadInput("format=fastest is for image nets, and this one reads sequences; use format=onnx")
    found, left_out = [name for name in names if name != FASTEST], []
    left = FOR_FLOATS if in_integers(product.facts["recipe"]) else ()
    for name in CANDIDATES:
        if name in (*found, *left):
            continue
        try:
            format_of(name).check()
            found.append(name)
        except BadInput as error:
            left_out.append(str(error))
    return found, list(dict.fromkeys(left_out))


def keep_fastest(
    tried: Sequence[tuple[str, Row]], job: Job, named: Sequence[str], folder: Path
) -> tuple[list[Row], list[str]]:
    """Time the verified candidates, delete the files of all but the fastest and of those that were named.

    `tried` has the name and the row of each format. Returns the rows, without the files that were deleted, and the
    result in sentences. Raises ZooError if no candidate was verified.
    """
    if not any(name in CANDIDATES and row.proof for name, row in tried):
        raise ZooError("format=fastest: " + "; ".join(f"{name}: {row.reason}" for name, row in tried))
    timed = timed_in_turn(tried, job, folder)
    slower = {one.name for one in timed[1:]} - set(named)
    for one in timed:
        for file in one.row.files if one.name in slower else ():
            (folder / file).unlink()
    refused = [f"{name} is left out: {row.reason}" for name, row in tried if row.reason and name not in named]
    rows = [replace(row, files=[]) if name in slower else row for name, row in tried]
    return rows, [*verdict(timed, job.cfg.fastest_at, job.net), *refused]


def timed_in_turn(tried: Sequence[tuple[str, Row]], job: Job, folder: Path) -> list[Timed]:
    """Time the verified candidates one after the other in each round; return them, fastest first."""
    image = parts(job.net, job.facts)[""].inputs[0][:1]
    files = {name: row.files for name, row in tried if name in CANDIDATES and row.proof}
    found: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(ROUNDS):
        for name in files:
            with running([folder / file for file in files[name]], format_of(name).runs_alone) as (runs, measured):
                runs[0](image)
            found[name].append(measured["latency_ms"][str(job.cfg.fastest_at)]["p50"])
    timed = [Timed(name, row, statistics.median(found[name])) for name, row in tried if name in found]
    return sorted(timed, key=lambda one: one.ms)


def verdict(timed: Sequence[Timed], batch: int, net: nn.Module) -> list[str]:
    """Return sentences: which file is fastest on this machine and by how much, and why int8 is not, if it is not."""
    best, *others = timed
    images = "1 image" if batch == 1 else f"{batch} images"
    sentences = [
        f"{' and '.join(best.row.files)} takes {number(best.ms)} ms for {images} on {device_name(torch.device('cpu'))}"
        + "".join(f", {one.row.format} {one.ms / best.ms:.2f} times as long" for one in others)
        + f" (medians of {ROUNDS} rounds)"
    ]
    in_int8 = [one for one in others if one.row.precision == "int8"]
    if in_int8 and best.row.precision != "int8":
        sentences.append(why_int8_is_slower(net))
    return sentences
