"""Paths of the configs and commands, and the names of the files in a run folder, runs/<name>/<stamp>/.

In a checkout, configs/, train.py, evaluate.py, scripts/, docs/cards/ and docs/results/ are next to the package; in an
installed package they are inside it, as configs/, commands/, cards/ and results/.
"""

import os
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent
IS_INSTALLED = (PACKAGE / "commands").is_dir()
CONFIGS = PACKAGE / "configs" if IS_INSTALLED else CHECKOUT / "configs"
OF_ZOO = "zoo:"  # before the name of a net that comes with the zoo
TRAINED = PACKAGE / "trained"  # nets that come with the zoo: the packed file and the claim of each
CARDS = PACKAGE / "cards" if IS_INSTALLED else CHECKOUT / "docs" / "cards"
RESULTS = PACKAGE / "results" if IS_INSTALLED else CHECKOUT / "docs" / "results"
STARTED_BY_ZOO = "ZOO_COMMAND"  # in the environment of `zoo train` and of the processes that it starts

CONFIG = "config.yaml"  # all settings of the run, resolved
LAST = "last.ckpt"  # Lightning's checkpoint, for resuming only
PRODUCT = "model.safetensors"
PACKED = "model.zoo"
RECIPE = "recipe.json"  # everything done to the net, written before the first step
LATENCIES = "latencies.json"  # times of layers and nets, measured to prune channels for a latency
RESULT = "result.json"
METRICS = "metrics.csv"
PREDICTIONS = "predictions.safetensors"
EXPORTS = "exports.json"
BOARDS = "exports"  # TensorBoard shows each folder in exports/ as a run
PREFLIGHT = "preflight.png"
STUDY = "study.db"  # of a hyperparameter search, in runs/<name>/
FRONT = "front.json"  # of a search with two objectives: the trials that no other beats in both
FRONT_BOARDS = "front"  # TensorBoard shows each folder in front/ as a run
LOCK = ".lock"


def commands() -> dict[str, Path]:
    """Return the script of each command by name: train, evaluate, export and so on."""
    if IS_INSTALLED:
        files = sorted((PACKAGE / "commands").glob("*.py"))
    else:
        files = [CHECKOUT / "train.py", CHECKOUT / "evaluate.py", *sorted((CHECKOUT / "scripts").glob("*.py"))]
    return {file.stem: file for file in files}


def as_typed(text: str) -> str:
    """Return a text with commands as the user types them: `zoo train` instead of `python train.py`, if installed."""
    return re.sub(r"\bpython (?:scripts/)?(\w+)\.py", r"zoo \1", text) if STARTED_BY_ZOO in os.environ else text
