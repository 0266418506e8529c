"""The nets that come with the zoo: their files, claims and cards, and the commands that take `zoo:NAME`."""

import json
import shutil

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

import zoo
from zoo.checkpoint import named_files
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product
from zoo.checkpoint.stored_config import stored_data
from zoo.data.sources import DEBIAN_FASHION_MNIST
from zoo.errors import BadInput, ZooError
from zoo.inference import cards
from zoo.paths import CARDS, TRAINED
from zoo.run import train_again

NAMES = zoo.list_trained()
HERE = [name for name in NAMES if "fashion_mnist" not in name or DEBIAN_FASHION_MNIST.is_dir()]
MOST_BYTES = 6_000_000  # of all files together


def claim_of(name):
    return json.loads((TRAINED / f"{name}.json").read_text())


def data_of(product):
    return stored_data(product.facts, OmegaConf.create({"batch_size": 500, "data_root": None, "download": False}))


def test_there_are_some_and_they_are_small():
    assert "lenet5_mnist_5k" in NAMES
    assert sum(file.stat().st_size for file in TRAINED.iterdir()) < MOST_BYTES


@pytest.mark.parametrize("name", HERE)
def test_500_test_images_are_recognised_as_claimed(name):
    product = read_product(TRAINED / f"{name}.zoo")
    if "classes" not in product.facts["data"]:
        pytest.skip("a sequence net, whose whole test set is a slow test")
    num = cards.num_of_sample(load_model(product).eval(), data_of(product))
    assert num == claim_of(name)["evaluation"]["of_sample"]


@pytest.mark.slow
@pytest.mark.parametrize("name", HERE)
def test_the_whole_test_set_is_recognised_as_claimed(command, name):
    outcome = command("scripts/reproduce", f"zoo:{name}")
    assert outcome.code == 0, outcome.err
    found = claim_of(name)["evaluation"]
    assert f"{round(found['accuracy'] * found['num_samples']):,} of {found['num_samples']:,} test" in outcome.out


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_the_claim_has_and_nothing_names_a_path_of_a_machine(name):
    trained, claim = zoo.load(name), claim_of(name)
    assert trained.card == (CARDS / f"{name}.md").read_text()
    for figure in (
        f"{claim['evaluation']['accuracy']:.2%}",
        f"{trained.path.stat().st_size:,}",
        claim["run"]["commit"],
        claim["sha256"],
    ):
        assert figure in trained.card
    assert not claim["run"]["commit"].endswith("dirty")
    assert not [text for text in [*texts(trained.metadata), *texts(claim)] if text.startswith("/")]


def texts(node):
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else []:
        yield from [value] if isinstance(value, str) else texts(value)


def test_commands_take_one_by_its_name(command, tmp_path):
    outcome = command("evaluate", "checkpoint=zoo:lenet5_mnist_5k")
    assert outcome.code == 0, outcome.err
    (file,) = tmp_path.glob("zoo_lenet5_mnist_5k/evaluation*.json")
    assert zoo.load("lenet5_mnist_5k").path.parent == TRAINED  # whatever is written here
    assert "did you mean zoo:lenet5_mnist_5k" in command("evaluate", "checkpoint=lenet5_mnist_5k").sentence
    assert json.loads(file.read_text())["accuracy"] == claim_of("lenet5_mnist_5k")["evaluation"]["accuracy"]
    outcome = command("scripts/export", "zoo:lenet5_mnist_5k", "format=safetensors", "max_drop=0")
    assert outcome.code == 0, outcome.err
    assert (
        read_product(TRAINED / "lenet5_mnist_5k.zoo").weights.keys()
        == read_product(tmp_path / "zoo_lenet5_mnist_5k").weights.keys()
    )
    outcome = command("train", "init_from=zoo:lenet5_mnist_5k", "trainer=smoke", "name=on")
    assert outcome.code == 0, outcome.err
    line = ["model=lenet300", "task=distill", "task.teacher=zoo:lenet5_mnist_5k", "trainer=smoke", "name=of_teacher"]
    outcome = command("train", *line)
    assert outcome.code == 0, outcome.err
    outcome = command(
        "scripts/compare", "zoo:lenet5_mnist_5k", "zoo:lenet5_mnist_5k", "runs/on", f"out={tmp_path}/page"
    )
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "page/comparison.md").read_text().count("98.60") == 1
    assert "did you mean lenet5_mnist_5k" in command("evaluate", "checkpoint=zoo:lenet_mnist_5k").sentence


