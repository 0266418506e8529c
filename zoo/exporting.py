"""Write a checkpoint in other formats, each proven before it stays, and say in a table what they came to."""

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

from zoo import escape
from zoo.checkpoint import PRODUCT, Product, save_product
from zoo.compress.quantize import program_of
from zoo.data.module import ResidentData
from zoo.data.sequences import SequenceData
from zoo.errors import BadInput, ZooError, choices, reason
from zoo.evaluation import rebuild_data
from zoo.export.aoti import check_compiler, save_aoti
from zoo.export.graphs import Part, has_fixed_length, parts
from zoo.export.onnx import save_onnx, translate, write_onnx
from zoo.export.opened import Run
from zoo.export.pt2 import save_pt2
from zoo.export.qdq import dynamically_quantized, quantized
from zoo.export.reading import Classifier, Writer, pixels
from zoo.files import replacing
from zoo.ledger import draw_ledger, show_ledger
from zoo.matrix import Row, check_boards, record, show
from zoo.nets import net_of
from zoo.packed import PACKED, dtype_of, save_packed
from zoo.proof import Answers, answers_of, hold, refusal, running
from zoo.records import write_sealed

EXPORTS = "exports.json"


@dataclass(frozen=True)
class Job:
    """What is to be exported: a product, its net in eval mode, its data, and what the format's files shall say."""

    product: Product
    net: nn.Module
    data: ResidentData
    facts: dict[str, Any]
    cfg: DictConfig

    def parts(self) -> Iterator[tuple[Part, str, dict[str, Any]]]:
        """Give each part of the net, how the name of its file ends, and what that shall say."""
        for name, part in parts(self.net, self.facts).items():
            facts = {**self.facts, "export": {**self.facts["export"], "part": name}}
            yield part, f"_{name}" if name else "", facts


def _to_safetensors(path: Path, job: Job) -> list[Path]:
    save_product(path, job.product.weights, job.product.facts)
    return [path]


def _to_zoo(path: Path, job: Job) -> list[Path]:
    ledger = save_packed(path, job.product.weights, job.product.facts, job.cfg.half)
    name = job.product.facts["config"]["choices"]["model"]
    show_ledger(ledger, f"{name} in {PACKED}")
    with replacing(path.with_name("ledger.png")) as file:
        draw_ledger(ledger, name).savefig(file, format="png", dpi=150)
    return [path]


def _to_pt2(path: Path, job: Job) -> list[Path]:
    return _each(path, job, save_pt2)


def _to_aoti(path: Path, job: Job) -> list[Path]:
    return _each(path, job, save_aoti)


def _to_onnx(path: Path, job: Job) -> list[Path]:
    return _each(path, job, save_onnx)


def _to_onnx_int8(path: Path, job: Job) -> list[Path]:
    """Find the scales of activations on training batches, augmented as they are; of sequences anew at each call."""

    def save(path: Path, part: Part, facts: dict[str, Any]) -> None:
        model = translate(part)
        if isinstance(job.data, SequenceData):
            write_onnx(path, dynamically_quantized(model), facts)
        else:
            write_onnx(path, quantized(model, _calibration(job)), facts)

    return _each(path, job, save)


def _calibration(job: Job) -> Iterator[np.ndarray]:
    mean, std = (torch.tensor(job.facts["data"][name])[:, None, None] for name in ("mean", "std"))
    for images, _ in itertools.islice(job.data.loader("train", "cpu"), job.cfg.calibration_batches):
        yield (pixels(images, mean, std) if job.cfg.bake else images).numpy()


def _each(path: Path, job: Job, save: Callable[[Path, Part, dict[str, Any]], None]) -> list[Path]:
    written = []
    for part, ending, facts in job.parts():
        written.append(path.with_stem(path.stem + ending))
        save(written[-1], part, facts)
    return written


@dataclass(frozen=True)
class Format:
    """A format: its file's name, who writes it, in which precision and for which runtime; some claim to be smaller."""

    file: str
    write: Callable[[Path, Job], list[Path]]
    precision: str
    runtime: str
    smaller: bool = False


FORMATS = {
    "safetensors": Format(PRODUCT, _to_safetensors, "fp32", "zoo"),
    "zoo": Format(PACKED, _to_zoo, "fp32", "zoo", smaller=True),
    "pt2": Format("model.pt2", _to_pt2, "fp32", "torch"),
    "aoti": Format("model_aoti.pt2", _to_aoti, "fp32", "aotinductor"),
    "onnx": Format("model.onnx", _to_onnx, "fp32", "onnxruntime"),
    "onnx_fp16": Format("model_fp16.onnx", _to_onnx, "fp16", "onnxruntime", smaller=True),
    "onnx_int8": Format("model_int8.onnx", _to_onnx_int8, "int8", "onnxruntime", smaller=True),
}


