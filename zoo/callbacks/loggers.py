"""Write a run's curves, so that one that was interrupted goes on where its checkpoint stands."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger

from zoo.files import write_text
from zoo.paths import METRICS
from zoo.records.metrics_file import metrics_text, read_metrics

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CHARTS = {
    "training and validation": {
        "loss": ["Multiline", ["train/loss", "val/loss"]],
        "accuracy": ["Multiline", ["train/accuracy", "val/accuracy"]],
    }
}
MAIN_COLUMNS = ("batch_size", "data", "format", "lr", "max_epochs", "model", "optim", "seed")  # of the HParams table


def boards(trainer: lightning.Trainer) -> "list[SummaryWriter]":
    """Return what writes for TensorBoard: nothing in a run without it, and in all processes but the first."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoard)]


class TensorBoard(TensorBoardLogger):
    """Write TensorBoard events straight into the run folder; of a resumed run drop those from `from_step` on.

    Its CUSTOM SCALARS tab has training and validation on one chart.
    """

    def __init__(self, folder: Path, from_step: int | None = None) -> None:
        super().__init__(folder, name="", version="", default_hp_metric=False, purge_step=from_step)
        # TensorBoard reads the files of a folder by name, which begins with the second they were opened in and goes on
        # with the process, so that a second file of one second might be read before the first and be purged by it.
        while any(folder.glob(f"events.out.tfevents.{int(time.time())}.*")):
            time.sleep(0.05)
        self.experiment.add_custom_scalars(CHARTS)

    def save(self) -> None:
        """Flush, and leave out the hparams.yaml of Lightning's own: config.yaml has it all."""
        self.experiment.flush()

    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Write a row of the HParams table; its first columns are MAIN_COLUMNS, where TensorBoard goes by the alphabet.

        It takes the columns of any one run for those of all: settings that this one does not have might not be shown.
        """
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
        from torch.utils.tensorboard.summary import hparams

        table, start, end = hparams(params, metrics)
        packed = table.value[0].metadata.plugin_data
        unpacked = HParamsPluginData.FromString(packed.content)
        for column in unpacked.experiment.hparam_infos:
            column.differs = column.name in MAIN_COLUMNS  # which TensorBoard puts first
        packed.content = unpacked.SerializeToString()
        for summary in (table, start, end):
            self.experiment._get_file_writer().add_summary(summary)
        self.log_metrics(metrics)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self.save()

    def finalize(self, status: str) -> None:
        """Flush and do not close: test metrics and the HParams row come after training, into the same file."""
        self.save()


class MetricsCSV(Logger):
    """Keep one row per step in metrics.csv, whole or not at all; of a resumed run drop those from `from_step` on."""

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
        """Leave hyperparameters to config.yaml."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows.setdefault(step, {"step": step}).update({k: float(v) for k, v in metrics.items()})

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Write the file; not in `save`, which Lightning calls every few steps and which would cost a rewrite each."""
        write_text(self.path, metrics_text([self.rows[step] for step in sorted(self.rows)]))

    def finalize(self, status: str) -> None:
        if self.rows:
            self.after_save_checkpoint(None)
