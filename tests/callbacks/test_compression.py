"""Compression during training, from the command line."""

import csv
import json
import signal
import time

import pytest
import torch
from conftest import scalars

from zoo.checkpoint.product_file import read_product
from zoo.data.images import ImageData

OPTIMIZERS = ["adamw", "sgd optim.lr=0.02", "muon optim.lr=0.02", "rmsprop", "adamw trainer.gradient_clip_val=1"]


def weights_of(folder):
    weights = read_product(folder / "model.safetensors").weights
    return {name: weight for name, weight in weights.items() if weight.ndim > 1}


def num_zeros(weights):
    return sum(int((weight == 0).sum()) for weight in weights.values())


def total(weights):
    return sum(weight.numel() for weight in weights.values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_under_any_optimizer_zeros_stay_zero_and_members_equal(command, toy, only_run, optimizer):
    line = [a for a in toy if not a.startswith("optim")] + f"optim={optimizer}".split()
    small = [
        "compress.prune.sparsity=0.7",
        "compress.prune.end=0.2",
        "compress.share.bits=2",
        "compress.share.begin=0.5",
    ]
    assert command("train", *line, "compress=deep_compression", *small).code == 0
    weights = weights_of(only_run())
    assert num_zeros(weights) == round(0.7 * total(weights))
    assert all(len(weight[weight != 0].unique()) <= 4 for weight in weights.values())


@pytest.mark.parametrize("score", ["magnitude", "lamp", "movement", "taylor"])
def test_each_score_prunes_each_layer_to_its_share_and_learns(command, toy, only_run, score):
    share = ["compress.prune.sparsity={features.*: 0.25, classifier.1: 0.95}", f"compress.prune.score={score}"]
    assert command("train", *toy, "compress=prune", *share, "compress.prune.end=0.3").code == 0
    zeros = {name: int((weight == 0).sum()) for name, weight in weights_of(only_run()).items()}
    assert zeros == {
        "features.0.weight": 38,  # of 150, 37.5 rounded to even
        "features.3.weight": 600,
        "classifier.1.weight": 45_600,
        "classifier.3.weight": 0,
        "classifier.5.weight": 0,
    }
    result = json.loads((only_run() / "result.json").read_text())
    assert result["validation"]["accuracy"] > 0.5
    assert result["settings"]["compress.prune.score"] == score  # also nested settings tell runs apart
    assert result["settings"]["compress.prune.sparsity.features.*"] == 0.25


def test_zeros_enlarge_no_checkpoint_and_curves_tell_the_stages(command, toy, only_run, tmp_path):
    assert command("train", *toy).code == 0
    dense = only_run().rename(tmp_path / "dense")
    assert command("train", *toy, "compress=deep_compression", "compress.prune.every=5").code == 0
    sizes = [(folder / "last.ckpt").stat().st_size for folder in (dense, only_run())]
    assert sizes[1] < sizes[0] + 2000
    curves = scalars(only_run())
    assert [value for _, value in curves["while compressing/stage"]] == [1, 2, 3]
    assert [value for _, value in curves["while compressing/sparsity"]][1:] == pytest.approx([0.9, 0.9], abs=1e-4)
    with open(only_run() / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["compress/stage"]]
    assert [float(row["compress/values"]) for row in rows][:2] == [0, 0]
    assert 5 < float(rows[2]["compress/values"]) <= 5 * 32


def test_what_is_kept_is_the_best_epoch_since_the_last_stage_began(command, toy, only_run):
    line = [
        "trainer.max_epochs=6",
        "compress.prune.sparsity=0.99",
        "compress.share.bits=1",
        "compress.share.begin=0.67",
    ]
    assert command("train", *toy, "compress=deep_compression", *line).code == 0
    facts = read_product(only_run() / "model.safetensors").facts
    assert facts["best"]["epoch"] >= 4
    curve = [value for _, value in scalars(only_run())["val/accuracy"]]
    assert max(curve[:4]) > max(curve[4:]) == pytest.approx(facts["best"]["metrics"]["val/accuracy"])


def test_what_is_tested_is_what_the_packed_file_holds(command, toy, only_run):
    assert command("train", *toy, "compress=deep_compression").code == 0
    result = json.loads((only_run() / "result.json").read_text())
    stages = result["compress"]["pack"]["stages"]
    assert stages["P+Q+coding"] == (only_run() / "model.zoo").stat().st_size == result["bytes"]["model.zoo"]
    assert stages["dense"] == 4 * 61_706
    assert stages["P+Q+coding"] < stages["P+Q by the paper's formula"] < stages["P by the paper's formula"]
    assert command("evaluate", f"checkpoint={only_run()}/model.zoo").code == 0
    evaluation = json.loads((only_run() / "evaluation_model.zoo.json").read_text())
    assert evaluation["accuracy"] == result["test"]["accuracy"]
    assert evaluation["loss"] == pytest.approx(result["test"]["loss"], rel=1e-4)


def test_an_accuracy_budget_is_kept_and_test_data_are_touched_once(command, toy, only_run, tmp_path, monkeypatch):
    toy = [*toy, "data.num_validation=250"]  # enough that an epoch within the budget is not luck
    assert command("train", *toy, "trainer.max_epochs=6").code == 0
    dense = only_run().rename(tmp_path / "dense")
    splits, loader = [], ImageData.loader
    monkeypatch.setattr(
        ImageData, "loader", lambda self, split, device: splits.append(split) or loader(self, split, device)
    )
    line = [f"init_from={dense}/model.safetensors", "compress=auto", "compress.max_drop=5", "trainer.max_epochs=16"]
    assert command("train", *toy, *line).code == 0
    result = json.loads((only_run() / "result.json").read_text())
    assert splits.count("test") == 1
    reference = json.loads((dense / "result.json").read_text())["validation"]["accuracy"]
    assert result["compress"]["reference_accuracy"] == pytest.approx(reference)
    assert result["validation"]["accuracy"] >= reference - 0.05
    weights = weights_of(only_run())
    assert num_zeros(weights) > 0.8 * total(weights)
    bits = result["compress"]["bits"]
    assert all(len(weight[weight != 0].unique()) <= 2 ** bits[name] for name, weight in weights.items())
    assert result["compress"]["pack"]["ledger"]["ratio"] > 20


def test_regrowth_keeps_the_number_of_zeros_and_moves_their_places(command, toy, only_run, tmp_path):
    line = ["compress=prune", "compress.prune.end=0", "compress.prune.per_layer=true", "compress.prune.every=2"]
    kept = {}
    for regrow in (0.0, 0.3):
        assert command("train", *toy, *line, f"compress.prune.regrow={regrow}").code == 0
        kept[regrow] = weights_of(only_run())
        only_run().rename(tmp_path / f"regrow_{regrow}")
    for name in kept[0.0]:
        one, other = kept[0.0][name] != 0, kept[0.3][name] != 0
        assert one.sum() == other.sum()
    assert any(bool((kept[0.0][name] != 0).ne(kept[0.3][name] != 0).any()) for name in kept[0.0])


def test_a_lottery_ticket_goes_back_to_early_weights(command, toy, only_run, tmp_path):
    early = ["callbacks=early_weights", "callbacks.early_weights.step=4"]
    assert command("train", *toy, *early).code == 0
    dense = only_run().rename(tmp_path / "dense")
    facts = read_product(dense / "early.safetensors").facts
    assert facts["step"] == 4
    outcome = command("train", *toy, "compress=prune", f"compress.prune.rewind={dense}/model.safetensors")
    assert outcome.code == 2
    assert "compress.prune.rewind: expected an early.safetensors" in outcome.sentence
    line = ["compress.prune.end=0", f"compress.prune.rewind={dense}/early.safetensors", "schedule=constant"]
    still = ["optim.lr=1e-30", "optim.weight_decay=0"]
    again = [f"init_from={dense}/model.safetensors", "compress=prune", *line]
    assert command("train", *[a for a in toy if not a.startswith("optim")], *again, *still).code == 0
    trained, first, ticket = (weights_of(f) for f in (dense, dense, only_run()))
    first = {name: w for name, w in read_product(dense / "early.safetensors").weights.items() if w.ndim > 1}
    alive = {name: weight != 0 for name, weight in ticket.items()}
    assert sum(int(a.sum()) for a in alive.values()) == total(ticket) - round(0.9 * total(ticket))
    for name, mask in alive.items():
        torch.testing.assert_close(ticket[name][mask], first[name][mask], rtol=0, atol=1e-6)
    sizes = torch.cat([weight.abs().flatten() for weight in trained.values()])
    places = torch.cat([mask.flatten() for mask in alive.values()])
    assert sizes[places].min() >= sizes[~places].max()  # chosen by their final values


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["compress=prune", "callbacks=ema"], "callbacks=ema would undo compress"),
        (["compress=auto"], "init_from: expected the model.safetensors of a trained net"),
        (["compress=auto", "compress.target.bytes=0"], "compress.target.bytes: expected a whole number of at least 1"),
        (["compress=share", "task.max_norm=3"], "compress.share needs shared weights to stay equal"),
        (["compress=prune", "compress.prune.sparsity=1"], "below 1"),
        (["compress=prune", "compress.prune.begin=0.8"], "begin=0.8, end=0.5: expected moments in increasing order"),
        (["compress=prune", "compress.prune.sparsity={fc: 0.5}"], "no layer of this net is named 'fc'"),
        (["compress=prune", "compress.prune.rewind=none"], "no file"),
        (["compress=prune", "compress.prune.score=size"], "prune.score: expected one of"),
        (["compress=share", "compress.share.bits=9"], "share.bits: expected a whole number from 1 to 8"),
        (["compress=share", "compress.share.rate=-1"], "share.rate: expected a number of at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(command, toy, tmp_path, arguments, sentence):
    outcome = command("train", *toy, *arguments)
    assert outcome.code == 2
    assert sentence in outcome.sentence
    assert not list(tmp_path.glob("runs/*/*"))


def test_killed_in_each_stage_it_ends_as_if_it_had_not_been(command, process, toy, only_run, tmp_path):
    line = [a for a in toy if not a.startswith(("trainer.", "data.batch_size"))]
    line += ["trainer.max_epochs=12", "data.batch_size=16", "compress=deep_compression", "compress.prune.every=10"]
    line += ["compress.share.rate=0.01"]
    arguments = [*line, "callbacks.resume.every_minutes=0.0002"]
    assert command("train", *arguments).code == 0
    undisturbed = only_run().rename(tmp_path / "undisturbed")
    for stage in (100, 300, 400):  # of 480 steps: pruning until 240, sharing from 360 on
        running = process("train", *arguments)
        while True:
            time.sleep(0.02)
            assert running.poll() is None, running.communicate()[1]
            saved = list(tmp_path.glob("runs/*/*/last.ckpt"))
            if saved and torch.load(saved[0], weights_only=True)["global_step"] >= stage:
                break
        running.kill()
        running.communicate()
        assert running.returncode == -signal.SIGKILL
        arguments = [f"resume={only_run()}"]
    assert command("train", *arguments).code == 0
    assert len({(folder / "model.zoo").read_bytes() for folder in (undisturbed, only_run())}) == 1
    one, two = (read_product(folder / "model.safetensors").weights for folder in (undisturbed, only_run()))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_export_shares_at_once_what_was_trained(command, teacher):
    line = ("scripts/export", f"checkpoint={teacher}", "compress=share_5bit", "max_drop=100")
    assert command(*line).code == 0
    weights = read_product(teacher.with_name("model_shared.zoo")).weights
    assert all(len(weight.unique()) <= 32 for weight in weights.values() if weight.ndim > 1)
    size = teacher.with_name("model_shared.zoo").stat().st_size
    assert teacher.stat().st_size / size > 6
    assert command(*line, "compress.share.rate=0.02").code == 0
    assert teacher.with_name("model_shared.zoo").stat().st_size < 0.9 * size
    outcome = command("scripts/export", f"checkpoint={teacher}", "compress=prune")
    assert (outcome.code, "export supports rate and share" in outcome.sentence) == (2, True)


def test_export_rounds_at_once_to_far_fewer_bytes_than_it_shares(command, teacher):
    line = ("scripts/export", f"checkpoint={teacher}", "max_drop=6")
    assert command(*line, "compress=share_5bit", "compress.share.rate=0.02").code == 0
    outcome = command(*line, "compress=rate", "compress.rate.max_drop=3")
    assert outcome.code == 0
    small, shared = (teacher.with_name(f"model_{name}.zoo") for name in ("rate", "shared"))
    assert small.stat().st_size < 2 / 3 * shared.stat().st_size
    weights = read_product(small).weights
    for weight in weights.values():
        if weight.ndim > 1:
            ratios = weight.unique() / weight[weight != 0].abs().min()
            assert torch.allclose(ratios * 6, (ratios * 6).round(), atol=1e-3)  # multiples of a step
    assert command("evaluate", f"checkpoint={small}").code == 0
    outcome = command(*line, "compress=rate", "compress.rate.max_drop=-1")
    assert outcome.code == 2
