"""Write the tables of README.md and docs/ from result files.

  python scripts/results.py add=runs/<name>                      add a result
  python scripts/results.py                                      rewrite the tables and the pictures

Result files are docs/results/<name>_seed<seed>.json, with the validation curve of the run. Pictures are
docs/compression.svg and, where runs have curves, docs/defaults.svg and docs/ten_minutes.svg. The table of all recipes
comes from configs/experiment.
"""

import functools
import os
import re
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from zoo.benchmarks import result_tables, trust_tables
from zoo.benchmarks.ablation_tables import ablation_table
from zoo.benchmarks.curve_plot import RUNS_ON, draw_page, minutes_curve, picture_of_curves
from zoo.benchmarks.repair_tables import repair_table
from zoo.benchmarks.run_tables import (
    ABLATION,
    DIGITS,
    IMAGES,
    LONG_TAIL,
    SEQUENCES,
    accuracy_table,
    compression_table,
    defaults_table,
    in_cell,
    kept_runs,
    pipeline_table,
    quantization_table,
    rare_classes_table,
    recipe_table,
)
from zoo.benchmarks.sequence_tables import compressed_sequence_table, sequence_table
from zoo.benchmarks.size_plot import draw_sizes
from zoo.cli.command import command
from zoo.inference.cards import trained_table
from zoo.paths import CHECKOUT, RESULT, RESULTS

RESULT_PAGES = (
    *("recipes", "defaults", "training", "sequences", "ten_minutes", "speed", "compression", "channel_pruning"),
    *("packed_file", "quantization", "trust", "deploy"),
)
PAGES = ("README.md", *(f"docs/{name}.md" for name in RESULT_PAGES))
IDENTITY = ("net", "data", "further_hash")  # what runs of one name have in common, besides settings
NOT_DEFAULTS = ("runs", "data_root", "seed", "trainer.precision")  # settings that do not change what is learned


def keep(folder: Path) -> Path:
    """Copy a run's result.json into docs/results, with its validation curve and without the paths of its machine.

    Of a folder of runs, the newest is taken.
    """
    from zoo.checkpoint.named_files import newest
    from zoo.errors import BadInput, reason
    from zoo.records.json_files import read_result, write_result

    file = newest(folder, RESULT)
    if file is None:
        raise BadInput(f"add={folder} has no result.json; only finished runs have one")
    folder, result = file.parent, read_result(file)
    result.pop("folder", None)
    for key, value in result.setdefault("settings", {}).items():
        result["settings"][key] = [_relative(one) for one in value] if isinstance(value, list) else _relative(value)
    _check_kept(folder, result)
    if points := minutes_curve(folder, result):
        result["curve"] = points
    target = RESULTS / f"{result['name']}_seed{result['seed']}.json"
    RESULTS.mkdir(parents=True, exist_ok=True)
    before = target.read_bytes() if target.exists() else None
    write_result(target, result)
    try:
        for name in (
            *("accuracy", "defaults", "ten_minutes", "sequences", "compression", "compressed_sequences"),
            *("quantization", "pipeline", "rare_classes", "repair", "ablation", "rate_ablation"),
        ):
            TABLES[name]()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        target.unlink() if before is None else target.write_bytes(before)
        raise BadInput(f"add={folder}: its result.json does not fit the tables ({reason(error)})") from error
    return target


def _check_kept(folder: Path, result: dict[str, Any]) -> None:
    """Raise BadInput for a result that the tables cannot compare with the others."""
    from zoo.compare.runs import config_of, part_tested
    from zoo.errors import BadInput
    from zoo.ranges import PlainName

    if result["settings"].get("task") == "rotation":
        raise BadInput(f"add={folder} has task=rotation; the tables are for classification")
    if result["settings"].get("data.folds"):
        raise BadInput(f"add={folder} is one fold of a cross-validation; the tables are for whole training sets")
    if result["data"] == DIGITS:
        _check_default(folder, result["net"])
    elif result["data"] not in (known := (IMAGES, SEQUENCES, LONG_TAIL)):
        raise BadInput(f"add={folder} was trained on {result['data']}; the tables are for {', '.join(known)}")
    if part := part_tested(result, config_of(folder)):
        raise BadInput(f"add={folder} was {part}; the tables are for whole test sets")
    if limited := config_of(folder).get("trainer.limit_val_batches"):
        raise BadInput(f"add={folder} selected its epoch with trainer.limit_val_batches={limited}; remove that setting")
    if not result["commit"] or result["commit"].endswith("-dirty"):
        raise BadInput(f"add={folder} has commit {result['commit']}: commit all changes, then run it again")
    of_ablations = result["name"].startswith(ABLATION)
    for other in kept_runs(lambda kept: kept["name"] == result["name"], of_ablations).get(result["name"], []):
        if differs := [key for key in IDENTITY if other.get(key) != result.get(key)] + _differences(other, result):
            raise BadInput(f"add={folder}: {result['name']} exists already with another {differs[0]}; use another name")
    if not PlainName().holds(result["name"]):
        raise BadInput(f"add={folder}: name: expected {PlainName()}, got {result['name'][:80]!r}")


