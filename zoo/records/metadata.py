"""Metadata of a product, packed or exported file: untrusted JSON, parsed into frozen records with limits.

Missing or unknown keys and wrong types are rejected, and so are strings, lists and numbers larger than any net of this
project has. `config` is kept unchanged, since it documents the whole run; zoo.checkpoint.stored_config checks the parts
that objects are built from (`model` and `data`) before building.
"""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from zoo.errors import BadInput, reason
from zoo.records.steps import Count, Name, Names, Record, Size, Text, check_step

FORMAT = 3  # 1 used the name tanh for the scaled tanh of 1998; 2 had another name for ImageData
MAX_BYTES = 1 << 24  # of the JSON text
MAX_DEPTH = 16
MAX_PARTS = 400_000  # lists and mappings in the text; ResNet-152 in int8 has fewer than 20,000
MAX_ENTRIES = 20_000  # in all lists and mappings of a config together
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0  # of logits; zoo.measure.calibration fits it
MAX_NUMBER = 2**40  # for any number in a config; counts of weights and multiply-accumulates may be larger

Probability = Annotated[float, Meta(ge=0, le=1)]
Channels = Annotated[list[float], Meta(min_length=1, max_length=4096)]


class NumSamples(Record, frozen=True):
    train: Count
    val: Count
    test: Count


class NumberScale(Record, frozen=True, kw_only=True):
    """The mean and standard deviation, one per number, of labels that are numbers."""

    mean: Annotated[list[float], Meta(min_length=1, max_length=100_000)]
    std: Annotated[list[float], Meta(min_length=1, max_length=100_000)]

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.mean)) or not all(0 < one < math.inf for one in self.std):
            raise ValueError("mean and std of numbers must be finite, and std above 0")


class Images(Record, frozen=True, kw_only=True):
    """The images that a net was trained on; mean and std are per channel, in units of 0 to 255."""

    classes: Annotated[list[Text], Meta(min_length=1, max_length=100_000)]
    mean: Channels
    std: Channels
    split_hash: Name
    num_samples: NumSamples
    content_hash: Name | None = None
    sample_hash: Name | None = None
    number_scale: NumberScale | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels and std has {len(self.std)}")
        if not all(map(math.isfinite, self.mean)) or not all(0 < one < math.inf for one in self.std):
            raise ValueError("mean and std must be finite, and std above 0")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have the same name")
        if (found := self.number_scale) and not len(found.mean) == len(found.std) == len(self.classes):
            raise ValueError("number_scale needs one mean and std for each number")


class Sequences(Record, frozen=True, kw_only=True):
    """The sequences that a net was trained on; the index of a symbol is its token."""

    source_symbols: Names
    target_symbols: Names
    source_unit: Literal["character", "word"]
    max_length: Annotated[int, Meta(ge=1, le=4096)]
    example: Annotated[list[Size], Meta(min_length=2, max_length=2)]
    split_hash: Name
    num_samples: NumSamples

    def __post_init__(self) -> None:
        for symbols in (self.source_symbols, self.target_symbols):
            if symbols[:3] != ["<pad>", "<start>", "<end>"] or len(set(symbols)) != len(symbols):
                raise ValueError("symbols must be unique, and start with <pad>, <start> and <end>")


class Best(Record, frozen=True, kw_only=True):
    """The epoch of a product's weights, counted from 0 (-1 for none), and its validation metrics."""

    epoch: Annotated[int, Meta(ge=-1, lt=2**62)]
    metrics: dict[Name, float | None]  # None for NaN and infinity


class Export(Record, frozen=True, kw_only=True):
    """Export settings of a file; `part` is the half of a sequence net, or empty."""

    format: Name
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    bake: bool
    calibrated: bool = False  # whether the graph divides its logits by the temperature
    part: Literal["", "encoder", "step"] = ""


