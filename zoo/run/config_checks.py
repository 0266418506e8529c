"""What a run's config must be before any data are read: groups that fit each other, and values that mean something."""

import functools
import importlib.util
import operator
from collections.abc import Callable, Iterator
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from zoo import distributed
from zoo.catalogue import matches, needed_of_data
from zoo.checkpoint.stored_config import STARTS
from zoo.data.table_labels import has_numbers, has_several_labels
from zoo.errors import BadInput
from zoo.instantiate import attribute_of, check
from zoo.ranges import Count, plain_size, takes, written
from zoo.records.metadata import MAX_NUMBER
from zoo.report.viewers import logger_names

GROUPS = ("model", "data", "task", "optim", "schedule", "compress", "callbacks", "trainer", "experiment")
OPTIONAL = ("wandb", "mlflow", "trackio")  # loggers, each in a package of its name
MOST_NAMED = 8  # options listed in one message


def check_fit(cfg: DictConfig) -> None:
    """Refuse a model or task that needs settings the data do not have, such as an image model with sequences."""
    chosen = HydraConfig.get().runtime.choices
    for group in ("model", "task"):
        if needed_of_data(str(OmegaConf.to_container(cfg[group]))) - cfg.data.keys():
            option, data, pairs = chosen[group], chosen["data"], matches(group)
            fits = _some([theirs for mine, theirs in pairs if mine == option])
            others = _some([mine for mine, theirs in pairs if theirs == data])
            problem = f"{group}={option} does not fit data={data}"
            raise BadInput(f"{problem}: it takes data={fits}, and data={data} takes {group}={others}")
    kind, needed = (attribute_of(str(cfg[group].get("_target_")), "kind") for group in ("data", "task"))
    if kind and needed and kind != needed:
        raise BadInput(
            f"task={chosen['task']} is for {needed}, and data={chosen['data']} has {kind}; leave task out to use "
            "the one that fits"
        )
    check_numbers(cfg, chosen, kind)
    several, wants = has_several_labels(cfg.data), attribute_of(str(cfg.task.get("_target_")), "multilabel")
    several &= not needs_numbers(cfg)
    if kind == "images" and wants is True and not several:
        raise BadInput(
            f"task={chosen['task']} is for several labels per picture, and data={chosen['data']} has one; set "
            "data=image_table with data.separator or data.label_columns"
        )
    if kind == "images" and wants is False and several:
        raise BadInput(
            f"task={chosen['task']} is for one label per picture, and these data have several; use task=multilabel"
        )


def needs_numbers(cfg: DictConfig) -> bool:
    """Return whether the task needs data with numbers for labels."""
    return attribute_of(str(cfg.task.get("_target_")), "regression") is True


def check_numbers(cfg: DictConfig, chosen: Any, kind: str | None) -> None:
    """Refuse a task for numbers with classes, and one for classes with numbers."""
    if kind == "images" and needs_numbers(cfg) and ("numbers" not in cfg.data or cfg.data.numbers is False):
        raise BadInput(
            f"task={chosen['task']} is for pictures whose labels are numbers, and data={chosen['data']} has classes; "
            "set data=image_table with a column of numbers, data.label=COLUMN"
        )
    if kind == "images" and has_numbers(cfg.data) and not needs_numbers(cfg):
        raise BadInput(f"task={chosen['task']} is for classes, and these labels are numbers; use task=regression")


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= MOST_NAMED else f"{', '.join(names[:3])} or others ({len(names)})"


