"""Write a checkpoint in other formats, each proven before it stays, and say in a table what they came to."""

import itertools
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from zoo.checkpoint import PRODUCT, Product, save_product
from zoo.data.module import ResidentData
from zoo.errors import BadInput, ZooError, choices, reason
from zoo.evaluation import rebuild_data
from zoo.export.labels import Baked, example, pixels
from zoo.export.onnx import Half, save_onnx, translate, write_onnx
from zoo.export.pt2 import save_pt2
from zoo.export.qdq import quantized
from zoo.files import replacing, write_json
from zoo.ledger import draw_ledger, show_ledger
from zoo.nets import net_of
from zoo.packed import PACKED, save_packed
from zoo.proof import Proof, Source, prove, refusal, source_of

EXPORTS = "exports.json"


@dataclass(frozen=True)
class Job:
    """What is to be exported: a product, its net in eval mode, its data, and what the format's file shall say."""

    product: Product
    net: nn.Module
    data: ResidentData
    facts: dict[str, Any]
    cfg: DictConfig

    def taker(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """Give the net that takes what the file will, and two samples of that."""
        seen = self.facts["data"]
        net = Half(self.net) if self.facts["export"]["precision"] == "fp16" else self.net
        net = Baked(net, seen["mean"], seen["std"]) if self.cfg.bake else net
        return net.eval(), (example(self.facts),)

    def prepare(self, images: Tensor) -> Tensor:
        """Give what the file takes for normalised images."""
        mean, std = (torch.tensor(self.facts["data"][name])[:, None, None] for name in ("mean", "std"))
        return pixels(images, mean, std) if self.cfg.bake else images


def _to_safetensors(path: Path, job: Job) -> None:
    save_product(path, job.product.weights, job.product.facts)


def _to_zoo(path: Path, job: Job) -> None:
    ledger = save_packed(path, job.product.weights, job.product.facts, job.cfg.half)
    name, folder = job.product.facts["config"]["choices"]["model"], path.parent
    show_ledger(ledger, f"{name} in {PACKED}")
    with replacing(folder / "ledger.png") as file:
        draw_ledger(ledger, name).savefig(file, format="png", dpi=150)


def _to_pt2(path: Path, job: Job) -> None:
    save_pt2(path, *job.taker(), job.facts)


def _to_onnx(path: Path, job: Job) -> None:
    save_onnx(path, *job.taker(), job.facts)


def _to_onnx_int8(path: Path, job: Job) -> None:
    """Calibrate on training batches, augmented as they are."""
    batches = itertools.islice(job.data.loader("train", "cpu"), job.cfg.calibration_batches)
    model = quantized(translate(*job.taker()), (job.prepare(images).numpy() for images, _ in batches))
    write_onnx(path, model, job.facts)


@dataclass(frozen=True)
class Format:
    """A format: its file's name, who writes it, in which precision and for which runtime; some claim to be smaller."""

    file: str
    write: Callable[[Path, Job], None]
    precision: str
    runtime: str
    smaller: bool = False
    exported: bool = True  # and not to be built again from its weights


FORMATS = {
    "safetensors": Format(PRODUCT, _to_safetensors, "fp32", "zoo", exported=False),
    "zoo": Format(PACKED, _to_zoo, "fp32", "zoo", smaller=True, exported=False),
    "pt2": Format("model.pt2", _to_pt2, "fp32", "torch"),
    "onnx": Format("model.onnx", _to_onnx, "fp32", "onnxruntime"),
    "onnx_fp16": Format("model_fp16.onnx", _to_onnx, "fp16", "onnxruntime", smaller=True),
    "onnx_int8": Format("model_int8.onnx", _to_onnx_int8, "int8", "onnxruntime", smaller=True),
}


@dataclass(frozen=True)
class Row:
    """A cell of the matrix: what a format came to in its runtime, or why it could not be."""

    format: str
    precision: str
    runtime: str
    file: str
    proof: Proof | None = None
    reason: str | None = None

    def plain(self) -> dict[str, Any]:
        cell = {key: value for key, value in asdict(self).items() if key != "proof"}
        return cell | (asdict(self.proof) if self.proof else {})


def check_formats(names: list[str]) -> None:
    """Raise BadInput for a format that there is not."""
    for name in names:
        if name not in FORMATS:
            raise BadInput(f"format={name} is no format to export to; {choices(str(name), FORMATS)}")


def export(product: Product, names: list[str], folder: Path, cfg: DictConfig) -> None:
    """Write a product in some formats into a folder, where only files that are proven appear, and exports.json.

    ZooError, after all formats were tried, where one was refused.
    """
    for name in names:
        changed = "share" in cfg.compress or (name == "zoo" and cfg.half)
        target = folder / FORMATS[name].file
        if changed and target.exists() and target.samefile(product.path):
            raise BadInput(f"format={name} would replace the checkpoint itself; say out=FOLDER")
    net, data = net_of(product).eval(), rebuild_data(product.facts, cfg)
    source = source_of(net, lambda: data.loader("test", "cpu"))
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_try(name, Job(product, net, data, _facts(product, name, cfg), cfg), source, folder) for name in names]
    net_name, data_name = (product.facts["config"]["choices"][key] for key in ("model", "data"))
    found = {"checkpoint": str(product.path), "net": net_name, "data": data_name, "accuracy": source.accuracy}
    write_json(folder / EXPORTS, found | {"rows": [row.plain() for row in rows]})
    show_exports(f"{net_name} on {data_name}, {source.accuracy:.2%} before", rows)
    print(f"Written     {', '.join([row.file for row in rows if row.proof] + [EXPORTS])} in {folder}")
    refused = [f"format={row.format} is refused, and its file removed: {row.reason}" for row in rows if row.reason]
    if refused:
        raise ZooError("; ".join(refused))


