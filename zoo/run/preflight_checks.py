"""The individual preflight checks; each returns a verdict with one sentence."""

import copy
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.data.images import ImageData
from zoo.data.module import SPLITS, ResidentData
from zoo.data.sources import LabelledImages
from zoo.data.survey import survey
from zoo.measure import health
from zoo.measure.layer_kinds import BATCH_NORMS
from zoo.report.verdicts import Verdict
from zoo.run.picture_checks import check_apart
from zoo.tasks.base import Task

NUM_SAMPLES = 64  # in one forward pass
NUM_TO_OVERFIT = 20
MOST_STEPS, MOST_SECONDS = 300, 20.0  # of overfitting
LEARNT = 0.1  # nats; guessing gives ln(classes)
FAR_OFF = 3.0  # times ln(classes); a Transformer with embeddings shared as in its paper starts at 2.7
LEAST_SIGNAL, LARGEST_SIGNAL = 1e-4, 1e4  # share of the output that depends on the input; size of the output
MOST_FILES = 20_000  # to decode and compare
NUM_SLICES, NUM_FOR_DIFFERENCES = 8, 4  # parameters and samples of the gradient check
# Step sizes relative to the size of the parameter, or LEAST_SIZE. The shortest rarely crosses a kink of a ReLU
# (gradients of GoogLeNet are off by up to 2 % at 1e-6, and by 4e-5 at 1e-9), but rounding spoils small gradients there;
# the longer steps are for those. A wrong gradient is wrong at every step, so the best step counts.
STEPS, LEAST_SIZE = (1e-7, 1e-8, 1e-9, 1e-6), 1e-3
TOLERANCE, ROUNDING = 0.01, 1e-8


@dataclass(frozen=True)
class Subject:
    """The subject of the checks: a disposable copy of the task, in train mode on its device, without regularisation."""

    task: Task
    data: ResidentData
    fresh: bool  # whether the weights are newly initialised
    may_freeze: bool  # whether model.freeze is set

    def samples(self, num: int) -> tuple[Tensor, ...]:
        """Return training samples without augmentation."""
        plain: Any = copy.copy(self.data)
        plain.augmentations, plain.mix, plain.batch_size = (), None, min(num, self.data.load().num_samples["train"])
        return next(iter(plain.loader("train", self.task.device)))


def check_outputs(subject: Subject) -> Verdict:
    """Compare the net's number of outputs with the number of classes or tokens in the data."""
    expected = subject.task.num_outputs or num_classes(subject.data)
    net: Any = subject.task.net
    inputs = subject.data.random_batch(2, subject.task.device)[: 1 if isinstance(subject.data, ImageData) else 2]
    with torch.no_grad():
        output = net(*inputs)
    found = (output[0] if isinstance(output, tuple) else output).shape[-1]
    if found != expected:
        return Verdict(
            "outputs",
            "fail",
            f"the net has {found} outputs and the data have {expected} classes; build it with {expected}",
        )
    return Verdict("outputs", "pass", f"{found}, one per {'number' if subject.task.regression else 'class'}")


def check_inputs(subject: Subject) -> Verdict:
    """Check that the inputs of the net have a mean of about 0 and a deviation of about 1."""
    if not isinstance(subject.data, ImageData):
        return Verdict("inputs", "skip", "tokens are not normalised")
    images = subject.samples(NUM_SAMPLES)[0]
    mean, std = float(images.mean()), float(images.std())
    found = (
        f"images run from {float(images.min()):.3g} to {float(images.max()):.3g}, mean {mean:.2g}, deviation {std:.2g}"
    )
    if abs(mean) > 3 or not 0.05 < std < 5:
        return Verdict(
            "inputs",
            "warn",
            f"{found}: they are not normalised; data.mean=null data.std=null uses their own statistics",
        )
    return Verdict("inputs", "pass", found)


