from types import SimpleNamespace

import pytest
from torch import nn

from zoo.callbacks.product import BestProduct
from zoo.checkpoint import read_product


@pytest.mark.parametrize(
    ("accuracies", "losses", "kept"),
    [
        ([0.5, 0.7, 0.6], [1.0, 0.9, 0.1], 1),
        ([0.7, 0.7, 0.7], [0.9, 0.5, 0.6], 1),
        ([0.7, 0.7], [0.5, 0.5], 0),
        ([float("nan"), 0.1, float("nan")], [1.0, 2.0, 0.5], 1),
    ],
)
def test_the_best_validation_is_kept_and_of_equals_that_of_the_lowest_loss(tmp_path, accuracies, losses, kept):
    product, module = BestProduct(), SimpleNamespace(net=nn.Linear(2, 2))
    product.facts = {"recipe": []}
    for epoch, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True)):
        metrics = {"val/accuracy": accuracy, "val/loss": loss}
        trainer = SimpleNamespace(
            sanity_checking=False, callback_metrics=metrics, current_epoch=epoch, default_root_dir=tmp_path
        )
        product.on_validation_end(trainer, module)
    assert read_product(tmp_path / "model.safetensors").facts["best"]["epoch"] == kept
