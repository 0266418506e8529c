"""Every choice of every config group works in a run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIGS, options
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from zoo.catalogue import RECIPE, matches
from zoo.instantiate import build
from zoo.run.directory import Run
from zoo.run.model import build_bare_model
from zoo.run.task import build_task
from zoo.run.trainer import build_trainer

ALTERNATIVES = [
    f"{group}={option}" for group in ("optim", "schedule", "callbacks", "compress", "task") for option in options(group)
]


OF_TABLE = {"task=multilabel": ['data.separator="|"'], "task=regression": ["data.label=number"]}


def with_table(folder: Path) -> list[str]:
    """Write 60 pictures with a table of their labels and numbers; return a smoke run on them."""
    rows = ["file,label,number"]
    for i in range(60):
        Image.new("RGB", (32, 32), (i, 255 * (i % 2), 255 * (i % 3))).save(folder / f"{i}.png")
        rows.append(f"{i}.png,{('', 'even', 'third', 'even|third')[i % 4]},{i}")
    (folder / "labels.csv").write_text("\n".join(rows))
    line = [
        "model=lenet5",
        "data=image_table",
        f"data.table={folder}/labels.csv",
        "data.image_size=28",
    ]
    sizes = ["data.num_validation=16", "data.num_test=16", "data.batch_size=8", "data.num_workers=0"]
    return [*line, *sizes, "trainer=smoke", "trainer.accelerator=cpu"]


@pytest.mark.parametrize("choice", ALTERNATIVES)
def test_a_smoke_run_with_this_choice_finishes(command, toy_smoke, request, tmp_path, choice):
    group, option = choice.split("=")
    if choice in OF_TABLE:
        toy_smoke = [*with_table(tmp_path), *OF_TABLE[choice]]
    elif group == "task" and (option, "fashion_mnist") not in matches("task"):
        toy_smoke = ["data=reverse", "trainer=smoke", "trainer.accelerator=cpu"]
    line = [a for a in toy_smoke if not a.startswith((f"{group}.", "name="))]
    if choice == "compress=semi_structured":
        line.append("model=vgg11")  # LeNet-5 has no suitable linear layer
    if choice == "task=distill_sequences":
        assert command("train", *line, "name=teacher").code == 0
        line.append("task.teacher=runs/teacher")
    if choice in ("task=distill", "compress=auto"):
        key = {"task": "task.teacher", "compress": "init_from"}[group]
        line.append(f"{key}={request.getfixturevalue('teacher')}")
    outcome = command("train", *line, choice, "name=smoke")
    assert outcome.code == 0, outcome.err
    (folder,) = tmp_path.glob("runs/smoke/*")
    assert json.loads((folder / "result.json").read_text())["test"]["loss"] > 0


def test_every_net_fits_all_data_of_images_or_all_of_sequences_and_every_data_set_some_net():
    pairs = matches()
    kinds = {frozenset(data for m, data in pairs if m == model) for model in options("model")}
    assert len(kinds) == 2
    assert sorted(data for kind in kinds for data in kind) == options("data")


@pytest.mark.parametrize("data", options("data"))
def test_data_bring_a_model_and_a_task_that_fit_them(compose, data):
    path = ["data.path=none"] if data == "pairs" else []
    cfg = compose(f"data={data}", *path)
    kinds = {get_object(cfg[group]._target_).kind for group in ("data", "task")}
    assert len(kinds) == 1
    for key in ("num_classes", "num_source_tokens", "num_target_tokens"):
        assert cfg.model.get(key) == cfg.data.get(key)
    assert cfg.model._target_.startswith("zoo.models.")


@pytest.mark.parametrize("trainer", options("trainer"))
def test_every_trainer_composes_from_auto(compose, trainer):
    cfg, auto = compose(f"trainer={trainer}").trainer, compose().trainer
    assert cfg.keys() == auto.keys()


EXPERIMENTS = options("experiment")
LARGE = [name for name in EXPERIMENTS if "imagenet" in name]


def slow_if_twin(experiment: str) -> Any:
    """Mark data sets as slow if the same images with ten classes are tested anyway."""
    has_twin = experiment.endswith("_cifar100") and experiment[:-1] in EXPERIMENTS
    return pytest.param(experiment, marks=pytest.mark.slow if has_twin else ())


def smaller(experiment: str) -> list[str]:
    """Return overrides that let an experiment run on a few toy images; ImageNet's at 64 px, except one at 224."""
    if "cmudict" in experiment:
        return ["data.batch_size=16"]
    if experiment not in LARGE:
        return ["data.num_validation=60", "data.batch_size=16"]
    size = [] if experiment == "resnet18_imagenet" else ["data.image_size=64"]
    depth = ["model.depth=2"] if experiment.startswith("vit") else []
    return ["data.num_classes=4", "data.num_validation=4", "data.batch_size=2", "data.num_workers=0", *size, *depth]


