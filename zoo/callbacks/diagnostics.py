"""Per-layer training diagnostics, with a summary of anomalies at the end."""

import copy
import logging
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from zoo import distributed, escape
from zoo.callbacks.board import DIAGNOSTICS as GROUP
from zoo.callbacks.board import Board, boards
from zoo.callbacks.layer_plots import RULE_OF_THUMB, draw_filters, draw_update_ratios, first_filters
from zoo.callbacks.loggers import tensorboards
from zoo.errors import BadInput, Interrupted, ZooError
from zoo.files import write_json
from zoo.measure import health
from zoo.measure.diagnosis import MEANINGS, Course, Reading, Row, read_run
from zoo.ranges import Count

log = logging.getLogger("zoo")
DIAGNOSTICS = "diagnostics.json"
HEAD = "| of each layer | what it is | usual |\n|---|---|---|"
HISTOGRAMS = ("activations/", "gradients/", "weights/")
NUM_FOR_DEAD = 1000  # validation samples
NUM_PIECES = 4  # parts of a batch whose gradients are compared


class Diagnostics(lightning.Callback):
    """Measure every layer at every `every`-th step of an epoch, from the first, and summarise at the end of the run.

    Logged as `zoo diagnostics/...`, for each layer with weights: at each measured step, `update_ratio/` with the
    `rule_of_thumb`, and in TensorBoard histograms of `activations/` (outputs) and `gradients/`; after each epoch,
    histograms of `weights/`, and `singular_value/`, `dead_units/`, `saturation/`, `noise_scale/` and `filters/`; at the
    end, a plot of the update ratios and, as text, `diagnostics/reading`, with an explanation of the names. The reading
    is also printed, and saved with the figures of the last epoch in diagnostics.json.

    Training is not affected: before a measured step, a copy of the task, in eager mode and fp32 unless the weights are
    narrower, processes the batch in four pieces, with a separate random stream. Measurements stay on the device until
    the end of the epoch. With several processes, each does the same, since norm statistics may be synchronised; the
    first one writes its own measurements.
    """

    def __init__(self, every: Count = 100) -> None:
        self.every = every
        self.epochs: list[Row] = []
        self.losses: list[float] = []
        self._watched: list[dict[str, list[float]]] = []  # steps of this epoch: `figure/layer`, fetched
        self._pending: list[tuple[int, dict[str, Tensor]]] = []  # step and figures, on the device
        self._before: dict[str, list[Tensor]] = {}  # weights before the current step, if it is measured
        self._twin: Any = None
        self._boards: list[Board] = []
        self._writers: list[Any] = []  # of histograms
        self.reading: Reading | None = None  # at the end of the run

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if pl_module.device_mesh is not None:
            raise BadInput("callbacks=diagnostics needs whole layers, but trainer.strategy=fsdp2 shards them")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._boards, self._writers = boards(trainer), tensorboards(trainer)
        rows = [f"| `{name}` | {meaning} | {usual} |" for name, (meaning, usual) in MEANINGS.items()]
        for board in self._boards:
            board.add_text("diagnostics/what is measured", "\n".join([HEAD, *rows]), 0)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % (self.every * trainer.accumulate_grad_batches):
            return
        task: Any = pl_module
        layers = health.weight_layers(task.net)
        self._before = {name: [w.detach().clone() for w in weights] for name, weights in layers.items()}
        with isolate_rng():
            self._pending.append((trainer.global_step, self._looked_at(task, batch)))

    def _looked_at(self, task: Any, batch: Any) -> dict[str, Tensor]:
        """Run a copy of the task on a batch, and return the measurements."""
        twin = self._up_to_date(task)
        net = twin.net
        layers = {
            name: trained
            for name, weights in health.weight_layers(net).items()
            if (trained := [w for w in weights if w.requires_grad])
        }
        num = len(batch[0]) // NUM_PIECES
        pieces = [tuple(part[i * num : (i + 1) * num] for part in batch) for i in range(NUM_PIECES)]
        flat = [weight for weights in layers.values() for weight in weights]
        gradients: list[Sequence[Tensor]] = []
        with torch.enable_grad(), health.LayerWatch(net) as watch:
            for piece in pieces if num > 1 else [batch]:
                loss = twin.training_step(piece, 0)
                gradients.append(torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True))
        return {**watch.figures(), **health.gradient_figures(layers, gradients, num)}

    def _up_to_date(self, task: Any) -> Any:
        """Return the copy of the task, updated to the current weights and norm statistics."""
        if self._twin is None:
            self._twin = copy.deepcopy(task).train()
        with torch.no_grad():
            for mine, its in zip(self._twin.net.state_dict().values(), task.net.state_dict().values(), strict=True):
                mine.copy_(its)
        return self._twin

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        per_step = trainer.accumulate_grad_batches
        if not self._before or ((batch_idx + 1) % per_step and not trainer.is_last_batch):
            return
        task: Any = pl_module
        figures = self._pending[-1][1]
        figures["loss"] = outputs["loss"].detach() * per_step
        for name, weights in health.weight_layers(task.net).items():
            figures[f"update_ratio/{name}"] = health.update_ratio(self._before[name], weights)
        self._before = {}

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        task: Any = pl_module
        self._close_epoch()
        if not self.epochs:  # resumed after the last measured step of the epoch
            return
        step = trainer.global_step - 1
        with torch.no_grad(), isolate_rng():
            figures = self._validated(trainer, task)
            for name, weights in health.weight_layers(task.net).items():
                figures[f"weights/{name}"] = health.histogram(torch.cat([w.flatten() for w in weights]))
                figures[f"singular_value/{name}"] = torch.stack(
                    [health.largest_singular_value(w) for w in weights]
                ).max()
            found = health.fetch(figures)
        self._add_histograms(step, found)
        of_epoch = {figure: _by_layer(found, figure) for figure in ("singular_value", "dead_units")}
        self.epochs[-1] = {**self.epochs[-1], **of_epoch}
        filters = first_filters(task.net)
        for board in self._boards:
            for figure in ("dead_units", "saturation", "singular_value", "noise_scale"):
                row = self.epochs[-1][figure]
                board.add_scalars({f"{GROUP}/{figure}/{name}": value for name, value in row.items()}, step)
            if filters is not None:
                board.add_picture(f"{GROUP}/filters/{filters[0]}", draw_filters(filters[1]), step)

    def _validated(self, trainer: lightning.Trainer, task: Any) -> dict[str, Tensor]:
        """Return the fraction of units that never fire on the first validation samples."""
        twin, seen = self._up_to_date(task).eval(), 0
        plugin = trainer.precision_plugin
        batches = islice(trainer.val_dataloaders or (), int(sum(trainer.num_val_batches)))
        with health.LayerWatch(twin.net) as watch:
            for batch in batches:
                batch = trainer.strategy.batch_to_device(plugin.convert_input(batch))
                twin.training_step(tuple(batch[:2]), 0)
                seen += len(batch[0])
                if seen >= NUM_FOR_DEAD:
                    break
        twin.train()
        return {key: share for key, share in watch.figures().items() if key.startswith("dead_units/")}

    def _close_epoch(self) -> None:
        """Summarise the measured steps of an epoch in a row of figures."""
        self._fetch()
        if self._watched:
            self.epochs.append(_folded(self._watched))
        self._watched = []

    def _fetch(self) -> None:
        """Copy the figures of measured steps to the host in one transfer, and write those of single steps."""
        pending, self._pending = self._pending, []
        together = {f"{i} {key}": value for i, (_, figures) in enumerate(pending) for key, value in figures.items()}
        fetched = health.fetch(together)
        for i, (step, figures) in enumerate(pending):
            found = {key: fetched[f"{i} {key}"] for key in figures}
            self._add_histograms(step, found)
            for board in self._boards:
                ratios = {"rule_of_thumb": RULE_OF_THUMB, **_by_layer(found, "update_ratio")}
                board.add_scalars({f"{GROUP}/update_ratio/{name}": ratio for name, ratio in ratios.items()}, step)
            self.losses += found.pop("loss", [])
            self._watched.append({k: v for k, v in found.items() if not k.startswith(HISTOGRAMS)})

    def _add_histograms(self, step: int, figures: Mapping[str, list[float]]) -> None:
        for tag, numbers in figures.items():
            low, high, number, total, squares, *counts = numbers if tag.startswith(HISTOGRAMS) else [math.nan] * 5
            if not math.isfinite(total):
                continue
            edges = [low + (high - low) * (i + 1) / len(counts) for i in range(len(counts))]
            for writer in self._writers:
                writer.add_histogram_raw(f"{GROUP}/{tag}", low, high, number, total, squares, edges, counts, step)

    def state_dict(self) -> dict[str, Any]:
        self._fetch()
        return {"epochs": self.epochs, "losses": self.losses, "watched": self._watched}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs, self.losses, self._watched = state["epochs"], state["losses"], state["watched"]

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._report(trainer, pl_module, None)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit" and self.reading:
            self._show()  # not earlier, or the progress bar would be printed below

    def _show(self) -> None:
        assert self.reading is not None
        escape.console().print("Diagnostics", *(f"  {one}" for one in self.reading.sentences), sep="\n", soft_wrap=True)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, ZooError) and not isinstance(exception, Interrupted | BadInput):
            self._close_epoch()
            self._report(trainer, pl_module, str(exception))
            self._show()

    def _report(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, error: str | None) -> None:
        task: Any = pl_module
        metrics = trainer.callback_metrics
        chance, num_validation = _guessing(trainer, task)
        one = getattr(task.meter, "one_answer", None)  # of the last validation
        classes = trainer.datamodule.load().classes if one else []  # type: ignore[attr-defined]
        course = Course(
            num_steps=trainer.global_step,
            lr=trainer.optimizers[0].param_groups[0]["initial_lr"],
            losses=self.losses,
            frozen=[n for n, ws in health.weight_layers(task.net).items() if not any(w.requires_grad for w in ws)],
            train_accuracy=float(metrics["train/accuracy"]) if "train/accuracy" in metrics else None,
            val_accuracy=float(metrics["val/accuracy"]) if "val/accuracy" in metrics else None,
            chance=chance,
            num_validation=num_validation,
            one_answer=(classes[one[0]], one[1], task.meter.num_samples) if one else None,
            error=error,
        )
        self.reading = read_run(self.epochs, course)
        reading = self.reading.sentences
        if distributed.rank():
            return
        log.debug("Diagnostics: %s", " ".join(reading))
        write_json(
            Path(trainer.default_root_dir) / DIAGNOSTICS,
            {
                "reading": reading,
                "steps": course.num_steps,
                "losses": [loss if math.isfinite(loss) else None for loss in self.losses],
                "last_epoch": self.epochs[-1] if self.epochs else {},
            },
        )
        for board in self._boards:
            board.add_text(
                "diagnostics/reading", "\n".join(f"- {escape.markdown(one)}" for one in reading), course.num_steps
            )
            if self.epochs:
                figure = draw_update_ratios(self.epochs)
                board.add_picture(f"{GROUP}/update_ratio of all layers", figure, course.num_steps)
            board.save()


