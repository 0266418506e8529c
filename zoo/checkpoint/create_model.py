"""Build a net by its name in configs/model, outside of a run."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from zoo.catalogue import model_names, sizes_made_for
from zoo.checkpoint.pretrained import load_published
from zoo.errors import BadInput, choices, require
from zoo.instantiate import build
from zoo.paths import CONFIGS

OF_DATA = "${data."  # begins the settings that a run takes from its data


def create_model(name: str, pretrained: bool | str = False, **settings: Any) -> nn.Module:
    """Build a net with the initial weights of its paper, in train mode; see `zoo.create_model`."""
    require(isinstance(name, str), "name", "that of a model, as zoo.list_models() returns them", name)
    if name not in model_names():
        raise BadInput(f"unknown model {name[:80]!r}; {choices(name[:80], model_names())}")
    for key, value in settings.items():  # all others are checked against the net's own
        require(not key.startswith("_"), key, f"a setting of configs/model/{name}.yaml", value)
        require(not isinstance(value, Mapping), key, "a plain value", value)
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    config: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / f"{name}.yaml"))
    required = [key for key, value in config.items() if str(value).startswith(OF_DATA)]
    if not settings.keys() >= set(required):
        sizes = sizes_made_for(name)
        settings = {key: sizes[key] for key in required} | settings
    if missing := [key for key in required if settings[key] is None]:
        raise BadInput(f"model {name}: expected {' and '.join(missing)}")
    net: nn.Module = build(config | settings, "model")
    if pretrained:
        load_published(net, name, pretrained, config | settings)
    return net
