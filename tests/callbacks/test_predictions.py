"""Stored and plotted predictions of a test, compared with scikit-learn and a second prediction of the product."""

import json

import pytest
import safetensors
import sklearn.decomposition
import sklearn.metrics
import torch
from conftest import scalars, with_plots
from matplotlib.text import Text
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.util.tensor_util import make_ndarray
from torch.nn.functional import one_hot

from zoo.callbacks.attention_maps import draw_maps
from zoo.callbacks.layer_plots import draw_update_ratios
from zoo.callbacks.prediction_plots import NUM_MISTAKES, draw_mistakes, framed, principal_components
from zoo.callbacks.predictions import most_confident, smallest_type
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product
from zoo.inference.evaluate import predict
from zoo.instantiate import build
from zoo.measure.calibration import calibration
from zoo.report.calibration_plot import draw_calibration
from zoo.report.plots import draw_confusion
from zoo.run.preflight import draw_examples


@pytest.fixture
def events_of():
    def read(folder):
        events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
        events.Reload()
        return events

    return read


def test_a_run_keeps_its_predictions_and_shows_them(command, toy, only_run, compose, events_of):
    assert command("train", *with_plots(toy), "optim.lr=0.0005", "trainer.max_epochs=1").code == 0
    folder = only_run()
    product, result = read_product(folder / "model.safetensors"), json.loads((folder / "result.json").read_text())
    with torch.random.fork_rng():
        net, data = load_model(product).eval(), build(compose(*toy).data, "data")
    logits, labels = predict(net, data, "test", torch.device("cpu"))
    kept = load_file(folder / "predictions.safetensors")
    assert kept["labels"].dtype == kept["predicted"].dtype == torch.uint8
    assert kept["labels"].long().equal(labels)
    assert kept["predicted"].long().equal(logits.argmax(1))
    torch.testing.assert_close(kept["confidence"], logits.double().softmax(1).amax(1), atol=1e-3, rtol=0)
    with safetensors.safe_open(folder / "predictions.safetensors", framework="pt") as file:
        assert file.metadata()["split_hash"] == result["split_hash"]
    accuracy = (kept["labels"] == kept["predicted"]).double().mean()
    assert float(accuracy) == pytest.approx(result["test"]["accuracy"])
    assert 0.1 < accuracy < 1  # otherwise there are no mistakes to show

    events = events_of(folder)
    assert events.Tags()["images"] == [
        f"with the test set/{name}" for name in ("confusion matrix", "most confident mistakes", "reliability diagram")
    ]
    (curve,) = events.Tensors("test precision and recall/Bag")  # rows: TP, FP, TN, FN, precision, recall
    _, _, _, _, precision, recall = make_ndarray(curve.tensor_proto)
    is_bag, shares = labels == data.load().classes.index("Bag"), logits.softmax(1)[:, data.load().classes.index("Bag")]
    middle = len(recall) // 2  # of 127 thresholds, evenly from 0 to 1
    assert recall[middle] == pytest.approx(sklearn.metrics.recall_score(is_bag, shares >= 0.5), abs=0.02)
    assert precision[middle] == pytest.approx(
        sklearn.metrics.precision_score(is_bag, shares >= 0.5, zero_division=0), abs=0.02
    )

    rows = (folder / "00000/penultimate layer/metadata.tsv").read_text().splitlines()
    names = [data.load().classes[i] for i in kept["labels"].tolist()]
    assert [row.split("\t")[0] for row in rows] == ["class", *names]
    points = (folder / "00000/penultimate layer/tensors.tsv").read_text().splitlines()
    features = torch.tensor([[float(x) for x in row.split("\t")] for row in points])
    head = net.get_submodule("classifier.5")
    torch.testing.assert_close(head(features), logits, atol=1e-2, rtol=1e-2)  # so they are the inputs of the last layer
    with Image.open(folder / "00000/penultimate layer/sprite.png") as sprite:
        assert sprite.size == (15 * 28, 15 * 28)  # 200 of 225 places

    assert [node.op for node in events.Graph().node].count("Conv2d") == 2
    (layout,) = events.Tensors("custom_scalars__config__")
    charts = [
        one for group in Layout.FromString(make_ndarray(layout.tensor_proto).item()).category for one in group.chart
    ]
    tags = [list(chart.multiline.tag) for chart in charts]
    assert tags == [["val/accuracy"], ["val/loss"], ["train/accuracy"], ["train/loss"]]
    assert {tag for (tag,) in tags} <= scalars(folder).keys()
    assert result["product_bytes"] == (folder / "model.safetensors").stat().st_size
    assert result["latency_ms"] > 0


