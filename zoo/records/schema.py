"""Schemas of the (untrusted) files in a run folder.

A file that does not match its record or its checksum raises BadInput, with one sentence naming the file. Unknown keys
in JSON are rejected; a config may have any settings. The checksum covers everything else in the file. It is the key
`checksum` in JSON, the comment in the first line of config.yaml, the name of an empty last column in metrics.csv, and a
metadata key in predictions.safetensors. Files of earlier versions have no checksum, and are accepted as well.
"""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from zoo.errors import BadInput, reason
from zoo.records.steps import Count, Name, Size

CHECKSUM = "checksum"
MOST_DEPTH = 32
MOST_IN_CURVE = 200  # points
DAMAGED_SEAL = re.compile(r"[0-9a-f]{32}")  # half of it is intact, whichever bit was flipped
PATH = "^[^\\x00\\ud800-\\udc7f\\udd00-\\udfff]*$"  # the gap in between is for bytes that are not UTF-8
Text = Annotated[str, Meta(max_length=65_536)]
Share = Annotated[float, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0, le=1e15)]
Positive = Annotated[float, Meta(gt=0, le=1e15)]
Pair = Annotated[list[Share], Meta(min_length=2, max_length=2)]
Names = Annotated[list[Name], Meta(max_length=10_000)]
Curve = Annotated[list[tuple[Amount, float]], Meta(max_length=MOST_IN_CURVE)]  # minutes of training, main metric
Metrics = dict[Name, float | None]  # null for NaN and infinity
OF_IMAGES = ("accuracy", "top5", "balanced_accuracy", "macro_f1", "micro_f1", "map")
SHARES = {**dict.fromkeys(OF_IMAGES, (0, 1)), "token_accuracy": (0, 1), "wer": (0, 1e15), "per": (0, 1e15)}
OF_NUMBERS = {"mae": (0, math.inf), "rmse": (0, math.inf), "r2": (-math.inf, 1)}  # in any units
RANGES: dict[str, tuple[float, float]] = {**SHARES, **OF_NUMBERS}


