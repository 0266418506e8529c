"""Nets as a run needs them: built from its config or a product file, with the weights they start from, laid out."""

import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from zoo.build import build
from zoo.checkpoint import Product, load_weights, put_weights, read_product
from zoo.compress.program import PROBLEMS, rebuilt
from zoo.compress.quantize import fake_quantized, is_trained_in_int8, program_of
from zoo.compress.recipe import replay
from zoo.compress.weight_only import hold_integers
from zoo.data.module import ResidentData
from zoo.errors import BadInput, choices, reason
from zoo.folder import Run
from zoo.measure.bounds import check_activations
from zoo.measure.counts import count_parameters
from zoo.models.init import Scheme, initialise
from zoo.passes import before_fit, read_recipe, recipe_at_start
from zoo.shapes import check_kinds, check_numbers, shape_of
from zoo.stored_config import STARTS, example_of, stored_net
from zoo.tasks.transfer import freeze, matched_by_name, rows_of, told_of_rows

log = logging.getLogger("zoo")


def bare_net(model: DictConfig) -> nn.Module:
    """Build the net that the config `model` describes, with initial weights as its paper has them."""
    settings: Any = OmegaConf.to_container(model, resolve=True)
    for name in ("num_classes", "num_source_tokens", "num_target_tokens"):
        if name in settings and settings[name] is None:
            raise BadInput(f"data.{name}=null, and only a training run counts them; say how many there are")
    net: nn.Module = build({key: value for key, value in settings.items() if key not in STARTS}, "model")
    return net


