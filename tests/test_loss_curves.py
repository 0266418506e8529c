"""Recorded losses of the first 50 training steps, which a change of any part of training would alter.

`python tests/test_loss_curves.py` records them again, after a change that is meant to alter them.
"""

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("loss_curves.json")
SETTINGS = (
    "schedule=cosine",
    "data.batch_size=32",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=50",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.log_every_n_steps=1",
    "name=curve",
)
# With each net how far a loss may be off, relative to the recorded one: about ten times as far as between one thread
# and two. Batch norm makes the first steps of ResNet-20 sensitive to rounding.
NETS = {
    "lenet5": (("data=mnist_5k", "optim=sgd", "optim.lr=0.05"), 1e-4),
    "resnet20": (("data=mnist_5k", "optim=sgd", "optim.lr=0.005"), 3e-2),
    "vit_tiny": (("data=mnist_5k", "model.depth=2", "optim=adamw", "optim.lr=1e-4"), 1e-4),
    "transformer": (("data=cmudict", "optim=adamw", "optim.lr=1e-3"), 1e-4),
}


def losses_in(runs: Path) -> list[float]:
    (file,) = runs.glob("curve/*/metrics.csv")
    with file.open() as lines:
        return [float(row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]]


@pytest.mark.parametrize("net", NETS)
def test_the_first_steps_have_the_recorded_losses(net, command, tmp_path):
    settings, tolerance = NETS[net]
    done = command("train", f"model={net}", *settings, *SETTINGS)
    assert done.code == 0, done.err
    losses, recorded = losses_in(tmp_path / "runs"), json.loads(FILE.read_text())[net]
    assert len(losses) == 50
    assert losses[0] == pytest.approx(recorded[0], rel=1e-5)
    assert losses == pytest.approx(recorded, rel=tolerance)
    assert recorded[-1] < 0.95 * recorded[0]


def record() -> None:
    curves = {}
    for net, (settings, _) in NETS.items():
        with tempfile.TemporaryDirectory() as folder:
            line = [sys.executable, "train.py", f"model={net}", *settings, *SETTINGS, f"runs={folder}"]
            subprocess.run(line, check=True, cwd=FILE.parents[1])
            curves[net] = losses_in(Path(folder))
    FILE.write_text(json.dumps(curves, indent=1) + "\n")


if __name__ == "__main__":
    record()