def check_splits(subject: Subject) -> Verdict:
    """Compare the images or source sequences of the three splits; of images also those that are nearly the same."""
    data: Any = subject.data
    if isinstance(data, ImageData):
        parts = {
            name: LabelledImages(data.files.get(name, part.images), part.labels) for name, part in data.splits.items()
        }
        if data.files and sum(len(part.images) for part in parts.values()) > MOST_FILES:
            return Verdict("splits", "skip", f"more than {MOST_FILES:,} files would have to be read")
        return check_apart(survey(parts))
    keys = {name: list(pairs) for name, pairs in data.pairs.items()}
    problems = []
    for first, second in itertools.combinations(SPLITS, 2):
        known = {key: i for i, key in enumerate(keys[first])}
        both = [(known[key], i) for i, key in enumerate(keys[second]) if key in known]
        if both:
            places = f"such as number {both[0][1]} of {second} as number {both[0][0]} of {first}"
            problems.append(f"{len(both):,} of {len(keys[second]):,} {second} sources are in {first}, too, {places}")
    if problems:
        return Verdict("splits", "warn", f"{'; '.join(problems)}: metrics measured on them are too good; remove them")
    return Verdict("splits", "pass", f"{sum(map(len, keys.values())):,} sources, none in two of train, val and test")


@torch.no_grad()
def check_initial_loss(subject: Subject) -> Verdict:
    """Compare the loss before training with that of guessing, with norm statistics of one batch."""
    task, (expected, guess) = copy.deepcopy(subject.task), _guessing(subject)
    for module in task.net.modules():
        if isinstance(module, BATCH_NORMS):
            module.momentum = 1.0
    _loss(task, subject.samples(NUM_SAMPLES))
    batch = next(iter(subject.data.loader("val", task.device)), None)
    if batch is None:
        return Verdict("initial loss", "skip", "there are no validation samples")
    task.eval().measure(tuple(part[:NUM_SAMPLES] for part in batch))
    loss = float(task.meter.compute()["loss"])
    found = f"{loss:.3g}, and {guess} gives {expected:.3g}"
    if not math.isfinite(loss):
        return Verdict("initial loss", "fail", f"it is {loss} before any step; the net divides by 0 or overflows")
    if not subject.fresh:
        return Verdict("initial loss", "skip", f"{found}; the weights are already trained")
    if loss > FAR_OFF * expected:
        return Verdict(
            "initial loss", "warn", f"{found}: the net is confident and wrong; smaller weights in the head usually help"
        )
    return Verdict("initial loss", "pass", found)


def _guessing(subject: Subject) -> tuple[float, str]:
    """Return the loss without any knowledge, and what that is: ln(classes), or for numbers in deviations, their 1."""
    if subject.task.regression:
        return 1.0, "always predicting the mean"
    classes = 2 if subject.task.multilabel else subject.task.num_outputs or num_classes(subject.data)
    return math.log(classes), f"guessing among {classes}"


@torch.no_grad()
def check_signal(subject: Subject) -> Verdict:
    """Follow a batch through the net: layer outputs should depend on the input and stay bounded."""
    task = copy.deepcopy(subject.task)
    with health.LayerWatch(task.net) as watch:
        _loss(task, subject.samples(NUM_SAMPLES))
    shares = {name: float(spread / watch.size[name].clamp_min(1e-30)) for name, spread in watch.spread.items()}
    sizes = {name: float(size) for name, size in watch.size.items()}
    first, last = next(iter(shares)), list(shares)[-1]
    for name, share in shares.items():
        if share < LEAST_SIGNAL:
            return Verdict(
                "signal",
                "warn",
                f"it dies at {name}, where {share:.1g} of the output depends on the input; weights that are not zero, "
                "model.activation=relu, batch norm or fewer layers usually help",
            )
        if sizes[name] > LARGEST_SIGNAL:
            return Verdict(
                "signal",
                "warn",
                f"it explodes, to values of {sizes[name]:.1g} at {name}; normalised inputs, model.init=he or batch "
                "norm usually help",
            )
    return Verdict("signal", "pass", f"of size {sizes[first]:.2g} at {first} and {sizes[last]:.2g} at {last}")


def check_gradients(subject: Subject) -> Verdict:
    """Check that every parameter gets a gradient, and that only the intended ones are frozen."""
    task = subject.task
    trained = {name: p for name, p in task.net.named_parameters() if p.requires_grad}
    frozen = [name for name, p in task.net.named_parameters() if not p.requires_grad]
    loss = _loss(task, subject.samples(NUM_SAMPLES))
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
    sizes = health.fetch({name: g.norm() for name, g in zip(trained, gradients, strict=True)})
    without = [name for name, (size,) in sizes.items() if size == 0]
    if all(name in without for name, p in trained.items() if p.ndim > 1):
        return Verdict(
            "gradients",
            "fail",
            "no weight gets a gradient: the weights are all zero, or the loss does not depend on them; model.init=he "
            "initialises them again",
        )
    if without:
        return Verdict(
            "gradients", "warn", f"none for {join_names(without)}: cut off from the loss, or behind dead units"
        )
    if frozen and not subject.may_freeze:
        return Verdict("gradients", "warn", f"{join_names(frozen)} frozen, although model.freeze is not set")
    asked = f"; frozen by model.freeze: {join_names(frozen)}" if frozen else ""
    return Verdict("gradients", "pass", f"all {len(trained)} trained parameters get one{asked}")


