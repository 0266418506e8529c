"""The search space: overrides that are sweeps in Hydra's syntax, as Optuna distributions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException

from zoo.errors import BadInput, reason

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

# Keys that are not passed to trials
OWN = ("trials", "cost", "sampler", "pruner", "jobs", "space", "name", "runs", "resume")


def with_space(arguments: list[str]) -> list[str]:
    """Move the sweeps of a command line into `space`, and replace each by one of its values.

    Hydra, which accepts sweeps only with -m, can then compose and check the config of one trial.
    """
    plain, space = [], []
    for argument in arguments:
        override = _parsed(argument)
        if override is None or not override.is_sweep_override():
            plain.append(argument)
            continue
        if override.key_or_group in OWN:
            raise BadInput(f"{argument} is the same for all trials, and cannot be searched over")
        space.append(QuotedString(argument, Quote.single).with_quotes())
        plain.append(f"{override.get_key_element()}={_values(override)[0]}")
    return [*plain, f"space=[{','.join(space)}]"]


def _parsed(argument: str) -> Override | None:
    """Parse an override, or return None for other arguments, which Hydra reports."""
    try:
        return None if argument.startswith("-") else OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _values(override: Override) -> list[str]:
    """Return the values of a sweep as written in overrides, or the ends of an interval."""
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        return [str(sweep.start), str(sweep.end)]
    try:
        values = list(override.sweep_string_iterator())
    except HydraException as error:
        raise BadInput(f"{override.input_line} cannot be searched over: list the choices explicitly") from error
    if not values:
        raise BadInput(f"{override.input_line} has no values")
    return values


def distributions(space: Sequence[str]) -> dict[str, BaseDistribution]:
    """Return the Optuna distribution for each key; choices are drawn as written.

    The end of an interval is included, that of a range, as in Python, is not. `tag(log, ...)` samples on a log scale.
    """
    overrides = [OverridesParser.create().parse_override(text) for text in space]
    return {override.get_key_element(): _distribution(override) for override in overrides}


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep: Any = override.value()
    values, ordered = _values(override), isinstance(sweep, IntervalSweep | RangeSweep)
    if sweep.tags - ({"log"} if ordered else set()):
        raise BadInput(f"{override.input_line}: the only supported tag is log, for an interval or a range")
    if not ordered:
        return CategoricalDistribution(values)
    log = bool(sweep.tags)
    whole = isinstance(sweep.start, int) and all(value.lstrip("-").isdigit() for value in values)
    number, kind = (int, IntDistribution) if whole else (float, FloatDistribution)  # type: Any, Any
    low, high = sorted((number(values[0]), number(values[-1])))
    if not math.isfinite(high - low):
        raise BadInput(f"{override.input_line}: expected an interval between two numbers")
    step = {"step": number(abs(sweep.step))} if isinstance(sweep, RangeSweep) else {}
    try:
        return kind(low, high, log=log, **step)
    except ValueError as error:
        raise BadInput(f"{override.input_line}: {reason(error)}") from error


def contains(distribution: Any, value: Any) -> bool:
    """Return whether a trial may have drawn a value."""
    choices = getattr(distribution, "choices", None)
    if choices is not None:
        return any(type(one) is type(value) and one == value for one in choices)
    return type(value) in (int, float) and distribution.low <= value <= distribution.high


def draw(trial: Trial, space: Mapping[str, BaseDistribution]) -> list[str]:
    """Draw the overrides of a trial, or return those already drawn for a resumed trial."""
    from optuna.distributions import FloatDistribution, IntDistribution

    for key, one in space.items():
        if isinstance(one, FloatDistribution):
            trial.suggest_float(key, one.low, one.high, log=one.log, step=one.step)
        elif isinstance(one, IntDistribution):
            trial.suggest_int(key, one.low, one.high, log=one.log, step=one.step)
        else:
            trial.suggest_categorical(key, one.choices)  # type: ignore[attr-defined]
    return overrides(trial.params)


def overrides(params: Mapping[str, Any]) -> list[str]:
    """Format parameters as overrides, exactly."""
    return [f"{key}={value}" for key, value in params.items()]
