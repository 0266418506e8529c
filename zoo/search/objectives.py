"""The objectives of a search: a validation metric and, if `cost` is set, the bytes or the latency of the product."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import DictConfig

Direction = Literal["maximize", "minimize"]
IN_RESULT = {"bytes": "product_bytes", "latency": "latency_ms"}  # of costs, their figures in result.json
COLUMNS = {"bytes": "bytes", "latency": "latency_ms"}
FORMATS = {"bytes": ",.0f", "latency": ".3g"}


@dataclass(frozen=True)
class Objectives:
    """What the trials of a study are judged by: a metric, larger or smaller is better, and a cost to minimize."""

    metric: str
    mode: Literal["max", "min"]
    cost: Literal["bytes", "latency"] | None = None

    @classmethod
    def of(cls, cfg: DictConfig) -> "Objectives":
        product = cfg.callbacks.product
        return cls(product.metric, product.mode, cfg.cost)

    @property
    def directions(self) -> list[Direction]:
        first: Direction = "maximize" if self.mode == "max" else "minimize"
        return [first, "minimize"] if self.cost else [first]

    @property
    def columns(self) -> list[str]:
        """The names of the objectives, for tables."""
        return [self.metric, COLUMNS[self.cost]] if self.cost else [self.metric]

    def values(self, result: Mapping[str, Any]) -> list[float] | None:
        """Return the values of a run from its result.json, or None if one is missing or not finite."""
        found = [result["validation"].get(self.metric.removeprefix("val/"))]
        found += [result.get(IN_RESULT[self.cost])] if self.cost else []
        return None if any(x is None or not math.isfinite(x) for x in found) else [float(x) for x in found]

    def formatted(self, values: Sequence[float]) -> list[str]:
        """Format the value of each objective."""
        formats = [".4f", FORMATS[self.cost]] if self.cost else [".4f"]
        return [f"{value:{form}}" for value, form in zip(values, formats, strict=True)]

    def described(self, values: Sequence[float]) -> str:
        """Return the values with their names, as one line."""
        return ", ".join(f"{name} {value}" for name, value in zip(self.columns, self.formatted(values), strict=True))
