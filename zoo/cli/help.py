"""The text of --help: what a command does, one line per option, and its settings."""

import json
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

from zoo.paths import CONFIGS, RESULTS, as_typed

GROUPS = {
    "model": "the network",
    "data": "the data set",
    "task": "the training objective",
    "optim": "the optimizer",
    "schedule": "the learning rate schedule",
    "callbacks": "additions to training; combine several with callbacks=[ema,diagnostics]",
    "compress": "pruning, sharing, quantization, packing",
    "trainer": "devices, precision, number of epochs",
}
NOT_A_COMMENT = ("@package", "paper:", "made for:", "source:", "published:")


def help_text(config_name: str, about: str) -> str:
    """Return the help of a command: `about` is the docstring of its script; the rest is read from its configs."""
    config = (CONFIGS / f"{config_name}.yaml").read_text()
    parts = [as_typed(re.sub(r"^(?=python )", "  ", about.strip(), flags=re.MULTILINE))]
    if "- model: " in config or "- train\n" in config:
        parts += ["Options (GROUP=OPTION)", *_groups(config + (CONFIGS / "train.yaml").read_text())]
        parts += [
            "Experiments (experiment=NAME), with the test accuracy or word error rate in docs/results",
            *_experiments(),
        ]
    parts += ["Settings (KEY=VALUE)", *_settings(config)]
    parts += ["--cfg job prints the whole config. --multirun or -m starts one run per value, as in seed=1,2,3."]
    return "\n\n".join(parts)


def _groups(config: str) -> Iterator[str]:
    width = min(shutil.get_terminal_size().columns, 100)
    for group, about in GROUPS.items():
        chosen = re.search(rf"- (?:override )?{group}: (\w+)", config)
        options = sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))
        text = textwrap.fill(" ".join(options), width, initial_indent=" " * 4, subsequent_indent=" " * 4)
        yield f"  {group:10} {about} [{chosen[1] if chosen else options[0]}]\n{text}"


def _experiments() -> Iterator[str]:
    width = min(shutil.get_terminal_size().columns, 120)
    by_data: dict[str, list[str]] = {}
    for file in sorted((CONFIGS / "experiment").glob("*.yaml")):
        line = f"    {file.stem:32} {_reached(file.stem):14} {_comment(file.read_text())}"
        line = line if len(line) <= width else f"{line[: width - 3].rstrip()}..."
        by_data.setdefault(_data_of(file), []).append(line)
    for name in sorted(by_data):
        yield "\n".join([f"  {name}", *by_data[name]])


def _data_of(experiment: Path) -> str:
    """Return the data set of an experiment, or of the experiment that it is based on; parsing YAML would be slow."""
    text = experiment.read_text()
    if data := re.search(r"override /data: (\w+)", text):
        return data[1]
    begins_with = re.search(r"^defaults:.*?(?:- |\[)(\w+)", text, re.MULTILINE | re.DOTALL)
    return (
        _data_of(experiment.with_stem(begins_with[1])) if begins_with and begins_with[1] != "override" else "mnist_5k"
    )


def _reached(name: str) -> str:
    """Return the mean test result of an experiment over seeds, from docs/results."""
    results = [json.loads(file.read_text()) for file in sorted(RESULTS.glob(f"{name}_seed*.json"))]
    tests = [result["test"] for result in results]
    if not tests:
        return "not run here"
    key = "wer" if "wer" in tests[0] else "accuracy"
    mean = sum(test[key] for test in tests) / len(tests)
    return f"{100 * mean:.2f} %" + (" WER" if key == "wer" else "") + (f" (n={len(tests)})" if len(tests) > 1 else "")


def _comment(text: str) -> str:
    """Return the first comment of a config that describes it."""
    comments = (line[2:] for line in text.splitlines() if line.startswith("# "))
    return next((line for line in comments if not line.startswith(NOT_A_COMMENT)), "")


def _settings(config: str) -> Iterator[str]:
    """Yield the settings of a config, with their comments, without the hydra section."""
    lines, is_setting = [], False
    for line in config.splitlines():
        if re.match(r"\w", line):
            is_setting = not line.startswith(("defaults:", "hydra:"))
        if is_setting and line.strip() and not line.startswith("#"):
            lines.append(f"  {line}")
    yield "\n".join(lines)


def wants_help(arguments: list[str]) -> bool:
    return any(argument in ("-h", "--help") for argument in arguments)
