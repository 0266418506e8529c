"""The properties of a compress.after_fit pass, which let its errors be reported before training."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

Pass = TypeVar("Pass", bound=Callable[..., Any])


def after_fit_pass(
    check: Callable[..., None] | None = None,
    kind: Literal["images", "sequences"] | None = None,
    one_process: bool = True,
) -> Callable[[Pass], Pass]:
    """Mark a function of a product, a context and settings as a compress.after_fit pass.

    `check` takes the net before the fit, the context and the settings of the pass, and raises BadInput for what the
    pass would refuse. `kind` is the only kind of data it supports. With `one_process` it is refused in a run of
    several processes, since it measures the whole net.
    """

    def mark(function: Pass) -> Pass:
        for name, value in {"check": check, "kind": kind, "one_process": one_process}.items():
            setattr(function, name, value)
        return function

    return mark
