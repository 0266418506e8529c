"""Build the net of a product file with its weights, and check that it runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from zoo.checkpoint.product_file import Product, load_weights
from zoo.checkpoint.shapes import check_kinds, check_numbers, shape_of
from zoo.checkpoint.stored_config import example_of, stored_net
from zoo.compress.recipe import replay
from zoo.errors import BadInput, reason
from zoo.measure.bounds import check_activations
from zoo.quantize.graph_ir import deserialize
from zoo.quantize.operators import PROBLEMS
from zoo.quantize.pt2e import program_of
from zoo.quantize.qat_int8 import fake_quantized, is_trained_in_int8
from zoo.quantize.weight_only import apply_weight_only


def load_model(product: Product) -> nn.Module:
    """Build the net of a product file with its weights; raise BadInput if they do not fit or it has no classes.

    Its shape is checked on the meta device first, so that a file cannot claim more memory than its weights justify.
    """
    facts, source = product.facts, str(product.path)
    config, recipe = facts["config"], facts["recipe"]
    if str(config.get("task", {}).get("_target_")).endswith(".RotationPrediction"):
        raise BadInput("the net was trained with task=rotation and has no classes; train one with init_from=THE_FILE")
    if program := program_of(recipe):
        check_numbers(product.weights, source)
        example = example_of(facts)
        int8 = deserialize(
            program, product.weights, source, lambda num: [one.expand(num, *one.shape[1:]) for one in example]
        )
        _check_logits(_try_out(int8, example, source), facts, source)
        return int8
    shape = shape_of(facts, product.weights, source)
    if not is_trained_in_int8(recipe):
        check_kinds(shape, product.weights, source)
    try:
        _check_logits(check_activations(shape, example_of(facts)), facts, source)
    except PROBLEMS as error:
        raise BadInput(f"{source} does not describe a net that can be run: {reason(error)}") from error
    net = stored_net(config["model"])
    replay(net, recipe)
    apply_weight_only(net, recipe)
    if is_trained_in_int8(recipe) and recipe[-1]["shape"] != list(example_of(facts)[0].shape[1:]):
        raise BadInput(f"{source}: the recipe's step qat_int8 is for images of {recipe[-1]['shape']}, not these")
    net = fake_quantized(net, recipe)
    load_weights(net, product)
    if any("unsaved" in new for step in recipe for new in step.get("layout", {}).values()):
        _try_out(net, example_of(facts), source)
    return net


def _check_logits(found: Any, facts: Mapping[str, Any], source: str) -> None:
    """Raise BadInput unless a file's net returned one number per class for a sample, or per place of a sequence."""
    data = facts["data"]
    expected = [1, len(data["classes"])] if "classes" in data else [1, data["max_length"], len(data["target_symbols"])]
    if not isinstance(found, torch.Tensor) or not found.is_floating_point() or list(found.shape) != expected:
        kind = str(found.dtype).removeprefix("torch.") if isinstance(found, torch.Tensor) else type(found).__name__
        given = f"{kind} {list(found.shape)}" if isinstance(found, torch.Tensor) else kind
        raise BadInput(
            f"{source}: its net returns {given} for a sample, and its data have {expected[-1]:,} classes or symbols, "
            f"which need floats {expected}"
        )


def _try_out(net: nn.Module, example: Sequence[torch.Tensor], source: str) -> Any:
    """Return a net's output for zeros; raise BadInput if it cannot be called, for example with indices out of range."""
    was_training = net.training
    try:
        with torch.no_grad():
            found = net.eval()(*(torch.zeros(one.shape, dtype=one.dtype) for one in example))
    except PROBLEMS as error:
        raise BadInput(f"{source} does not describe a net that can be run: {reason(error)}") from error
    net.train(was_training)
    return found
