"""TensorBoard and metrics.csv; after an interruption, they continue from the step of the checkpoint."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
from lightning.pytorch.loggers.logger import Logger

from zoo.callbacks.board import Board, result_tag
from zoo.files import write_text
from zoo.paths import METRICS
from zoo.records.metrics_file import metrics_text, read_metrics
from zoo.report.settings_row import MAIN_COLUMNS

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CHARTS = {  # apart, since a run has the same colour in all its curves
    split: {f"{split} {name}": ["Multiline", [f"{group}/{name}"]] for name in ("accuracy", "loss")}
    for split, group in (("validation", "val"), ("training", "train"))
}


def tensorboards(trainer: lightning.Trainer) -> "list[SummaryWriter]":
    """Return the writers for what only TensorBoard shows, such as histograms; none if it is off."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoard)]


class TensorBoard(Board):
    """Write TensorBoard events directly into the run folder; when resuming, drop those from `from_step` on.

    The CUSTOM SCALARS tab shows validation of all runs first, and then training.
    """

    def __init__(self, folder: Path, from_step: int | None = None) -> None:
        super().__init__()
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard reads the files of a folder by name, which starts with the second of creation, followed by the
        # process, so a later file of the same second might be read before an earlier one, and be purged by it.
        while any(folder.glob(f"events.out.tfevents.{int(time.time())}.*")):
            time.sleep(0.05)
        self.experiment = SummaryWriter(str(folder), purge_step=from_step)
        self.experiment.add_custom_scalars(CHARTS)

    def add_settings(self, settings: Mapping[str, str | float], metrics: Mapping[str, float]) -> None:
        """Write a row of the HParams table.

        TensorBoard shows five settings and five metrics by default: settings in alphabetical order, but first those
        that are said to differ, here the names in MAIN_COLUMNS; metrics in their own order. It takes the columns of one
        run for all, so settings that this run does not have might not be shown. Each metric is also a chart of one
        point, since TensorBoard reads it from there.
        """
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
        from torch.utils.tensorboard.summary import hparams

        of_result = {result_tag(name): value for name, value in metrics.items()}
        table, start, end = hparams(dict(settings), of_result)
        packed = table.value[0].metadata.plugin_data
        unpacked = HParamsPluginData.FromString(packed.content)
        for column in unpacked.experiment.hparam_infos:
            column.differs = column.name in MAIN_COLUMNS
        for column, name in zip(unpacked.experiment.metric_infos, metrics, strict=True):
            column.display_name = name
        packed.content = unpacked.SerializeToString()
        for summary in (table, start, end):
            self.file_writer().add_summary(summary)

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self.experiment.add_scalar(name, value, step)

    def add_pixels(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.experiment.add_image(name, pixels, step, dataformats="HWC")

    def add_text(self, name: str, text: str, step: int) -> None:
        self.experiment.add_text(name, text, step)

    def file_writer(self) -> Any:
        """Return torch's writer of whole events, since SummaryWriter can only add its own kinds."""
        return self.experiment._get_file_writer()

    def save(self) -> None:
        self.experiment.flush()

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self.save()

    def finalize(self, status: str) -> None:
        """Flush without closing: test metrics and the HParams row are written to the same file after training."""
        self.save()

    def close(self) -> None:
        self.save()


class MetricsCSV(Logger):
    """Write one row per step to metrics.csv, atomically; when resuming, drop rows from `from_step` on."""

    def __init__(self, folder: Path, from_step: int | None = None) -> None:
        super().__init__()
        self.path = folder / METRICS
        self.rows: dict[int, dict[str, Any]] = {}
        if from_step and self.path.exists():
            self.rows = {int(row["step"]): row for row in read_metrics(self.path) if row["step"] < from_step}

    @property
    def name(self) -> None:
        return None

    @property
    def version(self) -> None:
        return None

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: hyperparameters are in config.yaml."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows.setdefault(step, {"step": step}).update({k: float(v) for k, v in metrics.items()})

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Write the file; not in `save`, which Lightning calls every few steps, since each call rewrites the file."""
        write_text(self.path, metrics_text([self.rows[step] for step in sorted(self.rows)]))

    def finalize(self, status: str) -> None:
        if self.rows:
            self.after_save_checkpoint(None)
