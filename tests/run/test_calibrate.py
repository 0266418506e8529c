"""The temperature of a product: fitted by a run or a command, stored, used, exported, or refused."""

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, with_plots
from omegaconf import OmegaConf
from safetensors.torch import load_file
from small import FACTS, SYMBOLS, tiny

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product, save_product
from zoo.checkpoint.temperature import store_temperature, without_temperature
from zoo.data.module import ResidentData
from zoo.errors import BadInput
from zoo.export import onnx, pt2
from zoo.export.file_metadata import labels
from zoo.export.parts import parts
from zoo.export.read_export import read_export
from zoo.inference.predict import classify
from zoo.inference.trained_net import load
from zoo.measure.calibration import calibration, fit_temperature
from zoo.packed.packed_file import save_packed
from zoo.records.metadata import parse_metadata
from zoo.run.calibrate_product import calibrate, calibrate_product

EARLIER = ROOT / "tests" / "earlier"
CPU = torch.device("cpu")
SLOW_EXPORTS = (("model.pt2", True), ("model.onnx", False), ("model.onnx", True))


def test_a_run_stores_the_temperature_of_its_validation_data_and_uses_it(command, toy, only_run):
    line = [*with_plots(toy), "callbacks.graph=null", "trainer.max_epochs=1", "calibrate=true", "optim.lr=0.0005"]
    done = command("train", *line)
    assert done.code == 0, done.err
    product, result = read_product(only_run()), json.loads((only_run() / "result.json").read_text())
    temperature = product.facts["temperature"]
    assert result["temperature"] == temperature
    net = load_model(product).eval()
    kept = load_file(only_run() / "predictions.safetensors")
    done = command("evaluate", f"checkpoint={only_run()}", "accelerator=cpu", "batch_size=200")
    assert done.code == 0, done.err
    found = json.loads((only_run() / "evaluation.json").read_text())
    assert found["calibration"]["temperature"] == temperature
    assert found["loss"] == pytest.approx(result["test"]["loss"], rel=1e-4)
    shown = sum(one["confidence"] * one["num_samples"] for one in found["calibration"]["bins"]) / 200
    assert float(kept["confidence"].double().mean()) == pytest.approx(shown, abs=1e-3)
    assert (only_run() / "calibration.png").read_bytes().startswith(b"\x89PNG")
    images = torch.randn(3, 1, 28, 28)
    rows = classify(net, images, product.facts["data"]["classes"], 1, temperature)
    best = (net(images) / temperature).softmax(1).amax(1)
    assert [share for ((_, share),) in rows] == pytest.approx(best.tolist())
    assert command("scripts/calibrate", f"checkpoint={only_run()}").code == 0  # from the same validation data
    assert read_product(only_run()).facts["temperature"] == pytest.approx(temperature, rel=1e-4)


class Digits:
    """Validation data of ten samples per class, for the tiny net."""

    def loader(self, split, device):
        assert split == "val"
        torch.manual_seed(1)
        images = torch.randn(100, 1, 28, 28)
        return [(images[i : i + 40], torch.arange(i, min(i + 40, 100)) % 3) for i in range(0, 100, 40)]

    limited_batches = ResidentData.limited_batches

    def limited_loader(self, split, device, limit):
        return self.loader(split, device)


@pytest.fixture
def product(tmp_path):
    facts = {key: value for key, value in FACTS.items() if key != "export"}
    save_product(tmp_path / "model.safetensors", tiny().state_dict(), facts)
    return read_product(tmp_path / "model.safetensors")


def test_only_the_temperature_changes_in_both_kinds_of_files(product, tmp_path):
    save_packed(tmp_path / "model.zoo", product.weights, product.facts)
    for file in ("model.safetensors", "model.zoo"):
        before = read_product(tmp_path / file)
        after = store_temperature(before, 1.5, tmp_path / file)
        assert after.facts == {**before.facts, "temperature": 1.5}
        assert without_temperature(after).facts == before.facts
        assert all(after.weights[name].equal(weight) for name, weight in before.weights.items())
        assert after.weights.keys() == before.weights.keys()
    again = store_temperature(after, 2.5, tmp_path / "model.zoo")
    assert again.facts["temperature"] == 2.5


def test_it_is_fitted_to_all_validation_images(product, tmp_path):
    net, batches = load_model(product).eval(), Digits().loader("val", "cpu")
    with torch.no_grad():
        logits = torch.cat([net(images) for images, _ in batches])
    targets = torch.cat([target for _, target in batches])
    expected = fit_temperature(logits, targets)
    if expected is None:
        pytest.fail("the tiny net must have a temperature here")
    said = calibrate(product, net, Digits(), CPU, tmp_path / "calibrated.safetensors")
    assert read_product(tmp_path / "calibrated.safetensors").facts["temperature"] == pytest.approx(expected)
    before, after = (calibration(one, targets)["nll"] for one in (logits, logits / expected))
    assert f"NLL {before:.4f} to {after:.4f}" in said
    assert "temperature" not in read_product(product.path).facts