def _check_default(folder: Path, net: str) -> None:
    """Raise BadInput for a run on the digits whose settings are not those of `python train.py model=NET`."""
    from zoo.compare.runs import config_of
    from zoo.errors import BadInput
    from zoo.records.config_file import leaves

    default, own = hydra.compose("train", [f"model={net}", f"name={net}_{DIGITS}"]), config_of(folder)
    for key, value in leaves(OmegaConf.to_container(default, resolve=True)):
        if key not in NOT_DEFAULTS and own.get(key, value) != value:
            raise BadInput(f"add={folder} has {key}={own.get(key)}, not {value}; the table of {DIGITS} is for defaults")


def _differences(kept: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """List the settings that both results have and that differ, except for the seed, and the device by `trainer`."""
    of_kept, own = kept["settings"], result["settings"]
    both = of_kept.keys() & own.keys() - {"seed", "trainer"}
    return [key for key in own if key in both and of_kept[key] != in_cell(own[key])]


def _relative(value: Any) -> Any:
    """Reduce an absolute path to the file name."""
    return os.path.basename(value) if isinstance(value, str) and os.path.isabs(value) else value


ALONE = "lenet5_mnist_5k"  # the net that docs/trust.md measures alone
TABLES = {
    "accuracy": accuracy_table,
    "defaults": defaults_table,
    "ten_minutes": lambda: accuracy_table(of_families=True),
    "rare_classes": rare_classes_table,
    "sequences": sequence_table,
    "ablation": lambda: ablation_table(SEQUENCES),
    "rate_ablation": lambda: ablation_table(IMAGES),
    "recipes": recipe_table,
    "compression": compression_table,
    "compressed_sequences": compressed_sequence_table,
    "quantization": quantization_table,
    "quantized_sequences": lambda: quantization_table("wer"),
    "repair": repair_table,
    "pipeline": pipeline_table,
    "trained": trained_table,
    "gpu_aims": lambda: result_tables.aims_table(RESULTS),
    "trust": lambda: trust_tables.forms_table(RESULTS),
    "trust_alone": lambda: trust_tables.alone_table(RESULTS, ALONE),
    "trust_maps": lambda: trust_tables.maps_table(RESULTS, ALONE),
    "trust_temperature": lambda: trust_tables.temperature_sentence(RESULTS, ALONE),
    "inference_16": lambda: result_tables.inference_table(RESULTS, 16),
    "inference_1": lambda: result_tables.inference_table(RESULTS, 1),
    "sizes": lambda: result_tables.sizes_table(RESULTS),
    "mcu": lambda: result_tables.mcu_table(RESULTS),
    **{f"{page}_curves": functools.partial(picture_of_curves, page) for page in RUNS_ON},
    **{
        f"benchmark_{name}": functools.partial(result_tables.benchmark_table, RESULTS, name)
        for name in result_tables.BENCHMARKS
    },
}


def write_tables(file: Path) -> None:
    """Replace the text between <!-- table:NAME --> and <!-- end --> with the table of that name."""
    from zoo.files import write_text

    def table(match: re.Match[str]) -> str:
        return f"{match.group(1)}\n{TABLES[match.group(2)]()}\n<!-- end -->"

    text = file.read_text()
    write_text(file, re.sub(r"(<!-- table:(\w+) -->)\n.*?<!-- end -->", table, text, flags=re.DOTALL))


@command("results")
def main(cfg: DictConfig) -> None:
    if cfg.add:
        print(f"Added {os.path.relpath(keep(Path(cfg.add)))}")
    for name in PAGES:
        write_tables(CHECKOUT / name)
        print(f"Wrote {name}")
    draw_sizes(CHECKOUT / "docs" / "compression.svg")
    for page in RUNS_ON:
        draw_page(page, CHECKOUT / "docs" / f"{page}.svg")


if __name__ == "__main__":
    main()
