"""Where things are: the configs, and the names of the files in a run's folder, runs/<name>/<stamp>/."""

from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

CONFIG = "config.yaml"  # all settings of the run, resolved
LAST = "last.ckpt"  # Lightning's checkpoint, for resuming only
PRODUCT = "model.safetensors"
PACKED = "model.zoo"
RECIPE = "recipe.json"  # all that was done to the net, there from before its first step
RESULT = "result.json"
METRICS = "metrics.csv"
PREDICTIONS = "predictions.safetensors"
EXPORTS = "exports.json"
BOARDS = "exports"  # TensorBoard takes each folder in exports/ for a run
PREFLIGHT = "preflight.png"
STUDY = "study.db"  # of a search, in runs/<name>/
LOCK = ".lock"
