import csv
import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from zoo.checkpoint.product_file import read_product
from zoo.data.loader import BatchLoader
from zoo.models.lenet import LeNet5
from zoo.optim.schedules import constant
from zoo.records.config_file import read_config
from zoo.tasks.classification import ImageClassification
from zoo.tasks.distillation import Distillation

COMMON = {"optimizer": functools.partial(torch.optim.SGD, lr=0.1), "schedule": constant}


def batch():
    return torch.randn(6, 1, 32, 32), torch.arange(6)


def test_the_loss_is_the_papers_formula():
    net, teacher = LeNet5(), LeNet5(activation="tanh")
    images, labels = batch()
    student, wanted = net(images), teacher(images)
    p, q = (wanted / 3).softmax(1), (student / 3).softmax(1)
    soft = -(p * q.log()).sum(1).mean() + (p * p.log()).sum(1).mean()  # cross-entropy minus the teacher's entropy
    expected = 0.25 * nn.functional.cross_entropy(student, labels) + 0.75 * 9 * soft
    task = Distillation(net=net, teacher=teacher, temperature=3.0, alpha=0.75, **COMMON)
    torch.testing.assert_close(task.training_step((images, labels), 0), expected)


def test_several_teachers_teach_the_mean_of_their_probabilities():
    net, teachers, (images, labels) = LeNet5(), [LeNet5(), LeNet5(activation="tanh")], batch()
    p = sum((teacher(images) / 2).softmax(1) for teacher in teachers) / 2
    q = (net(images) / 2).softmax(1)
    task = Distillation(net=net, teacher=teachers, temperature=2.0, alpha=1.0, **COMMON)
    torch.testing.assert_close(task.training_step((images, labels), 0), 4 * (p * (p / q).log()).sum(1).mean())
    assert len(list(task.parameters())) == len(list(net.parameters()))


def test_a_teacher_that_agrees_has_nothing_to_teach_and_one_without_a_share_no_say():
    net = LeNet5()
    same, (images, labels) = LeNet5(), batch()
    same.load_state_dict(net.state_dict())
    task = Distillation(net=net, teacher=same, alpha=1.0, **COMMON)
    assert task.training_step((images, labels), 0).item() == pytest.approx(0, abs=1e-5)
    plain = ImageClassification(net, **COMMON).training_step((images, labels), 0)
    torch.testing.assert_close(
        Distillation(net=net, teacher=LeNet5(), alpha=0.0, **COMMON).training_step((images, labels), 0), plain
    )


def test_a_teacher_gets_no_gradient_stays_in_eval_mode_and_is_in_no_checkpoint():
    teacher = LeNet5()
    task = Distillation(net=LeNet5(), teacher=teacher, **COMMON)
    task.train()
    task.training_step(batch(), 0).backward()
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    assert not any("teacher" in key for key in task.state_dict())
    assert len(list(task.parameters())) == len(list(task.net.parameters()))


def test_a_teacher_is_cast_to_the_precision_of_the_run(command, toy_smoke, teacher):
    line = ["task=distill", f"task.teacher={teacher}", "name=second", "trainer.precision=bf16-true"]
    outcome = command("train", *[a for a in toy_smoke if not a.startswith("name=")], *line)
    assert outcome.code == 0, outcome.err


def test_a_net_learns_from_its_teacher_and_the_run_goes_on_after_a_stop(command, toy, only_run, tmp_path, teacher):
    once = teacher.relative_to(tmp_path)
    line = ["task=distill", f"task.teacher=[{once},{once.parent}/model.*]", "model=lenet300", *toy]
    assert command("train", *line, "task.alpha=1", "trainer.max_epochs=2").code == 0
    assert len(list(once.parent.glob("model.*"))) == 1
    student = next(folder for folder in (tmp_path / "runs/toy").iterdir() if folder != teacher.parent)
    assert read_product(student / "model.safetensors").facts["config"]["task"]["teacher"] == [str(teacher)] * 2
    outcome = command("train", f"resume={student}", "trainer.max_epochs=3")
    assert outcome.code == 0, outcome.err
    assert "3 of 3" in outcome.out


@pytest.mark.parametrize("distinct_epochs", [None, 1])
def test_a_teacher_is_asked_once_of_images_that_come_again_and_says_the_same(
    command, toy, tmp_path, teacher, monkeypatch, distinct_epochs
):
    asked = []
    ask = Distillation._soft
    monkeypatch.setattr(
        Distillation, "_soft", lambda task, logits: asked.append(logits.requires_grad) or ask(task, logits)
    )
    line = [*toy, "task=distill", f"task.teacher={teacher}", f"data.distinct_epochs={distinct_epochs or 'null'}"]
    assert command("train", *line, "name=asked").code == 0
    num_steps, num_asked = sum(asked), asked.count(False)
    assert num_steps == 3 * 10  # 640 images
    assert num_asked == (num_steps // 3 if distinct_epochs else num_steps)
    if distinct_epochs:
        monkeypatch.setattr(BatchLoader, "number_of", lambda loader, images: None)
        assert command("train", *line, "name=asked_again").code == 0
        assert asked.count(False) == num_asked + num_steps
        kept, anew = (next(tmp_path.glob(f"runs/{name}/*/metrics.csv")) for name in ("asked", "asked_again"))
        assert losses(kept) == losses(anew) != []


def losses(metrics):
    with open(metrics) as file:
        return [row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]]


