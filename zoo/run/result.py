"""The result of a run: test the product as read back from its file, and write result.json."""

import contextlib
import logging
import math
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.precision import Precision
from msgspec import ValidationError
from torch import nn

from zoo import distributed, files
from zoo.callbacks.board import boards
from zoo.callbacks.compression import summaries
from zoo.callbacks.diagnostics import Diagnostics
from zoo.callbacks.monitor import TrainingMonitor
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import Product, load_weights, read_product
from zoo.checkpoint.temperature import temperature_of
from zoo.compress.recipe import in_integers, replay
from zoo.data.module import ResidentData
from zoo.data.sequences import SequenceData
from zoo.errors import BadInput, reason
from zoo.measure.counts import count_macs_of, count_parameters
from zoo.measure.device import described
from zoo.measure.latency import latencies_ms, latency_ms
from zoo.paths import PRODUCT, RESULT
from zoo.records.json_files import write_result
from zoo.report import settings_row
from zoo.run.before_compression import figures_before, figures_of_pruning, net_before, own_steps
from zoo.run.calibrate_product import calibrate_product
from zoo.run.changed_answers import changed_answers
from zoo.run.choose_thresholds import choose_thresholds
from zoo.run.directory import Run
from zoo.run.model import apply_layout, build_bare_model
from zoo.run.passes import after_fit
from zoo.run.trainer import callback_of
from zoo.tasks.base import Task

BOTH_SECONDS = 0.6  # of timing a net and the one it was made from
log = logging.getLogger("zoo")


def measure_product(run: Run, trainer: lightning.Trainer, task: Task, data: ResidentData) -> dict[str, Any]:
    """Read the product back from its file, test it, and write result.json and the row of the HParams table."""
    distributed.broadcast_object(None)  # wait until the first process has written it
    product = read_product(run.folder / PRODUCT)
    _check_best(product)
    trained, (product, reports) = product, after_fit(run, product, task, data)
    product = calibrate_product(run, product, task, data)
    product = choose_thresholds(run, product, task, data)
    task.temperature = temperature_of(product.facts)
    has_changed = product.facts["recipe"] != trained.facts["recipe"]
    measured = _tested(run, product, trainer, task, data, has_changed)
    result = files.without_nan(
        {
            "name": run.cfg.name,
            "net": run.cfg.choices.model,
            "data": run.cfg.choices.data,
            **measured,
            "settings": settings_row.hyperparameters(run.cfg),
            "seed": run.cfg.seed,
            **_of_training(product, trainer),
            **_of_data(product, trainer, data),
            **_of_problems(trainer, task, data),
            "compress": {**reports, **summaries(trainer)},
            "folder": str(run.folder),
            **{key: product.facts[key] for key in ("commit", "versions", "temperature") if key in product.facts},
        }
    )
    if result["compress"] or product.facts["recipe"]:
        before = figures_before(run.cfg.init_from, product.facts["recipe"], reports, result)
        result["before"] = before | result.get("before", {})
        if distributed.rank() == 0 and (answers := changed_answers(run, task, data, result["test"].get("accuracy"))):
            result["before"]["answers"] = answers
        result["before"] |= figures_of_pruning(own_steps(run.cfg, product.facts["recipe"]))
    _log(trainer, reports, result)
    result["bytes"] = {f.name: f.stat().st_size for f in sorted(run.folder.glob("[!.]*")) if f.is_file()}
    if distributed.rank() == 0:
        _write(run, result)
        _warn_of_outdated(run, product)
    return result


def _log(trainer: lightning.Trainer, reports: dict[str, Any], result: dict[str, Any]) -> None:
    """Log the scalars of reports, and the result, after which nothing is logged."""
    for logger in trainer.loggers:
        for values in reports.values():
            logger.log_metrics(values.pop("scalars", {}), step=trainer.global_step)
        logger.log_hyperparams(settings_row.row(result), metrics=settings_row.metrics(result), step=trainer.global_step)
        logger.finalize("success")
    for board in boards(trainer):
        board.close()


def _tested(
    run: Run, product: Product, trainer: lightning.Trainer, task: Task, data: ResidentData, has_changed: bool
) -> dict[str, Any]:
    """Return the size, the latency and the test metrics of the net that the product file holds.

    The net is rebuilt if passes after training have changed its structure.
    """
    whole = task.net
    with _put_back(trainer, task):
        is_quantized = in_integers(product.facts["recipe"])
        if has_changed or is_quantized or distributed.world_size() > 1:
            whole = build_bare_model(run.cfg.model)  # the trained one may be sharded
            replay(whole, product.facts["recipe"])
            task.net = apply_layout(whole, run.cfg)
        sizes = {
            "params": count_parameters(whole),
            "macs": count_macs_of(whole, data.example()),
            "product_bytes": product.path.stat().st_size,
        }
        if is_quantized:
            task.net = apply_layout(load_model(product), run.cfg)
            trainer.strategy.precision_plugin = Precision()  # sums of int8 products are exact in fp32, and not in bf16
        else:
            load_weights(task.net, product)
        with trainer.precision_plugin.forward_context():
            latencies = _latencies(run, product, task.net, data, trainer.strategy.root_device)
        # A compiled net would skip the hook through which callbacks.predictions sees the inputs of the last layer.
        eager = torch.compiler.set_stance("force_eager") if run.cfg.compile else contextlib.nullcontext()
        with eager:
            test = trainer.test(task, datamodule=data, verbose=False)[0]
    return {**sizes, **latencies, "test": {k.removeprefix("test/"): v for k, v in test.items()}}