class Metadata(Record, frozen=True, kw_only=True):
    """All metadata of a net in a file."""

    format: int
    config: dict[str, Any]
    recipe: Annotated[list[dict[str, Any]], Meta(max_length=100)]
    data: dict[str, Any]
    versions: dict[Name, Name]
    commit: Text | None
    best: Best | None = None
    step: Count | None = None  # of early.safetensors: the step at which it was written
    export: Export | None = None
    temperature: Annotated[float, Meta(ge=LOWEST_TEMPERATURE, le=HIGHEST_TEMPERATURE)] | None = None

    thresholds: Annotated[list[Probability], Meta(min_length=1, max_length=100_000)] | None = None

    def __post_init__(self) -> None:
        if self.export and self.export.calibrated and self.temperature is None:
            raise ValueError("a calibrated export needs a temperature")
        for step in self.recipe:
            check_step(step)
        check_plain(self.config)
        for group in ("model", "data", "choices"):
            if not isinstance(self.config.get(group), dict):
                raise ValueError(f"config.{group} must be a mapping")
        if not isinstance(self.config.get("task", {}), dict):
            raise ValueError("config.task must be a mapping")
        choices = self.config["choices"]
        if not all(value is None or isinstance(value, str) for value in choices.values()):
            raise ValueError("config.choices must name an option for each group")
        if not all(isinstance(choices.get(group), str) for group in ("model", "data")):
            raise ValueError("config.choices must name the model and the data")
        if self.kind is Sequences and self.temperature is not None:
            raise ValueError("a temperature is for nets that classify images")
        self._check_data(msgspec.convert(self.data, type=self.kind))

    @property
    def kind(self) -> type[Images] | type[Sequences]:
        return Sequences if "source_symbols" in self.data else Images

    def _check_data(self, data: Images | Sequences) -> None:
        """Raise ValueError if the metadata of the data contradict the config."""
        settings = self.config["data"]
        if self.thresholds is not None and len(self.thresholds) != len(self.data.get("classes", ())):
            raise ValueError("thresholds must have one number for each class")
        if isinstance(data, Images):
            if bool(settings.get("numbers")) != (data.number_scale is not None):
                raise ValueError("number_scale belongs to config.data.numbers=true")
            size, channels = settings.get("image_size"), settings.get("in_channels")
            sides = size if isinstance(size, list) and len(size) == 2 and size[0] != size[1] else [size]
            if not all(type(side) is int and 1 <= side <= 2048 for side in sides):
                raise ValueError("config.data.image_size must be a whole number from 1 to 2048, or two different ones")
            resize, shorter = settings.get("resize"), min(sides)
            if resize is not None and (type(resize) is not int or not shorter <= resize <= 4 * shorter):
                raise ValueError("config.data.resize must be null or a whole number from image_size to 4 times that")
            if settings.get("interpolation") not in (None, "bilinear", "bicubic"):
                raise ValueError("config.data.interpolation must be null, bilinear or bicubic")
            if type(channels) is not int or channels != len(data.mean):
                raise ValueError(f"config.data.in_channels must be {len(data.mean)}, the length of mean")


def parse_metadata(text: str | bytes, source: Any) -> dict[str, Any]:
    """Parse and check the JSON of a file, and return it as plain data; raise BadInput naming the `source`."""
    if len(text) > MAX_BYTES:
        raise BadInput(f"{source}: its metadata take {len(text):,} bytes; at most {MAX_BYTES:,} are allowed")
    if _num_parts(text) > MAX_PARTS:
        raise BadInput(f"{source}: its metadata have more than {MAX_PARTS:,} lists and mappings")
    try:
        found = json.loads(text, parse_constant=lambda name: None)  # NaN, written by earlier versions
        version = found.get("format") if isinstance(found, dict) else None
        if type(version) is int and version != FORMAT:
            raise BadInput(
                f"{source} has format {version}, but this version of the zoo reads format {FORMAT}; use the version "
                "that wrote it, or train again"
            )
        plain: dict[str, Any] = msgspec.to_builtins(msgspec.convert(found, type=Metadata))
        return plain
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise BadInput(f"{source} does not have the metadata of a net of the zoo: {reason(error)}") from error


def _num_parts(text: str | bytes) -> int:
    return text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")


def check_plain(config: Any) -> None:
    """Raise ValueError unless a config is plain data without interpolations, with finite numbers, and not too large."""
    num_entries = 0
    parts = [(config, MAX_DEPTH)]
    while parts:
        part, depth = parts.pop()
        if depth == 0:
            raise ValueError(f"config is nested deeper than {MAX_DEPTH} levels")
        if isinstance(part, Mapping):
            if not all(isinstance(key, str) and len(key) <= 256 and "${" not in key for key in part):
                raise ValueError("a key of config is not a short string")
            parts += [(one, depth - 1) for one in part.values()]
            num_entries += len(part)
        elif isinstance(part, list):
            parts += [(one, depth - 1) for one in part]
            num_entries += len(part)
        else:
            _check_leaf(part)
        if num_entries > MAX_ENTRIES:
            raise ValueError(f"config has more than {MAX_ENTRIES:,} entries")


def _check_leaf(value: Any) -> None:
    if isinstance(value, str):
        if len(value) > 65_536 or "${" in value:
            raise ValueError("a string of config is too long, or is an interpolation")
    elif isinstance(value, int | float):
        if not (math.isfinite(value) and abs(value) <= MAX_NUMBER):
            raise ValueError(f"a number of config is not between -{MAX_NUMBER} and {MAX_NUMBER}")
    elif value is not None:
        raise ValueError(f"config has a value of type {type(value).__name__}")
