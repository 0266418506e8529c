import os
import re
import shutil

import pytest
import torch
from conftest import toy_images
from PIL import Image
from small import FACTS, tiny

from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product
from zoo.errors import BadInput
from zoo.export.onnx import save_onnx
from zoo.export.parts import parts
from zoo.export.pt2 import save_pt2
from zoo.inference import predict
from zoo.models.decoding import greedy
from zoo.report import tables


@pytest.fixture
def pictures(tmp_path):
    """Write toy images of the classes 0, 1 and 2 as grey PNG files, and return their pixels."""
    images, _ = toy_images(3, seed=5)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    return torch.from_numpy(images)


def rows(out):
    """Parse the printed lines: (input, probability, prediction)."""
    return [re.fullmatch(r"(.*?) +([\d.]+%)  (.*)", line).groups() for line in out.splitlines()]


def test_an_image_file_gets_the_classes_that_its_pixels_have(command, teacher, pictures):
    outcome = command("scripts/predict", str(teacher.parent), "0.png", "1.png", "2.png", "top=3")
    assert outcome.code == 0, outcome.err
    product = read_product(teacher)
    facts = product.facts["data"]
    inputs = (pictures[:, None].float() - facts["mean"][0]) / facts["std"][0]
    shares, classes = load_model(product).eval()(inputs).softmax(1).topk(3)
    asked, probabilities, named = zip(*rows(outcome.out), strict=True)
    assert [one.strip() for one in asked] == ["0.png", "", "", "1.png", "", "", "2.png", "", ""]
    assert list(named) == [facts["classes"][i] for i in classes.flatten().tolist()]
    assert list(probabilities) == [f"{share:.1%}" for share in shares.flatten().tolist()]


def test_a_text_gets_what_the_net_writes_for_it_with_falling_probabilities(command, only_run):
    settings = ["data=reverse", "data.num_pairs=500", "model.width=16", "trainer=cpu", "trainer.max_epochs=1"]
    settings += ["trainer.log_every_n_steps=3"]
    assert command("train", *settings, "name=toy").code == 0
    file = only_run() / "model.safetensors"
    outcome = command("scripts/predict", f"checkpoint={file}", "abc", "head", "top=1")
    assert outcome.code == 0, outcome.err
    product = read_product(file)
    symbols = product.facts["data"]["source_symbols"]
    net = load_model(product).eval()
    for text in ("abc", "head"):
        tokens = greedy(net, torch.tensor([[symbols.index(letter) for letter in text]]), 8)
        (found,) = [row[2] for row in rows(outcome.out) if row[0] == text]
        written = [product.facts["data"]["target_symbols"][token] for token in tokens[0].tolist() if token]
        assert found == " ".join(written)  # a beam of one is greedy
    outcome = command("scripts/predict", f"checkpoint={file}", "abc", "top=4")
    shares = [float(row[1].strip("%")) for row in rows(outcome.out)]
    assert len(shares) == 4
    assert shares == sorted(shares, reverse=True)


def test_a_background_that_is_no_colour_is_not_blamed_on_the_picture(pictures, tmp_path):
    settings = {"image_size": 28, "in_channels": 1, "background": {"a": 1}}
    with pytest.raises(BadInput, match=r"^data\.background: expected a colour"):
        predict.read_image(str(tmp_path / "0.png"), settings, FACTS["data"])


