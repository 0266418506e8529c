"""Knowledge distillation for sequence nets."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.models.decoding import Decodes, State, without_openings
from zoo.ranges import Positive, Share
from zoo.tasks.distillation import log_of_mean, teachers_of
from zoo.tasks.transduction import PAD, Transduction


class SequenceDistillation(Transduction):
    """Train a net on references and teacher outputs, token by token (Kim and Rush, 2016, section 3.1).

    The loss is (1 - alpha) times the label loss plus alpha · T² times the Kullback-Leibler divergence from the averaged
    probabilities of the teachers to those of the net, after the same true tokens and softened by the temperature T;
    both are means over tokens. Teachers are in eval mode and are not in checkpoints. All other arguments are those of
    Transduction.
    """

    unregularised: ClassVar[Mapping[str, Any]] = {**Transduction.unregularised, "alpha": 0.0}

    def __init__(
        self,
        *,
        teacher: nn.Module | Sequence[nn.Module],
        temperature: Positive = 1.0,
        alpha: Share = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.temperature, self.alpha = temperature, alpha
        self._teachers = teachers_of(teacher)  # in a tuple, they are not submodules

    def on_fit_start(self) -> None:
        for teacher in self._teachers:
            teacher.to(next(self.net.parameters()))  # device and precision

    def token_loss(self, logits: Tensor, labels: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        hard = super().token_loss(logits, labels, batch)
        if not self.alpha:
            return hard
        source, target = (part.chunk(2)[0] for part in batch) if self.r_drop else batch  # both halves are the same
        with torch.no_grad():
            outputs = [teacher(source, target[:, :-1]).flatten(0, 1) for teacher in self._teachers]
            targets = log_of_mean([self._soft(one) for one in outputs])
            targets = targets.repeat(len(labels) // len(targets), 1)
        divergences = nn.functional.kl_div(self._soft(logits), targets, reduction="none", log_target=True).sum(1)
        there = labels != PAD
        divergence = (divergences * there).sum() / there.sum()
        return (1 - self.alpha) * hard + self.alpha * self.temperature**2 * divergence

    def _soft(self, logits: Tensor) -> Tensor:
        return nn.functional.log_softmax(logits.float() / self.temperature, 1)


class Ensemble:
    """Several sequence nets as one, for decoding: each token has the mean of their probabilities."""

    def __init__(self, nets: Sequence[Decodes | Any]) -> None:
        self.nets = nets
        self.sizes: list[int] = []

    def begin(self, source: Tensor) -> State:
        states = [net.begin(source) for net in self.nets]
        self.sizes = [len(state) for state in states]
        return tuple(tensor for state in states for tensor in state)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        outputs, states = [], []
        left = list(state)
        for net, size in zip(self.nets, self.sizes, strict=True):
            logits, after = net.step(tokens, tuple(left[:size]))
            outputs.append(without_openings(logits).log_softmax(-1))
            states.append(after)
            left = left[size:]
        self.sizes = [len(one) for one in states]
        return log_of_mean(outputs), tuple(tensor for one in states for tensor in one)
