"""What a checkpoint has, held against the trainer that takes it over: somebody else may have written it.

A state of another shape would be written beside the memory that it has, by optimizers that are one kernel.
"""

import math
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor

from zoo.quantize.operators import DTYPES

ONE_NUMBER = ("step", "eta", "mu", "mu_product")  # in the states of torch's optimizers, whatever the parameter
OF_OTHER_SHAPES = (torch.optim.LBFGS, torch.optim.Adafactor)  # whose states are not of their parameters' shapes


def check_tensors(part: Any) -> None:
    """Raise ValueError for tensors in nested mappings and lists that are not what they say: on no device, or spread."""
    if isinstance(part, Tensor):
        if part.dtype not in DTYPES.values() or part.layout != torch.strided or part.is_meta or part.is_quantized:
            raise ValueError(f"it has a tensor of {part.dtype}, {part.layout}, on {part.device}")
        if not _is_dense(part):
            raise ValueError(f"it has a tensor {str(list(part.shape))[:60]} without memory of its own for each number")
    elif isinstance(part, Mapping):
        for one in part.values():
            check_tensors(one)
    elif isinstance(part, list | tuple):
        for one in part:
            check_tensors(one)


def _is_dense(tensor: Tensor) -> bool:
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def check_whole(trainer: lightning.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Raise ValueError where a checkpoint lacks a state of this trainer's, or has one of another kind."""
    own: Any = trainer
    for callback in own.callbacks:
        found = checkpoint["callbacks"].get(callback.state_key, {})
        for key, value in callback.state_dict().items():
            if key not in found or not _is_kept_as(value, found[key]):
                raise ValueError(f"it lacks the {key} of {callback.state_key}")
    data = type(own.datamodule).__qualname__
    if not _is_state_of_data(checkpoint.get(data)):
        raise ValueError(f"it lacks the state of {data}")
    _check_same_keys(own.fit_loop.state_dict(), checkpoint["loops"].get("fit_loop", {}))
    weights = checkpoint["state_dict"]
    for name, tensor in own.lightning_module.state_dict().items():  # whose shapes Lightning compares
        found = weights.get(name)
        if isinstance(found, Tensor) and found.is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"'{name}' is of {found.dtype}")


def _is_state_of_data(found: Any) -> bool:
    """Return whether this is what ResidentData.state_dict gives: facts, and the place in an epoch in whole numbers."""
    if not isinstance(found, dict) or not isinstance(found.get("facts"), dict | None):
        return False
    place = found.get("train_loader")
    if not isinstance(place, dict) or place.keys() != {"epoch", "position"}:
        return False
    return all(type(one) is int and 0 <= one < 2**62 for one in place.values())


def _is_kept_as(own: Any, found: Any) -> bool:
    """Return whether a callback's value is of the kind that it begins with, of which null may become anything."""
    if isinstance(own, dict | list):
        return isinstance(found, type(own))
    return own is None or _is_like(own, found)


def _check_same_keys(own: Mapping[str, Any], found: Any) -> None:
    """Raise ValueError unless the progress of loops is counted as this version of Lightning does."""
    for key, value in own.items():
        there = found.get(key) if isinstance(found, dict) else None
        if key.endswith("state_dict"):  # of data and of optimizers, which say themselves what they lack
            both = value.keys() & there.keys() if isinstance(there, dict) else ()
            if not isinstance(there, dict) or not all(_is_like(value[one], there[one]) for one in both):
                raise ValueError(f"it lacks the {key} of a loop")
            continue
        if isinstance(value, dict):
            _check_same_keys(value, there)
        elif type(value) is not type(there) or (isinstance(there, int) and not 0 <= there < 2**62):
            raise ValueError(f"it lacks the {key} of a loop")


