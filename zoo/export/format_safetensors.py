"""The product file itself, as an export: what it was, or with weights that share values."""

from pathlib import Path

from zoo.checkpoint.product_file import save_product
from zoo.export.export_format import ExportFormat, Job
from zoo.paths import PRODUCT


class Format(ExportFormat):
    file, runtime = PRODUCT, "zoo"

    def write(self, path: Path, job: Job) -> list[Path]:
        save_product(path, job.product.weights, job.product.facts)
        return [path]
