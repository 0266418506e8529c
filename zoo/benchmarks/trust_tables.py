"""The tables and sentences of docs/trust.md, from the results of scripts/trust.py."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo import escape
from zoo.compare import file_tables
from zoo.compare.file_tables import Row
from zoo.measure.agreement import SIGNIFICANT
from zoo.report.robustness_tables import corrupted_images

OF_FORMS = (
    file_tables.ACCURACY,
    file_tables.ERROR,
    file_tables.CORRUPTED,
    file_tables.WORST,
    file_tables.AGREEMENT,
    file_tables.OF_FIRST,
    file_tables.RANDOM,
    file_tables.BYTES,
)
LEAST_BETTER = 0.95  # deletion of maps that say something, as a share of that of random orders
NOT_YET = "Not measured yet: `python scripts/trust.py` writes the results."
TURNED = "30"  # degrees


def _results(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Return the results of a kind, forms or alone, by the name of the net."""
    files = {file.stem.removeprefix("trust_").removeprefix("of_"): file for file in sorted(folder.glob("trust_*.json"))}
    found = {name: json.loads(file.read_text()) for name, file in files.items()}
    return {name: one for name, one in found.items() if one["kind"] == kind}


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def forms_table(folder: Path) -> str:
    """Return the table of all nets with their forms, how these were made, and what the figures say of each net."""
    found = _results(folder, "forms")
    if not found:
        return NOT_YET
    heads = {file_tables.WORST.label: "worst class", file_tables.OF_FIRST.label: "deletion", "random": "at random"}
    names = [heads.get(metric.label, metric.label) for metric in OF_FORMS]
    lines = [_row(["net", "form", *names]), _row(["---", "---", *["---:"] * len(names)]).replace(" ", "")]
    for name, figures in found.items():
        for row in figures["files"]:
            first = f"`{escape.code(name)}`" if row is figures["files"][0] else ""
            lines.append(_row([first, row["name"], *(metric.written(row) for metric in OF_FORMS)]))
    made = next(iter(found.values()))["made_by"]
    lines += ["", "Each form is a run of `train.py` with `init_from=` the dense net above it and these settings:", ""]
    lines += [f"- {form}: `{escape.code(line)}`" for form, line in made.items()]
    for name, figures in found.items():
        lines += ["", " ".join([f"`{escape.code(name)}`:", *_training(figures), *sentences(figures)])]
    return "\n".join(lines)


def _training(figures: Mapping[str, Any]) -> list[str]:
    """Return how a net was trained if it does not come with the zoo, and the epochs and settings of its forms."""
    by, settings, epochs = figures["trained_by"], figures["settings"], figures["epochs"]
    found = [f"It was trained with {escape.markdown(by)}."] if by else []
    found.append(f"Its pruned and rate forms were trained for {epochs} epoch{'s' * (epochs > 1)}.")
    return found + ([f"All forms also had `{escape.code(' '.join(settings))}`."] if settings else [])


def sentences(figures: Mapping[str, Any]) -> list[str]:
    """Return what the figures of a net and its forms support, and no more."""
    first, *others = figures["files"]
    differ = [row["name"] for row in others if row["against_first"]["p_holm"] < SIGNIFICANT]
    what = f"accuracy of {_listed(differ)} differs" if differ else "accuracy of no form differs significantly"
    found = [f"The {what} from the dense net's (McNemar's test with Holm's correction)."]
    agreements = [1 - row["against_first"]["agreement"] for row in others]
    found.append(f"{min(agreements):.1%} to {max(agreements):.1%} of the answers differ from the dense net's.")
    low, high = first["evaluation"]["calibration"]["error_interval"]
    errors = {row["name"]: row["evaluation"]["calibration"]["error_interval"] for row in others}
    worse = [name for name, (least, _) in errors.items() if least > high]
    better = [name for name, (_, most) in errors.items() if most < low]
    for names, word in ((worse, "above"), (better, "below")):
        if names:
            found.append(
                f"The calibration error of {_listed(names)} is {word} the dense net's, with separate intervals."
            )
    if not worse + better:
        found.append("The intervals of all calibration errors overlap the dense net's.")
    if all("corruptions" in row for row in figures["files"]):
        found.append(_of_corruptions(first, others))
    if lost := _lost_class(first, others):
        found.append(lost)
    if maps := _useless_deletion(first):
        found.append(maps)
    return found


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _useless_deletion(first: Row) -> str:
    """Say what insertion finds of the dense net's maps if by deletion they are no better than random orders."""
    own, at_random = (file_tables.deletion(which, first) for which in ("own", "random"))
    if own is None or at_random is None or own < LEAST_BETTER * at_random:
        return ""
    scores = first["explanations"]
    insertion = max(one["insertion"] for one in scores["own"].values())
    return (
        "By deletion, its maps are no better than random orders; "
        f"by insertion they have {insertion:.3f}, and random orders {scores['random']['insertion']:.3f}."
    )


