"""The recipe: the steps applied to a net as plain data, from which another net takes its shapes."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import BadInput
from zoo.records.steps import module_of

Step = Mapping[str, Any]
# Attributes of a module that a step may change besides the shapes of its tensors.
SIZES = (
    "in_channels",
    "out_channels",
    "groups",
    "in_features",
    "out_features",
    "num_features",
    "normalized_shape",
    "num_heads",
    "num_new_maps",
)
IN_INTEGERS = ("ptq_int8", "convert_int8", "weight_only")  # passes that leave a net which cannot be trained


def in_integers(recipe: Iterable[Step]) -> bool:
    """Return whether a recipe leaves a net whose weights are integers."""
    return any(step["pass"] in IN_INTEGERS for step in recipe)


def layout(net: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the sizes of each module and the shapes of its own parameters and buffers."""
    return {
        name: {
            "sizes": {key: _plain(getattr(module, key)) for key in SIZES if hasattr(module, key)},
            "shapes": {key: list(t.shape) for key, t in _own_tensors(module).items()},
        }
        for name, module in net.named_modules()
    }


def changes(before: Mapping[str, Any], net: nn.Module) -> dict[str, dict[str, Any]]:
    """Return, by module, the layout that differs from `before`, and the content of reshaped non-persistent buffers.

    In a shape, None means unchanged: a step does not contain the number of classes, so a net with another head can
    replay it.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, now in layout(net).items():
        module, then = net.get_submodule(name), before[name]
        sizes = {key: size for key, size in now["sizes"].items() if size != then["sizes"][key]}
        shapes = {
            key: [a if a != b else None for a, b in zip(shape, then["shapes"][key], strict=True)]
            for key, shape in now["shapes"].items()
            if shape != then["shapes"][key]
        }
        unsaved = {key: getattr(module, key).tolist() for key in shapes if key in module._non_persistent_buffers_set}
        new = {"sizes": sizes, "shapes": shapes, "unsaved": unsaved}
        if any(new.values()):
            found[name] = {kind: values for kind, values in new.items() if values}
    return found


def replay(net: nn.Module, recipe: Iterable[Step]) -> None:
    """Reshape the net according to the recipe's steps; reshaped weights are zeros.

    A pass that changes more than sizes has its own function `replay(net, step)` in its module.

    Raises BadInput for a step, of another file, that names something the net does not have or would enlarge it.
    """
    for step in recipe:
        for name, new in step.get("layout", {}).items():
            try:
                _reshape(net.get_submodule(name), new)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise BadInput(
                    f"the recipe's step {step['pass']} does not fit this net at '{name}': {error}"
                ) from error
        if own := getattr(module_of(step["pass"]), "replay", None):
            own(net, step)


def _reshape(module: nn.Module, new: Mapping[str, Any]) -> None:
    tensors = _own_tensors(module)
    for key, size in new.get("sizes", {}).items():
        if key not in SIZES or not hasattr(module, key):
            raise ValueError(f"it has no '{key}'")
        old_size = getattr(module, key)
        is_like = type(size) is int if isinstance(old_size, int) else len(size) == len(old_size)
        if not is_like:
            raise ValueError(f"{key} cannot become {size}")
        setattr(module, key, tuple(size) if isinstance(size, list) else size)
    for key, shape in new.get("shapes", {}).items():
        old = tensors[key]
        full = [a if b is None else b for a, b in zip(old.shape, shape, strict=True)]
        if not all(type(a) is int and 0 < a <= b for a, b in zip(full, old.shape, strict=True)):
            raise ValueError(f"{key} cannot become {full}")
        set_tensor(module, key, old.new_zeros(full))
    for key, values in new.get("unsaved", {}).items():
        set_tensor(module, key, torch.tensor(values, dtype=tensors[key].dtype, device=tensors[key].device))


def set_tensor(module: nn.Module, key: str, value: Tensor) -> None:
    """Replace a module's own parameter or buffer by a tensor of any shape; frozen stays frozen."""
    old = getattr(module, key)
    if isinstance(old, nn.Parameter):
        value = nn.Parameter(value.detach(), requires_grad=old.requires_grad)
    setattr(module, key, value)


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict([*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)])


def _plain(size: Any) -> Any:
    return list(size) if isinstance(size, tuple) else size
