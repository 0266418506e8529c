"""Every choice of every group makes a run."""

import json

import pytest
from conftest import options

ALTERNATIVES = [
    f"{group}={option}" for group in ("optim", "schedule", "callbacks", "compress", "task") for option in options(group)
]


@pytest.mark.parametrize("choice", ALTERNATIVES)
def test_a_smoke_run_with_this_choice_finishes(command, toy_smoke, request, tmp_path, choice):
    group = choice.split("=")[0]
    line = [a for a in toy_smoke if not a.startswith((f"{group}.", "name="))]
    if choice == "task=distill":
        line.append(f"task.teacher={request.getfixturevalue('teacher')}")
    outcome = command("train", *line, choice, "name=smoke")
    assert outcome.code == 0, outcome.err
    (folder,) = tmp_path.glob("runs/smoke/*")
    assert json.loads((folder / "result.json").read_text())["test"]["loss"] > 0


@pytest.mark.parametrize("model", options("model"))
def test_every_net_composes_with_every_data_set(compose, model):
    for data in options("data"):
        cfg = compose(f"model={model}", f"data={data}")
        assert cfg.model.num_classes == cfg.data.num_classes
        assert cfg.model._target_.startswith("zoo.models.")


@pytest.mark.parametrize("trainer", options("trainer"))
def test_every_trainer_composes_from_auto(compose, trainer):
    cfg, auto = compose(f"trainer={trainer}").trainer, compose().trainer
    assert cfg.keys() == auto.keys()


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_and_its_smoke_run_finishes(command, fashion_root, tmp_path, experiment):
    limits = [f"trainer.limit_{part}_batches=2" for part in ("train", "val", "test")]
    small = [
        "data.num_validation=60",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
        "data.batch_size=16",
        "trainer.log_every_n_steps=1",
    ]
    outcome = command("train", f"experiment={experiment}", f"data_root={fashion_root}", *small, *limits)
    assert outcome.code == 0, outcome.err
    assert len(list(tmp_path.glob(f"runs/{experiment}/*/result.json"))) == 1
