"""What a pass of compress.after_fit says of itself, so that what it would refuse is told before the training."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

Pass = TypeVar("Pass", bound=Callable[..., Any])


def after_fit_pass(
    check: Callable[..., None] | None = None,
    kind: Literal["images", "sequences"] | None = None,
    one_process: bool = True,
) -> Callable[[Pass], Pass]:
    """Mark a function of a product, a context and settings as a pass of compress.after_fit.

    `check` takes the net before the fit, the context and the settings of the pass, and raises BadInput for what the
    pass would refuse. `kind` is the only kind of data that it is for. With `one_process` it is refused in a run of
    several, since it measures the net as a whole.
    """

    def mark(function: Pass) -> Pass:
        for name, value in {"check": check, "kind": kind, "one_process": one_process}.items():
            setattr(function, name, value)
        return function

    return mark