def _of_corruptions(first: Row, others: Sequence[Row]) -> str:
    changes = [
        {row["name"]: 100 * ((metric.of(row) or 0) - (metric.of(first) or 0)) for row in others}
        for metric in (file_tables.CORRUPTED, file_tables.ACCURACY)
    ]
    worst = min(changes[0], key=lambda name: changes[0][name])
    return (
        f"On {corrupted_images(first['corruptions'])} the largest change is {worst}'s, "
        f"{changes[0][worst]:+.2f} points, with {changes[1][worst]:+.2f} on clean ones."
    )


def _lost_class(first: Row, others: Sequence[Row]) -> str:
    """Describe the class whose recall fell most, if its interval is below the first's; else return an empty text."""
    worst = min(
        ((change, row["name"], name) for row in others for name, _, _, change in file_tables.changes_of(row, first)),
        default=None,
    )
    if worst is None:
        return ""
    change, form, name = worst
    index = list(first["evaluation"]["classes"]).index(name)
    ends = [row["recall_intervals"][index] for row in (first, next(row for row in others if row["name"] == form))]
    overlap = "" if ends[1][1] < ends[0][0] else "; the intervals of both recalls overlap"
    return f"The class that lost most is '{escape.markdown(name)}' in {form}, by {-change:.1f} points{overlap}."


def alone_table(folder: Path, name: str) -> str:
    """Return a net's accuracies on changed images, and how well it tells other data from its own."""
    found = _results(folder, "alone").get(name)
    if not found:
        return NOT_YET
    lines = [f"| `{name}`, {found['evaluation']['num_samples']:,} test images | |", "|---|---:|"]
    rows = {"accuracy": f"{found['evaluation']['accuracy']:.2%}"}
    if "corruptions" in found:
        kinds = found["corruptions"]["kinds"]
        share, kind, severity = min((s, k, i + 1) for k, row in kinds.items() for i, s in enumerate(row))
        rows[f"mean accuracy on {corrupted_images(found['corruptions'])}"] = (
            f"{found['corruptions']['mean_accuracy']:.2%}"
        )
        rows[f"lowest: {kind.replace('_', ' ')} with severity {severity}"] = f"{share:.2%}"
    rows[f"turned by {TURNED}°"] = f"{found['shift']['rotation'][TURNED]:.2%}"
    other = found["out_of_distribution"]
    aurocs = ", ".join(f"{other[score]['auroc']:.2%}" for score in ("confidence", "energy"))
    rows[f"AUROC against `{other['data']}`: confidence, energy"] = aurocs
    return "\n".join([*lines, *(_row(pair) for pair in rows.items())])


def maps_table(folder: Path, name: str) -> str:
    """Return the scores of a net's maps."""
    found = _results(folder, "alone").get(name)
    if not found:
        return NOT_YET
    scores = {**found["explanations"]["own"], "random order": found["explanations"]["random"]}
    lines = [
        f"| `{name}`, {found['explanations']['num_images']} test images | deletion | insertion |",
        "|---|---:|---:|",
    ]
    lines += [_row([method, f"{one['deletion']:.3f}", f"{one['insertion']:.3f}"]) for method, one in scores.items()]
    return "\n".join(lines)


def temperature_sentence(folder: Path, name: str) -> str:
    """Say what a temperature that is fitted to a net's validation data changes."""
    found = _results(folder, "alone").get(name)
    if not found or found["temperature"] is None:
        return NOT_YET
    num, wrong = found["num_samples"]["val"], found["num_wrong"]["val"]
    (before, after), (test_before, test_after) = found["nll"]["val"], found["nll"]["test"]
    return (
        f"`{name}` has {num:,} validation images, of which {wrong} are wrong. The temperature that fits them, "
        f"{found['temperature']:.3f}, changes\ntheir NLL from {before:.4f} to {after:.4f}, and that of the test images "
        f"from {test_before:.4f} to {test_after:.4f}."
    )