def _facts(product: Product, name: str, cfg: DictConfig) -> dict[str, Any]:
    said = {"format": name, "precision": FORMATS[name].precision, "bake": cfg.bake}
    return {**product.facts, "export": said}


def _try(name: str, job: Job, source: Source, folder: Path) -> Row:
    """Write a file aside, prove it, and only then put it, and what was drawn with it, into the folder."""
    form = FORMATS[name]
    precision = "fp16" if name == "zoo" and job.cfg.half else form.precision
    dense = sum(weight.numel() * weight.element_size() for weight in job.product.weights.values())
    row = Row(name, precision, form.runtime, form.file)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export.") as place:
        path = Path(place) / form.file
        try:
            form.write(path, job)
        except Exception as error:  # of torch or ONNX Runtime, for what they cannot translate
            return replace(row, reason=f"{form.runtime} has no way to say this net: {reason(error)}")
        try:
            proof = prove(path, source, job.prepare if form.exported else lambda images: images)
        except ZooError as error:
            return replace(row, reason=str(error))
        why = refusal(proof, source, precision, dense if form.smaller else None, job.cfg.max_drop)
        if why:
            return replace(row, reason=why)
        for file in Path(place).iterdir():
            os.replace(file, folder / file.name)
    return replace(row, proof=proof)


def show_exports(title: str, rows: list[Row]) -> None:
    """Print the matrix of formats, precisions and runtimes."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 0, 0, 1))
    for column in ("format", "in", "runtime"):
        table.add_column(column, no_wrap=True)
    for column in ("bytes", "right", "off by", "ms of 1", "ms of 64", "MB"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        figures = ["refused", *"–––––"]
        if row.proof:
            times = [f"{time['p50']:.3g}/{time['p95']:.3g}" for time in row.proof.latency_ms.values()]
            size, off = f"{row.proof.size_bytes:,}", f"{row.proof.largest_difference:.1g}"
            figures = [size, f"{row.proof.accuracy:.2%}", off, *times, f"{row.proof.peak_bytes / 1e6:,.0f}"]
        table.add_row(row.format, row.precision, row.runtime, *figures)
    console = Console(highlight=False)
    console.print(table)
    console.print("Off by: the largest difference of a logit. ms: median/95th percentile of a batch. MB: peak memory.")
