"""Tables of the results of `scripts/benchmark.py ... out=benchmark_<name>.json`."""

import json
import re
from pathlib import Path
from typing import Any

from zoo.benchmarks.rounds import RIVALS
from zoo.errors import counted

BENCHMARKS = (
    *("train", "train_resnet20", "train_vgg11_bn", "muon", "step"),
    *("loader", "augment", "startup", "logging", "gpu", "packed", "decoding"),
)
_INFERENCE = "benchmark_inference_"
MEASURED = (
    ("samples/s", "samples_per_second", "{:,.0f}"),
    ("TFLOPS", "tflops", "{:.2f}"),
    ("test accuracy", "test_accuracy", "{:.2%}"),
)


def made_on(report: dict[str, Any]) -> str:
    """Return the device of a report, the versions of torch and of the rivals that it names, and its commit."""
    where = f"on {report.get('device', 'cpu')} with {counted(report['threads'], 'thread')}"
    named = set(re.findall(r"\w+", " ".join(report["figures"]).lower()))
    known = {name: report["versions"].get(name) for name in ("torchvision", "lightning")} | report.get("rivals", {})
    others = [f"{name} {version}" for name, version in known.items() if version and RIVALS.get(name, name) in named]
    versions = ", ".join([f"torch {report['versions']['torch']}", *others])
    return f"{where}, {versions}, commit `{report['commit']}`"


def benchmark_table(results: Path, name: str) -> str:
    """Return the table of benchmark_<name>.json in a folder of results."""
    file = results / f"benchmark_{name}.json"
    if not file.exists():
        return "Not measured yet."
    report = json.loads(file.read_text())
    rows = report["figures"].values()
    more = [column for column in MEASURED if any(column[1] in row for row in rows)]
    lines = ["| | seconds | ratio |" + "".join(f" {heading} |" for heading, _, _ in more)]
    lines.append("|---|---:|---:|" + "---:|" * len(more))
    for contender, row in report["figures"].items():
        if "failed" in row:
            lines.append(f"| {contender}: {row['failed']} |" + " |" * (2 + len(more)))
            continue
        low, high = row.get("ratio_range", (1, 1))
        ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})" if high > low else ""
        cells = [form.format(row[key]) if key in row else "" for _, key, form in more]
        lines.append("| " + " | ".join([contender, f"{row['median_seconds']:.2f}", ratio, *cells]) + " |")
    counts = [len(row["seconds"]) for row in rows if "seconds" in row]
    rounds = f"{min(counts)}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    lines += [
        "",
        f"Medians of {rounds} rounds {made_on(report)}." if rounds != "1" else f"One round {made_on(report)}.",
    ]
    return "\n".join(lines)


def inference_table(results: Path, batch_size: int) -> str:
    """Return one row per benchmark_inference_<net>_<batch size>.json: speeds relative to fp32 compiled by Inductor.

    The last column compares int8 compiled with the faster of ONNX Runtime's and OpenVINO's int8.
    """
    pruned = ("pruned: fp32 compiled", "pruned: int8 compiled")
    runtimes = [f"{name} {kind}" for kind in ("fp32", "int8") for name in ("ONNX Runtime", "OpenVINO")]
    reports = {file: json.loads(file.read_text()) for file in sorted(results.glob(f"{_INFERENCE}*_{batch_size}.json"))}
    if not reports:
        return "Not measured yet."
    known = {name for report in reports.values() for name in report["figures"]}
    others = [name for name in ("int8 compiled", *runtimes, *pruned) if name in known]
    lines = [
        f"| net | fp32 by Inductor, ms | {', × | '.join(others)}, × | Inductor int8 against the faster other int8, × |",
        "|---|---:|" + "---:|" * (len(others) + 1),
    ]
    nets: dict[str, list[str]] = {}
    for file, report in reports.items():
        rows = report["figures"]
        speeds = [f"{1 / rows[name]['ratio']:.2f}" if name in rows else "" for name in others]
        net = f"`{file.stem.removeprefix(_INFERENCE).removesuffix(f'_{batch_size}')}`"
        nets.setdefault(f"Medians of {report['rounds']} rounds {made_on(report)}", []).append(net)
        base = f"{1000 * rows['fp32 compiled']['median_seconds']:.1f}"
        rivals = [rows[name]["median_seconds"] for name in runtimes if "int8" in name and name in rows]
        ours = rows.get("int8 compiled", {}).get("median_seconds")  # missing on a CPU without VNNI
        ahead = f"{min(rivals) / ours:.2f}" if ours and rivals else ""
        lines.append("| " + " | ".join([net, base, *speeds, ahead]) + " |")
    return "\n".join([*lines, "", *_captions(nets)])


