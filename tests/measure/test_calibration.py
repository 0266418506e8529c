"""Calibration, compared with scikit-learn, scipy, torchmetrics, and counting in plain Python."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from zoo.measure.calibration import (
    NUM_BINS,
    calibration,
    coverage,
    equal_bins,
    error_interval,
    expected_error,
    fit_temperature,
    risks,
)
from zoo.measure.evaluation import evaluate
from zoo.report.calibration_plot import draw_calibration
from zoo.report.tables import show_evaluation


def drawn(num=702, num_classes=6, strength=2.0, scale=2.0, seed=0):
    """Draw labels and logits that favour them, which are calibrated if `scale` and `strength` are equal."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num,), generator=draw)
    logits = torch.randn(num, num_classes, generator=draw)
    logits += strength * torch.nn.functional.one_hot(labels, num_classes)
    return scale * logits, labels


CASES = {
    "random": drawn(),
    "two classes": drawn(num_classes=2),
    "certain": (200 * drawn()[0], drawn()[1]),
    "undecided": (torch.zeros(50, 4), torch.arange(50) % 4),
    "all wrong": (20 * torch.eye(3).repeat(9, 1), torch.tensor([1, 2, 0] * 9)),
    "one sample": (torch.tensor([[1.0, 2.0]]), torch.tensor([1])),
    "few samples": drawn(num=7),
}


@pytest.mark.parametrize("case", CASES)
def test_nll_and_brier_are_scikit_learns(case):
    logits, labels = CASES[case]
    found, shares = calibration(logits, labels), logits.double().softmax(1).numpy()
    classes = list(range(logits.shape[1]))
    one_hot = np.eye(len(classes))[labels]
    assert found["brier"] == pytest.approx(np.square(shares - one_hot).sum(1).mean(), abs=1e-12)
    brier = brier_score_loss(labels, shares, labels=classes, scale_by_half=False) if len(classes) > 2 else None
    assert brier is None or found["brier"] == pytest.approx(brier, abs=1e-12)
    if case not in ("certain", "all wrong"):  # scikit-learn clips probabilities
        assert found["nll"] == pytest.approx(log_loss(labels, shares, labels=classes), rel=1e-9)
    assert found["nll"] == pytest.approx(-log_softmax(logits.double().numpy(), 1)[range(len(labels)), labels].mean())


@pytest.mark.parametrize("case", CASES)
def test_bins_are_those_of_scikit_learns_quantiles(case):
    logits, labels = CASES[case]
    found, shares = calibration(logits, labels), logits.double().softmax(1)
    confidence, predicted = (one.numpy() for one in shares.max(1))
    if confidence.min() < confidence.max():  # scikit-learn's edges at equal quantiles are otherwise all the same
        right, mean = calibration_curve(predicted == labels.numpy(), confidence, n_bins=NUM_BINS, strategy="quantile")
        assert [one["confidence"] for one in found["bins"]] == pytest.approx(list(mean))
        assert [one["accuracy"] for one in found["bins"]] == pytest.approx(list(right))
    assert sum(one["num_samples"] for one in found["bins"]) == len(labels)
    gaps = [one["num_samples"] * abs(one["confidence"] - one["accuracy"]) for one in found["bins"]]
    assert found["error"] == pytest.approx(sum(gaps) / len(labels), abs=1e-12)
    if case == "random":
        assert {one["num_samples"] for one in found["bins"]} <= {46, 47, 48}


def test_with_bins_of_equal_width_the_error_is_torchmetrics():
    logits, labels = CASES["random"]
    confidence, predicted = logits.double().softmax(1).max(1)
    which = (confidence * NUM_BINS).ceil().long() - 1
    expected = multiclass_calibration_error(logits.double().softmax(1), labels, 6, n_bins=NUM_BINS)
    assert expected_error(confidence, (predicted == labels).double(), which) == pytest.approx(float(expected), abs=1e-6)


def test_equal_confidences_share_a_bin_whatever_their_order():
    confidence = torch.tensor([0.5] * 30 + [0.9] * 10 + [0.7] * 5).double()
    order = torch.randperm(45, generator=torch.Generator().manual_seed(0))
    which = equal_bins(confidence)
    assert equal_bins(confidence[order]).equal(which[order])
    assert [len(set(which[part].tolist())) for part in (slice(30), slice(30, 40), slice(40, 45))] == [1, 1, 1]


@pytest.mark.parametrize("case", ["random", "two classes", "few samples"])
@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_the_temperature_is_the_minimum_that_scipy_finds(case, scale):
    logits, labels = scale * CASES[case][0], CASES[case][1]

    def loss(temperature):
        return -log_softmax(logits.double().numpy() / temperature, 1)[range(len(labels)), labels].mean()

    expected = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9})
    found = fit_temperature(logits, labels)
    if 0.051 < expected.x < 19.9:
        assert found == pytest.approx(expected.x, rel=1e-5)
        assert loss(found) <= expected.fun + 1e-12
    else:
        assert found is None


