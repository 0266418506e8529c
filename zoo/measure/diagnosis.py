"""Interpretation of the figures of a run: one sentence per problem, with a suggested fix."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ENOUGH_STEPS = 100  # before reporting that a net does not learn
ROSE = 1.5  # times the first loss
MARGIN = 0.1  # of training accuracy above chance, to distinguish memorising from learning nothing

Row = Mapping[str, Mapping[str, float]]  # figure -> layer -> value in an epoch


@dataclass(frozen=True)
class Limit:
    """Limits of a figure of a layer; `problem` has a placeholder for its value, `advice` for the run's `lr`."""

    problem: str
    advice: str
    above: float = math.inf
    below: float = -math.inf

    def read(self, values: Mapping[str, float], lr: float) -> list[str]:
        """Name the worst layer beyond the limit, if any, and the number of others."""
        worst = [layer for layer, value in values.items() if value > self.above or value < self.below]
        worst.sort(key=lambda layer: values[layer], reverse=self.above < math.inf)
        if not worst:
            return []
        others = f"; {_count(len(worst) - 1, 'more layer')} as well" if len(worst) > 1 else ""
        return [f"{worst[0]}: {self.problem.format(values[worst[0]])}{others}. {self.advice.format(lr=lr)}."]


LIMITS = {
    "largest_update": Limit(
        "a step changed the weights by {:.2g} of their size, while 0.001 is usual",
        "A learning rate below {lr:.3g} usually helps",
        above=3.0,  # where Adam's first steps reach 0.3, for small initial weights
    ),
    "update_ratio": Limit(
        "steps changed the weights by at most {:.1g} of their size in any epoch, while 0.001 is usual",
        "A learning rate above {lr:.3g} or fixing the gradient usually helps",
        below=1e-6,
    ),
    "dead_units": Limit(
        "{:.0%} of units never fire",
        "A lower optim.lr, model.init=he or model.activation=leaky_relu usually helps",
        above=0.4,  # Karpathy, CS231n: "as much as 40% of your network can be dead if the learning rate is too high"
    ),
    "saturation": Limit(
        "{:.0%} of activations are saturated",
        "Smaller initial weights, a lower optim.lr or model.activation=relu usually helps",
        above=0.5,
    ),
    "signal": Limit(
        "the output is almost the same for every input; {:.1g} of its size depends on the input",
        "Nonzero weights, model.activation=relu, batch norm or fewer layers usually help",
        below=1e-4,
    ),
    "relative_gradient": Limit(
        "the gradient has vanished, to {:.1g} of that of the steepest layer",
        "model.activation=relu, batch norm, shortcuts (model=resnet20) or fewer layers usually help",
        below=1e-6,
    ),
}


@dataclass(frozen=True)
class Course:
    """Course of a run: `losses` at its measured steps, accuracies of its last epoch, accuracy by `chance`.

    `error` is the error that ended it early. Accuracies are None except for image classification.
    """

    num_steps: int
    lr: float
    losses: Sequence[float]
    frozen: Sequence[str] = ()
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    chance: float | None = None
    num_validation: int = 0
    error: str | None = None


def read_run(rows: Sequence[Row], course: Course) -> list[str]:
    """Return sentences on the problems of a run, the worst first; most checks use the last epoch, the last row."""
    found = [*_of_losses(course), *_of_accuracies(course)]
    for name, values in _figures(rows, course).items():
        found += LIMITS[name].read(values, course.lr)
    if course.frozen:
        layers = ", ".join(course.frozen[:3])
        others = f" and {_count(len(course.frozen) - 3, 'more layer')}" if len(course.frozen) > 3 else ""
        found.append(f"{layers}{others}: frozen, so the weights did not change. model.freeze=null trains them.")
    return found or ["Nothing stands out."]


def _of_losses(course: Course) -> list[str]:
    found = [f"The run ended early: {course.error}."] if course.error else []
    first, last = (course.losses[0], course.losses[-1]) if course.losses else (0.0, 0.0)
    if not math.isfinite(last) or last > ROSE * first:
        found.append(
            f"The training loss rose from {first:.3g} to {last:.3g}, with a learning rate of {course.lr:.3g}. "
            "A lower optim.lr, schedule.warmup or trainer.gradient_clip_val=1 usually helps."
        )
    return found


def _of_accuracies(course: Course) -> list[str]:
    train, val, chance = course.train_accuracy, course.val_accuracy, course.chance
    if train is None or val is None or chance is None or course.num_steps < ENOUGH_STEPS:
        return []
    noise = 3 * math.sqrt(chance * (1 - chance) / course.num_validation)
    if val > chance + noise:
        return []
    if train > chance + MARGIN:
        return [
            f"Training images are memorised ({train:.0%} right) while validation stays at chance ({val:.0%}; "
            f"guessing gives {chance:.0%}): the labels may not match their images, as after shuffling. "
            "preflight=true plots both side by side."
        ]
    return [
        f"Nothing was learnt in {course.num_steps:,} steps: {train:.0%} of training images are right, and guessing "
        f"gives {chance:.0%}. Try a tenth or ten times the optim.lr, or see the layers below."
    ]


def _figures(rows: Sequence[Row], course: Course) -> dict[str, dict[str, float]]:
    """Return the figures to compare with LIMITS, without frozen layers where the figure is about training."""
    if not rows:
        return {}
    found = {"largest_update": _largest(rows, "largest_update", course)}
    if course.num_steps >= ENOUGH_STEPS:
        found["update_ratio"] = _largest(rows, "update_ratio", course)
    found |= {name: dict(rows[-1].get(name, {})) for name in ("dead_units", "saturation", "signal")}
    gradients = {n: g for n, g in rows[-1].get("gradient_size", {}).items() if n not in course.frozen}
    steepest = max(gradients.values(), default=0.0)
    found["relative_gradient"] = {name: g / steepest if steepest else 0.0 for name, g in gradients.items()}
    return found


def _largest(rows: Sequence[Row], figure: str, course: Course) -> dict[str, float]:
    """Return a figure's largest value over the epochs, for each trained layer."""
    largest: dict[str, float] = {}
    for row in rows:
        for name, value in row.get(figure, {}).items():
            if name not in course.frozen:
                largest[name] = max(value, largest.get(name, value))
    return largest


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
