"""Checks of an untrusted checkpoint against the trainer that loads it.

With a state of the wrong shape, fused optimizers would write out of bounds.
"""

import math
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor

from zoo.quantize.operators import DTYPES

ONE_NUMBER = ("step", "eta", "mu", "mu_product")  # scalars in the states of torch's optimizers
OF_OTHER_SHAPES = (torch.optim.LBFGS, torch.optim.Adafactor)  # optimizers whose states differ from parameters in shape


def check_tensors(part: Any) -> None:
    """Raise ValueError if a tensor in nested mappings and lists has no data or is not dense, or has another type."""
    if isinstance(part, Tensor):
        if part.dtype not in DTYPES.values() or part.layout != torch.strided or part.is_meta or part.is_quantized:
            raise ValueError(f"it has a tensor of {part.dtype}, {part.layout}, on {part.device}")
        if not _is_dense(part):
            raise ValueError(f"it has a tensor {str(list(part.shape))[:60]} whose elements are not dense in memory")
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
    """Raise ValueError if a checkpoint lacks a state of this trainer, or has one of another type."""
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
    for name, tensor in own.lightning_module.state_dict().items():  # Lightning compares the shapes
        found = weights.get(name)
        if isinstance(found, Tensor) and found.is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"'{name}' is of {found.dtype}")


def _is_state_of_data(found: Any) -> bool:
    """Return whether this is a state of ResidentData: facts, and a position in an epoch as integers."""
    if not isinstance(found, dict) or not isinstance(found.get("facts"), dict | None):
        return False
    place = found.get("train_loader")
    if not isinstance(place, dict) or place.keys() != {"epoch", "position"}:
        return False
    return all(type(one) is int and 0 <= one < 2**62 for one in place.values())


def _is_kept_as(own: Any, found: Any) -> bool:
    """Return whether a callback's value has the type of its initial value; null may become anything."""
    if isinstance(own, dict | list):
        return isinstance(found, type(own))
    return own is None or _is_like(own, found)


def _check_same_keys(own: Mapping[str, Any], found: Any) -> None:
    """Raise ValueError unless the progress of loops has the form of this version of Lightning."""
    for key, value in own.items():
        there = found.get(key) if isinstance(found, dict) else None
        if key.endswith("state_dict"):  # of data and optimizers, which are checked elsewhere
            both = value.keys() & there.keys() if isinstance(there, dict) else ()
            if not isinstance(there, dict) or not all(_is_like(value[one], there[one]) for one in both):
                raise ValueError(f"it lacks the {key} of a loop")
            continue
        if isinstance(value, dict):
            _check_same_keys(value, there)
        elif type(value) is not type(there) or (isinstance(there, int) and not 0 <= there < 2**62):
            raise ValueError(f"it lacks the {key} of a loop")


def check_counts(trainer: lightning.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Raise ValueError unless a checkpoint has as many optimizer and schedule states as the trainer.

    Lightning itself ignores any excess.
    """
    for what, own, key in (
        ("optimizers", trainer.optimizers, "optimizer_states"),
        ("schedules", trainer.lr_scheduler_configs, "lr_schedulers"),
    ):
        if len(own) != len(checkpoint[key]):
            raise ValueError(f"it has {len(checkpoint[key])} {what}")


def check_training(trainer: lightning.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Raise ValueError unless the optimizer and schedule states match those of this trainer.

    This must be done before loading, which would replace settings and even methods by anything.
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
    numbered = optimizer.state_dict()["param_groups"]  # torch assigns states in this order
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
    """Return whether a value may belong to a parameter: a tensor of its shape or, for counts etc., a number.

    The kernels of torch's optimizers read as many elements as the parameter has, even beyond the end of the tensor.
    """
    if isinstance(value, Tensor):
        is_one = key in ONE_NUMBER and value.numel() == 1 and bool(value.isfinite().all())
        return is_one or value.shape == parameter.shape
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def _is_like(own: Any, found: Any) -> bool:
    """Return whether a value could be a later value of the same state."""
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
