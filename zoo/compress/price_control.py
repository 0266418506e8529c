"""The price of a bit, steered to a size or to an accuracy."""

import math

HIGHEST, LOWEST = 5.0, -10.0  # of the price's logarithm


class PriceControl:
    """The price of a bit, in loss per bit per weight, which is adapted `num_changes` times, and `num_after` times more.

    `state` has all that it remembers: the logarithm of the price, the bits at the start, and the number of changes.
    """

    # The largest change of the price's logarithm for an error of 1: the present one, and each past one, which counts
    # more in runs with few changes, so that these can adapt as far.
    PROPORTIONAL, EACH, ALL = 2.0, 0.04, 40.0
    EACH_EPOCH, ALL_EPOCHS = 0.2, 6.0  # the same after validations
    # Shares of the target by which bits are above it after `num_changes`, and below it at the end: at the last, small
    # learning rates they fall, and no lower price makes them rise.
    ABOVE, MARGIN = 0.05, 0.01
    LATE = 4.0  # the integral's factor after `num_changes` for bits above the path, on which a price has less effect

    def __init__(
        self, num_changes: int, num_after: int = 0, state: tuple[float, float, int] = (math.log(0.05), 0.0, 0)
    ) -> None:
        self.num_changes, self.num_after, self.state = max(1, num_changes), num_after, state

    @property
    def price(self) -> float:
        return math.exp(self.state[0])

    def towards_bits(self, bits: float, target: float) -> float:
        """Return the next price from the current number of bits.

        A PI controller of the logarithm of the price leads the bits from those at the start to a little more than the
        target, along a straight line of their logarithm, and then to the target, in the first half of what remains. In
        the last quarter, its gains fall to zero unless bits are above the target: at small learning rates, many weights
        are so close to the middle between two integers that each change of the price moves them together, and bits
        would swing.
        """
        log_price, start, done = self.state
        start = start or max(bits, target)
        left = 1 - min(1.0, max(0, done - self.num_changes) / self.num_after) if self.num_after else 1.0
        gain = 1.0 if bits > target else min(1.0, 4 * left)
        target *= 1 - self.MARGIN + (self.ABOVE + self.MARGIN) * max(0.0, 2 * left - 1)
        on_path = start * (target / start) ** min(1.0, done / self.num_changes)
        error = gain * math.log(max(bits, 1.0) / on_path)
        each = max(self.EACH, self.ALL / self.num_changes) * (self.LATE if done > self.num_changes and error > 0 else 1)
        log_price += each * max(-0.5, min(error, 0.5))
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
