"""Training for bytes, from the command line."""

import json

import pytest
import torch

from zoo.checkpoint.product_file import read_product

SMALL = ["trainer.max_epochs=16", "compress=rate", "compress.rate.every=4", "compress.rate.begin=0.1"]


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def steps_of(weight):
    """Return how many multiples of a step are among the magnitudes of a tensor."""
    sizes = weight[weight != 0].abs().double()
    if not len(sizes):
        return 0
    ratios = sizes.unique() / sizes.min()
    least = next(k for k in range(1, 40) if torch.allclose(ratios * k, (ratios * k).round(), atol=1e-4))
    return len((ratios * least).round().unique())


@pytest.mark.parametrize("optim", [["optim=adamw"], ["optim=muon", "optim.lr=0.02"]])
def test_a_file_of_the_size_asked_for_that_works(command, toy, only_run, optim):
    line = [a for a in toy if not a.startswith(("trainer.max_epochs", "optim"))] + ["optim.lr=0.003", *optim]
    assert command("train", *line, *SMALL, "compress.rate.bytes=9000").code == 0
    result, folder = result_of(only_run()), only_run()
    size = (folder / "model.zoo").stat().st_size
    rate = result["compress"]["rate"]
    assert rate["met"]
    assert rate["bytes"] <= 9000
    assert size == pytest.approx(rate["bytes"], abs=200)  # channels that nothing reads are removed at the end
    assert rate["estimated_bytes"] == pytest.approx(size, rel=0.1)
    assert result["test"]["accuracy"] > 0.5
    product, decoded = (read_product(folder / name).weights for name in ("model.safetensors", "model.zoo"))
    matrices = [name for name, weight in product.items() if weight.ndim > 1]
    for name in matrices:  # what was validated is in the file
        assert torch.equal(product[name][product[name] != 0].unique(), decoded[name][decoded[name] != 0].unique())
    assert all(0 < steps_of(decoded[name]) < 20 for name in matrices)
    assert sum(int((decoded[name] == 0).sum()) for name in matrices) > 0.5 * sum(decoded[n].numel() for n in matrices)


def test_a_target_that_cannot_be_met_ends_with_the_nearest_file_and_says_so(command, toy, only_run):
    outcome = command("train", *toy, "compress=rate", "compress.rate.bytes=900", "compress.rate.every=4")
    assert outcome.code == 0
    rate = result_of(only_run())["compress"]["rate"]
    size = (only_run() / "model.zoo").stat().st_size
    assert not rate["met"]
    assert rate["bytes"] == size > 900
    assert (
        f"compress.rate.bytes=900 was not reached: the nearest file has {size} bytes, {size - 900} more." in outcome.err
    )


def test_an_accuracy_is_kept_by_the_smallest_file_that_keeps_it(command, toy, only_run, tmp_path):
    toy = [a for a in toy if not a.startswith(("trainer.max_epochs", "data.num"))] + ["data.num_validation=250"]
    assert command("train", *toy, "trainer.max_epochs=8").code == 0
    dense = only_run().rename(tmp_path / "dense")
    line = [f"init_from={dense}/model.safetensors", *SMALL, "compress.rate.max_drop=3"]
    assert command("train", *toy, *line).code == 0
    result = result_of(only_run())
    assert result["compress"]["rate"]["met"]
    assert result["validation"]["accuracy"] >= result_of(dense)["validation"]["accuracy"] - 0.0301
    assert (only_run() / "model.zoo").stat().st_size < (dense / "model.safetensors").stat().st_size / 12


def test_a_higher_weight_makes_a_smaller_file_and_an_average_is_stored_rounded(command, toy, only_run, tmp_path):
    sizes = {}
    for weight in (0.03, 1.0):
        line = ["callbacks=ema", "callbacks.ema.decay=0.9", f"compress.rate.weight={weight}"]
        assert command("train", *toy, "compress=rate", "compress.rate.every=4", *line).code == 0
        sizes[weight] = (only_run() / "model.zoo").stat().st_size
        stored = read_product(only_run() / "model.safetensors").weights
        assert all(steps_of(weight) < 40 for weight in stored.values() if weight.ndim > 1)
        only_run().rename(tmp_path / f"weight_{weight}")
    assert sizes[1.0] < 0.9 * sizes[0.03]


def test_batch_norms_are_folded_in_the_file_and_trained_again_from_the_same_outputs(command, toy, only_run, tmp_path):
    line = ["model=resnet20", "model.depths=[1,1,1]", "compress=rate", "compress.rate.every=4"]
    assert command("train", *toy, *line).code == 0
    folder = only_run().rename(tmp_path / "folded")
    decoded = read_product(folder / "model.zoo")
    assert decoded.facts["recipe"] == [{"pass": "fold_norms"}]
    assert not decoded.weights["bn1.running_mean"].any()
    assert read_product(folder / "model.safetensors").weights["bn1.running_mean"].any()
    again = [*toy, *line[:2], f"init_from={folder}/model.zoo", "compress=packed"]
    assert command("train", *again, "trainer.max_epochs=0").code == 0
    found, before = (json.loads((place / "result.json").read_text())["test"] for place in (only_run(), folder))
    assert found == pytest.approx(before, rel=1e-4)
    assert read_product(only_run() / "model.safetensors").weights["bn1.running_mean"].any()
    assert read_product(only_run() / "model.safetensors").facts["recipe"] == []
    only_run().rename(tmp_path / "untrained")
    assert command("train", *again).code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["compress.rate.max_drop=0.5"], "init_from: expected the model.safetensors of a trained net"),
        (["compress.rate.bytes=30"], "compress.rate.bytes: expected at least "),
        (["task.max_norm=3"], "task.max_norm rescales weights"),
        (["trainer.limit_val_batches=0"], "compress.rate needs validation"),
        (["compress.rate.begin=0.8"], "begin=0.8, end=0.6: expected moments in increasing order"),
        (["compress.rate.bytes=0"], "rate.bytes: expected a whole number of at least 1"),
        (["compress.rate.step=0"], "rate.step: expected a number above 0"),
        (["compress.after_fit.pack.bias_bits=24"], "bias_bits: expected a whole number from 1 to 23"),
        (["trainer.precision=bf16-true"], "trainer.precision=bf16-true loses steps"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(command, toy, tmp_path, arguments, sentence):
    outcome = command("train", *toy, "compress=rate", *arguments)
    assert outcome.code == 2
    assert sentence in outcome.sentence
    assert not list(tmp_path.glob("runs/*/*"))
