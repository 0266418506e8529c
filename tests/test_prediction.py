import pytest
import torch
from conftest import toy_images
from PIL import Image

from zoo.checkpoint import read_product
from zoo.models.decoding import greedy
from zoo.nets import net_of


@pytest.fixture
def pictures(tmp_path):
    """Write toy images of the classes 0, 1 and 2 as grey PNG files, and give their pixels."""
    images, _ = toy_images(3, seed=5)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    return torch.from_numpy(images)


def test_an_image_file_gets_the_classes_that_its_pixels_have(command, teacher, pictures):
    outcome = command("scripts/predict", f"checkpoint={teacher}", "0.png", "1.png", "2.png", "top=3")
    assert outcome.code == 0, outcome.err
    product = read_product(teacher)
    facts = product.facts["data"]
    inputs = (pictures[:, None].float() - facts["mean"][0]) / facts["std"][0]
    shares, classes = net_of(product).eval()(inputs).softmax(1).topk(3)
    cells = [line.split("│")[1:4] for line in outcome.out.splitlines() if "%" in line]
    assert [cell[0].strip() for cell in cells] == ["0.png", "", "", "1.png", "", "", "2.png", "", ""]
    assert [cell[1].strip() for cell in cells] == [facts["classes"][i] for i in classes.flatten().tolist()]
    assert [cell[2].strip() for cell in cells] == [f"{share:.1%}" for share in shares.flatten().tolist()]


def test_a_text_gets_what_the_net_writes_for_it_with_falling_probabilities(command, only_run):
    settings = ["data=reverse", "data.num_pairs=500", "model.width=16", "trainer=cpu", "trainer.max_epochs=1"]
    settings += ["trainer.log_every_n_steps=3"]
    assert command("train", *settings, "name=toy").code == 0
    file = only_run() / "model.safetensors"
    outcome = command("scripts/predict", f"checkpoint={file}", "abc", "head", "top=1")
    assert outcome.code == 0, outcome.err
    product = read_product(file)
    symbols = product.facts["data"]["source_symbols"]
    net = net_of(product).eval()
    for text in ("abc", "head"):
        tokens = greedy(net, torch.tensor([[symbols.index(letter) for letter in text]]), 8)
        (line,) = [line for line in outcome.out.splitlines() if line.split("│")[1:2] == [f" {text.ljust(4)} "]]
        written = [product.facts["data"]["target_symbols"][token] for token in tokens[0].tolist() if token]
        assert line.split("│")[2].strip() == " ".join(written)  # a beam of one is greedy
    outcome = command("scripts/predict", f"checkpoint={file}", "abc", "top=4")
    shares = [float(line.split("│")[3].strip(" %")) for line in outcome.out.splitlines() if "%" in line]
    assert len(shares) == 4
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], ["nothing to predict"]),
        (["absent.png"], ["absent.png", "cannot be read as an image"]),
        (["0.png", "top=0"], ["top=0", "at least 1"]),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_one_sentence(command, teacher, pictures, inputs, words):
    outcome = command("scripts/predict", f"checkpoint={teacher}", *inputs)
    assert outcome.code == 2
    assert all(word in outcome.sentence for word in words)
