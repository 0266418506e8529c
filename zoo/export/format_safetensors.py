"""The product file itself as an export, unchanged or with shared weights."""

from pathlib import Path

from zoo.checkpoint.product_file import save_product
from zoo.export.export_format import ExportFormat, Job
from zoo.paths import PRODUCT


class Format(ExportFormat):
    file, runtime = PRODUCT, "zoo"

    def write(self, path: Path, job: Job) -> list[Path]:
        save_product(path, job.product.weights, job.product.facts)
        return [path]
