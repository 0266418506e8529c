"""Export a checkpoint to other formats, verify each file before it is kept, and report the results in a table."""

import itertools
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from zoo import escape
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.product_file import Product
from zoo.checkpoint.stored_config import stored_data
from zoo.checkpoint.temperature import KEY as TEMPERATURE
from zoo.checkpoint.temperature import without_temperature
from zoo.compress.recipe import in_integers
from zoo.data.module import ResidentData
from zoo.data.sequences import SequenceData
from zoo.errors import BadInput, ZooError, choices, reason
from zoo.export.export_format import ExportFormat, Job, format_names, format_of
from zoo.export.export_report import Earlier, Row, check_boards, show, write_rows
from zoo.export.fastest import CANDIDATES, FASTEST, Tried, has_openvino, keep_fastest, with_candidates
from zoo.export.parts import has_fixed_length
from zoo.export.read_export import PARTS, Classifier, Writer
from zoo.export.runtime import Run
from zoo.export.verify import Answers, answers_of, compare_answers, rejection_reason, running
from zoo.export.worker import OPENVINO
from zoo.files import sha256_of
from zoo.paths import EXPORTS, RESULT
from zoo.quantize.pt2e import program_of
from zoo.records.json_files import read_exports, read_result
from zoo.run.pack_product import share_at_once
from zoo.run.round_product import round_at_once


def check_formats(names: list[str]) -> None:
    """Raise BadInput for a format that does not exist or does not work on this machine."""
    if not names:
        raise BadInput(f"format: expected one format or more, got none; {choices('', format_names())}")
    known = [*format_names(), FASTEST]
    for name in names:
        if name not in known:
            raise BadInput(f"format={name} is not an export format; {choices(str(name), known)}")
        if name != FASTEST:
            format_of(name).check()


def export(product: Product, names: list[str], folder: Path, cfg: DictConfig) -> None:
    """Export a product to a folder in some formats, keeping only verified files, and write exports.json.

    With `cfg.compress`, weights are shared or rounded first; lost accuracy is counted from before that. Raises
    ZooError, after all formats were tried, if a named one was refused, and BadInput if a file would replace something
    that no export wrote.
    """
    named, (names, sentences) = names, with_candidates(names, product)
    _check_settings(product, names, cfg)
    digest = sha256_of(product.path)
    earlier = _earlier_exports(folder, product, names, digest, cfg)
    check_boards(folder)
    net, data = load_model(product).eval(), stored_data(product.facts, cfg)
    before = source = answers_of(net, data)
    if compressed := _compressed(product, data, cfg):
        product, net = without_temperature(compressed), load_model(compressed).eval()
        source = replace(answers_of(net, data), accuracy=before.accuracy)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [Job(product, net, data, _facts(product, name, cfg), cfg) for name in names]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export.") as place:
        to = Path(place) if FASTEST in named else folder  # candidates may be dropped, but no file of an earlier export
        tried = kept = [(name, _try(name, job, source, to)) for name, job in zip(names, jobs, strict=True)]
        if FASTEST in named:
            others = _in_openvino(tried, jobs, source, to) if has_openvino() else []
            kept, found = keep_fastest([*tried, *others], jobs[0], named, to)
            sentences = [*found, *sentences]
            _move(to, folder)
    rows = [row for _, row in kept]
    choice = product.facts["config"]["choices"]
    about = {"checkpoint": str(product.path), "sha256": digest, "net": choice["model"], "data": choice["data"]}
    outdated = write_rows({**about, "accuracy": before.accuracy}, rows, earlier, product, folder)
    what = "" if data.number_scale is None else "R2 "
    show(f"{about['net']} on {about['data']}, {what}{before.accuracy:.2%} before", rows)
    _print_files(rows, folder, sentences, outdated)
    _check_refused(tried, named)


def _print_files(rows: list[Row], folder: Path, sentences: list[str], outdated: list[str]) -> None:
    files = ", ".join(dict.fromkeys([*itertools.chain(*(row.files for row in rows)), EXPORTS]))
    print(escape.line(f"Written     {files} in {folder}"))
    for sentence in sentences:
        print(escape.line(f"Fastest     {sentence}"))
    if outdated:
        which = ", ".join(outdated)
        print(escape.line(f"Outdated    {which}: the checkpoint has changed since they were exported"))


