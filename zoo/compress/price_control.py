"""The price of a bit, steered to a size or to an accuracy."""

import math

HIGHEST, LOWEST = 5.0, -10.0  # of the price's logarithm
MOST_CHANGE = 2.0  # of it, at once


class PriceControl:
    """The price of a bit, in loss per bit per weight, which is adapted `num_changes` times until it holds a size.

    `state` has all that it remembers: the logarithm of the price, the bits at the start, and the number of changes.
    """

    # The largest change of the price's logarithm for an error of 1: the present one, and each past one, which counts
    # more in runs with few changes, so that these can adapt as far.
    PROPORTIONAL, EACH, ALL = 2.0, 0.04, 40.0
    EACH_EPOCH, ALL_EPOCHS = 0.2, 6.0  # the same after validations

    def __init__(self, num_changes: int, state: tuple[float, float, int] = (math.log(0.05), 0.0, 0)) -> None:
        self.num_changes, self.state = max(1, num_changes), state

    @property
    def price(self) -> float:
        return math.exp(self.state[0])

    def towards_bits(self, bits: float, target: float) -> float:
        """Return the next price from the current number of bits.

        The bits are led from those at the start to the target, along a straight line of their logarithm.
        """
        log_price, start, done = self.state
        start = start or max(bits, target)
        self.state = log_price, start, done
        on_path = start * (target / start) ** min(1.0, done / self.num_changes)
        return self.after_error(math.log(max(bits, 1.0) / on_path))

    def after_error(self, error: float) -> float:
        """Return the next price from an error, that of the logarithm of the bits: a PI controller of its logarithm."""
        log_price, start, done = self.state
        each = max(self.EACH, self.ALL / self.num_changes)
        log_price += max(-MOST_CHANGE, min(each * max(-0.5, min(error, 0.5)), MOST_CHANGE))
        log_price = max(LOWEST, min(log_price, HIGHEST))
        self.state = log_price, start, done + 1
        return math.exp(min(log_price + self.PROPORTIONAL * error, HIGHEST))

    def towards_drop(self, drop: float, most: float) -> float:
        """Return the next price from the points of accuracy lost in the last validation and the most allowed."""
        log_price, start, done = self.state
        change = max(-1.0, min((most - drop) / most, 1.0))
        log_price += max(self.EACH_EPOCH, self.ALL_EPOCHS / self.num_changes) * change
        self.state = max(LOWEST, min(log_price, HIGHEST)), start, done + 1
        return self.price
