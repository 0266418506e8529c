"""Run the passes of a config over a net, keep the recipe of what they did, and give every process the same net."""

import inspect
import json
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zoo import ranks
from zoo.build import build
from zoo.checkpoint import Product, read_product
from zoo.compress.recipe import Step, replay
from zoo.data.module import ResidentData
from zoo.files import write_json
from zoo.folder import Run

log = logging.getLogger("zoo")
RECIPE = "recipe.json"  # in the run folder: all that was done to the net, there from before its first step


def read_recipe(run: Run) -> list[Step]:
    """Give all that was done to a run's net, as its folder says."""
    file = run.folder / RECIPE
    recipe: list[Step] = json.loads(file.read_text()) if file.exists() else []
    return recipe


def recipe_at_start(run: Run) -> list[Step]:
    """Give what was done to the net before this process gets it: by the run that goes on, or by that of `init_from`."""
    if run.last_checkpoint:
        return read_recipe(run)
    return list(read_product(run.cfg.init_from).facts["recipe"]) if run.cfg.init_from else []


def before_fit(run: Run, net: nn.Module, data: ResidentData) -> None:
    """Pass the net through `compress.before_fit`, unless the run goes on, and write the recipe into its folder.

    The first process does so; the others take over its recipe and its weights.
    """
    if run.last_checkpoint:
        return
    recipe = recipe_at_start(run)
    steps = _apply(run, net, data) if ranks.rank() == 0 else []
    if ranks.world_size() > 1:
        steps = ranks.of_first(steps)
        if ranks.rank():
            replay(net, steps)
        for tensor in net.state_dict().values():
            torch.distributed.broadcast(tensor, 0)
    if ranks.rank() == 0 and (recipe or steps):
        write_json(run.folder / RECIPE, [*recipe, *steps])


def _apply(run: Run, net: nn.Module, data: ResidentData) -> list[Step]:
    """Pass the net through the passes of `compress.before_fit` in their order, and give their steps.

    A pass takes the net and, by their names, what it wants of the run: `example`, what the net is called with for one
    sample, on the meta device, and `batches`, which iterates over training batches on the CPU.
    """
    steps = []
    for name, node in run.cfg.compress.before_fit.items():
        if node is None:
            continue
        function: Callable[..., Step] = build(node, f"compress.before_fit.{name}")
        wanted = inspect.signature(function).parameters
        given: dict[str, Any] = {"example": data.example(), "batches": data.loader("train", "cpu")}
        step = function(net, **{key: value for key, value in given.items() if key in wanted})
        said = [f"{key}={value}" for key, value in step.items() if isinstance(value, int | float | str)]
        log.info("compress.before_fit.%s did %s.", name, ", ".join(said))
        steps.append(step)
    return steps


def after_fit(run: Run, product: Product) -> tuple[Product, dict[str, dict[str, Any]]]:
    """Pass a run's product through `compress.after_fit`, and give what comes of it and, by name, what each pass tells.

    Such a pass takes a product and gives another, whose file every process reads, and plain data.
    """
    told: dict[str, dict[str, Any]] = {}
    if ranks.rank() == 0:
        for name, node in run.cfg.compress.after_fit.items():
            if node is not None:
                function: Callable[[Product], Any] = build(node, f"compress.after_fit.{name}")
                product, told[name] = function(product)
    path = ranks.of_first(str(product.path))
    return product if ranks.rank() == 0 else read_product(path), ranks.of_first(told)