def build_net(run: Run, data: ResidentData) -> nn.Module:
    """Build the net with the weights it starts from; compress, freeze, lay out and compile it as the config says."""
    torch.set_float32_matmul_precision("high" if run.cfg.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = run.cfg.tf32
    net = bare_net(run.cfg.model)
    replay(net, recipe_at_start(run))
    if not run.last_checkpoint:
        _start_weights(run, net, asdict(data.load()))
    before_fit(run, net, data)
    if run.cfg.model.freeze is not None:
        settings: Any = OmegaConf.to_container(run.cfg.model)
        num_frozen = freeze(net, settings["freeze"])
        log.info("Frozen: %s of %s parameters.", f"{num_frozen:,}", f"{count_parameters(net):,}")
    whole = fake_quantized(net, read_recipe(run))
    if whole is not net and (run.cfg.compile or run.cfg.model.freeze is not None):
        key = "compile" if run.cfg.compile else "model.freeze"
        raise BadInput(f"{key} does not go with compress=qat_int8, which trains a graph of the net; leave it out")
    return laid_out(whole, run.cfg)


def _start_weights(run: Run, net: nn.Module, facts: dict[str, Any]) -> None:
    """Draw weights by `model.init`, and take over those that `model.pretrained` or `init_from` names.

    Rows of heads, and of embeddings, are matched by the names of classes and symbols.
    """
    model = run.cfg.model
    if model.init not in get_args(Scheme):
        raise BadInput(
            f"model.init={model.init} is no way to draw weights; {choices(str(model.init), get_args(Scheme))}"
        )
    if model.pretrained and run.cfg.init_from:
        raise BadInput("model.pretrained and init_from both say where weights come from; give one of them")
    initialise(net, model.init)
    if run.cfg.init_from:
        product = read_product(run.cfg.init_from)
        config = product.facts["config"]
        theirs = rows_of(net, str(config.get("task", {}).get("_target_")), product.facts["data"])
        ours = rows_of(net, run.cfg.task._target_, facts)
        weights = matched_by_name(net, product.weights, theirs, ours)
        source, left = str(product.path), put_weights(net, weights, str(product.path), replace_head=True)
        for sentence in told_of_rows(theirs, ours):
            log.info(sentence)
        if may_have_seen(product.facts, OmegaConf.to_container(run.cfg.data), facts):
            log.warning("init_from was trained on another split, and may have seen samples that this run validates on.")
    elif model.pretrained:
        from zoo.pretrained import load_published

        for name in ("activation", "stride_on"):  # without parameters, so that the weights would fit all the same
            usual = inspect.signature(type(net)).parameters.get(name)
            if usual and name in model and model[name] != usual.default:
                raise BadInput(f"model.{name}={model[name]}: the published weights are for {usual.default}")
        if "image_size" not in run.cfg.data:
            raise BadInput(f"model.pretrained={model.pretrained}: there are no published weights for sequences")
        source, left = load_published(
            net, run.cfg.choices.model, model.pretrained, run.cfg.data.image_size, facts["classes"]
        )
    else:
        return
    log.info("Weights taken from %s.", source)
    if left:
        log.info("The head has another size there, so %s start from random values.", " and ".join(left))


def may_have_seen(before: Mapping[str, Any], settings: Any, facts: Mapping[str, Any]) -> bool:
    """Tell whether a file's net may have been trained on what data of these settings and facts validate on.

    Its split is another one, of the same data set or of the same files, which may have been moved: of folders, those
    with the same classes are taken for the same.
    """
    theirs, their_facts = before["config"]["data"], before["data"]
    if their_facts["split_hash"] == facts["split_hash"] or theirs.get("_target_") != settings.get("_target_"):
        return False
    if isinstance(theirs.get("source"), Mapping):
        named = (
            {k: v for k, v in one["source"].items() if k not in ("root", "download")} for one in (theirs, settings)
        )
        return next(named) == next(named)
    places = [[os.path.abspath(str(one.get(key))) for key in ("root", "path")] for one in (theirs, settings)]
    return places[0] == places[1] or ("root" in theirs and their_facts.get("classes") == facts.get("classes"))


def laid_out(net: nn.Module, cfg: DictConfig) -> nn.Module:
    """Give a net laid out and compiled as the config says; compiled in place, which keeps the names of its weights."""
    if cfg.channels_last:
        net = net.to(memory_format=torch.channels_last)
    if cfg.compile:
        net.compile(mode=None if cfg.compile is True else cfg.compile)
    return net


def net_of(product: Product) -> nn.Module:
    """Build the net of a product file with its weights; BadInput where the two do not fit, or it names no classes.

    Its shape is settled on the meta device first, so that a file cannot ask for more memory than its weights justify.
    """
    facts, source = product.facts, str(product.path)
    config, recipe = facts["config"], facts["recipe"]
    if str(config.get("task", {}).get("_target_")).endswith(".RotationPrediction"):
        raise BadInput("the net was trained with task=rotation and names no classes; train one with init_from=THE_FILE")
    if program := program_of(recipe):
        check_numbers(product.weights, source)
        example = example_of(facts)
        int8 = rebuilt(
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
        raise BadInput(f"{source} does not describe a net that can be computed: {reason(error)}") from error
    net = stored_net(config["model"])
    replay(net, recipe)
    hold_integers(net, recipe)
    if is_trained_in_int8(recipe) and recipe[-1]["shape"] != list(example_of(facts)[0].shape[1:]):
        raise BadInput(f"{source}: the recipe's step qat_int8 is for images of {recipe[-1]['shape']}, not these")
    net = fake_quantized(net, recipe)
    load_weights(net, product)
    if any("unsaved" in new for step in recipe for new in step.get("layout", {}).values()):
        _try_out(net, example_of(facts), source)
    return net


def _check_logits(found: Any, facts: Mapping[str, Any], source: str) -> None:
    """Raise BadInput unless what a file's net gave for one sample is a number for each class; of sequences, at each
    place."""
    data = facts["data"]
    wanted = [1, len(data["classes"])] if "classes" in data else [1, data["max_length"], len(data["target_symbols"])]
    if not isinstance(found, torch.Tensor) or not found.is_floating_point() or list(found.shape) != wanted:
        kind = str(found.dtype).removeprefix("torch.") if isinstance(found, torch.Tensor) else type(found).__name__
        given = f"{kind} {list(found.shape)}" if isinstance(found, torch.Tensor) else kind
        raise BadInput(
            f"{source}: its net gives {given} for a sample, and its data name {wanted[-1]:,} classes or symbols, "
            f"which need floats {wanted}"
        )


def _try_out(net: nn.Module, example: Sequence[torch.Tensor], source: str) -> Any:
    """Return what a net gives for zeros; BadInput where it cannot be called, as with places that it does not have."""
    was_training = net.training
    try:
        with torch.no_grad():
            found = net.eval()(*(torch.zeros(one.shape, dtype=one.dtype) for one in example))
    except PROBLEMS as error:
        raise BadInput(f"{source} does not describe a net that can be computed: {reason(error)}") from error
    net.train(was_training)
    return found