def check_formats(names: list[str]) -> None:
    """Raise BadInput for a format that there is not, or not on this machine."""
    for name in names:
        if name not in FORMATS:
            raise BadInput(f"format={name} is no format to export to; {choices(str(name), FORMATS)}")
    if "aoti" in names:
        check_compiler()


def export(product: Product, names: list[str], folder: Path, cfg: DictConfig) -> None:
    """Write a product in some formats into a folder, where only files that are proven appear, and exports.json.

    ZooError, after all formats were tried, where one was refused.
    """
    dtype_of(cfg.half)  # so that a wrong one is told now
    for name in names:
        changed = "share" in cfg.compress or (name == "zoo" and cfg.half)
        target = folder / FORMATS[name].file
        if changed and target.exists() and target.samefile(product.path):
            raise BadInput(f"format={name} would replace the checkpoint itself; say out=FOLDER")
        if program_of(product.facts["recipe"]) and FORMATS[name].precision != "fp32":
            raise BadInput(
                f"format={name} starts from floats, and this net is in int8 already; format=onnx keeps it so"
            )
    check_boards(folder)
    net, data = net_of(product).eval(), rebuild_data(product.facts, cfg)
    source = answers_of(net, data)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_try(name, Job(product, net, data, _facts(product, name, cfg), cfg), source, folder) for name in names]
    net_name, data_name = (product.facts["config"]["choices"][key] for key in ("model", "data"))
    found = {"checkpoint": str(product.path), "net": net_name, "data": data_name, "accuracy": source.accuracy}
    write_sealed(folder / EXPORTS, found | {"rows": [row.plain() for row in rows]})
    if folder.resolve() == product.path.resolve().parent:
        record(folder, rows)
    show(f"{net_name} on {data_name}, {source.accuracy:.2%} before", rows)
    written = ", ".join([*itertools.chain(*(row.files for row in rows)), EXPORTS])
    print(escape.line(f"Written     {written} in {folder}"))
    refused = [f"format={row.format} is refused, and its file removed: {row.reason}" for row in rows if row.reason]
    if refused:
        raise ZooError("; ".join(refused))


def _precision(product: Product, name: str, cfg: DictConfig) -> str:
    if program_of(product.facts["recipe"]):
        return "int8"
    if name == "zoo" and cfg.half:
        return "bf16" if dtype_of(cfg.half) == torch.bfloat16 else "fp16"
    return FORMATS[name].precision


def _facts(product: Product, name: str, cfg: DictConfig) -> dict[str, Any]:
    said = {"format": name, "precision": _precision(product, name, cfg), "bake": cfg.bake}
    return {**product.facts, "export": said}


def _try(name: str, job: Job, source: Answers, folder: Path) -> Row:
    """Write files aside, prove them, and only then put them, and what was drawn with them, into the folder."""
    form = FORMATS[name]
    precision = _precision(job.product, name, job.cfg)
    dense = sum(weight.numel() * weight.element_size() for weight in job.product.weights.values())
    row = Row(name, precision, form.runtime, [])
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export.") as place:
        try:
            files = form.write(Path(place) / form.file, job)
        except Exception as error:  # of torch or ONNX Runtime, for what they cannot translate
            return replace(row, reason=f"{form.runtime} has no way to say this net: {reason(_first(error))}")
        try:
            with running(files) as (runs, measured):
                found = answers_of(_as_net(runs, files, job), job.data)
            proof = hold(found, source, files, measured)
        except ZooError as error:
            return replace(row, reason=str(error))
        why = refusal(proof, source, precision, dense if form.smaller else None, job.cfg.max_drop)
        if why:
            return replace(row, reason=why)
        for file in Path(place).iterdir():
            os.replace(file, folder / file.name)
    return replace(row, proof=proof, files=[file.name for file in files])


def _first(error: BaseException) -> BaseException:
    """Give the error that led to another, which says more of a net than what torch makes of it."""
    return _first(error.__cause__) if error.__cause__ else error


def _as_net(runs: list[Run], files: list[Path], job: Job) -> nn.Module:
    """Give what another process computes as a net that the zoo can ask."""
    if isinstance(job.data, SequenceData):
        padded = len(files) > 1 and has_fixed_length(job.net)
        return Writer(runs[0], runs[1], job.facts["data"]["max_length"] if padded else None)
    return Classifier(runs[0], job.facts, job.cfg.bake and FORMATS[job.facts["export"]["format"]].runtime != "zoo")