def test_a_teacher_that_saw_another_split_is_told(command, toy, teacher, tmp_path):
    outcome = command("train", *toy, "task=distill", f"task.teacher={teacher}", "data.folds=4", "name=other")
    assert outcome.code == 0, outcome.err
    (folder,) = tmp_path.glob("runs/other/*")
    assert "may have seen samples" in (folder / "log.txt").read_text()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["task.teacher=null"], "task.teacher: expected the model.safetensors"),
        (["task.teacher=nowhere.safetensors"], "nowhere.safetensors"),
        (["task.teacher=[]"], "task.teacher: expected the model.safetensors"),
        (["task.teacher=[{teacher},nowhere.safetensors]"], "nowhere.safetensors"),
        (["task.teacher={teacher}", "data.mean=[90.0]", "data.std=[70.0]"], "other mean of images"),
        (["task.teacher={teacher}", "data=mnist_5k", "data.augment=null"], "other classes"),
        (["task.teacher={teacher}", "+task.temprature=3"], "did you mean temperature"),
        (["task.teacher={teacher}", "+task.label_smothing=3"], "did you mean label_smoothing"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(command, toy, teacher, settings, sentence):
    settings = [s.format(teacher=teacher) for s in settings]
    others = [a for a in toy if not a.startswith(("data=", "data.augment"))]
    outcome = command("train", "data=fashion_mnist", *others, "task=distill", *settings)
    assert outcome.code == 2
    assert sentence in outcome.sentence


def test_a_teacher_is_trained_once_by_its_experiment_and_resumed_if_it_was_stopped(
    command, toy, fashion_root, tmp_path
):
    line = [a for a in toy if not a.startswith("trainer")] + ["trainer=smoke", "task=distill", "name=student"]
    teacher = "task.teacher={experiment: lenet5_fashion_mnist, seeds: [1, 2]}"
    assert command("train", *line, teacher).code == 0
    trained = sorted((tmp_path / "runs/lenet5_fashion_mnist").glob("*/result.json"))
    assert len(trained) == 2
    (student,) = (tmp_path / "runs/student").glob("*")
    config = read_config(student / "config.yaml")
    expected = sorted(str(file.with_name("model.safetensors")) for file in trained)
    assert sorted(config["task"]["teacher"]) == expected
    configs = [read_config(Path(file).with_name("config.yaml")) for file in expected]
    assert {one["seed"] for one in configs} == {1, 2}
    assert all(one["data"]["num_validation"] == 60 for one in configs)  # the student's split
    assert command("train", *line, teacher, "name=second").code == 0  # both are there
    (second,) = (tmp_path / "runs/second").glob("*/model.safetensors")
    weights, same = read_product(student / "model.safetensors").weights, read_product(second).weights
    assert all(same[name].equal(weight) for name, weight in weights.items())
    assert sorted((tmp_path / "runs/lenet5_fashion_mnist").glob("*/result.json")) == trained
    assert command("train", *line, teacher, "name=moved", f"data_root={fashion_root}").code == 0
    assert sorted((tmp_path / "runs/lenet5_fashion_mnist").glob("*/result.json")) == trained
    trained[0].unlink()  # as if it had been stopped
    outcome = command("train", *line, teacher, "name=third")
    assert outcome.code == 0
    assert "Training a teacher: python train.py resume=" in outcome.err
    assert sorted((tmp_path / "runs/lenet5_fashion_mnist").glob("*/result.json")) == trained
    other = [a for a in line if not a.startswith("data.num_v")] + ["data.num_validation=70"]
    assert command("train", *other, "task.teacher={experiment: lenet5_fashion_mnist}", "name=fourth").code == 0
    assert len(list((tmp_path / "runs/lenet5_fashion_mnist").glob("*"))) == 3  # of another split


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("data.mix={alpha: 1.0}", "data.mix={'alpha': 1.0} is not an augmentation"),
        ("optim.lr=-1", "optim"),
        ("schedule.warmup=2", "schedule.warmup"),
        ("callbacks.rate.begin=2", "callbacks.rate.begin"),
        ("model.in_channels=0", "model.in_channels"),
    ],
)
def test_a_wrong_setting_is_told_before_teachers_are_trained(command, toy, tmp_path, setting, sentence):
    line = [*toy, "task=distill", "task.teacher={experiment: lenet5_fashion_mnist}", "compress=rate", "schedule=cosine"]
    outcome = command("train", *line, setting)
    assert (outcome.code, "Training a teacher" in outcome.err) == (2, False)
    assert sentence in outcome.sentence
    assert not list(tmp_path.glob("runs/lenet5_fashion_mnist"))


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        ("{experiment: lenet5_fashon_mnist}", "did you mean lenet5_fashion_mnist"),
        ("{experiment: ../../etc}", "task.teacher.experiment"),
        ("{experiment: lenet5_fashion_mnist, seeds: []}", "task.teacher: expected an experiment and a list of seeds"),
        ("{experiment: lenet5_fashion_mnist, epochs: 3}", "unknown field `epochs`"),
    ],
)
def test_an_experiment_that_is_none_is_refused(command, toy, tmp_path, teacher, sentence):
    outcome = command("train", *toy, "task=distill", f"task.teacher={teacher}")
    assert outcome.code == 2
    assert sentence in outcome.sentence
    assert not list(tmp_path.glob("runs/*/*"))