def test_what_cannot_be_predicted_is_refused_in_one_sentence(command, teacher, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.bin").write_bytes(b"damaged")
    for inputs, words in (
        ([], ["inputs: expected image files"]),
        (["absent.png"], ["absent.png", "no such file"]),
        (["*.bmp"], ["*.bmp", "no such file"]),
        (["empty"], ["empty", "no image"]),
        (["model.bin"], ["model.bin", "cannot be read as an image"]),
        (["0.png", "top=0"], ["top: expected", "at least 1"]),
    ):
        outcome = command("scripts/predict", f"checkpoint={teacher}", *inputs)
        assert outcome.code == 2
        assert all(word in outcome.sentence for word in words)


@pytest.mark.parametrize(("name", "save"), [("model.onnx", save_onnx), ("model.pt2", save_pt2)])
def test_an_exported_file_as_the_first_word_says_of_pictures_what_its_net_does(command, pictures, tmp_path, name, save):
    net = tiny()
    save(tmp_path / name, parts(net, FACTS)[""], FACTS)
    outcome = command("scripts/predict", name, "0.png", "1.png", "2.png", "top=1")
    assert outcome.code == 0, outcome.err
    shares, classes = net((pictures[:, None].float() - 72.9) / 90).softmax(1).max(1)
    wanted = zip(shares.tolist(), classes.tolist(), strict=True)
    assert [row[1:] for row in rows(outcome.out)] == [(f"{share:.1%}", f"class {i}") for share, i in wanted]
    refused = command("scripts/export", f"checkpoint={name}", "format=onnx")
    assert (refused.code, name in refused.sentence, "is an exported file" in refused.sentence) == (2, True, True)


def test_folders_and_patterns_name_their_pictures_once_and_in_order(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("more/deep/3.PNG", "more/notes.txt", "more/.hidden.png", "more/.cache/4.png", "a[1].png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("0.png", name)
    assert predict.files_of(["1.png", "more", "a[1].png"]) == ["1.png", "more/deep/3.PNG", "a[1].png"]
    assert predict.files_of(["?.png", "2.png", "mor*"]) == ["0.png", "1.png", "2.png", "more/deep/3.PNG"]
    assert predict.files_of(["**/*.PNG"]) == ["more/deep/3.PNG"]


def test_a_pattern_leaves_out_what_is_no_file_and_names_a_picture_once_however_links_lead_to_it(
    pictures, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more").mkdir()
    shutil.copy("0.png", "more/3.png")
    (tmp_path / "more/loop").symlink_to(tmp_path / "more")
    os.mkfifo(tmp_path / "more/pipe.png")
    assert predict.files_of(["more/**/*.png"]) == ["more/3.png"]


def test_what_folders_leave_out_is_counted_and_said_as_training_says_it(pictures, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    for name in ("more/3.png", "more/deep/4.PNG", "more/a.heic", "more/deep/b.HEIC", "more/notes.txt", "more/.5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("0.png", name)
    (tmp_path / "more/gone.png").symlink_to("nowhere.png")
    with caplog.at_level("WARNING", "zoo"):
        files = predict.files_of([str(tmp_path / "more"), "1.png"])
    assert [name.split("/")[-1] for name in files] == ["3.png", "4.PNG", "1.png"]
    left_out = "files of kind .heic (2), hidden entries (1), broken links (1), files of kind .txt (1)"
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(f"{tmp_path}/more: skipped 5 in all: ")
    assert sorted(line.removesuffix(".").split(": ")[2].split(", ")) == sorted(left_out.split(", "))


def test_pictures_go_through_in_batches_and_what_is_known_comes_at_once(tmp_path, monkeypatch):
    paths = [f"{i}.png" for i in range(40)]
    read, sizes = [], []

    def read_image(path, settings, facts, seen):
        read.append(path)
        if path == "20.png":
            raise BadInput(f"'{path}' cannot be read as an image")
        return torch.full((1, 1), float(path.removesuffix(".png")))

    def net(images):
        sizes.append(len(images))
        return torch.cat([images, torch.zeros(len(images), 1)], 1)

    monkeypatch.setattr(predict, "read_image", read_image)
    monkeypatch.setattr(predict, "files_of", list)
    found = predict.predict(net, FACTS | {"data": {"classes": ["x", "y"]}}, paths, 1, torch.device("cpu"))
    assert next(found) == ("0.png", [("x", 0.5)])
    assert len(read) == predict.BATCH
    rest = []
    with pytest.raises(BadInput, match=r"'20\.png' cannot be read"):
        rest += (path for path, _ in found)
    assert sizes == [16, 15, 8]
    assert read == paths


def test_a_name_that_is_not_utf8_is_printed_with_its_bytes(capfd):
    tables.show_predictions([(os.fsdecode(b"caf\xe9.png"), [("x", 0.75), ("y", 0.25)])])
    assert capfd.readouterr().out == "caf\\xe9.png   75.0%  x\n" + " " * 11 + "   25.0%  y\n"