def check_differences(subject: Subject) -> Verdict:
    """Compare gradients with central differences of the loss, in float64, along one random direction per parameter."""
    if subject.task.device.type == "mps":
        return Verdict("gradient check", "skip", "this device has no float64")
    task = copy.deepcopy(subject.task).double()
    batch = tuple(p.double() if p.is_floating_point() else p for p in subject.samples(NUM_FOR_DIFFERENCES))
    trained = {name: p for name, p in task.net.named_parameters() if p.requires_grad}
    names = list(trained)
    chosen = [names[i * len(names) // NUM_SLICES] for i in range(NUM_SLICES)] if len(names) > NUM_SLICES else names
    gradients = torch.autograd.grad(_loss(task, batch), [trained[name] for name in chosen])
    worst, worst_name = 0.0, ""
    for name, gradient in zip(chosen, gradients, strict=True):
        size = trained[name].detach().square().mean().sqrt().clamp_min(LEAST_SIZE)
        direction = size * torch.randn_like(gradient)
        slope = float((gradient * direction).sum())
        error = math.inf
        for step in STEPS:
            difference = _difference(task, batch, trained[name], direction, step)
            off = max(0.0, abs(slope - difference) - ROUNDING) / max(abs(slope), abs(difference), ROUNDING)
            error = min(error, off)
            if error <= TOLERANCE:
                break
        if error > worst:
            worst, worst_name = error, name
    if not worst <= TOLERANCE:
        return Verdict(
            "gradient check",
            "fail",
            f"the gradient of {worst_name} is off by {worst:.1%} of the loss's central difference; look for .detach(), "
            ".data or a custom backward",
        )
    return Verdict(
        "gradient check", "pass", f"{len(chosen)} slices agree with central differences within {TOLERANCE:.0%}"
    )


@torch.no_grad()
def _difference(task: Task, batch: tuple[Tensor, ...], parameter: Tensor, direction: Tensor, step: float) -> float:
    start, losses = parameter.clone(), []
    for sign in (1, -1):
        parameter.copy_(start + sign * step * direction)
        losses.append(float(_loss(task, batch)))
    parameter.copy_(start)
    return (losses[0] - losses[1]) / (2 * step)


def check_overfitting(subject: Subject) -> Verdict:
    """Train on only 20 samples, with Adam and without regularisation, until the loss is nearly 0."""
    task, batch = subject.task, subject.samples(NUM_TO_OVERFIT)
    optimizer = torch.optim.Adam([p for p in task.net.parameters() if p.requires_grad], lr=1e-3)
    started, first, loss = time.monotonic(), math.nan, math.nan
    num = len(batch[0])
    for step in range(MOST_STEPS + 1):
        now = _loss(task, batch)
        if step % 10 == 0:
            loss = float(now.detach())
            first = loss if step == 0 else first
            if loss < LEARNT:
                return Verdict("overfitting", "pass", f"{num} samples are memorised in {step} steps (loss {loss:.2g})")
            if time.monotonic() - started > MOST_SECONDS:
                course = f"loss {first:.3g} → {loss:.3g} on {num} samples"
                return Verdict("overfitting", "skip", f"undecided in {MOST_SECONDS:.0f} s and {step} steps: {course}")
        optimizer.zero_grad()
        now.backward()
        optimizer.step()
    return Verdict(
        "overfitting",
        "warn",
        f"{num} samples cannot be memorised: loss {first:.3g} → {loss:.3g} in {MOST_STEPS} steps. The net is too "
        "deep to train, too small or dead, or the loss does not use the labels",
    )


def _loss(task: Task, batch: tuple[Tensor, ...]) -> Tensor:
    loss = task.training_step(batch, 0)
    assert isinstance(loss, Tensor)
    return loss


def num_classes(data: ResidentData) -> int:
    """Return the number of classes, or of target tokens."""
    sizes = data.sizes()
    return sizes["num_target_tokens"] if "num_target_tokens" in sizes else sizes["num_classes"]


def join_names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
