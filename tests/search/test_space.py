"""A search draws from the ranges of Hydra's sweeps, and repeats itself for the same seed."""

import math

import numpy as np
import optuna
import pytest
import scipy.stats
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from zoo.errors import BadInput
from zoo.search.space import distributions, draw, overrides, with_space
from zoo.search.study import begun


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("interval(0, 0.5)", FloatDistribution(0, 0.5)),
        ("tag(log, interval(1e-4, 1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("int(interval(1, 8))", IntDistribution(1, 8)),
        ("tag(log, int(interval(1, 64)))", IntDistribution(1, 64, log=True)),
        ("range(2, 9, 2)", IntDistribution(2, 8, step=2)),
        ("range(9, 2, -2)", IntDistribution(3, 9, step=2)),
        ("range(0, 1, 0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("1,2,3", CategoricalDistribution(["1", "2", "3"])),
        ("null,{a:1},'b c'", CategoricalDistribution(["null", "{a:1}", "'b c'"])),
    ],
)
def test_a_sweep_of_hydras_is_a_distribution_of_optunas(sweep, expected):
    assert distributions([f"key={sweep}"]) == {"key": expected}


@pytest.mark.parametrize(
    "sweep",
    [
        "tag(log, interval(0, 1))",
        "tag(lin, interval(0, 1))",
        "interval(1, inf)",
        "interval(nan, 1)",
        "tag(log, choice(1, 2))",
        "tag(log, range(1, 9, 2))",
    ],
)
def test_what_cannot_be_drawn_is_refused(sweep):
    with pytest.raises(BadInput, match=r"^key="):
        distributions([f"key={sweep}"])


def test_hydra_is_given_a_value_of_each_sweep_and_the_sweeps_as_a_list():
    line = ["model=lenet5", "optim.lr=tag(log, interval(1e-4, 1e-1))", "+data.augment.flip=null,'x'", "--cfg", "job"]
    assert with_space(line) == [
        "model=lenet5",
        "optim.lr=0.0001",
        "+data.augment.flip=null",
        "--cfg",
        "job",
        r"space=['optim.lr=tag(log, interval(1e-4, 1e-1))','+data.augment.flip=null,\'x\'']",
    ]


SPACE = distributions(["optim.lr=tag(log, interval(1e-5, 1))", "data.batch_size=32,64", "optim.betas=interval(0, 1)"])


def drawn(sampler, seed, num=30):
    """Draw a study's parameters, with an objective that prefers small learning rates."""
    study, found = optuna.create_study(), []
    for _ in range(num):
        trial = begun(study, sampler, seed)
        found.append(draw(trial, SPACE))
        study.tell(trial, math.log(trial.params["optim.lr"]))
    return found, study


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_same_seed_draws_the_same_parameters_and_another_seed_others(sampler):
    assert drawn(sampler, 1)[0] == drawn(sampler, 1)[0]
    assert drawn(sampler, 1)[0] != drawn(sampler, 2)[0]


def test_random_draws_are_log_uniform_by_kolmogorov_and_smirnov():
    _, study = drawn("random", 1, 300)
    found = {key: [trial.params[key] for trial in study.trials] for key in SPACE}
    assert scipy.stats.kstest(found["optim.lr"], scipy.stats.loguniform(1e-5, 1).cdf).pvalue > 0.05
    assert scipy.stats.kstest(found["optim.lr"], scipy.stats.uniform(1e-5, 1).cdf).pvalue < 1e-9
    assert scipy.stats.kstest(found["optim.betas"], scipy.stats.uniform(0, 1).cdf).pvalue > 0.05
    assert abs(scipy.stats.spearmanr(found["optim.lr"], found["optim.betas"]).statistic) < 0.15
    assert scipy.stats.binomtest(found["data.batch_size"].count("32"), 300).pvalue > 0.05


def test_tpe_learns_where_values_are_good():
    _, study = drawn("tpe", 1, 40)
    first, last = (
        [math.log(trial.params["optim.lr"]) for trial in part] for part in (study.trials[:10], study.trials[-10:])
    )
    assert np.mean(last) < np.mean(first) - 2


def test_drawn_numbers_survive_the_command_line_to_the_last_bit():
    _, study = drawn("random", 3, 20)
    for trial in study.trials:
        (text, *_) = overrides(trial.params)
        assert float(text.removeprefix("optim.lr=")) == trial.params["optim.lr"]
