"""The net of a run: built from its config, with its initial weights and memory format, and compiled."""

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from zoo import memory
from zoo.checkpoint.positions import fitted
from zoo.checkpoint.product_file import Product, load_state, read_product
from zoo.checkpoint.stored_config import STARTS, check_heads, stored_net
from zoo.compress.recipe import replay
from zoo.data.module import ResidentData
from zoo.errors import BadInput, choices
from zoo.instantiate import build
from zoo.measure.counts import count_parameters
from zoo.models.init import Scheme, initialise
from zoo.quantize.qat_int8 import fake_quantized
from zoo.run.directory import Run
from zoo.run.passes import before_fit, read_recipe, recipe_at_start
from zoo.tasks.transfer import describe_rows, freeze, matched_by_name, rescaled, rows_of

# Settings of nets that change the outputs, but not the names and shapes of weights
WITHOUT_WEIGHTS = ("activation", "norm", "positions", "num_heads", "preactivation", "shortcut", "stride_on", "pooling")
log = logging.getLogger("zoo")


def build_bare_model(model: DictConfig) -> nn.Module:
    """Build the net described by the config `model`, with the initial weights of its paper."""
    settings: Any = OmegaConf.to_container(model, resolve=True)
    for name in ("num_classes", "num_source_tokens", "num_target_tokens"):
        if name in settings and settings[name] is None:
            raise BadInput(f"data.{name}=null, and only a training run counts them; set the number")
    net: nn.Module = build({key: value for key, value in settings.items() if key not in STARTS}, "model")
    return net


def build_model(run: Run, data: ResidentData) -> nn.Module:
    """Build the net with its initial weights; compress, freeze, lay out and compile it according to the config."""
    torch.set_float32_matmul_precision("high" if run.cfg.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = run.cfg.tf32
    if run.resumed:
        _check_memory(run.cfg.model)
    net = build_original(run, data)
    before_fit(run, net, data)
    if run.cfg.model.freeze is not None:
        settings: Any = OmegaConf.to_container(run.cfg.model)
        num_frozen = freeze(net, settings["freeze"])
        log.info("Frozen: %s of %s parameters.", f"{num_frozen:,}", f"{count_parameters(net):,}")
    whole = fake_quantized(net, read_recipe(run))
    if whole is not net and (run.cfg.compile or run.cfg.model.freeze is not None):
        key = "compile" if run.cfg.compile else "model.freeze"
        raise BadInput(f"{key} does not work with compress=qat_int8, which trains a graph of the net; leave it out")
    if run.cfg.compile:
        log.info(
            "compile=%s: torch compiles the net in its first step of training and of validation. That takes from some "
            "ten seconds for LeNet-5 to minutes for deep nets, and less the next time, from torch's cache.",
            run.cfg.compile,
        )
    return apply_layout(whole, run.cfg)


def build_original(run: Run, data: ResidentData) -> nn.Module:
    """Build the net of a run as it is before compress.before_fit, with its initial weights unless it is resumed."""
    net = build_bare_model(run.cfg.model)
    check_heads(net)
    replay(net, recipe_at_start(run))
    if not run.last_checkpoint:
        _start_weights(run, net, asdict(data.load()))
    return net


def _check_memory(model: DictConfig) -> None:
    """Refuse a net whose weights do not fit into memory; building it on the meta device allocates none."""
    with torch.device("meta"):
        num_bytes = sum(p.numel() * p.element_size() for p in build_bare_model(model).parameters())
    if num_bytes > memory.available_bytes():
        raise BadInput(f"model: its weights take {num_bytes / 1e9:,.1f} GB, more than the free memory")


def _start_weights(run: Run, net: nn.Module, facts: dict[str, Any]) -> None:
    """Initialise weights by `model.init`, then load those given by `model.pretrained` or `init_from`.

    Rows of heads and embeddings are matched by the names of classes and symbols.
    """
    model = run.cfg.model
    if model.init not in get_args(Scheme):
        raise BadInput(
            f"model.init={model.init} is not an initialisation; {choices(str(model.init), get_args(Scheme))}"
        )
    if model.pretrained and run.cfg.init_from:
        raise BadInput("model.pretrained and init_from both set the initial weights; use only one of them")
    initialise(net, model.init)
    if run.cfg.init_from:
        product = read_product(run.cfg.init_from)
        config = product.facts["config"]
        theirs = rows_of(net, str(config.get("task", {}).get("_target_")), product.facts["data"])
        ours = rows_of(net, run.cfg.task._target_, facts)
        weights = matched_by_name(net, _fitted(net, product), theirs, ours)
        weights = rescaled(net, weights, product.facts["data"], facts)
        source, left = str(product.path), load_state(net, weights, str(product.path), replace_head=True)
        for sentence in describe_rows(theirs, ours):
            log.info(sentence)
        _warn_of_others(config["model"], model)
        if may_have_seen(product.facts, OmegaConf.to_container(run.cfg.data), facts):
            log.warning("init_from was trained on another split, and may have seen samples that this run validates on.")
    elif model.pretrained:
        source, left = _published(run, net, facts)
    else:
        return
    log.info("Weights taken from %s.", source)
    if run.cfg.init_from and run.cfg.data.get("mean") and run.cfg.data.mean == product.facts["data"].get("mean"):
        log.info("Its mean and std normalise the images.")
    if left:
        log.info("The head has a different size there, so %s start from random values.", " and ".join(left))


def _warn_of_others(before: Mapping[str, Any], model: DictConfig) -> None:
    """Warn if the net of `init_from` was trained with other settings of WITHOUT_WEIGHTS."""
    for key in WITHOUT_WEIGHTS:
        if key in before and key in model and before[key] != model[key]:
            log.warning(
                "init_from was trained with model.%s=%s, and this run has %s, so its outputs are different here.",
                *(key, before[key], model[key]),
            )


def _fitted(net: nn.Module, product: Product) -> dict[str, Tensor]:
    """Return a file's weights, those of places fitted to the size of the images of `net`."""
    with torch.device("meta"):
        before = getattr(stored_net(product.facts["config"]["model"]), "map_size", None)
    return fitted(net, product.weights, before, str(product.path))


def _published(run: Run, net: nn.Module, facts: dict[str, Any]) -> tuple[str, list[str]]:
    """Load torchvision's weights; return where they are from, and the names of those that do not fit the head."""
    from zoo.checkpoint.pretrained import load_published

    model: Any = OmegaConf.to_container(run.cfg.model, resolve=True)
    return load_published(net, run.cfg.choices.model, model["pretrained"], model, facts.get("classes", ()))


def may_have_seen(before: Mapping[str, Any], settings: Any, facts: Mapping[str, Any]) -> bool:
    """Return whether a file's net may have been trained on the validation samples of these settings and facts.

    That is so for another split of the same data set or the same files. Files may have been moved, so image folders
    with the same classes are assumed to be the same.
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


def apply_layout(net: nn.Module, cfg: DictConfig) -> nn.Module:
    """Apply the memory format and compile according to the config; in place, which keeps the names of weights."""
    if cfg.channels_last:
        net = net.to(memory_format=torch.channels_last)
    if cfg.compile:
        net.compile(mode=None if cfg.compile is True else cfg.compile)
    return net
