"""Accuracies on corrupted and shifted images, and telling other data apart, from the images that they are about."""

import json

import pytest
import torch
from conftest import ROOT
from omegaconf import OmegaConf
from sklearn.metrics import roc_auc_score

from zoo.data.corruptions import KINDS, corrupt, generator
from zoo.data.images import ImageData
from zoo.data.shifts import rotated, translated
from zoo.data.sources import ImageSource, LabelledImages
from zoo.errors import BadInput
from zoo.inference import robustness
from zoo.report import robustness_tables

CPU = torch.device("cpu")


def bars(channels=1):
    """Draw images of three classes, by the row of a bright bar."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    images = torch.randint(60, (90, channels, 15, 15), generator=draw)
    images[torch.arange(90), :, 3 + 4 * labels] += 150
    return ImageSource(LabelledImages(images.to(torch.uint8), labels), None, ["a", "b", "c"])


@pytest.fixture
def data():
    return ImageData(bars, 3, 1, 15, num_validation=20, num_test=40, batch_size=10, eval_batch_size=16)


class Rows(torch.nn.Module):
    """Answer with the brightest of the three rows."""

    def forward(self, images):
        return images[:, 0, 3:12:4].mean(2)


def test_accuracies_are_those_of_the_corrupted_test_images(data):
    found = robustness.corruptions(Rows(), data, "test", CPU, seed=3)
    assert tuple(found["kinds"]) == KINDS
    data.load()
    images, labels = data.splits["test"].images, data.splits["test"].labels
    for kind in ("impulse_noise", "fog", "pixelate"):
        for severity in (1, 5):
            draw = generator(kind, severity, 3, CPU)
            sizes = [len(batch) for _, batch in data.loader("test", CPU)]
            parts = [corrupt(part, kind, severity, draw) for part in images.split(sizes)]
            right = Rows()(torch.cat(parts).float()).argmax(1) == labels
            assert found["kinds"][kind][severity - 1] == pytest.approx(float(right.double().mean()))
    every = [share for row in found["kinds"].values() for share in row]
    assert len(every) == 75
    assert found["mean_accuracy"] == pytest.approx(sum(every) / 75)
    assert robustness.corruptions(Rows(), data, "test", CPU, seed=3) == found
    assert robustness.corruptions(Rows(), data, "test", CPU, seed=4) != found


def test_a_number_of_images_are_evenly_spaced(data, monkeypatch):
    monkeypatch.setattr(robustness, "KINDS", ("brightness",))  # draws nothing
    data.load()
    chosen = [0, 6, 12, 18, 23, 29, 35]  # ceil(i * 40 / 7)
    images, labels = data.splits["test"].images[chosen], data.splits["test"].labels[chosen]
    found = robustness.corruptions(Rows(), data, "test", CPU, 3, 7)
    assert found["num_images"] == 7
    draw = generator("brightness", 5, 3, CPU)
    right = Rows()(corrupt(images, "brightness", 5, draw).float()).argmax(1) == labels
    assert found["kinds"]["brightness"][4] == pytest.approx(float(right.double().mean()))
    every = robustness.corruptions(Rows(), data, "test", CPU, 3)
    assert every == robustness.corruptions(Rows(), data, "test", CPU, 3, 1000)
    assert every["num_images"] == 40


@pytest.mark.parametrize("value", [0, -5, 1.5, "some"])
def test_a_number_of_images_is_checked(data, value):
    with pytest.raises(BadInput, match="corruptions: expected true, false, or a number of test images from 1, got"):
        robustness.check_corruptions(data, value)


def test_shifts_count_every_direction(data):
    found = robustness.shifts(Rows(), data, "test", CPU)
    assert list(found) == ["translation", "rotation", "brightness"]
    images, labels = data.splits["test"].images, data.splits["test"].labels
    shares = [(Rows()(one.float()).argmax(1) == labels).double().mean() for one in translated(images, 0.05)]
    assert found["translation"]["0.05"] == pytest.approx(float(sum(shares)) / 4)
    assert found["brightness"]["0.5"] == 1


def test_other_data_are_told_apart_as_scikit_learn_counts():
    draw = torch.Generator().manual_seed(0)
    known, others = 4 * torch.randn(200, 5, generator=draw), torch.randn(80, 5, generator=draw)
    found = robustness.separation(known, others, temperature=2.0)
    labels = [1] * 200 + [0] * 80
    logits = torch.cat([known, others])
    expected = roc_auc_score(labels, (logits / 2).softmax(1).amax(1))
    assert found["confidence"]["auroc"] == pytest.approx(expected, abs=1e-6)
    assert found["energy"]["auroc"] == pytest.approx(roc_auc_score(labels, logits.logsumexp(1)), abs=1e-6)
    lost = robustness.separation(known, torch.full((3, 5), torch.nan))
    assert lost["energy"] == {"auroc": 1.0, "fpr95": 0.0}


def test_an_evaluation_has_what_is_asked_for(command, tmp_path, fashion_root, monkeypatch):
    monkeypatch.setattr(robustness, "KINDS", ("contrast", "jpeg_compression"))
    monkeypatch.setattr(robustness, "SHIFTS", {"rotation": (rotated, (10.0, 60.0))})
    settings = {**robustness.data_settings("fashion_mnist"), "num_validation": 60}  # of 700 images
    monkeypatch.setattr(robustness, "data_settings", lambda name: settings)
    line = ["checkpoint=zoo:lenet5_mnist_5k", "corruptions=40", "shift=true", "out_of_distribution=fashion_mnist"]
    done = command("evaluate", *line, f"data_root={fashion_root}", "accelerator=cpu", "split=val")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "zoo_lenet5_mnist_5k/evaluation_lenet5_mnist_5k.zoo_val.json").read_text())
    assert list(found["corruptions"]["kinds"]) == ["contrast", "jpeg_compression"]
    assert found["corruptions"]["num_images"] == 40
    assert found["corruptions"]["kinds"]["jpeg_compression"][0] == pytest.approx(found["accuracy"], abs=0.05)
    assert found["shift"]["rotation"]["10"] > found["shift"]["rotation"]["60"]
    assert found["out_of_distribution"]["data"] == "fashion_mnist"
    assert found["out_of_distribution"]["num_samples"] == 200
    assert found["out_of_distribution"]["energy"]["auroc"] > 0.9  # noise with a bar is no digit
    for words in ("on 40 corrupted images", "jpeg compression", "accuracy by rotation", "from 200 of fashion_mnist"):
        assert words in done.out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["corruptions=true"], "corruptions=true is for nets that classify images, and this one reads sequences"),
        (["shift=true"], "shift=true is for nets that classify images"),
        (["out_of_distribution=mnist"], "out_of_distribution=mnist is for nets that classify images"),
    ],
)
def test_sequences_cannot_be_corrupted(command, line, words):
    done = command("evaluate", f"checkpoint={ROOT / 'tests/earlier/lstm.zoo'}", *line)
    assert (done.code, words in done.sentence) == (2, True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar10", "expected data of in_channels=1, which the net takes, got 3"),
        ("cmudict", "in_channels=1, which the net takes, got sequences"),
        ("mnist_5k", "these are the data that the net was trained on"),
        ("fashion_mnits", "did you mean fashion_mnist"),
        ("../secret", "is not a data set"),
    ],
)
def test_other_data_that_do_not_fit_are_told_in_one_sentence(command, tmp_path, name, words):
    done = command("evaluate", "checkpoint=zoo:lenet5_mnist_5k", f"out_of_distribution={name}")
    assert (done.code, words in done.sentence) == (2, True), done.err
    assert not list(tmp_path.iterdir())


def test_data_of_other_channels_cannot_be_corrupted():
    cfg = OmegaConf.create({"corruptions": True, "shift": False, "out_of_distribution": None})
    two = ImageData(lambda: bars(2), 3, 2, 15, num_validation=20, num_test=40, batch_size=10)
    with pytest.raises(BadInput, match="corruptions=true is for gray and RGB images, and these have 2 channels"):
        robustness.check(two, cfg)


def test_an_evaluation_without_them_prints_no_table(capsys):
    robustness_tables.show({"accuracy": 1.0})
    assert capsys.readouterr().out == ""