def _captions(nets: dict[str, list[str]]) -> list[str]:
    """Return how figures were measured; if not all in the same way, with the nets of each."""
    if len(nets) == 1:
        return [f"{how}." for how in nets]
    return [f"{', '.join(names)}: {how[0].lower()}{how[1:]}." for how, names in sorted(nets.items())]


def sizes_table(results: Path) -> str:
    """Return one row per net and kind of file of benchmark_sizes_<net>.json, the smallest first."""
    lines = [
        "| net, file | bytes | times smaller | test accuracy | write, s | read, s | setting |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    made = set()
    for file in sorted(results.glob("benchmark_sizes_*.json")):
        report = json.loads(file.read_text())
        made.add(made_on(report))
        dense = report["figures"]["fp32"]["bytes"]
        for kind, row in sorted(report["figures"].items(), key=lambda pair: pair[1]["bytes"]):
            name = f"`{file.stem.removeprefix('benchmark_sizes_')}`, {kind}"
            sizes = f"{row['bytes']:,} | {dense / row['bytes']:.1f} | {row['test_accuracy']:.2%}"
            lines.append(
                f"| {name} | {sizes} | {row['write_seconds']:.2f} | {row['read_seconds']:.2f} | {row['setting']} |"
            )
    return "\n".join([*lines, "", f"Measured {'; '.join(sorted(made))}."]) if made else "Not measured yet."


def mcu_table(results: Path) -> str:
    """Return one row per net and core of benchmark_mcu.json."""
    if not (results / "benchmark_mcu.json").is_file():
        return "Not measured yet."
    report = json.loads((results / "benchmark_mcu.json").read_text())
    lines = ["| net, core | flash, bytes | RAM, bytes | million instructions per image | test accuracy |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, row in report["figures"].items():
        numbers = f"{row['flash_bytes']:,} | {row['ram_bytes']:,} | {row['million_instructions']:,.2f}"
        lines.append(f"| {name} | {numbers} | {row['test_accuracy']:.2%} |")
    return "\n".join([*lines, "", f"Commit `{report['commit']}`."])


def aims_table(results: Path) -> str:
    """Return the targets for one H100, and the results from benchmark_gpu.json."""
    figures = json.loads((results / "benchmark_gpu.json").read_text())["figures"]
    epoch = "epoch of LeNet-5: "

    def against(name: str, other: str) -> float:
        return figures[other]["median_seconds"] / figures[name]["median_seconds"]

    race = figures["fast_fashion_mnist eager"]
    rows = (
        ("ResNet-50, compiled: images/s", "≥", 3500, figures["ResNet-50 at 224 px: compiled"]["samples_per_second"]),
        ("the same, stretch goal", "≥", 4500, figures["ResNet-50 at 224 px: compiled"]["samples_per_second"]),
        (
            "ResNet-18 at 32 px: % of the 989 TFLOPS of bf16 in NVIDIA's data sheet",
            "≥",
            30,
            100 * figures["ResNet-18 at 32 px: compiled with CUDA graphs"]["tflops"] / 989,
        ),
        (
            "LeNet-5, train.py with CUDA graphs: times as fast as PIL transforms, DataLoader, Lightning",
            "≥",
            30,
            against(f"{epoch}train.py with CUDA graphs", f"{epoch}PIL transforms, DataLoader, Lightning"),
        ),
        (
            "ResNet-18: time relative to a plain loop",
            "≤",
            1.03,
            figures["epoch of ResNet-18: train.py"]["ratio"],
        ),
        ("fast_fashion_mnist, not compiled: seconds of training", "≤", 10, race["median_seconds"]),
        ("its test accuracy, %", "≥", 95, 100 * race["test_accuracy"]),
    )
    lines = ["| | aim | measured | met |", "|---|---:|---:|---|"]
    for what, bound, aim, found in rows:
        is_met = found >= aim if bound == "≥" else found <= aim
        shown = f"{found:,.0f}" if found > 1000 else f"{found:.2f}"
        lines.append(f"| {what} | {bound} {aim:,} | {shown} | {'yes' if is_met else 'no'} |")
    return "\n".join(lines)
