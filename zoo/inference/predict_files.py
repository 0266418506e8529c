"""Predictions of many inputs: printed as they are computed, and written to a table and a picture."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from zoo.checkpoint.product_file import Product
from zoo.data.table_labels import has_numbers
from zoo.errors import BadInput
from zoo.export.read_export import Exported, net_of
from zoo.files import read_file
from zoo.inference import evaluate
from zoo.inference.predict import Prediction, Unusable, files_of, pixels_of, predict
from zoo.inference.unlike import Unlike
from zoo.report import tables
from zoo.report.prediction_files import MOST_IN_GRID, write_grid, write_numbers, write_table

MOST_BYTES = 1 << 26  # of a file of words
log = logging.getLogger("zoo")


def predict_files(file: Product | Exported, inputs: Sequence[str], cfg: DictConfig) -> None:
    """Print the predictions of a file's net for all inputs, and write them to the files `out` and `grid` of cfg.

    Differences from the training data are logged, one line per kind. Raises Unusable at the end if inputs could not be
    used, and BadInput before any prediction for everything else that is wrong with inputs or settings.
    """
    facts, of_pictures = file.facts, "classes" in file.facts["data"]
    _check(cfg, of_pictures, inputs)
    inputs = files_of(inputs) if of_pictures else inputs
    if cfg.grid is not None and os.path.realpath(cfg.grid) in map(os.path.realpath, inputs):
        raise BadInput(f"grid: '{cfg.grid}' is one of the pictures, which would be lost; choose another name")
    net = net_of(file)
    device = evaluate.to_device(net, cfg.accelerator)
    images: list[Tensor] = []
    unlike = Unlike(facts) if of_pictures else None

    def seen(path: str, picture: Tensor, image: Tensor) -> None:
        assert unlike is not None
        unlike.note(path, picture, image)
        if cfg.grid is not None and len(images) < MOST_IN_GRID:
            images.append(pixels_of(image, facts["data"]))

    rows: list[Prediction] = []
    unusable: Unusable | None = None
    try:
        found = _kept(predict(net, facts, inputs, cfg.top, device, seen), rows)
        tables.show_predictions(found, has_numbers(facts["config"]["data"]))
    except Unusable as error:
        unusable = error
    if rows:
        _write(cfg, rows, images, facts)
    for sentence in unlike.sentences() if unlike else ():
        log.warning("%s", sentence)
    if unusable:
        raise unusable


def _write(cfg: DictConfig, rows: Sequence[Prediction], images: Sequence[Tensor], facts: Mapping[str, Any]) -> None:
    """Write the table and the grid that are asked for; `images` are the first pictures, as the net reads them."""
    are_numbers = has_numbers(facts["config"]["data"])
    if cfg.out is not None and are_numbers:
        write_numbers(Path(cfg.out), rows)
    elif cfg.out is not None:
        write_table(Path(cfg.out), rows, ("file", "class") if "classes" in facts["data"] else ("text", "sequence"))
    if cfg.grid is not None:
        write_grid(Path(cfg.grid), torch.stack(list(images)), rows, are_numbers)


def _kept(predictions: Iterable[Prediction], rows: list[Prediction]) -> Iterator[Prediction]:
    for row in predictions:
        rows.append(row)
        yield row


def _check(cfg: DictConfig, of_pictures: bool, inputs: Sequence[str]) -> None:
    """Raise BadInput for files that could not be written at the end, or do not fit the net."""
    for key, suffix in (("out", ".csv"), ("grid", ".png")):
        if cfg[key] is None:
            continue
        path = Path(cfg[key])
        if path.suffix != suffix or path.is_dir():
            raise BadInput(f"{key}: expected a file that ends in {suffix}, got '{path}'")
        if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            raise BadInput(f"{key}: expected a file in an existing folder that can be written to, got '{path}'")
    if cfg.grid is not None and not of_pictures:
        raise BadInput("grid: this net reads texts, and a grid is of pictures; leave it out")
    if cfg.words is not None and of_pictures:
        raise BadInput("words: this net classifies pictures; pass image files or folders instead")
    if not inputs:
        raise BadInput("inputs: expected image files, or texts for a sequence net, got none")


def words_in(path: str) -> list[str]:
    """Return the lines of a text file in UTF-8, without blank ones."""
    if not Path(path).is_file():
        raise BadInput(f"words: expected a text file with one text per line, got '{path}', which is not a file")
    try:
        lines = read_file(path, MOST_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadInput(f"words: expected a text file in UTF-8, got '{path}'; convert it") from error
    return [line.strip() for line in lines if line.strip()]
