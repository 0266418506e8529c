"""Transfer learning: hold a part of a net as it is while the rest is trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.errors import BadInput, choices


def freeze(net: nn.Module, what: str | list[str] | Mapping[str, str]) -> int:
    """Freeze parameters of a net for good and return how many numbers that are.

    `backbone` is all but the heads (`net.head_names`); a list names modules or parameters; {"until": "layer3"} is all
    that is registered before layer3, but for heads. The statistics of frozen batch norms are for `hold_frozen_norms`.
    Raises BadInput for a name that the net has not, and where nothing would be frozen or nothing left to train.
    """
    names = [name for name, _ in net.named_parameters()]
    heads: Any = net.head_names
    if what == "backbone":
        frozen = [name for name in names if not _is_in(name, heads)]
    elif isinstance(what, Mapping):
        if set(what) != {"until"} or not isinstance(what["until"], str):
            raise BadInput(f"model.freeze={dict(what)}: as a mapping it has one key, such as {{until: layer3}}")
        first = next(i for i, name in enumerate(names) if _is_in(name, [_existing(net, what["until"])]))
        frozen = [name for name in names[:first] if not _is_in(name, heads)]
    else:
        stages = [what] if isinstance(what, str) else what
        if not isinstance(stages, list) or not all(isinstance(name, str) for name in stages):
            raise BadInput(
                f"model.freeze={what} does not fit: say backbone, a list of the net's parts, or {{until: PART}}"
            )
        stages = [_existing(net, name) for name in stages]
        frozen = [name for name in names if _is_in(name, stages)]
    if len(frozen) in (0, len(names)):
        raise BadInput(f"model.freeze={what} {'leaves nothing to train' if frozen else 'freezes nothing'}")
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
    parts = [n for n, m in net.named_modules() if n and next(m.parameters(), None) is not None]
    parts += [n for n, _ in net.named_parameters()]
    if name not in parts:
        near = choices(name, parts)
        top = choices("", {n.split(".")[0] for n in parts})
        raise BadInput(f"model.freeze: this net has no part '{name}'; {near if 'mean' in near else top}")
    return name


def _is_in(parameter: str, parts: Sequence[str]) -> bool:
    return any(f"{parameter}.".startswith(f"{part}.") for part in parts)