def check_counts(trainer: lightning.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Raise ValueError where a checkpoint has the states of more optimizers or schedules than the trainer, or of fewer.

    Lightning deals them out to as many as there are.
    """
    for what, own, key in (
        ("optimizers", trainer.optimizers, "optimizer_states"),
        ("schedules", trainer.lr_scheduler_configs, "lr_schedulers"),
    ):
        if len(own) != len(checkpoint[key]):
            raise ValueError(f"it is of {len(checkpoint[key])} {what}")


def check_training(trainer: lightning.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Raise ValueError where the states of optimizers and schedules are not those of this trainer's.

    That is before they are loaded, since loading puts anything in the place of settings and of methods.
    """
    check_counts(trainer, checkpoint)
    optimizers, schedules = trainer.optimizers, [config.scheduler for config in trainer.lr_scheduler_configs]
    for optimizer, state in zip(optimizers, checkpoint["optimizer_states"], strict=True):
        _check_optimizer(optimizer, state)
    for schedule, state in zip(schedules, checkpoint["lr_schedulers"], strict=True):
        if not _is_like(schedule.state_dict(), state):
            raise ValueError(f"it lacks the state of {type(schedule).__name__}")


def _check_optimizer(optimizer: Any, state: Mapping[str, Any]) -> None:
    kind = type(optimizer).__name__
    groups = state.get("param_groups")
    if not isinstance(groups, list) or len(groups) != len(optimizer.param_groups):
        raise ValueError(f"it lacks the parameters of {kind}")
    numbered = optimizer.state_dict()["param_groups"]  # torch deals states out in the order of these numbers
    for own, found, numbers in zip(optimizer.param_groups, groups, numbered, strict=True):
        if not isinstance(found, dict) or found.get("params") != numbers["params"]:
            raise ValueError(f"it lacks the params of {kind}")
        settings = {key: value for key, value in own.items() if key != "params"}
        for key, value in settings.items():
            there = found.get(key) if isinstance(found, dict) else None
            differs = isinstance(value, bool) and key != "fused" and there is not value
            if differs or not _is_like(value, there):
                raise ValueError(f"it lacks the {key} of {kind}")
        if found.get("fused") not in (True, False, None):
            raise ValueError(f"it lacks the fused of {kind}")
    parameters = dict(enumerate(one for group in optimizer.param_groups for one in group["params"]))
    states = state.get("state")
    if not isinstance(states, dict):
        raise ValueError(f"it lacks the state of {kind}")
    for number, values in states.items():
        if number not in parameters or not isinstance(values, dict):
            raise ValueError(f"it has a state of {kind} for no parameter")
        if not isinstance(optimizer, OF_OTHER_SHAPES):
            for key, value in values.items():
                if not _is_state(key, value, parameters[number]):
                    raise ValueError(f"the {key} of {kind} is not that of its parameter")


def _is_state(key: str, value: Any, parameter: Tensor) -> bool:
    """Return whether a value may belong to a parameter: as many numbers as it has or, of counts and the like, one.

    The kernels of torch's optimizers read as many numbers as the parameter has, wherever the tensor ends.
    """
    if isinstance(value, Tensor):
        is_one = key in ONE_NUMBER and value.numel() == 1 and bool(value.isfinite().all())
        return is_one or value.shape == parameter.shape
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def _is_like(own: Any, found: Any) -> bool:
    """Return whether a value could be a later one of the same thing."""
    if isinstance(own, Tensor):
        return isinstance(found, Tensor) and own.shape == found.shape
    if isinstance(own, bool) or own is None:
        return found is None or isinstance(found, bool)
    if isinstance(own, int | float):
        return isinstance(found, int | float) and not isinstance(found, bool) and abs(found) < 2**62
    if isinstance(own, dict):
        return isinstance(found, dict) and own.keys() == found.keys() and all(_is_like(own[k], found[k]) for k in own)
    if isinstance(own, list | tuple):
        return isinstance(found, list | tuple) and len(own) == len(found) and all(map(_is_like, own, found))
    return isinstance(found, str) if isinstance(own, str) else True
