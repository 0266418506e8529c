"""Sequence-to-sequence transduction."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo import distributed
from zoo.errors import BadInput
from zoo.measure.accuracy import is_right
from zoo.measure.layer_kinds import drops_units
from zoo.optim.schedules import Factor
from zoo.ranges import BelowOne, NotNegative
from zoo.tasks.base import Task
from zoo.tasks.edits import edits
from zoo.tasks.losses import weight_penalty, widened

PAD, START = 0, 1
Decoder = Callable[[nn.Module, Tensor], Tensor]


class Transduction(Task):
    """Train a net on (sources, targets) by teacher forcing: each token is predicted from the true ones before it.

    Logged as `val/` and `test/` are `loss`, plain cross-entropy per token, and `token_accuracy`, both with teacher
    forcing on the first reference. Decoded outputs (`decode` returns tokens N × length, PAD after the end) are compared
    with all references: `per`, edits to the nearest reference divided by its length (for phonemes, the phoneme error
    rate); `wer`, the fraction of outputs that match no reference (for words, the word error rate); `accuracy`, the
    rest. `train/accuracy` is that of tokens.

    With `r_drop` above 0, each batch goes through the net twice, with different units dropped. The loss is the mean
    loss of both passes plus `r_drop` / 4 times the mean over tokens of KL(p‖q) + KL(q‖p). This is half the loss of
    Liang et al., "R-Drop: regularized dropout for neural networks", 2021, equation 4, with α = `r_drop`.
    Raises BadInput if the net has no dropout then.

    With `ctc` above 0, the encoder learns to align outputs with sources: the loss has in addition `ctc` times the
    connectionist temporal classification loss per target token (Graves et al., 2006; with attention as in Kim et al.,
    "Joint CTC-attention", 2017, but only in training) of the net's frames, with PAD as the blank. Raises BadInput if
    the net has none.
    """

    kind = "sequences"
    unregularised: ClassVar[Mapping[str, Any]] = {
        **Task.unregularised,
        "label_smoothing": 0.0,
        "r_drop": 0.0,
        "ctc": 0.0,
    }

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        schedule: Callable[[int], Factor],
        decode: Decoder,
        label_smoothing: BelowOne = 0.0,
        r_drop: NotNegative = 0.0,
        ctc: NotNegative = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(net, optimizer, schedule, **settings)
        self.decode, self.label_smoothing, self.r_drop, self.ctc = decode, label_smoothing, r_drop, ctc
        if r_drop and not drops_units(net):
            raise BadInput(f"task.r_drop={r_drop} needs dropout, and this net has none; set model.dropout above 0")
        if ctc and not hasattr(net, "frame_logits"):
            raise BadInput(
                f"task.ctc={ctc} needs model=transformer; {type(net).__name__} has no output per source token"
            )
        self.meter = TransductionMeter()

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            raise BadInput("task=transduction needs whole weights for decoding, but fsdp2 shards them; use ddp")

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.net(source, target)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        if self.r_drop:
            batch = (batch[0].repeat(2, 1), batch[1].repeat(2, 1))
        source, target = batch
        if self.ctc:
            outputs, frames = self.net(source, target[:, :-1], frames=True)
        else:
            outputs = self.net(source, target[:, :-1])
        logits, labels = outputs.flatten(0, 1), target[:, 1:].flatten()
        self.count_hits(is_right(logits, labels).sum(), (labels != PAD).sum())
        loss = self.token_loss(logits, labels, batch) + weight_penalty(self.weights, self.l1, self.l2)
        if self.r_drop:
            loss = loss + self.r_drop / 4 * divergence_of_halves(logits, labels)
        return loss + self.ctc * alignment_loss(frames, source, target) if self.ctc else loss

    def token_loss(self, logits: Tensor, labels: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the mean loss per token, of logits (tokens, V) and labels; both include padding."""
        return nn.functional.cross_entropy(
            widened(logits), labels, ignore_index=PAD, label_smoothing=self.label_smoothing
        )

    def weight_of(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (batch[1][:, 1:] != PAD).sum()

    def measure(self, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        source, target, references = batch
        logits, labels = self.net(source, target[:, :-1]).float().flatten(0, 1), target[:, 1:].flatten()
        losses = nn.functional.cross_entropy(logits, labels, ignore_index=PAD, reduction="sum")
        hits = (is_right(logits, labels) & (labels != PAD)).sum()
        self.meter.update(losses, hits, (labels != PAD).sum(), self.decode(self.net, source), references)


def alignment_loss(frames: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return the connectionist temporal classification loss per token of targets (N, T), without START and END.

    `frames` (N, F, V) are logits, F / S for each token of the sources (N, S). Targets longer than that do not count.
    """
    num_frames = (source != PAD).sum(1) * (frames.shape[1] // source.shape[1])
    lengths = (target != PAD).sum(1) - 2
    losses = nn.functional.ctc_loss(
        frames.float().log_softmax(-1).transpose(0, 1),
        target[:, 1:-1],
        num_frames,
        lengths,
        blank=PAD,
        reduction="sum",
        zero_infinity=True,
    )
    return losses / lengths.sum()


def divergence_of_halves(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of KL(p‖q) + KL(q‖p) over the tokens that are not PAD, for logits (2 · tokens, V) of p, then q.

    `labels` (2 · tokens) are the same in both halves.
    """
    p, q = logits.float().log_softmax(-1).chunk(2)
    there = labels[: len(p)] != PAD
    both = ((p.exp() - q.exp()) * (p - q)).sum(1)
    return torch.where(there, both, 0).sum() / there.sum()


class TransductionMeter(nn.Module):
    """Sum losses and hits of tokens on the device, and keep the outputs until they are compared on the host.

    `num_samples` and `num_nan` are as in ClassificationMeter, but for sequences. `correct` has for each sequence of
    each batch in the last comparison whether it matches one of its references.
    """

    sums: Tensor
    num_samples = num_nan = 0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(3, dtype=torch.float64), persistent=False)  # losses, hits, tokens
        self.written: list[tuple[Tensor, Tensor]] = []
        self.correct: list[list[bool]] = []

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move, but stay in float64, as ClassificationMeter."""
        super()._apply(fn, recurse)
        self.sums = self.sums.double()
        return self

    @torch.no_grad()
    def update(self, losses: Tensor, hits: Tensor, tokens: Tensor, written: Tensor, references: Tensor) -> None:
        """Add a batch: sums over its tokens, and the outputs (N, T) for the references (N, R, T')."""
        self.sums += torch.stack([losses, hits, tokens]).to(self.sums)
        self.written.append((written, references))

    @property
    def names(self) -> list[str]:
        """Return the names of all metrics."""
        return ["loss", "token_accuracy", "accuracy", "wer", "per"]

    def compute(self) -> dict[str, Tensor]:
        """Return the means so far over all processes, as fractions of 1, and reset."""
        batches = [
            [
                edits(without_padding(one), [without_padding(r) for r in several if r[0] != PAD])
                for one, several in zip(written.tolist(), references.tolist(), strict=True)
            ]
            for written, references in self.written
        ]
        self.correct = [[one.errors == 0 for one in batch] for batch in batches]
        found = [one for batch in batches for one in batch]
        wrong_ones = sum(one.errors > 0 for one in found)
        lost = sum(int((written == START).any(1).sum()) for written, _ in self.written)
        counts = [sum(one.errors for one in found), sum(one.length for one in found), wrong_ones, len(found), lost]
        totals = distributed.all_reduce_sum(torch.cat([self.sums, self.sums.new_tensor(counts)]))
        losses, hits, tokens, errors, symbols, wrong, num, lost = totals
        self.num_samples, self.num_nan = int(num), int(lost)
        self.sums.zero_()
        self.written = []
        return {
            "loss": losses / tokens,
            "accuracy": 1 - wrong / num,
            "token_accuracy": hits / tokens,
            "per": errors / symbols,
            "wer": wrong / num,
        }


def without_padding(tokens: list[int]) -> list[int]:
    return [token for token in tokens if token != PAD]
