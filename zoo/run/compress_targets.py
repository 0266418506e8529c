"""What compress=auto is asked for: a limit on lost accuracy, and targets of bytes and time.

Other settings take these over by interpolation. They are checked here, by the keys that the user sets, and decide which
passes and callbacks take part.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from zoo.callbacks.budget import Points
from zoo.errors import BadInput, choices
from zoo.instantiate import attribute_of
from zoo.ranges import Between, Count, expected, takes

KEYS = {"bytes": "compress.target.bytes", "max_drop": "compress.max_drop"}  # for messages of training for bytes
TARGETS: dict[str, Any] = {"bytes": Count | None, "latency": Between | None}


def is_auto(cfg: DictConfig) -> bool:
    """Return whether a config is that of compress=auto."""
    return "target" in cfg.compress


def check_targets(cfg: DictConfig) -> None:
    """Raise BadInput for a limit or target that is out of range, unknown, or not for these data."""
    compress: Any = OmegaConf.to_container(cfg.compress, resolve=True)
    if not isinstance(target := compress["target"], dict):
        raise BadInput(f"compress.target: expected bytes and latency, got {target!r}")
    for key in target:
        if key not in TARGETS:
            raise BadInput(f"there is no setting 'compress.target.{key}'; {choices(str(key), TARGETS)}")
    of_keys = {f"target.{key}": (hint, target.get(key)) for key, hint in TARGETS.items()}
    for key, (hint, value) in {"max_drop": (Points | None, compress.get("max_drop")), **of_keys}.items():
        if not takes(hint, value):
            raise BadInput(expected(f"compress.{key}", hint, value))
    if compress.get("max_drop") is None and target.get("bytes") is None:
        raise BadInput("compress.max_drop: expected a number without compress.target.bytes, got null")
    if target.get("latency") is not None and attribute_of(str(cfg.data.get("_target_")), "kind") == "sequences":
        raise BadInput(
            f"compress.target.latency: expected null for sequences, whose nets keep all channels, got "
            f"{target['latency']}"
        )


def with_passes_for(cfg: DictConfig) -> DictConfig:
    """Return the config of compress=auto without what its targets do not need; raise BadInput as `check_targets`.

    Without a target, a net is pruned and shared within `max_drop`. With one, it is trained for the bytes of its file,
    and only with one of latency, channels are removed before.
    """
    check_targets(cfg)
    target = cfg.compress.target
    has_target = target.bytes is not None or target.latency is not None
    changes: dict[str, Any] = {"callbacks": {"budget" if has_target else "rate": None}}
    if target.latency is None:
        for key in ("blocks", "ratio", "macs"):
            if value := (cfg.compress.before_fit.channels or {}).get(key):  # a resumed run has none any more
                raise BadInput(
                    f"compress.before_fit.channels.{key}={value} needs compress=prune_channels, or with "
                    "compress=auto a compress.target.latency"
                )
        changes["compress"] = {"before_fit": {"channels": None}}
    settled: Any = OmegaConf.merge(cfg, changes)
    return settled


@contextlib.contextmanager
def naming_target(cfg: DictConfig, name: str) -> Iterator[None]:
    """Let what a pass of compress=auto refuses begin with the target that the pass is for."""
    try:
        yield
    except BadInput as error:
        if is_auto(cfg) and name == "channels":
            raise BadInput(f"compress.target.latency={cfg.compress.target.latency}: {error}") from error
        raise
