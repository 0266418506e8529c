"""Which layers stay in floats in a net whose layers have known costs."""

import pytest

from zoo.compress.sensitivity import stay_in_floats

COSTS = {"a": 0.1, "b": 3.0, "c": 1.0, "d": 0.1}  # points
LOSSES = {"a": 0.1, "b": 0.3, "c": 0.1, "d": 0.2}


@pytest.mark.parametrize(
    ("max_drop", "stay", "num_measured"),
    [
        (5, [], 2),  # all in floats, and all in int8
        (1.21, ["b"], 2 + 4 + 1),
        (0.21, ["b", "c"], 2 + 4 + 2),
        (0.11, ["b", "c", "d"], 2 + 4 + 3),  # same accuracy as a, but a larger loss
        (0, ["b", "c", "d", "a"], 2 + 4 + 3),
    ],
)
def test_layers_stay_in_floats_most_costly_first_until_the_rest_costs_no_more_than_allowed(
    max_drop, stay, num_measured
):
    measured = []

    def measure(in_floats):
        measured.append(list(in_floats))
        others = [layer for layer in COSTS if layer not in in_floats]
        drop, loss = (sum(by[layer] for layer in others) for by in (COSTS, LOSSES))
        return {"accuracy": 0.9 - drop / 100, "loss": 0.5 + loss}

    scan = stay_in_floats(list(COSTS), measure, max_drop)
    assert scan.float_layers == stay
    assert len(measured) == num_measured
    assert scan.costs == ({} if num_measured == 2 else pytest.approx(COSTS))