def _by_layer(figures: Mapping[str, list[float]], figure: str) -> dict[str, float]:
    """Return one figure for each layer where it is finite."""
    prefix = f"{figure}/"
    return {k.removeprefix(prefix): v[0] for k, v in figures.items() if k.startswith(prefix) and math.isfinite(v[0])}


def _folded(watched: Sequence[Mapping[str, list[float]]]) -> Row:
    """Summarise the figures of an epoch's measured steps: medians, and for noise the ratio of sums."""
    seen: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for figures in watched:
        for key, numbers in figures.items():
            figure, _, layer = key.partition("/")
            if all(map(math.isfinite, numbers)):
                seen[figure][layer].append(numbers)
    row: dict[str, dict[str, float]] = {
        figure: {layer: statistics.median(one for (one,) in found) for layer, found in seen[figure].items()}
        for figure in ("update_ratio", "gradient_size", "signal", "saturation")
    }
    row["largest_update"] = {layer: max(one for (one,) in found) for layer, found in seen["update_ratio"].items()}
    sums = {layer: [sum(column) for column in zip(*found, strict=True)] for layer, found in seen["noise"].items()}
    row["noise_scale"] = {layer: noise / signal for layer, (noise, signal) in sums.items() if noise > 0 and signal > 0}
    return row


def _guessing(trainer: lightning.Trainer, task: Any) -> tuple[float | None, int]:
    """Return the accuracy of always predicting the most frequent validation class, and the number of images."""
    if task.kind != "images" or task.multilabel or task.regression:
        return None, 0
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    labels = data.splits["val"].labels
    if not len(labels):
        return None, 0
    share = 1 / task.num_outputs if task.num_outputs else float(labels.bincount().max()) / len(labels)
    return share, len(labels)