def is_missing(recipe: DictConfig, key: str) -> bool:
    """Return whether a recipe leaves a key for the user to set."""
    group, _, name = key.rpartition(".")
    node = recipe.get(group) if group else recipe
    return node is not None and OmegaConf.is_missing(node, name)


@pytest.mark.parametrize("experiment", [slow_if_twin(experiment) for experiment in EXPERIMENTS])
def test_every_experiment_composes_and_its_smoke_run_finishes(command, data_root, tmp_path, experiment):
    limits = [f"trainer.limit_{part}_batches={num}" for part, num in (("train", 2), ("val", 1), ("test", 1))]
    cpu = ["trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "+data.eval_batch_size=16"]
    line = [f"data_root={data_root}", *smaller(experiment), *cpu, *limits, "compile=false"]  # test_run compiles
    recipe = OmegaConf.load(CONFIGS / "experiment" / f"{experiment}.yaml")
    missing = {key for key in ("init_from", "task.teacher") if is_missing(recipe, key)}
    if isinstance(OmegaConf.to_container(recipe).get("task", {}).get("teacher"), dict):  # which it would train in full
        missing.add("task.teacher")
    if OmegaConf.to_container(recipe).get("task", {}).get("words"):
        (tmp_path / "words.txt").write_text("zooish\nzooless\n")
        line.append("task.words=words.txt")
    if missing:  # it starts from the result of another experiment, which it names first
        dense = [setting for setting in line if not setting.startswith("task.words=")]
        assert command("train", f"experiment={recipe.defaults[0]}", *dense, "runs=dense").code == 0
        (product,) = tmp_path.glob("dense/*/*/model.safetensors")
        line.extend(f"{key}={product}" for key in missing)
    outcome = command("train", f"experiment={experiment}", *line)
    assert outcome.code == 0, outcome.err
    assert len(list(tmp_path.glob(f"runs/{experiment}/*/result.json"))) == 1


@pytest.mark.parametrize("experiment", LARGE)
def test_every_experiment_on_imagenet_builds_its_net_data_task_and_trainer_in_full_size(compose, tmp_path, experiment):
    cfg = compose(f"experiment={experiment}", "trainer.accelerator=cpu")
    run = Run(tmp_path, cfg)
    with torch.device("meta"):
        net = build_bare_model(cfg.model)
        output = net(torch.empty(2, 3, cfg.data.image_size, cfg.data.image_size))
    assert (output[0] if isinstance(output, tuple) else output).shape == (2, 1000)
    data, trainer = build(cfg.data, "data"), build_trainer(run)
    task = build_task(run, net, data)
    (rate,) = {group["lr"] for group in task.optimizer([{"params": list(net.parameters())}]).param_groups}
    assert rate == cfg.optim.lr
    assert 0 <= task.schedule(1000)(999) < 0.3
    assert (data.batch_size, trainer.max_epochs) == (cfg.data.batch_size, cfg.trainer.max_epochs)


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if not name.startswith("ten_minutes_")])
def test_every_recipe_says_where_it_comes_from_and_is_named_as_its_file(experiment):
    file = CONFIGS / "experiment" / f"{experiment}.yaml"
    header = RECIPE.match(file.read_text())
    assert header, "its third and fourth line must be # source: ... and # published: ..."
    assert header["published"][0].isdigit() or header["published"].startswith("none found")
    assert OmegaConf.load(file).name == experiment


@pytest.mark.parametrize("file", sorted((CONFIGS / "recipe").glob("*/*.yaml")), ids=lambda file: f"{file.stem}")
def test_settings_of_a_net_and_an_optimizer_apply_to_these_alone(compose, file):
    net, optim = file.stem, file.parent.name
    assert (CONFIGS / f"model/{net}.yaml").exists()
    assert (CONFIGS / f"optim/{optim}.yaml").exists()
    usual, own = compose(f"optim={optim}", "model=lenet5"), compose(f"optim={optim}", f"model={net}")
    asked = OmegaConf.create({key: value for key, value in OmegaConf.load(file).items() if key != "defaults"})
    assert OmegaConf.merge(own, asked) == own
    assert own.optim.lr < usual.optim.lr
    assert compose(f"optim={optim}", f"model={net}", "optim.lr=0.25").optim.lr == 0.25
    assert compose("optim=sgd", f"model={net}").optim == compose("optim=sgd").optim


@pytest.mark.parametrize("data", ["image_folder", "image_table"])
def test_pictures_from_files_get_a_net_for_their_size_unless_another_is_named(compose, data):
    needed = [f"data={data}", "data.num_classes=2", f"data.{'root' if data == 'image_folder' else 'table'}=x"]
    assert compose(*needed).model == compose(*needed, "model=resnet18").model
    assert compose(*needed, "model=vgg11").model._target_ == "zoo.models.vgg.VGG"
