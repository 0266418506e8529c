"""The last stage of quantization: a product in floats becomes one in int8, of which the float one stays beside it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from zoo.checkpoint import Product, read_product, save_product
from zoo.compress.quantize import Batches, chosen, layers_of, program_of, ptq, traced
from zoo.compress.recipe import Step
from zoo.data.module import Split
from zoo.errors import BadInput
from zoo.nets import net_of

log = logging.getLogger("zoo")
TRAINED = "trained.safetensors"  # the product as it was before int8
Measure = Callable[[nn.Module, Split], dict[str, float]]


def ptq_int8(
    product: Product,
    example: tuple[Tensor, ...],
    batches: Batches,
    measure: Measure,
    num_batches: int = 10,
    float_layers: Sequence[str] = (),
) -> tuple[Product, dict[str, Any]]:
    """Quantize a product after training, and write it in the place of the float one, which becomes trained.safetensors.

    Activations are calibrated on `num_batches` training batches. Layers that a name or pattern of `float_layers` stands
    for stay as they are. Told are the metrics and bytes of the float net.
    """
    product = _in_floats(product)
    net = net_of(product)
    trace = traced(net, example)
    kept = chosen(float_layers, layers_of(trace))
    program, tensors = ptq(trace, batches, num_batches, kept)
    step = {"pass": "ptq_int8", "num_batches": num_batches, "float_layers": kept, "program": program}
    return _replaced(product, net, step, tensors, measure)


def _in_floats(product: Product) -> Product:
    """Give a product, or what it was before int8 where a run that was resumed after its end has done this already."""
    if not program_of(product.facts["recipe"]):
        return product
    path = product.path.with_name(TRAINED)
    if not path.exists():
        raise BadInput(f"{product.path} is in int8 already; quantize the float net that it was made of")
    return read_product(path)


def _replaced(
    product: Product, net: nn.Module, step: Step, tensors: Mapping[str, Tensor], measure: Measure
) -> tuple[Product, dict[str, Any]]:
    """Write a quantized net in the place of a product, and tell what the float net was."""
    path = product.path.with_name("model.safetensors")
    before = {f"{split}": measure(net, split) for split in ("val", "test")}
    save_product(path.with_name(TRAINED), product.weights, product.facts)
    facts = {**product.facts, "recipe": [*product.facts["recipe"], step]}
    quantized = net_of(Product(path, dict(tensors), facts))
    metrics = {f"val/{name}": value for name, value in measure(quantized, "val").items()}
    save_product(path, tensors, {**facts, "best": {**product.facts["best"], "metrics": metrics}})
    told = {
        "float": {
            "product_bytes": path.with_name(TRAINED).stat().st_size,
            "validation": before["val"],
            "test": before["test"],
        },
        "float_layers": step.get("float_layers", []),
    }
    log.info(
        "The float net had %.2f %% of the test right, in %s bytes; int8 takes %s.",
        100 * before["test"]["accuracy"],
        f"{told['float']['product_bytes']:,}",
        f"{path.stat().st_size:,}",
    )
    return read_product(path), told
