"""Compare files of trained nets on the same test images: accuracy, calibration, robustness, classes, explanations."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from zoo.checkpoint.product_file import Product
from zoo.checkpoint.stored_config import stored_data
from zoo.checkpoint.temperature import temperature_of
from zoo.compare.file_pictures import Flip, MapRow
from zoo.compare.significance import holm
from zoo.data.images import ImageData
from zoo.data.table_labels import instead_of_class
from zoo.errors import BadInput
from zoo.export.read_export import Exported, OnCpu, net_of, read_net
from zoo.files import sha256_of
from zoo.inference import evaluate, robustness, same_images
from zoo.inference.explain import has_gradients
from zoo.measure import evaluation
from zoo.measure.accuracy import has_nan
from zoo.measure.agreement import compare_predictions, mcnemar, recalls, wilson_interval
from zoo.measure.device import device_name
from zoo.measure.latency import in_turn_ms
from zoo.paths import OF_ZOO
from zoo.quantize.pt2e import program_of
from zoo.ranges import height_width

MOST_FILES = 12
NUM_FLIPS = 8  # pictures of each direction that are shown
CORRUPTION_SEED = 0  # as by default in evaluate.py
SECONDS = 0.6  # of timing a file
NO_ANSWER = -1  # of a net with NaN logits


@dataclass(frozen=True)
class NetFile:
    """A file as it was named, its shorter name in tables, its net in eval mode on `device`, and its test data."""

    named: str
    name: str
    source: Product | Exported
    net: nn.Module
    data: ImageData
    device: torch.device

    @property
    def temperature(self) -> float:
        return temperature_of(self.source.facts)


@dataclass(frozen=True)
class FileComparison:
    """All figures as plain data, and the pictures: flipped images of each file but the first, and maps."""

    figures: dict[str, Any]
    flips: list[list[Flip]] = field(default_factory=list)
    maps: list[MapRow] = field(default_factory=list)


def open_files(paths: Sequence[str], cfg: DictConfig, least: int = 2) -> list[NetFile]:
    """Read files of nets that classify the same test images, and build their nets and data.

    Raises BadInput for fewer than `least` files or too many, for one that reads sequences, and for one that differs
    from the first in its classes, the size of its images or its test images.
    """
    if not least <= len(paths) <= MOST_FILES:
        raise BadInput(f"paths: expected {least} to {MOST_FILES} files to compare, got {len(paths)}")
    sources = [read_net(path) for path in paths]
    for path, source in zip(paths, sources, strict=True):
        _check_like(source, sources[0], path, paths[0])
    data = _data_of(sources, paths, cfg)
    robustness.check_corruptions(data[0], cfg.corruptions)
    if cfg.explain and not has_gradients(sources[0]):
        raise BadInput(f"explain=true: {paths[0]} has no gradients; name the float net that it was made from first")
    nets = [net_of(source) for source in sources]
    on_cpu = cfg.accelerator == "auto" and any(isinstance(net, OnCpu) for net in nets)
    devices = [evaluate.to_device(net, "cpu" if on_cpu else cfg.accelerator) for net in nets]
    names = short_names(paths)
    return [NetFile(*parts) for parts in zip(paths, names, sources, nets, data, devices, strict=True)]


def _check_like(source: Product | Exported, first: Product | Exported, path: str, first_path: str) -> None:
    facts, of_first = source.facts, first.facts
    if "classes" not in facts["data"]:
        raise BadInput(f"{path} reads sequences; files are compared on images")
    if what := instead_of_class(facts["config"]["data"]):
        raise BadInput(f"{path} gives {what}; files are compared that give each image one class")
    if odd := sorted(set(facts["data"]["classes"]) ^ set(of_first["data"]["classes"])):
        raise BadInput(
            f"{path} has other classes than {first_path}, such as '{odd[0][:80]}'; name files of the same data"
        )
    if facts["data"]["classes"] != of_first["data"]["classes"]:
        raise BadInput(f"{path} has its classes in another order than {first_path}; name files of the same data")
    sizes = [[one["config"]["data"][key] for key in ("in_channels", "image_size")] for one in (facts, of_first)]
    if sizes[0] != sizes[1]:
        ours, theirs = (" x ".join(map(str, (channels, *height_width(size)))) for channels, size in sizes)
        raise BadInput(f"{path} takes images of {ours}, and {first_path} of {theirs}; name files of the same data")


def _data_of(sources: Sequence[Product | Exported], paths: Sequence[str], cfg: DictConfig) -> list[ImageData]:
    """Return the data of each file; those with the same split and normalisation share one object."""
    found: list[ImageData] = []
    for source, path in zip(sources, paths, strict=True):
        same = [i for i, one in enumerate(sources[: len(found)]) if one.facts["data"] == source.facts["data"]]
        data: Any = found[same[0]] if same else stored_data(source.facts, cfg)
        if found and _test_set(data) != _test_set(found[0]):
            raise BadInput(f"{path} has other test images than {paths[0]}; name files of the same data")
        found.append(data)
    return found


def _test_set(data: ImageData) -> tuple[str | None, ...]:
    return data.test_hash(), data.test_content_hash(), data.test_sample_hash()


def short_names(paths: Sequence[str]) -> list[str]:
    """Return the first part of each path that differs in all of them, such as the folder of the run.

    Without such a part, what they share is left out: folders at their start, and parts at their end. Names of nets that
    come with the zoo stay as they are, and so does a single path.
    """
    parts = [Path(path).parts for path in paths if not path.startswith(OF_ZOO)]
    least = min(map(len, parts), default=1) - 1  # each keeps at least one part
    start = min(_num_shared(parts), least)
    end = min(_num_shared([one[::-1] for one in parts]), least - start)
    columns = list(zip(*parts, strict=False)) if len(parts) > 1 else []
    short = next((column for column in columns if len(set(column)) == len(parts)), None)
    names = iter(short or [str(Path(*own[start : len(own) - end])) for own in parts])
    return [path if path.startswith(OF_ZOO) else next(names) for path in paths]


def _num_shared(several: Sequence[Sequence[str]]) -> int:
    """Return how many first parts all have in common; none of a single one."""
    same = [len(set(parts)) == 1 for parts in zip(*several, strict=False)] if len(several) > 1 else []
    return [*same, False].index(False)


def compare_files(files: Sequence[NetFile], cfg: DictConfig) -> FileComparison:
    """Measure files on their test images, each against the first; the figures are plain data for JSON.

    `files` has for each its bytes, `latency_ms` of one image (None if torch only simulates its int8), `evaluation` as
    `zoo.measure.evaluation.evaluate` returns it, `accuracy_interval` and, for all but the first, `against_first`. With
    `corruptions` and `explain`, each also has what zoo.inference.robustness and `same_images` return.
    """
    first, classes = files[0], files[0].data.load().classes
    found = [evaluate.predict(one.net, one.data, "test", one.device) for one in files]
    labels = found[0][1]
    answers = [torch.where(has_nan(logits), NO_ANSWER, logits.argmax(1)) for logits, _ in found]
    rows = [
        _figures(file, evaluation.evaluate(logits, labels, classes, file.temperature), ms)
        for file, (logits, _), ms in zip(files, found, _latencies(files), strict=True)
    ]
    for row, own in zip(rows, answers, strict=True):
        row["recall_intervals"] = [list(wilson_interval(*pair)) for pair in recalls(labels, own, len(classes))]
    _hold_against_first(rows, labels, answers)
    if cfg.corruptions:
        for row, of_row in zip(rows, _corrupted(files, cfg.corruptions), strict=True):
            row["corruptions"] = of_row
    shares = [(logits / one.temperature).softmax(1) for one, (logits, _) in zip(files, found, strict=True)]
    flips = [
        same_images.flipped(first.data, labels, answers[0], *one, NUM_FLIPS)
        for one in zip(answers, shares, strict=True)
    ]
    maps: list[MapRow] = []
    if cfg.explain:
        scores, maps = same_images.explain(files, labels, answers)
        for row, of_row in zip(rows, scores, strict=True):
            row["explanations"] = of_row
    return FileComparison({**_about(first), "classes": list(classes), "files": rows}, flips[1:], maps)


def _about(first: NetFile) -> dict[str, Any]:
    return {
        "data": first.source.facts["config"]["choices"]["data"],
        "num_samples": first.data.load().num_samples["test"],
        "test_hash": first.data.test_hash(),
        "device": device_name(first.device),
        "threads": torch.get_num_threads(),
    }


def _figures(file: NetFile, found: dict[str, Any], latency_ms: float | None) -> dict[str, Any]:
    facts, path = file.source.facts, file.source.path
    num_right = round(found["accuracy"] * found["num_samples"])
    return {
        "file": file.named,
        "name": file.name,
        "sha256": sha256_of(path),
        "net": facts["config"]["choices"]["model"],
        "passes": [step["pass"] for step in facts["recipe"]],
        "size_bytes": path.stat().st_size,
        "latency_ms": latency_ms,
        "accuracy_interval": list(wilson_interval(num_right, found["num_samples"])),
        "evaluation": found,
    }


def _latencies(files: Sequence[NetFile]) -> list[float | None]:
    """Return the time of one image in ms of each file, all in turn, or None for int8 that torch only simulates."""
    is_timed = [not program_of(one.source.facts["recipe"]) or one.source.path.suffix == ".onnx" for one in files]
    timed = [one for one, is_one in zip(files, is_timed, strict=True) if is_one]
    (example,) = files[0].data.example()
    calls = [functools.partial(one.net, torch.ones(example.shape, device=one.device)) for one in timed]
    found = iter(in_turn_ms(calls, files[0].device, SECONDS * len(timed)))
    return [next(found) if is_one else None for is_one in is_timed]


def _hold_against_first(rows: Sequence[dict[str, Any]], labels: Tensor, answers: Sequence[Tensor]) -> None:
    """Add to all rows but the first how their answers differ from its, with McNemar's p."""
    pairs = [compare_predictions(labels, answers[0], own) for own in answers[1:]]
    ps = [mcnemar(pair["only_first"], pair["only_other"]) for pair in pairs]
    for row, pair, p, adjusted in zip(rows[1:], pairs, ps, holm(ps), strict=True):
        row["against_first"] = {**pair, "p": p, "p_holm": adjusted}


def _corrupted(files: Sequence[NetFile], most: int | bool) -> list[dict[str, Any]]:
    """Return the accuracies of each file on images that are corrupted once for all files of the same data."""
    found: dict[int, dict[str, Any]] = {}
    for data in {id(one.data): one.data for one in files}.values():
        group = [i for i, one in enumerate(files) if one.data is data]
        nets, device = [files[i].net for i in group], files[group[0]].device
        of_group = robustness.corruptions_of_several(nets, data, "test", device, CORRUPTION_SEED, most)
        found |= dict(zip(group, of_group, strict=True))
    return [found[i] for i in range(len(files))]
