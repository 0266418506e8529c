"""Interpretation of the figures of a run: one sentence per problem, and what to try."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zoo import escape

ENOUGH_STEPS = 100  # before reporting that a net does not learn
ROSE = 1.5  # times the first loss
MARGIN = 0.1  # of training accuracy above chance, to distinguish memorising from learning nothing
MOST_LETTERS = 20  # of the name of a class

Row = Mapping[str, Mapping[str, float]]  # figure -> layer -> value in an epoch
LOWER, HIGHER = "optim.lr={lower:.3g}", "optim.lr={higher:.3g}"  # a tenth of the run's, and ten times it
UNKNOWN = (LOWER, "preflight=true, which checks the net and the data before training")  # if no cause is known

MEANINGS = {  # of the figures of a layer, by name: what it is, and what is usual
    "update_ratio": ("norm of a step's change of the weights, divided by their norm", "about 0.001, more at the start"),
    "dead_units": ("fraction of ReLU units that are 0 for all of 1,000 validation samples", "below 0.2"),
    "saturation": ("fraction of sigmoid or tanh outputs whose slope is below 6 % of its maximum", "below 0.2"),
    "singular_value": (
        "largest factor by which the weights, as a matrix, lengthen a vector",
        "1 to 10, growing slowly",
    ),
    "noise_scale": ("batch size above which larger batches make gradients hardly more exact", "grows during training"),
}


@dataclass(frozen=True)
class Finding:
    """A problem and what to try, the most likely remedy first; a symptom leaves the remedies to another's cause."""

    sentence: str
    remedies: tuple[str, ...] = ()
    is_symptom: bool = False


@dataclass(frozen=True)
class Reading:
    """The problems of a run, the worst first, and what to try in turn: at most two settings."""

    problems: list[str]
    remedies: list[str]

    @property
    def sentences(self) -> list[str]:
        return [*self.problems, *([to_try(self.remedies)] if self.remedies else [])]


@dataclass(frozen=True)
class Limit:
    """Limits of a figure of a layer; `problem` has a placeholder for its value, and `remedies` may be as LOWER."""

    problem: str
    remedies: tuple[str, ...]
    above: float = math.inf
    below: float = -math.inf

    def read(self, values: Mapping[str, float]) -> list[Finding]:
        """Name the worst layer beyond the limit, if any, and the number of others."""
        worst = [layer for layer, value in values.items() if value > self.above or value < self.below]
        worst.sort(key=lambda layer: values[layer], reverse=self.above < math.inf)
        if not worst:
            return []
        others = f"; {_count(len(worst) - 1, 'more layer')} as well" if len(worst) > 1 else ""
        return [Finding(f"{worst[0]}: {self.problem.format(values[worst[0]])}{others}.", self.remedies)]


LIMITS = {
    "largest_update": Limit(
        "a step changed the weights by {:.2g} of their size, while 0.001 is usual",
        (LOWER, "schedule.warmup=0.1"),
        above=3.0,  # where Adam's first steps reach 0.3, for small initial weights
    ),
    "update_ratio": Limit(
        "steps changed the weights by at most {:.1g} of their size in any epoch, while 0.001 is usual",
        (HIGHER,),
        below=1e-6,
    ),
    "singular_value": Limit("all weights are zero", ("model.init=he",), below=1e-30),
    "dead_units": Limit(
        "{:.0%} of units never fire",
        (LOWER, "model.init=he"),
        above=0.4,  # Karpathy, CS231n: "as much as 40% of your network can be dead if the learning rate is too high"
    ),
    "saturation": Limit("{:.0%} of activations are saturated", ("model.activation=relu", LOWER), above=0.5),
    "signal": Limit(
        "the output is almost the same for every input; {:.1g} of its size depends on the input",
        ("model.activation=relu", "a net with batch norm, such as model=resnet20"),
        below=1e-4,
    ),
    "relative_gradient": Limit(
        "the gradient has vanished, to {:.1g} of that of the steepest layer",
        ("model.activation=relu", "a net with batch norm and shortcuts, such as model=resnet20"),
        below=1e-6,
    ),
}