def test_a_claim_that_does_not_hold_is_an_error(tmp_path, monkeypatch):
    for suffix in ("zoo", "json"):
        shutil.copy(TRAINED / f"lenet5_mnist_5k.{suffix}", tmp_path)
    monkeypatch.setattr(named_files, "TRAINED", tmp_path)
    cfg = OmegaConf.create({"data_root": None, "download": False})
    file = tmp_path / "lenet5_mnist_5k.zoo"
    assert cards.verify("lenet5_mnist_5k", file, cfg).startswith("lenet5_mnist_5k: 986 of 1,000 ")
    claim = claim_of("lenet5_mnist_5k")
    claim["evaluation"]["accuracy"] += 0.001
    (tmp_path / "lenet5_mnist_5k.json").write_text(json.dumps(claim))
    with pytest.raises(ZooError, match="987"):
        cards.verify("lenet5_mnist_5k", file, cfg)
    claim["sha256"] = "0" * 64
    (tmp_path / "lenet5_mnist_5k.json").write_text(json.dumps(claim))
    with pytest.raises(ZooError, match="changed"):
        cards.verify("lenet5_mnist_5k", file, cfg)


def test_a_net_trained_again_with_another_accuracy_is_an_error():
    run = claim_of("lenet5_mnist_5k")["run"]
    assert "within" in cards.compare_with("lenet5_mnist_5k", run)
    with pytest.raises(ZooError, match=r"90\.00%.*98\.70%"):
        cards.compare_with("lenet5_mnist_5k", {"test": {"accuracy": 0.9}})


def test_a_run_that_began_with_a_file_is_not_trained_again(monkeypatch, tmp_path):
    product = read_product(TRAINED / "lenet5_mnist_5k.zoo")
    product.facts["config"]["init_from"] = "model.safetensors"
    monkeypatch.setattr(train_again, "read_product", lambda file: product)
    with pytest.raises(BadInput, match="train=true: lenet5_mnist_5k began with the weights of "):
        train_again.train_again(product.path, OmegaConf.create({"runs": str(tmp_path), "data_root": None}))
    assert not list(tmp_path.iterdir())


def test_nor_is_one_that_was_pruned_by_times_in_a_file(monkeypatch, tmp_path):
    product = read_product(TRAINED / "lenet5_mnist_5k.zoo")
    product.facts["config"]["compress"]["before_fit"] = {"channels": {"latency_table": "/somewhere/latencies.json"}}
    monkeypatch.setattr(train_again, "read_product", lambda file: product)
    with pytest.raises(BadInput, match="train=true: lenet5_mnist_5k was pruned by the times in /somewhere/"):
        train_again.train_again(product.path, OmegaConf.create({"runs": str(tmp_path), "data_root": None}))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_training_again_gives_what_the_card_says(command, tmp_path):
    outcome = command("scripts/reproduce", "zoo:lenet5_mnist_5k", "train=true")
    assert outcome.code == 0, outcome.err
    run = claim_of("lenet5_mnist_5k")["run"]
    (result,) = tmp_path.glob("runs/reproduce_lenet5_mnist_5k/*/result.json")
    found = json.loads(result.read_text())
    assert abs(found["test"]["accuracy"] - run["test"]["accuracy"]) <= 0.01
    assert found["epochs"] == run["epochs"]


def test_only_runs_of_a_clean_commit_are_added(tmp_path, command):
    outcome = command("scripts/trained", f"add={ROOT / 'tests/earlier/packed.zoo'}", "name=another")
    assert outcome.code == 2
    assert "result.json" in outcome.sentence
    for name in ("lenet5_mnist_5k", "lenet-5"):
        outcome = command("scripts/trained", f"add={ROOT / 'tests/earlier/packed.zoo'}", f"name={name}")
        assert outcome.code == 2
        assert f"name={name}: expected letters" in outcome.sentence
    for arguments in (["checkpoint=model.zoo"], ["zoo:nothing"]):
        assert command("scripts/reproduce", *arguments).code == 2


def test_a_wilson_interval_is_that_of_the_literature():
    """81 of 263: 0.2553 to 0.3662 (Newcombe, 1998, table I)."""
    centre = (81 / 263 + 1.96**2 / (2 * 263)) / (1 + 1.96**2 / 263)
    half = cards.half_interval(81 / 263, 263)
    assert centre - half == pytest.approx(0.2553, abs=1e-4)
    assert centre + half == pytest.approx(0.3662, abs=1e-4)
