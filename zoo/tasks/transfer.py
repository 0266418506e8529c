"""Transfer learning: reuse weights by class name, and freeze a part of a net."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import BadInput, choices, nearest
from zoo.measure.layer_kinds import BATCH_NORMS

MOST_NAMED = 8  # classes listed in a message
Rows = Mapping[str, Sequence[str]]  # modules with one row of weights per class or symbol, and the names of these


def rows_of(net: nn.Module, task: str, facts: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Return the class or symbol of each row of a net's heads and embeddings, given the task and facts of the data.

    A net trained to predict rotations has quarter turns instead of classes.
    """
    heads: Any = net.head_names
    turns = task.endswith(".RotationPrediction")
    if turns or "classes" in facts:
        return dict.fromkeys(heads, [f"{i} quarter turns" for i in range(4)] if turns else facts["classes"])
    read, written = facts["source_symbols"], facts["target_symbols"]
    return {"source_embedding": read, "target_embedding": written, **dict.fromkeys(heads, written)}


def matched_by_name(net: nn.Module, weights: Mapping[str, Tensor], theirs: Rows, ours: Rows) -> dict[str, Tensor]:
    """Return weights with rows in the net's own order of names, keeping the net's own rows for new names.

    Weights without one row per name, on either side, are not changed.
    """
    own, found = net.state_dict(), dict(weights)
    for name in own.keys() & weights.keys():
        module = name.rpartition(".")[0]
        there, here = theirs.get(module, ()), ours.get(module, ())
        fits = own[name].ndim == weights[name].ndim and own[name].shape[1:] == weights[name].shape[1:]
        if list(there) == list(here) or not fits or len(weights[name]) != len(there) or len(own[name]) != len(here):
            continue
        place = {one: i for i, one in enumerate(there)}
        rows = [weights[name][place[one]] if one in place else own[name][i] for i, one in enumerate(here)]
        found[name] = torch.stack([row.to(own[name].dtype) for row in rows])
    return found


def rescaled(
    net: nn.Module, weights: Mapping[str, Tensor], theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return weights whose heads give numbers in our scale, so that the net predicts the same numbers as before.

    `theirs` and `ours` are the facts of the data; for classes, weights are returned as they are. So are rows of numbers
    that they do not have, and heads without a bias.
    """
    old, new, found = theirs.get("number_scale"), ours.get("number_scale"), dict(weights)
    if not old or not new or old == new:
        return found
    place = {name: i for i, name in enumerate(theirs["classes"])}
    rows = [(i, place[name]) for i, name in enumerate(ours["classes"]) if name in place]
    heads: Any = net.head_names
    for weight, bias in ((f"{head}.weight", f"{head}.bias") for head in heads):
        if not all(name in found and len(found[name]) == len(ours["classes"]) for name in (weight, bias)):
            continue
        found |= {name: found[name].clone() for name in (weight, bias)}
        for i, k in rows:
            ratio, shift = old["std"][k] / new["std"][i], (old["mean"][k] - new["mean"][i]) / new["std"][i]
            found[weight][i] *= ratio
            found[bias][i] = found[bias][i] * ratio + shift
    return found


def describe_rows(theirs: Rows, ours: Rows) -> list[str]:
    """Return sentences on what `matched_by_name` does to each module's rows; none if they are the same."""
    messages = []
    for module, here in ours.items():
        there = theirs.get(module, here)
        new = [one for one in here if one not in there]
        if list(there) == list(here):
            continue
        if len(new) == len(here):
            messages.append(f"{module} starts from random values: it has no class or symbol in common with the file.")
            continue
        messages.append(f"{module} was matched by name: the file has other classes or symbols, or another order.")
        if new:
            few = ", ".join(new[:MOST_NAMED]) + (f" and {len(new) - MOST_NAMED} more" if len(new) > MOST_NAMED else "")
            messages.append(f"Its rows for {few} start from random values.")
    return messages


def freeze(net: nn.Module, what: str | list[str] | Mapping[str, str]) -> int:
    """Freeze parameters of a net permanently, and return the number of frozen values.

    `backbone` is everything except the heads (`net.head_names`); a list has names of modules or parameters;
    {"until": "layer3"} is everything registered before layer3, except heads. `hold_frozen_norms` freezes the statistics
    of frozen batch norms. Raises BadInput for an unknown name, or if nothing would be frozen or left to train.
    """
    names = [name for name, _ in net.named_parameters()]
    heads: Any = net.head_names
    if what == "backbone":
        frozen = [name for name in names if not _is_in(name, heads)]
    elif isinstance(what, Mapping):
        if set(what) != {"until"} or not isinstance(what["until"], str):
            raise BadInput(f"model.freeze={dict(what)}: expected a mapping with one key, such as {{until: layer3}}")
        first = next(i for i, name in enumerate(names) if _is_in(name, [_existing(net, what["until"])]))
        frozen = [name for name in names[:first] if not _is_in(name, heads)]
    else:
        stages = [what] if isinstance(what, str) else what
        if not isinstance(stages, list) or not all(isinstance(name, str) for name in stages):
            raise BadInput(f"model.freeze={what}: expected backbone, a list of the net's parts, or {{until: PART}}")
        stages = [_existing(net, name) for name in stages]
        frozen = [name for name in names if _is_in(name, stages)]
    if len(frozen) in (0, len(names)):
        raise BadInput(f"model.freeze={what} {'leaves nothing to train' if frozen else 'freezes nothing'}")
    for name in frozen:
        net.get_parameter(name).requires_grad_(False)
    return sum(net.get_parameter(name).numel() for name in frozen)


def hold_frozen_norms(net: nn.Module) -> None:
    """Put batch norms with frozen parameters into eval mode, so that their statistics do not change either."""
    for module in net.modules():
        parameters = list(module.parameters(recurse=False))
        if isinstance(module, BATCH_NORMS) and parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def _existing(net: nn.Module, name: str) -> str:
    parts = [n for n, m in net.named_modules() if n and next(m.parameters(), None) is not None]
    parts += [n for n, _ in net.named_parameters()]
    if name not in parts:
        valid = parts if nearest(name, parts) else {n.split(".")[0] for n in parts}
        raise BadInput(f"model.freeze: this net has no part '{name}'; {choices(name, valid)}")
    return name


def _is_in(parameter: str, parts: Sequence[str]) -> bool:
    return any(f"{parameter}.".startswith(f"{part}.") for part in parts)
