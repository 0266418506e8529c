"""The task of a run: the training objective with its optimizer, schedule and teachers."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import OmegaConf
from torch import nn

from zoo.callbacks.board import boards
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import read_product
from zoo.data.images import ImageData
from zoo.data.module import ResidentData
from zoo.data.sequences import SequenceData
from zoo.errors import BadInput
from zoo.instantiate import build, probe
from zoo.measure.layer_kinds import DROPOUTS
from zoo.models.stochastic_depth import StochasticDepth
from zoo.run import preflight, preflight_checks
from zoo.run.calibrate_product import check_calibration
from zoo.run.config_checks import needs_numbers
from zoo.run.directory import Run
from zoo.run.model import apply_layout
from zoo.run.teacher_pairs import teacher_pairs
from zoo.tasks.base import Task
from zoo.tasks.classification import BALANCING

log = logging.getLogger("zoo")


def build_optimizer(run: Run) -> tuple[Any, Any]:
    """Build the functions that make an optimizer from parameters, and its schedule from the number of steps.

    Lightning cannot clip gradients in mixed precision for fused optimizers, and FSDP2 does not support all of
    them, so both use an ordinary one.
    """
    settings: Any = OmegaConf.to_container(run.cfg.optim, resolve=True)
    if run.cfg.trainer.gradient_clip_val is not None or run.cfg.trainer.strategy == "fsdp2":
        settings.pop("fused", None)
    optimizer, schedule = build(settings, "optim"), build(run.cfg.schedule, "schedule")
    probe("optim", optimizer, [torch.zeros(1, 1, 1, 1, requires_grad=True)])
    probe("schedule", schedule, 100)
    return optimizer, schedule


def build_task(run: Run, net: nn.Module, data: ResidentData) -> Task:
    """Build the task around a net, with its optimizer and schedule."""
    optimizer, schedule = build_optimizer(run)
    task: Any = OmegaConf.to_container(run.cfg.task, resolve=True)
    given = {"net": net, "optimizer": optimizer, "schedule": schedule}
    if "teacher" in task:
        teachers = [load_model(read_product(file)) for file in task.pop("teacher")]
        words, beam = task.pop("words", None), task.pop("beam", 1)
        if words and isinstance(data, SequenceData):
            data.extend(teacher_pairs(words, teachers, data, beam))
        given["teacher"] = [apply_layout(teacher, run.cfg) for teacher in teachers]
    if isinstance(data, ImageData):
        given |= _class_counts(task, data)
        given |= {"number_scale": data.number_scale} if needs_numbers(run.cfg) else {}
    built: Task = build(task, "task", **given)
    check_calibration(run, built)
    name = "num_classes" if "num_classes" in run.cfg.model else "num_target_tokens"
    expected = built.num_outputs or run.cfg.data[name]
    if expected < 2 and not (built.multilabel or built.regression):
        raise BadInput(f"data.{name}: expected at least 2, got {expected}: one class leaves nothing to classify")
    if run.cfg.model[name] != expected:
        raise BadInput(f"model.{name}={run.cfg.model[name]} does not fit these data and task; use {expected}")
    return built


def _class_counts(task: Mapping[str, Any], data: ImageData) -> dict[str, Any]:
    """Return the number of training samples of each class, if the task weighs its classes by them."""
    used = [name for name, usual in BALANCING.items() if task.get(name, usual) != usual]
    if used and data.sampler == "balanced":
        raise BadInput(f"data.sampler=balanced and task.{used[0]} both make up for rare classes; use only one of them")
    if used and task["_target_"].endswith(".RotationPrediction"):
        raise BadInput(f"task.{used[0]}: rotations are equally frequent; leave it out with task=rotation")
    return {"class_counts": data.class_counts()} if used else {}


def check_before(run: Run, trainer: lightning.Trainer, task: Task, data: ResidentData) -> None:
    """Run the checks of zoo.run.preflight if the config enables them, without side effects on the run.

    They use a copy of the task and net, eager, in fp32 and without regularisation. Raises BadInput if one fails.
    """
    if not run.cfg.get("preflight") or run.last_checkpoint:
        return
    off = {key: value for key, value in type(task).unregularised.items() if key in run.cfg.task}
    plain = run.with_values(task=off)
    net = copy.deepcopy(task.net)
    for module in net.modules():
        if isinstance(module, (*DROPOUTS, StochasticDepth)):
            module.p = 0.0
        elif isinstance(module, nn.RNNBase):
            module.dropout = 0.0
    with isolate_rng():
        own = build_task(plain, net, data).to(trainer.strategy.root_device).train()
        own.on_fit_start()
        fresh, may_freeze = not (run.cfg.init_from or run.cfg.model.pretrained), run.cfg.model.freeze is not None
        subject = preflight_checks.Subject(own, data, fresh, may_freeze)
        examples, figure = preflight.look_at_examples(subject, run.folder)
        preflight.report([examples, *preflight.inspect(subject)])
    if figure is None:
        return
    for board in boards(trainer):
        board.add_picture("zoo diagnostics/examples before training", figure, 0)