@dataclass(frozen=True)
class Course:
    """Course of a run: `losses` at its measured steps, accuracies of its last epoch, accuracy by `chance`.

    `error` is the error that ended it early. Accuracies are None except for image classification. `one_answer` is the
    class that nearly all validation images are given, if there is one, how many of them, and the number of all.
    """

    num_steps: int
    lr: float
    losses: Sequence[float]
    frozen: Sequence[str] = ()
    train_accuracy: float | None = None
    val_accuracy: float | None = None
    chance: float | None = None
    num_validation: int = 0
    one_answer: tuple[str, int, int] | None = None
    error: str | None = None


def read_run(rows: Sequence[Row], course: Course) -> Reading:
    """Return the problems of a run, the worst first, and what to try; most checks use the last epoch, the last row.

    The remedies are those of the first problem whose cause is known.
    """
    found = [*_of_losses(course), *_of_accuracies(course)]
    if course.one_answer:
        found.append(Finding(called_one_class(*course.one_answer, "validation")))
    for name, values in _figures(rows, course).items():
        found += LIMITS[name].read(values)
    if course.frozen:
        layers = ", ".join(course.frozen[:3])
        others = f" and {_count(len(course.frozen) - 3, 'more layer')}" if len(course.frozen) > 3 else ""
        sentence = f"{layers}{others}: frozen, so the weights did not change. model.freeze=null trains them."
        found.append(Finding(sentence))
    causes = sorted((one for one in found if one.remedies), key=lambda one: one.is_symptom)
    remedies = with_rates(causes[0].remedies, course.lr) if causes else []
    return Reading([one.sentence for one in found] or ["Nothing stands out."], remedies)


def with_rates(remedies: Sequence[str], lr: float) -> list[str]:
    """Fill in the learning rates to try after `lr`."""
    return [one.format(lower=lr / 10, higher=10 * lr) for one in remedies]


def to_try(remedies: Sequence[str]) -> str:
    """Return the sentence that says what to try in turn: one setting, or two."""
    return f"Try {'; if that is not enough, '.join(remedies)}."


def called_one_class(name: str, num: int, total: int, split: str) -> str:
    """Return the sentence that says how many images of a split were given the same class."""
    share = f"All {total:,}" if num == total else f"{num / total:.1%} of the {total:,}"
    return f"{share} {split} images are called {escape.shortened(name, MOST_LETTERS)}."


def _of_losses(course: Course) -> list[Finding]:
    found = [Finding(f"The run ended early: {course.error}.")] if course.error else []
    first, last = (course.losses[0], course.losses[-1]) if course.losses else (0.0, 0.0)
    if not math.isfinite(last) or last > ROSE * first:
        sentence = f"The training loss rose from {first:.3g} to {last:.3g}, with a learning rate of {course.lr:.3g}."
        found.append(Finding(sentence, (LOWER, "trainer.gradient_clip_val=1")))
    return found


def _of_accuracies(course: Course) -> list[Finding]:
    train, val, chance = course.train_accuracy, course.val_accuracy, course.chance
    if train is None or val is None or chance is None or course.num_steps < ENOUGH_STEPS:
        return []
    noise = 3 * math.sqrt(chance * (1 - chance) / course.num_validation)
    if val > chance + noise:
        return []
    if train > chance + MARGIN:
        sentence = (
            f"Training images are memorised ({train:.0%} right) while validation stays at chance ({val:.0%}; "
            f"guessing gives {chance:.0%}): the labels may not match their images, as after shuffling."
        )
        return [Finding(sentence, ("preflight=true, which shows images with their labels",))]
    sentence = (
        f"Nothing was learnt in {course.num_steps:,} steps: {train:.0%} of training images are right, and guessing "
        f"gives {chance:.0%}."
    )
    return [Finding(sentence, UNKNOWN, is_symptom=True)]


def _figures(rows: Sequence[Row], course: Course) -> dict[str, dict[str, float]]:
    """Return the figures to compare with LIMITS, without frozen layers where the figure is about training."""
    if not rows:
        return {}
    found = {"largest_update": _largest(rows, "largest_update", course)}
    if course.num_steps >= ENOUGH_STEPS:
        found["update_ratio"] = _largest(rows, "update_ratio", course)
    found |= {name: dict(rows[-1].get(name, {})) for name in ("singular_value", "dead_units", "saturation", "signal")}
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