def test_a_run_of_sequences_keeps_which_sources_were_right_and_shows_its_graph(command, only_run, events_of):
    line = "data=reverse data.num_pairs=500 model.width=16 trainer=cpu trainer.max_epochs=1 trainer.log_every_n_steps=3"
    outcome = command("train", *line.split())
    assert outcome.code == 0, outcome.err
    result = json.loads((only_run() / "result.json").read_text())
    (name, correct), *more = load_file(only_run() / "predictions.safetensors").items()
    assert not more
    assert name == "correct"
    assert len(correct) == result["num_samples"]["test"]
    assert float(correct.double().mean()) == pytest.approx(result["test"]["accuracy"])
    nodes = events_of(only_run()).Graph().node
    assert [node.name for node in nodes if node.op == "input"] == ["source", "target"]


def test_a_task_that_names_no_classes_leaves_no_predictions(command, toy_smoke, only_run):
    outcome = command("train", *with_plots(toy_smoke), "task=rotation")
    assert outcome.code == 0, outcome.err
    assert not (only_run() / "predictions.safetensors").exists()


def test_the_most_confident_are_the_first_of_all_parts():
    draw = torch.Generator().manual_seed(0)
    confidence = torch.rand(70, generator=draw)
    parts = [{"confidence": part, "labels": (100 * part).long()} for part in confidence.split(30)]
    best = confidence.sort(descending=True).values[:NUM_MISTAKES]
    assert most_confident(parts)["confidence"].equal(best)
    assert most_confident(parts)["labels"].equal((100 * best).long())


@pytest.mark.parametrize("num_classes", [1, 2, 10, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_frame_of_an_image_has_the_colour_of_its_class_and_the_rest_is_the_image(num_classes, channels):
    labels = torch.arange(num_classes).repeat(2)
    images = torch.randint(256, (len(labels), channels, 28, 28), dtype=torch.uint8)
    found = framed(images, labels, num_classes)
    assert found.shape == (len(labels), 3, 28, 28)
    torch.testing.assert_close(found[:, :, 2:-2, 2:-2], (images / 255).expand(-1, 3, -1, -1)[:, :, 2:-2, 2:-2])
    corners = found[:, :, 0, 0]
    assert corners[:num_classes].equal(corners[num_classes:])
    assert len({tuple(colour) for colour in corners.tolist()}) == num_classes


@pytest.mark.parametrize("num_classes", [2, 256, 257, 1000, 40_000])
def test_the_type_of_labels_holds_all_of_them_and_no_smaller_one_would(num_classes):
    found = smallest_type(num_classes)
    assert torch.iinfo(found).max >= num_classes - 1
    smaller = [t for t in (torch.uint8, torch.int16, torch.int32) if t.itemsize < found.itemsize]
    assert all(torch.iinfo(t).max < num_classes - 1 for t in smaller)


def test_a_wide_embedding_keeps_the_principal_components():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(60, 200, generator=draw) * torch.linspace(3, 0, 200)
    found = principal_components(features, 5)
    expected = sklearn.decomposition.PCA(5, svd_solver="full").fit_transform(features.double())
    torch.testing.assert_close(found.abs(), torch.from_numpy(expected).abs())  # the signs are arbitrary
    assert principal_components(features[:, :5], 5).equal(features[:, :5])


def test_a_sheet_has_a_tile_a_mistake_in_rows_of_four_below_its_title():
    images = 255 * one_hot(torch.arange(7), 8).view(7, 1, 2, 4)[..., :2].to(torch.uint8)
    sheet = draw_mistakes(["cat", "dog"], images, torch.zeros(7).int(), torch.ones(7).int(), torch.full((7,), 0.9))
    top = len(sheet) - 2 * (150 + 2 * 20 + 12)
    assert 0 < top < 40
    assert sheet.shape[1] == 4 * 150
    assert (sheet[:top] < 128).any()  # black letters
    assert (sheet[top + 5 : top + 75, 5:75] == 255).all()  # the first pixel of the first image
    assert (sheet[top + 80 : top + 140, 80:140] == 0).all()


def test_each_picture_has_the_size_of_a_card_or_is_legible_there():
    """TensorBoard's cards are about 360 px wide, where letters of 9 px are legible."""
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(300, 10, generator=draw), torch.randint(10, (300,), generator=draw)
    update_ratios = [{"update_ratio": {f"layer {i}": 1e-3 for i in range(12)}}] * 2
    for figure in (
        draw_calibration(calibration(logits, labels)),
        draw_update_ratios(update_ratios),
        draw_maps(torch.rand(1, 9, 10, generator=draw), list("abandoned."), list("abandoned"), "abandoned"),
        draw_examples(torch.rand(4, 1, 28, 28, generator=draw), ["Ankle boot"] * 4),
        draw_confusion([[1] * 10] * 10, list("0123456789")),
    ):
        points = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
        assert min(points) / 72 * 360 / figure.get_figwidth() >= 9
    texts = [text.get_text() for text in draw_update_ratios(update_ratios).findobj(Text)]
    assert "rule of thumb: 0.001" in texts
