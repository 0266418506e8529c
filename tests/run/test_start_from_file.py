"""The settings that a run takes from the file it starts from."""

import json
import os
from pathlib import Path

import pytest
import yaml
from conftest import compose_run
from small import facts_of

from zoo.checkpoint.product_file import read_product, save_product
from zoo.errors import BadInput
from zoo.models.lenet import LeNet5
from zoo.run.model import may_have_seen
from zoo.run.start_from_file import with_those_of_file

FILE = "model.safetensors"


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Write the product of a run with the settings of a command line."""
    monkeypatch.chdir(tmp_path)

    def write(*overrides, **changes):
        facts = facts_of(compose_run(*overrides, "seed=7"))
        chosen = {key: value for key, _, value in (one.partition("=") for one in overrides) if "." not in key}
        facts["config"]["choices"] = {"model": "lenet5", "data": "mnist_5k"} | chosen
        save_product(tmp_path / FILE, LeNet5().state_dict(), {**facts, "config": facts["config"] | changes})
        return f"init_from={FILE}"

    return write


def settings(line):
    """Return the config composed from a command line."""
    return compose_run(*line)


def test_net_and_data_are_the_files_with_their_settings(file, capsys):
    start = file(
        *("model=resnet20", "model.depths=[1,1,1]", "model.init=he", "data=fashion_mnist", "data_root=else where"),
        *("data.num_validation=60", "data.augment.flip=null", "+data.mix={_target_: zoo.data.mix.CutMix}"),
    )
    cfg = settings(with_those_of_file([start, "seed=3", "optim.lr=0.1"]))
    of_folder = settings(with_those_of_file(["init_from=.", "seed=3", "optim.lr=0.1"]))
    assert (of_folder.model, of_folder.data) == (cfg.model, cfg.data)
    assert cfg.model._target_ == "zoo.models.resnet.ResNet"
    assert (cfg.model.depths, cfg.model.init) == ([1, 1, 1], "paper")
    assert (cfg.data.source.dataset, cfg.data.source.root) == ("FashionMNIST", "data")
    assert (cfg.data.num_validation, cfg.data.augment.flip) == (60, None)
    assert cfg.data.mix._target_ == "zoo.data.mix.CutMix"
    assert (cfg.seed, cfg.data.seed, cfg.optim.lr) == (3, 3, 0.1)
    assert "model=resnet20 data=fashion_mnist model.depths=[1,1,1]" in capsys.readouterr().out


def test_the_command_line_says_otherwise(file):
    start = file("model=resnet20", "model.depths=[1,1,1]", "data=fashion_mnist", "data.num_validation=60")
    cfg = settings(with_those_of_file([start, "data=mnist_5k", "model.depths=[2,2,2]"]))
    assert (cfg.model.depths, cfg.data.source._target_) == ([2, 2, 2], "zoo.data.sources.mnist_5k")
    cfg = settings(with_those_of_file([start, "model=lenet5", "data.num_validation=50"]))
    assert (cfg.model._target_, cfg.data.num_validation) == ("zoo.models.lenet.LeNet5", 50)
    for line in ([start, "experiment=lenet5_fashion_mnist"], [start, "model=vgg11", "data=cifar10"], ["seed=2"]):
        assert with_those_of_file(line) == line


def test_a_sweep_over_files_takes_their_settings_if_they_are_the_same(file, tmp_path):
    start = file("model=resnet20", "model.depths=[1,1,1]", "data=fashion_mnist")
    (tmp_path / FILE).rename(tmp_path / "a.safetensors")
    file("model=resnet20", "model.depths=[1,1,1]", "data=fashion_mnist")
    line = ["-m", "init_from=a.safetensors,model.safetensors", "seed=3"]
    *given, net, data, depths = with_those_of_file(line)
    assert (given, net, data, depths) == (line, "model=resnet20", "data=fashion_mnist", "++model.depths=[1,1,1]")
    *given, _, _, _ = with_those_of_file(["-m", "init_from=choice('a.safetensors', .)"])
    assert given == ["-m", "init_from='a.safetensors','model.safetensors'"]
    file("model=resnet20", "model.depths=[2,2,2]", "data=fashion_mnist")
    with pytest.raises(BadInput, match=r"init_from: a\.safetensors and model\.safetensors have different settings"):
        with_those_of_file(line)
    both = [*line, "model=resnet20", "data=mnist_5k"]
    assert with_those_of_file(both) == both
    assert "model.depths=[2,2,2]" in with_those_of_file([start])[-1]


def test_sequences_bring_their_task(file):
    cfg = settings(with_those_of_file([file("data=reverse", "model=lstm_seq2seq", "data.max_length=12")]))
    assert cfg.task._target_ == "zoo.tasks.transduction.Transduction"
    assert (cfg.model._target_, cfg.data.max_length) == ("zoo.models.lstm_seq2seq.LSTMSeq2Seq", 12)


@pytest.mark.parametrize(
    "changes",
    [
        {"choices": {"model": "../data/mnist", "data": "mnist_5k"}},
        {"model": {"_target_": "os.system", "command": "true"}},
        {"data": {"_target_": "zoo.data.images.ImageData", "a=1 b": 2}},
        {"data": {"_target_": "zoo.data.images.ImageData", "root": "${oc.env:HOME}"}},
    ],
)
def test_what_a_stranger_put_into_a_file_is_no_command(file, changes):
    start = file(**changes)
    with pytest.raises(BadInput):
        with_those_of_file([start])


def test_a_run_trains_the_net_and_the_data_of_its_file(command, toy_smoke, tmp_path):
    line = [a for a in toy_smoke if not a.startswith("name=")]
    assert command("train", *line, "model=lenet300", "name=one").code == 0
    (one,) = tmp_path.glob("runs/one/*")
    outcome = command("train", f"init_from={one}/{FILE}", "trainer=smoke", "name=two")
    assert outcome.code == 0, outcome.err
    (two,) = tmp_path.glob("runs/two/*")
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (one, two))
    assert (second["net"], second["data"]) == ("lenet300", "fashion_mnist")
    assert second["split_hash"] == first["split_hash"]
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (one, two)]
    data = read_product(one / FILE).facts["data"]
    own = {"mean": data["mean"], "std": data["std"]}
    assert {**configs[0]["data"], **own} == configs[1]["data"]


def test_a_key_of_a_file_is_not_a_setting_of_the_command_line(file):
    """Keys of a mapping in a file would otherwise be parsed as overrides, and could call anything."""
    start = file()
    product = read_product(FILE)
    key = "command:'touch MARK',_target_"
    product.facts["config"]["data"]["augment"] = {"evil": {key: "torch.utils.collect_env.run"}}
    save_product(Path(FILE), product.weights, {key: value for key, value in product.facts.items() if key != "format"})
    with pytest.raises(BadInput, match="is not a name"):
        with_those_of_file([start])


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({}, True),
        ({"split_hash": "one"}, False),
        ({"root": "pictures/"}, True),
        ({"root": os.path.abspath("pictures")}, True),
        ({"root": "moved", "classes": ["cat", "dog"]}, True),
        ({"root": "others", "classes": ["car", "bus"]}, False),
        ({"_target_": "zoo.data.images.ImageData"}, False),
    ],
)
def test_a_net_may_have_seen_what_another_split_of_its_data_validates_on(changes, seen):
    settings = {"_target_": "zoo.data.folders.ImageFolders", "root": "pictures"}
    before = {"config": {"data": settings}, "data": {"split_hash": "one", "classes": ["cat", "dog"]}}
    facts = {"split_hash": "two", "classes": ["cat", "dog", "eel"], **changes}
    now = settings | {key: value for key, value in changes.items() if key in settings}
    assert may_have_seen(before, now, facts) == seen


def test_a_data_set_is_the_same_wherever_it_lies():
    def settings(dataset, root):
        return {"_target_": "zoo.data.images.ImageData", "source": {"dataset": dataset, "root": root, "download": True}}

    before = {"config": {"data": settings("MNIST", "data")}, "data": {"split_hash": "one", "classes": ["0"]}}
    for dataset, seen in (("MNIST", True), ("FashionMNIST", False)):
        assert may_have_seen(before, settings(dataset, "elsewhere"), {"split_hash": "two", "classes": ["0"]}) == seen
