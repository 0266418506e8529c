"""Fit the temperature of a product to its validation data, and store it in the file."""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo import distributed
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import Product, read_product
from zoo.checkpoint.temperature import store_temperature
from zoo.data.module import ResidentData
from zoo.errors import BadInput, counted
from zoo.measure.calibration import calibration, fit_temperature
from zoo.measure.evaluation import predictions
from zoo.run.directory import Run
from zoo.tasks.base import Task

log = logging.getLogger("zoo")


def check_calibration(run: Run, task: Task) -> None:
    """Raise BadInput if a run with calibrate=true has no classes to calibrate, one for each image."""
    if run.cfg.get("calibrate") and (task.kind != "images" or task.num_outputs or task.multilabel or task.regression):
        raise BadInput("calibrate=true is for nets that give each image one class; leave it out")


def calibrate_product(run: Run, product: Product, task: Task, data: ResidentData) -> Product:
    """Return a run's product with its temperature, if `calibrate` is set; without one, and a warning, if none fits."""
    if not run.cfg.get("calibrate"):
        return product
    batches = data.limited_batches("val", task.device, run.cfg.trainer.limit_val_batches)
    net = load_model(product).to(task.device).eval()
    parts = distributed.all_gather_object(predictions(net, batches))
    found = [one for part in parts for one in part]
    logits, labels = _joined(found) if found else (torch.empty(0, 1), torch.empty(0, dtype=torch.int64))
    temperature = fit_temperature(logits, labels)
    if temperature is None:
        log.warning("No temperature fits %s, and none is stored.", counted(len(labels), "validation image"))
        return product
    log.info("%s", sentence(logits, labels, temperature))
    if distributed.rank() == 0:
        store_temperature(product, temperature, product.path)
    return read_product(distributed.broadcast_object(str(product.path)))


def calibrate(product: Product, net: nn.Module, data: ResidentData, device: torch.device, path: Path) -> str:
    """Fit a product's temperature to all validation images, write the product to `path`, and return a sentence.

    Raises BadInput if no temperature from 0.05 to 20 fits, for example if all these images are classified correctly.
    """
    logits, labels = _joined(predictions(net, data.loader("val", device)))
    temperature = fit_temperature(logits, labels)
    if temperature is None:
        raise BadInput(
            f"checkpoint={product.path}: no temperature from 0.05 to 20 fits its "
            f"{counted(len(labels), 'validation image')}, "
            "as if all or almost none of them are classified correctly; train with more of them"
        )
    store_temperature(product, temperature, path)
    return sentence(logits, labels, temperature)


def sentence(logits: Tensor, labels: Tensor, temperature: float) -> str:
    """Describe what a temperature changes on validation data."""
    before, after = calibration(logits, labels), calibration(logits / temperature, labels)
    assert before is not None
    assert after is not None
    loss = f"NLL {before['nll']:.4f} to {after['nll']:.4f}"
    error = f"calibration error {before['error']:.2%} to {after['error']:.2%}"
    return f"Temperature {temperature:.4g}; on {counted(len(labels), 'validation image')}: {loss}, {error}."


def _joined(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    logits, labels = zip(*found, strict=True)
    return torch.cat(logits), torch.cat(labels)