def _check_refused(tried: list[Tried], named: list[str]) -> None:
    """Raise ZooError if a named format was refused, or all that format=fastest has tried."""
    refused = [
        f"format={name} is refused, and its file not kept: {row.reason}"
        for name, row in tried
        if name in named and row.reason
    ]
    candidates = [row for name, row in tried if name in CANDIDATES]
    if FASTEST in named and not any(row.proof for row in candidates):
        reasons = [f"{row.format}: {row.reason}" for name, row in tried if name in CANDIDATES and name not in named]
        refused.append(f"format=fastest found no file to keep{': ' * bool(reasons)}{'; '.join(reasons)}")
    if refused:
        raise ZooError("; ".join(refused))


def _compressed(product: Product, data: ResidentData, cfg: DictConfig) -> Product | None:
    """Return the product as `cfg.compress` makes it without training, or None if it changes nothing."""
    if "share" in cfg.compress:
        return share_at_once(product, *(cfg.compress.share[key] for key in ("bits", "mean_bits", "init", "rate")))
    if "rate" in cfg.compress:
        max_drop = cfg.max_drop / 2 if cfg.compress.rate.max_drop is None else cfg.compress.rate.max_drop
        packing = {key: cfg.compress.after_fit.pack[key] for key in ("half", "fold_norms", "bias_bits")}
        return round_at_once(product, data, max_drop, cfg.calibration_batches, packing)
    return None


def _check_settings(product: Product, names: list[str], cfg: DictConfig) -> None:
    """Raise BadInput for settings that do not fit the product; zoo.cli.settings has the ranges."""
    if cfg.bake and "classes" not in product.facts["data"]:
        raise BadInput("bake=true is for image nets, and this one reads sequences")
    if cfg.calibrated and (TEMPERATURE not in product.facts or {"share", "rate"} & cfg.compress.keys()):
        raise BadInput(
            "calibrated=true needs a temperature: store one by scripts/calibrate.py, and leave out compress, which "
            "changes the net that it was fitted to"
        )
    for name in {"share", "rate"} & cfg.compress.keys():
        if in_integers(product.facts["recipe"]):
            raise BadInput(f"compress={name} needs a float net, and this one is already quantized")
    is_int8 = program_of(product.facts["recipe"]) is not None
    for name in names:
        if format_of(name).needs_int8 and not is_int8:
            raise BadInput(
                f"format={name} needs a net in int8: python train.py init_from={product.path} compress=ptq_int8 "
                "trainer.max_epochs=0"
            )
        if in_integers(product.facts["recipe"]) and format_of(name).precision != "fp32":
            what = "in int8; use format=onnx" if is_int8 else "quantized"
            raise BadInput(f"format={name} needs a float net, and this one is already {what}")


def _earlier_exports(folder: Path, product: Product, names: list[str], digest: str, cfg: DictConfig) -> Earlier:
    """Return what earlier exports left in a folder; raise BadInput if other files would be replaced."""
    earlier, files = Earlier([], set(), set()), set()
    if (folder / EXPORTS).exists():
        found = read_exports(folder / EXPORTS)
        outdated = {*found.get("outdated", [])}
        of_rows = {file for row in found["rows"] for file in row["files"]}
        files |= outdated | of_rows
        formats = {row["format"] for row in found["rows"]}
        if found.get("sha256") == digest:
            earlier = Earlier(found["rows"], formats, outdated)
        elif os.path.realpath(found["checkpoint"]) == os.path.realpath(product.path):
            earlier = Earlier([], formats, outdated | of_rows)
        else:
            raise BadInput(f"{folder} has exports of {found['checkpoint']}; set out=ANOTHER_FOLDER")
    if (folder / RESULT).exists():
        exports = read_result(folder / RESULT).get("exports", {})
        files |= {file for row in exports.values() for file in row["files"]}
    for name in names:
        target = folder / _file(name, cfg)
        parts = (target.with_stem(f"{target.stem}_{part}") for part in PARTS)
        for path in (target, *parts, *(folder / beside for beside in format_of(name).beside)):
            if path.exists() and path.samefile(product.path):
                if {"share", "rate"} & cfg.compress.keys() or _is_rounded(name, cfg):
                    raise BadInput(f"format={name} would replace the checkpoint itself; set out=FOLDER")
            elif path.exists() and path.name not in files:
                raise BadInput(f"format={name} would replace {path}, which no export wrote; set out=FOLDER")
    return earlier