def test_it_undoes_a_scaling_of_the_logits():
    logits, labels = drawn(num=5000)
    once = fit_temperature(logits, labels)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * once)
    assert once == pytest.approx(1, abs=0.05)  # Gaussians of this distance have these posteriors
    assert calibration(logits, labels)["error"] < 0.3 * calibration(3 * logits, labels)["error"]


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (10 * torch.eye(3), torch.arange(3)),  # all correct: the colder the better
        (torch.eye(3), torch.tensor([1, 2, 0])),  # all wrong: the hotter the better
        (torch.zeros(3, 3), torch.arange(3)),  # no temperature changes anything
        (torch.full((2, 3), math.nan), torch.arange(2)),
    ],
)
def test_without_a_minimum_there_is_no_temperature(logits, labels):
    assert fit_temperature(logits, labels) is None


def test_samples_without_finite_logits_are_left_out():
    logits, labels = CASES["random"]
    spoiled = torch.cat([logits, torch.tensor([[math.nan] * 6, [math.inf, *[0.0] * 5]])])
    assert calibration(spoiled, torch.cat([labels, labels[:2]])) == calibration(logits, labels)
    assert calibration(spoiled[-2:], labels[:2]) is None


def test_the_bootstrap_interval_is_that_of_a_binomial():
    """With one confidence for all, the error is |c - accuracy|, whose spread is that of a binomial's mean."""
    right = (torch.arange(400) % 5 > 0).double()  # accuracy 0.8
    low, high = error_interval(torch.full((400,), 0.5).double(), right, torch.zeros(400, dtype=torch.int64))
    spread = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert low == pytest.approx(0.3 - spread, abs=0.004)
    assert high == pytest.approx(0.3 + spread, abs=0.004)


def test_coverage_is_the_best_threshold_that_trying_all_finds():
    for seed in range(20):
        draw = np.random.default_rng(seed)
        confidence = draw.integers(0, 60, 300) / 60  # with ties
        right = draw.random(300) < 0.75 + 0.25 * confidence**0.2
        best = 0.0
        for threshold in confidence:
            answered = confidence >= threshold
            if (~right[answered]).mean() <= 0.05:
                best = max(best, answered.mean())
        assert coverage(torch.tensor(confidence), torch.tensor(right).double(), 0.05) == best
    assert coverage(torch.ones(4).double(), torch.zeros(4).double()) == 0
    assert coverage(torch.ones(4).double(), torch.ones(4).double()) == 1


def test_risk_is_the_error_of_the_most_confident():
    confidence = torch.linspace(1, 0, 200).double()
    right = torch.cat([torch.ones(100), torch.zeros(100)]).double()
    found = risks(confidence, right)
    assert found[:50] == [0.0] * 50
    assert found[74] == pytest.approx(50 / 150)
    assert found[-1] == 0.5


def test_an_evaluation_has_the_figures_with_and_without_the_temperature():
    logits, labels = CASES["random"]
    classes = list("abcdef")
    plain, found = evaluate(logits, labels, classes), evaluate(logits, labels, classes, temperature=2.0)
    assert plain["calibration"] == {"temperature": 1.0, **calibration(logits, labels)}
    assert "uncalibrated" not in plain
    assert found["uncalibrated"] == calibration(logits, labels)
    assert found["calibration"] == {"temperature": 2.0, **calibration(logits / 2, labels)}
    assert (found["loss"], found["accuracy"]) == (plain["loss"], plain["accuracy"])
    assert found["calibration_error"] == found["calibration"]["error"]


def test_an_evaluation_prints_one_calibration_error_and_it_is_that_of_the_picture(capsys):
    logits, labels = CASES["random"]
    found = evaluate(logits, labels, list("abcdef"))
    show_evaluation(found)
    shown, error = capsys.readouterr().out, f"alibration error {found['calibration']['error']:.2%}"
    assert shown.count("alibration error") == shown.count(error) == 1
    title = draw_calibration(found["calibration"]).axes[0].get_title("left")
    assert title.replace(" %", "%").startswith(f"C{error}")


def test_the_picture_shows_both_curves_and_the_coverage():
    logits, labels = CASES["random"]
    after, before = calibration(logits / 2, labels), calibration(logits, labels)
    above, below = draw_calibration(after, before).axes
    assert list(above.lines[0].get_xdata()) == [one["confidence"] for one in before["bins"]]
    assert list(above.lines[1].get_ydata()) == [one["accuracy"] for one in after["bins"]]
    assert list(below.lines[0].get_ydata()) == [100 * one for one in after["risk"]]
    assert below.get_title("left").startswith(f"{after['coverage_at_1_percent_error']:.1%} of the images")
