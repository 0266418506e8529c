"""The packed file, with a plot of its bytes."""

from pathlib import Path

import torch
from omegaconf import DictConfig

from zoo.export.export_format import ExportFormat, Job
from zoo.files import replacing
from zoo.packed.packed_file import dtype_of, save_packed
from zoo.packed.size_report import draw_size_report, show_size_report
from zoo.paths import PACKED


class Format(ExportFormat):
    file, runtime, smaller = PACKED, "zoo", True

    def precision_with(self, cfg: DictConfig) -> str:
        return {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype_of(cfg.half)] if cfg.half else self.precision

    def write(self, path: Path, job: Job) -> list[Path]:
        report = save_packed(path, job.product.weights, job.product.facts, job.cfg.half)
        name = job.product.facts["config"]["choices"]["model"]
        show_size_report(report, f"{name} in {path.name}")
        with replacing(path.with_name(f"{path.stem.replace('model', 'ledger', 1)}.png")) as file:
            draw_size_report(report, name).savefig(file, format="png", dpi=150)
        return [path]
