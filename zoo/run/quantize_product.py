"""The last stage of quantization: replace a float product by a quantized one, and keep the float one next to it."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import Tensor, nn
from torch.export import ExportedProgram

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import Product, read_product, save_product
from zoo.compress.context import Context, Measure
from zoo.compress.recipe import Step, in_integers
from zoo.compress.sensitivity import stay_in_floats
from zoo.errors import BadInput
from zoo.measure.accuracy import accuracy_in
from zoo.paths import PRODUCT
from zoo.quantize import weight_only as weights
from zoo.quantize.convert_int8 import converted
from zoo.quantize.graph_ir import deserialize
from zoo.quantize.pt2e import chosen, layers_of, traced
from zoo.quantize.ptq_int8 import ptq
from zoo.quantize.qat_int8 import FakeQuantizedNet
from zoo.ranges import Count, Range
from zoo.run.pass_kinds import after_fit_pass

log = logging.getLogger("zoo")
TRAINED = "trained.safetensors"  # the float product


def _kept(trace: ExportedProgram, float_layers: Sequence[str]) -> list[str]:
    layers = layers_of(trace)
    kept = chosen(float_layers, layers)
    if len(kept) == len(layers):
        raise BadInput(f"float_layers={list(float_layers)} leaves no layer in int8; list fewer")
    return kept


def _check_ptq(
    net: nn.Module,
    context: Context,
    num_batches: int = 10,
    float_layers: Sequence[str] = (),
    max_drop: float | None = None,
) -> None:
    """Raise BadInput before training if `ptq_int8` would refuse the net."""
    _check_floats(context.recipe)
    there = len(context.batches)  # type: ignore[arg-type]
    if num_batches > there:
        raise BadInput(f"num_batches={num_batches}: expected at most {there}, the number of training batches")
    _kept(traced(net, context.example), float_layers)


def _check_floats(recipe: Sequence[Step]) -> None:
    if recipe and recipe[-1]["pass"] == "qat_int8":
        raise BadInput("it needs a float net, and compress.before_fit has qat_int8; use convert_int8")


def _check_convert(net: nn.Module, context: Context) -> None:
    """Raise BadInput if a net is not trained with fake quantization, as `convert_int8` requires."""
    if not context.recipe or context.recipe[-1]["pass"] != "qat_int8":
        raise BadInput("convert_int8 is for a net of compress=qat_int8, and compress.before_fit does not end with it")


def _check_weight_only(
    net: nn.Module,
    context: Context,
    bits: int = 8,
    group: int | None = None,
    dynamic: bool = False,
    float_layers: Sequence[str] = (),
) -> None:
    """Raise BadInput before training if `weight_only` would refuse the net."""
    _check_floats(context.recipe)
    weights.layers_to_hold(net, bits, group, dynamic, float_layers)


@after_fit_pass(check=_check_ptq, kind="images")
def ptq_int8(
    product: Product,
    context: Context,
    num_batches: Count = 10,
    float_layers: Sequence[str] = (),
    max_drop: Annotated[float, Range(0, 100, below=True)] | None = None,
) -> tuple[Product, dict[str, Any]]:
    """Quantize a product after training and write it over the float one, which is kept as trained.safetensors.

    Activations are calibrated on `num_batches` training batches. Layers matched by a name or pattern in `float_layers`
    stay in floats; with `max_drop`, so do the layers needed to lose at most that many points of validation accuracy.
    Reports the metrics and bytes of the float net and the cost of each layer. Raises BadInput if no layer is left.
    """
    product, measure = _in_floats(product), _measure_of(context)
    trace = traced(load_model(product), context.example)
    layers = layers_of(trace)
    kept = _kept(trace, float_layers)
    batches = list(itertools.islice(context.batches, num_batches))  # the same for each try
    report: dict[str, Any] = {}
    if max_drop is not None:

        def measured(others: Sequence[str]) -> dict[str, float]:
            return measure(deserialize(*ptq(trace, batches, num_batches, [*kept, *others]), "the net"), "val")

        scan = stay_in_floats([layer for layer in layers if layer not in kept], measured, max_drop)
        kept = [layer for layer in layers if layer in kept or layer in scan.float_layers]
        if len(kept) == len(layers):
            raise BadInput(f"max_drop={max_drop} leaves no layer in int8; allow more, or use compress=qat_int8")
        report = {"max_drop": max_drop, "float_layers": kept, "sensitivity": scan.costs}
    program, tensors = ptq(trace, batches, num_batches, kept)
    step = {"pass": "ptq_int8", "num_batches": num_batches, "float_layers": kept, "program": program}
    product, sizes = _replaced(product, product, step, tensors, measure)
    return product, {**sizes, **report}


@after_fit_pass(check=_check_convert)
def convert_int8(product: Product, context: Context) -> tuple[Product, dict[str, Any]]:
    """Convert the product of compress=qat_int8, which rounds as int8 does, to int8, and write it in its place.

    Reports the metrics and bytes of the float net that the run started with.
    """
    product = _in_floats(product)
    net = load_model(product)
    if not isinstance(net, FakeQuantizedNet):
        raise BadInput("compress.after_fit has convert_int8, which is for a net of compress=qat_int8")
    program, tensors = converted(net)
    step = {"pass": "convert_int8", "program": program}
    return _replaced(product, _first_net(product, context.init_from), step, tensors, _measure_of(context))


@after_fit_pass(check=_check_weight_only)
def weight_only(
    product: Product,
    context: Context,
    bits: Literal[4, 8] = 8,
    group: Count | None = None,
    dynamic: bool = False,
    float_layers: Sequence[str] = (),
) -> tuple[Product, dict[str, Any]]:
    """Quantize a product's weights with zoo.quantize.weight_only and write it over the float one.

    The float product is kept as trained.safetensors; its metrics and bytes are reported.
    """
    product = _in_floats(product)
    net = load_model(product)
    step = weights.weight_only(net, bits=bits, group=group, dynamic=dynamic, float_layers=float_layers)
    return _replaced(product, product, step, net.state_dict(), _measure_of(context))


def _measure_of(context: Context) -> Measure:
    assert context.measure is not None  # always set after the fit
    return context.measure


def _first_net(product: Product, first: str | None) -> Product | None:
    """Return the product that a run started with, or None if it is missing or has another data split."""
    if first is None or not Path(first).exists():
        return None
    found = read_product(first)
    return found if found.facts["data"]["split_hash"] == product.facts["data"]["split_hash"] else None


def _in_floats(product: Product) -> Product:
    """Return the float product; if a finished run is resumed and already quantized, read trained.safetensors."""
    if not in_integers(product.facts["recipe"]):
        return product
    path = product.path.with_name(TRAINED)
    if not path.exists():
        raise BadInput(f"{product.path} is already quantized; quantize the float net it was made from")
    return read_product(path)


def _replaced(
    product: Product, in_floats: Product | None, step: Step, tensors: Mapping[str, Tensor], measure: Measure
) -> tuple[Product, dict[str, Any]]:
    """Write a quantized net over a product, keep that as trained.safetensors, and report on the float net."""
    path = product.path.with_name(PRODUCT)
    report: dict[str, Any] = {}
    if in_floats:
        net = load_model(in_floats)
        size_bytes, metrics = in_floats.path.stat().st_size, {"validation": measure(net, "val")}
        report["float"] = {"product_bytes": size_bytes, **metrics, "test": measure(net, "test")}
    save_product(path.with_name(TRAINED), product.weights, product.facts)
    facts = {**product.facts, "recipe": [*product.facts["recipe"], step]}
    found = measure(load_model(Product(path, dict(tensors), facts)), "val")
    best = {**product.facts["best"], "metrics": {f"val/{name}": value for name, value in found.items()}}
    save_product(path, tensors, {**facts, "best": best})
    if in_floats:
        right = 100 * accuracy_in(report["float"]["test"])
        sizes = report["float"]["product_bytes"], path.stat().st_size
        log.info(
            "The float net has a test %s of %.2f %% and %s bytes; this one has %s bytes.",
            "accuracy" if "accuracy" in report["float"]["test"] else "R2",
            right,
            *map("{:,}".format, sizes),
        )
    return read_product(path), report
