"""Files of nets on the same test images: figures are those of scikit-learn and SciPy, and the page needs no other."""

import json
import re
from dataclasses import replace

import pytest
import torch
from conftest import ROOT
from omegaconf import OmegaConf
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, recall_score

from zoo.checkpoint.named_files import file_of
from zoo.checkpoint.product_file import Product, read_product, save_product
from zoo.compare import file_page
from zoo.compare.file_tables import file_tables
from zoo.data.images import ImageData
from zoo.data.sources import ImageSource, LabelledImages
from zoo.inference import compare_files, evaluate, robustness, same_images
from zoo.inference.compare_files import short_names
from zoo.packed.packed_file import save_packed

EARLIER = ROOT / "tests" / "earlier"
DIGITS = "zoo:lenet5_mnist_5k"


def bars():
    """Draw images of three classes, by the row of a bright bar."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    images = torch.randint(60, (90, 1, 15, 15), generator=draw)
    images[torch.arange(90), :, 3 + 4 * labels] += 150
    return ImageSource(LabelledImages(images.to(torch.uint8), labels), None, ["a", "b", "c"])


def changed(tmp_path, name="noisy.safetensors", **facts):
    """Write the net for digits with noise in its weights, and with other facts."""
    product, draw = read_product(file_of(DIGITS)), torch.Generator().manual_seed(0)
    weights = {
        key: weight + 0.5 * weight.std() * torch.randn(weight.shape, generator=draw) if weight.ndim > 1 else weight
        for key, weight in product.weights.items()
    }
    save_product(tmp_path / name, weights, {**product.facts, **facts})
    return tmp_path / name


class Rows(torch.nn.Module):
    """Answer with the brightest of the three rows with a bar, and noise."""

    def __init__(self, noise, seed):
        super().__init__()
        self.seed = seed
        self.noise, self.scale = noise, torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, images):
        draw = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(len(images), 3, generator=draw).to(images)
        return self.scale * images[:, 0, 3:12:4].mean(2) + self.noise * noise


def files_of(tmp_path, nets):
    """Return files of nets whose test images are forty bars in noise."""
    data = ImageData(bars, 3, 1, 15, num_validation=20, num_test=40, batch_size=10, eval_batch_size=40)
    config = {"choices": {"model": "rows", "data": "bars"}}
    facts = {"config": config, "recipe": [], "data": {"classes": ["a", "b", "c"]}, "temperature": 1.3}
    files = []
    for i, net in enumerate(nets):
        (tmp_path / f"{i}.zoo").write_bytes(bytes(100 + i))
        source = Product(tmp_path / f"{i}.zoo", {}, facts)
        files.append(compare_files.NetFile(f"{i}.zoo", f"{i}.zoo", source, net, data, torch.device("cpu")))
    return files


def test_figures_are_those_of_scikit_learn_and_scipy(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_files, "in_turn_ms", lambda calls, *_: [0.25] * len(calls))
    monkeypatch.setattr(robustness, "KINDS", ("contrast",))
    files = files_of(tmp_path, [Rows(2.0, 1), Rows(4.0, 2)])
    cfg = OmegaConf.create({"corruptions": True, "explain": True})
    result = compare_files.compare_files(files, cfg)
    first, other = result.figures["files"]
    predicted = [evaluate.predict(one.net, one.data, "test", one.device) for one in files]
    labels, against = predicted[0][1], other["against_first"]
    answers = [logits.argmax(1) for logits, _ in predicted]
    right = [one == labels for one in answers]
    lost, won = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert lost > won > 0
    assert (against["only_first"], against["only_other"]) == (lost, won)
    assert against["p"] == against["p_holm"] == pytest.approx(binomtest(lost, lost + won).pvalue)
    assert against["agreement"] == pytest.approx(accuracy_score(*answers))
    for row, (logits, _), own in zip((first, other), predicted, answers, strict=True):
        figures, shares = row["evaluation"], (logits.double() / 1.3).softmax(1)
        assert figures["accuracy"] == pytest.approx(accuracy_score(labels, own))
        interval = binomtest(int((own == labels).sum()), len(labels)).proportion_ci(method="wilson")
        assert row["accuracy_interval"] == pytest.approx([interval.low, interval.high])
        assert figures["calibration"]["nll"] == pytest.approx(log_loss(labels, shares), rel=1e-5)
        one_hot = torch.nn.functional.one_hot(labels, 3)
        brier = sum(brier_score_loss(one_hot[:, i], shares[:, i]) for i in range(3))
        assert figures["calibration"]["brier"] == pytest.approx(brier, rel=1e-5)
        recall = [one["recall"] for one in figures["classes"].values()]
        assert recall == pytest.approx(list(recall_score(labels, own, average=None)))
        assert list(row["corruptions"]["kinds"]) == ["contrast"]
        assert row["explanations"]["own"]["gradient × input"]["deletion"] < row["explanations"]["random"]["deletion"]
    assert [row["size_bytes"] for row in (first, other)] == [100, 101]
    assert first["explanations"]["of_first"] == first["explanations"]["own"]
    assert [flip.label == flip.first for flip in result.flips[0]] == [True] * min(lost, 8) + [False] * min(won, 8)
    assert all(len(row.cells) == 2 for row in result.maps)
    file_page.write(tmp_path / "page.html", result.figures, result.flips, result.maps)
    check_page((tmp_path / "page.html").read_text(), lost, won)
    assert json.loads((tmp_path / "page.json").read_text())["files"][1]["against_first"] == against


def test_a_net_without_gradients_has_the_maps_of_the_first(tmp_path):
    files = files_of(tmp_path, [Rows(0.3, 1), Rows(0.3, 1)])
    facts = {**files[1].source.facts, "recipe": [{"pass": "ptq_int8"}]}
    files[1] = replace(files[1], source=replace(files[1].source, facts=facts))
    _, labels = evaluate.predict(files[0].net, files[0].data, "test", files[0].device)
    scores, rows = same_images.explain(files, labels, [labels, labels])
    assert scores[1]["own"] is None
    assert scores[1]["of_first"] == scores[0]["own"]  # of an equal net
    assert all(row.cells[0][0] is not None and row.cells[1][0] is None for row in rows)


@pytest.mark.slow
def test_the_command_compares_files_of_all_kinds(command, tmp_path, monkeypatch):
    monkeypatch.setattr(robustness, "KINDS", ("contrast",))
    assert command("scripts/export", f"checkpoint={DIGITS}", "format=onnx", "out=.").code == 0
    done = command("scripts/compare", DIGITS, str(changed(tmp_path)), "model.onnx", "corruptions=true", "explain=true")
    assert done.code == 0, done.err
    files = json.loads((tmp_path / "runs/comparison/files.json").read_text())["files"]
    assert files[0]["evaluation"]["accuracy"] == 0.986
    assert files[2]["against_first"]["agreement"] == 1
    assert files[2]["corruptions"] == files[0]["corruptions"]
    assert all(row["latency_ms"] > 0 for row in files)
    assert files[2]["explanations"]["own"] is None
    again = command("scripts/compare", DIGITS, "zoo:lenet5_mnist_5k", "markdown=true", "out=no")
    assert "| 100.00% | 0 | 0 | 1 |" in again.out
    assert not (tmp_path / "no").exists()


def check_page(page, lost, won):
    """The page has pictures of both directions, and refers to nothing outside of it."""
    assert set(re.findall(r'(?:src|href)="(\w+:[\w/+]+)', page)) == {"data:image/png", "data:image/svg+xml"}
    assert not re.search(r"https?://|@import|url\(", page)
    assert page.count('<figure class="lost">') >= min(lost, compare_files.NUM_FLIPS)
    assert page.count('<figure class="won">') == min(won, compare_files.NUM_FLIPS)
    assert "prefers-color-scheme: dark" in page


def test_tables_fit_eighty_columns(capsys, monkeypatch, figures):
    monkeypatch.setenv("COLUMNS", "80")
    file_page.show(figures)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for table in file_tables(figures):
        heads = next(line for line in lines if line.split()[:1] == ["file"] and table.columns[-1] in line)
        assert all(column in heads for column in table.columns)


@pytest.fixture(scope="module")
def figures():
    """Figures of two files with long names, one of which has neither a latency nor maps of its own."""
    from zoo.measure.evaluation import evaluate as measured

    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (500,), generator=draw)
    rows = []
    for i, name in enumerate(("runs/dense/2026-01-01/model.safetensors", "runs/int8_with_a_long_name/model.pt2")):
        logits = 3 * torch.nn.functional.one_hot(labels, 3) + torch.randn(500, 3, generator=draw)
        found = measured(logits, labels, ["one", "an even longer name of a class", "<b>"])
        scores = {"own": None if i else {"x": {"deletion": 0.3}}, "of_first": {"x": {"deletion": 0.31}}}
        row = {"name": name, "size_bytes": 1_728_704, "latency_ms": None if i else 0.25, "evaluation": found}
        row |= {"accuracy_interval": [0.9, 0.92], "recall_intervals": [[0.9, 0.92]] * 3}
        row |= {"corruptions": {"mean_accuracy": 0.71}}
        row |= {"explanations": {"num_images": 200, **scores, "random": {"deletion": 0.6}}}
        against = {"agreement": 0.923, "only_first": 396, "only_other": 258, "both_wrong": 7, "p": 1e-7, "p_holm": 2e-7}
        rows.append(row | ({"against_first": against} if i else {}))
    return {"data": "fashion_mnist", "num_samples": 10_000, "device": "a CPU", "threads": 2, "files": rows}


def test_a_class_name_is_text_on_the_page(figures):
    assert "<b>" not in file_page._recalls(figures)
    assert "&lt;b&gt;" in file_page._recalls(figures)
    assert "<b\\>" not in file_page.markdown(figures)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/model.safetensors", "b/model.zoo"], ["a", "b"]),
        (["runs/a/model.zoo", "runs/b/model.zoo", "zoo:x"], ["a", "b", "zoo:x"]),
        (["runs/a/1/model.zoo", "runs/a/1/model.onnx"], ["model.zoo", "model.onnx"]),
        (["r/a/1/m.zoo", "r/a/2/m.zoo", "r/b/2/m.zoo"], ["a/1", "a/2", "b/2"]),
        (["zoo:x", "runs/model.zoo"], ["zoo:x", "runs/model.zoo"]),
        (["a.zoo", "a.zoo"], ["a.zoo", "a.zoo"]),
    ],
)
def test_names_have_what_differs(paths, names):
    assert short_names(paths) == names


@pytest.mark.slow
def test_a_packed_file_of_other_normalisation_has_its_own_data(tmp_path):
    product = read_product(file_of(DIGITS))
    data = {**product.facts["data"], "mean": [0.0]}
    config = {**product.facts["config"], "data": {**product.facts["config"]["data"], "mean": [0.0]}}
    config["data"]["std"] = data["std"]
    save_packed(tmp_path / "other.zoo", product.weights, {**product.facts, "data": data, "config": config})
    cfg = compare_settings()
    files = compare_files.open_files([DIGITS, str(tmp_path / "other.zoo"), DIGITS], cfg)
    assert files[0].data is files[2].data is not files[1].data
    assert files[1].data.load().mean == [0.0]


def compare_settings():
    settings = {"corruptions": False, "explain": False, "accelerator": "cpu", "batch_size": 500}
    return OmegaConf.create({**settings, "data_root": None, "download": False})


def other_size(tmp_path):
    facts = read_product(file_of(DIGITS)).facts
    config = {**facts["config"], "data": {**facts["config"]["data"], "image_size": 32}}
    return str(changed(tmp_path, "large.safetensors", config=config))


def other_order(tmp_path):
    facts = read_product(file_of(DIGITS)).facts
    data = {**facts["data"], "classes": facts["data"]["classes"][::-1]}
    return str(changed(tmp_path, "turned.safetensors", data=data))


def no_net(tmp_path):
    (tmp_path / "picture.png").write_bytes((ROOT / "docs/digit.png").read_bytes())
    return "picture.png"


SLOW_MISTAKES = [
    ([DIGITS, "nothing.onnx"], "there is no file nothing.onnx"),
    ([DIGITS, no_net], "picture.png"),
    ([DIGITS, other_size], "takes images of 1 x 32 x 32, and zoo:lenet5_mnist_5k of 1 x 28 x 28"),
    ([DIGITS, other_order], "in another order"),
    ([EARLIER / "ptq_int8.safetensors", DIGITS, "explain=true"], "ptq_int8.safetensors"),
    ([DIGITS, EARLIER / "lstm.zoo"], "reads sequences; files are compared on images"),
]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_MISTAKES),
        ([DIGITS, "zoo:lenet5_fashion_mnist"], "has other classes than zoo:lenet5_mnist_5k, such as"),
        ([DIGITS, "nothing.zoo"], "there is no file nothing.zoo"),
        ([EARLIER / "packed.zoo"], "expected 2 to 12 files to compare, got 1"),
        ([DIGITS, DIGITS, "last=3"], "last=3 is for runs"),
        ([DIGITS, DIGITS, "optim.lr=0.1"], "there is no setting 'optim.lr'"),
        ([DIGITS, DIGITS, "out=taken.html"], "taken.json exists and is not a comparison"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_sentence(command, tmp_path, line, words):
    (tmp_path / "taken.json").write_text('{"accuracy": 1}')
    done = command("scripts/compare", *(one(tmp_path) if callable(one) else str(one) for one in line))
    assert (done.code, words in done.sentence) == (2, True), done.err
    assert not list(tmp_path.glob("*.html"))
    assert not (tmp_path / "runs").exists()