def _latencies(run: Run, product: Product, net: nn.Module, data: ResidentData, device: torch.device) -> dict[str, Any]:
    """Return the time of a call of a net, and of the net that the run started from if it was another one then.

    Both are called in turn, since a machine is not equally fast at all times.
    """
    before = net_before(run.cfg, product.facts["recipe"])
    if before is None:
        return {"latency_ms": latency_ms(net, data.example(), device)}
    both = [apply_layout(before, run.cfg), net]
    old, new = latencies_ms(both, data.example(), seconds=BOTH_SECONDS, device=device)
    return {"latency_ms": new, "before": {"latency_ms": old}}


def _of_training(product: Product, trainer: lightning.Trainer) -> dict[str, Any]:
    """Return how long, how fast and on what a run was trained."""
    monitor = callback_of(trainer, TrainingMonitor)
    return {
        "epochs": trainer.current_epoch,
        "best_epoch": min(product.facts["best"]["epoch"] + 1, trainer.current_epoch),  # 0 where none was trained
        "seconds": sum(monitor.epoch_seconds),
        "epoch_seconds": monitor.epoch_seconds,
        "images_per_second": monitor.images_per_second,
        "device": described(trainer.strategy.root_device),
        "processes": distributed.world_size(),
        "precision": str(trainer.precision),
    }


def _of_data(product: Product, trainer: lightning.Trainer, data: ResidentData) -> dict[str, Any]:
    """Return the validation metrics of the best epoch, and which samples, and how many, were measured."""
    facts, metrics = data.load(), product.facts["best"]["metrics"].items()
    validation = {name: math.nan if value is None else value for name, value in metrics}  # JSON has no NaN
    num_validated = validation.pop("val/num_samples", facts.num_samples["val"] if validation else 0)
    num_tested = int(trainer.callback_metrics["test/num_samples"])
    num_trained = facts.num_samples["train"]
    if trainer.limit_train_batches != 1.0 and math.isfinite(trainer.num_training_batches):  # infinite before a fit
        num_trained = min(num_trained, int(trainer.num_training_batches) * data.batch_size)
    num_trained = min(num_trained, callback_of(trainer, TrainingMonitor).num_images or num_trained)
    return {
        "validation": {k.removeprefix("val/"): v for k, v in validation.items()},
        "num_samples": {"train": num_trained, "val": int(num_validated), "test": num_tested},
        "split_sizes": facts.num_samples,
        "split_hash": facts.split_hash,
        **({"further_hash": data.further_hash} if isinstance(data, SequenceData) and data.further_hash else {}),
        "test_hash": data.test_hash(),
        "test_content_hash": data.test_content_hash(),
        "test_sample_hash": data.test_sample_hash(),
    }


def _of_problems(trainer: lightning.Trainer, task: Task, data: ResidentData) -> dict[str, Any]:
    """Return the class that nearly all test images are given, and what diagnostics advise to try, if there are such."""
    one, found = getattr(task.meter, "one_answer", None), dict[str, Any]()
    if one is not None:
        found["one_answer"] = {"class": data.load().classes[one[0]], "num": one[1]}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Diagnostics) and callback.reading and callback.reading.remedies:
            found["remedies"] = callback.reading.remedies
    return found


def _write(run: Run, result: dict[str, Any]) -> None:
    try:
        write_result(run.folder / RESULT, result)
    except ValidationError as error:
        if not run.resumed:
            raise
        raise BadInput(f"{run.folder} has files of another run ({reason(error)})") from error


def _check_best(product: Product) -> None:
    """Refuse a product, perhaps copied from elsewhere, that does not record its best epoch and metrics."""
    best = product.facts.get("best")
    known = best["metrics"] if best else {}
    num, shares = known.get("val/num_samples", 0), [known.get(f"val/{key}") for key in ("accuracy", "top5")]
    is_sound = isinstance(num, int | float) and 0 <= num < 2**53
    if not best or not is_sound or not all(share is None or 0 <= share <= 1 for share in shares):
        raise BadInput(f"{product.path} does not record the best epoch of this run; restore the run's own file")


def _warn_of_outdated(run: Run, product: Product) -> None:
    """Warn about evaluations in the folder that are older than the product, and so describe an earlier one."""
    written = product.path.stat().st_mtime_ns
    outdated = [file.name for file in sorted(run.folder.glob("evaluation*.json")) if file.stat().st_mtime_ns < written]
    if outdated:
        log.warning("%s: from an earlier product; run evaluate.py again.", ", ".join(outdated))


@contextlib.contextmanager
def _put_back(trainer: lightning.Trainer, task: Task) -> Iterator[None]:
    """Restore the trained net and precision after a quantized product was tested in their place."""
    net, precision = task.net, trainer.strategy.precision_plugin
    try:
        yield
    finally:
        task.net, trainer.strategy.precision_plugin = net, precision