@pytest.mark.parametrize(("limit", "num"), [(None, 100), (0.67, 80), (1, 40), (0, 0)])
def test_a_run_uses_as_many_validation_batches_as_its_trainer(product, caplog, limit, num):
    cfg = OmegaConf.create({"calibrate": True, "trainer": {"limit_val_batches": limit}})
    found = calibrate_product(SimpleNamespace(cfg=cfg), product, SimpleNamespace(device=CPU), Digits())
    if num:
        net, batches = load_model(product).eval(), Digits().loader("val", CPU)
        with torch.no_grad():
            logits = torch.cat([net(images) for images, _ in batches])[:num]
        expected = fit_temperature(logits, torch.cat([target for _, target in batches])[:num])
        assert found.facts["temperature"] == pytest.approx(expected)
        assert read_product(product.path).facts == found.facts
    else:
        assert found.facts == product.facts
        assert "No temperature fits 0 validation images" in caplog.text


@pytest.mark.parametrize(
    ("file", "bake"),
    [("model.pt2", False), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_EXPORTS)],
)
def test_an_export_may_divide_its_logits_itself(product, tmp_path, file, bake):
    facts = {**FACTS, "temperature": 1.6, "export": {**FACTS["export"], "bake": bake, "calibrated": True}}
    save = pt2.save_pt2 if file.endswith("pt2") else onnx.save_onnx
    (part,) = parts(tiny(), facts).values()
    save(tmp_path / file, part, facts)
    pixels = torch.randint(256, (2, 1, 28, 28), dtype=torch.uint8)
    images = (pixels.float() - 72.9) / 90
    expected = tiny()(images).detach()
    found = read_export(tmp_path / file)
    raw = found.net.run(pixels if bake else images)[0]
    torch.testing.assert_close(raw, expected / 1.6, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.net(images), expected, atol=1e-5, rtol=1e-5)  # as the checkpoint's
    ((_, share),) = load(tmp_path / file).predict(pixels[0].expand(3, -1, -1), top=1)
    assert share == pytest.approx(float((expected[:1] / 1.6).softmax(1).max()), abs=1e-5)
    assert json.loads(labels(facts)["temperature"]) == 1.6
    assert "divided by temperature" in labels(facts)["output"]


@pytest.mark.parametrize("value", [0, 0.04, 21, -1, "1", True, [1.0], {}])
def test_an_impossible_temperature_in_a_file_is_refused(value):
    facts = {**FACTS, "format": 3, "temperature": value}
    with pytest.raises(BadInput, match="temperature"):
        parse_metadata(json.dumps(facts), "x")


def test_so_is_one_of_sequences_and_a_calibrated_export_without_one():
    data = {key: FACTS["data"][key] for key in ("split_hash", "num_samples")}
    data |= {"source_symbols": SYMBOLS, "target_symbols": SYMBOLS, "source_unit": "character"}
    data |= {"max_length": 8, "example": [5, 7]}
    with pytest.raises(BadInput, match="temperature is for nets that classify images"):
        parse_metadata(json.dumps({**FACTS, "format": 3, "data": data, "temperature": 2.0}), "x")
    calibrated = {**FACTS, "format": 3, "export": {**FACTS["export"], "calibrated": True}}
    with pytest.raises(BadInput, match="calibrated export needs a temperature"):
        parse_metadata(json.dumps(calibrated), "x")


@pytest.mark.parametrize(
    ("script", "line", "words"),
    [
        ("scripts/calibrate", ["checkpoint=zoo:lenet5_mnist_5k"], "comes with the zoo and is not changed; set out="),
        ("scripts/calibrate", [f"checkpoint={EARLIER / 'lstm.zoo'}"], "for nets that classify images"),
        ("scripts/calibrate", [f"checkpoint={EARLIER / 'resnet.onnx'}"], "is an exported file"),
        ("scripts/calibrate", ["checkpoint=nothing.zoo"], "there is no file nothing.zoo"),
        ("scripts/export", ["checkpoint=zoo:lenet5_mnist_5k", "calibrated=true"], "calibrated=true needs a temp"),
        (
            "train",
            ["data=reverse", "calibrate=true", "trainer=smoke"],
            "calibrate=true is for nets that give each image one class",
        ),
    ],
    ids=["shipped", "sequences", "exported", "missing", "not calibrated", "run of sequences"],
)
def test_what_has_no_temperature_is_told_in_one_sentence(command, tmp_path, script, line, words):
    done = command(script, *line)
    assert (done.code, words in done.sentence) == (2, True), done.err
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".zoo", ".safetensors", ".onnx")]


def test_a_net_that_is_always_right_keeps_its_file(product, tmp_path, monkeypatch):
    net = torch.nn.Flatten(1)  # whose logits are the images
    images = 9 * torch.eye(10)[:, :, None]
    monkeypatch.setattr(Digits, "loader", lambda self, split, device: [(images, torch.arange(10))])
    with pytest.raises(BadInput, match="no temperature"):
        calibrate(product, net, Digits(), CPU, tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()
