"""Apply the passes of a config to a net, record them in the recipe, and give every process the same net."""

import functools
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from zoo import distributed
from zoo.checkpoint.product_file import Product, read_product
from zoo.compress import fold_norms
from zoo.compress.context import Context
from zoo.compress.recipe import Step, in_integers, replay
from zoo.data.module import ResidentData, Split
from zoo.errors import BadInput, reason
from zoo.instantiate import build
from zoo.measure.evaluation import accuracy
from zoo.paths import RECIPE
from zoo.records.json_files import read_recipe as read_recipe_file
from zoo.records.json_files import write_recipe
from zoo.records.steps import check_step
from zoo.run.compress_targets import naming_target
from zoo.run.directory import Run
from zoo.tasks.base import Task

NUM_MEASURED = 4096  # training images on which statistics of batch norms are measured
MOST_VALIDATED = 5000  # images on which a pass before the fit measures accuracy, on the CPU
SIZES = {"macs": "multiply-accumulates", "params": "parameters"}
log = logging.getLogger("zoo")


def read_recipe(run: Run) -> list[Step]:
    """Return all steps applied to a run's net, as recorded in its folder."""
    file = run.folder / RECIPE
    recipe: list[Step] = [*read_recipe_file(file)] if file.exists() else []
    try:
        for step in recipe:
            check_step(step)
    except ValueError as error:
        raise BadInput(f"{file}: {reason(error)}; use the original") from error
    return recipe


def recipe_at_start(run: Run) -> list[Step]:
    """Return the steps applied to the net so far: by the resumed run, or by the run of `init_from`."""
    if run.last_checkpoint:
        return read_recipe(run)
    recipe: list[Step] = list(read_product(run.cfg.init_from).facts["recipe"]) if run.cfg.init_from else []
    if in_integers(recipe) or any(step["pass"] == "qat_int8" for step in recipe):
        raise BadInput(f"init_from={run.cfg.init_from} is already quantized; use the float net it was made from")
    return recipe


def before_fit(run: Run, net: nn.Module, data: ResidentData) -> None:
    """Apply `compress.before_fit` to the net, unless the run is resumed, and write the recipe to its folder.

    The first process does this; the others take over its recipe and weights. Raises BadInput for anything that the
    passes of `compress.after_fit` would refuse after training.
    """
    after = _built(run, "after_fit")
    for name, function in after.items():
        if distributed.world_size() > 1 and getattr(_bare(function), "one_process", False):
            raise BadInput(f"compress.after_fit.{name} is for one process; set init_from=... and one device")
        kind = getattr(_bare(function), "kind", None)
        if kind not in (None, data.kind):
            raise BadInput(
                f"compress.after_fit.{name} is for {kind}, and data={run.cfg.choices.data} has {data.kind}; "
                "use compress=weight_int8 or dynamic_int8"
            )
    if run.last_checkpoint:
        _check_after_fit(after, net, data, read_recipe(run))
        return
    steps: list[Step] = []
    stored = recipe_at_start(run)
    recipe = [step for step in stored if step != fold_norms.STEP]
    if distributed.rank() == 0:
        if fold_norms.is_folded(stored):
            _unfold(net, data)
        steps = _apply(run, net, data, recipe)
    if distributed.world_size() > 1:
        steps = distributed.broadcast_object(steps)
        if distributed.rank():
            replay(net, steps)
        for tensor in net.state_dict().values():
            torch.distributed.broadcast(tensor, 0)
    if distributed.rank() == 0 and (recipe or steps):
        write_recipe(run.folder / RECIPE, [*recipe, *steps])
    _check_after_fit(after, net, data, [*recipe, *steps])


