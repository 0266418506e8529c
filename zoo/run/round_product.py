"""Round a product's weights to few bits without training, as far as its validation accuracy allows."""

import itertools
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import Product
from zoo.compress.rate_rounding import Rounding, curvatures, highest_price, update_norms
from zoo.data.module import ResidentData
from zoo.data.sequences import SequenceData
from zoo.errors import BadInput
from zoo.measure.accuracy import points_lost
from zoo.measure.evaluation import accuracy
from zoo.run.pack_product import as_packed
from zoo.tasks.transcribe import transcribe

log = logging.getLogger("zoo")


def round_at_once(
    product: Product, data: ResidentData, max_drop: float, num_batches: int, settings: Mapping[str, Any]
) -> Product:
    """Return a product with weights that are integers times a step, for the smallest file within an accuracy limit.

    The curvature of the loss, and the statistics of batch norms after the rounding, are measured on some training
    batches. The price of a bit is the highest for which validation accuracy falls by at most `max_drop` points.
    `settings` are those of `as_packed`. Raises BadInput if even the lowest price loses more.
    """
    net = load_model(product).eval()
    batches = [_inputs(data, batch) for batch in itertools.islice(data.loader("train", "cpu"), num_batches)]
    names = [name for name, parameter in net.named_parameters() if parameter.ndim > 1]
    rounding = Rounding({name: product.weights[name] for name in names}, *curvatures(net, names, batches))
    reference = _accuracy(net, data)

    def round_to(price: float) -> None:
        net.load_state_dict({**product.weights, **rounding.at(price)})
        update_norms(net, batches)

    def is_good(price: float) -> bool:
        round_to(price)
        drop = points_lost(reference, _accuracy(net, data))
        log.info("At a price of %.3g per bit, validation loses %.2f points.", price, drop)
        return drop <= max_drop

    price = highest_price(is_good, rounding.unit)
    if price is None:
        raise BadInput(f"compress.rate.max_drop: no rounding keeps within {max_drop} points; raise it")
    round_to(price)
    weights, facts = as_packed(net, net.state_dict(), product.facts, **settings)
    return Product(product.path, dict(weights), dict(facts))


def _inputs(data: ResidentData, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the inputs of a net in a training batch: images, or sources and the targets that it sees."""
    return (batch[0], batch[1][:, :-1]) if isinstance(data, SequenceData) else (batch[0],)


def _accuracy(net: nn.Module, data: ResidentData) -> float:
    if isinstance(data, SequenceData):
        return float(transcribe(net, data, "val", torch.device("cpu"))["accuracy"])
    return accuracy(net, data.loader("val", "cpu"), data.number_scale)
