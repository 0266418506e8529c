"""Tables and grids of predictions, words from a file, and hints on pictures that are unlike the training data."""

import csv
import os

import numpy as np
import pytest
from conftest import ROOT, toy_images
from omegaconf import OmegaConf
from PIL import Image
from small import FACTS

import zoo
from zoo.data.read_image import read_picture
from zoo.errors import BadInput
from zoo.export.read_export import read_net
from zoo.inference import predict
from zoo.inference.predict_files import predict_files, words_in
from zoo.inference.unlike import Unlike
from zoo.report.prediction_files import write_table

NET = "zoo:lenet5_mnist_5k"
WRITER = ROOT / "tests/earlier/lstm.zoo"


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def pictures(tmp_path):
    """Write 20 pictures, more than one batch, and a file among them that is none."""
    images, _ = toy_images(20, seed=5)
    (tmp_path / "some").mkdir()
    for i, image in enumerate(images):
        save(tmp_path / "some" / f"{i:02}.png", image)
    (tmp_path / "some" / "05b.png").write_text("not a picture")
    return images


def test_a_table_and_a_grid_have_every_picture_that_can_be_read(command, pictures, tmp_path):
    outcome = command("scripts/predict", NET, "some", "top=3", "out=table.csv", "grid=grid.png")
    assert outcome.code == 2
    assert "some/05b.png" in outcome.sentence
    with open("table.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["file", "class", "probability", "class_2", "probability_2", "class_3", "probability_3"]
    assert [row[0] for row in rows] == [f"some/{i:02}.png" for i in range(20)]
    trained = zoo.load("lenet5_mnist_5k")
    for row in rows:
        guesses = trained.predict(row[0], top=3)  # one at a time
        assert row[1::2] == [name for name, _ in guesses]
        np.testing.assert_allclose([float(cell) for cell in row[2::2]], [share for _, share in guesses], rtol=1e-4)
    grid = np.asarray(Image.open("grid.png"))
    assert grid.shape == (4 * 194, 5 * 150, 3)
    whole = Image.fromarray(pictures[6]).resize((140, 140), Image.Resampling.NEAREST)
    assert (grid[194 + 5 : 194 + 145, 155:295] == np.asarray(whole)[:, :, None]).all()  # row 2, column 2
    assert (grid[194 + 150 : 388, 155:295] < 128).any()  # its caption
    assert sorted(os.listdir(tmp_path)) == ["grid.png", "some", "table.csv"]


def test_what_could_not_be_written_at_the_end_is_refused_before_any_prediction(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net, writer = read_net(NET), read_net(str(WRITER))
    for file, settings, words in (
        (net, {"out": "table.txt"}, ["out: expected", ".csv"]),
        (net, {"out": "absent/table.csv"}, ["out: expected", "absent"]),
        (net, {"grid": "some"}, ["grid: expected", ".png"]),
        (net, {"grid": "some/../some/03.png"}, ["grid:", "one of the pictures"]),
        (net, {"words": "words.txt"}, ["words:", "classifies pictures"]),
        (writer, {"grid": "grid.png"}, ["grid:", "reads texts"]),
    ):
        with pytest.raises(BadInput) as error:
            predict_files(file, ["some"], OmegaConf.create({"out": None, "grid": None, "words": None, **settings}))
        assert all(word in str(error.value) for word in words)
    for path, words in (
        ("absent.txt", ["words: expected", "absent.txt"]),
        ("some/00.png", ["words: expected", "UTF-8"]),
    ):
        with pytest.raises(BadInput) as error:
            words_in(path)
        assert all(word in str(error.value) for word in words)
    assert capsys.readouterr().out == ""
    assert (read_picture("some/03.png")[0].numpy() == pictures[3]).all()


def test_words_of_a_file_are_written_for_and_those_with_unknown_symbols_are_named(command, tmp_path):
    (tmp_path / "words.txt").write_text("bad\n\n  cab \nb1d\nabc\n")
    outcome = command("scripts/predict", str(WRITER), "dead", "words=words.txt", "top=2", "out=table.csv")
    assert outcome.code == 2
    assert "'b1d'" in outcome.sentence
    with open("table.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["text", "sequence", "probability", "sequence_2", "probability_2"]
    assert [row[0] for row in rows] == ["dead", "bad", "cab", "abc"]
    alone = command("scripts/predict", str(WRITER), "cab", "top=2")
    assert alone.code == 0
    assert all(guess in alone.out for guess in rows[2][1::2])


def test_names_that_would_be_formulas_are_texts_and_missing_guesses_are_empty_in_a_table(tmp_path):
    write_table(
        tmp_path / "table.csv", [("-1.png", [("=a", 0.75), ("b", 0.25)]), ("c, d.png", [("b", 1.0)])], ("f", "g")
    )
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert lines == ["f,g,probability,g_2,probability_2", "'-1.png,'=a,0.75,b,0.25", '"c, d.png",b,1,,']


def hints(tmp_path, pixels, facts=FACTS):
    """Return the hints on pictures, each noted as predictions do."""
    unlike = Unlike(facts)
    for i, one in enumerate(pixels):
        predict.read_image(save(tmp_path / f"{i}.png", one), facts["config"]["data"], facts["data"], unlike.note)
    return unlike.sentences()


def test_each_difference_from_the_training_data_is_told_once(tmp_path):
    usual = list(toy_images(4, seed=1)[0])
    digit = np.zeros((28, 28), np.uint8)
    digit[4:24, 12:16] = 255
    facts = {**FACTS, "data": {**FACTS["data"], "mean": [33.0], "std": [78.0]}}  # those of MNIST
    assert hints(tmp_path, [*usual, digit], facts) == []
    (hint,) = hints(tmp_path, [digit, 255 - digit, 255 - digit], facts)
    assert all(word in hint for word in ("brighter", "2 of 3", "1.png", "Light and dark", " 33"))
    (hint,) = hints(tmp_path, [digit, np.full((28, 28), 130, np.uint8)], facts)
    assert "brighter" in hint
    assert "Light and dark" not in hint  # 125 is as far from 33 as 130
    (hint,) = hints(tmp_path, [np.kron(digit, np.ones((3, 3), np.uint8))], facts)
    assert all(word in hint for word in ("size", "84 × 84 px", "28 px"))
    sizes = hints(tmp_path, [digit, np.zeros((28, 43), np.uint8)], facts)
    assert [("another shape" in one, "43 × 28 px" in one) for one in sizes] == [(True, True)]
    colour = np.stack([digit, digit, digit // 4], 2)
    (hint,) = hints(tmp_path, [colour, np.stack([digit] * 3, 2)], facts)
    assert all(word in hint for word in ("Coloured", "1 of 2"))


def test_pictures_for_a_net_of_photographs_may_have_any_larger_size_and_colours(tmp_path):
    settings = {**FACTS["config"]["data"], "in_channels": 3, "num_workers": None, "resize": 32}
    data = {**FACTS["data"], "mean": [120.0] * 3, "std": [60.0] * 3}
    facts = {**FACTS, "config": {**FACTS["config"], "data": settings}, "data": data}
    draw = np.random.default_rng(0)
    photos = [draw.integers(0, 255, size, np.uint8) for size in ((60, 80, 3), (28, 28, 3))]
    assert hints(tmp_path, photos, facts) == []
    (hint,) = hints(tmp_path, [*photos, photos[1][:20]], facts)
    assert all(word in hint for word in ("smaller", "28 × 20 px", "1 of 3"))