def _unfold(net: nn.Module, data: ResidentData) -> None:
    """Make the net of a packed file trainable: measure the statistics of its folded batch norms again."""
    num = max(1, NUM_MEASURED // data.batch_size)
    fold_norms.unfold(net, (batch[:1] for batch in itertools.islice(data.loader("train", "cpu"), num)))
    log.info("Batch norms of init_from were folded; their statistics were measured again on training images.")


def _check_after_fit(
    passes: Mapping[str, Callable[..., Any]], net: nn.Module, data: ResidentData, recipe: Sequence[Step]
) -> None:
    """Let each pass that has a `check` check the float net with the settings of the pass."""
    for name, function in passes.items():
        if check := getattr(_bare(function), "check", None):
            settings = getattr(function, "keywords", {})
            try:
                check(net, Context(data.example(), data.loader("train", "cpu"), recipe), **settings)
            except BadInput as error:
                raise BadInput(f"compress.after_fit.{name}: {error}") from error


def _bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that settings are bound to."""
    return getattr(function, "func", function)


def _apply(run: Run, net: nn.Module, data: ResidentData, recipe: Sequence[Step]) -> list[Step]:
    """Apply the passes of `compress.before_fit` to the net in order, and return their steps.

    A pass takes the net, a `Context` and its own settings by keyword, changes the net in place and returns its step.
    """
    steps: list[Step] = []
    for name, function in _built(run, "before_fit").items():
        context = Context(
            data.example(),
            data.loader("train", "cpu"),
            [*recipe, *steps],
            accuracy=functools.partial(_accuracy, data),
            folder=run.folder,
        )
        with naming_target(run.cfg, name):
            step: Step = function(net, context)
        log.info("compress.before_fit.%s: %s.", name, described(step))
        steps.append(step)
    return steps


def described(step: Step) -> str:
    """Return what a pass did, as a part of a sentence: its name, its settings, and the sizes before and after it."""
    plain = {key: value for key, value in step.items() if key != "pass" and isinstance(value, int | float | str)}
    sizes = [key for key in plain if f"{key}_before" in plain]
    paired = {*sizes, *(f"{key}_before" for key in sizes)}
    settings = [f"{key.replace('_', ' ')} {value}" for key, value in plain.items() if key not in paired]
    changes = [f"{SIZES.get(key, key)} from {plain[f'{key}_before']:,} to {plain[key]:,}" for key in sizes]
    what = f"{step['pass']} with {', '.join(settings)}" if settings else str(step["pass"])
    return "; ".join([what, *([", ".join(changes)] if changes else [])])


def _accuracy(data: ResidentData, net: nn.Module) -> float:
    """Return the accuracy of a net on validation images or, for numbers, its R2; on at most 5,000."""
    num = max(1, MOST_VALIDATED // data.eval_batch_size)
    return accuracy(net, data.limited_batches("val", torch.device("cpu"), num), data.number_scale)


def after_fit(run: Run, product: Product, task: Task, data: ResidentData) -> tuple[Product, dict[str, dict[str, Any]]]:
    """Apply `compress.after_fit` to a run's product; return the new product and, by name, the report of each pass.

    Such a pass takes a product, a `Context` with `measure` and its own settings by keyword, and returns another
    product, whose file every process reads, and plain data for result.json. zoo.run.pass_kinds lists the properties
    it may declare.
    """
    reports: dict[str, dict[str, Any]] = {}
    if distributed.rank() == 0:
        measure = functools.partial(_measured, run, task, data)
        for name, function in _built(run, "after_fit").items():
            recipe = product.facts["recipe"]
            context = Context(data.example(), data.loader("train", "cpu"), recipe, measure, run.cfg.init_from)
            product, reports[name] = function(product, context)
    path = distributed.broadcast_object(str(product.path))
    return product if distributed.rank() == 0 else read_product(path), distributed.broadcast_object(reports)


def _built(run: Run, stage: str) -> dict[str, Callable[..., Any]]:
    passes = run.cfg.compress[stage].items()
    return {name: build(node, f"compress.{stage}.{name}") for name, node in passes if node is not None}


def _measured(run: Run, task: Task, data: ResidentData, net: nn.Module, split: Split) -> dict[str, float]:
    """Measure a net as the task does, in fp32 and with as many batches as the trainer uses."""
    batches = data.limited_batches(split, task.device, run.cfg.trainer[f"limit_{split}_batches"])
    kept, task.net = task.net, net.to(task.device)
    try:
        metrics = task.measure_all(batches, split)
    finally:
        task.net = kept
    return {name: float(value) for name, value in metrics.items()}
