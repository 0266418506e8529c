"""The scale of numbers that label images: their mean and deviation in training, in which a net's outputs are."""

from collections.abc import Sequence

from torch import Tensor

from zoo.errors import BadInput


def are_numbers(labels: Tensor) -> bool:
    """Return whether labels are numbers (N, columns), float32, and not classes."""
    return labels.is_floating_point()


def number_scale(labels: Tensor, names: Sequence[str]) -> dict[str, list[float]] | None:
    """Return `mean` and `std` of training labels (N, columns), one per column, or None if the labels are classes.

    Raises BadInput if a column has only one number.
    """
    if not are_numbers(labels):
        return None
    for name, column in zip(names, labels.unbind(1), strict=True):
        if bool((column == column[0]).all()):
            raise BadInput(
                f"data.label: '{name}' is {float(column[0]):g} for every training picture; a number that never "
                "changes cannot be learned"
            )
    wide = labels.double()
    return {"mean": wide.mean(0).tolist(), "std": wide.std(0, unbiased=False).tolist()}
