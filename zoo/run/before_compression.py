"""What is known of the net that a run compressed: from the file it started from, and from the passes."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from zoo.checkpoint.named_files import claim_of, is_shipped
from zoo.checkpoint.product_file import read_product
from zoo.compress.recipe import Step, replay
from zoo.errors import BadInput
from zoo.paths import RESULT
from zoo.records.json_files import read_result
from zoo.run.model import build_bare_model

SAME_TEST = ("test_hash", "test_content_hash", "test_sample_hash")


def figures_before(
    init_from: str | None,
    recipe: Sequence[Mapping[str, Any]],
    reports: Mapping[str, Mapping[str, Any]],
    result: Mapping[str, Any],
) -> dict[str, Any]:
    """Return `product_bytes`, `params`, `macs` and `test` before compression, as far as they are known.

    They are those in the result next to the file `init_from`, if it was tested on the same samples. A pass that
    measured the float net knows better, and one that cut channels knows its sizes.
    """
    found: dict[str, Any] = {}
    for step in reversed(recipe):
        found |= {key: step[f"{key}_before"] for key in ("macs", "params") if f"{key}_before" in step}
    found |= _of_file(init_from, result) if init_from else {}
    for report in reports.values():
        if "float" in report:
            found |= {key: report["float"][key] for key in ("product_bytes", "test")}
        elif "stages" in report:
            found.setdefault("product_bytes", report["stages"]["dense"])
    return found


def net_before(cfg: DictConfig, recipe: Sequence[Step]) -> nn.Module | None:
    """Return the net that a run started from, without its weights; None if no pass of the run has made it faster.

    `recipe` has the steps of the run's product.
    """
    own = own_steps(cfg, recipe)
    if not any("macs_before" in step for step in own):
        return None
    net = build_bare_model(cfg.model)
    replay(net, recipe[: len(recipe) - len(own)])
    return net


def own_steps(cfg: DictConfig, recipe: Sequence[Step]) -> Sequence[Step]:
    """Return the steps of a recipe that a run has added to those of `init_from`; none if that file has moved since.

    Nothing is read, and there are none, if no step of the recipe has made the net faster.
    """
    if not any("macs_before" in step for step in recipe):
        return []
    try:
        return recipe[len(read_product(cfg.init_from).facts["recipe"]) :] if cfg.init_from else recipe
    except (BadInput, OSError):
        return []


def figures_of_pruning(recipe: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the last pass that removed channels measured before training.

    `repair` has the validation accuracies by step of the repair, and `time_kept` the time as a fraction of the time of
    the net before it, if there was a target.
    """
    names = {"accuracy": "repair", "latency": "time_kept"}
    last: Mapping[str, Any] = next((step for step in reversed(recipe) if step["pass"] == "prune_channels"), {})
    return {name: last[key] for key, name in names.items() if last.get(key)}


def _of_file(init_from: str, ours: Mapping[str, Any]) -> dict[str, Any]:
    path = Path(init_from)
    found: dict[str, Any] = {}
    with contextlib.suppress(BadInput, OSError, KeyError):
        found["product_bytes"] = path.stat().st_size
        result = _result_of(path)
        found |= {key: result[key] for key in ("params", "macs")}
        tests = [[one.get(key) for key in SAME_TEST] + [one["num_samples"]["test"]] for one in (result, ours)]
        if tests[0] == tests[1]:
            found["test"] = result["test"]
    return found


def _result_of(path: Path) -> dict[str, Any]:
    """Return the result of the run that wrote a file, or of a net that comes with the zoo, with its file's metrics."""
    if not is_shipped(path):
        return read_result(path.with_name(RESULT))
    claim = claim_of(path.stem)
    evaluation = claim["evaluation"]
    test = {key: evaluation[key] for key in claim["run"]["test"] if key in evaluation}
    return {**claim["run"], "test": test}
