"""Progress bar and profiler with little overhead."""

import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch import callbacks
from lightning.pytorch.profilers import Profiler

from zoo import escape
from zoo.callbacks.monitor import epoch_of, monitor_of
from zoo.ranges import Index
from zoo.report.epoch_lines import formatted, headline, name_of

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

MOST_SECONDS = 1.0  # between two updates, if steps are slow


class ProgressBar(callbacks.ProgressBar):
    """Show a bar for the whole run: epoch, training loss, validation metric, speed and time left.

    It is updated every `refresh_rate` steps, or every second if steps are slow; 0 hides it. No update synchronises with
    the device, since the loss is the one that TrainingMonitor logged last. Validation and test have a bar of their own
    while they run. There are no bars unless the output is a terminal.
    """

    def __init__(self, refresh_rate: Index = 1) -> None:
        super().__init__()
        self.refresh_rate = refresh_rate
        self._is_on = refresh_rate > 0
        self._display: Progress | None = None
        self._bars: dict[str, TaskID] = {}  # by what they show
        self._metric = ""  # of the last validation
        self._start = (0.0, 0)  # time, and steps done before
        self._epoch_start = (0.0, 0)  # time, and images seen before
        self._updated = 0.0

    def disable(self) -> None:
        self._is_on = False

    def enable(self) -> None:
        self._is_on = True

    def _open(self, what: str, total: float) -> None:
        """Show a bar of `total` steps, if the output is a terminal."""
        console = escape.console()
        if not self._is_on or not console.is_terminal:
            return
        if self._display is None:
            self._display = bars_on(console)
            self._display.start()
        self._bars[what] = self._display.add_task(what, total=total if math.isfinite(total) else None, figures="")

    def _advance(self, what: str, **state: Any) -> None:
        if self._display is not None and what in self._bars:
            self._display.update(self._bars[what], **state)
            self._display.refresh()

    def _close(self, what: str) -> None:
        """Remove a bar, and the display with the last one."""
        if self._display is not None and what in self._bars:
            self._display.remove_task(self._bars.pop(what))
            if not self._bars:
                self._display.stop()
                self._display = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._start = time.perf_counter(), trainer.global_step
        self._open("training", trainer.estimated_stepping_batches)
        self._advance("training", description="first step")
        self.on_train_epoch_start(trainer, pl_module)  # that hook is not called when an interrupted epoch is resumed

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._epoch_start = time.perf_counter(), monitor_of(trainer).num_images

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._display is None:
            return
        now = time.perf_counter()
        if trainer.is_last_batch or (batch_idx + 1) % self.refresh_rate == 0 or now - self._updated > MOST_SECONDS:
            self._updated = now
            epoch, figures = epoch_of(trainer), self._figures(trainer, pl_module, now)
            self._advance("training", completed=trainer.global_step, description=f"epoch {epoch}", figures=figures)

    def _figures(self, trainer: lightning.Trainer, task: Any, now: float) -> str:
        monitor, (start, first), (epoch_start, seen) = monitor_of(trainer), self._start, self._epoch_start
        loss = "" if monitor.last_loss is None else f"loss {formatted(monitor.last_loss)}"
        of = "img/s" if task.kind == "images" else "pairs/s"
        rate = f"{(monitor.num_images - seen) / (now - epoch_start):,.0f} {of}" if monitor.num_images > seen else ""
        done, left = trainer.global_step - first, trainer.estimated_stepping_batches - trainer.global_step
        seconds = (now - start) / done * left if done else math.inf
        time_left = f"{timedelta(seconds=round(seconds))} left" if math.isfinite(seconds) else ""
        return "  ".join(one for one in (loss, self._metric, rate, time_left) if one)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._open("validation", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._advance("validation", advance=1)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._close("validation")
        metrics = trainer.callback_metrics
        if name := headline(key.removeprefix("val/") for key in metrics if key.startswith("val/")):
            self._metric = f"{name_of(name)} {formatted(float(metrics[f'val/{name}']), name)}"

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._open("test", sum(trainer.num_test_batches))

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._advance("test", advance=1)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        for what in list(self._bars):
            self._close(what)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "")


def bars_on(console: Any) -> "Progress":
    """Return a display of bars that disappear when it stops; what is printed meanwhile appears above them."""
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[figures]}", markup=False)
    is_seen = sys.stderr.isatty()  # or what goes to a file would be shown instead
    return Progress(*columns, console=console, auto_refresh=False, transient=True, expand=True, redirect_stderr=is_seen)


class NoProfiler(Profiler):
    """Profile nothing: Lightning opens some 80 profiling contexts per step, by default with empty generators."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self._nothing

    def start(self, action_name: str) -> None:
        pass

    def stop(self, action_name: str) -> None:
        pass

    def summary(self) -> str:
        return ""
