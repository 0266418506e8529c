"""Measure how far nets can be trusted for docs/trust.md: one net alone, or a net and its compressed forms."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from zoo.checkpoint.named_files import is_shipped, newest
from zoo.data.module import Split
from zoo.errors import BadInput, ZooError, require
from zoo.inference import compare_files, evaluate, robustness, same_images
from zoo.inference.cards import AS_CLAIMED
from zoo.measure.accuracy import has_nan
from zoo.measure.calibration import calibration, fit_temperature
from zoo.measure.evaluation import evaluate as evaluate_logits
from zoo.paths import OF_ZOO, PACKED, PRODUCT

# By the form of a net: the settings of train.py that make it, and the file that is compared. Forms whose settings do
# not say otherwise are trained for `cfg.epochs` epochs.
FORMS = {
    "pruned": (["compress=prune", "compress.prune.sparsity=0.9"], PACKED),
    "rate": (["compress=rate", "compress.rate.max_drop=0.5"], PACKED),
    "int8": (["compress=ptq_int8", "trainer.max_epochs=0"], PRODUCT),
    "int4": (["compress=weight_int4", "trainer.max_epochs=0"], PRODUCT),
}
TRAINING = ["optim=adamw", "optim.lr=3e-4", "schedule=cosine", "trainer=cpu", "seed=1", "callbacks.graph=null"]
OTHER_DATA = {"mnist_5k": "fashion_mnist", "fashion_mnist": "mnist_5k"}  # to be told from the data of a net
SPLITS: tuple[Split, ...] = ("val", "test")


def settings_of(cfg: DictConfig) -> DictConfig:
    """Return the settings of compare.py and evaluate.py with which everything is measured."""
    asked = {"corruptions": cfg.corruptions, "explain": True, "shift": True, "out_of_distribution": None, "seed": 0}
    return OmegaConf.create({**AS_CLAIMED, **asked, "data_root": cfg.data_root, "download": cfg.download})


def name_of(file: Path, cfg: DictConfig) -> str:
    """Return the name of a net's result: that of a net that comes with the zoo, or `cfg.name`.

    Raises BadInput for a file that does not exist, for another one without a name, and for a name of several files.
    """
    if is_shipped(file):
        return file.stem
    if not file.is_file():
        raise BadInput(f"names: there is no file {file}")
    if cfg.name is None or len(cfg.names) > 1:
        raise BadInput(f"name: {file} does not come with the zoo; measure it alone, with name=NAME for its result")
    require(re.fullmatch(r"\w+", cfg.name) is not None, "name", "letters, digits and _", cfg.name)
    return str(cfg.name)


def form_files(folder: Path) -> dict[str, Path]:
    """Return the file of each form whose run is in `folder`; raise ZooError if one is missing."""
    found = {form: newest(folder / form, name) for form, (_, name) in FORMS.items()}
    if missing := [form for form, file in found.items() if file is None]:
        raise ZooError(f"{folder} has no run of the form '{missing[0]}'; it failed, as its log says")
    return {form: file for form, file in found.items() if file is not None}


def compare_forms(named: str, folder: Path, cfg: DictConfig) -> dict[str, Any]:
    """Compare a net with its forms in `folder`; the figures are those of `compare_files`, named by form.

    For a net that does not come with the zoo, `trained_by` has the settings that it was trained with. `epochs` is the
    number of epochs of the forms that are trained, and `settings` has the settings of all forms besides `made_by`.
    """
    forms = form_files(folder)
    settings = settings_of(cfg)
    files = compare_files.open_files([named, *map(str, forms.values())], settings)
    figures = compare_files.compare_files(files, settings).figures
    for row, form in zip(figures["files"], ["dense", *forms], strict=True):
        row |= {"name": form, "file": folder.name if form == "dense" else form}
    return {
        "kind": "forms",
        "trained_by": None if named.startswith(OF_ZOO) else _training_of(files[0].source.facts),
        "made_by": {form: " ".join([*line, *TRAINING]) for form, (line, _) in FORMS.items()},
        "epochs": cfg.epochs,
        "settings": list(cfg.settings),
        **figures,
    }


def _training_of(facts: Mapping[str, Any]) -> str:
    config, choices = facts["config"], facts["config"]["choices"]
    names = ["experiment"] if choices.get("experiment") else ["model", "data", "optim", "schedule"]
    chosen = " ".join(f"{name}={choices[name]}" for name in names)
    return f"{chosen}, {config['trainer']['max_epochs']} epochs, seed {config['seed']}, commit {facts['commit']}"


def measure_alone(named: str, cfg: DictConfig) -> dict[str, Any]:
    """Measure one net: `evaluation`, what `robustness` measures, `explanations`, and what a temperature changes."""
    settings = settings_of(cfg)
    (file,) = compare_files.open_files([named], settings, least=1)
    facts, device = file.source.facts, file.device
    settings.out_of_distribution = OTHER_DATA[facts["config"]["choices"]["data"]]
    predicted = {split: evaluate.predict(file.net, file.data, split, device) for split in SPLITS}
    logits, labels = predicted["test"]
    answers = logits.argmax(1).where(~has_nan(logits), -1)
    temperature = fit_temperature(*predicted["val"])
    changes = {
        split: [calibration(own / by, of_split) for by in (1.0, temperature or 1.0)]
        for split, (own, of_split) in predicted.items()
    }
    return {
        "kind": "alone",
        "file": named,
        "data": facts["config"]["choices"]["data"],
        "num_samples": file.data.load().num_samples,
        "evaluation": evaluate_logits(logits, labels, file.data.load().classes, file.temperature),
        **robustness.evaluate(file.net, file.data, settings, device, file.temperature),
        "explanations": same_images.explain([file], labels, [answers])[0][0],
        "temperature": temperature,
        "nll": {split: [found["nll"] for found in pair if found] for split, pair in changes.items()},
        "num_wrong": {split: int((own.argmax(1) != of).sum()) for split, (own, of) in predicted.items()},
    }
