"""Knowledge distillation for sequence nets."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from zoo.data.sequence_loader import SequenceLoader, Sequences
from zoo.errors import BadInput
from zoo.memory import available_bytes
from zoo.models.decoding import Decodes, State, without_openings
from zoo.ranges import Positive, Share
from zoo.tasks.distillation import log_of_mean, teachers_of
from zoo.tasks.transduction import PAD, Transduction

BATCH = 128  # pairs per call of a teacher whose outputs are cached
MOST_OF_MEMORY = 0.8  # that cached outputs may take
log = logging.getLogger("zoo")


class SequenceDistillation(Transduction):
    """Train a net on references and teacher outputs, token by token (Kim and Rush, 2016, section 3.1).

    The loss is (1 - alpha) times the label loss plus alpha · T² times the Kullback-Leibler divergence from the averaged
    probabilities of the teachers to those of the net, after the same true tokens and softened by the temperature T;
    both are means over tokens. Teachers are in eval mode and are not in checkpoints. With `cache`, their outputs for
    all training pairs are computed once, in the first step, and kept on the device: 4 bytes per target token and
    symbol. All other arguments are those of Transduction. Raises BadInput if they do not fit into memory.
    """

    unregularised: ClassVar[Mapping[str, Any]] = {**Transduction.unregularised, "alpha": 0.0}

    def __init__(
        self,
        *,
        teacher: nn.Module | Sequence[nn.Module],
        temperature: Positive = 1.0,
        alpha: Share = 0.5,
        cache: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.temperature, self.alpha, self.cache = temperature, alpha, cache
        self._teachers = teachers_of(teacher)  # in a tuple, they are not submodules
        self._cached: CachedTargets | None = None
        self._pairs: Tensor | None = None  # indices of this batch's pairs, if outputs are cached

    def on_fit_start(self) -> None:
        for teacher in self._teachers:
            teacher.to(next(self.net.parameters()))  # device and precision
        self._cached = None  # of another fit, maybe on other data

    def on_fit_end(self) -> None:
        self._cached = None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self._pairs = self._pairs_of(batch[0]) if self.cache and self.alpha else None
        return super().training_step(batch, batch_idx)

    def _pairs_of(self, source: Tensor) -> Tensor | None:
        """Return which training pairs a batch has, after all their outputs have been cached; None if they are not.

        They are not if the fit is shorter than an epoch.
        """
        trainer: Any = self._trainer
        loader = trainer and trainer.train_dataloader
        pairs = loader.indices_of(source) if isinstance(loader, SequenceLoader) else None
        if pairs is not None and self._cached is None:
            if trainer.estimated_stepping_batches * trainer.accumulate_grad_batches < len(loader):
                return None
            log.info("task.cache: the teachers compute their outputs for all %d training pairs.", len(loader.sequences))
            self._cached = CachedTargets(loader.sequences, self._targets)
        return pairs

    def token_loss(self, logits: Tensor, labels: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        hard = super().token_loss(logits, labels, batch)
        if not self.alpha:
            return hard
        source, target = (part.chunk(2)[0] for part in batch) if self.r_drop else batch  # both halves are the same
        if self._pairs is not None and self._cached is not None:
            targets = self._cached.of(self._pairs, target.shape[1] - 1)
        else:
            targets = self._targets(source, target)
        targets = targets.flatten(0, 1)
        targets = targets.repeat(2, 1) if self.r_drop else targets
        divergences = nn.functional.kl_div(self._soft(logits), targets, reduction="none", log_target=True).sum(1)
        there = labels != PAD
        divergence = torch.where(there, divergences, 0).sum() / there.sum()  # cached padding may be another pair's NaN
        return (1 - self.alpha) * hard + self.alpha * self.temperature**2 * divergence

    @torch.no_grad()
    def _targets(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the log of the teachers' mean probabilities of each token after the first: (N, T - 1, V)."""
        return log_of_mean([self._soft(teacher(source, target[:, :-1])) for teacher in self._teachers])

    def _soft(self, logits: Tensor) -> Tensor:
        return nn.functional.log_softmax(logits.float() / self.temperature, -1)


class CachedTargets:
    """The teachers' outputs for all pairs: `values` (tokens, V), without padding, in the order of `starts` (N).

    `outputs` returns those of a batch of sources (N, S) and targets (N, T): (N, T - 1, V).
    """

    def __init__(self, pairs: Sequences, outputs: Callable[[Tensor, Tensor], Tensor]) -> None:
        device = pairs.sources.device
        lengths = pairs.lengths - torch.tensor([0, 1])  # the first token of a target is not predicted
        total, starts = int(lengths[:, 1].sum()), lengths[:, 1].cumsum(0) - lengths[:, 1]
        self.starts, self.values = starts.to(device), torch.empty(0)
        for batch in (lengths @ torch.tensor([1, 1000])).argsort().split(BATCH):
            index, (source, target) = batch.to(device), lengths[batch].amax(0).tolist()
            found = outputs(pairs.sources[:, :source][index], pairs.targets[:, : target + 1][index])
            if not len(self.values):
                check_room(4 * total * found.shape[-1], device)
                self.values = found.new_empty(total, found.shape[-1])
            places = torch.arange(target)
            there = places < lengths[batch, 1, None]
            self.values[(starts[batch, None] + places)[there].to(device)] = found[there.to(device)]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # it never changes, and is large

    def of(self, pairs: Tensor, length: int) -> Tensor:
        """Return the outputs for pairs (N) as (N, length, V); where a target has ended, they are of other tokens."""
        places = self.starts[pairs][:, None] + torch.arange(length, device=pairs.device)
        return self.values[places.clamp_max(len(self.values) - 1)]


def check_room(needed: int, device: torch.device) -> None:
    """Raise BadInput if a number of bytes is more than a device can spare."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    if needed > MOST_OF_MEMORY * free:
        raise BadInput(
            f"task.cache=true needs {needed / 1e9:.3g} GB for the teachers' outputs, and {free / 1e9:.3g} GB are free; "
            "use task.cache=false"
        )


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
