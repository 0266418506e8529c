"""format=fastest: export a net to every format that runs on this machine, time the files in turn, keep the fastest."""

import importlib.util
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from zoo.checkpoint.product_file import Product
from zoo.compress.recipe import in_integers
from zoo.errors import BadInput
from zoo.export.export_format import Job, format_of
from zoo.export.export_report import Row, number
from zoo.export.parts import parts
from zoo.export.verify import running
from zoo.export.worker import OPENVINO
from zoo.measure.device import device_name
from zoo.quantize.int8_speed import why_int8_is_slower

FASTEST = "fastest"
CANDIDATES = ("onnx", "onnx_int8", "pt2", "aoti", "pte", "pte_int8")
FOR_FLOATS = ("onnx_int8", "pte", "pte_int8")
ROUNDS = 3
Tried = tuple[str, Row]  # a format, and its row in a runtime


@dataclass(frozen=True)
class Timed:
    """A format, its verified files in a runtime, and the median over the rounds of their latency in ms."""

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
    if not has_openvino():
        left_out.append("OpenVINO is left out, since it is not installed (pip install openvino)")
    return found, list(dict.fromkeys(left_out))


def has_openvino() -> bool:
    return importlib.util.find_spec(OPENVINO) is not None


def keep_fastest(tried: Sequence[Tried], job: Job, named: Sequence[str], folder: Path) -> tuple[list[Tried], list[str]]:
    """Time the verified candidates, delete the files of all but the fastest and of those that were named.

    Returns the formats and rows, without the files that were deleted, and the result in sentences: none if no candidate
    was verified.
    """
    timed = timed_in_turn(tried, job, folder)
    if not timed:
        return list(tried), []
    kept = {timed[0].name, *named}
    for file in {file for one in timed if one.name not in kept for file in one.row.files}:
        (folder / file).unlink()
    refused = [f"{row.format} is left out: {row.reason}" for name, row in tried if row.reason and name not in named]
    left = [(name, row if name in kept else replace(row, files=[])) for name, row in tried]
    return left, [*verdict(timed, job.cfg.fastest_at, job.net), *refused]


def timed_in_turn(tried: Sequence[Tried], job: Job, folder: Path) -> list[Timed]:
    """Time the verified candidates one after the other in each round; return them, fastest first."""
    image = parts(job.net, job.facts)[""].inputs[0][:1]
    verified = [(name, row) for name, row in tried if name in CANDIDATES and row.proof]
    found: list[list[float]] = [[] for _ in verified]
    for _ in range(ROUNDS):
        for (name, row), of_row in zip(verified, found, strict=True):
            files, runs_alone = [folder / file for file in row.files], format_of(name).runs_alone
            with running(files, runs_alone, row.runtime) as (runs, measured):
                runs[0](image)
            of_row.append(measured["latency_ms"][str(job.cfg.fastest_at)]["p50"])
    timed = [Timed(name, row, statistics.median(of_row)) for (name, row), of_row in zip(verified, found, strict=True)]
    return sorted(timed, key=lambda one: one.ms)


def verdict(timed: Sequence[Timed], batch: int, net: nn.Module) -> list[str]:
    """Return sentences: which file is fastest on this machine and by how much, and why int8 is not, if it is not."""
    best, *others = timed
    images = "1 image" if batch == 1 else f"{batch} images"
    sentences = [
        f"{' and '.join(best.row.files)} takes {number(best.ms)} ms for {images}"
        + f" in {best.row.runtime} on {device_name(torch.device('cpu'))}"
        + "".join(f", {one.row.format} {one.ms / best.ms:.2f} times as long" for one in others)
        + f" (medians of {ROUNDS} rounds)"
    ]
    in_int8 = [one for one in others if one.row.precision == "int8"]
    if in_int8 and best.row.precision != "int8":
        sentences.append(why_int8_is_slower(net))
    return sentences
