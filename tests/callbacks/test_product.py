from types import SimpleNamespace

import pytest
from small import FACTS
from torch import nn

from zoo.callbacks.product import BestProduct
from zoo.checkpoint.product_file import read_product


class Trainer(SimpleNamespace):
    """The part of a trainer that the callback uses."""

    def __init__(self, net, **facts):
        state = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
        super().__init__(strategy=SimpleNamespace(lightning_module_state_dict=lambda: state), **facts)


@pytest.mark.parametrize(
    ("metric", "accuracies", "losses", "kept"),
    [
        ("val/accuracy", [0.5, 0.7, 0.6], [1.0, 0.9, 0.1], 1),
        ("val/accuracy", [0.7, 0.7, 0.7], [0.9, 0.5, 0.6], 1),
        ("val/accuracy", [0.7, 0.7], [0.5, 0.5], 0),
        ("val/accuracy", [float("nan"), 0.1, float("nan")], [1.0, 2.0, 0.5], 1),
        ("val/accuracy", [0.1, 0.2], [float("nan"), float("inf")], 1),
        (None, [0.9, 0.7, 0.8], [1.0, 2.0, 3.0], 2),
    ],
)
def test_the_best_validation_is_kept_and_of_equals_that_of_the_lowest_loss(tmp_path, metric, accuracies, losses, kept):
    product, net = BestProduct(metric), nn.Linear(2, 2)
    product.facts = FACTS
    for epoch, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True)):
        metrics = {"val/accuracy": accuracy, "val/loss": loss}
        trainer = Trainer(
            net,
            sanity_checking=False,
            callback_metrics=metrics,
            current_epoch=epoch,
            global_step=epoch,
            default_root_dir=tmp_path,
        )
        product.on_validation_end(trainer, None)
    assert read_product(tmp_path / "model.safetensors").facts["best"]["epoch"] == kept
