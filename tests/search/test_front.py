"""The front of made-up studies, against its definition and a closed form."""

import io
import itertools

import numpy as np
import optuna
import pytest
from rich.console import Console

from zoo.search import front, study_table
from zoo.search.objectives import Objectives

RESULT = {
    "validation": {"accuracy": 0.75, "loss": 0.5},
    "test": {"accuracy": 0.9},
    "product_bytes": 1234,
    "latency_ms": 0.5,
}


def study_of(points, directions, params=None):
    distributions = {
        key: optuna.distributions.CategoricalDistribution([value]) for key, value in (params or {}).items()
    }
    found = optuna.create_study(directions=directions)
    for values in points:
        trial = optuna.trial.create_trial(values=list(values), params=params or {}, distributions=distributions)
        found.add_trial(trial)
    found.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.PRUNED))
    return found


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_it_is_all_that_nothing_beats_and_nothing_else(mode, sign):
    draw = np.random.default_rng(0)
    points = [(sign * a, b) for a, b in draw.integers(0, 12, (60, 2)).tolist()]  # with ties, and equal points
    found = study_of(points, Objectives("val/loss", mode, "bytes").directions)
    beaten = {
        i
        for i, j in itertools.permutations(range(len(points)), 2)
        if sign * points[j][0] >= sign * points[i][0] and points[j][1] <= points[i][1] and points[i] != points[j]
    }
    on_front = front.front_of(found)
    assert {trial.number for trial in on_front} == set(range(len(points))) - beaten
    costs = [trial.values[1] for trial in on_front]
    assert costs == sorted(costs)


def test_of_points_on_both_branches_of_a_parabola_it_is_the_rising_one():
    """Accuracy 1 - (x - 0.5)² at a cost of x: from 0.5 on, more costs more and is worth less."""
    xs = np.linspace(0, 1, 21)
    found = study_of([(1 - (x - 0.5) ** 2, x) for x in xs], ["maximize", "minimize"])
    assert [trial.values[1] for trial in front.front_of(found)] == pytest.approx(xs[:11])


def test_its_table_fits_80_columns_however_many_settings_there_are():
    params = {f"data.augment.a_setting_{i}": "a value of some length" for i in range(8)}
    found = study_of([(0.987654, 123_456_789)], ["maximize", "minimize"], params)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(
        study_table.table_of_front(front.front_of(found), "The front", Objectives("val/accuracy", "max", "bytes"))
    )
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "0.9877" in text
    assert "123,456,789" in text
    assert all(key in "".join(text.split()) for key in ("setting_0", "setting_7"))


@pytest.mark.parametrize(
    ("objectives", "values", "words"),
    [
        (Objectives("val/accuracy", "max"), [0.75], "val/accuracy 0.7500"),
        (Objectives("val/loss", "min", "bytes"), [0.5, 1234.0], "val/loss 0.5000, bytes 1,234"),
        (Objectives("val/accuracy", "max", "latency"), [0.75, 0.5], "val/accuracy 0.7500, latency_ms 0.5"),
        (Objectives("val/wer", "min", "bytes"), None, ""),
    ],
)
def test_values_are_those_of_validation_and_of_the_product(objectives, values, words):
    assert objectives.values(RESULT) == values
    assert values is None or objectives.described(values) == words
    assert objectives.values({**RESULT, "product_bytes": None, "latency_ms": None, "validation": {}}) is None