class Record(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A frozen record that rejects unknown keys."""


class Times(Record, frozen=True, kw_only=True):
    """Latency percentiles in milliseconds."""

    p50: Amount
    p95: Amount


class Cell(Record, frozen=True, kw_only=True):
    """Result of an export format: its figures, or the reason why it was refused."""

    format: Name
    precision: Name
    runtime: Name
    files: Names
    reason: Text | None
    size_bytes: Count | UnsetType = UNSET
    accuracy: Share | UnsetType = UNSET
    largest_difference: Amount | UnsetType = UNSET
    latency_ms: dict[Literal["1", "64"], Times] | UnsetType = UNSET
    peak_bytes: Count | UnsetType = UNSET
    modules: Names | UnsetType = UNSET
    arena_bytes: Count | UnsetType = UNSET
    constant_bytes: Count | UnsetType = UNSET

    def __post_init__(self) -> None:
        figures = (self.size_bytes, self.accuracy, self.largest_difference, self.peak_bytes, self.modules)
        has = [figure is not UNSET for figure in (*figures, self.latency_ms)]
        if any(has) if self.reason else not all(has):
            raise ValueError("a format has either all its figures or a reason")
        if self.latency_ms is not UNSET and list(self.latency_ms) != ["1", "64"]:
            raise ValueError("latency_ms must have the keys 1 and 64")


class Exports(Record, frozen=True, kw_only=True):
    """exports.json: the results of scripts/export.py for a checkpoint."""

    checkpoint: Annotated[str, Meta(max_length=4096, pattern=PATH)]
    net: Name
    data: Name
    accuracy: Share
    rows: Annotated[list[Cell], Meta(max_length=1000)]
    sha256: Name | UnsetType = UNSET  # of the checkpoint
    outdated: Names | UnsetType = UNSET  # files of earlier exports that no row describes any more


class SizeReport(Struct, frozen=True):
    bytes: Count
    ratio: Amount


class Packed(Struct, frozen=True):
    """The figures of a packed file in the result of a run that are used in tables."""

    ledger: SizeReport
    stages: dict[Name, Amount]


class InFloats(Struct, frozen=True):
    """The figures of the float net before quantization in the result of a run."""

    product_bytes: Count
    test: Metrics

    def __post_init__(self) -> None:
        _check_shares(self.test)
        _check_measured("float.test", self.test)


class Answers(Record, frozen=True, kw_only=True):
    """How compression changed the answers to the test images; pairs are before and after.

    `class` and `recall` are missing if no class changed significantly.
    """

    agreement: Share
    p: Share | UnsetType = UNSET
    class_: Text | UnsetType = msgspec.field(name="class", default=UNSET)
    recall: Pair | UnsetType = UNSET
    calibration_error: Pair
    calibration_change: Annotated[list[float], Meta(min_length=2, max_length=2)] | UnsetType = UNSET


class OneAnswer(Record, frozen=True, kw_only=True):
    """The class that a net gives to nearly all test images, and how many get it."""

    class_: Text = msgspec.field(name="class")
    num: Count


class Before(Record, frozen=True, kw_only=True):
    """What is known of the net that a run compressed, in the result of the run."""

    product_bytes: Count | UnsetType = UNSET
    params: Count | UnsetType = UNSET
    macs: Count | UnsetType = UNSET
    latency_ms: Amount | UnsetType = UNSET
    test: Metrics | UnsetType = UNSET
    answers: Answers | UnsetType = UNSET
    repair: dict[Literal["before", "cut", "norms", "refit"], Share] | UnsetType = UNSET
    time_kept: Share | UnsetType = UNSET  # the fraction of the time that is left after channel pruning to a latency

    def __post_init__(self) -> None:
        _check_shares(self.test or {})


def _check_measured(name: str, metrics: Metrics) -> None:
    """Raise ValueError unless accuracy was measured, or the error of numbers, which may be NaN."""
    if metrics.get("accuracy") is None and "mae" not in metrics:
        raise ValueError(f"{name} has no accuracy")


def _check_shares(metrics: Metrics) -> None:
    for key, value in metrics.items():
        least, most = RANGES.get(key.removeprefix("raw_"), (-1e15, 1e15))
        if value is not None and not (key.endswith("loss") or least <= value <= most):
            raise ValueError(f"{key} is out of range")


class Result(Record, frozen=True, kw_only=True):
    """result.json: the result of a finished run."""

    name: Name
    net: Name
    data: Name
    params: Count
    macs: Count
    seed: Annotated[int, Meta(ge=0, lt=2**32)]
    epochs: Count
    best_epoch: Count
    seconds: Amount
    epoch_seconds: list[Amount]
    images_per_second: Amount
    device: Name
    precision: Name
    validation: Metrics
    test: Metrics
    num_samples: dict[Literal["train", "val", "test"], Count]
    split_hash: Name
    commit: Name | None
    versions: dict[Name, Name]
    bytes: dict[Name, Count]
    settings: dict[Name, Any] | UnsetType = UNSET  # fields from here on are missing in files of some versions
    processes: Count | UnsetType = UNSET
    product_bytes: Count | UnsetType = UNSET
    latency_ms: Amount | UnsetType = UNSET
    compress: dict[Name, Any] | UnsetType = UNSET
    folder: Text | UnsetType = UNSET
    split_sizes: dict[Literal["train", "val", "test"], Count] | UnsetType = UNSET
    test_hash: Name | UnsetType | None = UNSET
    test_content_hash: Name | UnsetType | None = UNSET
    test_sample_hash: Name | UnsetType | None = UNSET
    further_hash: Name | UnsetType = UNSET  # of the pairs of task.words
    exports: dict[Name, Cell] | UnsetType = UNSET
    before: Before | UnsetType = UNSET
    temperature: Amount | UnsetType = UNSET
    one_answer: OneAnswer | UnsetType = UNSET
    remedies: list[Text] | UnsetType = UNSET  # of callbacks.diagnostics
    curve: Curve | UnsetType = UNSET  # only in docs/results

    def __post_init__(self) -> None:
        _check_measured("test", self.test)
        _check_shares(self.validation)
        _check_shares(self.test)
        if self.product_bytes is UNSET and "model.safetensors" not in self.bytes:
            raise ValueError("product_bytes is missing")
        if any(sizes is not UNSET and "test" not in sizes for sizes in (self.num_samples, self.split_sizes)):
            raise ValueError("num_samples has no count for test")
        for name, report in (self.compress or {}).items():
            if name == "pack":
                msgspec.convert(report, Packed)
            if isinstance(report, dict) and "float" in report:
                msgspec.convert(report["float"], InFloats)


class NetTimes(Record, frozen=True, kw_only=True):
    """The time in ms of a net and, in turn with it, of the dense net."""

    ms: Positive
    dense_ms: Positive


class Latencies(Record, frozen=True, kw_only=True):
    """latencies.json: times in ms, by layer with its widths and input, and by the hash of a net; and on what."""

    machine: Text
    threads: Size
    torch: Name
    batch: Size
    runtime: Name
    layers: Annotated[dict[Text, Positive], Meta(max_length=100_000)] = {}
    nets: Annotated[dict[Name, NetTimes], Meta(max_length=10_000)] = {}


class Choices(Struct, frozen=True):
    """The chosen option of each config group needed for comparing; other groups are allowed."""

    model: Name
    data: Name
    task: Name


class Config(Struct, frozen=True):
    """config.yaml: the parts needed for comparing and resuming."""

    name: Name | int | float
    seed: Annotated[int, Meta(ge=0, lt=2**32)]
    model: dict[Name, Any]
    data: dict[Name, Any]
    choices: dict[Name, Name | None]

    def __post_init__(self) -> None:
        msgspec.convert(self.choices, Choices)


Step = dict[Name, Any]


def damaged(path: Path, error: BaseException | str) -> BadInput:
    why = error if isinstance(error, str) else reason(error)[:200]
    return BadInput(f"{path} is damaged, or was not written by the zoo ({why}); use the original")