def _ending(name: str, cfg: DictConfig) -> str:
    """Return the suffix that distinguishes a file from others of its format, such as `_shared_baked`."""
    endings = {
        "_shared": "share" in cfg.compress,
        "_rate": "rate" in cfg.compress,
        f"_{format_of(name).precision_with(cfg)}": _is_rounded(name, cfg),
        "_baked": _is_baked(name, cfg),
        "_calibrated": _is_calibrated(name, cfg),
    }
    return "".join(ending for ending, is_so in endings.items() if is_so)


def _is_rounded(name: str, cfg: DictConfig) -> bool:
    return format_of(name).precision_with(cfg) != format_of(name).precision


def _is_baked(name: str, cfg: DictConfig) -> bool:
    return cfg.bake and format_of(name).bakes


def _is_calibrated(name: str, cfg: DictConfig) -> bool:
    return cfg.calibrated and format_of(name).bakes


def _file(name: str, cfg: DictConfig) -> str:
    stem, dot, suffix = format_of(name).file.partition(".")
    return stem + _ending(name, cfg) + dot + suffix


def _precision(product: Product, name: str, cfg: DictConfig) -> str:
    if program_of(product.facts["recipe"]):
        return "int8"
    return format_of(name).precision_with(cfg)


def _facts(product: Product, name: str, cfg: DictConfig) -> dict[str, Any]:
    export: dict[str, Any] = {"format": name, "precision": _precision(product, name, cfg), "bake": cfg.bake}
    if _is_calibrated(name, cfg):
        export["calibrated"] = True
    return {**product.facts, "export": export}


def _try(name: str, job: Job, source: Answers, folder: Path) -> Row:
    """Write files to a temporary folder, verify them, and only then move them and their plots to `folder`."""
    form = format_of(name)
    precision = _precision(job.product, name, job.cfg)
    row = Row(name + _ending(name, job.cfg), precision, form.runtime, [])
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export.") as place:
        try:
            files = form.write(Path(place) / _file(name, job.cfg), job)
        except BadInput as error:
            return replace(row, reason=str(error))
        except Exception as error:  # torch or ONNX Runtime cannot translate something
            return replace(row, reason=f"{form.runtime} cannot represent this net: {reason(_first(error))}")
        row = _verified(row, form, files, job, source)
        if row.proof:
            _move(Path(place), folder)
    return row


def _move(source: Path, folder: Path) -> None:
    """Move all files of a folder to another; they replace those with the same names."""
    for file in source.iterdir():
        os.replace(file, folder / file.name)


def _verified(row: Row, form: ExportFormat, files: list[Path], job: Job, source: Answers) -> Row:
    """Return a row with its files and what its runtime computed with them, or with the reason to refuse them."""
    dense = sum(weight.numel() * weight.element_size() for weight in job.product.weights.values())
    try:
        with running(files, form.runs_alone, row.runtime) as (runs, measured):
            found = answers_of(_as_net(runs, files, job), job.data)
        proof = compare_answers(found, source, files, measured)
    except ZooError as error:
        return replace(row, reason=str(error))
    limits = form.tolerance(row.precision), dense if form.smaller else None, job.cfg.max_drop
    if why := form.mismatch(found.logits, job) or rejection_reason(proof, source, *limits):
        return replace(row, reason=why)
    return replace(row, proof=proof, files=[*(file.name for file in files), *form.beside])


def _in_openvino(tried: list[Tried], jobs: list[Job], source: Answers, folder: Path) -> list[Tried]:
    """Return rows of the verified .onnx files among the candidates of format=fastest, as OpenVINO computes them."""
    found = []
    for (name, row), job in zip(tried, jobs, strict=True):
        files = [folder / file for file in row.files]
        if name in CANDIDATES and row.proof and files[0].suffix == ".onnx":
            other = Row(f"{row.format}_{OPENVINO}", row.precision, OPENVINO, [])
            found.append((name, _verified(other, format_of(name), files, job, source)))
    return found


def _first(error: BaseException) -> BaseException:
    """Return the original cause of an error, which says more about a net than torch's own message."""
    return _first(error.__cause__) if error.__cause__ else error


def _as_net(runs: list[Run], files: list[Path], job: Job) -> nn.Module:
    """Wrap what another process computes in a net that the zoo can call."""
    if isinstance(job.data, SequenceData):
        padded = len(files) > 1 and has_fixed_length(job.net)
        return Writer(runs[0], runs[1], job.facts["data"]["max_length"] if padded else None)
    name = job.facts["export"]["format"]
    return Classifier(runs[0], job.facts, format_of(name).takes_pixels or _is_baked(name, job.cfg))
