"""Nets as a run needs them: built from its config or a product file, with the weights they start from, laid out."""

import inspect
import logging
from typing import Any, get_args

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from zoo.build import build, check_targets
from zoo.checkpoint import Product, check_numbers, load_weights, read_product
from zoo.compress.program import rebuilt
from zoo.compress.quantize import fake_quantized, program_of
from zoo.compress.recipe import replay
from zoo.compress.weight_only import hold_integers
from zoo.data.module import ResidentData
from zoo.errors import BadInput, choices
from zoo.folder import Run
from zoo.measure.counts import count_parameters
from zoo.models.init import Scheme, initialise
from zoo.passes import before_fit, read_recipe, recipe_at_start
from zoo.tasks.transfer import freeze

log = logging.getLogger("zoo")
STARTS = ("init", "pretrained", "freeze")  # keys of `model` about how weights start, and not about the net


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
        _start_weights(run, net)
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


def _start_weights(run: Run, net: nn.Module) -> None:
    """Draw weights by `model.init`, and take over those that `model.pretrained` or `init_from` names."""
    model = run.cfg.model
    if model.init not in get_args(Scheme):
        raise BadInput(
            f"model.init={model.init} is no way to draw weights; {choices(str(model.init), get_args(Scheme))}"
        )
    if model.pretrained and run.cfg.init_from:
        raise BadInput("model.pretrained and init_from both say where weights come from; give one of them")
    initialise(net, model.init)
    if run.cfg.init_from:
        source, left = run.cfg.init_from, load_weights(net, read_product(run.cfg.init_from), replace_head=True)
    elif model.pretrained:
        from zoo.pretrained import load_published

        for name in ("activation", "stride_on"):  # without parameters, so that the weights would fit all the same
            usual = inspect.signature(type(net)).parameters.get(name)
            if usual and name in model and model[name] != usual.default:
                raise BadInput(f"model.{name}={model[name]}: the published weights are for {usual.default}")
        if "image_size" not in run.cfg.data:
            raise BadInput(f"model.pretrained={model.pretrained}: there are no published weights for sequences")
        source, left = load_published(net, run.cfg.choices.model, model.pretrained, run.cfg.data.image_size)
    else:
        return
    log.info("Weights taken from %s.", source)
    if left:
        log.info("The head has another size there, so %s start from random values.", " and ".join(left))


def laid_out(net: nn.Module, cfg: DictConfig) -> nn.Module:
    """Give a net laid out and compiled as the config says; compiled in place, which keeps the names of its weights."""
    if cfg.channels_last:
        net = net.to(memory_format=torch.channels_last)
    if cfg.compile:
        net.compile(mode=None if cfg.compile is True else cfg.compile)
    return net


def net_of(product: Product) -> nn.Module:
    """Build the net of a product file with its weights; BadInput where it asks for foreign code or names no classes."""
    config = product.facts["config"]
    check_targets(config["model"], ("zoo.models",))
    if str(config.get("task", {}).get("_target_")).endswith(".RotationPrediction"):
        raise BadInput("the net was trained with task=rotation and names no classes; train one with init_from=THE_FILE")
    if program := program_of(product.facts["recipe"]):
        check_numbers(product.weights, str(product.path))
        return rebuilt(program, product.weights, str(product.path))
    net = bare_net(OmegaConf.create(config["model"]))
    replay(net, product.facts["recipe"])
    hold_integers(net, product.facts["recipe"])
    net = fake_quantized(net, product.facts["recipe"])
    load_weights(net, product)
    return net