def check_settings(cfg: DictConfig) -> None:
    """Refuse values that no object of the run accepts, and combinations without meaning; no data are read yet."""

    def demand(key: str, fits: Callable[[Any], bool], what: str) -> None:
        value = OmegaConf.select(cfg, key)
        if not fits(value):
            raise BadInput(f"{key}: expected {what}, got {written(value)}")

    for key, number in _numbers(OmegaConf.to_container(cfg, resolve=True)):
        if not abs(number) <= MAX_NUMBER:  # nor NaN
            raise BadInput(f"{key}: expected a number between -{MAX_NUMBER} and {MAX_NUMBER}, got {number}")
    demand(
        "trainer.num_nodes",
        lambda num: (
            num is None or (type(num) is int and num * distributed.local_world_size() == distributed.world_size())
        ),
        "1, or the number of machines on which torchrun or srun has started this command",
    )
    for group in GROUPS[:-1]:
        if group not in ("callbacks", "compress"):
            demand(f"{group}._target_", bool, f"the class that {group}=... sets")
    for stage in ("before_fit", "after_fit"):
        demand(f"compress.{stage}", OmegaConf.is_dict, "passes by name, as in configs/compress/prune_channels.yaml")
    for group in ("callbacks", "compress.before_fit", "compress.after_fit"):
        for name in OmegaConf.select(cfg, group):
            demand(f"{group}.{name}", _is_node_or_null, "a mapping with its _target_, or null to leave it out")
    demand("trainer._partial_", lambda partial: not partial, "it left out: a trainer is built immediately")
    demand("trainer.precision", lambda p: p != "16-true", "16-mixed or bf16-true: pure fp16 rounds gradients to 0")
    sizes = "a whole number of at least 1, or auto for the fastest"
    demand("data.batch_size", lambda size: size == "auto" or takes(Count, size), sizes)
    _check_loggers(cfg)
    for group in dict.fromkeys(("data", *GROUPS[:-1])):  # a net takes settings from the data
        check(_known(cfg, group), group)
    if cfg.trainer.max_epochs == 0:
        if cfg.compress.after_fit and not cfg.compress.before_fit:
            demand("init_from", bool, "the model.safetensors of a trained net, since trainer.max_epochs=0 trains none")
        else:
            demand("trainer.max_epochs", bool, "a whole number of at least 1")
    # A graph's next run overwrites its gradients (https://github.com/pytorch/pytorch/issues/169545).
    graphs = isinstance(cfg.compile, str)
    demand("trainer.accumulate_grad_batches", lambda n: n == 1 or not graphs, f"1 with compile={cfg.compile}")
    demand("trainer.accelerator", _is_here, "auto or cpu, since torch finds no such device here (trainer=cpu)")
    for key in ("in_channels", "image_size"):
        if key in cfg.model and key in cfg.data:
            value = cfg.data[key]
            demand(f"model.{key}", functools.partial(operator.eq, value), f"{value}, as data.{key} says")
    if attribute_of(str(cfg.task.get("_target_")), "turns_images"):
        demand("data.image_size", lambda size: isinstance(plain_size(size), int), "one number with task=rotation")
    limits = (OmegaConf.select(cfg, f"callbacks.{name}.max_drop") for name in ("budget", "rate"))
    if any(limit is not None for limit in limits) and not cfg.model.pretrained:
        demand("init_from", bool, "the model.safetensors of a trained net, whose accuracy is the reference of max_drop")


def _check_loggers(cfg: DictConfig) -> None:
    for name in logger_names(cfg):
        if name in OPTIONAL and importlib.util.find_spec(name) is None:
            raise BadInput(f"logger: expected an installed package, got {name}; pip install -e '.[{name}]' installs it")


def _known(cfg: DictConfig, group: str) -> dict[str, Any]:
    """Return a group as plain data, without values that other modules check or that only the data determine."""
    plain: Any = OmegaConf.to_container(cfg[group], resolve=True)
    counted = {key for key in plain if group == "model" and key in cfg.data and cfg.data[key] is None}
    elsewhere = {"model": {*STARTS, *counted}, "task": {"teacher", "words", "beam"}}.get(group, set())
    if plain.get("batch_size") == "auto":
        elsewhere |= {"batch_size"}
    return {key: value for key, value in plain.items() if key not in elsewhere}


def _numbers(node: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers of a nested config with their keys."""
    if isinstance(node, dict | list):
        for name, part in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _numbers(part, f"{key}.{name}" if key else str(name))
    elif isinstance(node, int | float):
        yield key, node


def _is_node_or_null(value: Any) -> bool:
    return value is None or (OmegaConf.is_dict(value) and "_target_" in value)


def _is_here(accelerator: str) -> bool:
    """Return whether this machine has such a device; `gpu` means any kind of GPU."""
    if accelerator not in ("gpu", "cuda", "mps"):
        return True
    import torch

    has_mps = accelerator != "cuda" and torch.backends.mps.is_available()
    return has_mps or (accelerator != "mps" and torch.cuda.is_available())
