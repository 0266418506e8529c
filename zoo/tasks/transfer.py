"""Transfer learning: hold a part of a net as it is while the rest is trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.errors import BadInput, choices


def freeze(net: nn.Module, what: str | list[str] | Mapping[str, str]) -> int:
    """Freeze parameters of a net for good and return how many numbers that are.

    `backbone` is all but the heads (`net.head_names`); a list names modules; {"until": "layer3"} is all that comes
    before layer3. The statistics of frozen batch norms are for `hold_frozen_norms`. Raises BadInput for a name that the
    net has not, and where nothing would be left to train.
    """
    fits = isinstance(what, str | Mapping) or (isinstance(what, list) and all(isinstance(name, str) for name in what))
    if not fits:
        raise BadInput(
            f"model.freeze={what} does not fit: say backbone, a list of the net's parts, or {{until: layer3}}"
        )
    names = [name for name, _ in net.named_parameters()]
    heads: Any = net.head_names
    if what == "backbone":
        frozen = [name for name in names if not _is_in(name, heads)]
    elif isinstance(what, Mapping):
        if set(what) != {"until"}:
            raise BadInput(
                f"model.freeze={dict(what)}: as a mapping it has the one key until, such as {{until: layer3}}"
            )
        first = next(i for i, name in enumerate(names) if _is_in(name, [_existing(net, what["until"])]))
        frozen = names[:first]
    else:
        stages = [_existing(net, name) for name in ([what] if isinstance(what, str) else what)]
        frozen = [name for name in names if _is_in(name, stages)]
    if len(frozen) == len(names):
        raise BadInput(f"model.freeze={what} leaves nothing to train")
    for name in frozen:
        net.get_parameter(name).requires_grad_(False)
    return sum(net.get_parameter(name).numel() for name in frozen)


def hold_frozen_norms(net: nn.Module) -> None:
    """Put batch norms whose parameters are frozen into eval mode, so that their statistics stay, too."""
    for module in net.modules():
        parameters = list(module.parameters(recurse=False))
        if isinstance(module, _BatchNorm) and parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def _existing(net: nn.Module, name: str) -> str:
    with_parameters = [n for n, m in net.named_modules() if n and next(m.parameters(), None) is not None]
    if name not in with_parameters:
        top = [n for n in with_parameters if "." not in n]
        near = choices(name, with_parameters)
        raise BadInput(f"model.freeze: this net has no part '{name}'; {near if 'mean' in near else choices('', top)}")
    return name


def _is_in(parameter: str, modules: Sequence[str]) -> bool:
    return any(parameter.startswith(f"{module}.") for module in modules)
