"""Save the predictions on the test set, and plot mistakes."""

from pathlib import Path
from typing import Any

import lightning
import safetensors.torch
import torch
from torch import Tensor, nn

from zoo import distributed
from zoo.callbacks.board import boards
from zoo.callbacks.loggers import tensorboards
from zoo.callbacks.prediction_plots import NUM_MISTAKES, show_curves, show_embedding, show_predictions, thumbnails
from zoo.files import replacing
from zoo.measure.calibration import answers
from zoo.paths import PREDICTIONS
from zoo.records.predictions_file import predictions_digest
from zoo.records.schema import CHECKSUM

NUM_EMBEDDED = 1000  # images, spread evenly over the test set
Part = dict[str, Tensor]


class Predictions(lightning.Callback):
    """Write predictions.safetensors from the batches of the test, and plot them.

    In the order of the test set, the file has `labels`, `predicted` and `confidence` for images (NaN if a logit was
    NaN, so that there is no prediction), or `correct` for sequences and for images with several labels; its metadata
    has the `split_hash` of the data. Plotted are the confusion matrix, calibration and the most confident mistakes;
    TensorBoard also shows precision and recall of each class, and in the projector the inputs of the net's last layer.
    If a task's `measure` returns no logits, as with task=rotation, nothing is drawn.
    """

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        task: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._facts = data.load()
        self._is_drawn = any(distributed.all_gather_object(bool(boards(trainer))))
        self._stride = -(-self._facts.num_samples["test"] // NUM_EMBEDDED)
        self._batches: list[Part] = []
        self._mistakes: list[Part] = []
        self._embedded: list[Part] = []
        self._features: Tensor | None = None
        heads = [task.net.get_submodule(name) for name in task.net.head_names[:1]]  # an int8 net has none
        self._hooks = [head.register_forward_pre_hook(self._keep_features) for head in heads]

    def _keep_features(self, head: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._features = args[0]

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if outputs is None:
            return
        task: Any = pl_module
        images, labels = batch
        outputs = outputs / task.temperature
        confidence, predicted = outputs.softmax(1).max(1)
        self._batches.append({"logits": outputs.cpu(), "labels": labels.cpu()})
        if not self._is_drawn:
            return
        wrong = ((predicted != labels) | confidence.isnan()).nonzero()[:, 0]
        confidence = confidence.nan_to_num()
        found = {"images": images, "labels": labels, "predicted": predicted, "confidence": confidence}
        worst = wrong[confidence[wrong].argsort(descending=True, stable=True)[:NUM_MISTAKES]]
        self._mistakes = [most_confident([*self._mistakes, self._shown({k: v[worst] for k, v in found.items()})])]
        few = self._shown({k: v[:: self._stride] for k, v in found.items()})
        few["images"] = thumbnails(few["images"])
        if self._features is not None:
            self._embedded.append({**few, "features": self._features[:: self._stride].float().flatten(1).cpu()})

    def _shown(self, found: Part) -> Part:
        """Undo the normalisation of images, and move everything to the CPU."""
        mean, std = (torch.tensor(x)[:, None, None] for x in (self._facts.mean, self._facts.std))
        found = {name: tensor.cpu() for name, tensor in found.items()}
        pixels = found["images"].float() * std + mean
        return {**found, "images": pixels.round().clamp(0, 255).to(torch.uint8)}

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for hook in self._hooks:
            hook.remove()
        task: Any = pl_module
        path, split_hash = Path(trainer.default_root_dir) / PREDICTIONS, self._facts.split_hash
        if task.kind == "sequences" or task.multilabel:
            correct = in_turn(distributed.all_gather_object(task.meter.correct))
            if distributed.rank() == 0:
                save(path, {"correct": torch.tensor([one for batch in correct for one in batch])}, split_hash)
            return
        parts = distributed.all_gather_object((self._batches, self._mistakes, self._embedded))
        if distributed.rank() or not self._batches:
            return
        batches, mistakes, embedded = zip(*parts, strict=True)
        whole = joined(in_turn(batches))
        confidence, predicted = answers(whole["logits"])
        number = smallest_type(whole["logits"].shape[1])
        kept = {"labels": whole["labels"].to(number), "predicted": predicted.to(number)}
        save(path, {**kept, "confidence": confidence}, split_hash)
        for board in boards(trainer):
            step, classes = trainer.global_step - 1, self._facts.classes
            worst = most_confident([one for part in mistakes for one in part])
            show_predictions(board, step, classes, whole["logits"], whole["labels"], worst)
        for writer in tensorboards(trainer):
            show_curves(writer, trainer.global_step - 1, self._facts.classes, whole["logits"], whole["labels"])
            if self._embedded:
                places = joined(in_turn(embedded))
                finite = places["features"].isfinite().all(1)
                show_embedding(writer, self._facts.classes, {name: tensor[finite] for name, tensor in places.items()})


def save(path: Path, tensors: Part, split_hash: str) -> None:
    with replacing(path) as file:
        metadata = {"split_hash": split_hash, CHECKSUM: predictions_digest(tensors, split_hash)}
        file.write(safetensors.torch.save(tensors, metadata))


def in_turn(parts: Any) -> list[Any]:
    """Return the batches of all processes in the order of the data, in which they are interleaved."""
    return [batch for batches in zip(*parts, strict=True) for batch in batches]


def joined(parts: list[Part]) -> Part:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def most_confident(parts: list[Part]) -> Part:
    whole = joined(parts)
    order = whole["confidence"].argsort(descending=True, stable=True)[:NUM_MISTAKES]
    return {name: tensor[order] for name, tensor in whole.items()}


def smallest_type(num_classes: int) -> torch.dtype:
    """Return the smallest dtype that can represent every label."""
    return torch.uint8 if num_classes <= 2**8 else torch.int16 if num_classes <= 2**15 else torch.int32
