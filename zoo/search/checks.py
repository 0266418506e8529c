"""Settings that a search does not support, and what it may choose from."""

from collections.abc import Callable, Mapping

import hydra
import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution

from zoo import distributed
from zoo.errors import BadInput, choices, reason
from zoo.report.settings_row import SIMULATED
from zoo.run.directory import config_of

SAMPLERS = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": optuna.pruners.MedianPruner,  # starts after five complete trials
    "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=1),  # asynchronous; after epochs 1, 4, 16
    "none": optuna.pruners.NopPruner,
}


def check(cfg: DictConfig) -> None:
    """Raise BadInput for settings that a search does not support."""
    if not cfg.space:
        raise BadInput(
            "there is nothing to search over: make an override a sweep, such as "
            "'optim.lr=tag(log, interval(1e-4, 1e-1))'"
        )
    if cfg.resume:
        raise BadInput("resume is for runs; to continue a search, run the same command again")
    if cfg.cost == "latency" and cfg.jobs > 1:
        raise BadInput(f"jobs={cfg.jobs}: expected 1 with cost=latency, since trials that run at once slow each other")
    if cfg.jobs > distributed.num_cores():
        raise BadInput(f"jobs={cfg.jobs}: expected at most {distributed.num_cores()}, one trial per CPU core")
    for key, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        if cfg[key] not in known:
            raise BadInput(f"{key}={cfg[key]} is not a {key}; {choices(str(cfg[key]), known)}")
    if cfg.trainer.devices not in (1, "auto"):
        raise BadInput(f"trainer.devices={cfg.trainer.devices}: a trial has one device; use jobs= for parallel trials")
    product = cfg.callbacks.get("product")
    if not product or not str(product.metric).startswith("val/"):
        raise BadInput("callbacks.product.metric names no validation metric, which a search needs")
    config_of(cfg)


def check_choices(cfg: DictConfig, space: Mapping[str, BaseDistribution], fixed: list[str]) -> None:
    """Raise BadInput for a choice that Hydra cannot compose, such as an unknown model, or that has no latency."""
    _check_cost(cfg.cost, str(HydraConfig.get().runtime.choices["compress"]))
    for key, one in space.items():
        for value in one.choices if isinstance(one, CategoricalDistribution) else ():
            try:
                composed = hydra.compose("train", [*fixed, f"{key}={value}"], return_hydra_config=True)
            except HydraException as error:
                raise BadInput(f"{key}={value} cannot be chosen: {reason(error)}") from error
            _check_cost(cfg.cost, str(composed.hydra.runtime.choices["compress"]))


def _check_cost(cost: str | None, compression: str) -> None:
    if cost == "latency" and compression in SIMULATED:
        raise BadInput(
            f"cost=latency: torch only simulates the int8 of compress={compression}, so its latency says nothing; "
            "use cost=bytes"
        )
